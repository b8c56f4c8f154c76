"""
The DAGs of the end-to-end tests: a song is bought in each of the ways that users choose.

What somebody edits between two tries comes from Variables named after the run, since a run's conf is fixed:
``prompt_RUN`` replaces the prompt, ``adopt_RUN_INDEX`` settles a lost answer.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import dag, task

from musicapi_provider.operators.musicapi import MusicAPICreateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

PROMPT = "{{ var.value.get('prompt_' ~ run_id, params.prompt) }}"
ADOPTED = "{{ var.value.get('adopt_' ~ run_id ~ '_' ~ ti.map_index, None) }}"


def report_process(context: Context) -> None:
    """Tell the tests which process starts or resumes this try, so that they can kill it."""
    ti = context["ti"]
    with (Path(os.environ["E2E_PROCESSES"]) / f"{ti.run_id}_{ti.task_id}_{ti.map_index}").open("a") as file:
        file.write(f"{os.getpid()}\n")


SETTINGS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "default_args": {"retries": 3, "retry_delay": timedelta(0)},
    "params": {"prompt": "", "prompts": []},
}
CREATE: dict[str, Any] = {"task_id": "create", "pre_execute": report_process, "poll_interval": 0.2}


@dag(schedule=None, **SETTINGS)
def e2e_create() -> None:
    """Buy, do not wait."""
    MusicAPICreateOperator(**CREATE, gpt_description_prompt=PROMPT)


@dag(schedule=None, **SETTINGS)
def e2e_create_resubmitting() -> None:
    """Buy, and send again what may have been lost."""
    MusicAPICreateOperator(**CREATE, gpt_description_prompt=PROMPT, on_unknown_outcome="resubmit")


@dag(schedule=None, **SETTINGS)
def e2e_create_and_defer() -> None:
    """Buy and wait in the triggerer."""
    MusicAPICreateOperator(**CREATE, gpt_description_prompt=PROMPT, wait_for_completion=True, deferrable=True)


# Native, so that an id that is not there is None and not its text.
@dag(schedule=None, **SETTINGS, render_template_as_native_obj=True)
def e2e_create_mapped() -> None:
    """Buy a row each and wait in the worker."""

    @task
    def rows(params: dict | None = None) -> list[str]:
        return params["prompts"]

    MusicAPICreateOperator.partial(
        **CREATE, adopt_music_task_id=ADOPTED, wait_for_completion=True, deferrable=False
    ).expand(gpt_description_prompt=rows())


e2e_create()
e2e_create_resubmitting()
e2e_create_and_defer()
e2e_create_mapped()
