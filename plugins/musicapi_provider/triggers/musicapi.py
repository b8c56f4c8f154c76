"""
The trigger: wait for music tasks in the triggerer, without a worker slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.hooks.notices import implementation, notices_of
from musicapi_provider.triggers import worker_free
from musicapi_provider.triggers.events import BEGIN, event_about
from musicapi_provider.waiting.ids import checked_ids
from musicapi_provider.waiting.poller import shared_poller
from musicapi_provider.waiting.wait import Wait

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

    from musicapi_provider.api.async_client import MusicAPIAsyncClient
    from musicapi_provider.waiting.notices import Notices
    from musicapi_provider.waiting.poller import Poller
    from musicapi_provider.waiting.wait import Doubt

log = logging.getLogger(__name__)
implementation()  # imported now: triggers share an event loop

#: Seconds between tries to read the connection while the API server or a secrets backend is away.
CONNECTION_PAUSE = 5.0


class MusicAPITaskTrigger(BaseTrigger):
    """
    Yield one event when all music tasks are final, when time is over, or when the API refuses to tell.

    The event is small and a hint only: whoever resumes polls the music tasks once more, so that every
    mode judges by the same code and URLs are fresh. It carries neither key nor tracks. With ``ends_here``
    success needs nobody to resume: the result goes to XCom and the task is done.

    All triggers of a connection in one triggerer share a poller: one session, one pace, one pause when the
    API asks for it (:mod:`musicapi_provider.waiting.poller`).

    :param music_task_ids: Music tasks to wait for.
    :param musicapi_conn_id: Airflow connection, looked up in the triggerer; the key is never serialized.
    :param timeout: Seconds to wait, from ``started`` on.
    :param started: Epoch seconds at which the wait began. Wall-clock, because triggers are stored and may go
        on in another process. ``None``: it begins here, and XCom remembers when.
    :param first_poll_time: Epoch seconds before which nothing is polled and no event is yielded: an early
        event meets Airflow's deferral race (``airflow-notes.md``).
    :param poll_interval: Seconds between polls; ``None``: the connection's, else adaptive.
    :param doubts: Since when an id's answers are doubtful, from earlier polls.
    :param source: The upstream task whose XCom holds the ids, when no worker has read it.
    :param ends_here: End the task here when it succeeds.
    :param fail_on_partial: As the sensor's.
    :param include_lyrics: As the sensor's.
    :param webhook: Notices are expected when the music tasks are done, so they are polled rarely; ``None``:
        as the connection says.
    """

    def __init__(
        self,
        music_task_ids: Sequence[str],
        musicapi_conn_id: str,
        timeout: float,
        started: float | None = None,
        first_poll_time: float = 0.0,
        poll_interval: float | None = None,
        doubts: Mapping[str, Doubt] | None = None,
        source: Mapping[str, str] | None = None,
        ends_here: bool = False,
        fail_on_partial: bool = False,
        include_lyrics: bool = False,
        webhook: bool | None = None,
    ) -> None:
        super().__init__()
        self.music_task_ids = list(music_task_ids)
        self.musicapi_conn_id = musicapi_conn_id
        self.timeout = timeout
        self.started = started
        self.first_poll_time = first_poll_time
        self.poll_interval = poll_interval
        self.doubts = dict(doubts or {})
        self.source = source
        self.ends_here = ends_here
        self.fail_on_partial = fail_on_partial
        self.include_lyrics = include_lyrics
        self.webhook = webhook

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return class path and arguments: ids and settings, never a key or a header."""
        names = (
            *("music_task_ids", "musicapi_conn_id", "timeout", "started", "first_poll_time", "poll_interval"),
            *("doubts", "source", "ends_here", "fail_on_partial", "include_lyrics", "webhook"),
        )
        arguments = {name: getattr(self, name) for name in names}
        return "musicapi_provider.triggers.musicapi.MusicAPITaskTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, poll, wait; yield exactly one event."""
        try:
            wait = await self._begin()
        except Exception as error:  # noqa: BLE001 - a worker meets the same, and says it as workers do
            self.log.warning("This wait begins on a worker: %s", error)
            yield TriggerEvent(dict(BEGIN))
            return
        event = await self._outcome(wait)
        await asyncio.sleep(max(0.0, self.first_poll_time - time.time()))
        if event["status"] == "finished" and await self._ended(wait):
            yield TaskSuccessEvent()
            return
        yield TriggerEvent(event_about(wait, event))

    async def _begin(self) -> Wait:
        """Return the wait, which a worker has begun unless this task starts in the triggerer."""
        if self.started is not None:
            return Wait(self.music_task_ids, self.timeout, self.started, self.doubts)
        ti = self.task_instance
        if ti is None:
            raise RuntimeError("this triggerer does not tell which task this is")
        ids = self.music_task_ids if self.source is None else await worker_free.ids_from(self.source, ti)
        wait = Wait(checked_ids(ids), self.timeout, await worker_free.started(ti))
        await worker_free.show_music_tasks(wait.music_task_ids, self.musicapi_conn_id, ti)
        return wait

    async def _outcome(self, wait: Wait) -> dict[str, object]:
        try:
            return {"status": await self._wait(wait)}
        except MusicAPIError as error:
            return {"status": "error", "error": type(error).__name__, "message": str(error)}

    async def _wait(self, wait: Wait) -> str:
        async with AsyncExitStack() as stack:
            poller = await enter_poller(stack, self.musicapi_conn_id, until=time.time() + wait.seconds_left)
            if poller is None:
                return "timeout"
            notices = notices_of(poller.client.settings, self.webhook, self.musicapi_conn_id)
            poll_interval, at_once = self.poll_interval, self.started is None  # no worker has polled
            rarely = notices.poll_interval(wait.music_task_ids, begun=self.started is not None)
            if rarely is not None and self.task_instance is not None:
                poll_interval = poll_interval or rarely
                at_once = await self._expect_notices(notices, self.task_instance, wait) or at_once
            return await poller.wait(
                wait, poll_interval=poll_interval, first_poll=self.first_poll_time, at_once=at_once
            )

    async def _expect_notices(self, notices: Notices, ti: TaskInstance, wait: Wait) -> bool:
        """Let notices find this wait, unless a worker has done so; tell whether they have come before."""
        if self.started is None:
            await notices.announce_here(ti, wait)
            return False
        # Not before the scheduler knows that the task is deferred; later notices find it deferred.
        await asyncio.sleep(max(0.0, self.first_poll_time - time.time()))
        return await notices.have_come(ti, wait.music_task_ids)

    async def _ended(self, wait: Wait) -> bool:
        """End the task here if that is wanted and it has succeeded; a worker ends it otherwise."""
        if not self.ends_here or self.task_instance is None:  # dag.test() has no task instance here
            return False
        try:
            tracks = wait.tracks(fail_on_partial=self.fail_on_partial) or []
            result = [track.as_dict(include_lyrics=self.include_lyrics) for track in tracks]
            await worker_free.push_result(result, self.task_instance)
        except Exception as error:  # noqa: BLE001 - a worker polls again, and says it as workers do
            self.log.warning("This wait ends on a worker: %s", error)
            return False
        return True

    async def on_kill(self) -> None:
        """
        Say what stays behind when a user ends the waiting task.

        The API has no cancel call, so nothing is cancelled. Airflow also calls this when something else has
        resumed the task, so it must not act on the music task.
        """
        self.log.warning(
            "No longer waiting here for music task(s) %s: a user has ended the task, or a callback has. They "
            "go on at the API, which has no cancel call, and their credits stay spent; to collect the tracks "
            "of a task that was ended early, clear it.",
            ", ".join(self.music_task_ids),
        )


async def enter_poller(stack: AsyncExitStack, musicapi_conn_id: str, *, until: float) -> Poller | None:
    """
    Lend the connection's shared poller to a stack, as soon as the connection can be read.

    :param until: Epoch seconds after which there is no use in it.
    :return: ``None``: not in time.
    :raises MusicAPIError: the connection is there and unusable.
    """

    async def make_client() -> MusicAPIAsyncClient:
        # Only the first who shares needs a hook; one each would be a third of a waiting track's memory.
        return await MusicAPIHook(musicapi_conn_id).aclient()

    while (left := until - time.time()) > 0:
        try:
            return await stack.enter_async_context(shared_poller(musicapi_conn_id, make_client))
        except MusicAPIError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever keeps the API server or a secrets backend away
            log.warning("Cannot read connection %s now: %s", musicapi_conn_id, error)
            await asyncio.sleep(min(CONNECTION_PAUSE, left))
    return None
