"""
The DAGs of the benchmarks that need a real Airflow: tasks that wait for music tasks which run already.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator, dag
from airflow.triggers.base import StartTriggerArgs

from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

IDS: list[str] = json.loads(Path(os.environ["BENCHMARK_IDS"]).read_text())


def report_start(context: Context) -> None:
    """Tell the benchmark that a worker process works on this task."""
    with Path(os.environ["BENCHMARK_STARTS"]).open("a") as file:
        file.write(f"{context['ti'].task_id.partition('_')[0]}\n")


class WaitWithHttpTrigger(BaseOperator):
    """Wait with the http provider's trigger; it starts there, so that 500 wait within seconds."""

    def __init__(self, *, music_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_from_trigger = True
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="airflow.providers.http.triggers.http.HttpSensorTrigger",
            trigger_kwargs={
                "endpoint": f"sonic/task/{music_task_id}",
                "method": "GET",
                "poke_interval": 5.0,
            },
            next_method="execute_complete",
        )

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Be content with any event."""


def bench_ours(ids: list[str]) -> None:
    """Wait for each track in a task of its own, started and ended in the triggerer."""
    for number, id_ in enumerate(ids):
        MusicAPITaskSensor(
            task_id=f"free_{number}",
            music_task_id=id_,
            worker_free=True,
            poke_interval=5,
            pre_execute=report_start,
        )


def bench_theirs(ids: list[str]) -> None:
    """The same with the http provider's trigger."""
    for number, id_ in enumerate(ids):
        WaitWithHttpTrigger(task_id=f"http_{number}", music_task_id=id_)


@dag(schedule=None)
def bench_deferrable() -> None:
    """Wait for each track in an instance of one mapped, deferrable sensor."""
    MusicAPITaskSensor.partial(
        task_id="deferrable", deferrable=True, poke_interval=5, pre_execute=report_start
    ).expand(music_task_id=IDS)


# DAGs of 20 tasks: Airflow gives each trigger that starts there its own copy of the whole DAG.
for start in range(0, len(IDS), 20):
    for waits in (bench_ours, bench_theirs):
        with DAG(f"{waits.__name__}_{start // 20}", schedule=None):
            waits(IDS[start : start + 20])
bench_deferrable()
