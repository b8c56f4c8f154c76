"""
The operator for a whole prompt table: thousands of rows in one Airflow task.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import conf

from musicapi_provider.exceptions import MusicAPIError, MusicAPIStorageError, Spent
from musicapi_provider.ledgers.choice import asker_of, claims_are_required
from musicapi_provider.links import xcoms
from musicapi_provider.operators.apart import run_apart
from musicapi_provider.operators.arguments import check_policy, number_of, policy_of, seconds_of
from musicapi_provider.operators.control_flow import DEFAULT_TIMEOUT, airflow_errors
from musicapi_provider.operators.table_ends import ReadsPromptTable, Summary, WritesManifest
from musicapi_provider.prompt_table.buyer import TableSettings
from musicapi_provider.prompt_table.manifest import MANIFESTS, manifest_name, read_manifest_file
from musicapi_provider.prompt_table.run import TableRun
from musicapi_provider.purchases import generation_of
from musicapi_provider.storage import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES, About, TrackStore

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.prompt_table import Row
    from musicapi_provider.triggers.prompt_table import TableTry

#: Seconds between two creates: the documented limit of the standard tier (facts 1).
CREATE_INTERVAL = 3.0
#: Music tasks in flight: at one create per 3 s and 75 s each, 25 are. No limit per plan is known (facts 9).
MAX_IN_FLIGHT = 30
#: Seconds in the triggerer after which a single finished music task is worth a worker: results are stored
#: while others still run, with one resume a minute at most.
COLLECT_EVERY = 60.0
#: Seconds for which a trigger keeps still, see ``control_flow``: twice as long as for one music task, since a
#: table is deferred while others work, and a lost race costs a try (with 5 s, one was lost at a load of 16).
FIRST_POLL_OF_TRIGGER = 10.0


class MusicAPIPromptTableOperator(ReadsPromptTable, WritesManifest):
    """
    Make the songs of a whole prompt table: buy what is new, wait, store, write a manifest. This buys.

    Costs about 15 credits a row that is not done yet (facts 8), within ``max_credits``. Creates leave one by
    one at ``create_interval``; a worker slot is held while there is something to buy or to store, and none
    while all that is left is waiting. Use it for hundreds and thousands of rows; for tens, mapped tasks show
    each row in the grid (DAG ``musicapi_prompt_table``).

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
        until somebody decides (``settle``). After three lost answers in a row nothing more is sent. Two runs
        at one destination do not buy a row twice: each row is claimed before it is bought. They still store
        the same tracks twice, so ``max_active_runs=1`` is good advice.

    .. seealso:: ``musicapi-facts.md`` 1 for the pace, 5 for why a create is never resent, 8 for prices.

    Where the table and its tracks are, ``max_credits``, ``skip_invalid`` and ``settle``: see
    :class:`.ReadsPromptTable`; ``min_success``: see :class:`.WritesManifest`.

    :param create_interval: Seconds between two creates. Default 3, the documented limit of the standard tier.
    :param max_in_flight: Music tasks that are bought and not stored yet, at most. Default 30.
    :param on_unknown_outcome: ``fail`` (default): lost answers wait for a decision. ``resubmit``: each try
        sends them again, and may pay again (templated).
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

    template_fields: Sequence[str] = (*ReadsPromptTable.template_fields, "on_unknown_outcome")

    def __init__(
        self,
        *,
        create_interval: timedelta | float = CREATE_INTERVAL,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_unknown_outcome: Literal["fail", "resubmit"] | str = "fail",
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
        self.create_interval = seconds_of("create_interval", create_interval)
        self.max_in_flight = max_in_flight
        check_policy(on_unknown_outcome)
        self.on_unknown_outcome = on_unknown_outcome
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

    #: What is under way, for :meth:`on_kill`.
    _run: TableRun | None = None

    # -- the task's phases -----------------------------------------------------------------------------------

    def execute(self, context: Context) -> Summary:
        """Read the table, find out what is to be done, and begin."""
        ti = context["ti"]
        plan = self.plan_table(context, ahead=False)
        self.tell_destination(context)
        name = manifest_name(ti.run_id, ti.dag_id, ti.task_id, str(ti.map_index))
        about: TableTry = {"started": time.time(), "manifest": name}
        return self._go_on(context, plan, about, hand_over=self.deferrable)

    def execute_complete(self, context: Context, event: object = None) -> Summary:
        """
        Go on after the trigger, where the manifest says that this try has come to.

        :param event: A hint of the trigger, one of a closed set; anything else is refused.
        """
        from musicapi_provider.triggers.prompt_table import event_from

        with airflow_errors():
            ended = event_from(event)
        about = ended["about"]
        is_error = ended["status"] == "error"
        if is_error:  # what the triggerer could not do, it will not do when asked again
            self.log.warning("In the triggerer: %s This worker waits.", ended.get("message"))
        try:
            path = self.folder / MANIFESTS / f"{about['manifest']}.jsonl"
            plan = read_manifest_file(path, unfinished=True)
        except MusicAPIStorageError as unreadable:  # or it is final: the worker died after it
            self.log.warning("%s The records say how far the table is.", unreadable.message)
            return self.execute(context)
        poll_first = frozenset(ended["finished"]) if "finished" in ended else None
        hand_over = self.deferrable and not is_error
        return self._go_on(context, plan, about, hand_over=hand_over, poll_first=poll_first)

    def _go_on(
        self,
        context: Context,
        plan: list[Row],
        about: TableTry,
        *,
        hand_over: bool,
        poll_first: frozenset[str] | None = None,
    ) -> Summary:
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
        return self.conclude(context, plan, about["manifest"])

    async def _work(self, run: TableRun, *, hand_over: bool, poll_first: frozenset[str] | None) -> None:
        await run.run(await self.hook.aclient(), hand_over=hand_over, poll_first=poll_first)

    def _defer(self, context: Context, run: TableRun, about: TableTry) -> None:
        from musicapi_provider.triggers.prompt_table import MusicAPIPromptTableTrigger

        in_flight = run.in_flight
        so_far = self.write_manifest(context, run.plan, about["manifest"], final=False)
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
            first_poll_time=now + FIRST_POLL_OF_TRIGGER,
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

    def _store(self) -> TrackStore:
        return TrackStore(
            self.folder,
            self.hook.settings,
            max_bytes=self.max_bytes,
            store_cover=self.store_cover,
            embed_tags=self.embed_tags,
            fresh_tracks=self.hook.fresh_tracks,
            concurrency=self.concurrency,
        )

    def _settings(self, context: Context, about: TableTry) -> TableSettings:
        ti = context["ti"]
        return TableSettings(
            folder=self.folder,
            generation=generation_of(ti.run_id, ti.max_tries),
            asker=asker_of(context, self.retries or 0, with_dag=True),
            require_claims=claims_are_required(),
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
