"""Variables of a compose file, by the rules of the Compose specification."""

from __future__ import annotations

import pytest

from include.cluster.interpolation import MissingValueError, interpolate, interpolate_text

VALUES = {"SET": "one", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$SET and ${SET}", "one and one"),
        ("${UNSET}", ""),
        ("$$SET", "$SET"),
        ("${SET:-two} ${EMPTY:-two} ${UNSET:-two}", "one two two"),
        ("${SET-two} ${EMPTY-two} ${UNSET-two}", "one  two"),
        ("x${SET:+two} x${EMPTY:+two} x${UNSET:+two}", "xtwo x x"),
        ("x${EMPTY+two} x${UNSET+two}", "xtwo x"),
        ("${UNSET:-http://${SET}:80}/", "http://one:80/"),
        ("${UNSET:-${EMPTY:-$SET}}", "one"),
        ("${SET:?is needed}", "one"),
    ],
)
def test_variable_is_replaced(text: str, expected: str) -> None:
    """With a colon an empty value counts as none; words may hold variables."""
    assert expected == interpolate_text(text, VALUES)


@pytest.mark.parametrize("text", ["${EMPTY:?see .env}", "${UNSET:?see .env}", "${UNSET?see .env}"])
def test_value_that_must_be_given_is_asked_for_by_name(text: str) -> None:
    """A secret without a default stops the start."""
    with pytest.raises(MissingValueError, match=r"(EMPTY|UNSET) has no value: see \.env"):
        interpolate_text(text, VALUES)


@pytest.mark.parametrize("text", ["$ 5", "${SET", "${SET:2}", "${1}"])
def test_slip_is_refused(text: str) -> None:
    """What Compose would refuse is not passed on."""
    with pytest.raises(ValueError, match=r"\$"):
        interpolate_text(text, VALUES)


def test_only_values_are_replaced() -> None:
    """Keys stay, and so does what is no text."""
    assert interpolate({"$SET": ["$SET", 1, None]}, VALUES) == {"$SET": ["one", 1, None]}
