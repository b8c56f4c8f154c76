"""Whatever bytes an API sends: the worker's client and the triggerer's read the same from them."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from musicapi_provider.api.async_client import MusicAPIAsyncClient
from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import ONCE, ClientSettings
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIError,
    MusicAPITransientError,
    Spent,
)

DONE = {
    "code": 200,
    "data": [
        {"clip_id": "c1", "state": "succeeded", "audio_url": "https://cdn1.suno.ai/c1.mp3", "title": "é"}
    ],
    "task_id": "t-1",
    "credits": 5,
    "message": "success",
}
JSON = json.dumps(DONE).encode()
RAW = json.dumps(DONE, ensure_ascii=False).encode()


def answer(
    body: bytes = JSON,
    *headers: str,
    status: str = "200 OK",
    type_: str | None = "application/json",
    length: int | None = -1,
    version: str = "1.1",
) -> bytes:
    """Return the bytes of an answer; a length of ``None`` leaves the header out."""
    lines = [f"HTTP/{version} {status}", *([f"Content-Type: {type_}"] if type_ else []), *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", headers: tuple[str, ...] = ()) -> bytes:
    """Return the bytes of a chunked answer."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return answer(b"", "Transfer-Encoding: chunked", *headers, length=None) + body + end


STATUSES = (
    *(201, 202, 203, 206, 226, 300, 303, 305, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 415, 418),
    *(422, 425, 428, 431, 451, 499, 500, 501, 502, 503, 504, 507, 511, 520, 524, 599),
)
ANSWERS = {
    # what the body is
    "plain": answer(),
    "raw UTF-8": answer(RAW),
    "with a byte order mark": answer(b"\xef\xbb\xbf" + RAW),
    "UTF-16": answer(json.dumps(DONE).encode("utf-16")),
    "UTF-32": answer(json.dumps(DONE).encode("utf-32")),
    "blanks around": answer(b" \r\n\t" + JSON + b"\n\n"),
    "no UTF-8": answer(b'{"error": "\xff\xfe"}', status="400 Bad Request"),
    "half a surrogate": answer(
        b'{"task_id": "t", "data": [{"clip_id": "c", "state": "running", "title": "\\ud83d"}]}'
    ),
    "NUL in a text": answer(b'{"code": 200, "task_id": "t\\u0000x", "message": "a\\u0000b"}'),
    "NaN and Infinity": answer(b'{"credits": NaN, "code": Infinity, "task_id": "t"}'),
    "a huge number": answer(b'{"credits": 1e999, "code": ' + b"9" * 400 + b', "task_id": "t"}'),
    "deep nesting": answer(b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b', "task_id": "t"}'),
    "a list": answer(b"[1, 2]"),
    "a text": answer(b'"success"'),
    "a number": answer(b"200"),
    "null": answer(b"null"),
    "the same key twice": answer(b'{"task_id": "a", "task_id": "b", "credits": 1, "credits": 2}'),
    "empty": answer(b""),
    "cut JSON": answer(JSON[:-7]),
    "JSON and more": answer(JSON + b"x"),
    "plain words": answer(b"try later", type_="text/plain"),
    "a page": answer(b"<html>hello</html>", type_="text/html"),
    "a page called JSON": answer(b"<!doctype html><p>hello"),
    "the key echoed": answer(b'{"error": "bad key sk-alike"}', status="400 Bad Request"),
    # what it is called
    "JSON called a page": answer(JSON, type_="text/html"),
    "JSON called text": answer(RAW, type_="text/plain"),
    "JSON called latin": answer(RAW, type_="application/json; charset=iso-8859-1"),
    "charset undefined": answer(RAW, type_="application/json; charset=undefined"),
    "charset base64": answer(RAW, type_="application/json; charset=base64"),
    "charset of nobody": answer(RAW, type_="application/json; charset=klingon"),
    "an odd type": answer(RAW, type_=";;;="),
    "no type": answer(RAW, type_=None),
    # how it is framed
    "HTTP/1.0": answer(version="1.0"),
    "until the end": answer(length=None, version="1.0"),
    "too short": answer(length=len(JSON) + 50),
    "chunked": chunked(JSON[:10], JSON[10:]),
    "chunked with an extension": answer(b"", "Transfer-Encoding: chunked", length=None)
    + b"%x;name=value\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(JSON), JSON),
    "chunks that end early": chunked(JSON[:10], end=b""),
    "no chunks": answer(b"zz\r\n" + JSON, "Transfer-Encoding: chunked", length=None),
    "gzip": answer(gzip.compress(JSON), "Content-Encoding: gzip"),
    "deflate": answer(zlib.compress(JSON), "Content-Encoding: deflate"),
    "broken gzip": answer(gzip.compress(JSON)[:-12] + b"x" * 12, "Content-Encoding: gzip"),
    "no gzip": answer(JSON, "Content-Encoding: gzip"),
    "an unknown coding": answer(JSON, "Content-Encoding: rot13"),
    "nothing at all": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a status line": b"HTTP/1.1 20",
    "no reason": answer(status="200"),
    "a long header": answer(JSON, "X-Long: " + "x" * 20000),
    "many headers": answer(JSON, *[f"X-{n}: {n}" for n in range(60)]),
    "names in capitals": answer(b"{}", "RETRY-AFTER: 7", "X-REQUEST-ID: r-1", status="429 Too Many"),
    # what it says
    **{
        f"status {status}": answer(b'{"error": "words of the server"}', status=f"{status} X")
        for status in STATUSES
    },
    "status 204": answer(b"", status="204 No Content", length=None),
    "status 304": answer(b"", status="304 Not Modified", length=None),
    "status 999": answer(b"{}", status="999 Denied"),
    "403 about credits": answer(
        b'{"error": "your remaining credits are not enough"}', status="403 Forbidden"
    ),
    "504 with a refund": answer(b'{"error": "timed out, credits refunded"}', status="504 Gateway Timeout"),
    "200 not ready": answer(b'{"type": "not_ready", "error": "wait"}'),
    "200 forbidden": answer(b'{"type": "forbidden", "error": "artist name"}'),
    "400 not found": answer(b'{"error": "Task not found"}', status="400 Bad Request"),
    "a redirect": answer(b"", "Location: https://elsewhere.example/", status="302 Found"),
    "a redirect to nothing": answer(b"", "Location: http://[", status="302 Found"),
    "a redirect in UTF-8": answer(b"", "Location: /\xc3\xa9", status="308 Permanent Redirect"),
    "a redirect without a place": answer(b"", status="307 Temporary Redirect"),
    **{
        f"Retry-After {value}": answer(b"{}", f"Retry-After: {value}", status="429 Too Many Requests")
        for value in ("3", "3.5", "-1", "nan", "inf", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", " 4 ", "")
    },
    "Retry-After twice": answer(b"{}", "Retry-After: 3", "Retry-After: 9", status="503 Unavailable"),
    "request ids": answer(b"{}", "cf-ray: c", "x-vercel-id: v", status="500 Internal Server Error"),
    "a request id in UTF-8": answer(b"{}", "x-request-id: \xc3\xa9", status="500 Internal Server Error"),
    "a cookie": answer(JSON, "Set-Cookie: a=b; Domain=127.0.0.1"),
}
#: Where the libraries differ and cannot be made alike, with the reason. Neither says that nothing was paid.
DIFFERENT = {
    # aiohttp takes what follows a body for a second answer, and refuses the connection for it.
    "too long": answer(JSON + b"garbage", length=len(JSON)),
    # http.client takes the end of the connection for the end of the headers.
    "half the headers": b"HTTP/1.1 200 OK\r\nContent-Type: appl",
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda client: client.create({"prompt": "x"}),
    "get_task": lambda client: client.get_task("t-1", retry=False),
    "get_credits": lambda client: client.get_credits(),
    "request": lambda client: client.request("POST", "/sonic/lyrics", json={}),
}


@dataclass
class RawServer:
    """A server that answers every request with the same bytes, then hangs up."""

    settings: ClientSettings
    content: bytes = b""


@pytest.fixture(scope="module")
def raw_server() -> Iterator[RawServer]:
    """Return a running server; tests say what it answers."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/v1"
    server = RawServer(ClientSettings("sk-alike", base_url=url, timeout=5, trust_env=False, name="test"))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(connection, server.content), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def _answer(connection: socket.socket, content: bytes) -> None:
    """Read a whole request (whoever hangs up earlier resets the connection), answer, and hang up."""
    with connection, suppress(OSError):
        connection.settimeout(5)
        received = b""
        while not _is_whole(received) and (piece := connection.recv(65536)):
            received += piece
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def _facts(outcome: object) -> object:
    """Return what must be alike; each library has words of its own for what it could not read."""
    if not isinstance(outcome, MusicAPIError):
        return repr(outcome)
    facts = {name: value for name, value in vars(outcome).items() if name != "message"}
    words = re.sub(r"(\(|v1: )\w+: .*\.", r"\1why", outcome.message, flags=re.DOTALL)
    return type(outcome).__name__, words, facts


def _by_worker(settings: ClientSettings, call: Callable[[Any], Any]) -> object:
    client = MusicAPIClient(settings, retries=ONCE)
    try:
        return call(client)
    except MusicAPIError as error:
        return error
    finally:
        client.close()


async def _by_triggerer(settings: ClientSettings, call: Callable[[Any], Any]) -> object:
    async with MusicAPIAsyncClient(settings, retries=ONCE) as client:
        try:
            return await call(client)
        except MusicAPIError as error:
            return error


def test_there_are_enough() -> None:
    """A table that shrinks proves less."""
    assert len(ANSWERS) >= 60


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ANSWERS)
def test_both_clients_read_the_same(raw_server: RawServer, name: str, call: str) -> None:
    """Results, and errors with class, words, request id, Retry-After, spent and next step."""
    raw_server.content = ANSWERS[name]

    worker = _by_worker(raw_server.settings, CALLS[call])
    triggerer = asyncio.run(_by_triggerer(raw_server.settings, CALLS[call]))

    assert _facts(worker) == _facts(triggerer)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_read_differently_is_not_called_unpaid(raw_server: RawServer, name: str) -> None:
    """Be it an id or a lost answer."""
    raw_server.content = DIFFERENT[name]
    for outcome in (
        _by_worker(raw_server.settings, CALLS["create"]),
        asyncio.run(_by_triggerer(raw_server.settings, CALLS["create"])),
    ):
        assert outcome == "t-1" or isinstance(outcome, MusicAPIAmbiguousSubmitError)


@pytest.mark.parametrize("name", [name for name in ANSWERS if not ANSWERS[name].startswith(b"HTTP/1.1 4")])
def test_an_answered_create_is_never_called_unsent(raw_server: RawServer, name: str) -> None:
    """It may be paid whatever came back; only a certain refusal says otherwise."""
    raw_server.content = ANSWERS[name]
    outcome = _by_worker(raw_server.settings, CALLS["create"])
    refused = ANSWERS[name].startswith((b"HTTP/1.1 30", b"HTTP/1.1 999"))

    assert isinstance(outcome, (str, MusicAPIAmbiguousSubmitError)) or refused
    assert isinstance(outcome, str) or outcome.spent is Spent.UNKNOWN or refused  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "raw UTF-8",
            "with a byte order mark",
            "UTF-16",
            "UTF-32",
            "JSON called a page",
            "JSON called text",
        ),
        *("JSON called latin", "charset undefined", "charset base64", "charset of nobody", "an odd type"),
        "no type",
    ],
)
def test_json_is_read_whatever_it_is_called(raw_server: RawServer, name: str) -> None:
    """The content decides, not the label: a wrong one must not cost a song its id or its title."""
    raw_server.content = ANSWERS[name]
    task = _by_worker(raw_server.settings, CALLS["get_task"])

    assert _by_worker(raw_server.settings, CALLS["create"]) == "t-1"
    assert [track.title for track in task.tracks] == ["é"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["too short", "chunks that end early", "broken gzip", "nothing at all", "no HTTP"]
)
def test_a_broken_read_is_passing(raw_server: RawServer, name: str) -> None:
    """Reading is free, so it is simply done again."""
    raw_server.content = ANSWERS[name]

    assert isinstance(_by_worker(raw_server.settings, CALLS["get_task"]), MusicAPITransientError)


def test_the_key_is_in_no_error(raw_server: RawServer) -> None:
    """Also where the server echoes it."""
    raw_server.content = ANSWERS["the key echoed"]
    errors = [
        _by_worker(raw_server.settings, CALLS["create"]),
        asyncio.run(_by_triggerer(raw_server.settings, CALLS["create"])),
    ]

    assert all("***" in str(error) and "sk-alike" not in str(error) for error in errors)


def test_nobody_listens(raw_server: RawServer) -> None:
    """That is certain, and the same for both."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = replace(raw_server.settings, base_url=f"http://127.0.0.1:{port}/api/v1")
    for call in CALLS.values():
        worker, triggerer = _by_worker(settings, call), asyncio.run(_by_triggerer(settings, call))

        assert _facts(worker) == _facts(triggerer)
