"""The trigger: one event, whatever happens, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider import waiting
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIError,
    MusicAPITriggerEventError,
)
from musicapi_provider.triggers.musicapi import STATUSES, MusicAPITaskTrigger, error_from, wait_from

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"}
GET_TASK = "GET /sonic/task/{task_id}"


@pytest.fixture
def music_task_id(simulator: SimulatorServer) -> str:
    """Return a music task that is done at the third read."""
    return book(simulator)


def book(simulator: SimulatorServer, prompt: str = "La la") -> str:
    """Book a music task without a request."""
    job = simulator.state.book({**BODY, "prompt": prompt})
    assert job is not None
    return job.task_id


def trigger_for(
    *ids: str, timeout: float = 5.0, first_look: float = 0.0, **changes: Any
) -> MusicAPITaskTrigger:
    """Return a trigger that begins now."""
    now = time.time()
    arguments: dict[str, Any] = {
        "music_task_ids": ids,
        "musicapi_conn_id": "musicapi_default",
        "timeout": timeout,
        "started": now,
        "first_look_time": now + first_look,
        **changes,
    }
    return MusicAPITaskTrigger(**arguments)


async def events_of(trigger: MusicAPITaskTrigger) -> list[dict[str, Any]]:
    """Run it to its end and return all payloads."""
    return [event.payload async for event in trigger.run()]


def test_serialize_round_trip_and_no_key(connection: str, simulator: SimulatorServer) -> None:
    """What is stored is JSON, makes the same trigger again, and holds neither key nor header."""
    trigger = trigger_for("a", "b", poll_interval=7.0, doubts={"a": 5.5})
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))

    assert again.serialize() == trigger.serialize()
    assert simulator.api_key not in json.dumps(arguments)
    assert "music_task_ids" in arguments
    assert "task_id" not in arguments


@pytest.mark.usefixtures("connection")
async def test_finished_tasks_make_one_event(simulator: SimulatorServer) -> None:
    """It comes when all are final, and says what it is about."""
    ids = [book(simulator), book(simulator, "Lo lo")]
    trigger = trigger_for(*ids)
    events = await events_of(trigger)

    assert events == [{"status": "finished", "music_task_ids": ids, "started": trigger.started, "doubts": {}}]
    assert simulator.state.requests[GET_TASK] == 6  # three looks at each; final ones are not asked for again


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("name", ["failed", "all-failed", "partial"])
async def test_failed_tasks_are_finished_too(name: str, simulator: SimulatorServer) -> None:
    """Whoever resumes looks again and judges; the event is only a hint."""
    simulator.state.scenario(name)
    events = await events_of(trigger_for(book(simulator)))

    assert [event["status"] for event in events] == ["finished"]


@pytest.mark.usefixtures("connection")
async def test_end_of_time_makes_one_event(
    simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """The deadline is wall-clock and kept inside the trigger."""
    simulator.state.scenario("running")
    events = await events_of(trigger_for(book(simulator), timeout=0.2))

    assert [event["status"] for event in events] == ["timeout"]
    assert 0.2 <= stopwatch() < 2


@pytest.mark.usefixtures("connection")
async def test_deadline_that_has_passed_makes_one_event_at_once(
    music_task_id: str, simulator: SimulatorServer
) -> None:
    """A trigger that goes on in another process after its time does not wait again."""
    events = await events_of(trigger_for(music_task_id, timeout=-5))

    assert [event["status"] for event in events] == ["timeout"]
    assert simulator.state.requests[GET_TASK] == 0


@pytest.mark.usefixtures("connection")
async def test_revoked_key_makes_one_error_event(
    music_task_id: str, simulator: SimulatorServer, logged: Log
) -> None:
    """It ends at once, names the class, and shows no key."""
    key, simulator.state.api_key = simulator.state.api_key, "new"
    events = await events_of(trigger_for(music_task_id))

    assert [(event["status"], event["error"]) for event in events] == [("error", "MusicAPIAuthError")]
    assert "does not accept the key" in events[0]["message"]
    assert simulator.state.requests[GET_TASK] == 1
    assert key not in f"{events} {logged.text}"


async def test_missing_connection_makes_one_error_event(simulator: SimulatorServer) -> None:
    """The triggerer may lack what the worker has; that must not be a crash."""
    events = await events_of(trigger_for("some-id", musicapi_conn_id="nowhere"))

    assert [(event["status"], event["error"]) for event in events] == [
        ("error", "MusicAPIConfigurationError")
    ]


async def test_error_event_does_not_come_before_the_first_look_either(
    simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """Any early event meets Airflow's deferral race, also one about a missing connection."""
    events = await events_of(trigger_for("some-id", musicapi_conn_id="nowhere", first_look=0.2))

    assert [event["status"] for event in events] == ["error"]
    assert stopwatch() >= 0.2


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    "name",
    ["read-500", "read-502", "read-504", "read-429", "read-truncated", "read-html", "read-drop"],
)
async def test_blip_of_a_poll_is_no_event(name: str, music_task_id: str, simulator: SimulatorServer) -> None:
    """Passing errors are waited out; then it finishes."""
    simulator.state.scenario(name)
    events = await events_of(trigger_for(music_task_id))

    assert [event["status"] for event in events] == ["finished"]


