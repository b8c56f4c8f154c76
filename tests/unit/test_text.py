"""Text that everything takes."""

from __future__ import annotations

from typing import Any

import pytest

from musicapi_provider.text import clean, clean_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "Grüße 🎵", "style_weight": 0.5}, {"prompt": "Grüße 🎵", "style_weight": 0.5}),
        ({"title": "cut \ud83c"}, {"title": "cut \ufffd"}),
        ({1: ("a", None)}, {"1": ["a", None]}),
        (["\udfb5", {"\ud83c": "\0"}], ["\ufffd", {"\ufffd": "\0"}]),
        (None, None),
    ],
    ids=["text", "half a surrogate pair", "not quite JSON", "at any depth", "nothing"],
)
def test_json_can_be_sent_as_utf_8(value: Any, expected: Any) -> None:
    """Airflow sends XComs so; what was paid for must not fail by a character."""
    assert clean_json(value) == expected


def test_nul_goes_where_it_is_refused() -> None:
    """By databases and players; elsewhere it is a character."""
    assert clean("a\ud83c\0b🎵") == "a\ufffd\0b🎵"
    assert clean("a\ud83c\0b🎵", nul=True) == "a\ufffd\ufffdb🎵"
