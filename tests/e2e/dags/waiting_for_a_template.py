"""A mistake: nobody would render this template, so the file must not be imported."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag

from musicapi_provider.sensors.musicapi import MusicAPITaskSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))
def e2e_wait_for_a_template() -> None:
    """Wait for what a template says."""
    MusicAPITaskSensor(task_id="wait", music_task_id="{{ params.id }}", worker_free=True)


e2e_wait_for_a_template()
