"""
Let the Test button work for connections that have no port.

Airflow 3.3.2's UI sends port 0 where a connection has none, and its API takes that for another port: it
answers 400 and never asks the hook (apache/airflow 73298, mended later). A root middleware, since that route
is Airflow's own; it touches nothing but that request, and only for this provider's connections.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_App = Callable[[_Message, _Receive, Callable[[_Message], Awaitable[None]]], Awaitable[None]]

_ROUTE = "/api/v2/connections/test"
#: Bytes: a connection is far smaller, and nothing larger is held here.
_LARGEST_BODY = 256 * 1024


class PortZeroIsNoPort:
    """
    ASGI middleware: in requests to test a MusicAPI connection, port 0 becomes none.

    :param app: What handles the request.
    """

    def __init__(self, app: _App) -> None:
        self.app = app

    async def __call__(
        self, scope: _Message, receive: _Receive, send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(_ROUTE):
            scope, receive = await _without_port_zero(scope, receive)
        await self.app(scope, receive, send)


async def _without_port_zero(scope: _Message, receive: _Receive) -> tuple[_Message, _Receive]:
    messages = [await receive()]
    while messages[-1].get("more_body") and _size(messages) <= _LARGEST_BODY:
        messages.append(await receive())
    if _size(messages) <= _LARGEST_BODY and not messages[-1].get("more_body"):
        body = _mended(b"".join(message.get("body", b"") for message in messages))
        if body is not None:
            messages = [{"type": "http.request", "body": body}]
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}

    async def replay() -> _Message:
        return messages.pop(0) if messages else await receive()

    return scope, replay


def _size(messages: list[_Message]) -> int:
    return sum(len(message.get("body", b"")) for message in messages)


def _mended(body: bytes) -> bytes | None:
    """Return another body for a MusicAPI connection whose port is 0, ``None`` for any other."""
    try:
        connection = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(connection, dict) or connection.get("conn_type") != "musicapi":
        return None
    return json.dumps({**connection, "port": None}).encode() if connection.get("port") == 0 else None
