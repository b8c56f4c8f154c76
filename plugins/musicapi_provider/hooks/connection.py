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
        "timeout",
        "poll_interval",
        "polls_per_second",
        "prices",
        "allow_private_media",
        "webhook",
        "webhook_base_url",
        "webhook_secret",
        "webhook_poll_interval",
        "headers",
        "proxies",
        "proxy",
        "verify",
        "verify_ssl",
        "cert",
    }
    | {"trust_env", "stream", "allow_redirects", "max_redirects", "check_response", "srv_lookup"}
)
#: Characters that a webhook secret has at least: it is all that tells the API's callbacks from others.
MIN_SECRET = 16
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_URL = re.compile(r"[\x21-\x7e]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")


def settings_from(connection: Connection) -> ClientSettings:
    """
    Read and check a connection.

    :raises MusicAPIConfigurationError: names the connection, the field and the rule; never the key.
    """
    extra = _extra(connection)
    key = (connection.password or "").strip().removeprefix("Bearer ").strip()
    if not key:
        raise MusicAPIConfigurationError(
            f"The Airflow connection {connection.conn_id!r} has no API key.",
            next_step="put the key into the connection's password (Admin > Connections).",
        )
    if not key.isascii() or any(char.isspace() for char in key):
        raise _unusable(
            connection, "API key (password)", "must be one key without blanks or special characters"
        )
    return ClientSettings(
        api_key=key,
        base_url=_base_url(connection),
        timeout=_positive(connection, extra, "timeout") or DEFAULT_TIMEOUT,
        poll_interval=_positive(connection, extra, "poll_interval"),
        polls_per_second=_positive(connection, extra, "polls_per_second") or DEFAULT_POLLS_PER_SECOND,
        prices=_prices(connection, extra),
        proxies=_proxies(connection, extra),
        verify=_verify(extra),
        cert=_cert(extra),
        headers=_headers(connection, extra),
        allow_private_media=_switch(connection, extra, "allow_private_media"),
        trust_env=str(extra.get("trust_env", True)).lower() != "false",
        webhook=_webhook(connection, extra),
        name=connection.conn_id,
    )


def _extra(connection: Connection) -> dict[str, object]:
    # Not connection.extra_dejson: it swallows bad JSON and talks to Airflow synchronously, also in triggers.
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError as error:
        raise _unusable(connection, "extra", "must be a JSON object") from error
    if not isinstance(extra, dict):
        raise _unusable(connection, "extra", "must be a JSON object")
    return extra


def _unusable(connection: Connection, field: str, rule: str) -> MusicAPIConfigurationError:
    return MusicAPIConfigurationError(
        f"The {field} of the Airflow connection {connection.conn_id!r} {rule}.",
        next_step="correct the connection (Admin > Connections).",
    )


def _base_url(connection: Connection) -> str:
    """Build the base URL of host, schema and port; a host without a path gets the API's ``/api/v1``."""
    host = (connection.host or "").strip() or DEFAULT_BASE_URL
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    try:
        parts = urlsplit(host)
        given_port = parts.port
    except ValueError as error:
        raise _unusable(connection, "Base URL (host)", f"is not a URL ({error})") from error
    if parts.scheme not in ("https", "http") or not _HOST.fullmatch(parts.hostname or ""):
        raise _unusable(connection, "Base URL (host)", f"must be a http(s) URL, such as {DEFAULT_BASE_URL}")
    if "@" in parts.netloc:
        raise _unusable(
            connection, "Base URL (host)", "must not hold a user or password; the key has its own field"
        )
    netloc = parts.netloc
    if connection.port and not given_port:  # the UI's Test sends port 0 when it is unset
        netloc = f"{netloc}:{connection.port}"
    path = parts.path.rstrip("/") or urlsplit(DEFAULT_BASE_URL).path
    return f"{parts.scheme}://{netloc}{path}"


def _is_blank(value: object) -> bool:
    return value is None or value == ""


def _positive(connection: Connection, extra: Mapping[str, object], name: str) -> float | None:
    value = extra.get(name)
    if _is_blank(value):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 86400:
        raise _unusable(connection, f"extra {name!r}", f"must be a number above 0; got {value!r}")
    return number


