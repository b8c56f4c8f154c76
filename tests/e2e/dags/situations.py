"""
The DAGs of ``test_situations``: rows that a test may change between two clears, bought in each scope.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, task

from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

SETTINGS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "default_args": {"retries": 1, "retry_delay": timedelta(0)},
    "params": {"rows": [], "records": "", "prompt_table": "", "destination": ""},
}
IN_FOLDER = {"records": "{{ params.records }}"}


def configure_records(context: Context) -> None:
    """Set ``[musicapi] records`` for this process, as the environment of a worker would."""
    os.environ["AIRFLOW__MUSICAPI__RECORDS"] = context["params"]["records"]


@task
def rows(params: dict | None = None, run_id: str | None = None) -> list[dict]:
    """Return what is ordered: the test's last word, or the run's params; a text is a prompt."""
    edited = Path(os.environ["E2E_PROCESSES"]) / f"{run_id}.rows"
    ordered = json.loads(edited.read_text()) if edited.exists() else params["rows"]
    return [{"gpt_description_prompt": row} if isinstance(row, str) else row for row in ordered]


def rows_dag(dag_id: str, **how: Any) -> None:
    """Make a DAG that buys each row in a mapped task, between two others."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        create = MusicAPICreateOperator.partial(task_id="create", **how).expand_kwargs(rows())
        create >> EmptyOperator(task_id="after")


rows_dag("e2e_rows")
rows_dag("e2e_rows_cleared_by_cli")
rows_dag("e2e_rows_in_folder", **IN_FOLDER)
rows_dag("e2e_rows_in_same_folder", **IN_FOLDER)
rows_dag("e2e_rows_in_configured_folder", pre_execute=configure_records)

with DAG("e2e_same_song", schedule=None, **SETTINGS):
    SONG = {"gpt_description_prompt": "{{ params.rows[0] }}"}
    MusicAPICreateOperator(task_id="first", **SONG)
    MusicAPICreateOperator(task_id="second", **SONG, inlets=[Asset("e2e_inlet")])
    MusicAPICreateOperator.partial(task_id="third", inlets=[Asset("e2e_inlet")]).expand_kwargs([SONG])

for number in (1, 2):
    with DAG(f"e2e_shared_table_{number}", schedule=None, **SETTINGS, max_active_runs=2):
        MusicAPIPromptTableOperator(
            task_id="make_songs",
            prompt_table="{{ params.prompt_table }}",
            destination="{{ params.destination }}",
            create_interval=0.05,
            poll_interval=0.2,
            deferrable=False,
        )
