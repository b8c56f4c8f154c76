"""
The DAGs that wait in the triggerer alone: sensors with ``worker_free=True``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, dag, task

from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

SETTINGS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "default_args": {"retries": 2, "retry_delay": timedelta(0)},
    "params": {"prompt": "", "prompts": [], "ids": {}},
}


def report_process(context: Context) -> None:
    """Tell the tests which worker process starts or resumes this task."""
    ti = context["ti"]
    name = f"{ti.run_id}_{ti.task_id}_{ti.map_index}"
    with (Path(os.environ["E2E_PROCESSES"]) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def report_and_break_once(context: Context) -> None:
    """Fail the first try, as a worker does that has lost its database."""
    report_process(context)
    if context["ti"].try_number == 1:
        raise ConnectionError("the first try is unlucky")


def wait(task_id: str, music_task_id: Any, **changes: Any) -> MusicAPITaskSensor:
    """Wait for this without a worker, where possible."""
    arguments = {"poke_interval": 0.2, "worker_free": True, "pre_execute": report_process, **changes}
    return MusicAPITaskSensor(task_id=task_id, music_task_id=music_task_id, **arguments)


@dag(schedule=None, **SETTINGS)
def e2e_wait() -> None:
    """Buy, wait, use: the list as a whole and by mapping."""

    @task
    def count(tracks: list[dict[str, Any]]) -> str:
        return f"{type(tracks).__name__} of {len(tracks)}"

    @task
    def title(track: dict[str, Any]) -> str:
        return track["clip_id"]

    create = MusicAPICreateOperator(task_id="create", gpt_description_prompt="{{ params.prompt }}")
    tracks = wait("wait", create.output)
    count(tracks.output)
    title.expand(track=tracks.output)


@dag(schedule=None, **SETTINGS)
def e2e_wait_in_many_ways() -> None:
    """Wait for what the test has booked."""

    @task(multiple_outputs=True)
    def booked(params: dict | None = None) -> dict[str, Any]:
        return params["ids"]

    ids = booked()
    wait("failed", ids["failed"])
    wait("unknown", ids["unknown"])
    wait("late", ids["late"], timeout=2)
    wait("late_and_soft", ids["late"], timeout=2, soft_fail=True)
    wait("several", ids["several"])
    wait("held", ids["held"])
    outlet = Asset(name="e2e_waited_for", uri="musicapi://e2e/waited-for")
    wait("with_outlet", ids["with_outlet"], outlets=[outlet], pre_execute=report_and_break_once)
    # The same on a worker: what words does it use?
    wait("failed_on_worker", ids["failed"], worker_free=False, deferrable=False)


@dag(schedule=None, **SETTINGS)
def e2e_wait_mapped() -> None:
    """Buy rows; wait for each, and for all at once."""

    @task
    def rows(params: dict | None = None) -> list[str]:
        return params["prompts"]

    create = MusicAPICreateOperator.partial(task_id="create").expand(gpt_description_prompt=rows())
    MusicAPITaskSensor.partial(
        task_id="each", poke_interval=0.2, worker_free=True, pre_execute=report_process
    ).expand(music_task_id=create.output)
    wait("all", create.output)


@dag(schedule=None, **SETTINGS)
def e2e_wait_short() -> None:
    """Wait for what never ends, eight seconds."""

    @task(multiple_outputs=True)
    def booked(params: dict | None = None) -> dict[str, Any]:
        return params["ids"]

    wait("late", booked()["late"], timeout=8)


e2e_wait()
e2e_wait_in_many_ways()
e2e_wait_mapped()
e2e_wait_short()
