"""
The plan of a prompt table: where each row stands, and what is decided about it. Buys nothing.

What is bought and stored is known from the files below the destination (:class:`.FolderStore`), one for each
row. None of it is in Airflow, so no killed, cleared, deleted or renumbered run forgets a purchase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIUnknownTaskError
from musicapi_provider.files import list_names
from musicapi_provider.prompt_table.budget import Budget, in_turn, postpone
from musicapi_provider.prompt_table.row import Adopt, Resubmit, Row, RowState, decision_from
from musicapi_provider.prompt_table.stored import set_stored
from musicapi_provider.purchases import UnknownOutcome, read_stores
from musicapi_provider.purchases.claims import PATIENCE
from musicapi_provider.storage.records import StoredTrack

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.prompt_table.reading import PromptRow
    from musicapi_provider.purchases import Asker, FolderStore

log = logging.getLogger(__name__)


class ToDo(TypedDict):
    """A row that a mapped task works on: arguments of the create operator."""

    prompt_id: str
    body: dict[str, object]
    adopt_music_task_id: str | None
    on_unknown_outcome: str


def plan_rows(
    rows: Iterable[PromptRow],
    folder: ObjectStoragePath,
    client: MusicAPIClient,
    account: str,
    *,
    run_id: str,
    max_credits: float | None = None,
    settle: Mapping[str, str] | None = None,
    ahead: bool = True,
    asker: Asker | None = None,
) -> list[Row]:
    """
    Find out what is done, what is bought and what is to be bought; buys nothing.

    A row is done when its file says that its tracks are stored and they are there; with tracks missing it is
    collected again, which is free.

    :param account: Whose purchases these are, see :func:`.fingerprint_of`.
    :param run_id: The dag run: what it has spent already counts, should it be planned again.
    :param max_credits: What this run may spend, at expected prices; rows that do not fit are postponed, in
        the table's order, rows that have failed before last.
    :param settle: Decisions about rows with an unknown outcome, by prompt id: the id of the music task that
        was found at the vendor, or ``resubmit``.
    :param ahead: Ask the API (free) about music tasks that are bought and not stored, one request each, to
        buy anew those that failed; and postpone. Off for a run that does both on its way.
    :param asker: Who asks: what others are buying just now is waited for, not what this task itself left.
    :return: One row per row of the table, as it stands before this run.
    :raises MusicAPIConfigurationError: an impossible limit or decision; nothing was bought.
    :raises MusicAPINotSentError: the storage does not answer; nothing was bought.
    """
    plan = [Row.of(row, account=account) for row in rows]
    _learn(plan, folder, asker)
    if ahead:
        _poll(plan, client)
    _settle(plan, settle or {}, client)
    counts = {
        str(state): sum(row.state is state for row in plan)
        for state in (RowState.STORED, RowState.SUBMITTED, RowState.UNKNOWN)
    }
    log.info("%d rows; known from earlier: %s", len(plan), counts)
    if max_credits is not None:
        budget, turn = Budget(max_credits, plan, run_id, client.settings), in_turn(plan)
        budget.check(turn)
        if ahead:
            _keep_within(budget, turn)
    return plan


def rows_to_do(plan: Iterable[Row]) -> list[ToDo]:
    """
    Return what this run must work on, as arguments for the mapped tasks.

    Rows with an unknown outcome are left out unless somebody has decided: sending them again could pay twice.
    """
    return [
        {
            "prompt_id": row.prompt_id,
            "body": dict(row.body),
            "adopt_music_task_id": row.decision.music_task_id if isinstance(row.decision, Adopt) else None,
            "on_unknown_outcome": str(
                UnknownOutcome.RESUBMIT if isinstance(row.decision, Resubmit) else UnknownOutcome.FAIL
            ),
        }
        for row in plan
        if row.is_due() or row.is_in_flight
    ]


def complete_plan(
    plan: Iterable[Row],
    tracks: Mapping[str, Sequence[object] | None],
    folder: ObjectStoragePath,
    client: MusicAPIClient,
) -> list[Row]:
    """
    Return the rows as they stand after the mapped tasks; write down what is stored.

    Asks the API (free) about music tasks without stored tracks: have they failed, or may they still come?

    :param tracks: What the mapped tasks have stored by prompt id, records as in their XComs; what is of
        another music task, or no record, is passed over.
    """
    rows = [replace(row, decision=None) for row in plan]
    missing = [row for row in rows if row.is_missing]
    for row, file in zip(missing, _files_of(missing, folder), strict=True):
        row.learn(file)
        found = _tracks_of(tracks.get(row.prompt_id) or [], row.music_task_id)
        if found:
            set_stored(file, row.music_task_id, found)
            row.set_stored(found)
    _poll(missing, client)
    for row in missing:
        row.explain()
    return rows


# -- what is known -------------------------------------------------------------------------------------------


def _learn(plan: Sequence[Row], folder: ObjectStoragePath, asker: Asker | None) -> None:
    """Take what the files of the rows say, and whether the tracks are there."""
    give_up = time.monotonic() + PATIENCE
    for row, file in zip(plan, _files_of(plan, folder, asker), strict=True):
        row.learn(file)
        if row.state is RowState.UNKNOWN:  # or another dag run is buying it just now
            file.read_after_others(give_up)
            row.learn(file)
    stored = [row for row in plan if row.state is RowState.STORED]
    there = list_names(folder) if stored else {}
    for row in stored:
        missing = [track.clip_id for track in row.tracks if not _is_there(track, there)]
        if missing:
            log.warning(
                "%s: the files of %s are gone from %s; its tracks are collected again.",
                row.prompt_id, ", ".join(missing), folder,
            )  # fmt: skip
            row.collect_again()


def _files_of(
    rows: Iterable[Row], folder: ObjectStoragePath, asker: Asker | None = None
) -> list[FolderStore]:
    return read_stores(folder, [(row.prompt_id, row.fingerprint) for row in rows], asker)


def _is_there(track: StoredTrack, files: Mapping[str, int | None]) -> bool:
    """Tell whether a stored track's file is in the folder, whole."""
    return track.file_name in files and track.bytes in (0, files[track.file_name])


