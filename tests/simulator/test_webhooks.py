"""Who gives a webhook_url is called back as the real service does it, and as badly as scenarios ask."""

from __future__ import annotations

import gc
import hashlib
import hmac
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from include.musicapi_simulator import Settings, SimulatorServer, webhooks
from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import CATALOGUE
from tests.simulator.conftest import QUICK, SONG, Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

    from include.musicapi_simulator.state import SimulatorState

PROJECT = Path(__file__).parents[2]
SECRET = "whsec-never-to-be-seen"
COST = 15
STREAMING, COMPLETED, FAILED = "song.streaming", "song.completed", "song.failed"


@dataclass(frozen=True)
class Call:
    """What came to the receiver, byte by byte."""

    path: str
    headers: Message
    raw: bytes
    time: float

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def event(self) -> str:
        return str(self.headers["X-Webhook-Event"])

    @property
    def webhook_id(self) -> str:
        return str(self.headers["X-Webhook-Id"])

    @property
    def timestamp(self) -> str:
        return str(self.headers["X-Webhook-Timestamp"])

    def is_signed_with(self, secret: str) -> bool:
        """Verify as the vendor's documents say (facts 7.3)."""
        digest = _hmac(secret, self.timestamp.encode() + b"." + self.raw)
        return bool(self.headers["X-Webhook-Signature"] == f"sha256={digest}")


