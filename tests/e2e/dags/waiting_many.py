"""
The DAG of the end-to-end tests in which many tracks wait, each in a task that lives in the triggerer.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task

from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

TRACKS = 100


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params={"ids": []})
def e2e_wait_for_many() -> None:
    """Wait for the music tasks of the run's conf; nothing is retried, so that a failure shows."""

    @task(multiple_outputs=True)
    def songs(params: dict | None = None) -> dict[str, str]:
        return {f"song_{number}": id_ for number, id_ in enumerate(params["ids"])}

    bought = songs()
    for number in range(TRACKS):
        MusicAPITaskSensor(
            task_id=f"wait_{number}",
            music_task_id=bought[f"song_{number}"],
            worker_free=True,
            poke_interval=10,
        )


e2e_wait_for_many()
