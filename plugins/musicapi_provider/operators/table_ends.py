"""
The two ends of every prompt table, made in one task or mapped: its rows, and its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIIncompleteTableError, MusicAPIInvalidRequestError
from musicapi_provider.links import xcoms
from musicapi_provider.operators.arguments import flag_of, text_of
from musicapi_provider.operators.control_flow import airflow_errors
from musicapi_provider.prompt_table import query_prompt_table, read_prompt_table
from musicapi_provider.prompt_table.manifest import check_complete, counts_of, write_manifest_file

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.prompt_table import PromptRow, Row


class ReadsATable(Protocol):
    """Where an operator's table comes from: its source arguments."""

    prompt_table: str | None
    sql: str | None
    sql_conn_id: str | None
    sql_parameters: Mapping[str, Any] | Sequence[Any] | None
    skip_invalid: bool | str


class WritesAManifest(Protocol):
    """What the end of a table needs to know of its operator."""

    destination: str
    min_success: float
    manifest_uri: str | None
    outlets: Any

    @property
    def log(self) -> Any:
        """The task's logger."""


def read_rows(operator: ReadsATable) -> list[PromptRow]:
    """
    Return the rows of the table that an operator's arguments name, checked.

    :raises MusicAPIInvalidRequestError: none is named, or two are.
    :raises MusicAPIPromptTableError: bad rows; names each.
    """
    table, sql = text_of(operator.prompt_table), text_of(operator.sql)
    if (table is None) == (sql is None):
        raise MusicAPIInvalidRequestError(
            f"prompt_table, sql: give one of them; got {table!r} and {sql!r}. Nothing was bought.",
            next_step="prompt_table is the URI of a file, sql a query on sql_conn_id.",
        )
    skip_invalid = flag_of("skip_invalid", operator.skip_invalid)
    if table is not None:
        return read_prompt_table(ObjectStoragePath(table), skip_invalid=skip_invalid)
    conn_id = text_of(operator.sql_conn_id)
    if sql is None or conn_id is None:
        raise MusicAPIInvalidRequestError(
            "sql_conn_id: is needed with sql. Nothing was bought.",
            next_step="name the Airflow connection of the database.",
        )
    return query_prompt_table(sql, conn_id, parameters=operator.sql_parameters, skip_invalid=skip_invalid)


def conclude(
    operator: WritesAManifest, context: Context, rows: Sequence[Row], folder: ObjectStoragePath, name: str
) -> dict[str, Any]:
    """Write the manifest, tell the outlets, and say whether it is enough; return the summary."""
    for row in rows:
        row.explain()
    uri = operator.manifest_uri = write_manifest_file(folder, name, rows)
    counts = counts_of(rows, context["ti"].run_id)
    summary: dict[str, Any] = {"manifest": uri, **counts}
    operator.log.info("%s", ", ".join(f"{name} {value}" for name, value in summary.items()))
    for outlet in operator.outlets:
        context["outlet_events"][outlet].extra.update({**summary, "destination": operator.destination})
    with airflow_errors():
        try:
            check_complete(rows, counts, min_success=operator.min_success, manifest=uri)
        except MusicAPIIncompleteTableError:  # a failed task returns nothing
            context["ti"].xcom_push(key=xcoms.SUMMARY, value=summary)
            raise
    return summary
