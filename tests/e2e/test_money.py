"""
No accident buys twice or loses what was bought: real Airflow processes, killed and cleared.

The runs of all tests start together. A prompt says how the simulator shall answer: ``simulate:running`` holds
the music task until the test ends it, ``simulate:slow-create`` books at once and holds the answer.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from include.musicapi_simulator.scenario import Armed, Stage
from include.musicapi_simulator.scenarios import find
from tests.e2e.conftest import API_KEY, WEBHOOK_SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from include.musicapi_simulator.jobs import Job
    from tests.e2e.song import Song, World

pytestmark = pytest.mark.e2e

NOTHING_IS_BOUGHT = "Nothing is bought: music task {} was submitted at"
SENT_AGAIN = "it is sent again. If the first one was booked, this pays twice."


def starts(dag_id: str, **conf: Any) -> pytest.MarkDecorator:
    """Give the test a run of this DAG, its ``song``."""
    return pytest.mark.parametrize("song", [pytest.param((dag_id, conf), id=dag_id)], indirect=True)


@dataclass
class HeldLook(Armed):
    """
    Hold a look at a finished music task.

    :param job: The music task.
    :param let_pass: Looks that are answered first.
    """

    job: Job = field(kw_only=True)
    let_pass: int = field(kw_only=True)

    def fires(self, stage: Stage, text: str) -> bool:
        """Say whether this look is held."""
        if stage is not self.scenario.stage or not self.job.finished:
            return False
        self.let_pass -= 1
        return self.let_pass < 0 and super().fires(stage, text)


@starts("e2e_create", prompt="a calm harp")
def test_clear_of_a_finished_create_buys_nothing(song: Song) -> None:
    """A clear runs the task again: it returns the same id and says in a line that nothing is bought."""
    song.until_over()
    music_task_id = song.xcom()

    song.clear()

    assert song.until("success")["try_number"] == 2
    assert song.bookings == [1]
    assert music_task_id == song.xcom() == song.job().task_id
    assert NOTHING_IS_BOUGHT.format(music_task_id) in song.log()


@starts("e2e_create", prompt="a loud harp")
def test_clear_after_an_edit_of_the_prompt_buys_once_more(song: Song) -> None:
    """Another prompt is another purchase, exactly one, and the log warns of it and names the first."""
    song.until_over()
    first = song.xcom()
    song.edit_prompt("a louder harp")

    song.clear()

    song.until("success")
    assert song.bookings == [1, 1]
    assert song.xcom() == song.job("a louder harp").task_id != first
    assert "The body has changed since" in (log := song.log())
    assert f"(music task {first}): this is a new purchase." in log


@starts("e2e_create_mapped", prompts=[f"row {index} simulate:running" for index in range(3)])
def test_retry_of_a_killed_mapped_create_collects(song: Song, world: World) -> None:
    """One of three processes is killed after its purchase is on record: three rows, three purchases."""
    jobs = [song.until_looked_at(1, prompt) for prompt in song.prompts]
    song.kill_process(1)
    song.until_started(2, map_index=1)
    for job in jobs:
        world.simulator.state.finish(job.task_id)

    tries = [song.until("success", index)["try_number"] for index in range(3)]

    assert tries == [1, 2, 1]
    assert song.bookings == [1, 1, 1]
    assert [song.clip_ids(index) for index in range(3)] == [list(job.clip_ids) for job in jobs]
    assert NOTHING_IS_BOUGHT.format(jobs[1].task_id) in song.log(1)


@starts("e2e_create_mapped", prompts=["row a", "row b simulate:slow-create", "row c"])
def test_create_killed_before_the_answer_is_settled_by_adoption(song: Song, world: World) -> None:
    """
    Killed between booking and answer, nobody knows what was paid: the retry fails for good and sends nothing.

    Told which music task it was, the cleared task collects it. Nothing was bought twice, or lost.
    """
    lost = song.prompts[1]
    world.until("the booking", lambda: song.jobs(lost))
    song.kill_process(1)

    assert song.until("failed", 1)["try_number"] == 2  # of four
    assert song.bookings == [1, 1, 1]
    assert "its answer was never recorded: it may have been booked" in song.log(1)
    assert song.xcom(1, key="submission")["state"] == "unknown outcome"

    job = song.job(lost)
    song.until_over()
    song.settle(job.task_id, 1)
    song.clear(1)

    for index in range(3):
        song.until("success", index)
    assert song.bookings == [1, 1, 1]
    assert song.clip_ids(1) == list(job.clip_ids)
    assert f"Nothing is bought: music task {job.task_id} is adopted." in song.log(1)


@starts("e2e_create_mapped", prompts=["a running oboe simulate:running"])
def test_clear_of_a_running_create_collects(song: Song, world: World) -> None:
    """Cleared while its process waits, the task is ended and waits again for the same music task."""
    job = song.until_looked_at(1)
    song.clear(0)
    song.until_started(2, 0)
    world.simulator.state.finish(job.task_id)

    assert song.until("success", 0)["try_number"] == 2
    assert song.bookings == [1]
    assert song.clip_ids(0) == list(job.clip_ids)
    assert NOTHING_IS_BOUGHT.format(job.task_id) in song.log(0)


@starts("e2e_create_and_defer", prompt="a patient flute simulate:running")
def test_clear_of_a_deferred_create_collects(song: Song, world: World) -> None:
    """Cleared while it waits in the triggerer, the task waits again for the same music task."""
    song.until("deferred")
    song.clear()
    song.until("deferred")
    job = song.job()
    world.simulator.state.finish(job.task_id)

    assert song.until("success")["try_number"] == 2
    assert song.bookings == [1]
    assert song.clip_ids() == list(job.clip_ids)
    assert NOTHING_IS_BOUGHT.format(job.task_id) in song.log()


@starts("e2e_create_and_defer", prompt="a hasty flute simulate:running")
def test_retry_of_a_create_killed_while_resuming_collects(song: Song, world: World) -> None:
    """The process that collects in ``execute_complete`` is killed: the retry collects."""
    song.until("deferred")
    job = song.job()
    # The triggerer's look is answered, that of the process which resumes is not.
    held = HeldLook(find("read-slow"), left=1, job=job, let_pass=1)
    job.scenarios.append(held)
    world.simulator.state.finish(job.task_id)
    world.until("a look that is held", lambda: held.left == 0)

    song.kill_process(start=2)

    assert song.until("success")["try_number"] == 2
    assert song.bookings == [1]
    assert song.clip_ids() == list(job.clip_ids)
    assert NOTHING_IS_BOUGHT.format(job.task_id) in song.log()


@starts("e2e_create_and_defer", prompt="a stubborn flute simulate:running")
def test_killed_triggerer_loses_no_waiting_create(song: Song, world: World) -> None:
    """Another triggerer takes over what a killed one was waiting for."""
    song.until("deferred")
    job = song.until_looked_at(2)  # the second look is the triggerer's
    world.stack.kill("triggerer")
    world.simulator.state.finish(job.task_id)
    world.stack.start_part("triggerer")

    assert song.until("success")["try_number"] == 1
    assert song.bookings == [1]
    assert song.clip_ids() == list(job.clip_ids)


@starts("e2e_create_resubmitting", prompt="a slow drum simulate:slow-create")
def test_resubmit_policy_buys_again_after_a_kill(song: Song, world: World) -> None:
    """Killed before the answer came, the create is sent once more, since the policy asks for it."""
    world.until("the booking", song.jobs)
    song.kill_process()

    assert song.until("success")["try_number"] == 2
    assert song.bookings == [2]
    assert song.xcom() == song.jobs()[1].task_id
    assert SENT_AGAIN in song.log()


@starts("e2e_create_resubmitting", prompt="a lost drum simulate:drop-after-booking")
def test_resubmit_policy_buys_again_after_a_lost_answer(song: Song) -> None:
    """Who asked for it gets a second request by the next try, and a log that says what it may cost."""
    assert song.until("success")["try_number"] == 2

    assert song.bookings == [2]
    assert song.xcom() == song.jobs()[1].task_id
    assert SENT_AGAIN in song.log()


@starts("e2e_create", prompt="a forbidden tuba simulate:unauthorized")
def test_key_is_nowhere_in_airflow(song: Song, songs: dict[str, Song], airflow_home: Path) -> None:
    """After all runs, also refused and killed ones, the key is in no log and not in the database."""
    song.until("failed")
    with closing(sqlite3.connect(airflow_home / "airflow.db", timeout=30)) as database:
        database.execute("PRAGMA wal_checkpoint(FULL)")
    written = {path: path.read_bytes() for path in airflow_home.rglob("*") if path.is_file()}

    for secret in (API_KEY, WEBHOOK_SECRET):
        assert [path.name for path, data in written.items() if secret.encode() in data] == []
    for other in filter(lambda song: song.prompts, songs.values()):  # the search finds what is there
        holders = {path.suffix for path, data in written.items() if other.prompts[0].encode() in data}
        assert ".db" in holders
    assert any(path.suffix == ".log" and b"Submitting" in data for path, data in written.items())
