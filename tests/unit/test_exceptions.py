"""The error tree: one root, honest texts, and errors that survive a pickle."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException

from musicapi_provider import exceptions
from musicapi_provider.exceptions import (
    MusicAPIError,
    MusicAPIPartialResultError,
    MusicAPIPromptTableError,
    MusicAPITaskFailedError,
    Spent,
)

ERRORS = [
    pytest.param(error, id=name)
    for name, error in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(error, BaseException)
]
#: Every detail that an error can carry.
DETAILS = {
    "status_code": 429,
    "request_id": "sim-000001",
    "music_task_id": "7f1b3c52",
    "server_text": "slow down",
    "retry_after": 3.0,
    "spent": Spent.UNKNOWN,
    "next_step": "wait.",
}
RETRYABLE = {
    "MusicAPIThrottledError",
    "MusicAPINotSentError",
    "MusicAPITransientError",
    "MusicAPIStorageError",
}
DEFAULT_SPENT = {
    "MusicAPIAmbiguousSubmitError": Spent.UNKNOWN,
    "MusicAPITransientError": Spent.NO_EFFECT,
    "MusicAPIUnknownTaskError": Spent.NO_EFFECT,
    "MusicAPITaskFailedError": Spent.REFUNDED,
    "MusicAPIPartialResultError": Spent.UNKNOWN,
    "MusicAPIDeadlineError": Spent.SPENT,
    "MusicAPIStorageError": Spent.SPENT,
    "MusicAPIIncompleteTableError": Spent.SPENT,
    "MusicAPITriggerEventError": Spent.NO_EFFECT,
}


@pytest.mark.parametrize("error_class", ERRORS)
def test_every_error_shares_the_root_and_is_no_airflow_exception(error_class: type[MusicAPIError]) -> None:
    """Whoever catches the root catches all, and Airflow's control flow is decided elsewhere."""
    assert issubclass(error_class, MusicAPIError)
    assert not issubclass(error_class, AirflowException)


@pytest.mark.parametrize("error_class", ERRORS)
def test_module_docstring_draws_every_error(error_class: type[MusicAPIError]) -> None:
    """The tree in the module docstring is complete."""
    assert error_class.__name__ in (exceptions.__doc__ or "")


@pytest.mark.parametrize("error_class", ERRORS)
def test_retryable_is_said_of_passing_errors_only(error_class: type[MusicAPIError]) -> None:
    """Airflow retries exactly what a later try can cure without a human."""
    assert (error_class.__name__ in RETRYABLE) is error_class.default_retryable


@pytest.mark.parametrize("error_class", ERRORS)
def test_credits_are_not_spent_unless_the_class_says_otherwise(error_class: type[MusicAPIError]) -> None:
    """Each class starts from the cautious truth about the credits."""
    expected = DEFAULT_SPENT.get(error_class.__name__, Spent.NOT_SPENT)

    assert expected is error_class("It happened.").spent


@pytest.mark.parametrize("error_class", ERRORS)
def test_text_has_message_credits_and_next_step(error_class: type[MusicAPIError]) -> None:
    """The text says what happened, what it cost and what to do."""
    text = str(error_class("It happened.", next_step="do this."))

    assert text.startswith("It happened.")
    assert f"Credits: {DEFAULT_SPENT.get(error_class.__name__, Spent.NOT_SPENT)}." in text
    assert text.endswith("Next: do this.")


@pytest.mark.parametrize("error_class", ERRORS)
def test_default_next_step_ends_the_text(error_class: type[MusicAPIError]) -> None:
    """A class that knows the next step says it; one that does not leaves the word out."""
    text = str(error_class("It happened."))

    assert bool(error_class.default_next_step) is ("Next: " in text)
    assert text.endswith(error_class.default_next_step)


def test_text_has_every_fact_once() -> None:
    """Status, music task, request id and the server's words all show."""
    text = str(MusicAPIError("It happened.", **DETAILS))

    assert text == (
        "It happened. The server said: 'slow down'. "
        "(HTTP 429, music task 7f1b3c52, request id sim-000001) Credits: unknown. Next: wait."
    )


def test_text_does_not_repeat_server_words_that_the_message_holds() -> None:
    """Words of the server that are in the message already are not said again."""
    text = str(MusicAPIError("The API says: slow down.", server_text="slow down"))

    assert text.count("slow down") == 1


def test_next_step_can_be_left_out() -> None:
    """An empty next step overrides the class's own."""
    assert str(MusicAPITaskFailedError("It failed.", next_step="")).endswith(f"Credits: {Spent.REFUNDED}.")


def test_prompt_table_error_lists_its_problems() -> None:
    """Every problem has a line of its own, and is kept for programs."""
    error = MusicAPIPromptTableError("Two problems:", problems=("a.csv:2: one", "a.csv:3: two"))

    assert str(error).startswith("Two problems:\n  a.csv:2: one\n  a.csv:3: two")
    assert error.problems == ("a.csv:2: one", "a.csv:3: two")


def test_partial_result_is_caught_as_a_failed_task() -> None:
    """Who handles a failed music task handles a partial one, too."""
    with pytest.raises(MusicAPITaskFailedError):
        raise MusicAPIPartialResultError("One of two.")


@pytest.mark.parametrize("error_class", ERRORS)
def test_pickle_round_trip_keeps_class_fields_and_text(error_class: type[MusicAPIError]) -> None:
    """Airflow moves errors between processes; nothing is lost on the way."""
    if error_class is MusicAPIPromptTableError:
        error: MusicAPIError = error_class("It happened.", problems=("a.csv:2: one",), next_step="look.")
    else:
        error = error_class("It happened.", **DETAILS)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(copy) is error_class
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("error_class", ERRORS)
@pytest.mark.parametrize("fact", [*DETAILS, "message", "retryable"])
def test_an_error_does_not_change_once_made(error_class: type[MusicAPIError], fact: str) -> None:
    """Another next step is another error, of the same class and with the other facts as they were."""
    error = error_class("broken", next_step="wait.")

    with pytest.raises(AttributeError, match=fact):
        setattr(error, fact, "other")
    other = error.but(**{fact: "other"})

    assert type(other) is error_class
    assert "other" == getattr(other, fact) != getattr(error, fact)
    assert {**vars(error), fact: "other"} == vars(other)
    assert vars(copy.copy(error)) == vars(error)


def test_another_message_is_what_the_other_error_says() -> None:
    """Also where Python prints it."""
    error = MusicAPIPromptTableError("bad", problems=("a:1",)).but(message="worse")

    assert str(error).startswith("worse")
    assert error.args == ("worse",)
    assert error.problems == ("a:1",)


def test_nobody_assigns_to_the_facts_of_an_error() -> None:
    """Found by reading the package: what is never run in a test counts as well."""
    facts = {*DETAILS, "message", "retryable", "problems"}
    package = Path(exceptions.__file__).parent
    found = [
        f"{path.name}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in facts
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]

    assert not found


def test_note_on_one_error_is_none_on_the_other() -> None:
    """What was noted before goes with both."""
    error = MusicAPIError("broken")
    error.add_note("before")
    other = error.but(message="worse")
    other.add_note("on the other")
    error.add_note("on the first")

    assert error.__notes__ == ["before", "on the first"]
    assert other.__notes__ == ["before", "on the other"]
