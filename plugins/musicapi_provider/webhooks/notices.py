"""
What waiting tasks are told by webhooks; implements :class:`musicapi_provider.waiting.notices.Notices`.

A task leaves XComs by which a callback finds it; a callback leaves XComs for a task that it cannot wake yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk.execution_time.xcom import XCom

from musicapi_provider.links.place import Place
from musicapi_provider.waiting.notices import Notices
from musicapi_provider.webhooks.addresses import MOST_EXPECTED, called_key, waits_for_key
from musicapi_provider.webhooks.expectation import Callbacks, expected_webhook, required_webhook

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.api.settings import ClientSettings, WebhookSettings
    from musicapi_provider.links.place import HasPlace
    from musicapi_provider.waiting.wait import Wait
    from musicapi_provider.webhooks.triggers import MusicAPICallbackTrigger

log = logging.getLogger(__name__)

#: Seconds between polls into the task state for a callback, where nothing defers.
CALLBACK_PAUSE = 5.0
#: Seconds for which a callback about a lost answer is waited for, at least: as long as songs take (facts 9).
CALLBACK_PATIENCE = 600.0


class WebhookNotices(Notices):
    """
    The notices of one connection.

    :param wanted: What the task says; ``None``: as the connection says.
    """

    def __init__(self, settings: ClientSettings, wanted: bool | None, conn_id: str) -> None:
        self._settings = settings
        self._wanted = wanted
        self._conn_id = conn_id

    @cached_property
    def _webhook(self) -> WebhookSettings | None:
        return expected_webhook(self._settings, self._wanted, self._conn_id)

    # -- waits -----------------------------------------------------------------------------------------------

    def poll_interval(self, music_task_ids: Sequence[str], *, begun: bool = True) -> float | None:
        """Return the seconds between polls; of several, a worker must have polled which are done."""
        most = MOST_EXPECTED if begun else 1
        return self._webhook.poll_interval if self._webhook and len(music_task_ids) <= most else None

    def announce(self, context: Context, wait: Wait) -> None:
        """Leave an XCom for each music task, by which its callback finds this task."""
        if self.poll_interval(wait.music_task_ids) is not None:
            for music_task_id in wait.music_task_ids:
                context["ti"].xcom_push(key=waits_for_key(music_task_id), value=_about(wait))

    def withdraw(self, context: Context, music_task_ids: Iterable[str]) -> None:
        """Note, in place of their callbacks, that these are done."""
        for music_task_id in music_task_ids:
            context["ti"].xcom_push(key=called_key(music_task_id), value=True)

    async def announce_here(self, ti: HasPlace, wait: Wait) -> None:
        """Leave the XComs that a worker leaves in :meth:`announce`."""
        try:
            for music_task_id in wait.music_task_ids:
                await XCom.aset(
                    key=waits_for_key(music_task_id), value=_about(wait), **Place.of(ti)._asdict()
                )
        except Exception as error:  # noqa: BLE001 - a paid wait must not end by that; it is polled as well
            log.warning("Callbacks will not find this wait: %s", error)

    async def have_come(self, ti: HasPlace, music_task_ids: Sequence[str]) -> bool:
        """Tell whether callbacks have come for all of these."""
        from musicapi_provider.webhooks.triggers import were_called

        return await were_called(ti, music_task_ids)

    # -- purchases -------------------------------------------------------------------------------------------

    def callbacks(self, context: Context) -> Callbacks:
        """Return the callbacks of this task's purchases; impossible ones are refused when it buys."""
        return Callbacks(
            context,
            self._conn_id,
            lambda: required_webhook(self._settings, self._wanted, self._conn_id),
        )

    def patience(self, timeout: float) -> float:
        """Return as long as the tracks may take."""
        return max(timeout, CALLBACK_PATIENCE)

    def await_name(self, context: Context, token: str, until: float) -> None:
        """Look into the task state again and again."""
        callbacks = self.callbacks(context)
        while callbacks.music_task_of(token) is None and (left := until - time.time()) > 0:
            time.sleep(min(left, CALLBACK_PAUSE))

    def naming_trigger(self, token: str, until: float, first_poll_time: float) -> MusicAPICallbackTrigger:
        """Return the trigger that a callback resumes the task from."""
        from musicapi_provider.webhooks.triggers import MusicAPICallbackTrigger

        return MusicAPICallbackTrigger(token, until, first_poll_time)


def _about(wait: Wait) -> dict[str, object]:
    return {"music_task_ids": list(wait.music_task_ids), "started": wait.started}
