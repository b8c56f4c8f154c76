"""
The manifest of a prompt table's run: what became of each row, and what a later run must still buy.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from musicapi_provider.costs import expected_credits
from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.submission import NOT_SUBMITTED, SUBMITTED, UNKNOWN, fingerprint_of

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.hooks.musicapi import MusicAPIHook
    from musicapi_provider.prompt_table import PromptRow

log = logging.getLogger(__name__)

#: What else can become of a row: its tracks are stored; its music task failed and was refunded.
STORED, FAILED = "stored", "failed"
#: The run's credits were spent before this row's turn came: a later run buys it.
POSTPONED = "postponed"
#: What ``settle`` says of a row with an unknown outcome that shall be bought again; else a music task id.
RESUBMIT = "resubmit"
#: What outlives what when manifests disagree: evidence of a purchase is stronger than the lack of it.
_RANK = {NOT_SUBMITTED: 0, POSTPONED: 0, FAILED: 0, UNKNOWN: 1, SUBMITTED: 2, STORED: 3}


def _default_price(body: Mapping[str, Any]) -> float:
    return expected_credits(body, {})


def plan_rows(
    rows: Iterable[PromptRow],
    folder: ObjectStoragePath,
    *,
    account: str,
    settle: Mapping[str, str] | None = None,
    max_credits: float | None = None,
    price: Callable[[Mapping[str, Any]], float] = _default_price,
) -> list[dict[str, Any]]:
    """
    Compare a table with the manifests below a folder: what is stored is done, what is bought is collected.

    :param account: The connection id; another account is another purchase.
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the id of the music task that
        was found at the vendor, or :data:`RESUBMIT`.
    :param max_credits: What this run may spend; rows that do not fit are :data:`POSTPONED`, in the table's
        order. Counted by ``price``, so it is as right as the prices are.
    :param price: The credits that a body will cost; ``hook.expected_credits`` knows the connection's prices.
    :return: One entry per row: ``prompt_id, body, fingerprint, state, music_task_id, tracks, credits``, the
        last four as they stand before this run.
    :raises MusicAPIConfigurationError: a decision about a row that needs none, or no amount; nothing was
        bought.
    """
    history = read_history(folder)
    plan = [_planned(row, history, account) for row in rows]
    _decide(plan, settle or {})
    counts = {state: sum(entry["state"] == state for entry in plan) for state in (STORED, SUBMITTED, UNKNOWN)}
    log.info("%d rows; known from earlier runs: %s", len(plan), counts)
    if max_credits is not None:
        _postpone(plan, max_credits, price)
    return plan


def _planned(
    row: PromptRow, history: Mapping[tuple[str, str], Mapping[str, Any]], account: str
) -> dict[str, Any]:
    fingerprint = fingerprint_of(row.body, account=account)
    known = history.get((row.prompt_id, fingerprint), {})
    names: dict[str, Any] = {"state": NOT_SUBMITTED, "music_task_id": None, "tracks": [], "credits": 0.0}
    entry = {name: known.get(name, default) for name, default in names.items()}
    if entry["state"] == POSTPONED:
        entry["state"] = NOT_SUBMITTED
    return {"prompt_id": row.prompt_id, "body": row.body, "fingerprint": fingerprint, **entry}


def _decide(plan: Sequence[dict[str, Any]], settle: Mapping[str, str]) -> None:
    """Carry out decisions about unknown outcomes."""
    unknown = {entry["prompt_id"]: entry for entry in plan if entry["state"] == UNKNOWN}
    for prompt_id, decision in settle.items():
        if prompt_id not in unknown or not isinstance(decision, str) or not decision.strip():
            raise MusicAPIConfigurationError(
                f"settle: {prompt_id!r}: {decision!r} decides nothing; nothing was bought.",
                next_step=f"give a music task id or {RESUBMIT!r} for rows with an unknown outcome "
                f"({', '.join(unknown) or 'there is none'}).",
            )
        entry = unknown[prompt_id]
        if decision.strip() == RESUBMIT:
            entry["state"] = NOT_SUBMITTED
        else:
            entry.update(state=SUBMITTED, music_task_id=decision.strip())
        log.info("%s: settled as decided: %s", prompt_id, decision)


def _postpone(
    plan: Sequence[dict[str, Any]], max_credits: float, price: Callable[[Mapping[str, Any]], float]
) -> None:
    """Leave for a later run what this run may not pay for."""
    if not max_credits >= 0:  # also refuses NaN
        raise MusicAPIConfigurationError(
            f"max_credits must be 0 or more; got {max_credits!r}. Nothing was bought.",
            next_step="give the credits that one run may spend.",
        )
    left, postponed = max_credits, 0
    for entry in plan:
        if entry["state"] in (NOT_SUBMITTED, FAILED):
            cost = price(entry["body"])
            if postponed or cost > left:
                entry["state"] = POSTPONED
                postponed += 1
            else:
                left -= cost
    log.info("This run will spend about %g credits (max_credits is %g).", max_credits - left, max_credits)
    if postponed:
        log.warning("%d rows are left for a later run: max_credits does not cover them.", postponed)


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
        failed = bool(id_ and not tracks) and hook.has_failed(id_)
        results[name] = {
            "submission": submission["state"],
            "music_task_id": id_,
            "tracks": tracks,
            "failed": failed,
            "credits": 0.0 if failed else submission.get("credits"),
        }
    return results


def complete_plan(
    plan: Iterable[Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    Join the plan with what became of the rows that were worked on.

    :param results: By ``prompt_id``: ``submission``, ``music_task_id`` and ``credits`` of the create task,
        ``tracks`` of the store task, ``failed`` where the API says that the music task failed; absent or
        ``None`` where there is nothing.
    :return: The manifest: the plan's entries as they stand now. ``credits`` are expected prices; ``None``
        where nobody knows whether it was paid.
    """
    return [{**entry, **_outcome(results.get(entry["prompt_id"]) or {}, entry)} for entry in plan]


def _outcome(result: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    music_task_id = result.get("music_task_id")
    # What an earlier run has paid for is adopted by this one, which then pays nothing.
    known = {"music_task_id": music_task_id, "credits": result.get("credits") or entry.get("credits", 0.0)}
    if result.get("tracks"):
        return {**known, "state": STORED, "tracks": list(result["tracks"])}
    if result.get("failed"):
        return {**known, "state": FAILED, "tracks": [], "credits": 0.0}
    if music_task_id:
        return {**known, "state": SUBMITTED, "tracks": []}
    if not result.get("submission"):
        return {}
    return {"state": result["submission"], "credits": None if result["submission"] == UNKNOWN else 0.0}


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