def _hmac(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


class Receiver:
    """
    A receiver of webhooks on a free port.

    ``statuses`` are answered one by one, then 200; while ``held`` is set nothing is answered.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.statuses: list[int] = []
        self.held = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append(Call(self.path, self.headers, raw, time.time()))
                while receiver.held.is_set():
                    time.sleep(0.01)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Location", "/elsewhere")  # to be followed by nobody
                self.send_header("Content-Length", "0")
                with suppress(OSError):  # the simulator may have been stopped
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def wait(self, number: int) -> list[Call]:
        """Return all calls once there are so many."""
        until(lambda: len(self.calls) >= number)
        return list(self.calls)

    def events(self, number: int) -> list[str]:
        """Return the names of all calls once there are so many."""
        return [call.event for call in self.wait(number)]


def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in another thread."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,))
    thread.start()
    yield receiver
    receiver.held.clear()
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture
def state(server: SimulatorServer) -> SimulatorState:
    """Return the simulator's state, with webhooks that reach a receiver and come again soon."""
    server.state.configure(webhooks_over_http=True, webhook_retry_seconds=0.05)
    return server.state


@pytest.fixture
def hook(state: SimulatorState, receiver: Receiver) -> dict[str, str]:
    """Return the fields of a create that is called back."""
    return {"webhook_url": receiver.url, "webhook_secret": SECRET}


# -- as documented -------------------------------------------------------------------------------------------


def test_headers_and_body_are_as_documented(caller, receiver, hook):
    """Each event has its id in two headers, its name in header and body, a signature over the very bytes."""
    task_id = caller.submit(title="Grüße, \N{MUSICAL SYMBOL G CLEF}", **hook)
    calls = receiver.wait(2)

    assert [call.event for call in calls] == [STREAMING, COMPLETED]
    for call in calls:
        assert call.path == "/hook"
        assert call.headers["Content-Type"] == "application/json"
        assert call.webhook_id == call.headers["Idempotency-Key"]
        assert abs(int(call.timestamp) - call.time) < 2
        assert call.is_signed_with(SECRET)
        about = {name: value for name, value in call.body.items() if name != "data"}
        assert about == {
            "event": call.event,
            "task_id": task_id,
            "platform": "suno",
            "code": 200,
            "message": "success",
        }
        assert "Grüße".encode() in call.raw  # who signs its ASCII spelling is wrong
    assert len({call.webhook_id for call in calls}) == 2


def test_data_are_the_clips_of_the_task_answer(caller, state, receiver, hook):
    """The events show what a poll shows in that phase: one clip of two, then both."""
    state.job_rule = "reads:3"
    task_id = caller.submit(**hook)
    polls = [caller.poll(task_id).json() for _ in range(4)]
    streaming, completed = receiver.wait(2)

    assert [clip["state"] for clip in polls[2]["data"]] == ["succeeded", "running"]
    assert polls[2]["data"] == streaming.body["data"]
    assert polls[3]["data"] == completed.body["data"]


def test_media_urls_of_an_event_work(caller, state, receiver, hook):
    """The URLs lead to the simulator, signed where media URLs expire."""
    state.media_url_seconds = 60
    caller.submit(**hook)
    clip = receiver.wait(2)[1].body["data"][0]

    assert requests.get(clip["audio_url"], timeout=5).headers["Content-Type"] == "audio/mp3"


def test_secret_may_be_any_json_string(caller, receiver, hook):
    """Half a surrogate pair is one, too."""
    secret = "half \ud83c"
    caller.submit(**hook | {"webhook_secret": secret})
    call = receiver.wait(2)[1]
    digest = hmac.new(secret.encode("utf-8", "surrogatepass"), digestmod=hashlib.sha256)
    digest.update(call.timestamp.encode() + b"." + call.raw)

    assert call.headers["X-Webhook-Signature"] == f"sha256={digest.hexdigest()}"


def test_without_a_secret_nobody_can_verify(caller, receiver, state):
    """The service then signs with a secret of its own (facts 7.1)."""
    caller.submit(webhook_url=receiver.url)
    call = receiver.wait(2)[0]

    assert re.fullmatch("sha256=[0-9a-f]{64}", call.headers["X-Webhook-Signature"])
    assert not call.is_signed_with("")


def test_without_a_webhook_url_nothing_is_sent(caller, state, receiver, hook):
    """A job that names no URL is not called about, though another one's URL is known."""
    caller.submit(webhook_secret=SECRET)
    task_id = caller.submit(**hook)
    caller.submit()
    until(lambda: state.webhooks_accepted == 2)

    assert {task_id} == {call.body["task_id"] for call in receiver.calls}
    assert state.webhooks_sent == {STREAMING: 1, COMPLETED: 1}


@pytest.mark.parametrize(
    ("name", "code", "clips", "words"),
    [
        pytest.param("failed", 500, 0, "Generation failed, credits refunded", id="failed"),
        pytest.param("api-error", 500, 0, "Upstream error, credits refunded", id="api-error"),
        pytest.param("timeout", 504, 0, "Generation timed out, credits refunded", id="timeout"),
        pytest.param("forbidden", 403, 0, "Inappropriate content detected", id="forbidden"),
        pytest.param("gateway-timeout-refunded", 504, 0, "Task timed out, your credits", id="gateway"),
        pytest.param("all-failed", 500, 2, "Generation failed upstream", id="all-failed"),
    ],
)
def test_failed_job(caller, state, receiver, hook, name, code, clips, words):
    """The last event of a job that fails says so and why, and the credits are back by then."""
    caller.submit(prompt=f"simulate:{name}", **hook)
    last = receiver.wait(2)[1]

    assert (last.event, last.body["event"], last.body["code"]) == (FAILED, FAILED, code)
    assert last.body["message"].startswith(words)
    assert ["failed"] * clips == [clip["state"] for clip in last.body["data"]]
    assert state.credits == 1000


@pytest.mark.parametrize(
    "name", ["partial", "no-audio-url", "one-clip", "extended-pairs", "numeric-duration"]
)
def test_job_that_ends_oddly_is_completed(caller, receiver, hook, name):
    """What is no failure is completed, with just the clips that the task answer has."""
    task_id = caller.submit(prompt=f"simulate:{name}", **hook)
    last = receiver.wait(2)[1]

    assert (last.event, last.body["code"]) == (COMPLETED, 200)
    assert caller.poll(task_id).json()["data"] == last.body["data"]


# -- when ----------------------------------------------------------------------------------------------------


def test_events_come_when_their_time_has_come(caller, state, receiver, hook):
    """Under ``seconds:`` a clock sends them, nobody has to read."""
    state.job_rule = "seconds:0.6"
    task_id = caller.submit(**hook)
    length, begin = state.jobs[task_id].seconds, state.jobs[task_id].created_at.timestamp()
    streaming, completed = receiver.wait(2)
    until(lambda: len(state.webhooks) == 2)
    done_at = [delivery["done_at"] for delivery in state.webhooks]

    assert (streaming.event, completed.event) == (STREAMING, COMPLETED)
    assert 0.65 * length <= streaming.time - begin < length
    assert length <= completed.time - begin < length + 1
    assert [None, pytest.approx(begin + length, abs=0.001)] == done_at


def test_events_come_with_reads(caller, state, receiver, hook):
    """Under ``reads:N`` they come when the next read would show the phase, and not before."""
    state.job_rule = "reads:3"
    task_id, seen = caller.submit(**hook), []
    for expected in (0, 1, 2, 2):
        caller.poll(task_id)
        receiver.wait(expected)
        seen.append(len(receiver.calls))

    assert seen == [0, 1, 2, 2]


@pytest.mark.parametrize("by", ["thread", "control"])
def test_finish_sends_at_once(caller, state, receiver, hook, by):
    """A job that is ended by hand tells so, whatever its clock says and though it was to run for ever."""
    state.job_rule = "seconds:1000"
    task_id = caller.submit(prompt="simulate:running", **hook)
    begin = time.time()
    if by == "thread":
        state.finish(task_id)
    else:
        assert caller.control("POST", "/finish", json={"task_id": task_id}).status_code == 200
    assert receiver.events(2) == [STREAMING, COMPLETED]
    until(lambda: len(state.webhooks) == 2)

    assert begin <= state.webhooks[1]["done_at"] <= state.webhooks[1]["time"]


def test_job_that_is_held_tells_when_it_is_let_go(caller, state, receiver, hook):
    """The scenario ``running`` holds the events as well."""
    held = caller.submit(prompt="simulate:running", **hook)
    other = caller.submit(**hook)
    receiver.wait(2)
    state.clear_scenarios()

    assert [other, other, held, held] == [call.body["task_id"] for call in receiver.wait(4)]


def test_delay_is_between_event_and_sending(caller, state, receiver, hook):
    """The setting counts from the event."""
    state.webhook_delay = 0.2
    caller.submit(**hook)
    last = receiver.wait(2)[1]
    until(lambda: len(state.webhooks) == 2)

    assert 0.2 <= last.time - state.webhooks[1]["done_at"] < 1


def test_event_may_come_before_the_answer_to_the_create(caller, state, receiver, hook):
    """Who waits for the id has been told about it before."""
    state.slow_seconds = 0.8
    task_id = caller.submit(prompt="simulate:slow-create", **hook)
    answered = time.time()

    assert [task_id] * 2 == [call.body["task_id"] for call in receiver.calls]
    assert receiver.calls[1].time < answered


@pytest.mark.parametrize(
    "name", [s.name for s in CATALOGUE.values() if s.stage is Stage.BOOKED and s.name != "slow-create"]
)
def test_event_names_the_job_of_a_lost_answer(caller, state, receiver, hook, name):
    """A create that was booked and not answered as it should be is called back: that tells its id."""
    with suppress(requests.RequestException):
        caller.create(prompt=f"simulate:{name}", **hook)

    assert list(state.jobs) * 2 == [call.body["task_id"] for call in receiver.wait(2)]


def test_refused_create_sends_nothing(caller, state, receiver, hook):
    """Where nothing is booked there is nothing to tell."""
    caller.create(prompt="simulate:moderated", **hook)
    caller.create(prompt="another", **hook)
    receiver.wait(2)

    assert list(state.jobs) == [receiver.calls[0].body["task_id"]]


# -- again and again -----------------------------------------------------------------------------------------


def test_refused_event_comes_again_under_its_id_signed_anew(caller, state, receiver, hook):
    """Anything but 2xx is a refusal; the repetition has the time at which it is sent."""
    receiver.statuses = [200, 500]
    state.webhook_retry_seconds = 1.0
    caller.submit(**hook)
    _, first, second = receiver.wait(3)

    assert (first.event, first.webhook_id, first.raw) == (second.event, second.webhook_id, second.raw)
    assert int(second.timestamp) > int(first.timestamp)
    assert second.is_signed_with(SECRET)


def test_pauses_double_until_the_tries_are_used_up(caller, state, receiver, hook):
    """After the last try nothing comes; redirects are not followed, and the counters tell it all."""
    receiver.statuses = [200, 500, 302, 404]
    state.configure(webhook_tries=3)
    task_id = caller.submit(**hook)
    until(lambda: state.jobs[task_id].told)
    calls = receiver.calls[1:]
    pauses = [later.time - earlier.time for earlier, later in itertools.pairwise(calls)]
    seen = caller.control("GET", "/state").json()

    assert {"/hook"} == {call.path for call in receiver.calls}
    assert [call.event for call in calls] == [COMPLETED] * 3
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert seen["webhooks_sent"] == {STREAMING: 1, COMPLETED: 3}
    assert (seen["webhooks_accepted"], seen["webhooks_refused"]) == (1, {"500": 1, "302": 1, "404": 1})


def test_nobody_there_counts_as_no_answer(caller, state):
    """A receiver that is not there is refusal 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    state.webhook_tries = 2
    task_id = caller.submit(webhook_url=f"http://127.0.0.1:{port}/")
    until(lambda: state.jobs[task_id].told)

    assert (state.webhooks_accepted, state.webhooks_refused) == (0, {0: 4})


@pytest.mark.parametrize("url", [f"https://{'a' * 70}.invalid/", "https://", "https://[", "https://x:99999/"])
def test_url_that_leads_nowhere_counts_as_no_answer(caller, state, url):
    """What passes the check of a create and is no address harms nobody."""
    state.webhook_tries = 1
    task_id = caller.submit(webhook_url=url)
    until(lambda: state.jobs[task_id].told)

    assert state.webhooks_refused == {0: 2}


def test_receiver_that_is_silent_for_too_long_counts_as_no_answer(receiver, monkeypatch):
    """Nothing is waited for longer than the time-out; then the event comes again."""
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.1)
    receiver.held.set()
    settings = Settings(
        job_rule="at-once", webhooks_over_http=True, webhook_tries=2, webhook_retry_seconds=0.1
    )
    with SimulatorServer(settings) as server:
        task_id = Caller(server).submit(webhook_url=receiver.url)
        until(lambda: server.state.jobs[task_id].told)

    assert server.state.webhooks_refused == {0: 4}
    assert len(receiver.calls) == 4


def test_refused_streaming_event_does_not_hold_up_the_last_one(caller, state, receiver, hook):
    """Only the first attempt is waited for."""
    receiver.statuses = [500]
    caller.submit(**hook)

    assert receiver.events(3) == [STREAMING, COMPLETED, STREAMING]


def test_simulator_answers_while_a_receiver_does_not(caller, receiver, hook):
    """A receiver that hangs holds up nothing but its own webhooks."""
    receiver.held.set()
    caller.submit(**hook)
    receiver.wait(1)
    begin = time.monotonic()

    assert caller.credits() == 1000 - COST
    assert caller.poll(caller.submit()).status_code == 200
    assert time.monotonic() - begin < 2


# -- scenarios -----------------------------------------------------------------------------------------------


def _in_order(calls: list[Call]) -> None:
    assert [call.event for call in calls] == [STREAMING, COMPLETED]


def _twice(calls: list[Call]) -> None:
    assert [call.event for call in calls] == [STREAMING, STREAMING, COMPLETED, COMPLETED]
    assert list(Counter(call.webhook_id for call in calls).values()) == [2, 2]
    assert all(call.is_signed_with(SECRET) for call in calls)


def _early(calls: list[Call]) -> None:
    assert [call.event for call in calls] == [COMPLETED, STREAMING]
    assert all(call.is_signed_with(SECRET) for call in calls)


def _late(calls: list[Call]) -> None:
    _in_order(calls)
    done_at = datetime.fromisoformat(calls[1].body["data"][0]["created_at"]).timestamp()
    assert calls[1].time - done_at >= QUICK.slow_seconds


def _wrong_secret(calls: list[Call]) -> None:
    _in_order(calls)
    assert all(re.fullmatch("sha256=[0-9a-f]{64}", call.headers["X-Webhook-Signature"]) for call in calls)
    assert not any(call.is_signed_with(SECRET) for call in calls)


def _unsigned(calls: list[Call]) -> None:
    _in_order(calls)
    assert not any("signature" in name.lower() for call in calls for name in call.headers)


def _body_only(calls: list[Call]) -> None:
    _in_order(calls)
    assert all(call.headers["X-Signature"] == _hmac(SECRET, call.raw) for call in calls)
    assert not any(call.headers["X-Webhook-Signature"] for call in calls)


def _old(calls: list[Call]) -> None:
    _in_order(calls)
    assert all(abs(call.time - int(call.timestamp) - 3600) < 2 for call in calls)
    assert all(call.is_signed_with(SECRET) for call in calls)


# What each scenario makes of the two events of a job.
SCENARIOS: dict[str, tuple[int, Callable[[list[Call]], None]]] = {
    "webhook-lost": (0, lambda _calls: None),
    "webhook-twice": (4, _twice),
    "webhook-early": (2, _early),
    "webhook-late": (2, _late),
    "webhook-wrong-secret": (2, _wrong_secret),
    "webhook-unsigned": (2, _unsigned),
    "webhook-body-only": (2, _body_only),
    "webhook-old": (2, _old),
}


def test_every_webhook_scenario_is_tested():
    """A scenario that is added to the catalogue must be added here."""
    assert {s.name for s in CATALOGUE.values() if s.stage is Stage.WEBHOOK} == set(SCENARIOS)


@pytest.mark.parametrize("by", ["words", "arming"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_of_webhooks(caller, state, receiver, hook, name, by):
    """It does what it says to one job, however it is chosen, and the job itself goes on as any other."""
    if by == "arming":
        state.scenario(name, times=1)
    task_id = caller.submit(prompt=f"simulate:{name}" if by == "words" else "armed", **hook)
    until(lambda: state.jobs[task_id].told)
    number, check = SCENARIOS[name]
    calls = list(receiver.calls)
    caller.submit(**hook)
    usual = receiver.wait(number + 2)[number:]

    assert number == len(calls)
    check(calls)
    _in_order(usual)
    assert all(call.is_signed_with(SECRET) for call in usual)
    assert [clip["state"] for clip in caller.poll(task_id).json()["data"]] == ["succeeded"] * 2


def test_late_event_does_not_hold_up_other_jobs(caller, state, receiver, hook):
    """The event waits, not the sender."""
    state.slow_seconds = 0.5
    late = caller.submit(prompt="simulate:webhook-late", **hook)
    other = caller.submit(**hook)
    seen = [(call.body["task_id"], call.event) for call in receiver.wait(4)]

    assert seen == [(late, STREAMING), (other, STREAMING), (other, COMPLETED), (late, COMPLETED)]


@pytest.mark.parametrize("scenario", ["", "simulate:webhook-early"])
def test_every_second_last_event_is_lost(caller, state, receiver, hook, scenario):
    """The setting takes last events only, every n-th of the account, also of jobs with a scenario."""
    state.webhook_lost_every = 2
    ids = []
    for number in range(4):
        ids.append(caller.submit(prompt=f"song {number} {scenario}", **hook))
        until(lambda: state.jobs[ids[-1]].told)
    by_event = {
        event: [call.body["task_id"] for call in receiver.calls if call.event == event]
        for event in (STREAMING, COMPLETED)
    }

    assert {STREAMING: ids, COMPLETED: ids[::2]} == by_event


# -- what can be seen, and what cannot -----------------------------------------------------------------------


def test_deliveries_can_be_seen(caller, state, receiver, hook):
    """State and control route tell of each attempt: to where, of what, with what outcome, and when."""
    receiver.statuses = [200, 503]
    begin = time.time()
    task_id = caller.submit(**hook)
    until(lambda: state.jobs[task_id].told)
    seen = caller.control("GET", "/webhooks").json()
    about = [(item["url"], item["event"], item["task_id"], item["status"]) for item in seen]

    assert state.webhooks == seen
    assert [
        (receiver.url, e, task_id, s) for e, s in ((STREAMING, 200), (COMPLETED, 503), (COMPLETED, 200))
    ] == about
    assert [call.webhook_id for call in receiver.calls] == [item["webhook_id"] for item in seen]
    assert all(
        sent.time <= item["time"] < sent.time + 1 for sent, item in zip(receiver.calls, seen, strict=True)
    )
    assert all(begin - 0.01 <= item["done_at"] <= item["time"] for item in seen[1:])


def test_reset_ends_webhooks_and_counters(caller, server, state, receiver, hook):
    """Jobs that are forgotten are not called about, not even by a repetition that was due."""
    receiver.statuses = [500] * 2
    caller.submit(**hook)
    receiver.wait(2)
    server.reset()
    server.state.configure(webhooks_over_http=True)
    task_id = caller.submit(**hook)
    receiver.wait(4)
    until(lambda: state.jobs[task_id].told)
    time.sleep(0.15)  # longer than the pause before the repetition

    assert [task_id] * 2 == [call.body["task_id"] for call in receiver.calls[2:]]
    assert (state.webhooks_sent, state.webhooks_accepted) == ({STREAMING: 1, COMPLETED: 1}, 2)
    assert len(state.webhooks) == 2


def test_stop_leaves_nothing_behind(receiver, caplog):
    """A webhook that is under way, one that is to come again and one with a delay do not hold up the stop."""
    threads = set(threading.enumerate())
    settings = Settings(job_rule="at-once", webhooks_over_http=True, webhook_retry_seconds=60)
    with SimulatorServer(settings) as server:
        caller = Caller(server)
        receiver.statuses = [500, 500]
        caller.submit(webhook_url=receiver.url)
        receiver.wait(2)
        receiver.held.set()
        caller.submit(webhook_url=receiver.url)
        receiver.wait(3)
        server.state.webhook_delay = 60
        caller.submit(webhook_url=receiver.url)
        server.state.job_rule = "seconds:1000"
        caller.submit(webhook_url=receiver.url)
        begin = time.monotonic()
    took = time.monotonic() - begin
    receiver.held.clear()
    until(lambda: threads >= set(threading.enumerate()))
    del caller, server
    gc.collect()  # what was left open would be complained about now

    assert took < 2
    assert len(receiver.calls) == 3
    assert caplog.messages == []


def test_secret_is_nowhere_to_be_seen(receiver):
    """Neither the controls nor the log of a verbose simulator hold it; options reach the settings."""
    options = ["--webhook-delay", "0.01", "--webhook-tries", "2", "--webhook-retry-seconds", "0.01"]
    command = [
        *(sys.executable, "-m", "include.musicapi_simulator", "--jobs", "at-once", "--verbose"),
        *("--webhooks-over-http", "--webhook-lost-every", "2"),
        *options,
    ]
    receiver.statuses = [500, 500, 500, 500]
    body = SONG | {"webhook_url": receiver.url, "webhook_secret": SECRET}
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen = ""
        while "ready" not in seen:
            seen += process.stdout.readline()
        root = re.search(r"(http://\S+)/api/v1 ", seen)[1]
        for changes in ({}, {"mv": "nonsense"}, {"prompt": "simulate:drop-after-booking"}):
            with suppress(requests.RequestException):
                headers = {"Authorization": "Bearer simulator-key"}
                requests.post(f"{root}/api/v1/sonic/create", json=body | changes, headers=headers, timeout=5)
            receiver.wait(4)
        calls = receiver.wait(5)
        for path in ("/_control/state", "/_control/webhooks", "/_control/scenarios", "/"):
            seen += requests.get(root + path, timeout=5).text
        process.terminate()
        seen += process.communicate(timeout=10)[0]

    assert Counter([STREAMING, STREAMING, COMPLETED, COMPLETED, STREAMING]) == Counter(c.event for c in calls)
    assert all(call.is_signed_with(SECRET) for call in calls)
    assert '"webhooks_refused":{"500":4}' in seen
    assert "POST /api/v1/sonic/create" in seen
    assert SECRET not in seen


@pytest.mark.parametrize(
    ("over_http", "url", "status"),
    [
        (False, "http://127.0.0.1:1/hook", 400),
        (True, "http://127.0.0.1:1/hook", 200),
        (True, "http://localhost:1/hook", 200),
        (True, "http://[::1]:1/hook", 200),
        (True, "https://example.invalid/hook", 200),
        (True, "http://127.0.0.1.example.invalid/hook", 400),
        (True, "http://127.0.0.1@example.invalid/hook", 400),
        (True, "http://192.168.0.1/hook", 400),
        (True, "http://[::1/hook", 400),
        (True, "http://127.0.0.1:1/" + "x" * 1024, 400),
        (True, "ftp://127.0.0.1/", 400),
    ],
)
def test_http_only_where_allowed_and_to_this_machine(caller, state, over_http, url, status):
    """Otherwise https it is, as with the real service."""
    state.configure(webhooks_over_http=over_http, webhook_tries=1, webhook_delay=60.0)
    answer = caller.create(webhook_url=url)

    assert status == answer.status_code
    assert status == 200 or answer.json()["error"].startswith("webhook_url")


# -- after a restart -----------------------------------------------------------------------------------------


def _server(path: Path, **changes: Any) -> SimulatorServer:
    settings = {"job_rule": "at-once", "webhooks_over_http": True, "webhook_retry_seconds": 60.0} | changes
    return SimulatorServer(Settings(**settings), journal=path)


def test_job_that_was_not_done_is_told_after_a_restart(tmp_path, receiver):
    """The journal knows to whom, and with what to sign; the media URLs are those of the create's host."""
    hook = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    with _server(tmp_path / "journal", job_rule="seconds:1000") as server:
        task_id = Caller(server).submit(**hook)
        root = server.base_url.removesuffix("/api/v1")
    with _server(tmp_path / "journal") as again:
        assert receiver.calls == []
        again.state.finish(task_id)
        calls = receiver.wait(2)

    assert [(STREAMING, task_id), (COMPLETED, task_id)] == [(c.event, c.body["task_id"]) for c in calls]
    assert all(call.is_signed_with(SECRET) for call in calls)
    assert calls[1].body["data"][0]["audio_url"].startswith(f"{root}/media/")


def test_only_who_was_not_told_is_told_again(tmp_path, receiver):
    """An event that was accepted is not repeated; one that was still to come again keeps its id."""
    with _server(tmp_path / "journal") as server:
        told = Caller(server).submit(webhook_url=receiver.url)
        until(lambda: server.state.jobs[told].told)
        receiver.statuses = [200, 500]
        untold = Caller(server).submit(webhook_url=receiver.url)
        receiver.wait(4)
    with _server(tmp_path / "journal"):
        calls = receiver.wait(6)
    with _server(tmp_path / "journal") as at_last:
        state = at_last.state
        other = Caller(at_last).submit(webhook_url=receiver.url)
        until(lambda: state.jobs[other].told)

    assert [told] * 2 + [untold] * 4 + [other] * 2 == [call.body["task_id"] for call in receiver.calls]
    assert [call.webhook_id for call in calls[2:4]] == [call.webhook_id for call in calls[4:6]]
