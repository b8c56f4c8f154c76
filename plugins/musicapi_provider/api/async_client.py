"""
The asynchronous client: aiohttp, for triggers. Same rules, same errors as the synchronous one.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import tenacity

from musicapi_provider.api.answers import Answer, Interpreter
from musicapi_provider.api.client import check_files
from musicapi_provider.api.settings import (
    ONCE,
    ClientSettings,
    RetrySettings,
    may_create_again,
    may_read_again,
)
from musicapi_provider.api.urls import task_path

if TYPE_CHECKING:
    import aiohttp

    from musicapi_provider.api.models import Credits, MusicTask
    from musicapi_provider.exceptions import MusicAPIError

_Result = TypeVar("_Result")

#: Connections of one client. At 10 reads a second and 0.2 s for an answer, two are busy; ten keep that pace
#: up with answers of a second, and a server that hangs must not be met with a hundred, aiohttp's own limit.
CONNECTIONS = 10
#: Seconds that an idle connection is kept. Looks at one music task are up to 60 s apart; with the
#: 15 s of aiohttp many would cost a TLS handshake. aiohttp notices servers that close earlier.
KEEP_ALIVE = 75.0


class MusicAPIAsyncClient:
    """
    The asynchronous client: one aiohttp session for all reads, opened at the first one.

    Use it as an async context manager, or close it. See
    :class:`~musicapi_provider.api.client.MusicAPIClient` for what each call costs and raises.

    :param connections: Connections that reads may hold open at once; more wait for a free one.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        retries: RetrySettings | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self.settings = settings
        self.retries = retries or RetrySettings()
        self.connections = connections
        self._interpreter = Interpreter(settings)
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> MusicAPIAsyncClient:
        """Return the client; the session opens with the first read."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the session."""
        await self.close()

    async def create(self, body: Mapping[str, Any]) -> str:
        """Submit a music task: this buys."""

        async def attempt() -> str:
            return self._interpreter.music_task_id(
                await self._write("POST", "/sonic/create", json=dict(body))
            )

        return await self._repeat(attempt, may_create_again)

    async def get_task(self, music_task_id: str, *, retry: bool = True) -> MusicTask:
        """Look at a music task; free."""

        async def attempt() -> MusicTask:
            return self._interpreter.music_task(music_task_id, await self._read(task_path(music_task_id)))

        return await self._repeat(attempt, may_read_again, self.retries if retry else ONCE)

    async def get_credits(self) -> Credits:
        """Read the balance; free."""

        async def attempt() -> Credits:
            return self._interpreter.credits(await self._read("/get-credits"))

        return await self._repeat(attempt, may_read_again)

    async def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Call any other endpoint; anything but a GET may cost credits."""

        async def read() -> Any:
            return self._interpreter.read(await self._read(path, json=json, params=params))

        async def write() -> Any:
            answer = await self._write(method.upper(), path, json=json, params=params)
            return self._interpreter.written(answer)

        if method.upper() == "GET":
            return await self._repeat(read, may_read_again)
        return await self._repeat(write, may_create_again)

    async def close(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @cached_property
    def _proxy(self) -> str | None:
        # Once: urllib reads the whole environment, which would be a third of the cost of a look.
        return _proxy(self.settings, self.settings.base_url)

    async def _repeat(
        self,
        attempt: Callable[[], Awaitable[_Result]],
        rule: Callable[[BaseException], bool],
        retries: RetrySettings | None = None,
    ) -> _Result:
        if retries is ONCE:
            return await attempt()
        return await tenacity.AsyncRetrying(**(retries or self.retries).arguments(rule))(attempt)

    async def _read(self, path: str, **arguments: Any) -> Answer:
        async with self._opening:  # two first reads at once must not open two sessions
            if self._session is None:
                self._session = await _new_session(self.settings, self.connections)
        return await self._send(self._session, "GET", path, self._interpreter.read_failure, arguments)

    async def _write(self, method: str, path: str, **arguments: Any) -> Answer:
        # A connection of its own, as in the synchronous client; closing it must not disturb other calls.
        async with await _new_session(self.settings) as session:
            return await self._send(session, method, path, self._interpreter.write_failure, arguments)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        failure: Callable[..., MusicAPIError],
        arguments: Mapping[str, Any],
    ) -> Answer:
        import aiohttp

        url = self.settings.url(path)
        try:
            jsonlib.dumps(arguments.get("json"), allow_nan=False)
        except (ValueError, TypeError) as error:
            raise self._interpreter.unsendable(error) from error
        try:
            async with session.request(
                method, url, allow_redirects=False, proxy=self._proxy, **arguments
            ) as response:
                text = await response.text(errors="replace")
                return self._interpreter.answer(response.status, response.headers, text)
        except ValueError as error:  # a header or address that aiohttp refuses before it connects
            if not isinstance(error, aiohttp.ClientError):
                raise self._interpreter.unsendable(error) from error
            raise failure(error, certainly_not_sent=_never_left(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise failure(error, certainly_not_sent=_never_left(error)) from error


def _never_left(error: BaseException) -> bool:
    """Tell whether a request of aiohttp certainly did not leave this machine."""
    import aiohttp

    return isinstance(
        error,
        (
            aiohttp.ClientConnectorError,  # refused, DNS, TLS handshake
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,  # the proxy refused the tunnel
            aiohttp.InvalidURL,
        ),
    )


async def _new_session(settings: ClientSettings, connections: int = 1) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=await asyncio.to_thread(_ssl_context, settings),
            limit=connections,
            keepalive_timeout=KEEP_ALIVE,
        ),
        headers={
            "Accept": "application/json",
            **{name: value for name, value in settings.headers.items() if name.lower() != "authorization"},
            "Authorization": f"Bearer {settings.api_key}",
        },
        timeout=aiohttp.ClientTimeout(
            total=2 * settings.timeout, connect=settings.timeout, sock_read=settings.timeout
        ),
        trust_env=False,  # aiohttp would also read .netrc, which cannot stand beside our header; see _proxy
    )


def _proxy(settings: ClientSettings, url: str) -> str | None:
    """Return the proxy for a URL: the connection's, else the environment's."""
    parts = urlsplit(url)
    if own := settings.proxies.get(parts.scheme) or settings.proxies.get("all"):
        return own
    if not settings.trust_env or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _ssl_context(settings: ClientSettings) -> ssl.SSLContext | bool:
    """Read the certificate files; in a thread, because it blocks."""
    check_files(settings)
    if settings.verify is True and settings.cert is None:
        return True
    context = ssl.create_default_context(cafile=settings.verify if isinstance(settings.verify, str) else None)
    if settings.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert is not None:
        files = (settings.cert,) if isinstance(settings.cert, str) else settings.cert
        context.load_cert_chain(*files)
    return context
