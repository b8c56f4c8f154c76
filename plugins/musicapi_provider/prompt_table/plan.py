"""
The run of a prompt table: what to do about each row, and what became of it.

What is bought and what is stored is known from the records below the destination
(:class:`.FolderRecords`) and from the files beside them. Neither is in Airflow, so
no killed, cleared, deleted or renumbered run forgets a purchase.

A plan is a list of entries, one per row, that survives JSON. An entry has

* the row: ``prompt_id, body, fingerprint``;
* where it stands: ``state``, ``music_task_id``, ``submitted_at`` (ISO time), ``tracks`` (records of stored
  ones), ``error``;
* what it cost, at expected prices: ``credits`` (``None`` where nobody knows), ``lost_credits`` (of creates
  whose answers were lost), ``price`` (of the last request), ``paid_by`` (the dag run that sent it);
* ``decision``: what ``settle`` says of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIUnknownTaskError
from musicapi_provider.files import list_names
from musicapi_provider.prompt_table.stored import set_stored, stored_tracks
from musicapi_provider.purchases import (
    PurchaseState,
    UnknownOutcome,
    fingerprint_of,
    read_stores,
    run_of,
    status_of,
)

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.hooks.base import MusicAPIBaseHook
    from musicapi_provider.prompt_table import PromptRow
    from musicapi_provider.purchases import FolderStore

log = logging.getLogger(__name__)

#: What else can become of a row: its tracks are stored; its music task failed and was refunded.
STORED, FAILED = "stored", "failed"
#: The run's credits were spent before this row's turn came: a later run buys it.
POSTPONED = "postponed"
#: What ``settle`` says of a row with an unknown outcome that shall be sent again; else a music task id.
RESUBMIT = str(UnknownOutcome.RESUBMIT)
#: Why a row has no tracks, where nothing more is known.
WHY: Mapping[str, str] = {
    PurchaseState.SUBMITTED: "bought, but not stored yet: a later run collects it, nothing is bought by that",
    PurchaseState.UNKNOWN: "the answer to its create was lost, so it may be paid: decide with settle",
    PurchaseState.NOT_SUBMITTED: "not bought: the log of its create says why",
    FAILED: "its music task failed and was refunded: a later run buys it anew",
}


def plan_rows(
    rows: Iterable[PromptRow],
    folder: ObjectStoragePath,
    hook: MusicAPIBaseHook,
    *,
    run_id: str,
    max_credits: float | None = None,
    settle: Mapping[str, str] | None = None,
    look: bool = True,
) -> list[dict[str, Any]]:
    """
    Find out what is done, what is bought and what is to be bought; buys nothing.

    A row is done when the records say that its tracks are stored and the files are there; with files missing
    it is collected again, which is free.

    :param run_id: The dag run: what it has spent already counts, should it be planned again.
    :param max_credits: What this run may spend, by expected prices; rows that do not fit are
        :data:`POSTPONED`, in the table's order, rows that have failed before last.
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the id of the music task that
        was found at the vendor, or :data:`RESUBMIT`.
    :param look: Ask the API (free) about music tasks that are bought and not stored, one request each: those
        that failed are bought anew. Off for whoever looks at them anyway.
    :return: One entry per row, as it stands before this run.
    :raises MusicAPIConfigurationError: an impossible limit or decision; nothing was bought.
    :raises MusicAPINotSentError: the storage does not answer; nothing was bought.
    """
    plan: list[dict[str, Any]] = [
        {
            "prompt_id": row.prompt_id,
            "body": row.body,
            "fingerprint": fingerprint_of(row.body, account=hook.account),
            "decision": None,
        }
        for row in rows
    ]
    _learn(plan, folder)
    if look:
        _look(plan, hook)
    _decide(plan, settle or {}, hook)
    counts = {
        str(state): sum(entry["state"] == state for entry in plan)
        for state in (STORED, PurchaseState.SUBMITTED, PurchaseState.UNKNOWN)
    }
    log.info("%d rows; known from earlier: %s", len(plan), counts)
    if max_credits is not None:
        _postpone(plan, hook, run_id=run_id, max_credits=max_credits)
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
        if entry["state"] in (PurchaseState.NOT_SUBMITTED, FAILED, PurchaseState.SUBMITTED)
        or (entry["state"] == PurchaseState.UNKNOWN and entry["decision"])
    ]


def complete_plan(
    plan: Iterable[Mapping[str, Any]],
    tracks: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: ObjectStoragePath,
    hook: MusicAPIBaseHook,
) -> list[dict[str, Any]]:
    """
    Return the manifest: the plan's entries as they stand now; write down what is stored.

    Asks the API (free) about music tasks without stored tracks: have they failed, or may they still come?

    :param tracks: Records of stored tracks by prompt id; those of another music task are passed over.
    :return: One entry per row, without ``decision``.
    """
    manifest = [{name: value for name, value in entry.items() if name != "decision"} for entry in plan]
    open_rows = [entry for entry in manifest if entry["state"] not in (STORED, POSTPONED)]
    for entry, record in zip(open_rows, _records_of(open_rows, folder), strict=True):
        entry.update(facts_of(record, entry["fingerprint"]))
        music_task_id = entry["music_task_id"]
        found = [one for one in tracks.get(entry["prompt_id"]) or [] if _is_of(one, music_task_id)]
        if found:
            set_stored(record, music_task_id, found)
            entry.update(state=STORED, tracks=found)
    _look(open_rows, hook)
    for entry in open_rows:
        entry["error"] = entry["error"] or WHY.get(entry["state"])
    return manifest


def credits_of_run(manifest: Iterable[Mapping[str, Any]], run_id: str) -> tuple[float, float]:
    """
    Return what a dag run has spent, and what it may have spent beside that, at expected prices.

    Counts the last request for each row; what was refunded, or paid by another run, is not this run's.
    """
    own = [entry for entry in manifest if entry["paid_by"] == run_id]
    spent = sum(entry["price"] for entry in own if entry["state"] in (PurchaseState.SUBMITTED, STORED))
    return spent, sum(entry["price"] for entry in own if entry["state"] == PurchaseState.UNKNOWN)


def counts_of(manifest: Sequence[Mapping[str, Any]], run_id: str) -> dict[str, Any]:
    """
    Return what became of a run's rows in numbers: what asset events and summaries tell.

    :return: ``rows, stored, tracks, without_tracks, unknown, postponed`` and, by expected prices and of this
        dag run alone, ``credits`` (spent) and ``lost_credits`` (perhaps spent beside that).
    """
    states = Counter(entry["state"] for entry in manifest)
    spent, perhaps_spent = credits_of_run(manifest, run_id)
    return {
        "rows": len(manifest),
        "stored": states[STORED],
        "tracks": sum(len(entry["tracks"]) for entry in manifest),
        "without_tracks": len(manifest) - states[STORED] - states[POSTPONED],
        "unknown": states[PurchaseState.UNKNOWN],
        "postponed": states[POSTPONED],
        "credits": spent,
        "lost_credits": perhaps_spent,
    }


def refund(entry: dict[str, Any], reason: str) -> None:
    """Note that an entry's music task failed: the API has refunded the last purchase (facts 3.3)."""
    credits = entry["credits"]
    entry.update(state=FAILED, error=reason, credits=None if credits is None else credits - entry["price"])


