"""What unit tests share: an Airflow context, odd servers that the simulator cannot be, and the log."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest
import structlog
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import DeleteXCom, GetXCom, SetXCom, XComResult
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from musicapi_provider import exceptions
from musicapi_provider.api import verdict
from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.ledgers.assets import PURCHASES
from musicapi_provider.operators import control_flow
from musicapi_provider.prompt_table import run as table_run
from musicapi_provider.purchases import buying, claims
from musicapi_provider.storage import downloads
from musicapi_provider.waiting import wait as waiting
from tests.unit.api_server import server

__all__ = ["server"]

#: Every error class of the provider, and those that a later try can cure.
ERROR_CLASSES = [
    cls for cls in vars(exceptions).values() if isinstance(cls, type) and issubclass(cls, MusicAPIError)
]
RETRYABLE = {
    exceptions.MusicAPIThrottledError,
    exceptions.MusicAPINotSentError,
    exceptions.MusicAPITransientError,
    exceptions.MusicAPIStorageError,
}
#: What an odd server answers: status, headers, body.
OddAnswer = tuple[int, dict[str, str], str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait that is a module constant."""
    monkeypatch.setattr(verdict, "URL_PATIENCE", 0.02)
    monkeypatch.setattr(verdict, "SHAPE_PATIENCE", 0.02)
    monkeypatch.setattr(buying, "STORE_PAUSE", 0.01)
    monkeypatch.setattr(claims, "LEASE", 0.3)
    monkeypatch.setattr(claims, "PAUSE", 0.01)
    monkeypatch.setattr(waiting, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(control_flow, "FIRST_POLL_OF_TRIGGER", 0.0)
    monkeypatch.setattr(downloads, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(table_run, "MEDIA_PAUSES", ())


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine's own proxies and certificates out of the tests."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# -- Airflow -------------------------------------------------------------------------------------------------


@dataclass
class MemoryStateStore:
    """
    Airflow's state stores in memory, of a task and of an asset; "retries" find it because tests keep it.

    :param broken: Names of the methods that fail, as with an API server that is away.
    """

    entries: dict[str, Any] = field(default_factory=dict)
    retentions: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value as it comes back from JSON."""
        self._check("get")
        return json.loads(self.entries[key]) if key in self.entries else default

    def set(self, key: str, value: Any, *, retention: datetime.timedelta | None = None) -> None:
        """Keep the value as JSON."""
        self._check("set")
        self.entries[key] = json.dumps(value)
        self.retentions[key] = retention

    def delete(self, key: str) -> None:
        """Forget the value."""
        self._check("delete")
        self.entries.pop(key, None)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The purchases of all slots."""
        ledgers = [json.loads(text) for key, text in self.entries.items() if is_slot(key)]
        return [purchase for ledger in ledgers for purchase in ledger.values()]

    def _check(self, method: str) -> None:
        if method in self.broken:
            raise RuntimeError(f"{method} is broken")


def is_slot(key: str) -> bool:
    """Tell whether under a key of the asset's state stand the purchases of a slot."""
    return "/" in key and "/order:" not in key


@pytest.fixture
def state_store() -> MemoryStateStore:
    """Return an empty task state store."""
    return MemoryStateStore()


@pytest.fixture
def task_instance() -> MagicMock:
    """Return a task instance of a first try; ``xcom_push`` records."""
    instance = MagicMock(spec=RuntimeTaskInstance)
    instance.max_tries = 0
    instance.try_number = 1
    instance.id = UUID(int=0)
    instance.dag_id, instance.run_id, instance.task_id = "songs", "manual__1", "task"
    instance.map_index = -1
    instance.get_first_reschedule_date.return_value = None
    return instance


@pytest.fixture
def context(task_instance: MagicMock, state_store: MemoryStateStore) -> dict[str, Any]:
    """Return what an operator finds in its context."""
    return {
        "ti": task_instance,
        "task_state_store": state_store,
        "asset_state_store": {PURCHASES: state_store},
        "dag_run": SimpleNamespace(clear_number=0, start_date=None),
        "outlet_events": OutletEventAccessors(),
    }


@dataclass
class TriggererXComs:
    """
    XCom as a triggerer reaches it: the messages to its supervisor, answered from memory.

    :param values: What has been set, by task and key; as it comes back from JSON.
    :param mapped_lengths: What mapped tasks downstream would expand to, by task.
    :param broken: Names of the messages that fail, as with an API server that is away.
    """

    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    mapped_lengths: dict[str, int | None] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    #: A key that cannot be set.
    refuse: str = ""

    async def asend(self, message: Any) -> Any:
        """Answer one message."""
        if type(message).__name__ in self.broken:
            raise RuntimeError(f"{type(message).__name__} is broken")
        place = (message.task_id, message.key)
        if isinstance(message, GetXCom):
            return XComResult(key=message.key, value=self.values.get(place))
        if isinstance(message, DeleteXCom):
            self.values.pop(place, None)
            return None
        assert isinstance(message, SetXCom)
        if message.key == self.refuse:
            raise RuntimeError(f"{message.key} cannot be set")
        self.values[place] = json.loads(json.dumps(message.value))
        if message.key == "return_value":
            self.mapped_lengths[message.task_id] = message.mapped_length
        return None


@pytest.fixture
def triggerer_xcoms(monkeypatch: pytest.MonkeyPatch) -> TriggererXComs:
    """Return the XComs that triggers of this test reach."""
    xcoms = TriggererXComs()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", xcoms, raising=False)
    return xcoms


class Log:
    """Everything that was logged, by the standard library or by Airflow's structlog."""

    def __init__(self, caplog: pytest.LogCaptureFixture, entries: list[Any]) -> None:
        self._caplog = caplog
        self._entries = entries

    @property
    def text(self) -> str:
        """All lines, with their values."""
        return "\n".join([self._caplog.text, *map(str, self._entries)])

    @property
    def lines(self) -> list[str]:
        """All messages."""
        told = [entry["event"] % entry.get("positional_args", ()) for entry in self._entries]
        return [*(record.getMessage() for record in self._caplog.records), *told]

    def clear(self) -> None:
        """Forget what was logged so far."""
        self._caplog.clear()
        self._entries.clear()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """Capture all logs from level debug."""
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as entries:
        yield Log(caplog, entries)


# -- odd servers ---------------------------------------------------------------------------------------------


@dataclass
class OddServer:
    """A server that answers every request as one function says."""

    base_url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[list[tuple[str, str]]] = field(default_factory=list)


@pytest.fixture
def odd_server() -> Iterator[Callable[..., OddServer]]:
    """Return a function that starts a server of one's own making, with TLS when given a certificate."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], OddAnswer], tls: Path | None = None) -> OddServer:
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                if self.headers.get("expect") == "100-continue":  # a client of S3 waits for it
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.rfile.read(int(self.headers.get("content-length") or 0))
                odd.requests.append((self.command, self.path))
                odd.headers.append(self.headers.items())
                status, headers, body = answer(self)
                self.send_response(status)
                for name, value in {"content-length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the names http.server looks for

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that hangs up is what some tests are about

        server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        odd = OddServer(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/api/v1")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return odd

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def refusing_url() -> str:
    """Return a base URL that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return f"http://127.0.0.1:{port}/api/v1"


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Return a base URL that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"


@pytest.fixture
async def unclosed_sessions() -> list[str]:
    """Return a list of aiohttp's complaints about sessions that were not closed; collect garbage first."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, complaint: complaints.append(str(complaint["message"]))
    )
    return complaints


@pytest.fixture
def stopwatch() -> Callable[[], float]:
    """Return a function that tells the seconds since the test began."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
