"""
Work off a whole prompt table in one process: buy at a pace, wait with one poller, store what is finished.

Everything happens in one event loop: a buyer that sends one create after the other, a coroutine for each
music task in flight, and threads that download. :mod:`musicapi_provider.submission` decides what is bought,
and it is on record before the next line is reached, so the process may die on any line:

* before the intent is written: nothing was sent;
* between intent and answer: the row is an unknown outcome and stays out of later runs until it is decided;
* after that: the record has the id, and the next try collects.

No Airflow in here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIConfigurationError,
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIRetiredError,
    MusicAPIStorageError,
    MusicAPITransientError,
    Spent,
)
from musicapi_provider.pace import Pace, asks_for_a_pause
from musicapi_provider.plan import FAILED, POSTPONED, RESUBMIT, STORED, facts_of, refund
from musicapi_provider.poller import Poller
from musicapi_provider.records import FolderRecords
from musicapi_provider.submission import (
    KEY,
    NOT_SUBMITTED,
    SUBMITTED,
    UNKNOWN,
    Submitted,
    UnknownOutcome,
    adopt,
    run_of,
    standing,
    submit,
)
from musicapi_provider.waiting import Wait

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.async_client import MusicAPIAsyncClient
    from musicapi_provider.client import MusicAPIClient
    from musicapi_provider.models import MusicTask, Track
    from musicapi_provider.storage import TrackStore

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Seconds without any music task ending after which a run is handed to the triggerer. A deferral and a resume
#: cost about as much (``airflow-notes.md``), so short music tasks are waited for here.
LINGER = 5.0
#: Answers lost in a row after which nothing more is sent: something is wrong, and each may be paid for.
LOST_IN_A_ROW = 3
#: Creates in a row that could not be sent, or were throttled, after which a later try goes on. Each has been
#: repeated by the client already, and pauses in between double up to a minute.
REFUSED_IN_A_ROW = 8
#: Rows in a row whose tracks could not be stored, after which nothing more is bought: what cannot be had need
#: not be paid for.
UNSTORED_IN_A_ROW = 8
#: Refusals that concern one row's body and no other.
OF_THE_ROW = (MusicAPIInvalidRequestError, MusicAPIModerationError, MusicAPIRetiredError)
#: Share of the full pace that an accepted create brings back after a refusal.
RECOVERY = 0.25
#: Tries while the storage is away, and seconds before the second, doubled each time: half a minute in all.
STORAGE_ATTEMPTS, STORAGE_PAUSE = 5, 2.0
#: Seconds between lines of progress.
PROGRESS_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class TableSettings:
    """
    How a table is worked off.

    :param folder: The destination: records, tracks.
    :param generation: See :func:`musicapi_provider.submission.generation_of`.
    :param started: Epoch seconds at which this try began.
    :param timeout: Seconds that a music task may take, from its purchase or from the beginning of this try.
    :param create_interval: Seconds between two creates.
    :param max_in_flight: Music tasks that are bought and not stored, at most.
    :param max_credits: What may still be spent; ``None``: no limit.
    :param about: Facts for the sidecar of each track, such as the dag run.
    """

    folder: ObjectStoragePath
    generation: str
    started: float
    timeout: float
    create_interval: float
    max_in_flight: int
    max_credits: float | None = None
    poll_interval: float | None = None
    fail_on_partial: bool = False
    on_unknown_outcome: UnknownOutcome = UnknownOutcome.FAIL
    about: Mapping[str, Any] | None = None


class TableRun:
    """
    Work off the rows of a plan; the entries are updated in place.

    :param plan: Entries of :mod:`musicapi_provider.plan`; each gets ``retryable``: whether a later try can
        cure what keeps the row from being stored.
    :param client: Buys, in a thread.
    :param store: Stores, in threads: as many as its ``concurrency``.
    """

    def __init__(
        self,
        plan: Sequence[dict[str, Any]],
        settings: TableSettings,
        client: MusicAPIClient,
        store: TrackStore,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.client = client
        self.store = store
        #: Why nothing more is bought.
        self.stopped: MusicAPIError | None = None
        self.pace = Pace(
            1 / settings.create_interval if settings.create_interval > 0 else math.inf,
            "creates",
            recovery=RECOVERY,
        )
        due = [entry for entry in plan if self._is_due(entry)]
        # Rows that keep failing must not keep the others from their turn.
        self._todo = deque(sorted(due, key=lambda entry: bool(entry["state"] == FAILED)))
        self._credits_left = math.inf if settings.max_credits is None else settings.max_credits
        self._active: dict[asyncio.Task[None], dict[str, Any]] = {}
        self._storing = 0
        self._lost_in_a_row = self._refused_in_a_row = self._unstored_in_a_row = 0
        #: Rows that were bought anew once: an API that changes its mind must not make a circle of it.
        self._anew: set[str] = set()
        self._told = time.monotonic()
        self._said = ""

    @property
    def in_flight(self) -> list[dict[str, Any]]:
        """The entries that are bought and may still become tracks in this try."""
        known = (entry for entry in self.plan if entry["state"] == SUBMITTED and not entry["decision"])
        return [entry for entry in known if not entry["error"]]

    @property
    def to_buy(self) -> int:
        """How many rows are still to be bought in this try."""
        return 0 if self.stopped else len(self._todo)

    def wait_of(self, entry: Mapping[str, Any]) -> tuple[float, float]:
        """Return when a music task's wait began, in epoch seconds, and how many seconds it may take."""
        bought = datetime.fromisoformat(entry["submitted_at"]).timestamp()
        return bought, self.settings.timeout + max(self.settings.started - bought, 0.0)

    async def run(
        self,
        async_client: MusicAPIAsyncClient,
        *,
        hand_over: bool,
        look_first: frozenset[str] | None = None,
    ) -> None:
        """
        Work until nothing is left to do, or only waiting is.

        :param async_client: Looks; it is closed at the end.
        :param hand_over: Return when nothing ends for :data:`LINGER`, with music tasks still in flight.
        :param look_first: Music tasks to look at now; ``None``: all that are in flight.
        """
        self._loop = asyncio.get_running_loop()
        self._poller = Poller(async_client)
        self._buyer = ThreadPoolExecutor(1, thread_name_prefix="musicapi-buyer")
        self._storers = ThreadPoolExecutor(self.store.concurrency, thread_name_prefix="musicapi-store")
        try:
            for entry in self.in_flight:
                self._follow(entry, at_once=look_first is None or entry["music_task_id"] in look_first)
            await self._work(hand_over=hand_over)
            if self.stopped is not None:  # also when handed over: whoever resumes must not begin again
                self._leave_the_rest(self.stopped)
        finally:
            for task in self._active:
                task.cancel()
            await asyncio.gather(*self._active, return_exceptions=True)
            await self._poller.close()
            # A create or a download that is under way ends first: what it finds out is on record.
            self._buyer.shutdown()
            self._storers.shutdown()

    async def _work(self, *, hand_over: bool) -> None:
        while True:
            self._tell()
            if self.to_buy and len(self._active) < self.settings.max_in_flight:
                if not await self._is_our_turn():
                    continue
                await self._buy(self._todo.popleft())
            elif self._active:
                ended = await self._something_ends(LINGER)
                if not ended and hand_over and not self._storing:
                    return
            else:
                return

    # -- buying ----------------------------------------------------------------------------------------------

    def _is_due(self, entry: Mapping[str, Any]) -> bool:
        resubmit = self.settings.on_unknown_outcome is UnknownOutcome.RESUBMIT
        if entry.get("error"):  # it had its turn in this try
            return False
        if entry["state"] == UNKNOWN:
            return bool(entry["decision"]) or resubmit
        return entry["state"] in (NOT_SUBMITTED, FAILED) or (
            entry["state"] == SUBMITTED and bool(entry["decision"])
        )

    async def _is_our_turn(self) -> bool:
        """Wait for the pace, at most until something ends; tell whether a create may leave."""
        if (pause := self.pace.next_at - self._loop.time()) > 0:
            await self._something_ends(min(pause, LINGER))
            return False
        return True

    async def _buy(self, entry: dict[str, Any]) -> None:
        adopted = entry["decision"] not in (None, RESUBMIT)
        price = 0.0 if adopted else self.client.settings.expected_credits(entry["body"])
        if price > self._credits_left:
            self._postpone(entry)
            return
        try:
            bought = await self._loop.run_in_executor(self._buyer, self._submit, entry)
        except MusicAPIError as error:
            self.pace.take(self._loop.time())
            self._not_bought(entry, error)
            return
        # From the answer on: counted from here, requests of uneven length would come too close at the API.
        self.pace.take(self._loop.time())
        self._credits_left -= price if bought else 0.0
        self._lost_in_a_row = self._refused_in_a_row = 0
        self.pace.heed(None, self._loop.time())
        self._follow(entry, at_once=not bought)

    def _submit(self, entry: dict[str, Any]) -> bool:
        """Buy or adopt, and take what is on record then into the entry; tell whether it was bought now."""
        settings, decision = self.settings, entry["decision"]
        records = self._record_of(entry)
        records.get(KEY)  # a storage that is away says nothing: the entry stays as it is
        known = {"fingerprint": entry["fingerprint"], "generation": settings.generation}
        policy = UnknownOutcome.RESUBMIT if decision == RESUBMIT else settings.on_unknown_outcome
        if decision == RESUBMIT:
            self._check_that_it_is_new(records, entry)
        try:
            if decision not in (None, RESUBMIT):
                submitted = adopt(records, decision, **known)
            else:
                submitted = submit(self.client, entry["body"], records, on_unknown_outcome=policy, **known)
        finally:
            entry.update(facts_of(records, entry["fingerprint"]))
        entry["decision"] = None
        if entry["music_task_id"] != submitted.music_task_id:
            self._hold(entry, submitted, records)
        return submitted.bought

    def _check_that_it_is_new(self, records: FolderRecords, entry: Mapping[str, Any]) -> None:
        """Refuse to carry out twice the decision to send again: a retry of the task brings it along."""
        known = standing(records, entry["fingerprint"])
        if known.state == UNKNOWN and known.bought_in == self.settings.generation:
            raise MusicAPIConfigurationError(
                f"settle: {entry['prompt_id']!r} was sent again in this run, and that answer was lost, too; "
                "a decision is about an earlier one.",
                spent=Spent.UNKNOWN,
                next_step="look into the account's history at the vendor, decide, then clear the task.",
            )

    def _hold(self, entry: dict[str, Any], submitted: Submitted, records: FolderRecords) -> None:
        """Hold on to what is bought while the storage does not take its record; storing writes it again."""
        entry.update(
            state=SUBMITTED,
            music_task_id=submitted.music_task_id,
            credits=submitted.credits,
            lost_credits=submitted.lost_credits,
        )
        try:
            _patiently(lambda: self._record(entry, records))
        except MusicAPIError as error:
            log.error("The record of music task %s is missing: %s", submitted.music_task_id, error)  # noqa: TRY400

    def _record_of(self, entry: Mapping[str, Any]) -> FolderRecords:
        return FolderRecords(self.settings.folder, entry["prompt_id"], entry["fingerprint"])

    def _record(self, entry: Mapping[str, Any], records: FolderRecords) -> None:
        """See to it that the row's music task is on record."""
        fingerprint, generation = entry["fingerprint"], self.settings.generation
        if standing(records, fingerprint).music_task_id is None:
            adopt(records, entry["music_task_id"], fingerprint=fingerprint, generation=generation)

    def _not_bought(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        if isinstance(error, MusicAPIAmbiguousSubmitError):
            self._end(entry, error)
            self._credits_left -= entry["price"]  # perhaps paid is paid, as far as a limit goes
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= LOST_IN_A_ROW:
                self.stop(error)
        elif isinstance(error, OF_THE_ROW) or (
            isinstance(error, MusicAPIConfigurationError) and entry["state"] == UNKNOWN  # unreadable record
        ):
            self._end(entry, error)
        elif asks_for_a_pause(error) or isinstance(error, MusicAPITransientError):
            self._todo.appendleft(entry)
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= REFUSED_IN_A_ROW:
                self.stop(error)
            else:
                self.pace.heed(error, self._loop.time())
        else:  # the account's: the next create would be refused as well
            self._todo.appendleft(entry)
            self.stop(error)

    def stop(self, error: MusicAPIError) -> None:
        """Buy nothing more in this try; what is bought is still stored."""
        if self.stopped is None:
            log.error("Nothing more is bought in this try (%d rows are left): %s", len(self._todo), error)
            self.stopped = error

    def _postpone(self, entry: dict[str, Any]) -> None:
        """Leave this row and all after it that cost for a later run: nobody overtakes."""
        left = [entry, *(one for one in self._todo if one["decision"] in (None, RESUBMIT))]
        self._todo = deque(one for one in self._todo if one["decision"] not in (None, RESUBMIT))
        for one in left:
            one["decision"] = None
            if one["state"] != UNKNOWN:
                one["state"] = POSTPONED
        log.warning("%d rows are left for a later run: max_credits does not cover them.", len(left))

    def _leave_the_rest(self, reason: MusicAPIError) -> None:
        """Say in the entries why they were not bought."""
        for entry in self._todo:
            entry.update(error=f"not bought: {reason}", retryable=reason.retryable)
        self._todo.clear()

    # -- waiting and storing ---------------------------------------------------------------------------------

    def _follow(self, entry: dict[str, Any], *, at_once: bool) -> None:
        task = self._loop.create_task(self._collect(entry, at_once=at_once))
        self._active[task] = entry

    async def _something_ends(self, within: float) -> bool:
        """Wait until a row is done with; tell whether one was."""
        if not self._active:
            await asyncio.sleep(within)
            return False
        done, _ = await asyncio.wait(self._active, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._active[task]
            task.result()  # a defect of ours must not pass in silence
        return bool(done)

    async def _collect(self, entry: dict[str, Any], *, at_once: bool) -> None:
        """Wait for a music task and store its tracks."""
        since, timeout = self.wait_of(entry)
        wait = Wait([entry["music_task_id"]], timeout, since)
        try:
            tracks = None
            while tracks is None:
                await self._poller.wait(wait, poll_interval=self.settings.poll_interval, at_once=at_once)
                if wait.pending:
                    await self._look(wait)
                tracks = wait.tracks(fail_on_partial=self.settings.fail_on_partial)
            self._storing += 1
            try:
                await self._loop.run_in_executor(self._storers, self._store, entry, tracks)
            finally:
                self._storing -= 1
            self._unstored_in_a_row = 0
        except MusicAPIError as error:
            self._not_collected(entry, error)

    async def _look(self, wait: Wait) -> None:
        """Look once more when time is over: it may have ended while nobody looked, as in a long queue."""
        client = self._poller.client
        for id_ in wait.pending:
            answer: MusicTask | MusicAPIError
            try:
                answer = await client.get_task(id_)
            except MusicAPIError as error:
                answer = error
            wait.learn(id_, answer, allow_http=client.settings.allow_http_audio)

    def _store(self, entry: dict[str, Any], tracks: Sequence[Track]) -> None:
        about = {
            **(self.settings.about or {}),
            **{name: entry[name] for name in ("prompt_id", "body", "fingerprint", "submitted_at", "credits")},
        }
        found = [track.as_dict(include_lyrics=True) for track in tracks]
        records = store_each(found, lambda track: _patiently(lambda: self.store.store(track, about=about)))
        row = self._record_of(entry)
        _patiently(lambda: self._record(entry, row))
        _patiently(lambda: row.set_stored(entry["music_task_id"], records))
        entry.update(state=STORED, tracks=records, error=None, retryable=False)

    def _not_collected(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        if error.spent is Spent.REFUNDED:
            self._refunded(entry, error)
        else:
            self._end(entry, error)
            # A retry of the task would double the time of what is out of it.
            entry["retryable"] = not isinstance(error, MusicAPIDeadlineError) and error.retryable
            if isinstance(error, (MusicAPIStorageError, MusicAPINotSentError)):
                self._unstored_in_a_row += 1
                if self._unstored_in_a_row >= UNSTORED_IN_A_ROW:
                    self.stop(error)
            if self._poller.failure is not None:  # it has told all who wait
                self.stop(self._poller.failure)

    def _refunded(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        """Buy anew what an earlier try bought; what this try bought is left to the next one."""
        since, _ = self.wait_of(entry)
        refund(entry, str(error))
        content = isinstance(error, MusicAPIModerationError)
        if entry["paid_by"] == run_of(self.settings.generation):
            self._credits_left += entry["price"]
        is_earlier = since < math.floor(self.settings.started)  # records know whole seconds
        if is_earlier and not content and entry["prompt_id"] not in self._anew:
            self._anew.add(entry["prompt_id"])
            entry["error"] = None
            self._todo.append(entry)
            log.info("%s: %s It is bought anew.", entry["prompt_id"], error.message)
            return
        entry["retryable"] = not content
        log.warning("%s has no tracks: %s", entry["prompt_id"], error)

    def _end(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        entry.update(error=str(error), retryable=error.retryable)
        log.warning("%s has no tracks: %s", entry["prompt_id"], error)

    # -- progress --------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Log how far the table is, when a line is due and says something new."""
        now = time.monotonic()
        if now - self._told < PROGRESS_EVERY:
            return
        self._told = now
        if (line := self.progress()) != self._said:
            log.info("%s", line)
            self._said = line

    def progress(self) -> str:
        """Return how far the table is, and about how long the rest takes."""
        stored = sum(entry["state"] == STORED for entry in self.plan)
        failed = sum(bool(entry["error"]) for entry in self.plan)
        parts = [f"{stored} of {len(self.plan)} rows stored", f"{len(self._active)} in flight"]
        parts += [f"{self.to_buy} to buy"] if self.to_buy else []
        parts += [f"{failed} without tracks"] if failed else []
        return ", ".join(parts) + f"; about {_rounded(self._seconds_left())} left"

    def _seconds_left(self) -> float:
        """Estimate: the creates that are left at their pace, and the last music task's own time."""
        median = self._poller.experience.expectation.median
        return self.to_buy * max(1 / self.pace.current, median / self.settings.max_in_flight) + median


def store_each(
    tracks: Sequence[Mapping[str, Any]], store: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """
    Store every track that can be stored, then fail if one could not.

    :raises MusicAPIStorageError: names every track that is missing, and why.
    """
    records, errors = [], []
    for track in tracks:
        try:
            records.append(store(track))
        except MusicAPIStorageError as error:
            errors.append(error.message)
    if errors:
        raise MusicAPIStorageError(
            f"{len(errors)} tracks could not be stored, {len(records)} are: {' '.join(errors)}"
        )
    return records


def _patiently(work: Callable[[], _Result]) -> _Result:
    """
    Do what needs the storage, again when that is away for a moment.

    :raises MusicAPIStorageError: it stays away; a later try collects.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(STORAGE_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=STORAGE_PAUSE, max=30.0),
        retry=tenacity.retry_if_exception(_is_of_the_storage),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        return retrying(work)
    except MusicAPIError:
        raise
    except Exception as error:  # whatever the backend raises
        raise MusicAPIStorageError(f"The storage failed ({type(error).__name__}: {error}).") from error


def _is_of_the_storage(error: BaseException) -> bool:
    """Tell what the storage did from what the API or a media host did; those have been repeated already."""
    if isinstance(error, MusicAPIStorageError):
        return isinstance(error.__cause__, OSError)  # of the store: it refuses
    return isinstance(error, Exception) and (
        not isinstance(error, MusicAPIError) or isinstance(error, MusicAPINotSentError)
    )


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
