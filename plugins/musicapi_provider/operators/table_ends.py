"""
The two ends of every prompt table, made in one task or mapped: its rows, and its manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.exceptions import MusicAPIIncompleteTableError, MusicAPIInvalidRequestError
from musicapi_provider.ledgers.choice import asker_of
from musicapi_provider.links import xcoms
from musicapi_provider.links.extra_links import MusicAPIManifestLink, MusicAPITracksLink
from musicapi_provider.operators.arguments import flag_of, folder_of, mapping_of, number_of, text_of
from musicapi_provider.operators.control_flow import TalksToAPI, airflow_errors
from musicapi_provider.prompt_table import query_prompt_table, read_prompt_table
from musicapi_provider.prompt_table.manifest import Counts, check_complete, counts_of, write_manifest_file
from musicapi_provider.prompt_table.plan import plan_rows

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.prompt_table import PromptRow, Row


class WorksOnPromptTable(TalksToAPI):
    """
    What all operators of a prompt table share: its folder and its account.

    :param destination: Folder for tracks, records and manifests, as an object storage URI (templated).
    :param musicapi_conn_id: Airflow connection (templated).
    """

    destination: str
    ui_color = "#e8def8"

    def __init__(self, *, destination: str, musicapi_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.musicapi_conn_id = musicapi_conn_id

    @cached_property
    def folder(self) -> ObjectStoragePath:
        """The destination."""
        return folder_of("destination", self.destination)


class ReadsPromptTable(WorksOnPromptTable):
    """
    What the operators that begin a prompt table share: where its rows are, and what this run may buy.

    Beside ``destination`` and ``musicapi_conn_id`` (:class:`WorksOnPromptTable`):

    :param prompt_table: URI of a CSV, JSON Lines or Parquet table (templated). Its text is data and never
        rendered.
    :param sql: Instead of ``prompt_table``: a query whose rows are the table (templated).
    :param sql_conn_id: Airflow connection of any common-sql database, for ``sql`` (templated).
    :param sql_parameters: Values of the query's placeholders (templated).
    :param skip_invalid: Leave bad rows out with a warning. Default: one bad row stops the run before anything
        is paid (templated).
    :param max_credits: What this dag run may spend, by expected prices; rows beyond it are ``postponed`` to
        the next one. Default: no limit (templated).
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the music task id found at the
        vendor, or ``resubmit`` (templated).
    """

    template_fields: Sequence[str] = (
        *("destination", "prompt_table", "sql", "sql_conn_id", "sql_parameters", "musicapi_conn_id"),
        *("skip_invalid", "max_credits", "settle"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "sql": "sql",
        "sql_parameters": "json",
        "settle": "json",
    }

    def __init__(
        self,
        *,
        prompt_table: str | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Mapping[str, object] | Iterable[object] | None = None,
        skip_invalid: bool | str = False,
        max_credits: float | str | None = None,
        settle: Mapping[str, str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt_table = prompt_table
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters = sql_parameters
        self.skip_invalid = skip_invalid
        self.max_credits = max_credits
        self.settle = settle

    def plan_table(self, context: Context, *, ahead: bool) -> list[Row]:
        """
        Read the table, check it, and find out what is to be done; buys nothing.

        :param ahead: See :func:`.plan_rows`.
        :raises AirflowFailException: bad table, key, limit or decision; each message names all that is wrong.
        """
        with airflow_errors():
            return plan_rows(
                self._rows(),
                self.folder,
                self.hook.client,
                self.hook.account,
                run_id=context["ti"].run_id,
                max_credits=number_of("max_credits", self.max_credits),
                settle=mapping_of("settle", self.settle),
                ahead=ahead,
                asker=asker_of(context, self.retries or 0, with_dag=True),
            )

    def _rows(self) -> list[PromptRow]:
        table, sql = text_of(self.prompt_table), text_of(self.sql)
        if (table is None) == (sql is None):
            raise MusicAPIInvalidRequestError(
                f"prompt_table, sql: give one of them; got {table!r} and {sql!r}. Nothing was bought.",
                next_step="prompt_table is the URI of a file, sql a query on sql_conn_id.",
            )
        skip_invalid = flag_of("skip_invalid", self.skip_invalid)
        if table is not None:
            return read_prompt_table(ObjectStoragePath(table), skip_invalid=skip_invalid)
        conn_id = text_of(self.sql_conn_id)
        if sql is None or conn_id is None:
            raise MusicAPIInvalidRequestError(
                "sql_conn_id: is needed with sql. Nothing was bought.",
                next_step="name the Airflow connection of the database.",
            )
        return query_prompt_table(sql, conn_id, parameters=self.sql_parameters, skip_invalid=skip_invalid)


class Summary(Counts):
    """What a table's last task returns: the manifest's URI, and its counts."""

    manifest: str


class WritesManifest(WorksOnPromptTable):
    """
    What the operators that end a prompt table share: its manifest, and whether it is enough.

    :param min_success: Share of the rows, postponed ones aside, that must have their tracks, 0 to 1. Default
        1: a single row without tracks fails the task, after everything else is stored. 0: never fail.
    """

    operator_extra_links = (MusicAPITracksLink(), MusicAPIManifestLink())

    def __init__(self, *, min_success: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= min_success <= 1:
            raise ValueError(f"min_success must be a share from 0 to 1; got {min_success!r}")
        self.min_success = min_success

    def tell_destination(self, context: Context) -> None:
        """Tell the tracks page where the tracks are."""
        context["ti"].xcom_push(key=xcoms.DESTINATION, value=self.destination.rstrip("/"))

    def write_manifest(
        self, context: Context, rows: Sequence[Row], name: str, *, final: bool = True
    ) -> Summary:
        """Write the manifest and return its summary."""
        self.manifest_uri = write_manifest_file(self.folder, name, rows, final=final)
        return {"manifest": self.manifest_uri, **counts_of(rows, context["ti"].run_id)}

    def conclude(self, context: Context, rows: Sequence[Row], name: str) -> Summary:
        """Write the manifest, tell the outlets, and say whether it is enough; return the summary."""
        for row in rows:
            row.explain()
        summary = self.write_manifest(context, rows, name)
        self.log.info("%s", ", ".join(f"{name} {value}" for name, value in summary.items()))
        told: dict[str, Any] = {**summary, "destination": self.destination}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra.update(told)
        with airflow_errors():
            try:
                check_complete(rows, summary, min_success=self.min_success, manifest=summary["manifest"])
            except MusicAPIIncompleteTableError:  # a failed task returns nothing
                context["ti"].xcom_push(key=xcoms.SUMMARY, value=summary)
                raise
        return summary
