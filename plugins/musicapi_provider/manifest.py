"""
The run of a prompt table: what to do about each row, and what became of it.

What is stored is known from the manifests below the destination; what is bought from the submission records
beside them (:class:`~musicapi_provider.records.FolderRecords`). Neither is in Airflow, so no killed, cleared,
deleted or renumbered run forgets a purchase.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIUnknownTaskError
from musicapi_provider.records import FolderRecords
from musicapi_provider.submission import (
    NOT_SUBMITTED,
    SUBMITTED,
    UNKNOWN,
    Standing,
    UnknownOutcome,
    fingerprint_of,
    run_of,
    standing,
)

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.hooks.musicapi import MusicAPIHook
    from musicapi_provider.prompt_table import PromptRow

log = logging.getLogger(__name__)

#: What else can become of a row: its tracks are stored; its music task failed and was refunded.
STORED, FAILED = "stored", "failed"
#: The run's credits were spent before this row's turn came: a later run buys it.
POSTPONED = "postponed"
#: What ``settle`` says of a row with an unknown outcome that shall be sent again; else a music task id.
RESUBMIT = str(UnknownOutcome.RESUBMIT)


def plan_rows(
    rows: Iterable[PromptRow],
    folder: ObjectStoragePath,
    hook: MusicAPIHook,
    *,
    run_id: str,
    max_credits: float | None = None,
    settle: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """
    Find out what is done, what is bought and what is to be bought; buys nothing.

    Asks the API (free) about music tasks that are bought and not stored: those that failed are bought anew.

    :param run_id: The dag run: what it has spent already counts, should it be planned again.
    :param max_credits: What this run may spend, by expected prices; rows that do not fit are
        :data:`POSTPONED`, in the table's order, rows that have failed before last.
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the id of the music task that
        was found at the vendor, or :data:`RESUBMIT`.
    :return: One entry per row: ``prompt_id, body, fingerprint, state, music_task_id, tracks, credits``, the
        last four as they stand before this run, and ``decision``.
    :raises MusicAPIConfigurationError: an impossible limit or decision; nothing was bought.
    """
    stored = read_stored(folder)
    plan = [_planned(row, folder, hook, stored) for row in rows]
    _decide(plan, settle or {}, hook)
    counts = {state: sum(entry["state"] == state for entry in plan) for state in (STORED, SUBMITTED, UNKNOWN)}
    log.info("%d rows; known from earlier: %s", len(plan), counts)
    if max_credits is not None:
        _postpone(plan, folder, hook, run_id=run_id, max_credits=max_credits)
    return plan


def rows_to_do(plan: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return what this run must work on, as arguments for the mapped tasks.

    Rows with an unknown outcome are left out unless somebody has decided: sending them again could pay twice.

    :return: Per row ``prompt_id, body, adopt_music_task_id, on_unknown_outcome``.
    """
    return [
        {
            "prompt_id": entry["prompt_id"],
            "body": entry["body"],
            "adopt_music_task_id": entry["decision"] if entry["decision"] != RESUBMIT else None,
            "on_unknown_outcome": RESUBMIT if entry["decision"] == RESUBMIT else str(UnknownOutcome.FAIL),
        }
        for entry in plan
        if entry["state"] in (NOT_SUBMITTED, FAILED, SUBMITTED)
        or (entry["state"] == UNKNOWN and entry["decision"])
    ]


def complete_plan(
    plan: Iterable[Mapping[str, Any]],
    tracks: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: ObjectStoragePath,
    hook: MusicAPIHook,
) -> list[dict[str, Any]]:
    """
    Return the manifest: the plan's entries as they stand now, by the records.

    Asks the API (free) about music tasks without stored tracks: have they failed, or may they still come?

    :param tracks: Records of stored tracks by prompt id; those of another music task are passed over.
    :return: Per row ``prompt_id, body, fingerprint, state, music_task_id, tracks, credits, lost_credits``;
        ``credits`` at expected prices, ``None`` where nobody knows whether it was paid.
    """
    manifest = []
    for entry in plan:
        now = {name: value for name, value in entry.items() if name != "decision"}
        if entry["state"] != STORED:
            known = _standing(folder, entry)
            found = [one for one in tracks.get(entry["prompt_id"]) or [] if _is_of(one, known)]
            state = entry["state"] if entry["state"] == POSTPONED else _state(known, found, hook)
            now.update(state=state, music_task_id=known.music_task_id, tracks=found)
            now.update(credits=_credits(known, state), lost_credits=known.lost_credits)
        manifest.append(now)
    return manifest


