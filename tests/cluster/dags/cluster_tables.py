"""A prompt table in one task, bought slowly, and a probe that shows whether tasks run at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task

from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    params={"prompt_table": "", "destination": "", "settle": {}},
)
def cluster_table() -> None:
    """Buy a song every 2.5 seconds, wait, store."""
    MusicAPIPromptTableOperator(
        task_id="make_songs",
        prompt_table="{{ params.prompt_table }}",
        destination="{{ params.destination }}",
        settle="{{ params.settle | tojson }}",
        create_interval=2.5,  # slow enough that something is left to buy when the last fault strikes
        max_in_flight=10,
        deferrable=True,
        pool="musicapi_creates",
        retries=20,
        retry_delay=timedelta(0),
    )


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))
def cluster_probe() -> None:
    """Run one small task, again when what runs it was struck."""

    @task(retries=20, retry_delay=timedelta(0))
    def answer() -> str:
        return "here"

    answer()


cluster_table()
cluster_probe()
