"""The sensor: the same meaning in every mode."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from musicapi_provider.exceptions import MusicAPIAuthError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.operators import control_flow
from musicapi_provider.sensors.musicapi import DEFAULT_POKE_INTERVAL, MusicAPITaskSensor
from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from musicapi_provider.waiting import wait as waiting
from tests.conftest import QUICK

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

pytestmark = pytest.mark.usefixtures("connection", "quick")

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la", "tags": "folk"}
GET_TASK = "GET /sonic/task/{task_id}"
TRACK_KEYS = [
    *("music_task_id", "clip_id", "title", "audio_url", "image_url", "video_url"),
    *("duration", "tags", "mv", "created_at"),
]
MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "deferrable": False},
    "reschedule": {"mode": "reschedule", "deferrable": False},
    "deferrable": {"deferrable": True},
}
every_mode = pytest.mark.parametrize("mode", MODES)


def book(simulator: SimulatorServer, prompt: str = "La la") -> str:
    """Book a music task without a request; it is done at the third read."""
    job = simulator.state.book({**BODY, "prompt": prompt})
    assert job is not None
    return job.task_id


def sensor_for(music_task_id: Any, mode: str = "poke", **changes: Any) -> MusicAPITaskSensor:
    """Return a quick sensor."""
    arguments: dict[str, Any] = {"poke_interval": 0.01, "timeout": 5.0, **MODES[mode], **changes}
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id=music_task_id, **arguments)
    sensor.hook = MusicAPIHook(sensor.musicapi_conn_id, retries=QUICK)
    return sensor


def run(make: Callable[[], MusicAPITaskSensor], context: dict[str, Any]) -> Any:
    """Do what Airflow does: run it, come back after reschedules and deferrals, each with a new object."""
    began = datetime.datetime.now(datetime.UTC)
    phase: Callable[[], Any] = lambda: make().execute(context)  # noqa: E731 - the first of several phases
    for _ in range(100):
        try:
            return phase()
        except AirflowRescheduleException:
            context["ti"].get_first_reschedule_date.return_value = began
        except TaskDeferred as deferred:
            (event,) = asyncio.run(_events(deferred.trigger))
            arguments = {**(deferred.kwargs or {}), "event": event}
            method = deferred.method_name
            phase = lambda m=method, a=arguments: make().resume_execution(m, a, context)  # noqa: E731
    raise AssertionError("it goes round in circles")


async def _events(trigger: Any) -> list[Any]:
    return [event.payload async for event in trigger.run()]


# -- success -------------------------------------------------------------------------------------------------


@every_mode
def test_finished_task_gives_its_tracks(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Two tracks with the documented keys, final URLs and float seconds."""
    music_task_id = book(simulator)
    tracks = run(lambda: sensor_for(music_task_id, mode), context)
    root = simulator.base_url.removesuffix("/api/v1")

    assert [list(track) for track in tracks] == [TRACK_KEYS] * 2
    assert [f"{root}/media/{track['clip_id']}.mp3" for track in tracks] == [t["audio_url"] for t in tracks]
    assert {music_task_id} == {track["music_task_id"] for track in tracks}
    assert all(isinstance(track["duration"], float) for track in tracks)
    assert {"folk"} == {track["tags"] for track in tracks}


