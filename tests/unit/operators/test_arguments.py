"""What becomes of an argument once templates are rendered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.operators.arguments import (
    flag_of,
    folder_of,
    mapping_of,
    number_of,
    policy_of,
    seconds_of,
    text_of,
)
from musicapi_provider.purchases import UnknownOutcome


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), ("", None), (" ", None), ("None", None), (" None ", None), ("none", "none"), ("a ", "a ")],
    ids=repr,
)
def test_text_of_an_empty_param_is_nothing(value: Any, text: str | None) -> None:
    """A template makes the text "None" of it."""
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), (False, False), ("True", True), ("false", False), ("1", True), ("0", False)],
    ids=repr,
)
def test_flag(value: Any, flag: bool) -> None:
    """Text from a template counts."""
    assert flag_of("skip", value) is flag


@pytest.mark.parametrize(
    ("value", "number"),
    [(None, None), ("", None), ("None", None), (5, 5.0), ("5", 5.0), (" 1.5 ", 1.5), ("inf", float("inf"))],
    ids=repr,
)
def test_number(value: Any, number: float | None) -> None:
    """Text from a template counts, nothing is nothing."""
    assert number_of("limit", value) == number


@pytest.mark.parametrize(
    ("value", "mapping"),
    [
        pytest.param(None, {}, id="none"),
        pytest.param("", {}, id="empty"),
        pytest.param("None", {}, id="empty-param"),
        pytest.param({}, {}, id="empty-mapping"),
        pytest.param({"a": "t1"}, {"a": "t1"}, id="mapping"),
        pytest.param(' {"a": "t1"}\n', {"a": "t1"}, id="json"),
        pytest.param("{}", {}, id="empty-json"),
    ],
)
def test_mapping(value: Any, mapping: dict[str, str]) -> None:
    """JSON from a template counts."""
    assert mapping_of("settle", value) == mapping


@pytest.mark.parametrize(
    ("call", "value"),
    [
        pytest.param(flag_of, "perhaps", id="flag"),
        pytest.param(flag_of, None, id="no-flag"),
        pytest.param(number_of, "many", id="number"),
        pytest.param(number_of, "nan", id="nan"),
        pytest.param(number_of, True, id="boolean"),
        pytest.param(number_of, [1], id="list-as-number"),
        pytest.param(mapping_of, "{'a': 1}", id="python-as-json"),
        pytest.param(mapping_of, "a=b", id="text-as-mapping"),
        pytest.param(mapping_of, [1], id="list-as-mapping"),
        pytest.param(mapping_of, 0, id="zero-as-mapping"),
        pytest.param(folder_of, "", id="folder"),
        pytest.param(folder_of, "None", id="folder-of-an-empty-param"),
    ],
)
def test_what_is_none_is_refused_by_name(call: Any, value: Any) -> None:
    """The argument, and what was given for it."""
    with pytest.raises(MusicAPIInvalidRequestError, match="the_name: must be") as caught:
        call("the_name", value)

    assert repr(value) in str(caught.value)
    assert not caught.value.retryable


def test_folder_of_a_real_uri() -> None:
    """As it is."""
    assert str(folder_of("destination", "file:///data/music")) == "file:///data/music"


def test_policy() -> None:
    """Two are known."""
    with pytest.raises(MusicAPIInvalidRequestError, match="on_unknown_outcome: must be 'fail' or 'resubmit'"):
        policy_of("retry")

    assert policy_of("resubmit") is policy_of(UnknownOutcome.RESUBMIT) is UnknownOutcome.RESUBMIT


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (1.5, 1.5), (timedelta(minutes=2), 120.0)])
def test_seconds(value: timedelta | float, seconds: float) -> None:
    """A number or a timedelta."""
    assert seconds_of("timeout", value) == seconds


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), timedelta(seconds=-1)])
def test_impossible_seconds_are_told_when_the_dag_is_parsed(value: timedelta | float) -> None:
    """Not on the day it matters."""
    with pytest.raises(ValueError, match="timeout must be seconds, 0 or more"):
        seconds_of("timeout", value)
