"""A prompt table in one task, for ``benchmarks/cluster.py``."""

from __future__ import annotations

from airflow.sdk import dag

from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator


@dag(schedule=None, params={"prompt_table": "", "destination": ""})
def bench_cluster() -> None:
    """Do the whole table in one task, all music tasks in flight at once."""
    MusicAPIPromptTableOperator(
        task_id="table",
        prompt_table="{{ params.prompt_table }}",
        destination="{{ params.destination }}",
        create_interval=0,
        max_in_flight=200,
        deferrable=True,
    )


bench_cluster()
