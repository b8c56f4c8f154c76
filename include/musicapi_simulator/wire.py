"""Answers on the socket: the usual ones, and those that no HTTP library would send on purpose."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from include.musicapi_simulator.reply import Reply
    from include.musicapi_simulator.state import SimulatorState

#: A trickling answer comes in this many pieces, with this pause in seconds.
PIECES, PAUSE = 8, 0.03

#: Open connections by the client's address, which is unique while a connection lives.
_transports: dict[Any, asyncio.Transport] = {}


def protocol_for(state: SimulatorState) -> type[H11Protocol]:
    """Return uvicorn's HTTP/1.1 protocol; it counts connections into ``state`` and keeps their transports."""

    class CountingProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            state.connections_opened += 1
            _transports[(self.server, self.client)] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            _transports.pop((self.server, self.client), None)
            super().connection_lost(exc)

    return CountingProtocol


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection under the response; ASGI has no word for it, so ask the transport."""
    _transports[(scope["server"], scope["client"])].close()
    # Returning before uvicorn has noticed would make it send a 500 of its own.
    while (await receive())["type"] != "http.disconnect":
        pass


class DroppedResponse(Response):
    """No answer at all: the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hang up."""
        await _hang_up(scope, receive)


class CutResponse(Response):
    """Announces the whole length, sends half of the body, then the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half and hang up."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _hang_up(scope, receive)


async def _trickle(body: str | bytes) -> AsyncIterator[str | bytes]:
    size = max(1, len(body) // PIECES)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(PAUSE)


def response_for(reply: Reply, retry_after: float) -> Response:
    """
    Return the response that sends a reply.

    :param retry_after: Seconds, for replies that ask for a ``Retry-After`` header.
    """
    if reply.wire == "drop":
        return DroppedResponse()
    headers = dict(reply.headers)
    if reply.retry_after == "seconds":
        headers["retry-after"] = f"{retry_after:g}"
    if reply.retry_after == "date":
        headers["retry-after"] = formatdate(time.time() + retry_after, usegmt=True)
    if not isinstance(reply.body, str | bytes):
        return JSONResponse(reply.body, reply.status, headers)
    if reply.wire == "trickle":
        return StreamingResponse(_trickle(reply.body), reply.status, headers)
    kind = CutResponse if reply.wire == "cut" else Response
    return kind(reply.body, reply.status, headers)
