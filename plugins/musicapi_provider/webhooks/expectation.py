"""
The worker's side: expect a callback before paying, and find what it has told.

A row in the task state store is there before the create leaves; the receiver fills it. So a create whose
answer is lost is settled by its callback, at whatever hour that comes.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow import __version__ as airflow_version
from airflow.sdk import conf

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.ledgers.task_state import TaskState
from musicapi_provider.purchases import Expected
from musicapi_provider.webhooks.addresses import (
    KNOWN_AIRFLOW,
    MAX_URL,
    callback_key,
    callback_url,
    is_known_airflow,
    new_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from musicapi_provider.api.settings import ClientSettings, WebhookSettings

log = logging.getLogger(__name__)

#: Connection ids that can stand in a URL as they are.
_CONNECTION = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def accepted_connections() -> frozenset[str]:
    """Return the connections for which API servers accept webhooks: ``[musicapi] webhook_connections``."""
    names = conf.get("musicapi", "webhook_connections", fallback="musicapi_default")
    return frozenset(name.strip() for name in str(names).split(",") if name.strip())


def expected_webhook(settings: ClientSettings, wanted: bool | None, conn_id: str) -> WebhookSettings | None:
    """Return how the API will call back, for who waits: what cannot be expected is polled."""
    try:
        return required_webhook(settings, wanted, conn_id)
    except MusicAPIConfigurationError as error:
        log.warning("No call is expected, music tasks are polled: %s", error.message)
        return None


def required_webhook(settings: ClientSettings, wanted: bool | None, conn_id: str) -> WebhookSettings | None:
    """
    Return how the API will call back, for who buys; ``None``: nobody expects it to.

    :param wanted: What the task says; ``None``: as the connection says.
    :raises MusicAPIConfigurationError: wanted, and it cannot work; nothing was sent.
    """
    webhook = settings.webhook
    if not (webhook and webhook.enabled if wanted is None else wanted):
        return None
    if webhook is None or not webhook.is_complete:
        raise MusicAPIConfigurationError(
            f"Webhooks are wanted, and the Airflow connection {conn_id!r} has no webhook_base_url or no "
            "webhook_secret; nothing was sent.",
            next_step="set both in the connection's extra (docs/webhooks.md), or leave webhook out.",
        )
    if not _CONNECTION.fullmatch(conn_id):
        raise MusicAPIConfigurationError(
            f"The id of the Airflow connection {conn_id!r} cannot be part of a webhook's URL; nothing was "
            "sent.",
            next_step="give it an id of letters, digits, _, . and -.",
        )
    if conn_id not in accepted_connections():
        raise MusicAPIConfigurationError(
            f"No API server would accept the webhooks of the Airflow connection {conn_id!r}; nothing was "
            "sent.",
            next_step=f"add it to [musicapi] webhook_connections, which is "
            f"{', '.join(sorted(accepted_connections()))!r}, on API servers, workers and triggerers.",
        )
    if not is_known_airflow(airflow_version):
        log.warning(
            "Webhooks are off: this version of the provider knows the tables of Airflow %s, and this is "
            "Airflow %s. Music tasks are polled.",
            *(", ".join(KNOWN_AIRFLOW), airflow_version),
        )
        return None
    return webhook


class Callbacks:
    """
    The callbacks of the purchases of one Airflow task; see :class:`.purchases.Callbacks`.

    :param webhook: Says how the API calls back, ``None``: not. Asked when something is to be bought: what is
        bought already is collected with any configuration.
    """

    def __init__(
        self, context: Context, conn_id: str, webhook: Callable[[], WebhookSettings | None] = lambda: None
    ) -> None:
        self._context = context
        self._conn_id = conn_id
        self._webhook = webhook

    def expect(self) -> Expected | None:
        """Write down that a callback will come, and return what the create must say."""
        webhook = self._webhook()
        if webhook is None:
            return None
        token = new_token(self._context["ti"].id)
        url = callback_url(webhook.base_url, self._conn_id, token)
        if len(url) > MAX_URL:
            raise MusicAPIConfigurationError(
                f"The webhook URL would have {len(url)} characters, and the API takes {MAX_URL}; "
                "nothing was sent.",
                next_step="shorten webhook_base_url or the connection's id.",
            )
        expected = {
            "expected": datetime.now(UTC).isoformat(timespec="seconds"),
            "musicapi_conn_id": self._conn_id,
        }
        TaskState(self._context).set(callback_key(token), expected)
        return Expected(token, {"webhook_url": url, "webhook_secret": webhook.secrets[0]})

    def music_task_of(self, token: str) -> str | None:
        """Return the music task that a purchase's callback was about, ``None`` while none has come."""
        told = TaskState(self._context).get(callback_key(token))
        music_task_id = told.get("music_task_id") if isinstance(told, dict) else None
        return music_task_id if isinstance(music_task_id, str) and music_task_id else None
