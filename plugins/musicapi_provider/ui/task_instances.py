"""
What a task instance has left: its manifest, and its music tasks as the API knows them now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.settings import ONCE
from musicapi_provider.api.verdict import judge
from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIUnknownTaskError
from musicapi_provider.hooks.base import MusicAPIBaseHook
from musicapi_provider.links import pages, xcoms
from musicapi_provider.links.extra_links import MusicAPIMusicTaskLink
from musicapi_provider.prompt_table.manifest import MANIFESTS
from musicapi_provider.ui.access import is_served, xcom_of

#: Music tasks that one request looks at.
MOST_MUSIC_TASKS = 20
_MANIFEST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.jsonl")


class TaskInstanceRef(NamedTuple):
    """Which task instance; unpacked, the beginning of an XCom's address."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def manifest_of(instance: TaskInstanceRef) -> tuple[ObjectStoragePath, str] | None:
    """
    Return folder and name of the manifest that a task instance has written, ``None`` for none.

    Only what lies in ``manifests/`` of the folder that the same task instance stores tracks in counts.
    """
    destination = xcom_of(*instance, xcoms.DESTINATION)
    if not is_served(destination):
        return None
    folder = ObjectStoragePath(destination) / MANIFESTS
    for key in ("return_value", xcoms.SUMMARY):
        left = xcom_of(*instance, key)
        uri = left.get("manifest") if isinstance(left, dict) else None
        name = str(uri).rpartition("/")[2]
        if _MANIFEST.fullmatch(name) and uri == str(folder / name):
            return folder, name
    return None


def is_linked(instance: TaskInstanceRef, conn_id: str, music_task_ids: Sequence[str]) -> bool:
    """
    Tell whether a task instance itself links to this look at the API.

    Without that, whoever has a login could ask for any music task with any connection.
    """
    link = xcom_of(*instance, MusicAPIMusicTaskLink().xcom_key)
    path = pages.music_tasks_path(*instance, conn_id=conn_id, music_task_ids=music_task_ids)
    return isinstance(link, str) and link.endswith(path)


def look_at(conn_id: str, music_task_ids: Sequence[str]) -> dict[str, Any]:
    """
    Ask the API about music tasks; free.

    :return: ``music_tasks``, an entry for each; those that the API does not know have an ``error``. And
        ``left_out``, the ids that were not asked for, since each is a request.
    :raises MusicAPIError: the API does not answer, or refuses the connection's key.
    """
    hook = MusicAPIBaseHook(conn_id, retries=ONCE)  # somebody waits for it, and can ask again
    if hook.get_connection(conn_id).conn_type != hook.conn_type:
        # Its password is not for the API, and may be for nobody to send anywhere.
        raise MusicAPIConfigurationError(f"The Airflow connection {conn_id!r} is not of type MusicAPI.")
    return {
        "music_tasks": [_look_at(hook, id_) for id_ in music_task_ids[:MOST_MUSIC_TASKS]],
        "left_out": list(music_task_ids[MOST_MUSIC_TASKS:]),
    }


def _look_at(hook: MusicAPIBaseHook, music_task_id: str) -> dict[str, Any]:
    try:
        task = hook.get_task(music_task_id)
    except MusicAPIUnknownTaskError as error:
        return {"music_task_id": music_task_id, "state": None, "error": str(error), "tracks": []}
    verdict = judge(task, allow_http=hook.settings.allow_http_audio)
    return {
        "music_task_id": music_task_id,
        "state": verdict.state,
        "reason": verdict.reason,
        "error": str(verdict.error) if verdict.error else None,
        "tracks": [asdict(track) for track in task.tracks],
    }
