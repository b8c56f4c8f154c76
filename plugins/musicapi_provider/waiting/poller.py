"""
Wait for thousands of music tasks with one session, one pace and one pause.

All waiters of one connection in one event loop share a :class:`Poller`: a heap of due polls, and as many
worker coroutines as there are connections. A waiter with nothing to do costs a future and a heap entry.
No Airflow in here.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from musicapi_provider.api.verdict import State
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPICreditsError,
    MusicAPIError,
    Spent,
)
from musicapi_provider.waiting.pace import Pace
from musicapi_provider.waiting.schedule import Expectation, Experience, next_delay
from musicapi_provider.waiting.wait import MIN_PAUSE, Wait, answer_about_async

if TYPE_CHECKING:
    from musicapi_provider.api.async_client import MusicAPIAsyncClient

log = logging.getLogger(__name__)

#: Errors that every waiter of the connection would meet; any other is of the music task that met it.
OF_THE_ACCOUNT = (MusicAPIAuthError, MusicAPICreditsError, MusicAPIConfigurationError)
#: Seconds after which a waiter reads the wall clock again: it may jump, and machines sleep.
CLOCK_CHECK = 60.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """One wait for one or more music tasks; its outcome is set when all are final, or by an error."""

    wait: Wait
    poll_interval: float | None
    expectation: Expectation
    outcome: asyncio.Future[None]
    left: int

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


@dataclass(slots=True, eq=False)
class _Poll:
    """The next poll of one music task; a heap orders polls by due time."""

    id: str
    waiter: _Waiter
    #: Loop time.
    due: float = 0.0
    #: Age in seconds at which it was last seen running; 0: never.
    seen: float = 0.0

    def __lt__(self, other: _Poll) -> bool:
        return self.due < other.due


class Poller:
    """
    Poll the music tasks of all waiters, each when its time has come.

    :param client: One session for all; it is closed with the poller.
    :param experience: What finished music tasks have taught so far; it goes on learning here.
    """

    def __init__(self, client: MusicAPIAsyncClient, *, experience: Experience | None = None) -> None:
        self.client = client
        self.pace = Pace(client.settings.polls_per_second, "polls of music tasks")
        self.experience = experience or Experience()
        #: Why every waiter was ended; the poller is of no use any more.
        self.failure: MusicAPIError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiters: set[_Waiter] = set()
        self._queue: list[_Poll] = []
        self._sooner = asyncio.Event()
        self._turnstile = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []

    async def wait(
        self,
        wait: Wait,
        *,
        poll_interval: float | None = None,
        first_poll: float = 0.0,
        at_once: bool = False,
    ) -> Literal["finished", "timeout"]:
        """
        Wait until every music task is final, or until the time is over.

        Waiting comes before polling, because the caller has just polled (else ``at_once``); and nothing is
        polled when the time is over, because the caller polls once more then.

        :param wait: It learns the verdicts. Cancelling ends the wait at once.
        :param poll_interval: Seconds between polls; ``None``: the connection's, else adaptive.
        :param first_poll: Epoch seconds before which nothing is polled.
        :param at_once: Nobody has polled yet: poll as soon as the pace allows.
        :raises MusicAPIError: What concerns the account, such as a revoked key, or a poller that broke down.
        """
        if self.failure:
            raise self.failure.but()
        if not (pending := wait.pending):
            return "finished"
        if poll_interval is None:
            poll_interval = self.client.settings.poll_interval
        expectation = self.experience.expectation
        waiter = _Waiter(wait, poll_interval, expectation, self._loop.create_future(), len(pending))
        self._waiters.add(waiter)
        try:
            for id_ in pending:
                delay = 0.0 if at_once else self._delay(waiter)
                self._push(_Poll(id_, waiter), max(delay, first_poll - time.time()))
            self._start()
            return await self._follow(waiter)
        finally:
            self._waiters.discard(waiter)
            waiter.outcome.cancel()  # polls of a waiter with an outcome are dropped from the queue

    async def close(self) -> None:
        """End the workers and close the session; waiters that are left get an error."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self._end(MusicAPIError("The shared poller was closed.", spent=Spent.NO_EFFECT))
        await self.client.close()

    # -- the waiter's side -----------------------------------------------------------------------------------

    async def _follow(self, waiter: _Waiter) -> Literal["finished", "timeout"]:
        """Sleep until the outcome is there or the wall clock says that time is over; tell of progress."""
        wait = waiter.wait
        while (left := wait.seconds_left) > 0 and not waiter.outcome.done():
            pause = min(left, CLOCK_CHECK, wait.seconds_to_line)
            await asyncio.wait([waiter.outcome], timeout=max(pause, MIN_PAUSE))
            if not waiter.outcome.done():
                wait.log_progress(self._seconds_to_poll(waiter))
        if not waiter.outcome.done():
            return "timeout"
        waiter.outcome.result()
        return "finished"

    def _seconds_to_poll(self, waiter: _Waiter) -> float:
        due = min((poll.due for poll in self._queue if poll.waiter is waiter), default=0.0)
        return max(max(due, self.pace.next_at) - self._loop.time(), 0.0)

    # -- the workers' side -----------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._workers:
            for _ in range(self.client.connections):
                # An empty context: workers serve all waiters and must not log as the first of them.
                worker = self._loop.create_task(self._work(), context=contextvars.Context())
                worker.add_done_callback(self._worker_ended)
                self._workers.append(worker)

    async def _work(self) -> None:
        while True:
            async with self._turnstile:
                poll = await self._next()
            try:
                await self._poll(poll)
            except Exception as error:  # noqa: BLE001 - whatever one answer does, other waiters go on
                poll.waiter.fail(_broken(error))

    async def _next(self) -> _Poll:
        """Return the next poll when it is due, the pace allows it, and somebody still waits for it."""
        while True:
            self._sooner.clear()
            while self._queue and self._queue[0].waiter.outcome.done():
                heapq.heappop(self._queue)
            now, pause = self._loop.time(), None
            if self._queue:
                pause = max(self._queue[0].due, self.pace.next_at) - now
                if pause <= 0:
                    self.pace.take(now)
                    return heapq.heappop(self._queue)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._sooner.wait()

    async def _poll(self, poll: _Poll) -> None:
        waiter, wait = poll.waiter, poll.waiter.wait
        answer = await answer_about_async(self.client, poll.id)
        self.pace.heed(answer, self._loop.time())
        if waiter.outcome.done():
            return
        try:
            wait.learn(poll.id, answer, allow_http=self.client.settings.allow_http_audio)
        except OF_THE_ACCOUNT as error:
            self._end(error)
        except MusicAPIError as error:
            waiter.fail(error)
        else:
            if wait.verdicts[poll.id].is_final:
                self._finish(poll)
            else:
                poll.seen = poll.seen if isinstance(answer, MusicAPIError) else wait.age
                self._push(poll, self._delay(waiter))

    def _finish(self, poll: _Poll) -> None:
        waiter, state = poll.waiter, poll.waiter.wait.verdicts[poll.id].state
        if state is not State.FAILED:  # failures come early or very late
            self.experience.finished(poll.seen, waiter.wait.age)
        waiter.left -= 1
        if not waiter.left:
            waiter.outcome.set_result(None)

    def _delay(self, waiter: _Waiter) -> float:
        interval, expectation = waiter.poll_interval, waiter.expectation
        delay = next_delay(waiter.wait.age, poll_interval=interval, expectation=expectation)
        return max(delay, MIN_PAUSE)

    def _push(self, poll: _Poll, delay: float) -> None:
        poll.due = self._loop.time() + delay
        heapq.heappush(self._queue, poll)
        if self._queue[0] is poll:
            self._sooner.set()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Tell all waiters when a worker ends before the poller is closed: nobody may wait for nothing."""
        if worker in self._workers:
            cancelled = asyncio.CancelledError("its worker was cancelled")
            self._end(_broken(cancelled if worker.cancelled() else worker.exception() or cancelled))

    def _end(self, error: MusicAPIError) -> None:
        """End every waiter with this error."""
        self.failure = self.failure or error
        for waiter in self._waiters:
            # Tracebacks and notes of one waiter are none of another's, nor is a music task.
            own = error.music_task_id in waiter.wait.verdicts
            waiter.fail(error.but(music_task_id=error.music_task_id if own else None))


def _broken(error: BaseException) -> MusicAPIError:
    failure = MusicAPIError(
        f"The shared poller failed ({type(error).__name__}: {error}).",
        spent=Spent.NO_EFFECT,
        next_step="clear the task: it polls the music task again, nothing is bought by that.",
    )
    failure.__cause__ = error
    return failure


# -- who shares ----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Shared:
    """A poller, or the making of one, and how many use it."""

    making: asyncio.Future[Poller]
    users: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether the next one needs another: the connection could not be read, or its key was refused."""
        if not self.making.done():
            return False
        return self.making.cancelled() or bool(self.making.exception() or self.making.result().failure)

    async def close(self) -> None:
        self.making.cancel()
        (poller,) = await asyncio.gather(self.making, return_exceptions=True)
        if isinstance(poller, Poller):
            await poller.close()


