"""
The synchronous client: requests.

A create is sent once, on a connection of its own; reads share one session and are repeated. No Airflow here.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import tenacity
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from musicapi_provider.api.answers import Answer, Interpreter
from musicapi_provider.api.settings import (
    ONCE,
    ClientSettings,
    RetrySettings,
    may_create_again,
    may_read_again,
)
from musicapi_provider.api.urls import task_path
from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIError

if TYPE_CHECKING:
    from musicapi_provider.api.models import Credits, MusicTask

_Result = TypeVar("_Result")

#: Failures before the first byte of a request: no name, no connection, a certificate that *we* refused.
_BEFORE_SENDING = (
    NewConnectionError,
    ConnectTimeoutError,
    NameResolutionError,
    ssl.SSLCertVerificationError,
    socket.gaierror,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidProxyURL,
)
#: TLS failures that only the handshake knows. Others can come after sending, so they do not count.
_HANDSHAKE_REASONS = frozenset(
    {"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "HTTP_REQUEST", "TLSV1_ALERT_PROTOCOL_VERSION"}
)


class BearerAuth(AuthBase):
    """Set the Authorization header as late as possible, above any ``.netrc`` entry or header setting."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class MusicAPIClient:
    """
    The synchronous client: one session, reused for all reads.

    :param session: A configured session; closed with the client. Default: made from the settings.
    :param retries: Patience of each call; see :class:`~musicapi_provider.api.settings.RetrySettings`.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        session: requests.Session | None = None,
        retries: RetrySettings | None = None,
    ) -> None:
        self.settings = settings
        self.retries = retries or RetrySettings()
        self._session = session or new_session(settings)
        self._interpreter = Interpreter(settings)
        self._network: dict[str, Any] | None = None

    def create(self, body: Mapping[str, Any]) -> str:
        """
        Submit a music task: this buys (15 credits for most task types, facts 8).

        Sent once. Repeated only when the request certainly never left this machine or was refused with 429.

        :return: The music task id.
        :raises MusicAPIAmbiguousSubmitError: no id came back although it may have been booked.
        :raises MusicAPIError: certain refusals, each its own class; nothing was spent.
        """
        return self._repeat(
            lambda: self._interpreter.music_task_id(self._write("POST", "/sonic/create", json=dict(body))),
            may_create_again,
        )

    def get_task(self, music_task_id: str, *, retry: bool = True) -> MusicTask:
        """
        Look at a music task; free.

        :param retry: Repeat on passing failures; off for loops that look again anyway.
        :raises MusicAPIUnknownTaskError: the API does not know the id (also just after submitting).
        :raises MusicAPIError: the read failed for good; passing failures have been repeated.
        """
        path = task_path(music_task_id)
        return self._repeat(
            lambda: self._interpreter.music_task(music_task_id, self._read(path)),
            may_read_again,
            self.retries if retry else ONCE,
        )

    def get_credits(self, *, retry: bool = True) -> Credits:
        """
        Read the balance; free, so it doubles as a connection test (facts 4.5).

        :param retry: Repeat on passing failures; off where the balance is useful and not needed.
        """
        return self._repeat(
            lambda: self._interpreter.credits(self._read("/get-credits")),
            may_read_again,
            self.retries if retry else ONCE,
        )

    def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """
        Call any other endpoint, such as ``POST /sonic/lyrics``, and return its parsed answer.

        A GET is repeated like any read. Anything else may cost credits and is treated like a create: an
        answer that is lost, unreadable or a 5xx raises :class:`MusicAPIAmbiguousSubmitError`.
        """
        if method.upper() == "GET":
            return self._repeat(
                lambda: self._interpreter.read(self._read(path, json=json, params=params)), may_read_again
            )
        return self._repeat(
            lambda: self._interpreter.written(self._write(method.upper(), path, json=json, params=params)),
            may_create_again,
        )

    def close(self) -> None:
        """Close the session and its connections."""
        self._session.close()

    def _repeat(
        self,
        attempt: Callable[[], _Result],
        rule: Callable[[BaseException], bool],
        retries: RetrySettings | None = None,
    ) -> _Result:
        return tenacity.Retrying(**(retries or self.retries).arguments(rule))(attempt)

    def _read(self, path: str, **arguments: Any) -> Answer:
        return self._send(self._session, "GET", path, self._interpreter.read_failure, arguments)

    def _write(self, method: str, path: str, **arguments: Any) -> Answer:
        # A kept-alive connection that the server has just closed would make a harmless write look ambiguous,
        # so each gets a connection of its own.
        with new_session(self.settings) as session:
            return self._send(session, method, path, self._interpreter.write_failure, arguments)

    def _send(
        self,
        session: requests.Session,
        method: str,
        path: str,
        failure: Callable[..., MusicAPIError],
        arguments: Mapping[str, Any],
    ) -> Answer:
        check_files(self.settings)
        try:
            request = requests.Request(method, self.settings.url(path), **arguments)
            prepared = session.prepare_request(request)
        except (ValueError, TypeError, requests.RequestException) as error:
            raise self._interpreter.unsendable(error) from error
        if (
            self._network is None
        ):  # once: requests reads the whole environment for it, and the host is the same
            self._network = _network(session, prepared, self.settings)
        try:
            response = session.send(
                prepared,
                timeout=self.settings.timeout,
                allow_redirects=False,  # the key and the body are for this host alone
                **self._network,
            )
            return self._interpreter.answer(response.status_code, response.headers, response.text)
        except (requests.RequestException, OSError) as error:
            raise failure(error, certainly_not_sent=never_left(error)) from error


def new_session(settings: ClientSettings) -> requests.Session:
    """Make a requests session of the settings; it sends the key with every request."""
    session = requests.Session()
    session.auth = BearerAuth(settings.api_key)
    session.headers.update({"Accept": "application/json", **settings.headers})
    session.proxies.update(settings.proxies)
    session.verify = settings.verify
    session.cert = settings.cert
    session.trust_env = settings.trust_env
    return session


def check_files(settings: ClientSettings) -> None:
    """
    Refuse certificate files that are not there, before anything is sent.

    :raises MusicAPIConfigurationError: names the file and the connection's field.
    """
    certs = (settings.cert,) if isinstance(settings.cert, str) else settings.cert or ()
    named = [("verify", settings.verify)] if isinstance(settings.verify, str) else []
    for field, path in [*named, *(("cert", path) for path in certs)]:
        if not Path(path).exists():
            raise MusicAPIConfigurationError(
                f"{field} of connection {settings.name!r} names {path!r}, which does not exist here.",
                next_step="correct the path in the connection's extra, or install the file on every worker.",
            )


def never_left(error: BaseException) -> bool:
    """Tell whether a request of requests certainly did not leave this machine."""
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return True  # requests wraps every failure of the connection; bare ones come from reading files
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _BEFORE_SENDING) or "Tunnel connection failed" in str(seen):
            return True
        if isinstance(seen, ssl.SSLError) and seen.reason in _HANDSHAKE_REASONS:
            return True
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = inner
    return False


def _network(
    session: requests.Session, prepared: requests.PreparedRequest, settings: ClientSettings
) -> dict[str, Any]:
    """Return proxies and certificates; the connection's own go before the environment's."""
    return dict(
        session.merge_environment_settings(
            prepared.url, dict(settings.proxies), False, settings.verify, settings.cert
        )
    )
