"""Start, stop, command line and control routes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from include.musicapi_simulator import Settings, SimulatorServer
from include.musicapi_simulator.jobs import JobRule
from include.musicapi_simulator.scenarios import CATALOGUE

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_command_says_ready_in_time_and_ends_cleanly(number):
    """The command prints one line when it accepts connections, and exits with 0 on a signal."""
    begin = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "include.musicapi_simulator",
        "--api-key",
        "k",
        "--credits",
        "7",
        "--jobs",
        "reads:2",
    ]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        took = time.monotonic() - begin
        base_url = re.fullmatch(
            r"MusicAPI simulator ready: (http://127\.0\.0\.1:\d+/api/v1) \(key: k\)\n", line
        )[1]
        answer = requests.get(f"{base_url}/get-credits", headers={"Authorization": "Bearer k"}, timeout=5)
        process.send_signal(number)
        output = process.communicate(timeout=10)

    assert answer.json()["credits"] == 7
    assert (process.returncode, output) == (0, ("", ""))
    assert took < 2


def test_command_refuses_a_job_rule_it_does_not_know():
    """A misspelt rule is refused at the start, not at the first create."""
    command = [sys.executable, "-m", "include.musicapi_simulator", "--jobs", "soon"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10, check=False)

    assert ended.returncode == 2
    assert "reads:N" in ended.stderr


@pytest.mark.parametrize("text", ["", "soon", "reads", "reads:x", "seconds:", "at-once:3"])
def test_job_rule_that_makes_no_sense(text):
    """Only the three rules are understood."""
    with pytest.raises(ValueError, match="at-once"):
        JobRule.parse(text)


def test_start_and_stop_leave_nothing_behind():
    """After stop the port is closed and the thread gone, although a slow answer was on its way."""
    threads = set(threading.enumerate())
    server = SimulatorServer(Settings(slow_seconds=30)).start()
    server.state.scenario("read-slow")
    waiting = threading.Thread(target=_swallow, args=(server.base_url + "/get-credits", server.api_key))
    waiting.start()
    while not server.state.requests:
        time.sleep(0.01)
    server.stop()
    waiting.join(5)

    assert not waiting.is_alive()
    assert threads == set(threading.enumerate())
    port = int(re.search(r":(\d+)/", server.base_url)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _swallow(url, key):
    try:
        requests.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=10)
    except requests.RequestException:
        return


def test_two_servers_do_not_share_anything():
    """Servers in one process have their own ports, jobs and credits."""
    with SimulatorServer(Settings(credits=1)) as one, SimulatorServer(Settings(credits=2)) as two:
        balances = [
            requests.get(
                f"{s.base_url}/get-credits", headers={"Authorization": f"Bearer {s.api_key}"}, timeout=5
            )
            for s in (one, two)
        ]

    assert [balance.json()["credits"] for balance in balances] == [1, 2]


def test_middleware_sees_every_request():
    """What is put around the application before the start sees requests as they arrive."""
    seen = []

    def watched(app):
        async def watch(scope, receive, send):
            seen.append(scope["path"])
            await app(scope, receive, send)

        return watch

    server = SimulatorServer()
    server.app.add_middleware(watched)
    with server:
        requests.get(f"{server.base_url}/get-credits", timeout=5)

    assert seen == ["/api/v1/get-credits"]


def test_reset_restores_settings_and_forgets_jobs(caller, state):
    """A reset leaves a server as it was started."""
    state.configure(credits=3, api_key="other", job_rule="reads:9")
    state.scenario("read-500")
    caller.server.reset()

    assert (state.credits, state.api_key, state.job_rule) == (1000, "simulator-key", "at-once")
    assert (state.armed, state.jobs, dict(state.requests)) == ([], {}, {})


def test_control_state_counts_what_happened(caller):
    """The control route shows requests, bookings, refusals, credits and jobs."""
    caller.poll(caller.submit())
    caller.create(mv="nonsense")
    seen = caller.control("GET", "/state").json()

    assert seen["requests"] == {"POST /sonic/create": 2, "GET /sonic/task/{task_id}": 1}
    assert seen["creates_booked"] == {"[Verse]\nPaper boats along the river": 1}
    assert seen["creates_refused"] == {"400": 1}
    assert (seen["credits"], seen["jobs"], seen["media_requests_with_key"]) == (985, {"done": 1}, 0)
    assert seen["connections_opened"] >= 3


def test_control_arms_and_disarms(caller):
    """Scenarios can be armed, seen and cleared over HTTP."""
    caller.control("POST", "/scenarios", json={"name": "moderated", "times": None, "match": "boats"})
    armed = caller.control("GET", "/state").json()["armed"]
    refused = caller.create().status_code
    caller.control("DELETE", "/scenarios")

    assert armed == [{"name": "moderated", "left": None, "match": "boats"}]
    assert (refused, caller.create().status_code) == (403, 200)


def test_control_lists_the_catalogue(caller):
    """The list and the front page name every scenario."""
    listed = caller.control("GET", "/scenarios").json()
    page = requests.get(caller.server.base_url.removesuffix("/api/v1"), timeout=5).text

    assert set(CATALOGUE) == set(listed)
    assert [name for name in CATALOGUE if name not in page] == []


def test_control_changes_settings_and_resets(caller, state):
    """Settings can be changed over HTTP, and reset."""
    given = {"job_rule": "reads:1", "credits": 20, "api_key": "new", "media_url_seconds": 3, "one_song": True}
    caller.control("POST", "/settings", json=given)
    changed = {name: getattr(state, name) for name in given}
    caller.control("POST", "/reset")

    assert given == changed
    assert (state.media_url_seconds, state.one_song) == (0.0, False)
    assert (state.job_rule, state.credits, state.api_key) == ("at-once", 1000, "simulator-key")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/settings", {"colour": "blue"}),
        ("/settings", {"job_rule": "soon"}),
        ("/settings", {"credits": "many"}),
        ("/finish", {"task_id": "nobody's"}),
        ("/settings", {"webhook_tries": 2.5}),
        ("/scenarios", {"name": "partail"}),
        ("/scenarios", {"title": "partial"}),
        ("/scenarios", ["partial"]),
    ],
)
def test_control_refuses_nonsense(caller, path, body):
    """What the controls do not understand is 400 with a reason."""
    answer = caller.control("POST", path, json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]
