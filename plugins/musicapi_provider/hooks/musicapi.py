"""
The hook: an Airflow connection becomes a client for MusicAPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.http.hooks.http import HttpHook

from musicapi_provider.api.client import new_session
from musicapi_provider.api.settings import DEFAULT_BASE_URL, DEFAULT_CONN_ID, RetrySettings
from musicapi_provider.hooks.base import MusicAPIBaseHook

if TYPE_CHECKING:
    import requests


class MusicAPIHook(MusicAPIBaseHook, HttpHook):
    """
    Talk to MusicAPI with the key and the base URL of an Airflow connection.

    Reads are repeated on passing failures and honour ``Retry-After``; a create is sent once, and repeated
    only when it certainly never left this machine or was refused with 429 (see
    :mod:`musicapi_provider.api.client`). One session serves all reads of a hook.

    The connection's password is the API key, its host the base URL
    (default ``https://api.musicapi.ai/api/v1``). Extras: ``timeout`` (seconds, default 30),
    ``poll_interval`` (seconds; default: adaptive), ``polls_per_second`` (of all
    waiting tasks in one triggerer; default 10), ``prices`` (credits by ``task_type`` where they differ
    from facts 8), and what ``HttpHook`` knows: ``proxies``, ``verify``,
    ``cert``, ``trust_env``, ``headers``. If the default connection does not exist and ``MUSICAPI_KEY`` is
    set, that key is used (with ``MUSICAPI_BASE_URL``, if set).

    :param musicapi_conn_id: Airflow connection of type ``musicapi``.
    :param retries: Patience of each call; default 4 tries with backoff up to 8 s.
    :raises MusicAPIConfigurationError: at first use, when there is no connection, no key or no usable URL.
    """

    default_conn_name = DEFAULT_CONN_ID
    default_host = DEFAULT_BASE_URL

    def __init__(
        self, musicapi_conn_id: str = default_conn_name, *, retries: RetrySettings | None = None
    ) -> None:
        super().__init__(musicapi_conn_id, retries=retries, method="GET", http_conn_id=musicapi_conn_id)

    def get_conn(
        self, headers: dict[Any, Any] | None = None, extra_options: dict[str, Any] | None = None
    ) -> requests.Session:
        """
        Return a session with the connection's key, proxies, certificates and headers.

        HttpHook's ``run`` works with it; prefer the methods below, which know what may be sent twice.
        """
        self._set_base_url(None)
        self.merged_extra = {"timeout": self.settings.timeout, **(extra_options or {})}
        session = self._configure_session_from_mount_adapters(new_session(self.settings))
        session.headers.update(headers or {})
        return session

    def _set_base_url(self, connection: object) -> None:
        self.base_url = f"{self.settings.base_url}/"
        self._base_url_initialized = True
