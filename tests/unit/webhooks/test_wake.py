"""What a callback does: who waits is ended or resumed, once, by the truth that the API tells."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from musicapi_provider.webhooks import wake
from musicapi_provider.webhooks.addresses import called_key
from tests.unit.webhooks.conftest import Caller, Instance, asset_events, session, until

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.client import MusicAPIClient

Tasks = Callable[[str], Instance]
Book = Callable[..., str]


def reads(simulator: SimulatorServer) -> int:
    """Return how often music tasks were polled."""
    return simulator.state.requests["GET /sonic/task/{task_id}"]


def is_settled(create: Instance, token: str) -> Callable[[], bool]:
    """Return a function that tells whether nothing is left to do about a callback."""
    return lambda: bool(create.told(token).get("done"))


def resumed_with(instance: Instance) -> dict[str, Any]:
    """Return the event with which a worker goes on."""
    from airflow.sdk.serde import deserialize

    found: dict[str, Any] = deserialize(instance.row().next_kwargs)["event"]  # type: ignore[index]
    return found


def mapped_length(instance: Instance) -> int | None:
    """Return over how many items tasks downstream are mapped."""
    from airflow.models.taskmap import TaskMap

    with session() as database:
        found: int | None = database.scalar(select(TaskMap.length).filter_by(**instance.place))
        return found


def test_sensor_ends_with_what_it_would_return(
    caller: Caller, tasks: Tasks, book: Book, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """Result, links and length as of a worker, by one poll; the asset tells of it once."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token, events = create.expect(music_task_id), len(asset_events())
    wait.wait_for(music_task_id)
    create.set_state("success")  # it does not wait itself

    caller.call(token, music_task_id)
    until("the end", lambda: wait.state == "success")
    until("all is done", is_settled(create, token))

    assert reads(simulator) == 1
    expected = [track.as_dict() for track in client.get_task(music_task_id).tracks]
    assert wait.xcom() == expected
    assert wait.xcom("_link_MusicAPIListenLink") == expected[0]["audio_url"]
    assert wait.xcom("_link_MusicAPICoverLink") == expected[0]["image_url"]
    assert mapped_length(wait) == len(expected) == 2
    assert wait.row().trigger_id is None
    (told,) = asset_events()[events:]
    assert told == {
        "music_task_id": music_task_id,
        "musicapi_conn_id": "musicapi_default",
        "tracks": expected,
        **create.place,
    }


def test_create_that_waits_is_found_by_its_token(caller: Caller, tasks: Tasks, book: Book) -> None:
    """It says nowhere that it waits: it need not."""
    create = tasks("create")
    music_task_id = book()
    token = create.expect(music_task_id)
    create.wait_for(music_task_id, include_lyrics=True)
    with session() as database:
        from airflow.models.xcom import XComModel
        from sqlalchemy import delete

        database.execute(delete(XComModel).filter_by(**create.place))

    caller.call(token, music_task_id)
    until("the end", lambda: create.state == "success")

    assert all("lyrics" in track for track in create.xcom())


@pytest.mark.parametrize("event", ["song.streaming", "song.unheard_of"])
def test_what_is_not_the_end_wakes_nobody(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer, event: str
) -> None:
    """Not even a poll."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)

    assert caller.call(token, music_task_id, event).status == 200
    assert caller.call(token, music_task_id, event).json == {"status": "duplicate"}

    assert (wait.state, reads(simulator)) == ("deferred", 0)
    assert wait.xcom(called_key(music_task_id)) is None


def test_callback_is_a_hint_and_the_api_has_the_truth(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer
) -> None:
    """Called before the API's own reads know: nothing ends before they do, and then at once."""
    create, wait = tasks("create"), tasks("wait_0")
    simulator.state.configure(job_rule="seconds:600")
    music_task_id = book(done=False)
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)

    caller.call(token, music_task_id)
    until("a poll", lambda: reads(simulator) == 1)
    assert wait.state == "deferred"
    simulator.state.finish(music_task_id)

    until("the end", lambda: wait.state == "success")
    assert len(wait.xcom()) == 2