def _switch(connection: Connection, extra: Mapping[str, object], name: str) -> bool:
    """Read a boolean that is off unless it is clearly on: a slip must not open anything."""
    value = extra.get(name)
    text = "" if _is_blank(value) else str(value).strip().lower()
    if text not in ("", "true", "false"):
        raise _unusable(connection, f"extra {name!r}", f"must be true or false; got {value!r}")
    return text == "true"


def _webhook(connection: Connection, extra: Mapping[str, object]) -> WebhookSettings | None:
    enabled = _switch(connection, extra, "webhook")
    url = str(extra.get("webhook_base_url") or "").strip().rstrip("/")
    secrets = tuple(str(extra.get("webhook_secret") or "").split())
    interval = _positive(connection, extra, "webhook_poll_interval") or WEBHOOK_POLL_INTERVAL
    if not (url and secrets):
        # Only who buys with a webhook has to mind: others poll.
        return WebhookSettings(url, secrets, enabled, interval) if enabled or url or secrets else None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    # As with audio URLs: http only where the API itself is spoken to by http, as with the simulator.
    schemes = ("https", "http") if urlsplit(_base_url(connection)).scheme == "http" else ("https",)
    sound = parts.scheme in schemes and _HOST.fullmatch(parts.hostname or "") and _URL.fullmatch(url)
    if not sound or parts.query or parts.fragment or "@" in url:
        raise _unusable(
            connection,
            "extra 'webhook_base_url'",
            f"must be a https URL without query or user, such as https://airflow.example.com; got {url!r}",
        )
    if any(len(secret) < MIN_SECRET or not secret.isascii() for secret in secrets):
        raise _unusable(
            connection,
            "extra 'webhook_secret'",
            f"must be one or more secrets of at least {MIN_SECRET} ASCII characters, separated by blanks",
        )
    return WebhookSettings(url, secrets, enabled, interval)


def _prices(connection: Connection, extra: Mapping[str, object]) -> dict[str, float]:
    """Credits by task type; an unknown name is a slip that would go unnoticed."""
    prices = {}
    for task_type, text in _object(connection, extra, "prices").items():
        try:
            price = float(text)
        except ValueError:
            price = -1.0
        if task_type not in CREDITS or not 0 <= price < math.inf:
            raise _unusable(
                connection,
                "extra 'prices'",
                f"must give credits, 0 or more, by task_type ({', '.join(CREDITS)}); "
                f"got {task_type!r}: {text!r}",
            )
        prices[task_type] = price
    return prices


def _object(connection: Connection, extra: Mapping[str, object], name: str) -> dict[str, str]:
    value = extra.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _unusable(connection, f"extra {name!r}", "must be a JSON object") from error
    if _is_blank(value) or value == " ":
        return {}
    if not isinstance(value, Mapping):
        raise _unusable(connection, f"extra {name!r}", "must be a JSON object")
    return {str(key): str(val) for key, val in value.items()}


def _proxies(connection: Connection, extra: Mapping[str, object]) -> dict[str, str]:
    proxy = extra.get("proxy")
    if isinstance(proxy, str) and proxy:
        return {"http": proxy, "https": proxy}
    return _object(connection, extra, "proxies") or _object(connection, extra, "proxy")


def _headers(connection: Connection, extra: Mapping[str, object]) -> dict[str, str]:
    """Further headers: the object ``headers``, and, as in HttpHook, unknown extras."""
    unknown = {key: str(value) for key, value in extra.items() if key not in _SETTINGS}
    headers = unknown | _object(connection, extra, "headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise _unusable(connection, f"extra {name!r}", "is neither a setting nor a possible HTTP header")
    # The key is the password field's; a second Authorization header would be sent beside it.
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def _verify(extra: Mapping[str, object]) -> bool | str:
    value = extra.get("verify", extra.get("verify_ssl", True))
    if isinstance(value, bool):
        return value
    text = str(value or "").strip()
    return text.lower() != "false" if text.lower() in ("", "true", "false") else text


def _cert(extra: Mapping[str, object]) -> str | tuple[str, str] | None:
    value = extra.get("cert")
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return str(value[0]), str(value[1])
    return str(value) if value else None
