"""The trigger of a table: one event when enough is final, whatever happens, and nothing left behind."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.exceptions import MusicAPITriggerEventError
from musicapi_provider.triggers import musicapi as single_trigger
from musicapi_provider.triggers.prompt_table import STATUSES, MusicAPIPromptTableTrigger, event_from
from musicapi_provider.waiting import pace, poller

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True}
GET_TASK = "GET /sonic/task/{task_id}"
ABOUT = {"manifest": "run-1", "started": 1.5}


@pytest.fixture(autouse=True)
def _in_a_hurry(
    quick: None, simulator: SimulatorServer, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Shorten the pauses that are constants; nothing may be left in the registry afterwards."""
    connect(simulator.base_url, simulator.api_key, poll_interval=0.01, polls_per_second=2000, timeout=5)
    simulator.state.configure(credits=10**6, retry_after=0)
    monkeypatch.setattr(poller, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)
    poller._experiences.clear()
    yield
    assert poller._shared == {}


@pytest.fixture
def book(simulator: SimulatorServer) -> Callable[..., list[str]]:
    """Return a function that books music tasks, each with a scenario or none."""

    def book(*scenarios: str | None) -> list[str]:
        ids = []
        for number, name in enumerate(scenarios):
            words = f"song {number} simulate:{name}" if name else f"song {number}"
            job = simulator.state.book({**BODY, "prompt": words})
            assert job is not None
            ids.append(job.task_id)
        return ids

    return book


def trigger_for(ids: list[str], *, timeout: float = 10.0, **changes: Any) -> MusicAPIPromptTableTrigger:
    """Return a trigger that begins now and fires when all are final."""
    now = time.time()
    arguments: dict[str, Any] = {
        "waits": dict.fromkeys(ids, (now, timeout)),
        "musicapi_conn_id": "musicapi_default",
        "about": ABOUT,
        "enough": len(ids),
        "collect_time": now + 60.0,
        **changes,
    }
    return MusicAPIPromptTableTrigger(**arguments)


async def event_of(trigger: MusicAPIPromptTableTrigger) -> dict[str, Any]:
    """Run it to its end and return the payload of its only event."""
    (event,) = [event.payload async for event in trigger.run()]
    assert json.loads(json.dumps(event)) == event
    return dict(event)


def stored_and_loaded(trigger: MusicAPIPromptTableTrigger) -> MusicAPIPromptTableTrigger:
    """Return it as a triggerer makes it from the database."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    loaded: MusicAPIPromptTableTrigger = getattr(importlib.import_module(module), name)(
        **json.loads(json.dumps(arguments))
    )
    return loaded


def test_serialize_round_trip_and_no_key(simulator: SimulatorServer) -> None:
    """What is stored is JSON, makes the same trigger again, is small, and holds neither key nor header."""
    trigger = trigger_for([f"{number:036}" for number in range(1000)], poll_interval=7.0, first_poll_time=9.5)
    stored = json.dumps(trigger.serialize())

    assert stored_and_loaded(trigger).serialize() == trigger.serialize()
    assert set(trigger.serialize()[1]) == {
        *("waits", "musicapi_conn_id", "about", "enough", "collect_time", "first_poll_time", "poll_interval")
    }
    assert simulator.api_key not in stored
    assert len(stored) < 100_000


@pytest.mark.parametrize("enough", [1, 2, 3])
async def test_fires_when_enough_are_final(
    book: Callable[..., list[str]], simulator: SimulatorServer, enough: int
) -> None:
    """One event, with the ids that are worth a poll; failed ones are, too."""
    ids = book("running", "failed", None, None)
    event = await event_of(trigger_for(ids, enough=enough))

    assert (event["status"], event["about"]) == ("finished", ABOUT)
    assert len(event["finished"]) >= enough
    assert set(event["finished"]) <= set(ids[1:])


async def test_single_one_is_enough_once_it_is_time_to_collect(book: Callable[..., list[str]]) -> None:
    """Results are stored while others run; it does not fire for nothing."""
    ids = book("running", "running", None)
    began = time.time()
    event = await event_of(trigger_for(ids, collect_time=began + 0.3))

    assert time.time() - began >= 0.3
    assert event["finished"] == ids[2:]


async def test_nothing_is_collected_while_nothing_is_final(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """The time to collect has passed: the first final one fires."""
    ids = book("running", "running")
    running = asyncio.create_task(event_of(trigger_for(ids, collect_time=time.time() - 1)))
    await asyncio.sleep(0.2)
    fired = running.done()
    simulator.state.finish(ids[1])
    event = await running

    assert not fired
    assert event["finished"] == ids[1:]


async def test_out_of_time_counts_as_finished(book: Callable[..., list[str]]) -> None:
    """Whoever resumes polls once more and says so; each has a deadline of its own."""
    ids = book("running", "running")
    now = time.time()
    waits = {ids[0]: (now, 0.2), ids[1]: (now, 60.0)}
    event = await event_of(trigger_for(ids, waits=waits, enough=1))

    assert (event["status"], event["finished"]) == ("finished", ids[:1])


async def test_all_out_of_time_before_it_begins(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """A triggerer that was away for long asks nobody: a worker polls."""
    ids = book(None, None)
    event = await event_of(trigger_for(ids, waits={id_: (time.time() - 100, 10.0) for id_ in ids}))

    assert event == {"status": "finished", "finished": [], "about": ABOUT}
    assert simulator.state.requests.total() == 0


async def test_key_that_is_refused_gives_the_error_event(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """One event for all, with the class; a worker meets the same."""
    ids = book("running", "running", "running")
    running = asyncio.create_task(event_of(trigger_for(ids)))
    await asyncio.sleep(0.1)
    simulator.state.configure(api_key="another")
    event = await running

    assert (event["status"], event["error"], event["about"]) == ("error", "MusicAPIAuthError", ABOUT)
    assert "does not accept the key" in event["message"]
    assert "simulator-key" not in event["message"]


async def test_connection_that_does_not_exist_gives_the_error_event(book: Callable[..., list[str]]) -> None:
    """It says which."""
    event = await event_of(trigger_for(book(None), musicapi_conn_id="nowhere"))

    assert (event["status"], event["error"]) == ("error", "MusicAPIConfigurationError")
    assert "'nowhere' does not exist" in event["message"]


async def test_passing_failures_are_waited_through(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """Whatever the API answers now and then."""
    for name in ("read-500", "read-429", "read-drop", "read-html", "read-truncated"):
        simulator.state.scenario(name)
    ids = book(None, None, "not-found-at-first")
    event = await event_of(trigger_for(ids))

    assert sorted(event["finished"]) == sorted(ids)


async def test_connection_is_read_again_while_the_api_server_is_away(
    book: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer that starts before the API server must not fail all waits."""
    tries: list[str] = []
    original = single_trigger.MusicAPIHook.aget_connection

    async def away(conn_id: str) -> Any:
        tries.append(conn_id)
        if len(tries) < 3:
            raise RuntimeError("the API server is away")
        return await original(conn_id)

    monkeypatch.setattr(single_trigger, "CONNECTION_PAUSE", 0.01)
    monkeypatch.setattr(single_trigger.MusicAPIHook, "aget_connection", staticmethod(away))
    ids = book(None)
    event = await event_of(trigger_for(ids))

    assert event["finished"] == ids
    assert len(tries) == 3