@every_mode
def test_list_of_ids_gives_all_tracks_in_order(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """One sensor may wait for many."""
    ids = [book(simulator, text) for text in ("one", "two", "three")]
    tracks = run(lambda: sensor_for(ids, mode), context)

    assert [id_ for id_ in ids for _ in range(2)] == [track["music_task_id"] for track in tracks]


@every_mode
@pytest.mark.parametrize("include", [True, False])
def test_lyrics_come_only_when_asked_for(
    include: bool, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """They are long, and XCom is no place for what nobody reads."""
    music_task_id = book(simulator)
    tracks = run(lambda: sensor_for(music_task_id, mode, include_lyrics=include), context)

    assert [include] * 2 == ["lyrics" in track for track in tracks]
    if include:
        assert tracks[0]["lyrics"] == "La la"


@every_mode
@pytest.mark.parametrize(
    "name",
    [
        *("read-500", "read-504", "read-429", "read-truncated", "read-html", "read-drop"),
        *(
            "not-found-at-first",
            "not-ready-200",
            "code-102",
            "empty-data",
            "streaming-state",
            "unknown-state",
        ),
        *("numeric-duration", "extended-pairs", "one-clip"),
    ],
)
def test_odd_answers_on_the_way_are_waited_out(
    name: str, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """None of them is an end, in any mode."""
    simulator.state.scenario(name)
    music_task_id = book(simulator)
    tracks = run(lambda: sensor_for(music_task_id, mode), context)

    assert tracks
    assert all("/media/stream/" not in track["audio_url"] for track in tracks)


def test_finished_task_does_not_defer(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """It polls once before it defers: an early event would meet Airflow's race."""
    music_task_id = book(simulator)
    simulator.state.finish(music_task_id)
    tracks = sensor_for(music_task_id, "deferrable").execute(context)

    assert len(tracks) == 2
    assert simulator.state.requests[GET_TASK] == 1


def test_running_task_defers_with_the_right_trigger(
    simulator: SimulatorServer, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trigger keeps the deadline, Airflow gets none; its first poll comes late; it holds no key."""
    monkeypatch.setattr(control_flow, "FIRST_POLL_OF_TRIGGER", 5.0)
    music_task_id = book(simulator)
    now = time.time()
    with pytest.raises(TaskDeferred) as caught:
        sensor_for(music_task_id, "deferrable", timeout=100, poke_interval=7).execute(context)
    trigger = caught.value.trigger

    assert isinstance(trigger, MusicAPITaskTrigger)
    assert (caught.value.method_name, caught.value.timeout) == ("execute_complete", None)
    assert (trigger.music_task_ids, trigger.poll_interval) == ([music_task_id], 7.0)
    assert trigger.musicapi_conn_id == "musicapi_default"
    assert trigger.started == pytest.approx(now, abs=1)
    assert trigger.timeout == 100
    assert trigger.first_poll_time == pytest.approx(now + 5, abs=1)
    assert simulator.api_key not in str(trigger.serialize())


def test_poll_interval_of_the_connection_serves_when_none_is_given(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Then the trigger gets none of its own; pokes come every 15 s."""
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id=book(simulator), deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)

    assert caught.value.trigger.serialize()[1]["poll_interval"] is None
    assert sensor.poke_interval == DEFAULT_POKE_INTERVAL


def test_final_tasks_are_not_asked_for_again(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """While one of two is still running, the other costs no more requests."""
    done, late = book(simulator), book(simulator)
    simulator.state.finish(done)
    tracks = run(lambda: sensor_for([done, late]), context)

    assert len(tracks) == 4
    assert simulator.state.requests[GET_TASK] == 4  # one for the first, three for the second


def test_reschedule_mode_frees_the_slot(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """A running task is polled once a phase."""
    music_task_id = book(simulator)
    with pytest.raises(AirflowRescheduleException):
        sensor_for(music_task_id, "reschedule").execute(context)

    assert simulator.state.requests[GET_TASK] == 1


def test_waiting_buys_nothing(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """Only reads go out."""
    music_task_id = book(simulator)
    run(lambda: sensor_for(music_task_id, "deferrable"), context)

    assert {GET_TASK} == set(simulator.state.requests)


# -- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["finished", "timeout", "error"])
def test_any_known_event_makes_it_look_again(
    status: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The event is a hint: what counts is the poll."""
    music_task_id = book(simulator)
    simulator.state.finish(music_task_id)
    event = {"status": status, "music_task_ids": [music_task_id], "started": time.time()}
    tracks = sensor_for(music_task_id, "deferrable").execute_complete(context, event)

    assert len(tracks) == 2


def test_event_of_a_task_that_is_still_running_defers_again(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The start of the wait stays, so that the deadline does not move."""
    simulator.state.scenario("running")
    music_task_id = book(simulator)
    started = time.time() - 2
    event = {"status": "finished", "music_task_ids": [music_task_id], "started": started}
    with pytest.raises(TaskDeferred) as caught:
        sensor_for(music_task_id, "deferrable", timeout=100).execute_complete(context, event)
    trigger = caught.value.trigger

    assert isinstance(trigger, MusicAPITaskTrigger)
    assert (trigger.started, trigger.timeout) == (started, 100)


@pytest.mark.parametrize(
    "event",
    [None, "success", {}, {"status": "success"}, {"status": "finished", "music_task_ids": []}],
    ids=["none", "text", "empty", "unknown", "no ids"],
)
def test_bad_event_is_refused(event: Any, context: dict[str, Any], simulator: SimulatorServer) -> None:
    """Nothing passes silently, and nothing is asked."""
    with pytest.raises(AirflowFailException, match="unknown event"):
        sensor_for("some-id", "deferrable").execute_complete(context, event)

    assert not simulator.state.requests


def test_error_event_raises_its_class_even_if_the_worker_sees_a_running_task(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The trigger's words come through, of the class that it met."""
    music_task_id = book(simulator)
    event = {
        "status": "error",
        "error": "MusicAPIAuthError",
        "message": "the key was refused there",
        "music_task_ids": [music_task_id],
        "started": time.time(),
    }
    with pytest.raises(AirflowFailException, match="the key was refused there") as caught:
        sensor_for(music_task_id, "deferrable").execute_complete(context, event)

    assert isinstance(caught.value.__cause__, MusicAPIAuthError)


def test_trigger_that_cannot_look_does_not_send_the_sensor_round_in_circles(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Where only the worker has the connection, deferring again would burn a worker phase each time."""
    music_task_id = book(simulator, "simulate:running")
    event = {
        "status": "error",
        "error": "MusicAPIConfigurationError",
        "message": "The Airflow connection 'musicapi_default' does not exist.",
        "music_task_ids": [music_task_id],
        "started": time.time(),
    }
    with pytest.raises(AirflowFailException, match="does not exist"):
        sensor_for(music_task_id, "deferrable").execute_complete(context, event)

    assert simulator.state.jobs[music_task_id].phase() != "done"


# -- failures ------------------------------------------------------------------------------------------------

FAILURES = {
    "failed": "failed",
    "timeout": "timeout",
    "api-error": "api_error",
    "forbidden": "forbidden",
    "all-failed": "Generation failed upstream",
    "gateway-timeout-refunded": "timed out",
    "unknown-type": "unknown type 'weird'",
    "no-audio-url": "without a usable audio URL",
}


@every_mode
@pytest.mark.parametrize(("name", "words"), FAILURES.items(), ids=FAILURES)
def test_failed_task_fails_the_sensor_for_good(
    name: str, words: str, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """No retry could cure it, so none is made; the text names id and reason."""
    simulator.state.scenario(name)
    music_task_id = book(simulator)
    with pytest.raises(AirflowFailException) as caught:
        run(lambda: sensor_for(music_task_id, mode), context)

    assert music_task_id in str(caught.value)
    assert words in str(caught.value)
    assert "Credits: " in str(caught.value)


@every_mode
def test_revoked_key_fails_the_sensor_for_good(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Also when it is revoked while it waits."""
    simulator.state.scenario("running")
    music_task_id = book(simulator)
    simulator.state.scenario("read-unauthorized", times=None)
    with pytest.raises(AirflowFailException, match="does not accept the key"):
        run(lambda: sensor_for(music_task_id, mode), context)

    assert simulator.state.requests[GET_TASK] == 1


@every_mode
def test_unknown_id_is_waited_for_in_its_grace_and_then_fails(
    mode: str, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace it is told as what it is, long before the deadline."""
    monkeypatch.setattr(waiting, "UNKNOWN_TASK_GRACE", 0.1)
    with pytest.raises(AirflowFailException, match="does not know music task 'nobody-knows'"):
        run(lambda: sensor_for("nobody-knows", mode), context)


@every_mode
def test_deadline_is_a_sensor_timeout_that_names_the_id(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Airflow does not retry it, and clearing goes on waiting."""
    simulator.state.scenario("running")
    music_task_id = book(simulator)
    with pytest.raises(AirflowSensorTimeout) as caught:
        run(lambda: sensor_for(music_task_id, mode, timeout=0.15), context)

    assert music_task_id in str(caught.value)
    assert "0.15 s" in str(caught.value)
    assert "nothing is bought" in str(caught.value)


@every_mode
def test_deadline_of_many_names_only_what_is_running(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """What is done is not to blame."""
    done, running = book(simulator), book(simulator, "simulate:running")
    simulator.state.finish(done)
    with pytest.raises(AirflowSensorTimeout) as caught:
        run(lambda: sensor_for([done, running], mode, timeout=0.15), context)

    assert running in str(caught.value)
    assert done not in str(caught.value)


@every_mode
@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("way", ["failed", "partial", "deadline", "key", "bad id"])
def test_soft_fail_and_never_fail_skip(
    way: str, flag: str, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """In every mode, for every way to fail."""
    scenario = {"failed": "failed", "partial": "partial", "deadline": "running", "key": "running"}.get(way)
    if scenario:
        simulator.state.scenario(scenario)
    music_task_id = "None" if way == "bad id" else book(simulator)
    if way == "key":
        simulator.state.scenario("read-unauthorized", times=None)
    changes: dict[str, Any] = {flag: True, "fail_on_partial": True}
    if way == "deadline":
        changes["timeout"] = 0.1
    with pytest.raises(AirflowSkipException):
        run(lambda: sensor_for(music_task_id, mode, **changes), context)


@every_mode
def test_partial_result_returns_what_succeeded(
    mode: str, simulator: SimulatorServer, context: dict[str, Any], logged: Log
) -> None:
    """It is paid for; what failed is in the log."""
    simulator.state.scenario("partial")
    music_task_id = book(simulator)
    tracks = run(lambda: sensor_for(music_task_id, mode), context)

    assert len(tracks) == 1
    assert "Not among the results" in logged.text
    assert "Generation failed upstream" in logged.text


@every_mode
def test_partial_result_fails_on_request(
    mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """``fail_on_partial`` is for those who need both."""
    simulator.state.scenario("partial")
    music_task_id = book(simulator)
    with pytest.raises(AirflowFailException, match="1 of 2 clips succeeded") as caught:
        run(lambda: sensor_for(music_task_id, mode, fail_on_partial=True), context)

    assert "fail_on_partial=False" in str(caught.value)


@every_mode
@pytest.mark.parametrize("fail_on_partial", [False, True])
def test_one_failed_task_among_many(
    fail_on_partial: bool, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The same rule as for clips: take what is there, or fail on request."""
    ids = [book(simulator), book(simulator, "simulate:failed")]
    make = lambda: sensor_for(ids, mode, fail_on_partial=fail_on_partial)  # noqa: E731 - called in two ways
    if fail_on_partial:
        with pytest.raises(AirflowFailException, match=ids[1]):
            run(make, context)
    else:
        assert [ids[0]] * 2 == [track["music_task_id"] for track in run(make, context)]


@every_mode
@pytest.mark.parametrize("bad", ["None", "", "['a', 'b']", 5, None, [None]], ids=repr)
def test_bad_id_fails_before_any_request(
    bad: Any, mode: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """A mistake in the DAG costs no waiting."""
    with pytest.raises(AirflowFailException, match="music_task_id"):
        run(lambda: sensor_for(bad, mode), context)

    assert not simulator.state.requests


@every_mode
def test_missing_connection_fails_for_good(mode: str, context: dict[str, Any]) -> None:
    """With the words that say how to make it."""
    with pytest.raises(AirflowFailException, match="airflow connections add nowhere"):
        run(lambda: sensor_for("some-id", mode, musicapi_conn_id="nowhere"), context)


# -- the rest ------------------------------------------------------------------------------------------------


def test_wait_of_a_rescheduled_sensor_began_with_its_first_poke(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """Else every reschedule would move the deadline."""
    simulator.state.scenario("running")
    task_instance.get_first_reschedule_date.return_value = datetime.datetime.now(
        datetime.UTC
    ) - datetime.timedelta(seconds=60)
    with pytest.raises(AirflowSensorTimeout, match="After 30 s"):
        sensor_for(book(simulator), "reschedule", timeout=30).execute(context)


def test_timedeltas_are_understood() -> None:
    """As Airflow's own sensors do."""
    sensor = sensor_for(
        "a", timeout=datetime.timedelta(minutes=2), poke_interval=datetime.timedelta(seconds=3)
    )

    assert (sensor.timeout, sensor.poke_interval, sensor.poll_interval) == (120.0, 3.0, 3.0)


def test_templated_fields() -> None:
    """What a DAG may compute."""
    assert set(MusicAPITaskSensor.template_fields) == {"music_task_id", "musicapi_conn_id", "prompt_id"}


def test_constructor_does_no_io(simulator: SimulatorServer) -> None:
    """A DAG file is parsed every few seconds."""
    sensor_for("some-id", musicapi_conn_id="nowhere")

    assert not simulator.state.requests


def test_on_kill_logs_the_id(simulator: SimulatorServer, logged: Log) -> None:
    """What stays behind must be findable."""
    sensor_for("some-id").on_kill()

    assert "some-id" in logged.text
    assert "credits stay spent" in logged.text
    assert not simulator.state.requests


@every_mode
def test_key_is_in_no_log_line(
    mode: str, simulator: SimulatorServer, context: dict[str, Any], logged: Log
) -> None:
    """Not on the way, not at the end."""
    simulator.state.scenario("read-500")
    music_task_id = book(simulator)
    run(lambda: sensor_for(music_task_id, mode), context)

    assert music_task_id in logged.text
    assert simulator.api_key not in logged.text
