"""
The trigger of a task that waits to hear what became of its create.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from musicapi_provider.api.settings import WEBHOOK_POLL_INTERVAL
from musicapi_provider.triggers.events import BEGIN
from musicapi_provider.webhooks.notices import were_called


class MusicAPICallbackTrigger(BaseTrigger):
    """
    Wait until the API calls about a create whose answer was lost.

    A callback resumes the task by itself; this only ends the wait, and sees a callback that came before the
    task was deferred. Either way a worker begins anew: it finds what was told in the task state.

    :param token: The purchase's.
    :param until: Epoch seconds after which a worker decides what to do without it.
    :param first_look_time: As of :class:`musicapi_provider.triggers.musicapi.MusicAPITaskTrigger`.
    """

    def __init__(self, token: str, until: float, first_look_time: float) -> None:
        super().__init__()
        self.token = token
        self.until = until
        self.first_look_time = first_look_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        arguments = {"token": self.token, "until": self.until, "first_look_time": self.first_look_time}
        return "musicapi_provider.webhooks.triggers.MusicAPICallbackTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: a worker must begin anew."""
        await asyncio.sleep(max(0.0, self.first_look_time - time.time()))
        ti = self.task_instance
        if ti is None or not await were_called(ti, [self.token]):
            left = self.until - time.time()
            await asyncio.sleep(max(0.0, min(left, WEBHOOK_POLL_INTERVAL)))
        yield TriggerEvent(dict(BEGIN))