#: Pollers in use, by event loop and key.
_shared: dict[tuple[asyncio.AbstractEventLoop, Hashable], _Shared] = {}
#: What finished music tasks have taught, by key: it outlives a moment without waiters.
_experiences: dict[Hashable, Experience] = {}


@asynccontextmanager
async def shared_poller(
    key: Hashable, make_client: Callable[[], Awaitable[MusicAPIAsyncClient]]
) -> AsyncIterator[Poller]:
    """
    Lend the poller that everybody with this key in this event loop uses; the last one to leave closes it.

    :param key: What tells connections apart, such as the connection id.
    :param make_client: Called once for all who share, by the first of them. When it fails, all who wait for
        it get its error, and the next one tries again; likewise after an error of the account, such as a 401.
    """
    place = (asyncio.get_running_loop(), key)
    for other in [other for other in _shared if other[0].is_closed()]:  # loops that were abandoned
        del _shared[other]
    shared = _shared.get(place)
    if shared is None or shared.is_spent:
        shared = _shared[place] = _Shared(asyncio.ensure_future(_make(key, make_client)))
    shared.users += 1
    try:
        yield await asyncio.shield(shared.making)  # cancelling one must not take the client from the others
    finally:
        shared.users -= 1
        if not shared.users:
            if _shared.get(place) is shared:
                del _shared[place]
            await asyncio.shield(asyncio.ensure_future(shared.close()))


async def _make(key: Hashable, make_client: Callable[[], Awaitable[MusicAPIAsyncClient]]) -> Poller:
    client = await make_client()
    return Poller(client, experience=_experiences.setdefault(key, Experience()))
