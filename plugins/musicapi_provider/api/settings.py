"""
What a client must know: where the API is, with which key, how patient to be. Pure.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import tenacity

from musicapi_provider.api.prices import expected_credits
from musicapi_provider.exceptions import (
    MusicAPIError,
    MusicAPINotSentError,
    MusicAPIThrottledError,
    MusicAPITransientError,
)

log = logging.getLogger(__name__)

#: The Airflow connection that is used where none is named.
DEFAULT_CONN_ID = "musicapi_default"
#: The Airflow pool that `airflow musicapi setup` makes, to limit how many creates run at once.
CREATES_POOL = "musicapi_creates"
#: The API's address (facts 1).
DEFAULT_BASE_URL = "https://api.musicapi.ai/api/v1"
#: Seconds for one request; the vendor's guide uses 30 (facts 1).
DEFAULT_TIMEOUT = 30.0
#: Polls a second, at most, of all waiters of one connection in one process. No limit is
#: documented (facts 1); creates are limited to one per 3 s, so 30 run at a time and need 4 polls a second.
DEFAULT_POLLS_PER_SECOND = 10.0
#: Longest wait that a server's ``Retry-After`` can impose, in seconds: longer is for Airflow's retries.
MAX_RETRY_AFTER = 120.0
#: Seconds between polls of a music task whose end the API will call about: a lost callback costs minutes.
WEBHOOK_POLL_INTERVAL = 300.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """
    How the API calls back.

    :param base_url: Airflow's API server as the API reaches it, such as ``https://airflow.example.com``.
    :param secrets: Active secrets: the first signs new callbacks, all are accepted. Never shown by ``repr``.
    :param enabled: Whether tasks of this connection expect callbacks unless they say otherwise.
    :param poll_interval: Seconds between polls of a music task whose callback is expected.
    """

    base_url: str
    secrets: tuple[str, ...] = field(repr=False)
    enabled: bool = False
    poll_interval: float = WEBHOOK_POLL_INTERVAL

    @property
    def is_complete(self) -> bool:
        """Whether there is an address and a secret."""
        return bool(self.base_url and self.secrets)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """
    Everything a client needs to know; made from an Airflow connection by the hook.

    :param api_key: The raw token, without ``Bearer``; never shown by ``repr``.
    :param timeout: Seconds for one request, connecting and reading each.
    :param proxies: Proxy URL by scheme, as requests takes it; goes before the environment's.
    :param verify: Whether to check the server's certificate, or the path of a CA bundle.
    :param cert: Client certificate file, or a (certificate, key) pair of files.
    :param headers: Further headers for every request to the API.
    :param trust_env: Whether the environment's proxies count.
    :param poll_interval: Seconds between polls of a music task; ``None``: adaptive.
    :param prices: Credits by ``task_type`` where they differ from :data:`.prices.CREDITS`.
    :param polls_per_second: Polls a second of all waiters together, at most.
    :param allow_private_media: Whether media may come from private addresses; off, since URLs come from a
        server. The API's own address is always allowed.
    :param webhook: How the API calls back; ``None``: it does not.
    :param name: What errors call this connection.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    trust_env: bool = True
    poll_interval: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    polls_per_second: float = DEFAULT_POLLS_PER_SECOND
    allow_private_media: bool = False
    webhook: WebhookSettings | None = None
    name: str = "MusicAPI"

    @property
    def allow_http_audio(self) -> bool:
        """Whether http audio URLs are acceptable: only where the base URL itself is http."""
        return urlsplit(self.base_url).scheme == "http"

    def expected_credits(self, body: Mapping[str, object]) -> float:
        """Return the credits that a request body will probably cost."""
        return expected_credits(body, self.prices)

    def url(self, path: str) -> str:
        """Return the address of an endpoint such as ``/sonic/create``."""
        return f"{self.base_url.rstrip('/')}/{path.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """
    How often and how patiently one call is repeated, within the rules of the two ``may_..._again`` functions.

    :param attempts: Tries in total; 1 leaves all patience to the caller.
    :param first_wait: Seconds before the second try, doubled each time, with up to as much jitter.
    :param longest_wait: Seconds that a wait without ``Retry-After`` never exceeds.
    """

    attempts: int = 4
    first_wait: float = 0.5
    longest_wait: float = 8.0

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds before the next try: the server's ``Retry-After``, else backoff and jitter."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, MusicAPIError) and error.retry_after is not None:
            return min(error.retry_after, MAX_RETRY_AFTER)
        backoff = tenacity.wait_exponential(multiplier=self.first_wait, max=self.longest_wait)(state)
        return min(backoff + random.uniform(0, self.first_wait), self.longest_wait)  # noqa: S311 - jitter

    def arguments(self, rule: Callable[[BaseException], bool]) -> dict[str, Any]:
        """Return what tenacity's sync and async classes both take."""
        return {
            "stop": tenacity.stop_after_attempt(self.attempts),
            "wait": self.wait,
            "retry": tenacity.retry_if_exception(rule),
            "before_sleep": _log_wait,
            "reraise": True,
        }


#: One try: for loops that have patience of their own.
ONCE = RetrySettings(attempts=1)


def may_read_again(error: BaseException) -> bool:
    """Tell whether a read may be repeated: any passing failure, since reading is free."""
    return isinstance(error, (MusicAPITransientError, MusicAPIThrottledError, MusicAPINotSentError))


def may_create_again(error: BaseException) -> bool:
    """Tell whether a create may be repeated: only if it never left, or was refused unpaid (429)."""
    return isinstance(error, (MusicAPINotSentError, MusicAPIThrottledError))


def _log_wait(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    reason = error.message if isinstance(error, MusicAPIError) else error
    log.warning("%s Next try in %.1f s (try %d failed).", reason, state.upcoming_sleep, state.attempt_number)