def credits_of_run(
    manifest: Iterable[Mapping[str, Any]], folder: ObjectStoragePath, run_id: str
) -> tuple[float, float]:
    """
    Return what a dag run has spent, and what it may have spent beside that, at expected prices.

    Counts the last request for each row; what was refunded, or paid by another run, is not this run's.
    """
    spent = perhaps = 0.0
    for entry in manifest:
        known = _standing(folder, entry)
        if run_of(known.bought_in) == run_id:
            perhaps += known.price if known.state == UNKNOWN else 0.0
            spent += known.price if known.state == SUBMITTED and entry["state"] != FAILED else 0.0
    return spent, perhaps


def _planned(
    row: PromptRow,
    folder: ObjectStoragePath,
    hook: MusicAPIHook,
    stored: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any]:
    fingerprint = fingerprint_of(row.body, account=hook.account)
    entry: dict[str, Any] = {"prompt_id": row.prompt_id, "body": row.body, "fingerprint": fingerprint}
    entry |= {"tracks": [], "lost_credits": 0.0, "decision": None}
    if known := stored.get((row.prompt_id, fingerprint)):
        names = ("music_task_id", "tracks", "credits", "lost_credits")
        return {**entry, "state": STORED, **{name: known.get(name, entry.get(name)) for name in names}}
    now = _standing(folder, entry)
    state = FAILED if now.music_task_id and hook.has_failed(now.music_task_id) else now.state
    credits = {"credits": _credits(now, state), "lost_credits": now.lost_credits}
    return {**entry, "state": state, "music_task_id": now.music_task_id, **credits}


def _standing(folder: ObjectStoragePath, entry: Mapping[str, Any]) -> Standing:
    fingerprint = entry["fingerprint"]
    return standing(FolderRecords(folder, entry["prompt_id"], fingerprint), fingerprint)


def _state(known: Standing, tracks: Sequence[Mapping[str, Any]], hook: MusicAPIHook) -> str:
    if tracks:
        return STORED
    return FAILED if known.music_task_id and hook.has_failed(known.music_task_id) else known.state


def _credits(known: Standing, state: str) -> float | None:
    """Return what a row has cost: the last purchase of a failed one was refunded."""
    if known.credits is None or state != FAILED:
        return known.credits
    return known.credits - known.price


def _is_of(track: Mapping[str, Any], known: Standing) -> bool:
    return known.music_task_id is not None and track.get("music_task_id") == known.music_task_id


def _decide(plan: Sequence[dict[str, Any]], settle: Mapping[str, str], hook: MusicAPIHook) -> None:
    """Take decisions into the plan; the create operator carries them out."""
    rows = {entry["prompt_id"]: entry for entry in plan}
    owners = {entry["music_task_id"]: entry["prompt_id"] for entry in plan if entry["music_task_id"]}
    for prompt_id, given in settle.items():
        decision = given.strip() if isinstance(given, str) else ""
        if prompt_id not in rows or not decision:
            raise _no_decision(prompt_id, given, f"rows of the table: {', '.join(rows)}")
        entry = rows[prompt_id]
        if entry["state"] == STORED or (entry["state"] != UNKNOWN and decision == RESUBMIT):
            log.warning("settle: %s needs no decision, it is %s.", prompt_id, entry["state"])
            continue
        if decision != RESUBMIT:
            if owners.setdefault(decision, prompt_id) != prompt_id:
                raise _no_decision(prompt_id, given, f"that is the music task of {owners[decision]!r}")
            try:
                hook.get_task(decision)
            except MusicAPIUnknownTaskError as error:
                raise _no_decision(prompt_id, given, str(error)) from error
        entry["decision"] = decision
        log.info("settle: %s: %s", prompt_id, decision)


