"""
The DAGs whose songs are called about: nobody polls, unless a callback is lost.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import dag, task, task_group

from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS

SETTINGS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "default_args": {"retries": 0, "retry_delay": timedelta(0)},
    "params": {"prompts": [], "prompt": "", "conn": "musicapi_hooked"},
}
HOOKED = "{{ params.conn }}"


@dag(schedule=None, **SETTINGS)
def e2e_webhook() -> None:
    """Buy a song a row, wait for the call about it, use it."""

    @task
    def rows(params: dict | None = None) -> list[str]:
        return params["prompts"]

    @task
    def count(tracks: list[dict[str, Any]]) -> int:
        return len(tracks)

    @task_group
    def song(prompt: str) -> None:
        create = MusicAPICreateOperator(
            task_id="create",
            musicapi_conn_id=HOOKED,
            gpt_description_prompt=prompt,
            wait_for_completion=True,
            deferrable=True,
        )
        count(create.output)

    song.expand(prompt=rows())


@dag(schedule=None, **SETTINGS)
def e2e_webhook_sensors() -> None:
    """Buy, and let sensors wait: deferred, and without a worker."""
    create = MusicAPICreateOperator(
        task_id="create", musicapi_conn_id=HOOKED, gpt_description_prompt="{{ params.prompt }}"
    )
    # What starts in the triggerer knows no templates.
    waits: dict[str, dict[str, Any]] = {"wait": {"deferrable": True}, "wait_alone": {"worker_free": True}}
    for task_id, how in waits.items():
        MusicAPITaskSensor(
            task_id=task_id, music_task_id=create.output, musicapi_conn_id="musicapi_hooked", **how
        )


@dag(schedule=[COMPLETED_TRACKS], catchup=False, max_active_runs=1, **SETTINGS)
def e2e_webhook_arrivals() -> None:
    """Say what has arrived."""

    @task
    def arrived(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        return [event.extra for events in triggering_asset_events.values() for event in events]

    arrived()


e2e_webhook()
e2e_webhook_sensors()
e2e_webhook_arrivals()
