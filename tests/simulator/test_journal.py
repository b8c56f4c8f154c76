"""A simulator with a journal goes on where it was, however it ended."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
import requests

from include.musicapi_simulator import Settings, SimulatorServer
from tests.simulator.conftest import SONG, Caller

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
COST = 15
PRESENT = Settings(job_rule="at-once", song_seconds=1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the journal is."""
    return tmp_path / "journal.jsonl"


def _server(path: Path, **changes: object) -> SimulatorServer:
    return SimulatorServer(Settings(**(PRESENT.__dict__ | changes)), journal=path)


# -- killed --------------------------------------------------------------------------------------------------


@contextmanager
def _process(path: Path) -> Iterator[str]:
    """Run the command, give its base URL, and kill it at the end."""
    command = [sys.executable, "-m", "include.musicapi_simulator", "--journal", str(path)]
    with subprocess.Popen(
        [*command, "--credits", "100000", "--jobs", "at-once"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as process:
        yield re.search(r"http://\S+", process.stdout.readline())[0]
        process.send_signal(signal.SIGKILL)


def _call(method, url, **options):
    headers = {"Authorization": "Bearer simulator-key", "Connection": "close"}
    return requests.request(method, url, headers=headers, timeout=5, **options)


def _buy_until_it_dies(base_url: str, answered: list[str]) -> None:
    try:
        while True:
            answered.append(_call("POST", f"{base_url}/sonic/create", json=SONG).json()["task_id"])
    except requests.RequestException:
        return


def test_whatever_was_answered_survives_sigkill(path):
    """Killed again and again between creates: each id that a client got is known, each debit is there."""
    buyers, kills, answered = 3, 3, []
    for kill in range(kills):
        with _process(path) as base_url:
            threads = [Thread(target=_buy_until_it_dies, args=(base_url, answered)) for _ in range(buyers)]
            for thread in threads:
                thread.start()
            while len(answered) < 20 * (kill + 1):
                assert any(thread.is_alive() for thread in threads)
                time.sleep(0.005)
        for thread in threads:
            thread.join(10)
    with _process(path) as base_url:
        seen = requests.get(base_url.replace("/api/v1", "/_control/state"), timeout=5).json()
        states = {_call("GET", f"{base_url}/sonic/task/{task_id}").status_code for task_id in answered}

    assert {200} == states
    assert len(answered) <= seen["jobs"]["done"] <= len(answered) + buyers * kills
    assert {SONG["prompt"]: seen["jobs"]["done"]} == seen["creates_booked"]
    assert 100_000 - COST * seen["jobs"]["done"] == seen["credits"]


# -- what is as it was ---------------------------------------------------------------------------------------

ABOUT = ("task_id", "clip_ids", "created_at", "rule", "seconds", "paid", "scenarios", "body")


def _about(server: SimulatorServer) -> list[dict[str, object]]:
    return [{name: getattr(job, name) for name in ABOUT} for job in server.state.jobs.values()]


def test_jobs_clips_and_balance_are_as_they_were(path):
    """Ids, times, rules, lengths, payments, scenarios, counters; and the next job differs from the last."""
    with _server(path, credits=100, extra_credits=20) as server:
        caller = Caller(server)
        caller.submit(prompt="half an emoji \ud83c and simulate:partial simulate:empty-data*3")
        server.state.configure(job_rule="seconds:60")
        server.state.scenario("all-failed", times=1)
        caller.submit()
        caller.submit()
        before = _about(server)
        booked = dict(server.state.creates_booked)
    with _server(path) as again:
        after = _about(again)
        clips = list(again.state.clips)
        booked_then = dict(again.state.creates_booked)
        again.state.configure(job_rule="seconds:60")
        Caller(again).submit()
        lengths = [job.seconds for job in again.state.jobs.values()]

    assert before == after
    assert [clip_id for job in before for clip_id in job["clip_ids"]] == clips
    assert booked == booked_then
    assert (again.state.credits, again.state.extra_credits) == (100 + 20 - 4 * COST, 0)
    assert len(set(lengths)) == 4


def test_answers_are_as_they_were(path):
    """Who reads a task before and after reads the same, and hears the same."""
    with _server(path) as server:
        task_id = Caller(server).submit()
        before = Caller(server).poll(task_id).json()
        track = requests.get(before["data"][0]["audio_url"], timeout=5).content
    with _server(path) as again:
        after = Caller(again).poll(task_id).json()
        same_track = requests.get(after["data"][0]["audio_url"], timeout=5).content

    assert before == json.loads(json.dumps(after).replace(again.base_url[:-7], server.base_url[:-7]))
    assert track == same_track


def test_time_while_dead_counts(path):
    """A job that takes minutes is done when the simulator was away for an hour."""
    with _server(path, job_rule="seconds:100") as server:
        early, late = Caller(server).submit(), Caller(server).submit()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    first["created_at"] = "2026-01-01T00:00:00+00:00"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in (first, second)))
    with _server(path) as again:
        answers = [Caller(again).poll(task_id).status_code for task_id in (early, late)]

    assert answers == [200, 202]


