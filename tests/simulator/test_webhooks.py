"""The simulator calls back as the API does: signed over the bytes it sends, in order, until it is heard."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from include.musicapi_simulator import Settings, SimulatorServer

SECRET = "a-secret-between-two"
PATIENCE = 10.0


@dataclass
class Receiver:
    """
    Whoever is called.

    :param statuses: What it answers, one after the other; then 200.
    :param calls: Headers, by lower-case name, and bytes of each attempt.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        """The events, as they came."""
        return [json.loads(body)["event"] for _, body in self.calls]

    def is_signed(self, number: int, secret: str = SECRET) -> bool:
        """Tell whether an attempt is signed as documented (facts 7.3)."""
        headers, body = self.calls[number]
        message = headers["x-webhook-timestamp"].encode() + b"." + body
        digest = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
        return headers.get("x-webhook-signature") == f"sha256={digest}"

    def until(self, calls: int) -> None:
        """Wait until it was called this often, and a moment for more."""
        deadline = time.monotonic() + PATIENCE
        while len(self.calls) < calls:
            assert time.monotonic() < deadline, f"{len(self.calls)} of {calls} calls"
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(self.calls) == calls


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a receiver on a port of this machine."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.statuses.pop(0) if found.statuses else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}/hooks/secret-token"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def hooked() -> Iterator[SimulatorServer]:
    """Return a simulator that calls this machine."""
    settings = Settings(job_rule="at-once", webhook_retry_seconds=0.05, slow_seconds=0.5, song_seconds=1)
    settings.webhooks_over_http = True
    with SimulatorServer(settings) as server:
        yield server


@pytest.fixture
def create(hooked: SimulatorServer, receiver: Receiver) -> Callable[..., requests.Response]:
    """Return a function that buys a song with a webhook."""

    def send(words: str = "rain", **changes: Any) -> requests.Response:
        body = {
            **{"task_type": "create_music", "mv": "sonic-v5", "custom_mode": False},
            **{"gpt_description_prompt": words, "webhook_url": receiver.url, "webhook_secret": SECRET},
            **changes,
        }
        key = {"Authorization": f"Bearer {hooked.api_key}"}
        return requests.post(f"{hooked.base_url}/sonic/create", json=body, headers=key, timeout=PATIENCE)

    return send


Create = Callable[..., requests.Response]


