"""
Read an Airflow connection: every field checked, the key never shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from musicapi_provider.api.prices import CREDITS
from musicapi_provider.api.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_POLLS_PER_SECOND,
    DEFAULT_TIMEOUT,
    WEBHOOK_POLL_INTERVAL,
    ClientSettings,
    WebhookSettings,
)
from musicapi_provider.exceptions import MusicAPIConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection

#: Extras that are settings, ours or HttpHook's; whatever else stands there is a header, as in HttpHook.
_SETTINGS = frozenset(
    {
        *("timeout", "poll_interval", "polls_per_second", "prices", "allow_private_media", "webhook"),
        *("webhook_base_url", "webhook_secret", "webhook_poll_interval", "headers", "proxies", "proxy"),
        *("verify", "verify_ssl", "cert", "trust_env", "stream", "allow_redirects", "max_redirects"),
        *("check_response", "srv_lookup"),
    }
)
#: Characters that a webhook secret has at least: it is all that tells the API's callbacks from others.
MIN_SECRET = 16
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_URL = re.compile(r"[\x21-\x7e]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e\t]")


def settings_from(connection: Connection) -> ClientSettings:
    """
    Read and check a connection.

    :raises MusicAPIConfigurationError: names the connection, the field and the rule; never the key.
    """
    return _Reader(connection).settings()


class _Reader:
    """Read the fields of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Not connection.extra_dejson: it swallows bad JSON and talks to Airflow synchronously, also in
        # triggers.
        try:
            extra = json.loads(connection.extra or "{}")
        except ValueError as error:
            raise self._unusable("extra", "must be a JSON object") from error
        if not isinstance(extra, dict):
            raise self._unusable("extra", "must be a JSON object")
        self._extra: dict[str, object] = extra

    def settings(self) -> ClientSettings:
        return ClientSettings(
            api_key=self._key(),
            base_url=self._base_url(),
            timeout=self._positive("timeout") or DEFAULT_TIMEOUT,
            poll_interval=self._positive("poll_interval"),
            polls_per_second=self._positive("polls_per_second") or DEFAULT_POLLS_PER_SECOND,
            prices=self._prices(),
            proxies=self._proxies(),
            verify=self._verify(),
            cert=self._cert(),
            headers=self._headers(),
            allow_private_media=self._switch("allow_private_media"),
            trust_env=str(self._extra.get("trust_env", True)).lower() != "false",
            webhook=self._webhook(),
            name=self._connection.conn_id,
        )

    def _unusable(self, field: str, rule: str) -> MusicAPIConfigurationError:
        return MusicAPIConfigurationError(
            f"The {field} of the Airflow connection {self._connection.conn_id!r} {rule}.",
            next_step="correct the connection (Admin > Connections).",
        )

    def _unusable_extra(self, name: str, rule: str) -> MusicAPIConfigurationError:
        return self._unusable(f"extra {name!r}", rule)

    def _key(self) -> str:
        key = (self._connection.password or "").strip().removeprefix("Bearer ").strip()
        if not key:
            raise MusicAPIConfigurationError(
                f"The Airflow connection {self._connection.conn_id!r} has no API key.",
                next_step="put the key into the connection's password (Admin > Connections).",
            )
        if not key.isascii() or any(char.isspace() for char in key):
            raise self._unusable("API key (password)", "must be one key without blanks or special characters")
        return key

    def _base_url(self) -> str:
        """Build the base URL of host, schema and port; a host without a path gets the API's ``/api/v1``."""
        connection, field = self._connection, "Base URL (host)"
        host = (connection.host or "").strip() or DEFAULT_BASE_URL
        if "://" not in host:
            host = f"{connection.schema or 'https'}://{host}"
        try:
            parts = urlsplit(host)
            given_port = parts.port
        except ValueError as error:
            raise self._unusable(field, f"is not a URL ({error})") from error
        if parts.scheme not in ("https", "http") or not _HOST.fullmatch(parts.hostname or ""):
            raise self._unusable(field, f"must be a http(s) URL, such as {DEFAULT_BASE_URL}")
        if "@" in parts.netloc:
            raise self._unusable(field, "must not hold a user or password; the key has its own field")
        netloc = parts.netloc
        if connection.port and not given_port:  # the UI's Test sends port 0 when it is unset
            netloc = f"{netloc}:{connection.port}"
        path = parts.path.rstrip("/") or urlsplit(DEFAULT_BASE_URL).path
        return f"{parts.scheme}://{netloc}{path}"

    def _positive(self, name: str) -> float | None:
        value = self._extra.get(name)
        if _is_blank(value):
            return None
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = 0.0
        if not 0 < number < 86400:
            raise self._unusable_extra(name, f"must be a number above 0; got {value!r}")
        return number

    def _switch(self, name: str) -> bool:
        """Read a boolean that is off unless it is clearly on: a slip must not open anything."""
        value = self._extra.get(name)
        text = "" if _is_blank(value) else str(value).strip().lower()
        if text not in ("", "true", "false"):
            raise self._unusable_extra(name, f"must be true or false; got {value!r}")
        return text == "true"

    def _webhook(self) -> WebhookSettings | None:
        enabled = self._switch("webhook")
        url = str(self._extra.get("webhook_base_url") or "").strip().rstrip("/")
        secrets = tuple(str(self._extra.get("webhook_secret") or "").split())
        interval = self._positive("webhook_poll_interval") or WEBHOOK_POLL_INTERVAL
        if not (url and secrets):
            # Only who buys with a webhook has to mind: others poll.
            return WebhookSettings(url, secrets, enabled, interval) if enabled or url or secrets else None
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        # As with audio URLs: http only where the API itself is spoken to by http, as with the simulator.
        schemes = ("https", "http") if urlsplit(self._base_url()).scheme == "http" else ("https",)
        sound = parts.scheme in schemes and _HOST.fullmatch(parts.hostname or "") and _URL.fullmatch(url)
        if not sound or parts.query or parts.fragment or "@" in url:
            rule = "must be a https URL without query or user, such as https://airflow.example.com"
            raise self._unusable_extra("webhook_base_url", f"{rule}; got {url!r}")
        if any(len(secret) < MIN_SECRET or not secret.isascii() for secret in secrets):
            raise self._unusable_extra(
                "webhook_secret",
                f"must be one or more secrets of at least {MIN_SECRET} ASCII characters, separated by blanks",
            )
        return WebhookSettings(url, secrets, enabled, interval)

    def _prices(self) -> dict[str, float]:
        """Credits by task type; an unknown name is a slip that would go unnoticed."""
        prices = {}
        for task_type, text in self._object("prices").items():
            try:
                price = float(text)
            except ValueError:
                price = -1.0
            if task_type not in CREDITS or not 0 <= price < math.inf:
                rule = f"must give credits, 0 or more, by task_type ({', '.join(CREDITS)})"
                raise self._unusable_extra("prices", f"{rule}; got {task_type!r}: {text!r}")
            prices[task_type] = price
        return prices

    def _object(self, name: str) -> dict[str, str]:
        value = self._extra.get(name)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError as error:
                raise self._unusable_extra(name, "must be a JSON object") from error
        if _is_blank(value) or value == " ":
            return {}
        if not isinstance(value, Mapping):
            raise self._unusable_extra(name, "must be a JSON object")
        return {str(key): str(val) for key, val in value.items()}

    def _proxies(self) -> dict[str, str]:
        proxy = self._extra.get("proxy")
        if isinstance(proxy, str) and proxy:
            return {"http": proxy, "https": proxy}
        return self._object("proxies") or self._object("proxy")

    def _headers(self) -> dict[str, str]:
        """Further headers: the object ``headers``, and, as in HttpHook, unknown extras."""
        unknown = {key: str(value) for key, value in self._extra.items() if key not in _SETTINGS}
        given = self._object("headers")
        for name in (*unknown, *given):
            if not _HEADER_NAME.fullmatch(name):
                raise self._unusable_extra(name, "is neither a setting nor a possible HTTP header")
        # Blanks around a value are no part of it (RFC 9110), and requests refuses them.
        headers = {name: value.strip() for name, value in (unknown | given).items()}
        for name, value in headers.items():
            if wrong := _NOT_IN_A_HEADER.search(value):
                raise self._unusable_extra(  # without the value, which may be a secret
                    "headers" if name in given else name,
                    "must be plain ASCII in one line, since HTTP carries nothing else: character "
                    f"{wrong.start() + 1} of the value of {name!r} is U+{ord(wrong[0]):04X}; "
                    "percent-encode it or leave it out",
                )
        # The key is the password field's; a second Authorization header would be sent beside it.
        return {name: value for name, value in headers.items() if name.lower() != "authorization"}

    def _verify(self) -> bool | str:
        value = self._extra.get("verify", self._extra.get("verify_ssl", True))
        if isinstance(value, bool):
            return value
        text = str(value or "").strip()
        return text.lower() != "false" if text.lower() in ("", "true", "false") else text

    def _cert(self) -> str | tuple[str, str] | None:
        value = self._extra.get("cert")
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return str(value[0]), str(value[1])
        return str(value) if value else None


def _is_blank(value: object) -> bool:
    return value is None or value == ""
