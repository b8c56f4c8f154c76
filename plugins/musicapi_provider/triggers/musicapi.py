"""
The trigger: wait for music tasks in the triggerer, without a worker slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from musicapi_provider import exceptions
from musicapi_provider.exceptions import MusicAPIError, MusicAPITriggerEventError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.waiting import Wait, doubts_from, look_async

if TYPE_CHECKING:
    from musicapi_provider.async_client import MusicAPIAsyncClient

#: The closed set of event statuses: worth looking at, out of time, refused (``error`` names the class).
STATUSES = frozenset({"finished", "timeout", "error"})


class MusicAPITaskTrigger(BaseTrigger):
    """
    Yield one event when all music tasks are final, when time is over, or when the API refuses to tell.

    The event is small and a hint only: whoever resumes looks at the music tasks once more, so that every
    mode judges by the same code and URLs are fresh. It carries neither key nor tracks.

    :param music_task_ids: Music tasks to wait for.
    :param musicapi_conn_id: Airflow connection, looked up in the triggerer; the key is never serialized.
    :param timeout: Seconds to wait, from ``started`` on.
    :param started: Epoch seconds at which the wait began. Wall-clock, because triggers are stored and may go
        on in another process.
    :param first_look_time: Epoch seconds before which nothing is looked at and no event is yielded: an early
        event meets Airflow's deferral race (``airflow-notes.md``).
    :param poll_interval: Seconds between looks; ``None``: the connection's, else adaptive.
    :param doubts: Epoch seconds since which an id's answers are doubtful, from earlier looks.
    """

    def __init__(
        self,
        music_task_ids: Sequence[str],
        musicapi_conn_id: str,
        timeout: float,
        started: float,
        first_look_time: float,
        poll_interval: float | None = None,
        doubts: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.music_task_ids = list(music_task_ids)
        self.musicapi_conn_id = musicapi_conn_id
        self.timeout = timeout
        self.started = started
        self.first_look_time = first_look_time
        self.poll_interval = poll_interval
        self.doubts = dict(doubts or {})

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments: ids and settings, never a key or a header."""
        names = ("music_task_ids", "musicapi_conn_id", "timeout", "started", "first_look_time")
        arguments = {name: getattr(self, name) for name in (*names, "poll_interval", "doubts")}
        return "musicapi_provider.triggers.musicapi.MusicAPITaskTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, look, wait; yield exactly one event of :data:`STATUSES`."""
        wait = Wait(self.music_task_ids, self.timeout, self.started, self.doubts)
        hook = MusicAPIHook(self.musicapi_conn_id)
        try:
            event = {"status": await self._wait(hook, wait)}
        except MusicAPIError as error:
            event = {"status": "error", "error": type(error).__name__, "message": str(error)}
        finally:
            await hook.aclose()
        await asyncio.sleep(max(0.0, self.first_look_time - time.time()))
        # The event says what it is about: dag.test() drops the arguments that a deferral passes along.
        about = {"music_task_ids": self.music_task_ids, "started": self.started, "doubts": wait.doubts}
        yield TriggerEvent({**event, **about})

    async def _wait(self, hook: MusicAPIHook, wait: Wait) -> str:
        while wait.seconds_left > 0:
            client = await self._client(hook)
            interval = self.poll_interval
            if interval is None and client is not None:
                interval = client.settings.poll_interval
            # Waiting comes before looking: the operator has just looked.
            delay = max(wait.delay(interval), self.first_look_time - time.time())
            await asyncio.sleep(min(delay, max(wait.seconds_left, 0.0)))
            if client is None:
                continue
            await look_async(client, wait)
            if not wait.pending:
                return "finished"
            wait.log_progress()
        return "timeout"

    async def _client(self, hook: MusicAPIHook) -> MusicAPIAsyncClient | None:
        """Return the client, or ``None`` while the connection cannot be read."""
        try:
            return await hook.aclient()
        except MusicAPIError:
            raise
        except Exception as error:  # noqa: BLE001 - an API server or secrets backend that is away comes back
            self.log.warning("Cannot read connection %s now: %s", self.musicapi_conn_id, error)
            return None

    async def on_kill(self) -> None:
        """
        Say what stays behind when a user ends the waiting task.

        The API has no cancel call, so nothing is cancelled. Airflow also calls this when something else has
        resumed the task, so it must not act on the music task.
        """
        self.log.warning(
            "No longer waiting for music task(s) %s. They go on at the API, which has no cancel call, and "
            "their credits stay spent; clear the task to collect the tracks.",
            ", ".join(self.music_task_ids),
        )


def wait_from(event: Any, *, timeout: float) -> Wait:
    """
    Return the wait that an event of :class:`MusicAPITaskTrigger` is about.

    :raises MusicAPITriggerEventError: an event outside the closed set, also ``None``.
    """
    if isinstance(event, dict) and str(event.get("status")) in STATUSES:
        ids, started = event.get("music_task_ids"), event.get("started")
        if isinstance(ids, list) and ids and isinstance(started, (int, float)):
            return Wait(ids, timeout, started, doubts_from(event.get("doubts")))
    raise MusicAPITriggerEventError(f"The trigger sent an unknown event: {event!r}.")


def error_from(event: Mapping[str, Any]) -> MusicAPIError | None:
    """Return the error that an event carries, of the class that the trigger met."""
    if event.get("status") != "error":
        return None
    error_class = getattr(exceptions, str(event.get("error")), MusicAPIError)
    if not (isinstance(error_class, type) and issubclass(error_class, MusicAPIError)):
        error_class = MusicAPIError
    text = f"In the triggerer: {event.get('message')}"
    return error_class(text, spent=exceptions.Spent.NO_EFFECT, next_step="")
