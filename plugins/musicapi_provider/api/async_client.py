"""
The asynchronous client: aiohttp, for triggers. Same rules, same errors as the synchronous one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from musicapi_provider.api import calls
from musicapi_provider.api.answers import Answer, Interpreter
from musicapi_provider.api.network import Network, checked_network
from musicapi_provider.api.settings import ClientSettings, RetrySettings

if TYPE_CHECKING:
    import ssl

    import aiohttp

    from musicapi_provider.api.models import Credits, MusicTask

_Result = TypeVar("_Result")

#: Connections of one client. At 10 reads a second and 0.2 s for an answer, two are busy; ten keep that pace
#: up with answers of a second, and a server that hangs must not be met with a hundred, aiohttp's own limit.
CONNECTIONS = 10
#: Seconds that an idle connection is kept. Polls of one music task are up to 60 s apart; with the
#: 15 s of aiohttp many would cost a TLS handshake. aiohttp notices servers that close earlier.
KEEP_ALIVE = 75.0
#: Bytes of a status or header line: the limit of the synchronous client's library.
MAX_LINE = 65536


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
        self._network: tuple[Network, ssl.SSLContext | bool] | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> MusicAPIAsyncClient:
        """Return the client; the session opens with the first read."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the session."""
        await self.close()

    async def create(self, body: Mapping[str, object]) -> str:
        """Submit a music task: this buys."""
        return await self._call(calls.create(body))

    async def get_task(self, music_task_id: str, *, retry: bool = True) -> MusicTask:
        """Poll a music task; free."""
        return await self._call(calls.get_task(music_task_id), retry=retry)

    async def get_credits(self) -> Credits:
        """Read the balance; free."""
        return await self._call(calls.get_credits())

    async def request(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> Any:
        """Call any other endpoint; anything but a GET may cost credits."""
        return await self._call(calls.other(method, path, json, params))

    async def close(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _way(self) -> tuple[Network, ssl.SSLContext | bool]:
        """Decide once how requests leave; in a thread, because reading certificates blocks."""
        if self._network is None:
            network = await asyncio.to_thread(checked_network, self.settings)
            # Without TLS, as to the simulator, nobody asks for certificates: they take 0.02 s of CPU to read.
            has_tls = any(url.startswith("https:") for url in (self.settings.base_url, network.proxy or ""))
            self._network = network, await asyncio.to_thread(network.ssl_context) if has_tls else True
        return self._network

    async def _call(self, call: calls.Call[_Result], *, retry: bool = True) -> _Result:
        async def attempt() -> _Result:
            if not call.is_write:
                return call.result(self._interpreter, await self._send(await self._open_session(), call))
            # A connection of its own, as in the synchronous client; closing it must not disturb other calls.
            async with await self._new_session() as session:
                return call.result(self._interpreter, await self._send(session, call))

        if not retry:
            return await attempt()
        return await tenacity.AsyncRetrying(**self.retries.arguments(call.may_repeat))(attempt)

    async def _open_session(self) -> aiohttp.ClientSession:
        async with self._opening:  # two first reads at once must not open two sessions
            if self._session is None:
                self._session = await self._new_session(self.connections)
            return self._session

    async def _send(self, session: aiohttp.ClientSession, call: calls.Call[_Result]) -> Answer:
        from yarl import URL

        network, _ = await self._way()
        request = self._interpreter.prepared(call.method, call.path, json=call.json, params=call.params)
        failure = partial(self._interpreter.failure, is_write=call.is_write)
        is_answered = False
        try:
            async with session.request(
                call.method,
                URL(request.url or "", encoded=True),
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                proxy=network.proxy,
            ) as response:
                is_answered = True  # whatever fails from here on, the request was sent
                content = await response.read()
                return self._interpreter.answer(response.status, response.raw_headers, content)
        except Exception as error:  # whatever it is, it must not hide that the request may have left
            raise failure(error, certainly_not_sent=not is_answered and _never_left(error)) from error

    async def _new_session(self, connections: int = 1) -> aiohttp.ClientSession:
        import aiohttp

        _, ssl_context = await self._way()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl_context, limit=connections, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(
                total=2 * self.settings.timeout,
                connect=self.settings.timeout,
                sock_read=self.settings.timeout,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            trust_env=False,  # what the environment says is in the network
        )
        # A private attribute, without a public way: aiohttp would send a PUT or DELETE again when the server
        # hangs up, and it may have been paid.
        session._retry_connection = False
        return session


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