@pytest.mark.parametrize("key", ["simulator-key", "another"])
async def test_first_poll_time_is_kept(
    book: Callable[..., list[str]], simulator: SimulatorServer, key: str
) -> None:
    """Nothing is polled and no event comes before it, also no error: Airflow's deferral race."""
    simulator.state.configure(job_rule="at-once", api_key=key)
    first_poll = time.time() + 0.4
    running = asyncio.create_task(event_of(trigger_for(book(None), first_poll_time=first_poll)))
    await asyncio.sleep(0.2)
    looked = simulator.state.requests.total()
    event = await running

    assert looked == 0
    assert time.time() >= first_poll
    assert event["status"] == ("finished" if key == "simulator-key" else "error")


async def test_poll_interval_is_kept(book: Callable[..., list[str]], simulator: SimulatorServer) -> None:
    """The user's own goes before the connection's."""
    ids = book("running")
    waits = {ids[0]: (time.time(), 0.5)}
    await event_of(trigger_for(ids, waits=waits, poll_interval=0.2))

    assert 1 <= simulator.state.requests[GET_TASK] <= 3


async def test_killed_triggerer_loses_nothing(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """It is cancelled, and another one goes on from what is stored; the deadline is the same."""
    ids = book("running", None)
    trigger = trigger_for(ids, timeout=60.0)
    first = asyncio.create_task(event_of(trigger))
    await asyncio.sleep(0.2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    left = dict(poller._shared)
    simulator.state.finish(ids[0])
    again = stored_and_loaded(trigger)
    event = await event_of(again)

    assert left == {}
    assert again.waits == trigger.waits
    assert sorted(event["finished"]) == sorted(ids)


async def test_many_triggers_share_a_session(
    book: Callable[..., list[str]], simulator: SimulatorServer
) -> None:
    """As all waits of a connection do."""
    groups = [book(None, None) for _ in range(10)]
    before = simulator.state.connections_opened
    events = await asyncio.gather(*(event_of(trigger_for(ids)) for ids in groups))

    assert [sorted(event["finished"]) for event in events] == [sorted(ids) for ids in groups]
    assert simulator.state.connections_opened - before <= 10


async def test_kill_says_what_stays_behind(logged: Log) -> None:
    """Nothing is cancelled at the API."""
    await trigger_for(["t1", "t2"]).on_kill()

    assert "No longer waiting for 2 music tasks" in logged.text
    assert "their credits stay spent" in logged.text


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_event_gives_back_what_it_is_about(status: str) -> None:
    """Both statuses of the closed set."""
    event: dict[str, Any] = {"status": status, "about": ABOUT, "finished": ["t1"], "message": "x"}

    assert event_from(event)["about"] == ABOUT
    assert event_from(event)["about"] is not ABOUT


@pytest.mark.parametrize(
    "event",
    [
        *(None, "finished", [], {}, {"status": "finished"}, {"status": "timeout", "about": ABOUT}),
        *({"status": None, "about": ABOUT}, {"status": "finished", "about": {"manifest": "x"}}),
        {"status": "finished", "about": {**ABOUT, "started": "1"}},
        {"status": "finished", "about": ABOUT, "finished": "t1"},
    ],
    ids=str,
)
def test_event_outside_the_closed_set_is_refused(event: Any) -> None:
    """It is named."""
    with pytest.raises(MusicAPITriggerEventError, match="unknown event"):
        event_from(event)
