"""
The trigger of a prompt table: one for all music tasks that are in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from airflow.triggers.base import BaseTrigger, TriggerEvent

from musicapi_provider.exceptions import MusicAPIError, MusicAPITriggerEventError
from musicapi_provider.triggers.musicapi import enter_poller
from musicapi_provider.waiting.wait import Wait

if TYPE_CHECKING:
    from musicapi_provider.waiting.poller import Poller

#: The closed set of event statuses: some music tasks may be final; the API refuses to tell anything.
STATUSES = frozenset({"finished", "error"})


class TableTry(TypedDict):
    """Which try of which table is waited for: its manifest's name, and when it began (epoch seconds)."""

    manifest: str
    started: float


class TableEvent(TypedDict):
    """What the trigger yields; ``message`` says what went wrong."""

    status: str
    about: TableTry
    finished: NotRequired[list[str]]
    error: NotRequired[str]
    message: NotRequired[str]


class MusicAPIPromptTableTrigger(BaseTrigger):
    """
    Yield one event when enough music tasks are final, so that their tracks can be stored.

    The event is a hint: whoever resumes polls again. It carries ids and the manifest's name, neither key nor
    tracks.

    :param waits: Music task id -> when its wait began (epoch seconds) and how long it may take (seconds).
    :param musicapi_conn_id: Airflow connection, looked up in the triggerer; the key is never serialized.
    :param about: What the resumed task must know; returned in the event, since ``dag.test()`` drops the
        arguments of a deferral.
    :param enough: Finished music tasks that end the wait at once.
    :param collect_time: Epoch seconds from which on a single one is enough: results are stored while others
        still run.
    :param first_poll_time: Epoch seconds before which nothing is polled and no event is yielded: an early
        event meets Airflow's deferral race (``airflow-notes.md``).
    :param poll_interval: Seconds between polls; ``None``: the connection's, else adaptive.
    """

    def __init__(
        self,
        waits: Mapping[str, tuple[float, float]],
        musicapi_conn_id: str,
        about: TableTry,
        enough: int,
        collect_time: float,
        first_poll_time: float = 0.0,
        poll_interval: float | None = None,
    ) -> None:
        super().__init__()
        self.waits = {id_: (float(wait[0]), float(wait[1])) for id_, wait in waits.items()}
        self.musicapi_conn_id = musicapi_conn_id
        self.about = about
        self.enough = enough
        self.collect_time = collect_time
        self.first_poll_time = first_poll_time
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return class path and arguments: about 60 bytes a music task, never a key or a header."""
        names = ("musicapi_conn_id", "about", "enough", "collect_time", "first_poll_time", "poll_interval")
        waits = {id_: list(wait) for id_, wait in self.waits.items()}
        arguments = {"waits": waits, **{name: getattr(self, name) for name in names}}
        return "musicapi_provider.triggers.prompt_table.MusicAPIPromptTableTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for all of them at once; yield exactly one event."""
        try:
            finished = await self._finished()
            event: TableEvent = {"status": "finished", "finished": finished, "about": self.about}
        except MusicAPIError as error:
            event = {
                "status": "error",
                "about": self.about,
                "error": type(error).__name__,
                "message": str(error),
            }
        await asyncio.sleep(max(0.0, self.first_poll_time - time.time()))
        yield TriggerEvent(event)

    async def _finished(self) -> list[str]:
        """Return the ids that are final or out of time, once they are enough."""
        last = max(since + timeout for since, timeout in self.waits.values())
        async with AsyncExitStack() as stack:
            poller = await enter_poller(stack, self.musicapi_conn_id, until=last)
            if poller is None:
                return []
            waiting = {asyncio.create_task(self._wait(poller, id_)): id_ for id_ in self.waits}
            try:
                return await self._enough_of(waiting)
            finally:
                for wait in waiting:
                    wait.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    async def _wait(self, poller: Poller, id_: str) -> None:
        since, timeout = self.waits[id_]
        wait = Wait([id_], timeout, since, quiet=True)
        await poller.wait(wait, poll_interval=self.poll_interval, first_poll=self.first_poll_time)

    async def _enough_of(self, waiting: Mapping[asyncio.Task[None], str]) -> list[str]:
        finished: list[str] = []
        pending = set(waiting)
        while pending and len(finished) < self.enough and not (finished and self._seconds_to_collect <= 0):
            pause = self._seconds_to_collect if finished else None
            done, pending = await asyncio.wait(pending, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
                finished.append(waiting[wait])
        return finished

    @property
    def _seconds_to_collect(self) -> float:
        return self.collect_time - time.time()

    async def on_kill(self) -> None:
        """Say what stays behind; nothing is cancelled, the API has no cancel call."""
        self.log.warning(
            "No longer waiting for %d music tasks. They go on at the API and their credits stay spent; clear "
            "the task to collect their tracks.",
            len(self.waits),
        )


def event_from(event: object) -> TableEvent:
    """
    Return an event of :class:`MusicAPIPromptTableTrigger`, checked.

    :raises MusicAPITriggerEventError: an event outside the closed set, also ``None``.
    """
    if isinstance(event, dict) and str(event.get("status")) in STATUSES:
        about, finished = event.get("about"), event.get("finished", [])
        if isinstance(about, dict) and isinstance(finished, list):
            name, started = about.get("manifest"), about.get("started")
            if isinstance(name, str) and isinstance(started, (int, float)):
                return cast("TableEvent", {**event, "about": dict(about)})
    raise MusicAPITriggerEventError(f"The trigger sent an unknown event: {event!r}.")
