"""
The operator for a whole prompt table: thousands of rows in one Airflow task.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator, ObjectStoragePath, conf

from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.exceptions import (
    MusicAPIError,
    MusicAPIStorageError,
    Spent,
)
from musicapi_provider.hooks.base import MusicAPIBaseHook
from musicapi_provider.links import xcoms
from musicapi_provider.links.extra_links import MusicAPIManifestLink, MusicAPITracksLink
from musicapi_provider.links.shown import ShowsFacts
from musicapi_provider.operators.apart import run_apart
from musicapi_provider.operators.arguments import (
    check_policy,
    folder_of,
    mapping_of,
    number_of,
    policy_of,
    seconds_of,
)
from musicapi_provider.operators.control_flow import DEFAULT_TIMEOUT, airflow_errors
from musicapi_provider.operators.table_ends import conclude, read_rows
from musicapi_provider.prompt_table.buyer import TableSettings
from musicapi_provider.prompt_table.manifest import (
    MANIFESTS,
    counts_of,
    manifest_name,
    read_manifest_file,
    write_manifest_file,
)
from musicapi_provider.prompt_table.plan import plan_rows
from musicapi_provider.prompt_table.run import TableRun
from musicapi_provider.purchases import generation_of
from musicapi_provider.storage import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES, About, TrackStore

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.prompt_table import Row

#: Seconds between two creates: the documented limit of the standard tier (facts 1).
CREATE_INTERVAL = 3.0
#: Music tasks in flight: at one create per 3 s and 75 s each, 25 are. No limit per plan is known (facts 9).
MAX_IN_FLIGHT = 30
#: Seconds in the triggerer after which a single finished music task is worth a worker: results are stored
#: while others still run, with one resume a minute at most.
COLLECT_EVERY = 60.0
#: Seconds for which a trigger keeps still, see ``control_flow``: twice as long as for one music task, since a
#: table is deferred while others work, and a lost race costs a try (with 5 s, one was lost at a load of 16).
FIRST_LOOK_OF_TRIGGER = 10.0


class MusicAPIPromptTableOperator(BaseOperator, ShowsFacts):
    """
    Make the songs of a whole prompt table: buy what is new, wait, store, write a manifest. This buys.

    Costs about 15 credits a row that is not done yet (facts 8), within ``max_credits``. Creates leave one by
    one at ``create_interval``; a worker slot is held while there is something to buy or to
    store, and none while all that is left is waiting. Use it for hundreds and thousands of rows; for tens,
    mapped tasks show each row in the grid (DAG ``musicapi_prompt_table``).

    **Done is done.** What is bought and stored is on record at the destination (``purchases/``), by row and
    body: a later run buys only new and edited rows, and collects what a killed one has bought. A deleted row
    leaves its tracks alone.

    Returns (XCom) a small dict: ``manifest`` (URI of the JSON Lines; Parquet lies beside it), ``rows``,
    ``stored``, ``tracks``, ``without_tracks``, ``unknown``, ``postponed``, ``credits`` (spent by this dag
    run, at expected prices), ``lost_credits`` (perhaps spent beside that). Outlets get the same as asset
    events. While others run, and if too few rows succeed, it stands under the XCom key ``summary``.

    .. note::
        Retries, kills and clears never pay twice in silence: each create has a record before it leaves. A row
        whose answer was lost is an unknown outcome, stays out of later tries, and is named in the manifest
        until somebody decides (``settle``). After three lost answers in a row nothing more is sent. One run
        at a time may work on a destination (``max_active_runs=1``): object storage has no locks.

    .. seealso:: ``musicapi-facts.md`` 1 for the pace, 5 for why a create is never resent, 8 for prices.

    :param destination: Folder for tracks, records and manifests, as an object storage URI (templated).
    :param prompt_table: URI of a CSV, JSON Lines or Parquet table (templated). Its text is data and never
        rendered.
    :param sql: Instead of ``prompt_table``: a query whose rows are the table (templated).
    :param sql_conn_id: Airflow connection of any common-sql database, for ``sql`` (templated).
    :param sql_parameters: Values of the query's placeholders (templated).
    :param musicapi_conn_id: Airflow connection (templated).
    :param skip_invalid: Leave bad rows out with a warning. Default: one bad row stops the run before anything
        is paid (templated).
    :param create_interval: Seconds between two creates. Default 3, the documented limit of the standard tier.
    :param max_in_flight: Music tasks that are bought and not stored yet, at most. Default 30.
    :param max_credits: What this dag run may spend, by expected prices; rows beyond it are ``postponed`` to
        the next one. Default: no limit (templated).
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the music task id found at the
        vendor, or ``resubmit`` (templated).
    :param on_unknown_outcome: ``fail`` (default): lost answers wait for a decision. ``resubmit``: each try
        sends them again, and may pay again (templated).
    :param min_success: Share of the rows, postponed ones aside, that must have their tracks, 0 to 1. Default
        1: a single row without tracks fails the task, after everything else is stored.
    :param timeout: Seconds that each music task may take, in each try. Default 30 minutes.
    :param poll_interval: Seconds between polls. Default: the connection's, else adaptive.
    :param deferrable: Wait in the triggerer. Default: Airflow's ``default_deferrable``.
    :param fail_on_partial: Store nothing of a row when one of its clips failed. Default: store the others.
    :param store_cover: Also store cover images.
    :param embed_tags: Write title, styles, ids, lyrics and cover into the audio files.
    :param max_bytes: Refuse a body larger than this.
    :param concurrency: Downloads at a time.
    :raises AirflowFailException: bad table, key, credits, or too few rows for reasons that no retry cures.
    :raises MusicAPIIncompleteTableError: too few rows, and a retry can cure some; it buys only those.
    """

    template_fields: Sequence[str] = (
        *("destination", "prompt_table", "sql", "sql_conn_id", "sql_parameters", "musicapi_conn_id"),
        *("skip_invalid", "max_credits", "settle", "on_unknown_outcome"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "sql": "sql",
        "sql_parameters": "json",
        "settle": "json",
    }
    operator_extra_links = (MusicAPITracksLink(), MusicAPIManifestLink())
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
        create_interval: timedelta | float = CREATE_INTERVAL,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_credits: float | str | None = None,
        settle: Mapping[str, str] | str | None = None,
        on_unknown_outcome: Literal["fail", "resubmit"] | str = "fail",
        min_success: float = 1.0,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        poll_interval: timedelta | float | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_on_partial: bool = False,
        store_cover: bool = False,
        embed_tags: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
        concurrency: int = DEFAULT_CONCURRENCY,
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
        self.create_interval = seconds_of("create_interval", create_interval)
        self.max_in_flight = max_in_flight
        self.max_credits = max_credits
        self.settle = settle
        check_policy(on_unknown_outcome)
        self.on_unknown_outcome = on_unknown_outcome
        self.min_success = min_success
        self.timeout = seconds_of("timeout", timeout)
        self.poll_interval = None if poll_interval is None else seconds_of("poll_interval", poll_interval)
        self.deferrable = deferrable
        self.fail_on_partial = fail_on_partial
        self.store_cover = store_cover
        self.embed_tags = embed_tags
        self.max_bytes = max_bytes
        self.concurrency = concurrency
        if max_in_flight < 1 or concurrency < 1:
            raise ValueError(
                f"max_in_flight and concurrency must be 1 or more; got {max_in_flight!r}, {concurrency!r}"
            )
        if not 0 <= min_success <= 1:
            raise ValueError(f"min_success must be a share from 0 to 1; got {min_success!r}")

    #: What is under way, for :meth:`on_kill`.
    _run: TableRun | None = None
    destination: str

    # -- the task's phases -----------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the table, find out what is to be done, and begin."""
        ti = context["ti"]
        with airflow_errors():
            plan = plan_rows(
                read_rows(self),
                self._folder,
                self.hook.client,
                self.hook.account,
                run_id=ti.run_id,
                max_credits=number_of("max_credits", self.max_credits),
                settle=mapping_of("settle", self.settle),
                ahead=False,
            )
        ti.xcom_push(key=xcoms.DESTINATION, value=self.destination.rstrip("/"))
        name = manifest_name(ti.run_id, ti.dag_id, ti.task_id, str(ti.map_index))
        return self._go_on(
            context, plan, {"started": time.time(), "manifest": name}, hand_over=self.deferrable
        )

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """
        Go on after the trigger, where the manifest says that this try has come to.

        :param event: A hint of the trigger, one of a closed set; anything else is refused.
        """
        from musicapi_provider.triggers.prompt_table import about_from

        with airflow_errors():
            about = about_from(event)
        hand_over = self.deferrable and event["status"] != "error"
        if event["status"] == "error":  # what the triggerer could not do, it will not do when asked again
            self.log.warning("In the triggerer: %s This worker waits.", event.get("message"))
        try:
            path = self._folder / MANIFESTS / f"{about['manifest']}.jsonl"
            plan = read_manifest_file(path, unfinished=True)
        except MusicAPIStorageError as unreadable:  # or it is final: the worker died after it
            self.log.warning("%s The records say how far the table is.", unreadable.message)
            return self.execute(context)
        poll_first = frozenset(event["finished"]) if "finished" in event else None
        return self._go_on(context, plan, about, hand_over=hand_over, poll_first=poll_first)

    def _go_on(
        self,
        context: Context,
        plan: list[Row],
        about: Mapping[str, Any],
        *,
        hand_over: bool,
        poll_first: frozenset[str] | None = None,
    ) -> dict[str, Any]:
        """Work until all is done, or hand what is in flight to the triggerer (which raises)."""
        with airflow_errors(), self._store() as store:
            store.remove_leftovers()
            run = TableRun(plan, self._settings(context, about), self.hook.client, store)
            self.log.info("%d rows to buy, %d in flight", run.to_buy, len(run.in_flight))
            self._run = run
            run_apart(self._work(run, hand_over=hand_over, poll_first=poll_first))
            store.write_index()  # the tracks page shows what is stored while the rest is waited for
            if run.in_flight:
                self._defer(context, run, about)
        return conclude(self, context, plan, self._folder, about["manifest"])

    async def _work(self, run: TableRun, *, hand_over: bool, poll_first: frozenset[str] | None) -> None:
        await run.run(await self.hook.aclient(), hand_over=hand_over, poll_first=poll_first)

    def _defer(self, context: Context, run: TableRun, about: Mapping[str, Any]) -> None:
        from musicapi_provider.triggers.prompt_table import MusicAPIPromptTableTrigger

        in_flight = run.in_flight
        self.manifest_uri = write_manifest_file(self._folder, about["manifest"], run.plan, final=False)
        so_far = {"manifest": self.manifest_uri, **counts_of(run.plan, context["ti"].run_id)}
        context["ti"].xcom_push(key=xcoms.SUMMARY, value=so_far)
        self.log.info("%s. Waiting in the triggerer.", run.progress())
        now = time.time()
        trigger = MusicAPIPromptTableTrigger(
            waits={str(row.music_task_id): run.wait_of(row) for row in in_flight},
            musicapi_conn_id=self.musicapi_conn_id,
            about=about,
            # With rows still to buy, half of the places that are taken must be free to be worth a worker.
            enough=math.ceil(len(in_flight) / 2) if run.to_buy else len(in_flight),
            collect_time=now + COLLECT_EVERY,
            first_poll_time=now + FIRST_LOOK_OF_TRIGGER,
            poll_interval=self.poll_interval,
        )
        # Airflow gets no timeout: its own skips execute_complete. The trigger keeps the deadlines.
        self.defer(trigger=trigger, method_name="execute_complete")

    def on_kill(self) -> None:
        """Begin no further purchase, and say what stays behind; the API has no cancel call."""
        if self._run is not None:  # Airflow lets the task go on for some seconds, then kills it anywhere
            self._run.stop(MusicAPIError("the task was killed.", spent=Spent.NOT_SPENT))
        self.log.warning(
            "Killed. Music tasks that are bought go on at the API and their credits stay spent; the next "
            "try, a clear or the next run collects them without paying again."
        )

    # -- what it works with ----------------------------------------------------------------------------------

    @cached_property
    def hook(self) -> MusicAPIBaseHook:
        """The hook; made at run time, when templates are rendered."""
        return MusicAPIBaseHook(self.musicapi_conn_id)

    @cached_property
    def _folder(self) -> ObjectStoragePath:
        return folder_of("destination", self.destination)

    def _store(self) -> TrackStore:
        return TrackStore(
            self._folder,
            self.hook.settings,
            max_bytes=self.max_bytes,
            store_cover=self.store_cover,
            embed_tags=self.embed_tags,
            fresh_tracks=self.hook.fresh_tracks,
            concurrency=self.concurrency,
        )

    def _settings(self, context: Context, about: Mapping[str, Any]) -> TableSettings:
        ti = context["ti"]
        return TableSettings(
            folder=self._folder,
            generation=generation_of(ti.run_id, ti.max_tries),
            started=about["started"],
            timeout=self.timeout,
            create_interval=self.create_interval,
            max_in_flight=self.max_in_flight,
            max_credits=number_of("max_credits", self.max_credits),
            poll_interval=self.poll_interval,
            fail_on_partial=self.fail_on_partial,
            on_unknown_outcome=policy_of(self.on_unknown_outcome),
            about=About(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id),
        )
