"""A triggerer that is killed costs nothing but time: all waits go on in the next one, at the same pace."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from include.musicapi_simulator.jobs import Job
    from tests.e2e.song import World

pytestmark = pytest.mark.e2e

DAG_ID = "e2e_wait_for_many"
TRACKS = 100
#: Seconds between looks, as in the DAG.
INTERVAL = 10.0


@pytest.fixture
def jobs(world: World) -> list[Job]:
    """Return music tasks that run until the test ends them."""
    state = world.simulator.state
    state.configure(credits=state.credits + 15 * TRACKS)
    body = {"task_type": "create_music", "prompt": "a choir of hundred simulate:running"}
    booked = [state.book(dict(body)) for _ in range(TRACKS)]
    return [job for job in booked if job]


def test_killed_triggerer_with_many_waiting_tracks(world: World, jobs: list[Job]) -> None:
    """100 tracks wait in a triggerer that is killed: all finish in their first try, at the usual pace."""
    world.stack.wait_for_dag(world.api, DAG_ID)
    began = time.monotonic()
    run_id = world.api.trigger(DAG_ID, {"ids": [job.task_id for job in jobs]})
    world.until("a look at each", lambda: all(job.reads for job in jobs))

    world.stack.kill("triggerer")
    before = [job.reads for job in jobs]
    world.stack.start_part("triggerer")
    world.until(
        "another look at each", lambda: all(job.reads > old for job, old in zip(jobs, before, strict=True))
    )
    for job in jobs:
        world.simulator.state.finish(job.task_id)
    world.until("the run's end", lambda: world.api.run_state(DAG_ID, run_id) in ("success", "failed"))

    instances = world.api.task_instances(DAG_ID, run_id)
    waits = [ti for ti in instances if ti["task_id"].startswith("wait_")]
    assert Counter((ti["state"], ti["try_number"]) for ti in waits) == {("success", 1): TRACKS}
    # Each triggerer looks once as it takes a wait over.
    assert max(job.reads for job in jobs) <= (time.monotonic() - began) / INTERVAL + 2
    assert world.api.xcom(DAG_ID, run_id, "wait_99")[0]["music_task_id"] == jobs[99].task_id
