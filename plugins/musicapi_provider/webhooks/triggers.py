"""
The trigger of a task that waits to hear what became of its create.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

from musicapi_provider.api.settings import WEBHOOK_POLL_INTERVAL
from musicapi_provider.links.place import Place
from musicapi_provider.triggers.events import BEGIN
from musicapi_provider.webhooks.addresses import called_key

if TYPE_CHECKING:
    from musicapi_provider.links.place import HasPlace

log = logging.getLogger(__name__)


class MusicAPICallbackTrigger(BaseTrigger):
    """
    Wait until the API calls about a create whose answer was lost.

    A callback resumes the task by itself; this only ends the wait, and sees a callback that came before the
    task was deferred. Either way a worker begins anew: it finds what was told in the task state.

    :param token: The purchase's.
    :param until: Epoch seconds after which a worker decides what to do without it.
    :param first_poll_time: As of :class:`musicapi_provider.triggers.musicapi.MusicAPITaskTrigger`.
    """

    def __init__(self, token: str, until: float, first_poll_time: float) -> None:
        super().__init__()
        self.token = token
        self.until = until
        self.first_poll_time = first_poll_time

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return class path and arguments."""
        arguments = {"token": self.token, "until": self.until, "first_poll_time": self.first_poll_time}
        return "musicapi_provider.webhooks.triggers.MusicAPICallbackTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: a worker must begin anew."""
        await asyncio.sleep(max(0.0, self.first_poll_time - time.time()))
        ti = self.task_instance
        if ti is None or not await were_called(ti, [self.token]):
            left = self.until - time.time()
            await asyncio.sleep(max(0.0, min(left, WEBHOOK_POLL_INTERVAL)))
        yield TriggerEvent(dict(BEGIN))


async def were_called(ti: HasPlace, names: Sequence[str]) -> bool:
    """Tell whether callbacks have come for all of these, music tasks or tokens; not, where nobody can say."""
    try:
        for name in names:
            if await XCom.aget_one(key=called_key(name), **Place.of(ti)._asdict()) is None:
                return False
    except Exception as error:  # noqa: BLE001 - a paid wait must not end by that; it is polled as well
        log.warning("It is not known whether the API has called already: %s", error)
        return False
    return True
