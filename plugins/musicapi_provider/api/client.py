"""
The synchronous client: requests.

A create is sent once, on a connection of its own; reads share one session and are repeated. No Airflow here.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import tenacity
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from musicapi_provider.api import calls
from musicapi_provider.api.answers import Answer, Interpreter
from musicapi_provider.api.network import (
    BearerAuth,
    Network,
    checked_network,
    headers_of,
    network_of,
)
from musicapi_provider.api.settings import ClientSettings, RetrySettings
from musicapi_provider.api.verdict import State, judge
from musicapi_provider.exceptions import MusicAPIError

if TYPE_CHECKING:
    from musicapi_provider.api.models import Credits, MusicTask

log = logging.getLogger(__name__)

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

    def create(self, body: Mapping[str, object]) -> str:
        """
        Submit a music task: this buys (15 credits for most task types, facts 8).

        Sent once. Repeated only when the request certainly never left this machine or was refused with 429.

        :return: The music task id.
        :raises MusicAPIAmbiguousSubmitError: no id came back although it may have been booked.
        :raises MusicAPIError: certain refusals, each its own class; nothing was spent.
        """
        return self._call(calls.create(body))

    def get_task(self, music_task_id: str, *, retry: bool = True) -> MusicTask:
        """
        Poll a music task; free.

        :param retry: Repeat on passing failures; off for loops that poll again anyway.
        :raises MusicAPIUnknownTaskError: the API does not know the id (also just after submitting).
        :raises MusicAPIError: the read failed for good; passing failures have been repeated.
        """
        return self._call(calls.get_task(music_task_id), retry=retry)

    def failure_of(self, music_task_id: str) -> str | None:
        """
        Return why a music task is known to have failed, and is hence refunded (facts 3.3); free.

        :return: The API's reason; ``None`` while it runs, when it succeeded, and when nobody can say.
        """
        try:
            task = self.get_task(music_task_id)
        except MusicAPIError as error:
            log.warning("Cannot poll music task %s: %s", music_task_id, error)
            return None
        verdict = judge(task, allow_http=self.settings.allow_http_audio)
        return "; ".join(verdict.failures) if verdict.state is State.FAILED else None

    def get_credits(self, *, retry: bool = True) -> Credits:
        """
        Read the balance; free, so it doubles as a connection test (facts 4.5).

        :param retry: Repeat on passing failures; off where the balance is useful and not needed.
        """
        return self._call(calls.get_credits(), retry=retry)

    def request(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> Any:
        """
        Call any other endpoint, such as ``POST /sonic/lyrics``, and return its parsed answer.

        A GET is repeated like any read. Anything else may cost credits and is treated like a create: an
        answer that is lost, unreadable or a 5xx raises :class:`MusicAPIAmbiguousSubmitError`.
        """
        return self._call(calls.other(method, path, json, params))

    def close(self) -> None:
        """Close the session and its connections."""
        self._session.close()

    @cached_property
    def _network(self) -> Network:
        return checked_network(self.settings)  # once: it reads the whole environment

    def _call(self, call: calls.Call[_Result], *, retry: bool = True) -> _Result:
        def attempt() -> _Result:
            if not call.is_write:
                return call.result(self._interpreter, self._send(self._session, call))
            # A kept-alive connection that the server has just closed would make a harmless write look
            # ambiguous, so each gets a connection of its own.
            with new_session(self.settings) as session:
                return call.result(self._interpreter, self._send(session, call))

        if not retry:
            return attempt()
        return tenacity.Retrying(**self.retries.arguments(call.may_repeat))(attempt)

    def _send(self, session: requests.Session, call: calls.Call[_Result]) -> Answer:
        network = self._network
        request = self._interpreter.prepared(call.method, call.path, json=call.json, params=call.params)
        failure = partial(self._interpreter.failure, is_write=call.is_write)
        try:
            # Not session.send: it reads where a redirect leads, and the environment. The key and the body are
            # for this host alone.
            response = session.get_adapter(request.url or "").send(
                request,
                stream=True,
                timeout=self.settings.timeout,
                proxies=network.proxies,
                verify=network.verify,
                cert=network.cert,
            )
        except Exception as error:  # whatever it is, it must not hide that the request may have left
            raise failure(error, certainly_not_sent=never_left(error)) from error
        try:
            content = response.raw.read(decode_content=False)
            headers = [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in response.raw.headers.items()
            ]
            return self._interpreter.answer(response.status_code, headers, content)
        except Exception as error:  # an answer had begun, so the request was sent
            response.close()
            raise failure(error, certainly_not_sent=False) from error


def new_session(settings: ClientSettings) -> requests.Session:
    """Make a requests session of the settings; it sends the key with every request."""
    network = network_of(settings, settings.base_url)
    session = requests.Session()
    session.auth = BearerAuth(settings.api_key)
    session.headers.update(headers_of(settings))
    session.proxies.update(network.proxies)
    session.verify = network.verify
    session.cert = network.cert
    session.trust_env = False  # what the environment says is in the network
    return session


def never_left(error: BaseException) -> bool:
    """Tell whether a request of requests certainly did not leave this machine."""
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return True  # requests wraps every failure of the connection; bare ones come from reading files
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _BEFORE_SENDING):
            return True
        if type(seen) is OSError and str(seen).startswith("Tunnel connection failed"):  # of http.client
            return True
        if isinstance(seen, ssl.SSLError) and seen.reason in _HANDSHAKE_REASONS:
            return True
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = inner
    return False
