"""
The manifest of a prompt table's run: what became of each row, and what a later run must still buy.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from musicapi_provider.submission import NOT_SUBMITTED, SUBMITTED, UNKNOWN, fingerprint_of

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.hooks.musicapi import MusicAPIHook
    from musicapi_provider.prompt_table import PromptRow

log = logging.getLogger(__name__)

#: What else can become of a row: its tracks are stored; its music task failed and was refunded.
STORED, FAILED = "stored", "failed"
#: What outlives what when manifests disagree: evidence of a purchase is stronger than the lack of it.
_RANK = {NOT_SUBMITTED: 0, FAILED: 0, UNKNOWN: 1, SUBMITTED: 2, STORED: 3}


def plan_rows(rows: Iterable[PromptRow], folder: ObjectStoragePath, *, account: str) -> list[dict[str, Any]]:
    """
    Compare a table with the manifests below a folder: what is stored is done, what is bought is collected.

    :param account: The connection id; another account is another purchase.
    :return: One entry per row: ``prompt_id, body, fingerprint, state, music_task_id, tracks``, the last three
        as they stand before this run.
    """
    history = read_history(folder)
    plan = []
    for row in rows:
        fingerprint = fingerprint_of(row.body, account=account)
        known = history.get((row.prompt_id, fingerprint), {})
        entry = {"prompt_id": row.prompt_id, "body": row.body, "fingerprint": fingerprint}
        names: dict[str, Any] = {"state": NOT_SUBMITTED, "music_task_id": None, "tracks": []}
        plan.append({**entry, **{name: known.get(name, default) for name, default in names.items()}})
    counts = {state: sum(entry["state"] == state for entry in plan) for state in (STORED, SUBMITTED, UNKNOWN)}
    log.info("%d rows; known from earlier runs: %s", len(plan), counts)
    return plan


def rows_to_do(plan: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return what this run must work on, as arguments for the mapped tasks.

    Rows with an unknown outcome are left out: buying them again could pay twice.

    :return: Per row ``prompt_id, body, adopt_music_task_id``; the id where an earlier run has bought it.
    """
    return [
        {
            "prompt_id": entry["prompt_id"],
            "body": entry["body"],
            "adopt_music_task_id": entry["music_task_id"] if entry["state"] == SUBMITTED else None,
        }
        for entry in plan
        if entry["state"] in (NOT_SUBMITTED, FAILED, SUBMITTED)
    ]


def row_results(
    ti: Any, rows: Sequence[Mapping[str, Any]], hook: MusicAPIHook, *, create: str, store: str
) -> dict[str, dict[str, Any]]:
    """
    Return what the mapped tasks of the rows have left behind, by prompt id; see :func:`complete_plan`.

    Asks the API (free) about music tasks without stored tracks: have they failed, or may they still come?

    :param ti: The task instance that asks.
    :param rows: As :func:`rows_to_do` gave them, in the order of the map indexes.
    :param create: Task id of the create operator.
    :param store: Task id of the store operator.
    """
    results = {}
    for index, row in enumerate(rows):
        name = row["prompt_id"]
        submission = ti.xcom_pull(task_ids=create, key="submission", map_indexes=index) or {}
        if submission.get("prompt_id") != name:
            continue  # an earlier row of this index left it behind; this one's task has not begun
        id_ = ti.xcom_pull(task_ids=create, key="music_task_id", map_indexes=index)
        tracks = ti.xcom_pull(task_ids=store, map_indexes=index) or []
        tracks = [track for track in tracks if track.get("music_task_id") == id_]
        results[name] = {
            "submission": submission["state"],
            "music_task_id": id_,
            "tracks": tracks,
            "failed": bool(id_ and not tracks) and hook.has_failed(id_),
        }
    return results


def complete_plan(
    plan: Iterable[Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    Join the plan with what became of the rows that were worked on.

    :param results: By ``prompt_id``: ``submission`` and ``music_task_id`` of the create task, ``tracks`` of
        the store task, ``failed`` where the API says that the music task failed; absent or ``None`` where
        there is nothing.
    """
    return [{**entry, **_outcome(results.get(entry["prompt_id"]) or {}, entry)} for entry in plan]


def _outcome(result: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    music_task_id = result.get("music_task_id")
    if result.get("tracks"):
        return {"state": STORED, "music_task_id": music_task_id, "tracks": list(result["tracks"])}
    if result.get("failed"):
        return {"state": FAILED, "music_task_id": music_task_id, "tracks": []}
    if music_task_id:
        return {"state": SUBMITTED, "music_task_id": music_task_id, "tracks": []}
    return {"state": result.get("submission") or entry["state"]}


def read_history(folder: ObjectStoragePath) -> dict[tuple[str, str], dict[str, Any]]:
    """
    Return what is known of each row, by prompt id and fingerprint, from all manifests below a folder.

    Later entries count more, but a purchase is never forgotten for an entry that knows of none. A line that
    is no entry is passed over with a warning; a storage that does not answer is an error, since planning
    without history would buy again.
    """
    entries: list[tuple[str, int, tuple[str, str], dict[str, Any]]] = []
    manifests = folder / "manifests"
    if not manifests.exists():
        return {}
    for path in manifests.glob("*.jsonl"):
        if not path.is_file():
            continue
        for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key = (entry["prompt_id"], entry["fingerprint"])
                entries.append((str(entry["written_at"]), _RANK[entry["state"]], key, entry))
            except (ValueError, TypeError, KeyError, RecursionError):
                log.warning("%s holds a line that is no manifest entry: %.80s", path, line)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, _, key, entry in sorted(entries, key=lambda item: item[:3]):
        if key not in found or _overrules(entry, found[key]):
            found[key] = entry
    return found


def _overrules(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    if new["state"] == FAILED and old["state"] == SUBMITTED:
        # Only the proof that this very music task has failed, and was refunded, undoes a purchase.
        return bool(new["music_task_id"] == old["music_task_id"])
    return _RANK[new["state"]] >= _RANK[old["state"]]


def write_manifest_file(folder: ObjectStoragePath, run_id: str, manifest: Sequence[Mapping[str, Any]]) -> str:
    """
    Write the manifest as JSON Lines to a new file in ``manifests/`` below the folder, named after the run.

    No manifest is ever overwritten: it may be the only record of a purchase.

    :return: The file's URI.
    """
    now = datetime.now(UTC)
    lines = [json.dumps({**entry, "written_at": now.isoformat()}) for entry in manifest]
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:150]  # run ids are free text, file names are not
    path = folder / "manifests" / f"{name}-{now:%Y%m%dT%H%M%S%f}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)
