"""
Work off a whole prompt table in one process: buy at a pace, wait with one poller, store what is finished.

Everything happens in one event loop: a buyer that sends one create after the other, a coroutine for each
music task in flight, and threads that download. ``purchases`` decides what is bought, and it is on record
before the next line is reached, so the process may die on any line:

* before the intent is written: nothing was sent;
* between intent and answer: the row is an unknown outcome and stays out of later runs until it is decided;
* after that: the record has the id, and the next try collects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import (
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPINotSentError,
    MusicAPIStorageError,
    Spent,
)
from musicapi_provider.files import patiently
from musicapi_provider.prompt_table.buyer import Buyer, see_to_record
from musicapi_provider.prompt_table.row import Row, RowState
from musicapi_provider.prompt_table.stored import set_stored
from musicapi_provider.storage import StoredTrack, all_stored
from musicapi_provider.waiting.poller import Poller
from musicapi_provider.waiting.wait import Wait, poll_async

if TYPE_CHECKING:
    from musicapi_provider.api.async_client import MusicAPIAsyncClient
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.api.models import Track
    from musicapi_provider.prompt_table.buyer import TableSettings
    from musicapi_provider.storage import TrackStore

log = logging.getLogger(__name__)

#: Seconds without any music task ending after which a run is handed to the triggerer. A deferral and a resume
#: cost about as much (``airflow-notes.md``), so short music tasks are waited for here.
LINGER = 10.0
#: Rows in a row whose tracks could not be stored, after which nothing more is bought: what cannot be had need
#: not be paid for.
UNSTORED_IN_A_ROW = 8
#: Seconds after which a download that has been repeated without success is tried again; a media host may be
#: away for longer than a download's own tries.
MEDIA_PAUSES = (10.0, 30.0)
#: Seconds between lines of progress.
PROGRESS_EVERY = 60.0


class TableRun:
    """
    Work off the rows of a plan; they are updated in place.

    :param client: Buys, in a thread.
    :param store: Stores, in threads: as many as its ``concurrency``.
    """

    def __init__(
        self, plan: Sequence[Row], settings: TableSettings, client: MusicAPIClient, store: TrackStore
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.buyer = Buyer(plan, settings, client)
        self.store = store
        self._active: dict[asyncio.Task[None], Row] = {}
        self._storing = 0
        self._unstored_in_a_row = 0
        self._logged_at = time.monotonic()
        self._logged = ""

    @property
    def in_flight(self) -> list[Row]:
        """The rows that are bought and may still become tracks in this try."""
        return [row for row in self.plan if row.is_in_flight]

    @property
    def to_buy(self) -> int:
        """How many rows are still to be bought in this try."""
        return self.buyer.to_buy

    @property
    def stopped(self) -> MusicAPIError | None:
        """Why nothing more is bought."""
        return self.buyer.stopped

    def stop(self, error: MusicAPIError) -> None:
        """Buy nothing more in this try; what is bought is still stored."""
        self.buyer.stop(error)

    def wait_of(self, row: Row) -> tuple[float, float]:
        """Return when a music task's wait began, in epoch seconds, and how many seconds it may take."""
        since = row.submitted_time
        return since, self.settings.timeout + max(self.settings.started - since, 0.0)

    async def run(
        self, async_client: MusicAPIAsyncClient, *, hand_over: bool, poll_first: frozenset[str] | None = None
    ) -> None:
        """
        Work until nothing is left to do, or only waiting is.

        :param async_client: Polls; it is closed at the end.
        :param hand_over: Return when nothing ends for :data:`LINGER`, with music tasks still in flight.
        :param poll_first: Music tasks to poll at once; ``None``: all that are in flight.
        """
        self._loop = asyncio.get_running_loop()
        self._poller = Poller(async_client)
        self._storers = ThreadPoolExecutor(self.store.concurrency, thread_name_prefix="musicapi-store")
        try:
            for row in self.in_flight:
                self._follow(row, at_once=poll_first is None or row.music_task_id in poll_first)
            await self._work(hand_over=hand_over)
            self.buyer.leave_the_rest()  # also when handed over: whoever resumes must not begin again
        finally:
            for task in self._active:
                task.cancel()
            await asyncio.gather(*self._active, return_exceptions=True)
            await self._poller.close()
            self.buyer.close()
            self._storers.shutdown()  # a download that is under way ends first

    async def _work(self, *, hand_over: bool) -> None:
        while True:
            self._log_progress()
            if self.to_buy and len(self._active) < self.settings.max_in_flight:
                if (pause := self.buyer.seconds_to_turn) > 0:
                    await self._something_ends(min(pause, LINGER))
                elif found := await self.buyer.buy_next():
                    row, is_new = found
                    self._follow(row, at_once=not is_new)
            elif self._active:
                ended = await self._something_ends(LINGER)
                if not ended and hand_over and not self._storing:
                    return
            else:
                return

    # -- waiting and storing ---------------------------------------------------------------------------------

    def _follow(self, row: Row, *, at_once: bool) -> None:
        task = self._loop.create_task(self._collect(row, at_once=at_once))
        self._active[task] = row

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

    async def _collect(self, row: Row, *, at_once: bool) -> None:
        """Wait for a music task and store its tracks."""
        since, timeout = self.wait_of(row)
        wait = Wait([str(row.music_task_id)], timeout, since, quiet=True)
        try:
            tracks = None
            while tracks is None:
                await self._poller.wait(wait, poll_interval=self.settings.poll_interval, at_once=at_once)
                # Time is over; it may have ended since the last poll, as in a long queue.
                await poll_async(self._poller.client, wait, retry=True)
                tracks = wait.tracks(fail_on_partial=self.settings.fail_on_partial)
            self._storing += 1
            try:
                await self._store_in_thread(row, tracks)
            finally:
                self._storing -= 1
            self._unstored_in_a_row = 0
        except MusicAPIError as error:
            self._not_collected(row, error)

    async def _store_in_thread(self, row: Row, tracks: Sequence[Track]) -> None:
        for pause in MEDIA_PAUSES:
            try:
                return await self._loop.run_in_executor(self._storers, self._store, row, tracks)
            except MusicAPIStorageError as error:
                log.warning("%s: %s Again in %.0f s.", row.prompt_id, error.message, pause)
                await asyncio.sleep(pause)
        return await self._loop.run_in_executor(self._storers, self._store, row, tracks)

    def _store(self, row: Row, tracks: Sequence[Track]) -> None:
        about = replace(
            self.settings.about,
            prompt_id=row.prompt_id,
            body=dict(row.body),
            fingerprint=row.fingerprint,
            submitted_at=row.submitted_at,
            credits=row.credits,
        )
        stored = store_each(tracks, lambda track: patiently(lambda: self.store.store(track, about)))
        file = self.settings.file_of(row)
        patiently(lambda: see_to_record(file, row, self.settings.generation))
        patiently(lambda: set_stored(file, row.music_task_id, stored))
        row.set_stored(stored)

    def _not_collected(self, row: Row, error: MusicAPIError) -> None:
        if error.spent is Spent.REFUNDED:
            self.buyer.refunded(row, error)
        else:
            # A retry of the task would double the time of what is out of it.
            row.give_up(error, retryable=not isinstance(error, MusicAPIDeadlineError) and error.retryable)
            if isinstance(error, (MusicAPIStorageError, MusicAPINotSentError)):
                self._unstored_in_a_row += 1
                if self._unstored_in_a_row >= UNSTORED_IN_A_ROW:
                    self.stop(error)
            if self._poller.failure is not None:  # it has told all who wait
                self.stop(self._poller.failure)

    # -- progress --------------------------------------------------------------------------------------------

    def _log_progress(self) -> None:
        """Log how far the table is, when a line is due and says something new."""
        now = time.monotonic()
        if now - self._logged_at < PROGRESS_EVERY:
            return
        self._logged_at = now
        if (line := self.progress()) != self._logged:
            log.info("%s", line)
            self._logged = line

    def progress(self) -> str:
        """Return how far the table is, and about how long the rest takes."""
        stored = sum(row.state is RowState.STORED for row in self.plan)
        failed = sum(bool(row.error) for row in self.plan)
        parts = [f"{stored} of {len(self.plan)} rows stored", f"{len(self._active)} in flight"]
        parts += [f"{self.to_buy} to buy"] if self.to_buy else []
        parts += [f"{failed} without tracks"] if failed else []
        return ", ".join(parts) + f"; about {_rounded(self._seconds_left())} left"

    def _seconds_left(self) -> float:
        """Estimate: the creates that are left at their pace, and the last music task's own time."""
        median = self._poller.experience.expectation.median
        return self.to_buy * max(1 / self.buyer.pace.current, median / self.settings.max_in_flight) + median


def store_each(tracks: Sequence[Track], store: Callable[[Track], StoredTrack]) -> list[StoredTrack]:
    """
    Store every track that can be stored, then fail if one could not.

    :raises MusicAPIStorageError: names every track that is missing, and why.
    """
    outcomes: list[StoredTrack | Exception] = []
    for track in tracks:
        try:
            outcomes.append(store(track))
        except MusicAPIStorageError as error:
            outcomes.append(error)
    return all_stored(outcomes)


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