# -- what is known -------------------------------------------------------------------------------------------


def _learn(plan: Sequence[dict[str, Any]], folder: ObjectStoragePath) -> None:
    """Take what records and files say into the entries."""
    records = _records_of(plan, folder)
    for entry, record in zip(plan, records, strict=True):
        entry.update(facts_of(record, entry["fingerprint"]))
    files = list_names(folder) if any(entry["state"] == STORED for entry in plan) else {}
    for entry in plan:
        missing = [track["clip_id"] for track in entry["tracks"] if not _is_there(track, files)]
        if missing:
            log.warning(
                "%s: the files of %s are gone from %s; its tracks are collected again.",
                entry["prompt_id"], ", ".join(missing), folder,
            )  # fmt: skip
            entry.update(state=PurchaseState.SUBMITTED, tracks=[])


def _records_of(entries: Iterable[Mapping[str, Any]], folder: ObjectStoragePath) -> list[FolderStore]:
    return read_stores(folder, [(entry["prompt_id"], entry["fingerprint"]) for entry in entries])


def facts_of(record: FolderStore, fingerprint: str) -> dict[str, Any]:
    """Return what a row's record says: the entry's part that changes."""
    known = status_of(record, fingerprint)
    tracks = stored_tracks(record, known.music_task_id) if known.state == PurchaseState.SUBMITTED else []
    return {
        "state": STORED if tracks else known.state,
        "music_task_id": known.music_task_id,
        "submitted_at": known.at,
        "tracks": tracks,
        "error": None,
        "credits": known.credits,
        "lost_credits": known.lost_credits,
        "price": known.price,
        "paid_by": run_of(known.bought_in),
    }


