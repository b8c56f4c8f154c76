"""The trigger: one event, whatever happens, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import TaskSuccessEvent

from musicapi_provider.api.async_client import MusicAPIAsyncClient
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIError,
    MusicAPITriggerEventError,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.triggers import musicapi as trigger_module
from musicapi_provider.triggers.events import BEGIN, STATUSES, error_from, wait_from
from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from musicapi_provider.triggers.worker_free import STARTED_KEY
from musicapi_provider.waiting import wait as waiting
from musicapi_provider.waiting.poller import Poller

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log, TriggererXComs

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
    *ids: str, timeout: float = 5.0, first_poll: float = 0.0, **changes: Any
) -> MusicAPITaskTrigger:
    """Return a trigger that begins now."""
    now = time.time()
    arguments: dict[str, Any] = {
        "music_task_ids": ids,
        "musicapi_conn_id": "musicapi_default",
        "timeout": timeout,
        "started": now,
        "first_poll_time": now + first_poll,
        **changes,
    }
    return MusicAPITaskTrigger(**arguments)


async def events_of(trigger: MusicAPITaskTrigger) -> list[dict[str, Any]]:
    """Run it to its end and return all payloads."""
    return [event.payload async for event in trigger.run()]


def test_serialize_round_trip_and_no_key(connection: str, simulator: SimulatorServer) -> None:
    """What is stored is JSON, makes the same trigger again, and holds neither key nor header."""
    trigger = trigger_for("a", "b", poll_interval=7.0, doubts={"a": [5.5, 90.0]})
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
    assert simulator.state.requests[GET_TASK] == 6  # three polls of each; final ones are not asked for again


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("name", ["failed", "all-failed", "partial"])
async def test_failed_tasks_are_finished_too(name: str, simulator: SimulatorServer) -> None:
    """Whoever resumes polls again and judges; the event is only a hint."""
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


async def test_error_event_does_not_come_before_the_first_poll_either(
    simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """Any early event meets Airflow's deferral race, also one about a missing connection."""
    events = await events_of(trigger_for("some-id", musicapi_conn_id="nowhere", first_poll=0.2))

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
async def test_first_poll_comes_late(
    music_task_id: str, simulator: SimulatorServer, stopwatch: Callable[[], float]
) -> None:
    """Before ``first_poll_time`` nothing is asked, even if the job is done."""
    simulator.state.finish(music_task_id)
    running = asyncio.create_task(events_of(trigger_for(music_task_id, first_poll=0.3)))
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
    assert simulator.state.requests[GET_TASK] == 0  # whoever resumes polls


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


# -- without a worker ----------------------------------------------------------------------------------------


def in_triggerer(trigger: MusicAPITaskTrigger, **changes: Any) -> MusicAPITaskTrigger:
    """Give it a task instance, as the triggerer does."""
    place = {"dag_id": "dag", "task_id": "wait", "run_id": "run", "map_index": -1, "try_number": 1}
    trigger.task_instance = SimpleNamespace(**{**place, **changes})
    return trigger


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("upstream", [False, True], ids=["ids of the DAG file", "ids of an upstream task"])
async def test_success_ends_the_task_here(
    upstream: bool, music_task_id: str, simulator: SimulatorServer, triggerer_xcoms: TriggererXComs
) -> None:
    """The result is in XCom as a list, the link beside it, and nobody resumes."""
    triggerer_xcoms.values["create", "return_value"] = music_task_id
    source = {"task_id": "create", "key": "return_value"} if upstream else None
    ids = [] if upstream else [music_task_id]
    trigger = in_triggerer(trigger_for(*ids, started=None, source=source, ends_here=True))
    (event,) = [event async for event in trigger.run()]
    tracks = triggerer_xcoms.values["wait", "return_value"]

    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms is None
    assert [music_task_id] * 2 == [track["music_task_id"] for track in tracks]
    assert triggerer_xcoms.mapped_lengths == {"wait": 2}
    assert simulator.state.requests[GET_TASK] == 3


@pytest.mark.usefixtures("connection")
async def test_first_poll_of_a_wait_that_no_worker_began_is_at_once(
    music_task_id: str, simulator: SimulatorServer, triggerer_xcoms: TriggererXComs
) -> None:
    """Else a finished music task would wait for its first interval."""
    simulator.state.finish(music_task_id)
    trigger = in_triggerer(trigger_for(music_task_id, started=None, poll_interval=60.0))
    events = await asyncio.wait_for(events_of(trigger), 3)

    assert [event["status"] for event in events] == ["finished"]


