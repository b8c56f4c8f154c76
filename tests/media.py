"""A media host of one's own: real MP3 frames, ranges, and hanging up in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

#: One frame of a 128 kbit/s MP3: header, then silence. 417 bytes last 26 ms.
FRAME = b"\xff\xfb\x90\x00" + bytes(413)


def frames(size: int) -> bytes:
    """Return that many bytes of MP3; each frame has its number in it, so that a swapped piece is noticed."""
    numbered = (FRAME[:-4] + number.to_bytes(4, "big") for number in range(size // len(FRAME) + 1))
    return b"".join(numbered)[:size]


@dataclass
class MediaServer:
    """
    A host with one file under any path.

    :param breaks: Bytes after which the next requests are hung up on, one entry a request; ``None``: never.
    :param stalls: Instead of hanging up, wait for ``go_on``.
    :param answer_with: Replaces the answer: gets the request's headers, returns status, headers and body.
    """

    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"etag": '"v1"'})
    ranges: bool = True
    breaks: list[int | None] = field(default_factory=list)
    stalls: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    asked: list[dict[str, str]] = field(default_factory=list)
    answer_with: Callable[[dict[str, str]], tuple[int, dict[str, str], bytes] | None] = lambda _: None
    origin: str = ""

    def url(self, name: str = "song.mp3") -> str:
        """Return the URL of a file."""
        return f"{self.origin}/{name}"

    def answer(self, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Return what is due for a request."""
        headers = {"content-type": "audio/mpeg", **self.headers}
        wanted = asked.get("range", "")
        if self.ranges and wanted and asked.get("if-range") in (None, *self.headers.values()):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            span = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
            return 206, {**headers, "content-range": span}, self.body[start:]
        return 200, headers, self.body


@pytest.fixture
def media_server() -> Iterator[Callable[..., MediaServer]]:
    """Return a function that starts a host; its arguments are those of :class:`MediaServer`."""
    running: list[tuple[MediaServer, ThreadingHTTPServer]] = []

    def start(body: bytes, **arguments: Any) -> MediaServer:
        media = MediaServer(body, **arguments)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = {name.lower(): value for name, value in self.headers.items()}
                media.asked.append(asked)
                status, headers, body = media.answer_with(asked) or media.answer(asked)
                broken = media.breaks.pop(0) if media.breaks else None
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[:broken])
                if broken is not None and media.stalls:
                    media.stalled.set()
                    media.go_on.wait(30)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that hangs up is what some tests are about

        server = Server(("127.0.0.1", 0), Handler)
        media.origin = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append((media, server))
        return media

    yield start
    for media, server in running:
        media.go_on.set()
        server.shutdown()
        server.server_close()
