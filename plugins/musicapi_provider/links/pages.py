"""
Addresses of this provider's page and files on Airflow's API server.

:mod:`musicapi_provider.ui` serves them. Paths begin with a slash and are below Airflow's base URL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote, urlencode

#: What the plugin's FastAPI app is mounted at.
PREFIX = "/musicapi"
#: The tracks page's route in Airflow's UI, below ``/plugin/``.
TRACKS_ROUTE = "musicapi-tracks"


def folder_key(destination: str) -> str:
    """Return the name under which a folder's files are served: its URI stays out of addresses."""
    return hashlib.sha256(destination.rstrip("/").encode()).hexdigest()[:20]


def media_path(destination: str, clip_id: str, kind: Literal["audio", "cover"]) -> str:
    """Return where a stored track, or its cover, is served."""
    return f"{PREFIX}/media/{folder_key(destination)}/{quote(clip_id, safe='')}/{kind}"


def tracks_page_path(*, dag_id: str | None = None, run_id: str | None = None) -> str:
    """Return the tracks page, showing a DAG's or a run's tracks only."""
    filters = {name: value for name, value in (("dag_id", dag_id), ("run_id", run_id)) if value}
    return f"/plugin/{TRACKS_ROUTE}" + (f"?{urlencode(filters)}" if filters else "")


def lost_answers_page_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return the page on which a person decides about a task instance's lost answers."""
    place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    return f"/plugin/{TRACKS_ROUTE}?{urlencode(place)}"


def lost_answers_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return where that page reads them and sends decisions to."""
    return f"{_task_path(dag_id, run_id, task_id)}/lost_answers?{urlencode({'map_index': map_index})}"


def manifest_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return where the manifest that a task has written is served."""
    return f"{_task_path(dag_id, run_id, task_id)}/manifest?{urlencode({'map_index': map_index})}"


def music_tasks_path(
    dag_id: str, run_id: str, task_id: str, map_index: int, *, conn_id: str, music_task_ids: Sequence[str]
) -> str:
    """Return where the API's present answer about a task's music tasks is served."""
    query = {"map_index": map_index, "conn_id": conn_id, "music_task_id": list(music_task_ids)}
    return f"{_task_path(dag_id, run_id, task_id)}/music_tasks?{urlencode(query, doseq=True)}"


def _task_path(dag_id: str, run_id: str, task_id: str) -> str:
    dag, run, task = (quote(part, safe="") for part in (dag_id, run_id, task_id))
    return f"{PREFIX}/dags/{dag}/runs/{run}/tasks/{task}"
