"""The trigger form of a prompt table."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from musicapi_provider.forms.fields import Field, chosen, destination_field

if TYPE_CHECKING:
    from airflow.sdk import Param

_FIELDS: dict[str, Field] = {
    "prompt_table": {
        "default": None,
        "type": "string",
        "title": "Prompt table",
        "description": "URI of a CSV, JSON Lines or Parquet file, local or in object storage "
        "(s3://conn_id@bucket/...).",
    },
    "destination": destination_field(
        "Folder for tracks, records and manifests, as a URI. What is done is known from here: another folder "
        "buys the whole table again. DAGs that run at once must not share one.",
    ),
    "skip_invalid": {
        "default": False,
        "type": "boolean",
        "title": "Skip bad rows",
        "description": "Off: one bad row stops the run before anything is paid.",
    },
    "max_credits": {
        "default": 1000,
        "type": ["null", "number"],
        "minimum": 0,
        "title": "Credits that this run may spend",
        "description": "About 15 a row. Rows beyond it are left for a later run; empty: no limit.",
    },
    "settle": {
        "default": {},
        "type": "object",
        "additionalProperties": {"type": "string"},
        "title": "Decisions about unknown outcomes",
        "description": 'By prompt_id: the music task id found in your account, or "resubmit".',
    },
}


def table_form(
    *,
    destination: str,
    prompt_table: str | None = None,
    max_credits: float | None = 1000,
    only: Collection[str] | None = None,
) -> dict[str, Param]:
    """
    Return the params of a DAG that works off a prompt table.

    They bear the names of :class:`~musicapi_provider.operators.prompt_table.MusicAPIPromptTableOperator`'s
    arguments: ``prompt_table, destination, skip_invalid, max_credits, settle``.

    :param destination: Default of the folder's URI.
    :param prompt_table: Default of the table's URI; ``None``: no such field, for tables from SQL.
    :param max_credits: Default of the run's limit, in credits; ``None``: no limit.
    :param only: Fields to show. Default: all.
    :raises ValueError: a name that is no field; said when the DAG is parsed.
    """
    defaults = {"destination": destination, "prompt_table": prompt_table, "max_credits": max_credits}
    return chosen(_FIELDS, only=only, defaults=defaults)


def table_arguments(*, only: Collection[str] | None = None) -> dict[str, str]:
    """
    Return the form's fields as templates, for the operator that reads the table.

    ``MusicAPIPromptTableOperator(task_id="make_songs", **table_arguments())``.

    :param only: Fields that the form shows. Default: all.
    """
    values = {"settle": "{{ params.settle | tojson }}"}
    return {
        name: values.get(name, f"{{{{ params.{name} }}}}") for name in _FIELDS if only is None or name in only
    }
