"""
The API calls two processes of a real API server that is killed in between; calls are lost, repeated, forged.

Music tasks end when the test ends them.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.triggers.events import FIRST_POLL_OF_TRIGGER
from tests.e2e.test_money import starts

if TYPE_CHECKING:
    from tests.e2e.song import Song, World

pytestmark = pytest.mark.e2e

#: What the simulator does about each song.
USEFUL = ("", "simulate:webhook-twice", "simulate:webhook-early")
USELESS = tuple(f"simulate:webhook-{how}" for how in ("lost", "wrong-secret", "unsigned", "body-only", "old"))
MANY = [f"a hooked song {number} simulate:running {how}".strip() for number, how in enumerate(USEFUL * 3)]
POLLED = [f"a song in vain {number} simulate:running {how}" for number, how in enumerate(USELESS)]


@starts("e2e_webhook", prompts=MANY)
def test_each_track_is_collected_once_whatever_happens_to_its_call(song: Song, world: World) -> None:
    """Early, repeated, reordered, and while the API server is away: bought once, collected once."""
    song.task_id, count = "song.create", song.at("song.count")
    for number, prompt in enumerate(MANY):  # the first ones end before their tasks are deferred
        (job,) = world.until("the booking", lambda prompt=prompt: song.jobs(prompt))  # type: ignore[misc]
        if number < len(USEFUL):
            world.simulator.state.finish(job.task_id)
    jobs = [song.job(prompt) for prompt in MANY]
    for index in range(len(USEFUL), len(MANY)):
        song.until("deferred", index)
    # A trigger that begins looks for an early call, and then at the API as well: here nobody is that early.
    time.sleep(FIRST_POLL_OF_TRIGGER + 5)
    for job in jobs[3:6]:
        world.simulator.state.finish(job.task_id)
    for index in range(3, 6):
        song.until("success", index)
    world.stack.kill("api-server")
    for job in jobs[6:]:
        world.simulator.state.finish(job.task_id)
    world.stack.start_api_server()
    world.until("the API server", lambda: _answers(song))
    song.until_over()

    assert song.bookings == [1] * len(MANY)
    for index, job in enumerate(jobs):
        assert song.clip_ids(index) == list(job.clip_ids)
        assert count.xcom(index) == 2
        assert song.until("success", index)["try_number"] == 1
    assert [job.reads for job in jobs[3:]] == [1] * 6  # one look each, by the receiver


@starts("e2e_webhook", prompts=POLLED, conn="musicapi_impatient")
def test_track_whose_call_is_lost_or_forged_is_polled_for(song: Song, world: World) -> None:
    """Nothing is lost with a callback; what is not the API's is refused."""
    song.task_id = "song.create"
    for prompt in POLLED:
        (job,) = world.until("the booking", lambda prompt=prompt: song.jobs(prompt))  # type: ignore[misc]
        world.simulator.state.finish(job.task_id)
    song.until_over()
    calls = Counter(
        (POLLED[index].rpartition("-")[2], call["status"])
        for call in list(world.simulator.state.webhooks)
        for index, prompt in enumerate(POLLED)
        if call["task_id"] == song.job(prompt).task_id
    )

    assert song.bookings == [1] * len(POLLED)
    for index, prompt in enumerate(POLLED):
        assert song.clip_ids(index) == list(song.job(prompt).clip_ids)
    assert {how for how, status in calls if status == 401} == {"secret", "unsigned", "only", "old"}
    assert {status for _, status in calls} <= {401, 0}
    assert "Callbacks refused" in (world.stack.home / "processes" / "api-server.log").read_text()


def _answers(song: Song) -> bool:
    try:
        return song.instance(0) is not None
    except OSError:
        return False


@starts("e2e_webhook", prompts=["a lost and found song simulate:running simulate:drop-after-booking"])
def test_lost_answer_is_settled_by_its_call_and_nobody_is_asked(song: Song, world: World) -> None:
    """Created, dropped, called about: one purchase, its tracks, one try."""
    song.task_id = "song.create"
    (job,) = world.until("the booking", song.jobs)
    song.until("deferred", 0)
    world.simulator.state.finish(job.task_id)
    instance = song.until("success", 0)
    song.until_over()

    assert song.bookings == [1]
    assert song.clip_ids(0) == list(job.clip_ids)
    assert instance["try_number"] == 1
    assert "whose answer was lost, is music task" in song.log(0)


@starts("e2e_webhook_sensors", prompt="a song that two wait for simulate:running")
def test_sensors_are_ended_by_the_call(song: Song, world: World) -> None:
    """Deferred ones, and those that never touch a worker; what they return is what a worker would."""
    (job,) = world.until("the booking", song.jobs)
    waits = [song.at("wait"), song.at("wait_alone")]
    for wait in waits:
        wait.until("deferred")
        world.until("it is registered", lambda wait=wait: wait.find_xcom(f"musicapi_waits_for:{job.task_id}"))  # type: ignore[misc]
    world.simulator.state.finish(job.task_id)
    for wait in waits:
        wait.until("success")
    song.until_over()

    assert waits[0].xcom() == waits[1].xcom()
    assert waits[0].clip_ids() == list(job.clip_ids)
    assert {wait.link("Listen") for wait in waits} == {waits[0].xcom()[0]["audio_url"]}
    assert [wait.workers() for wait in waits] == [[], []]  # nothing resumed them


@starts("e2e_webhook", prompts=["a song that arrives simulate:running"])
def test_completed_tracks_update_the_asset(song: Song, world: World) -> None:
    """A DAG that runs on the asset learns what has arrived."""
    dag_id = "e2e_webhook_arrivals"
    world.api.unpause(dag_id)
    song.task_id = "song.create"
    (job,) = world.until("the booking", song.jobs)
    song.until("deferred", 0)
    world.simulator.state.finish(job.task_id)

    def arrived() -> dict[str, Any] | None:
        for run_id in world.api.run_ids(dag_id):
            if world.api.run_state(dag_id, run_id) == "success":
                for extra in world.api.xcom(dag_id, run_id, "arrived"):
                    if extra["music_task_id"] == job.task_id:
                        return dict(extra)
        return None

    extra = world.until("the arrival", arrived)
    song.until_over()

    assert extra["tracks"] == song.xcom(0)
    assert (extra["dag_id"], extra["task_id"], extra["map_index"]) == (song.dag_id, "song.create", 0)