def test_reads_begin_anew_and_come_to_an_end(path):
    """Under ``reads:N`` a job is read N times again, then it is done."""
    with _server(path, job_rule="reads:2") as server:
        task_id = Caller(server).submit()
        Caller(server).poll(task_id)
    with _server(path) as again:
        states = [
            [clip["state"] for clip in Caller(again).poll(task_id).json().get("data", [])] for _ in range(3)
        ]

    assert states == [[], ["running"] * 2, ["succeeded"] * 2]


def test_refund_happens_once(path):
    """A failed job is refunded before or after a restart, never twice, and stays failed."""
    with _server(path, job_rule="reads:1") as server:
        task_id = Caller(server).submit(prompt="simulate:failed")
        other = Caller(server).submit(prompt="simulate:failed again")
        for _ in range(2):
            Caller(server).poll(task_id)
        assert Caller(server).credits() == 1000 - COST
    balances = []
    for _ in range(2):
        with _server(path, job_rule="reads:1") as again:
            assert Caller(again).poll(task_id).json()["type"] == "failed"
            Caller(again).poll(other)
            Caller(again).poll(other)
            balances.append((Caller(again).credits(), again.state.snapshot()["jobs_refunded"]))

    assert balances == [(1000, 2), (1000, 2)]


def test_finish_and_clearing_survive(path):
    """What a test did to jobs was done to them, and what it cleared later does not refund earlier jobs."""
    with _server(path, job_rule="seconds:1000") as server:
        finished = Caller(server).submit(prompt="simulate:running")
        cleared = Caller(server).submit(prompt="simulate:failed")
        server.state.finish(finished)
        server.state.clear_scenarios()
        server.state.finish(cleared)
    with _server(path) as again:
        answers = [Caller(again).poll(task_id).json() for task_id in (finished, cleared)]
        balance = Caller(again).credits()

    assert [[clip["state"] for clip in answer["data"]] for answer in answers] == [["succeeded"] * 2] * 2
    assert balance == 1000 - 2 * COST


@pytest.mark.parametrize("name", ["throttled*2", "drop-after-booking"])
def test_scenario_that_acted_on_a_create_does_not_act_again(path, name):
    """The words of a booked job have had their effect."""
    with _server(path) as server:
        while not server.state.jobs:
            _swallow(lambda: Caller(server).create(prompt=f"simulate:{name}"))
    with _server(path) as again:
        status = Caller(again).create(prompt=f"simulate:{name}").status_code

    assert status == 200


def _swallow(call):
    try:
        call()
    except requests.RequestException:
        return


# -- the file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ['{"event": "boo', "{}"], ids=["half", "without its end"])
def test_torn_last_line_is_ignored(path, torn):
    """A line that was being written at the kill was never answered; later lines are whole again."""
    with _server(path) as server:
        first = Caller(server).submit()
    with path.open("a") as file:
        file.write(torn)
    with _server(path) as again:
        second = Caller(again).submit()
    with _server(path) as at_last:
        jobs = list(at_last.state.jobs)

    assert [first, second] == jobs


def test_another_file_is_refused(path):
    """What is no journal is not played as one; the error tells the line."""
    path.write_text("prompt_id,prompt\n")

    with pytest.raises(ValueError, match="line 1"):
        _server(path)


def test_reset_empties_the_journal(path):
    """After a reset nothing comes back."""
    with _server(path) as server:
        Caller(server).submit()
        server.reset()
    with _server(path) as again:
        assert (again.state.jobs, again.state.credits) == ({}, 1000)
