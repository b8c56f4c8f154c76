"""A prompt table in one task; destination, table and decisions come from the run's conf."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import dag

from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


def report_process(context: Context) -> None:
    """Tell the tests which process begins or resumes a try, so that they can kill it."""
    with (Path(os.environ["E2E_PROCESSES"]) / context["ti"].run_id).open("a") as file:
        file.write(f"{os.getpid()}\n")


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    params={"prompt_table": "", "destination": "", "settle": {}},
)
def e2e_table() -> None:
    """Buy, wait and store, 40 songs at a time."""
    MusicAPIPromptTableOperator(
        task_id="make_songs",
        prompt_table="{{ params.prompt_table }}",
        destination="{{ params.destination }}",
        settle="{{ params.settle | tojson }}",
        create_interval=0.04,
        max_in_flight=40,
        deferrable=True,
        retries=10,
        retry_delay=timedelta(0),
        pre_execute=report_process,
    )


e2e_table()
