"""What the forms share: the choice of fields and their defaults, and the field *Destination*."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from airflow.sdk import Param

#: What a field is: arguments of ``Param``.
Field: TypeAlias = dict[str, Any]


def chosen(
    form: Mapping[str, Field], *, only: Collection[str] | None, defaults: Mapping[str, object]
) -> dict[str, Param]:
    """
    Return a form's params.

    :param form: Its fields, by name.
    :param only: Fields to show; ``None``: all. Those that have no default are left out.
    :param defaults: Other defaults, by name.
    :raises ValueError: a name that is no field; said when the DAG is parsed.
    """
    if unknown := sorted({*(only or ()), *defaults} - form.keys()):
        raise ValueError(f"No field of this form: {', '.join(unknown)}. It has {', '.join(form)}.")
    shown = {
        name: {**field, "default": defaults.get(name, field["default"])}
        for name, field in form.items()
        if only is None or name in only
    }
    return {
        name: Param(**field)
        for name, field in shown.items()
        if field["default"] is not None or "null" in field["type"]
    }


def destination_field(description: str) -> Field:
    """Return the field for a folder in object storage."""
    return {
        "default": None,
        "type": "string",
        "minLength": 1,
        "title": "Destination",
        "description": description,
    }