def _poll(rows: Iterable[Row], client: MusicAPIClient) -> None:
    """Ask the API which music tasks have failed."""
    for row in rows:
        if row.state is RowState.SUBMITTED and (reason := client.failure_of(str(row.music_task_id))):
            row.refund(reason)


def _tracks_of(records: Iterable[object], music_task_id: str | None) -> list[StoredTrack]:
    """Return those records that are of a music task."""
    found = []
    for record in records if music_task_id else ():
        with suppress(ValueError):
            found.append(StoredTrack.from_json(record))
    return [track for track in found if track.music_task_id == music_task_id]


# -- what is decided -----------------------------------------------------------------------------------------


def _settle(plan: Sequence[Row], settle: Mapping[str, str], client: MusicAPIClient) -> None:
    """Take decisions into the plan; whoever buys carries them out."""
    rows = {row.prompt_id: row for row in plan}
    owners = {row.music_task_id: row.prompt_id for row in plan if row.music_task_id}
    for prompt_id, given in settle.items():
        text = given.strip() if isinstance(given, str) else ""
        if prompt_id not in rows or not text:
            raise _no_decision(prompt_id, given, f"rows of the table: {', '.join(rows)}")
        row, decision = rows[prompt_id], decision_from(text)
        is_new = isinstance(decision, Adopt) and decision.music_task_id != row.music_task_id
        if row.state is RowState.STORED or not (row.state is RowState.UNKNOWN or is_new):
            # Perhaps an earlier try has carried it out.
            log.warning("settle: %s needs no decision, it is %s.", prompt_id, row.state)
            continue
        if isinstance(decision, Adopt):
            if owners.setdefault(text, prompt_id) != prompt_id:
                raise _no_decision(prompt_id, given, f"that is the music task of {owners[text]!r}")
            try:
                client.get_task(text)
            except MusicAPIUnknownTaskError as error:
                raise _no_decision(prompt_id, given, str(error)) from error
        row.decision = decision
        log.info("settle: %s: %s", prompt_id, decision)


def _no_decision(prompt_id: str, given: object, reason: str) -> MusicAPIConfigurationError:
    return MusicAPIConfigurationError(
        f"settle: {prompt_id!r}: {given!r} cannot be carried out ({reason}); nothing was bought.",
        next_step="give the id of the row's music task as it stands in your account, or "
        f"{str(UnknownOutcome.RESUBMIT)!r}.",
    )


def _keep_within(budget: Budget, turn: Sequence[Row]) -> None:
    """Leave for a later run what this run may not pay for."""
    spent = 0.0
    for position, row in enumerate(turn):
        if not budget.covers(row):
            postpone(turn[position:])
            break
        spent += budget.price_of(row)
        budget.spend(budget.price_of(row))
    log.info("This run will spend about %g credits.", spent)
