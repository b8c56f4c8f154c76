"""The nginx snippet of the documentation, in a real nginx: one route passes, unchanged, nothing else does."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from include.local.stack import free_port
from musicapi_provider.webhooks.addresses import PREFIX, new_token
from tests.conftest import PROJECT

SNIPPET = PROJECT / "include" / "nginx" / "musicapi_webhooks.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TOKEN = new_token("0" * 32)
PATH = f"{PREFIX}/musicapi_default/{TOKEN}"
PATIENCE = 20

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@dataclass
class Upstream:
    """What has come through: method, path, headers by lower-case name, body."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[Upstream, int]]:
    """Return a server in Airflow's place, and its port."""
    found = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.seen.append((self.command, self.path, headers, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found, server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def nginx(
    upstream: tuple[Upstream, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Path]]:
    """Start nginx with the snippet; return its port and its folder."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    (folder / "logs").mkdir()
    snippet = SNIPPET.read_text()
    for yours, here in (
        ("127.0.0.1:8080", f"127.0.0.1:{upstream[1]}"),
        ("127.0.0.1:8443", f"127.0.0.1:{port}"),
    ):
        assert snippet.count(yours) == 1
        snippet = snippet.replace(yours, here)
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/logs/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; client_body_temp_path {folder}/body;\n{paths}{snippet}}}\n"
    )
    assert NGINX is not None
    with (folder / "output").open("wb") as out:
        process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"], stdout=out, stderr=out)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
            break
        except OSError:
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield port, folder
    process.terminate()
    process.wait(PATIENCE)


@pytest.fixture
def ask(nginx: tuple[int, Path], upstream: tuple[Upstream, int]) -> Callable[..., int]:
    """Return a function that sends a request as it is, and returns the status."""
    upstream[0].seen.clear()

    def send(method: str, path: str, body: bytes = b"{}", **headers: str) -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", nginx[0], timeout=PATIENCE)) as connection:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            with suppress(OSError):  # it has answered already
                connection.send(body)
            return connection.getresponse().status

    return send


def test_callback_arrives_unchanged(ask: Callable[..., int], upstream: tuple[Upstream, int]) -> None:
    """Every byte, since they are signed, and every header of the API; no login of anybody."""
    body = bytes(range(256)) * 80
    headers = {
        "X_Webhook_Id": "evt_1",
        "X_Webhook_Timestamp": "1780000000",
        "X_Webhook_Signature": "sha256=ab",
    }
    status = ask("POST", PATH, body, Cookie="session=mine", Authorization="Bearer mine", **headers)

    assert status == 200
    ((method, path, seen, arrived),) = upstream[0].seen
    assert (method, path, arrived) == ("POST", PATH, body)
    assert {seen[name.replace("_", "-").lower()] for name in headers} == set(headers.values())
    assert "cookie" not in seen
    assert "authorization" not in seen


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_post_passes(ask: Callable[..., int], upstream: tuple[Upstream, int], method: str) -> None:
    """Nothing else is of use there."""
    assert ask(method, PATH, b"") in (403, 405)
    assert upstream[0].seen == []


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/api/v2/version",
            "/musicapi/tracks",
            "/execution/health",
            "/auth/login",
            PREFIX,
            f"{PREFIX}/",
        ),
        *(
            f"{PREFIX}/musicapi_default",
            f"{PREFIX}/musicapi_default/",
            f"{PREFIX}/a/b",
            f"{PATH}/",
            f"{PATH}/x",
        ),
        *(
            f"{PREFIX}/../api/v2/version",
            f"{PREFIX}/musicapi_default/../../api/v2/version",
            f"{PATH}/../../x",
        ),
        *(
            f"{PREFIX}/%2e%2e/api",
            f"{PREFIX}/musicapi%2fdefault/{TOKEN}",
            f"{PREFIX}/a.b/{TOKEN}",
            f"{PATH}%00",
        ),
        *(
            f"{PREFIX}/musicapi_default/{TOKEN[:-1]}",
            f"{PREFIX}/musicapi_default/{TOKEN.upper()}",
            f"/x{PATH}",
        ),
    ],
)
def test_no_other_route_passes(ask: Callable[..., int], upstream: tuple[Upstream, int], path: str) -> None:
    """Neither Airflow's own, nor what resembles this one."""
    assert ask("POST", path) in (400, 404)
    assert upstream[0].seen == []


def test_large_body_ends_there(ask: Callable[..., int], upstream: tuple[Upstream, int]) -> None:
    """Airflow does not see it."""
    assert ask("POST", PATH, b"x" * 300_000) == 413
    assert upstream[0].seen == []


def test_token_is_not_logged(ask: Callable[..., int], nginx: tuple[int, Path]) -> None:
    """The line says that somebody called, and how it was answered."""
    ask("POST", PATH)
    log = nginx[1] / "logs" / "musicapi_webhooks.log"
    deadline = time.monotonic() + PATIENCE
    while " POST 200 " not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert TOKEN not in log.read_text()
