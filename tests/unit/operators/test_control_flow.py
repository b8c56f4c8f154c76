"""Which errors end a task, which are retried, and what an id may look like."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout

from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPIPartialResultError,
    MusicAPITaskFailedError,
    Spent,
)
from musicapi_provider.operators.control_flow import airflow_errors
from musicapi_provider.waiting.ids import checked_ids
from tests.unit.conftest import ERROR_CLASSES, RETRYABLE


@pytest.mark.parametrize("error_class", ERROR_CLASSES, ids=lambda cls: cls.__name__)
def test_airflow_errors(error_class: type[MusicAPIError]) -> None:
    """Out of time, hopeless, or left to the task's retries: each class has its way, and says its words."""
    error = error_class("what happened", next_step="do this")
    expected: type[Exception] = AirflowFailException
    if error_class is MusicAPIDeadlineError:
        expected = AirflowSensorTimeout
    if error_class in RETRYABLE:
        expected = error_class
    with pytest.raises(expected) as caught, airflow_errors():
        raise error

    assert type(caught.value) is expected
    assert str(caught.value) == str(error)
    assert caught.value is error or caught.value.__cause__ is error


def test_other_errors_pass() -> None:
    """A defect must look like one."""
    error = ZeroDivisionError("oops")
    with pytest.raises(ZeroDivisionError) as caught, airflow_errors():
        raise error

    assert caught.value is error


def test_airflows_own_errors_pass() -> None:
    """What is control flow already stays as it is."""
    with pytest.raises(AirflowException, match="mine"), airflow_errors():
        raise AirflowException("mine")


def test_no_error_no_effect() -> None:
    """The result of the block is untouched."""
    with airflow_errors():
        result = 1

    assert result == 1


def test_lost_answer_under_resubmit_is_left_to_the_retries() -> None:
    """The error itself knows whether trying again is wanted."""
    error = MusicAPIAmbiguousSubmitError("lost", retryable=True)
    with pytest.raises(MusicAPIAmbiguousSubmitError), airflow_errors():
        raise error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        pytest.param(MusicAPITaskFailedError("failed"), True, id="refunded"),
        pytest.param(
            MusicAPITaskFailedError("odd", spent=Spent.UNKNOWN), False, id="not known to be refunded"
        ),
        pytest.param(MusicAPIPartialResultError("partial"), False, id="partial"),
        pytest.param(MusicAPIModerationError("refused"), False, id="content"),
    ],
)
def test_what_was_refunded_is_bought_anew_by_a_retry(error: MusicAPIError, passes: bool) -> None:
    """Only a task that buys can cure it; a sensor cannot."""
    with pytest.raises(type(error) if passes else AirflowFailException), airflow_errors(buys=True):
        raise error
    with pytest.raises(AirflowFailException), airflow_errors():
        raise error


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("a", ["a"], id="one"),
        pytest.param(" a\n", ["a"], id="blanks around"),
        pytest.param(["a", "b"], ["a", "b"], id="list"),
        pytest.param([], [], id="none to wait for"),
        pytest.param(("a", "b"), ["a", "b"], id="tuple"),
        pytest.param(["b", "a", "b ", "a"], ["b", "a"], id="each once, in order"),
    ],
)
def test_checked_ids(given: Any, expected: list[str]) -> None:
    """One id or several, each once."""
    assert expected == checked_ids(given)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(None, id="nothing"),
        pytest.param("None", id="text of a missing XCom"),
        pytest.param("", id="empty"),
        pytest.param("  ", id="blank"),
        pytest.param("['a', 'b']", id="text of a list"),
        pytest.param(5, id="number"),
        pytest.param(["a", None], id="list with nothing in it"),
        pytest.param([["a"]], id="list in a list"),
        pytest.param({"id": "a"}, id="object"),
        pytest.param(b"a", id="bytes"),
    ],
)
def test_checked_ids_refuses_what_is_no_id(given: Any) -> None:
    """Each of these is a mistake in a DAG, and none of them is worth a request."""
    with pytest.raises(MusicAPIInvalidRequestError, match="music_task_id"):
        checked_ids(given)