def _is_there(track: Mapping[str, Any], files: Mapping[str, int | None]) -> bool:
    """Tell whether a stored track's file is in the folder, whole."""
    name = str(track.get("uri")).rpartition("/")[2]
    return name in files and track.get("bytes") in (None, files[name])


def _look(entries: Iterable[dict[str, Any]], hook: MusicAPIBaseHook) -> None:
    for entry in entries:
        if entry["state"] == PurchaseState.SUBMITTED and (reason := hook.failure_of(entry["music_task_id"])):
            refund(entry, reason)


def _is_of(track: Mapping[str, Any], music_task_id: str | None) -> bool:
    return music_task_id is not None and track.get("music_task_id") == music_task_id


# -- what is decided -----------------------------------------------------------------------------------------


def _decide(plan: Sequence[dict[str, Any]], settle: Mapping[str, str], hook: MusicAPIBaseHook) -> None:
    """Take decisions into the plan; the create operator carries them out."""
    rows = {entry["prompt_id"]: entry for entry in plan}
    owners = {entry["music_task_id"]: entry["prompt_id"] for entry in plan if entry["music_task_id"]}
    for prompt_id, given in settle.items():
        decision = given.strip() if isinstance(given, str) else ""
        if prompt_id not in rows or not decision:
            raise _no_decision(prompt_id, given, f"rows of the table: {', '.join(rows)}")
        entry = rows[prompt_id]
        is_open = entry["state"] == PurchaseState.UNKNOWN or decision not in (
            RESUBMIT,
            entry["music_task_id"],
        )
        if entry["state"] == STORED or not is_open:  # or it is carried out already, by an earlier try
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
    plan: Sequence[dict[str, Any]], hook: MusicAPIBaseHook, *, run_id: str, max_credits: float
) -> None:
    """Leave for a later run what this run may not pay for."""
    # Rows that keep failing must not keep the others from their turn.
    dear = sorted((entry for entry in plan if _costs(entry)), key=lambda entry: entry["state"] == FAILED)
    prices = [hook.expected_credits(entry["body"]) for entry in dear]
    check_limit(max_credits, prices)
    left = max_credits - sum(credits_of_run(plan, run_id))
    buying, postponed = 0.0, 0
    for entry, price in zip(dear, prices, strict=True):
        if postponed or buying + price > left:
            postponed += 1
            if entry["state"] == PurchaseState.UNKNOWN:
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
    if entry["state"] == PurchaseState.UNKNOWN:
        return bool(entry["decision"] == RESUBMIT)
    return entry["state"] in (PurchaseState.NOT_SUBMITTED, FAILED) and entry["decision"] is None


def check_limit(max_credits: float, prices: Sequence[float]) -> None:
    """
    Refuse a limit that no run could keep and yet get on.

    :raises MusicAPIConfigurationError: it does not cover the dearest row; nothing was bought.
    """
    dearest = max([0.0, *prices])
    if not max_credits >= dearest:  # also refuses NaN
        raise MusicAPIConfigurationError(
            f"max_credits must cover at least one row; got {max_credits!r}, and a row costs up to "
            f"{dearest:g}. Nothing was bought.",
            next_step="give the credits that one run may spend.",
        )