def test_events_come_signed_and_in_order(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """First that it streams, then that it is done, with the clips of the task answer (facts 7.2 to 7.4)."""
    task_id = create().json()["task_id"]
    receiver.until(2)

    assert receiver.events == ["song.streaming", "song.completed"]
    assert receiver.is_signed(0)
    assert receiver.is_signed(1)
    headers, raw = receiver.calls[1]
    body = json.loads(raw)
    assert headers["content-type"] == "application/json"
    assert headers["x-webhook-event"] == body["event"]
    assert headers["idempotency-key"] == headers["x-webhook-id"]
    assert receiver.calls[0][0]["x-webhook-id"] != headers["x-webhook-id"]
    assert abs(int(headers["x-webhook-timestamp"]) - time.time()) < 60
    key = {"Authorization": f"Bearer {hooked.api_key}"}
    answer = requests.get(f"{hooked.base_url}/sonic/task/{task_id}", headers=key, timeout=PATIENCE).json()
    about = {"task_id": task_id, "platform": "suno", "code": 200, "message": "success"}
    assert body == {"event": "song.completed", **about, "data": answer["data"]}


def test_events_follow_the_job(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """Not before there is something; and when a test ends it, from its own thread."""
    hooked.state.configure(job_rule="seconds:1000")
    task_id = create().json()["task_id"]
    time.sleep(0.2)
    assert receiver.calls == []
    hooked.state.finish(task_id)
    receiver.until(2)

    assert receiver.events == ["song.streaming", "song.completed"]
    (final,) = [call for call in hooked.state.webhooks if call["event"] == "song.completed"]
    assert (final["status"], final["task_id"]) == (200, task_id)
    assert final["done_at"] <= final["time"]


@pytest.mark.parametrize(
    ("scenario", "code"), [("failed", 500), ("all-failed", 500), ("gateway-timeout-refunded", 504)]
)
def test_failure_is_told(
    create: Create, receiver: Receiver, hooked: SimulatorServer, scenario: str, code: int
) -> None:
    """With a code and, where there is one, a text."""
    create(f"rain simulate:{scenario}")
    receiver.until(2)
    body = json.loads(receiver.calls[1][1])

    assert receiver.events == ["song.streaming", "song.failed"]
    assert body["code"] == code
    assert body["message"] != "success"


def test_attempts_go_on_until_one_is_heard(
    create: Create, receiver: Receiver, hooked: SimulatorServer
) -> None:
    """The same event, the same id, signed anew."""
    receiver.statuses = [500, 302, 200]
    create()
    receiver.until(4)

    assert receiver.events == ["song.streaming"] * 3 + ["song.completed"]
    assert len({headers["x-webhook-id"] for headers, _ in receiver.calls[:3]}) == 1
    assert all(map(receiver.is_signed, range(4)))
    assert hooked.state.snapshot()["webhooks"] == {
        **{"song.streaming 500": 1, "song.streaming 302": 1, "song.streaming 200": 1},
        "song.completed 200": 1,
    }


def test_attempts_end(create: Create, receiver: Receiver) -> None:
    """Four, here: the real number is not known."""
    receiver.statuses = [500] * 8
    create()

    receiver.until(8)


@pytest.mark.parametrize(
    ("scenario", "events"),
    [
        ("webhook-lost", ["song.streaming"]),
        ("webhook-early", ["song.completed", "song.streaming"]),
        ("webhook-twice", ["song.streaming", "song.streaming", "song.completed", "song.completed"]),
        ("webhook-late", ["song.streaming", "song.completed"]),
    ],
)
def test_order_number_and_loss(create: Create, receiver: Receiver, scenario: str, events: list[str]) -> None:
    """All rightly signed; what comes twice has one id."""
    create(f"rain simulate:{scenario}")
    receiver.until(len(events))

    assert receiver.events == events
    assert all(map(receiver.is_signed, range(len(events))))
    assert len({headers["x-webhook-id"] for headers, _ in receiver.calls}) == len(set(events))


@pytest.mark.parametrize("scenario", ["webhook-wrong-secret", "webhook-unsigned", "webhook-body-only"])
def test_wrong_signatures(create: Create, receiver: Receiver, scenario: str) -> None:
    """No such call is signed as documented."""
    create(f"rain simulate:{scenario}")
    receiver.until(2)

    assert not any(map(receiver.is_signed, range(2)))
    assert ("x-signature" in receiver.calls[0][0]) is (scenario == "webhook-body-only")


def test_old_one_is_rightly_signed(create: Create, receiver: Receiver) -> None:
    """Only its time is wrong."""
    create("rain simulate:webhook-old")
    receiver.until(2)

    assert receiver.is_signed(0)
    assert time.time() - int(receiver.calls[0][0]["x-webhook-timestamp"]) > 3000


def test_each_second_final_one_is_lost(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """As a setting."""
    hooked.state.configure(webhook_lost_every=2)
    for _ in range(4):
        create()
    receiver.until(6)

    assert sorted(receiver.events) == ["song.completed"] * 2 + ["song.streaming"] * 4


def test_dropped_create_is_called_about(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """Booked, and its answer lost: the call says which id it got."""
    with pytest.raises(requests.ConnectionError):
        create("rain simulate:drop-after-booking")
    receiver.until(2)

    assert {json.loads(body)["task_id"] for _, body in receiver.calls} == set(hooked.state.jobs)


def test_without_a_secret_nobody_can_verify(create: Create, receiver: Receiver) -> None:
    """The API signs with its own default (facts 7.1)."""
    create(webhook_secret=None)
    receiver.until(2)

    assert receiver.calls[1][0]["x-webhook-signature"].startswith("sha256=")
    assert not receiver.is_signed(1)


def test_without_a_url_nobody_is_called(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """As ever."""
    create(webhook_url=None)
    time.sleep(0.3)

    assert receiver.calls == []
    assert list(hooked.state.webhooks) == []


def test_http_is_taken_only_where_it_is_allowed(create: Create, hooked: SimulatorServer) -> None:
    """And of this machine only: the API wants https."""
    assert create(webhook_url="http://example.com/hook").status_code == 400
    hooked.state.configure(webhooks_over_http=False)

    assert create().status_code == 400
    assert "webhook_url must be https" in create().text


def test_secret_is_not_shown(create: Create, receiver: Receiver, hooked: SimulatorServer) -> None:
    """By no control route."""
    create()
    receiver.until(2)
    root = hooked.base_url.removesuffix("/api/v1")
    shown = [requests.get(f"{root}/_control/{name}", timeout=PATIENCE).text for name in ("state", "webhooks")]

    assert "song.completed" in shown[1]
    assert SECRET not in "".join(shown)