def _no_decision(prompt_id: str, given: Any, reason: str) -> MusicAPIConfigurationError:
    return MusicAPIConfigurationError(
        f"settle: {prompt_id!r}: {given!r} cannot be carried out ({reason}); nothing was bought.",
        next_step=f"give the id of the row's music task as it stands in your account, or {RESUBMIT!r}.",
    )


def _postpone(
    plan: Sequence[dict[str, Any]],
    folder: ObjectStoragePath,
    hook: MusicAPIHook,
    *,
    run_id: str,
    max_credits: float,
) -> None:
    """Leave for a later run what this run may not pay for."""
    # Rows that keep failing must not keep the others from their turn.
    dear = sorted((entry for entry in plan if _costs(entry)), key=lambda entry: entry["state"] == FAILED)
    prices = [hook.expected_credits(entry["body"]) for entry in dear]
    if not max_credits >= max([0.0, *prices]):  # also refuses NaN
        raise MusicAPIConfigurationError(
            f"max_credits must cover at least one row; got {max_credits!r}, and a row costs up to "
            f"{max([0.0, *prices]):g}. Nothing was bought.",
            next_step="give the credits that one run may spend.",
        )
    left = max_credits - sum(credits_of_run(plan, folder, run_id))
    buying, postponed = 0.0, 0
    for entry, price in zip(dear, prices, strict=True):
        if postponed or buying + price > left:
            postponed += 1
            if entry["state"] == UNKNOWN:
                log.warning("settle: %s is not carried out: it is postponed.", entry["prompt_id"])
                entry["decision"] = None  # the row stays an unknown outcome
            else:
                entry["state"] = POSTPONED
        else:
            buying += price
    log.info("This run will spend about %g credits (max_credits is %g).", buying, max_credits)
    if postponed:
        log.warning("%d rows are left for a later run: max_credits does not cover them.", postponed)


def _costs(entry: Mapping[str, Any]) -> bool:
    if entry["state"] == UNKNOWN:
        return bool(entry["decision"] == RESUBMIT)
    return entry["state"] in (NOT_SUBMITTED, FAILED) and entry["decision"] is None


def read_stored(folder: ObjectStoragePath) -> dict[tuple[str, str], dict[str, Any]]:
    """
    Return the entries of stored rows, by prompt id and fingerprint, from all manifests below a folder.

    A line that is no entry is passed over with a warning; a storage that does not answer is an error.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    manifests = folder / "manifests"
    try:  # not exists() or glob(): they find nothing as well when the storage does not answer
        names = [
            str(one["name"]) for one in manifests.fs.ls(manifests.path, detail=True) if one["type"] == "file"
        ]
    except FileNotFoundError:
        return found
    for path in (manifests / name.rpartition("/")[2] for name in names if name.endswith(".jsonl")):
        for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key, written_at = (entry["prompt_id"], entry["fingerprint"]), str(entry["written_at"])
                if entry["state"] != STORED or not isinstance(entry["tracks"], list):
                    continue
                if key not in found or written_at >= found[key]["written_at"]:
                    found[key] = {**entry, "written_at": written_at}
            except (ValueError, TypeError, KeyError, RecursionError):
                log.warning("%s holds a line that is no manifest entry: %.80s", path, line)
    return found


def write_manifest_file(folder: ObjectStoragePath, run_id: str, manifest: Sequence[Mapping[str, Any]]) -> str:
    """
    Write the manifest as JSON Lines to a new file in ``manifests/`` below the folder, named after the run.

    No manifest is ever overwritten: it says what is stored.

    :return: The file's URI.
    """
    now = datetime.now(UTC)
    lines = [json.dumps({**entry, "written_at": now.isoformat()}) for entry in manifest]
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:150]  # run ids are free text, file names are not
    path = folder / "manifests" / f"{name}-{now:%Y%m%dT%H%M%S%f}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)