@pytest.mark.usefixtures("connection")
async def test_unknown_id_in_its_grace_is_waited_for(simulator: SimulatorServer) -> None:
    """Read-after-write delay is no failure."""
    simulator.state.scenario("not-found-at-first")
    events = await events_of(trigger_for(book(simulator)))

    assert [event["status"] for event in events] == ["finished"]


@pytest.mark.usefixtures("connection")
async def test_unknown_id_after_its_grace_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is final, and whoever resumes will say so."""
    monkeypatch.setattr(waiting, "UNKNOWN_TASK_GRACE", 0.0)
    events = await events_of(trigger_for("nobody-knows"))

    assert [event["status"] for event in events] == ["finished"]


@pytest.mark.usefixtures("connection")
async def test_retry_after_pauses_the_looks(
    music_task_id: str, simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """The server's pace beats the poll interval."""
    simulator.state.retry_after = 0.3
    simulator.state.scenario("read-429", times=1)
    events = await events_of(trigger_for(music_task_id))

    assert [event["status"] for event in events] == ["finished"]
    assert stopwatch() >= 0.3


@pytest.mark.usefixtures("connection")
async def test_first_look_comes_late(
    music_task_id: str, simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """Before ``first_look_time`` nothing is asked, even if the job is done."""
    simulator.state.finish(music_task_id)
    running = asyncio.create_task(events_of(trigger_for(music_task_id, first_look=0.3)))
    await asyncio.sleep(0.15)
    asked_early = simulator.state.requests[GET_TASK]
    events = await running

    assert asked_early == 0
    assert [event["status"] for event in events] == ["finished"]
    assert stopwatch() >= 0.3


@pytest.mark.usefixtures("connection")
async def test_own_poll_interval_beats_the_connections(
    simulator: SimulatorServer, music_task_id: str
) -> None:
    """The connection's 0.01 s would have finished long before."""
    events = await events_of(trigger_for(music_task_id, timeout=0.2, poll_interval=30.0))

    assert [event["status"] for event in events] == ["timeout"]
    assert simulator.state.requests[GET_TASK] == 0  # whoever resumes looks


@pytest.mark.usefixtures("connection")
async def test_looks_share_one_connection(simulator: SimulatorServer) -> None:
    """Waiting is cheap for the API, too."""
    await events_of(trigger_for(book(simulator), book(simulator)))

    assert simulator.state.connections_opened == 1


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("way", ["finished", "error", "cancelled"])
async def test_session_is_closed(
    way: str, music_task_id: str, simulator: SimulatorServer, unclosed_sessions: list[str]
) -> None:
    """However a run ends, it leaves no open session in the triggerer."""
    if way == "error":
        simulator.state.scenario("read-unauthorized")
    if way == "cancelled":
        simulator.state.scenario("running")
        music_task_id = book(simulator)
    running = asyncio.create_task(events_of(trigger_for(music_task_id)))
    if way == "cancelled":
        await asyncio.sleep(0.1)
        running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    gc.collect()

    assert simulator.state.requests[GET_TASK] >= 1
    assert unclosed_sessions == []


async def test_on_kill_logs_the_ids_and_touches_nothing(
    connection: str, music_task_id: str, simulator: SimulatorServer, logged: Log
) -> None:
    """The API has no cancel call; the reader learns that the credits stay spent."""
    before = dict(simulator.state.requests)
    await trigger_for(music_task_id, "other-id").on_kill()

    assert music_task_id in logged.text
    assert "other-id" in logged.text
    assert "credits stay spent" in logged.text
    assert before == dict(simulator.state.requests)


@pytest.mark.usefixtures("connection")
async def test_doubts_go_out_and_come_back(simulator: SimulatorServer) -> None:
    """How long an odd answer has been seen outlives the process."""
    simulator.state.job_rule = "at-once"
    simulator.state.scenario("no-audio-url")
    music_task_id = book(simulator)
    (event,) = await events_of(trigger_for(music_task_id, timeout=0.1))
    wait = wait_from(event, timeout=100)

    assert [music_task_id] == list(event["doubts"])
    assert wait.doubts == event["doubts"]


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_wait_comes_out_of_each_event_of_the_closed_set(status: str) -> None:
    """With its ids, its start and the operator's time."""
    wait = wait_from({"status": status, "music_task_ids": ["a"], "started": 1.0}, timeout=7)

    assert (wait.music_task_ids, wait.started, wait.timeout, wait.doubts) == (["a"], 1.0, 7, {})


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(None, id="none"),
        pytest.param("success", id="text, as dag.test sends"),
        pytest.param({}, id="empty"),
        pytest.param({"status": "success", "music_task_ids": ["a"], "started": 1.0}, id="unknown status"),
        pytest.param({"music_task_ids": ["a"], "started": 1.0}, id="no status"),
        pytest.param({"status": ["finished"], "music_task_ids": ["a"], "started": 1.0}, id="status no text"),
        pytest.param({"status": "finished", "started": 1.0}, id="no ids"),
        pytest.param({"status": "finished", "music_task_ids": [], "started": 1.0}, id="empty ids"),
        pytest.param({"status": "finished", "music_task_ids": "a", "started": 1.0}, id="ids as text"),
        pytest.param({"status": "finished", "music_task_ids": ["a"]}, id="no start"),
        pytest.param({"status": "finished", "music_task_ids": ["a"], "started": "now"}, id="start as text"),
    ],
)
def test_any_other_event_is_refused(event: Any) -> None:
    """Nothing may pass silently."""
    with pytest.raises(MusicAPITriggerEventError, match="unknown event"):
        wait_from(event, timeout=7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("MusicAPIAuthError", MusicAPIAuthError, id="known"),
        pytest.param("SomethingElse", MusicAPIError, id="unknown"),
        pytest.param("StrEnum", MusicAPIError, id="no error"),
        pytest.param(None, MusicAPIError, id="none"),
    ],
)
def test_error_of_an_event_has_the_class_the_trigger_met(
    name: str | None, expected: type[MusicAPIError]
) -> None:
    """Both paths raise the same type."""
    error = error_from({"status": "error", "error": name, "message": "the words"})

    assert type(error) is expected
    assert "the words" in str(error)


def test_other_events_carry_no_error() -> None:
    """Only the status ``error`` does."""
    assert error_from({"status": "finished", "error": "MusicAPIAuthError"}) is None
