"""
The two ends of a mapped prompt table: read and plan before the rows' tasks, write the manifest after them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, XComNotFound

from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.hooks.base import MusicAPIBaseHook
from musicapi_provider.links import xcoms
from musicapi_provider.links.extra_links import MusicAPIManifestLink, MusicAPITracksLink
from musicapi_provider.links.shown import ShowsFacts
from musicapi_provider.operators.arguments import folder_of, mapping_of, number_of
from musicapi_provider.operators.control_flow import airflow_errors
from musicapi_provider.operators.table_ends import conclude, read_rows
from musicapi_provider.prompt_table import Row
from musicapi_provider.prompt_table.manifest import manifest_name
from musicapi_provider.prompt_table.plan import complete_plan, plan_rows, rows_to_do

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context, XComArg

#: XCom key of a read task's whole plan: every row as it stands before the run.
PLAN = "plan"


class MusicAPIReadPromptTableOperator(BaseOperator):
    """
    Check a whole prompt table before anything is paid, and find out what is done already. Buys nothing.

    Returns (XCom) what is to be done, for ``expand_kwargs`` of a task group or a
    :class:`~musicapi_provider.operators.musicapi.MusicAPICreateOperator`: per row ``prompt_id, body,
    adopt_music_task_id, on_unknown_outcome``. Rows that are stored, postponed, or wait for a decision are
    left out. The whole plan stands under the XCom key ``plan``, for
    :class:`MusicAPIWriteManifestOperator`.

    Give the creates ``records=`` the same destination: what is bought is on record there, and so known to
    later runs. ``MusicAPIPromptTableOperator`` decides in the same way, so both may work at one destination,
    one after the other.

    :param destination: Folder for tracks, records and manifests, as an object storage URI (templated).
    :param prompt_table: URI of a CSV, JSON Lines or Parquet table (templated). Its text is data and never
        rendered.
    :param sql: Instead of ``prompt_table``: a query whose rows are the table (templated).
    :param sql_conn_id: Airflow connection of any common-sql database, for ``sql`` (templated).
    :param sql_parameters: Values of the query's placeholders (templated).
    :param musicapi_conn_id: Airflow connection (templated).
    :param skip_invalid: Leave bad rows out with a warning. Default: one bad row stops the run (templated).
    :param max_credits: What this dag run may spend, at expected prices; rows beyond it are ``postponed`` to
        the next one. Default: no limit (templated).
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the music task id found at the
        vendor, or ``resubmit`` (templated).
    :raises AirflowFailException: bad table, key, limit or decision; each message names all that is wrong.
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
    ui_color = "#e8def8"

    def __init__(
        self,
        *,
        destination: str,
        prompt_table: str | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        musicapi_conn_id: str = DEFAULT_CONN_ID,
        skip_invalid: bool | str = False,
        max_credits: float | str | None = None,
        settle: Mapping[str, str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.prompt_table = prompt_table
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters = sql_parameters
        self.musicapi_conn_id = musicapi_conn_id
        self.skip_invalid = skip_invalid
        self.max_credits = max_credits
        self.settle = settle

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Read, check, plan."""
        hook = MusicAPIBaseHook(self.musicapi_conn_id)
        with airflow_errors():
            plan = plan_rows(
                read_rows(self),
                folder_of("destination", self.destination),
                hook.client,
                hook.account,
                run_id=context["ti"].run_id,
                max_credits=number_of("max_credits", self.max_credits),
                settle=mapping_of("settle", self.settle),
            )
        context["ti"].xcom_push(key=PLAN, value=[row.as_json() for row in plan])
        return [dict(row) for row in rows_to_do(plan)]


class MusicAPIWriteManifestOperator(BaseOperator, ShowsFacts):
    """
    Join a table's plan with what its rows' tasks have stored, and write the manifest. Costs nothing.

    Runs whatever became of the rows, so that failed ones do not hide what was paid for (trigger rule
    ``all_done``), also when there was nothing to do; without a plan it fails. Writes JSON Lines and Parquet
    to ``manifests/`` below the destination, and what is stored to the rows' records, so that later runs know.

    Returns (XCom) a small dict, as ``MusicAPIPromptTableOperator`` does: ``manifest`` (its URI), ``rows,
    stored, tracks, without_tracks, unknown, postponed, credits, lost_credits``. Outlets get the same as asset
    events. If too few rows have their tracks it fails afterwards: the summary then stands under the XCom key
    ``summary``, and outlets are not told.

    :param plan: ``read.output["plan"]`` of a :class:`MusicAPIReadPromptTableOperator` (templated).
    :param tracks: The results of the rows' store tasks: records of stored tracks with their ``prompt_id``, in
        lists of any depth (templated).
    :param destination: The folder that the plan was made for (templated).
    :param musicapi_conn_id: Asks the API, for free, which music tasks without tracks have failed (templated).
    :param min_success: Share of the rows, postponed ones aside, that must have their tracks, 0 to 1. Default
        1: a single row without tracks fails the task. 0: never fail.
    :raises AirflowFailException: too few rows have their tracks; names them.
    """

    template_fields: Sequence[str] = ("plan", "tracks", "destination", "musicapi_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"plan": "json", "tracks": "json"}
    operator_extra_links = (MusicAPITracksLink(), MusicAPIManifestLink())
    ui_color = "#e8def8"
    destination: str

    def __init__(
        self,
        *,
        plan: Sequence[Mapping[str, Any]] | XComArg,
        tracks: Sequence[Any] | XComArg,
        destination: str,
        musicapi_conn_id: str = DEFAULT_CONN_ID,
        min_success: float = 1.0,
        trigger_rule: TriggerRule | str = TriggerRule.ALL_DONE,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        if not 0 <= min_success <= 1:
            raise ValueError(f"min_success must be a share from 0 to 1; got {min_success!r}")
        self.plan: Any = plan  # rows as JSON once rendered
        self.tracks: Any = tracks  # lists of records once rendered
        self.destination = destination
        self.musicapi_conn_id = musicapi_conn_id
        self.min_success = min_success

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render; where the read task has left no plan, no retry will find one."""
        try:
            super().render_template_fields(context, jinja_env)
        except XComNotFound as error:
            raise AirflowFailException(f"There is no table to report on: {error}") from error

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the manifest; then say whether it is enough."""
        ti = context["ti"]
        stored = defaultdict(list)
        for record in _records(self.tracks):
            stored[str(record.get("prompt_id"))].append(record)
        with airflow_errors():
            folder = folder_of("destination", self.destination)
            ti.xcom_push(key=xcoms.DESTINATION, value=self.destination.rstrip("/"))
            client = MusicAPIBaseHook(self.musicapi_conn_id).client
            rows = complete_plan(_plan(self.plan), stored, folder, client)
        return conclude(self, context, rows, folder, manifest_name(ti.run_id, ti.dag_id))


def _plan(value: Any) -> list[Row]:
    try:
        return [Row.from_json(row) for row in value]
    except (TypeError, ValueError):
        raise MusicAPIInvalidRequestError(
            f"plan: must be the plan of a table; got {str(value)[:60]!r}.",
            next_step='pass plan=read.output["plan"] (a template makes text of a list).',
        ) from None


def _records(value: Any) -> Iterator[Mapping[str, Any]]:
    """Return the records in lists of lists; tasks without a result leave gaps."""
    if isinstance(value, Mapping):
        yield value
    elif value is not None and not isinstance(value, str):
        for one in value:
            yield from _records(one)
