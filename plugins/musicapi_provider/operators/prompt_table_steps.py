"""
The two ends of a mapped prompt table: read and plan before the rows' tasks, write the manifest after them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import TriggerRule
from airflow.sdk.exceptions import AirflowFailException, XComNotFound

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.operators.control_flow import airflow_errors
from musicapi_provider.operators.table_ends import ReadsPromptTable, Summary, WritesManifest
from musicapi_provider.prompt_table import Row
from musicapi_provider.prompt_table.manifest import manifest_name
from musicapi_provider.prompt_table.plan import ToDo, complete_plan, rows_to_do

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context, XComArg

#: XCom key of a read task's whole plan: every row as it stands before the run.
PLAN = "plan"


class MusicAPIReadPromptTableOperator(ReadsPromptTable):
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

    The arguments are those of :class:`.ReadsPromptTable`.

    :raises AirflowFailException: bad table, key, limit or decision; each message names all that is wrong.
    """

    def execute(self, context: Context) -> list[ToDo]:
        """Read, check, plan."""
        plan = self.plan_table(context, ahead=True)
        context["ti"].xcom_push(key=PLAN, value=[row.as_json() for row in plan])
        return rows_to_do(plan)


class MusicAPIWriteManifestOperator(WritesManifest):
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
    :param min_success: See :class:`.WritesManifest`.
    :raises AirflowFailException: too few rows have their tracks; names them.
    """

    template_fields: Sequence[str] = ("plan", "tracks", "destination", "musicapi_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"plan": "json", "tracks": "json"}

    def __init__(
        self,
        *,
        plan: Sequence[Mapping[str, object]] | XComArg,
        tracks: Sequence[object] | XComArg,
        trigger_rule: TriggerRule | str = TriggerRule.ALL_DONE,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.plan: object = plan  # rows as JSON once rendered
        self.tracks: object = tracks  # lists of records once rendered

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render; where the read task has left no plan, no retry will find one."""
        try:
            super().render_template_fields(context, jinja_env)
        except XComNotFound as error:
            raise AirflowFailException(f"There is no table to report on: {error}") from error

    def execute(self, context: Context) -> Summary:
        """Write the manifest; then say whether it is enough."""
        ti = context["ti"]
        stored: dict[str, list[object]] = defaultdict(list)
        for record in _records(self.tracks):
            stored[str(record.get("prompt_id"))].append(record)
        with airflow_errors():
            folder = self.folder
            self.tell_destination(context)
            rows = complete_plan(_plan(self.plan), stored, folder, self.hook.client)
        return self.conclude(context, rows, manifest_name(ti.run_id, ti.dag_id))


def _plan(value: object) -> list[Row]:
    try:
        return [Row.from_json(row) for row in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise MusicAPIInvalidRequestError(
            f"plan: must be the plan of a table; got {str(value)[:60]!r}.",
            next_step='pass plan=read.output["plan"] (a template makes text of a list).',
        ) from None


def _records(value: object) -> Iterator[Mapping[str, object]]:
    """Return the records in lists of lists; tasks without a result leave gaps."""
    if isinstance(value, Mapping):
        yield value
    elif value is not None and not isinstance(value, str):
        for one in value:  # type: ignore[attr-defined]
            yield from _records(one)
