"""
The DAG of benchmarks/webhooks.py: fifty songs, each used as soon as it is there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, task, task_group

from musicapi_provider.operators.musicapi import MusicAPICreateOperator


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params={"prompts": []})
def bench_songs() -> None:
    """Buy, wait in the triggerer, use."""

    @task
    def rows(params: dict | None = None) -> list[str]:
        return params["prompts"]

    @task
    def use(tracks: list[dict[str, Any]]) -> int:
        return len(tracks)

    @task_group
    def song(prompt: str) -> None:
        create = MusicAPICreateOperator(
            task_id="create", gpt_description_prompt=prompt, wait_for_completion=True, deferrable=True
        )
        use(create.output)

    song.expand(prompt=rows())


bench_songs()
