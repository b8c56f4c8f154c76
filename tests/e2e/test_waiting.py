"""
Waiting without a worker, in real Airflow processes: it succeeds without any, and fails as on a worker.

The runs of all tests start together; tests below ``in_many_ways`` share one.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.song import Song
from tests.e2e.test_money import starts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.song import World

pytestmark = pytest.mark.e2e

FOREVER = "a fugue simulate:running"
in_many_ways = starts(
    "e2e_wait_in_many_ways",
    books={
        "failed": "a sad oboe simulate:failed",
        "unknown": "id:nobody-knows-this",
        "late": FOREVER,
        "several": ["one", "two", "three"],
        "held": "a patient oboe simulate:running",
        "with_outlet": "an oboe for others",
    },
)


@starts("e2e_wait", prompt="a calm oboe")
def test_success_touches_no_worker(song: Song, world: World) -> None:
    """No process, host or executor sees the sensor; its result is used as if a worker had returned it."""
    wait = song.at("wait")
    instance = wait.until("success")
    song.until_over()
    tracks = wait.xcom()

    assert wait.workers() == []
    assert (instance["try_number"], instance["pid"], instance["hostname"] or "") == (1, None, "")
    assert isinstance(tracks, list)
    assert list(song.job().clip_ids) == [track["clip_id"] for track in tracks]
    assert tracks[0]["audio_url"] == wait.link("Listen")
    assert song.at("count").xcom() == "list of 2"
    assert list(song.job().clip_ids) == [song.at("title").xcom(index) for index in range(2)]
    assert song.job().reads >= 2


@in_many_ways
def test_failed_music_task_fails_without_a_retry_and_with_the_same_words(song: Song) -> None:
    """A worker says it, so type and text are those of the other modes."""
    wait = song.at("failed")
    instance, other = wait.until("failed"), song.at("failed_on_worker")
    other.until("failed")

    assert instance["try_number"] == 1
    assert len(wait.workers()) == 1
    assert wait.exception() == other.exception()
    assert wait.exception()[0] == "AirflowFailException"
    assert "Generation failed, credits refunded" in wait.exception()[1]


@in_many_ways
@pytest.mark.parametrize(("task_id", "state"), [("late", "failed"), ("late_and_soft", "skipped")])
def test_deadline_is_a_sensor_timeout(task_id: str, state: str, song: Song) -> None:
    """It is not retried; ``soft_fail`` skips."""
    wait = song.at(task_id)
    instance = wait.until(state)

    assert instance["try_number"] == 1
    assert len(wait.workers()) == 1
    assert "After 2 s still running" in (log := wait.log())
    assert ("AirflowSensorTimeout" in log) or state == "skipped"


@in_many_ways
def test_list_of_ids_touches_no_worker(song: Song) -> None:
    """One wait, one end, tracks in the order of the ids."""
    wait = song.at("several")
    wait.until("success")

    assert wait.workers() == []
    assert [id_ for id_ in song.ids["several"] for _ in range(2)] == [t["music_task_id"] for t in wait.xcom()]


@in_many_ways
def test_retry_starts_in_the_triggerer_again_and_outlets_are_emitted(song: Song, world: World) -> None:
    """The first try fails on its worker, the second starts without one; its end is on one, for the asset."""
    wait = song.at("with_outlet")
    instance = wait.until("success")

    assert instance["try_number"] == 2
    assert len(wait.workers()) == 2  # one to end each try, none to start it
    assert wait.xcom(key="musicapi_wait_started")["try_number"] == 2
    assert [track["music_task_id"] for track in wait.xcom()] == [song.ids["with_outlet"]] * 2
    assert world.api.asset_events(song.dag_id, song.run_id) == ["with_outlet"]


@in_many_ways
def test_clear_while_waiting_waits_anew(song: Song, world: World) -> None:
    """A clear starts another wait in the triggerer, which collects."""
    wait = song.at("held")
    wait.until("deferred")
    world.until("its beginning", lambda: wait.find_xcom("musicapi_wait_started"))
    wait.clear()
    world.until("its second try", lambda: (wait.find_xcom("musicapi_wait_started") or {})["try_number"] == 2)
    world.simulator.state.finish(song.ids["held"])

    assert wait.until("success")["try_number"] == 2
    assert wait.workers() == []
    assert [track["music_task_id"] for track in wait.xcom()] == [song.ids["held"]] * 2


@starts("e2e_wait_mapped", prompts=["verse a", "verse b", "verse c"])
def test_mapped_sensors_start_on_a_worker_and_end_without(song: Song) -> None:
    """So does one whose ids come from a mapped task."""
    each, everything = song.at("each"), song.at("all")
    for index in range(3):
        each.until("success", index)
    everything.until("success")
    booked = [song.xcom(index) for index in range(3)]

    assert [len(each.workers(index)) for index in range(3)] == [1, 1, 1]
    assert [[id_] * 2 for id_ in booked] == [[t["music_task_id"] for t in each.xcom(i)] for i in range(3)]
    assert len(everything.workers()) == 1
    assert [id_ for id_ in booked for _ in range(2)] == [t["music_task_id"] for t in everything.xcom()]


def test_deadline_survives_a_killed_triggerer(world: World) -> None:
    """Taken over after the time is over, the wait ends without another look but the worker's."""
    song = Song(world, "e2e_wait_short", {"books": {"late": FOREVER}})
    wait, job = song.at("late"), world.simulator.state.jobs[song.ids["late"]]
    world.until("looks", lambda: job.reads >= 2)
    began = wait.xcom(key="musicapi_wait_started")
    world.stack.kill("triggerer")
    reads = job.reads
    world.until("its deadline", lambda: time.time() > began["started"] + 8)
    world.stack.start_part("triggerer")
    wait.until("failed")

    assert wait.xcom(key="musicapi_wait_started") == began
    assert "After 8 s still running" in wait.log()
    assert job.reads == reads + 1


@in_many_ways
def test_unknown_id_fails_without_a_retry(song: Song) -> None:
    """After its grace of a minute."""
    wait = song.at("unknown")
    instance = wait.until("failed")

    assert instance["try_number"] == 1
    assert len(wait.workers()) == 1
    assert wait.exception()[0] == "AirflowFailException"
    assert "does not know music task 'nobody-knows-this'" in wait.exception()[1]


def test_template_is_an_import_error_that_says_what_to_do(world: World) -> None:
    """Nobody renders it in the triggerer, so the DAG file is refused."""
    (error,) = [e for e in world.api.import_errors() if e["filename"].endswith("waiting_for_a_template.py")]

    assert "templates are not rendered in the triggerer" in error["stack_trace"]
    assert "deferrable=True" in error["stack_trace"]


def test_triggerer_met_no_surprise(world: World, songs: dict[str, Song], airflow_home: Path) -> None:
    """Its own log holds no traceback and no session left open."""
    log = (airflow_home / "processes" / "triggerer.log").read_text()

    assert songs
    assert re.findall(r"(?i)traceback.*|.*unclosed.*|.*never retrieved.*", log) == []