def test_false_alarm_ends_nothing(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed, and not true: a few polls, and polling goes on."""
    create, wait = tasks("create"), tasks("wait_0")
    simulator.state.configure(job_rule="seconds:600")
    music_task_id = book(done=False)
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)

    caller.call(token, music_task_id)

    until("it is given up", lambda: "by polling" in caplog.text)
    assert (wait.state, reads(simulator)) == ("deferred", len(wake.PAUSES))


@pytest.mark.parametrize(
    ("scenario", "arguments"),
    [("failed", {}), ("partial", {"fail_on_partial": True}), (None, {"ends_here": False})],
)
def test_what_must_not_end_here_goes_on_on_a_worker(
    caller: Caller,
    tasks: Tasks,
    book: Book,
    simulator: SimulatorServer,
    scenario: str | None,
    arguments: dict[str, Any],
) -> None:
    """Failures mean the same in every mode; outlets and XCom backends are a worker's."""
    create, wait = tasks("create"), tasks("wait_0")
    if scenario:
        simulator.state.scenario(scenario)
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id, **arguments)
    event = "song.failed" if scenario == "failed" else "song.completed"

    caller.call(token, music_task_id, event)
    until("a worker goes on", lambda: wait.state == "scheduled")

    told = resumed_with(wait)
    assert (told["status"], told["music_task_ids"]) == ("finished", [music_task_id])
    assert wait.xcom() is None


def test_partial_result_ends_here_as_on_a_worker(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer
) -> None:
    """What succeeded is returned; what failed is not."""
    create, wait = tasks("create"), tasks("wait_0")
    simulator.state.scenario("partial")
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)

    caller.call(token, music_task_id)
    until("the end", lambda: wait.state == "success")

    assert len(wait.xcom()) == 1


def test_nobody_is_resumed_before_airflow_has_heard_of_the_deferral(
    caller: Caller, tasks: Tasks, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is resumed too soon is failed by the scheduler (the race); one that ends here is not."""
    monkeypatch.setattr(wake, "FIRST_POLL_OF_TRIGGER", 1.0)
    create, resumed, ended = tasks("create"), tasks("wait_0"), tasks("wait_1")
    music_task_id = book()
    token = create.expect(music_task_id)
    resumed.wait_for(music_task_id, age=0.0, ends_here=False)
    ended.wait_for(music_task_id, age=0.0)

    caller.call(token, music_task_id)
    until("the end", lambda: ended.state == "success")
    assert resumed.state == "deferred"

    until("a worker goes on", lambda: resumed.state == "scheduled")


def test_wait_for_several_ends_with_the_last(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer
) -> None:
    """Each is polled when all are called about."""
    wait = tasks("wait_0")
    songs = [(tasks(task_id), book(task_id)) for task_id in ("create", "wait_1")]
    tokens = [create.expect(music_task_id) for create, music_task_id in songs]
    ids = [music_task_id for _, music_task_id in songs]
    wait.wait_for(*ids)
    for create, _ in songs:
        create.set_state("success")

    caller.call(tokens[0], ids[0])
    until("the first is noted", is_settled(songs[0][0], tokens[0]))
    assert wait.state == "deferred"
    caller.call(tokens[1], ids[1])

    until("the end", lambda: wait.state == "success")
    assert [track["music_task_id"] for track in wait.xcom()] == [ids[0], ids[0], ids[1], ids[1]]


def test_all_who_wait_for_a_music_task_are_ended(caller: Caller, tasks: Tasks, book: Book) -> None:
    """By one callback."""
    create, waits = tasks("create"), [tasks(f"wait_{number}") for number in range(3)]
    music_task_id = book()
    token = create.expect(music_task_id)
    for wait in waits:
        wait.wait_for(music_task_id)

    caller.call(token, music_task_id)

    until("the end of all", lambda: {wait.state for wait in waits} == {"success"})


def test_sensor_that_began_in_the_triggerer_is_ended(caller: Caller, tasks: Tasks, book: Book) -> None:
    """Its trigger has no ids and no beginning: these are what it has said in XCom."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)
    source = {"task_id": "create", "key": "return_value"}
    about = wait.xcom(f"musicapi_waits_for:{music_task_id}")
    wait.wait_for(age=60, started=None, source=source)
    with session() as database:
        from musicapi_provider.webhooks import airflow_tables as tables

        tables.push(database, tables.Place(**wait.place), f"musicapi_waits_for:{music_task_id}", about)

    caller.call(token, music_task_id)

    until("the end", lambda: wait.state == "success")
    assert len(wait.xcom()) == 2


def test_early_callback_leaves_a_note(caller: Caller, tasks: Tasks, book: Book) -> None:
    """Before the task is deferred: its trigger finds the note, and polls at once."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token = create.expect()
    with session() as database:
        from musicapi_provider.webhooks import airflow_tables as tables

        about = {"music_task_ids": [music_task_id], "started": 0.0}
        tables.push(database, tables.Place(**wait.place), f"musicapi_waits_for:{music_task_id}", about)

    caller.call(token, music_task_id)

    for instance in (create, wait):
        assert instance.state == "running"
        assert instance.xcom(called_key(music_task_id)) is True
    assert create.xcom(called_key(token)) is True


def test_task_that_is_about_to_be_deferred_is_waited_for(caller: Caller, tasks: Tasks, book: Book) -> None:
    """Its worker still runs when the call comes: it is ended as soon as it is deferred."""
    create = tasks("create")
    music_task_id = book()
    token = create.expect(music_task_id)
    caller.call(token, music_task_id)
    create.wait_for(music_task_id)

    until("the end", lambda: create.state == "success")


def test_task_that_is_done_gets_no_note(caller: Caller, tasks: Tasks, book: Book) -> None:
    """Its XComs are nobody's any more."""
    create = tasks("create")
    music_task_id = book()
    token = create.expect(music_task_id)
    create.set_state("success")

    assert caller.call(token, music_task_id).status == 200
    until("all is done", is_settled(create, token))

    assert create.xcom(called_key(music_task_id)) is None


@pytest.mark.parametrize("event", ["song.streaming", "song.completed", "song.failed"])
def test_lost_create_goes_on_when_any_callback_tells_of_it(
    caller: Caller, tasks: Tasks, book: Book, event: str
) -> None:
    """A worker begins anew, and finds the music task in the task state."""
    from musicapi_provider.triggers.events import BEGIN

    create = tasks("create")
    music_task_id = book()
    token = create.expect()
    create.ask(token)

    caller.call(token, music_task_id, event)
    until("a worker goes on", lambda: create.state == "scheduled")

    assert resumed_with(create) == BEGIN
    assert create.told(token)["music_task_id"] == music_task_id


def test_lost_create_does_not_go_on_for_another_purchase(caller: Caller, tasks: Tasks, book: Book) -> None:
    """It asks about its last create; a callback about an earlier one of the same task is not that."""
    create = tasks("create")
    earlier, last = create.expect(), create.expect()
    create.ask(last)

    caller.call(earlier, book(), "song.streaming")

    assert create.state == "deferred"


def test_who_waits_no_more_is_left_alone(caller: Caller, tasks: Tasks, book: Book) -> None:
    """Ended by a user, cleared, or waiting with somebody else's trigger."""
    create, wait, other = tasks("create"), tasks("wait_0"), tasks("wait_1")
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)
    wait.set_state("failed")
    create.set_state("success")
    other.wait_for(music_task_id)
    with session() as database:
        from airflow.models.trigger import Trigger

        database.get(Trigger, other.row().trigger_id).classpath = "somebody.elses.Trigger"

    caller.call(token, music_task_id)
    until("all is done", is_settled(create, token))

    assert (wait.state, other.state) == ("failed", "deferred")
    assert wait.xcom() is None


