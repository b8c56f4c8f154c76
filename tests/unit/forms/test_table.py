"""The trigger form of a prompt table, and its fields as an operator's arguments."""

from __future__ import annotations

import pytest

from musicapi_provider.forms import table_arguments, table_form


def test_arguments_are_the_fields_of_the_form() -> None:
    """Each as a template of its param; decisions as JSON, since a template makes text of a mapping."""
    arguments = table_arguments()

    assert arguments.keys() == table_form(destination="file:///music", prompt_table="file:///t.csv").keys()
    assert arguments["max_credits"] == "{{ params.max_credits }}"
    assert arguments["settle"] == "{{ params.settle | tojson }}"


def test_only_some_of_the_arguments() -> None:
    """Those that a shorter form shows."""
    assert table_arguments(only=["destination"]) == {"destination": "{{ params.destination }}"}


def test_form_for_sql_has_no_table() -> None:
    """A field without a default is left out; no limit is a limit that may be empty."""
    form = table_form(destination="file:///music", max_credits=None)

    assert "prompt_table" not in form
    assert form["destination"].value == "file:///music"


def test_unknown_field_is_refused() -> None:
    """It is named, and so are those that there are."""
    with pytest.raises(ValueError, match=r"No field of this form: songs\. It has prompt_table, "):
        table_form(destination="file:///music", only=["songs"])