@pytest.mark.usefixtures("connection")
async def test_deadline_goes_on_after_the_triggerer_went_down(
    music_task_id: str, simulator: SimulatorServer, triggerer_xcoms: TriggererXComs
) -> None:
    """Its beginning is in XCom: the same arguments do not begin anew."""
    began = time.time() - 100
    triggerer_xcoms.values["wait", STARTED_KEY] = {"try_number": 1, "started": began}
    (event,) = await events_of(in_triggerer(trigger_for(music_task_id, started=None, timeout=99)))

    assert (event["status"], event["started"]) == ("timeout", began)
    assert simulator.state.requests[GET_TASK] == 0


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("found", [None, "None", ["a", None], 5, "['a']"], ids=repr)
async def test_missing_ids_are_left_to_a_worker(
    found: Any, simulator: SimulatorServer, triggerer_xcoms: TriggererXComs
) -> None:
    """It says what is wrong with the words of the other modes."""
    triggerer_xcoms.values["create", "return_value"] = found
    source = {"task_id": "create", "key": "return_value"}
    events = await events_of(in_triggerer(trigger_for(started=None, source=source)))

    assert events == [BEGIN]
    assert not simulator.state.requests


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("message", ["GetXCom", "SetXCom"])
async def test_unreachable_xcom_is_left_to_a_worker(
    message: str, music_task_id: str, triggerer_xcoms: TriggererXComs, logged: Log
) -> None:
    """A wait whose beginning cannot be kept begins on a worker."""
    triggerer_xcoms.broken.add(message)
    events = await events_of(in_triggerer(trigger_for(music_task_id, started=None, ends_here=True)))

    assert events == [BEGIN]
    assert "This wait begins on a worker" in logged.text


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("way", ["failed", "partial", "xcom", "dag.test", "not wanted"])
async def test_other_ends_are_left_to_a_worker(
    way: str, simulator: SimulatorServer, triggerer_xcoms: TriggererXComs
) -> None:
    """A failure, a result that cannot be left, nobody to leave it for: a worker polls and decides."""
    if way in ("failed", "partial"):
        simulator.state.scenario(way)
    if way == "xcom":
        triggerer_xcoms.broken.add("SetXCom")
    trigger = trigger_for(book(simulator), ends_here=way != "not wanted", fail_on_partial=True)
    events = await events_of(trigger if way == "dag.test" else in_triggerer(trigger))

    assert [event["status"] for event in events] == ["finished"]
    assert triggerer_xcoms.values == {}


@pytest.mark.usefixtures("connection")
async def test_connection_that_cannot_be_read_at_first_is_waited_for(
    music_task_id: str, monkeypatch: pytest.MonkeyPatch, logged: Log
) -> None:
    """An API server that restarts is no reason to fail; no socket of ours can show that."""
    monkeypatch.setattr(trigger_module, "CONNECTION_PAUSE", 0.01)
    read, failures = MusicAPIHook.asettings, [OSError("away"), OSError("still away")]

    async def asettings(hook: MusicAPIHook) -> Any:
        if failures:
            raise failures.pop()
        return await read(hook)

    monkeypatch.setattr(MusicAPIHook, "asettings", asettings)
    events = await events_of(trigger_for(music_task_id))

    assert [event["status"] for event in events] == ["finished"]
    assert "Cannot read connection musicapi_default now: away" in logged.text


@pytest.mark.usefixtures("connection")
async def test_connection_that_can_never_be_read_ends_at_the_deadline(
    music_task_id: str, monkeypatch: pytest.MonkeyPatch, stopwatch: Callable[[], float]
) -> None:
    """The worker then meets the same and says it."""

    async def asettings(hook: MusicAPIHook) -> Any:
        raise OSError("away")

    monkeypatch.setattr(MusicAPIHook, "asettings", asettings)
    events = await events_of(trigger_for(music_task_id, timeout=0.2))

    assert [event["status"] for event in events] == ["timeout"]
    assert 0.2 <= stopwatch() < 2


@pytest.mark.usefixtures("connection")
async def test_defect_of_the_poller_reaches_the_event(
    music_task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no answer can cause is told with its type, and waits for nothing."""

    async def get_task(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(MusicAPIAsyncClient, "get_task", get_task)
    (event,) = await events_of(trigger_for(music_task_id))

    assert (event["status"], event["error"]) == ("error", "MusicAPIError")
    assert "ZeroDivisionError: oops" in event["message"]


@pytest.mark.usefixtures("connection")
async def test_defect_of_a_wait_looks_like_one(music_task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a connection that cannot be read, and tried for ever."""

    async def wait(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Poller, "wait", wait)
    with pytest.raises(ZeroDivisionError):
        await events_of(trigger_for(music_task_id))