def test_silent_api_is_asked_again(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer
) -> None:
    """A callback that came is not lost by a poll that fails."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token = create.expect(music_task_id)
    wait.wait_for(music_task_id)
    simulator.state.scenario("read-500", times=2)

    caller.call(token, music_task_id)

    until("the end", lambda: wait.state == "success")


def test_callback_that_nobody_finished_is_finished_by_its_next_delivery(
    caller: Caller, tasks: Tasks, book: Book
) -> None:
    """An API server that dies after its answer: the API delivers some events twice."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token = create.expect(music_task_id)
    create.set_state("success")
    caller.call(token, music_task_id)
    until("all is done", is_settled(create, token))
    wait.wait_for(music_task_id)
    from musicapi_provider.webhooks import airflow_tables as tables

    with session() as database:  # as if the first had died
        known = tables.told(database, tables.Place(**create.place), token)
        assert known is not None
        del known["done"]
        known["at"] -= wake.FORSAKEN
        tables.tell(database, known)
        tables.leave_note(database, tables.Place(**wait.place), music_task_id)

    assert caller.call(token, music_task_id).json == {"status": "duplicate"}

    until("the end", lambda: wait.state == "success")


def test_many_deliveries_end_and_tell_once(
    caller: Caller, tasks: Tasks, book: Book, simulator: SimulatorServer
) -> None:
    """Whatever comes together."""
    create, wait = tasks("create"), tasks("wait_0")
    music_task_id = book()
    token, events = create.expect(music_task_id), len(asset_events())
    wait.wait_for(music_task_id)
    create.set_state("success")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.call(token, music_task_id).status, range(12)))
    until("all is done", is_settled(create, token))
    until("nothing is under way", lambda: not _under_way())

    assert set(answers) == {200}
    assert reads(simulator) == 1
    assert wait.state == "success"
    assert len(asset_events()) == events + 1


def _under_way() -> int:
    from musicapi_provider.webhooks import receiver

    return len(receiver._wakes)
