"""
A task instance's creates whose answers were lost: what is on record, and what a person decides.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath, conf
from pydantic import BaseModel, ConfigDict, Field

from musicapi_provider.exceptions import MusicAPIError, MusicAPIInvalidRequestError
from musicapi_provider.ledgers.folders import FolderRecords, person
from musicapi_provider.ledgers.tables import RunTables, of_slot
from musicapi_provider.purchases.run_ledger import run_name, slot_name
from musicapi_provider.purchases.settling import Decision, chosen_entry, settled
from musicapi_provider.ui.access import is_served, rendered_field
from musicapi_provider.waiting.ids import checked_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from musicapi_provider.purchases.settling import Entry
    from musicapi_provider.ui.task_instances import TaskInstanceRef


class Decided(BaseModel):
    """
    A decision as the page sends it.

    :param order: Whole name of the purchase.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    order: str = Field(max_length=100)
    adopt: str | None = Field(default=None, max_length=200)
    resubmit: bool = False


def lost_answers_of(instance: TaskInstanceRef) -> dict[str, Any]:
    """
    Return what the page shows.

    :return: ``lost``, an entry for each; ``command``, which does the same; ``problem``: why nothing can be
        shown or decided here, ``None`` where it can.
    """
    folder: str | None = None
    try:
        folder = _folder_of(instance)
        lost = _lost(instance, _ledger_of(instance, folder).entries(), folder)
        problem = None
    except MusicAPIError as error:
        lost, problem = [], str(error)
    return {
        "lost": [entry.as_json() for entry in lost],
        "command": _command(instance, folder),
        "problem": problem,
    }


def decide(instance: TaskInstanceRef, decided: Decided) -> None:
    """
    Write a decision down.

    :raises MusicAPIError: there is nothing to decide, or it cannot be written.
    """
    adopt = None if decided.adopt is None else checked_ids(decided.adopt)[0]
    folder = _folder_of(instance)
    ledger = _ledger_of(instance, folder)
    entries = ledger.entries()
    # Whoever may clear one DAG's tasks may not decide for others, nor read of them in an error.
    mine = chosen_entry(_of_instance(instance, entries, folder), decided.order)
    entry, after = settled(entries, Decision(mine.name, adopt, decided.resubmit))
    if after is not None:
        ledger.write(entry, after)


def _folder_of(instance: TaskInstanceRef) -> str | None:
    """
    Return the folder that keeps a task instance's purchases; ``None``: its dag run does.

    :raises MusicAPIInvalidRequestError: that cannot be known here, or the API server does not read it.
    """
    try:
        records = rendered_field(*instance, "records")
    except LookupError:
        raise MusicAPIInvalidRequestError(
            "records: where this task keeps its purchases is not known here: Airflow has no rendered fields "
            "of it any more ([core] max_num_rendered_ti_fields_per_task).",
            next_step="decide on the command line: airflow musicapi settle --run or --folder.",
        ) from None
    if records in (None, "None"):
        records = conf.get("musicapi", "records", fallback="")
    if records in ("", False, "False"):
        return None
    if not is_served(records):
        raise MusicAPIInvalidRequestError(
            f"records: the API server reads local folders and object stores only; got {records!r}.",
            next_step="decide on the command line: airflow musicapi settle --folder.",
        )
    return records


def _ledger_of(instance: TaskInstanceRef, folder: str | None) -> RunTables | FolderRecords:
    if folder is None:
        return RunTables(instance.dag_id, instance.run_id)
    return FolderRecords(ObjectStoragePath(folder), person("Airflow's API server"))


def _lost(instance: TaskInstanceRef, entries: Sequence[Entry], folder: str | None) -> list[Entry]:
    return [entry for entry in _of_instance(instance, entries, folder) if entry.purchase.is_intent]


def _of_instance(instance: TaskInstanceRef, entries: Sequence[Entry], folder: str | None) -> list[Entry]:
    """Return the purchases that a task instance has asked for last."""
    dag_id, run_id, task_id, map_index = instance
    if folder is None:
        return of_slot(entries, dag_id, run_id, slot_name(task_id, map_index))
    asker = (run_name(dag_id, run_id), slot_name(f"{dag_id}.{task_id}", map_index))
    return [
        entry
        for entry in entries
        if (asked := entry.purchase.asked) is not None and (asked.run, asked.slot) == asker
    ]


def _command(instance: TaskInstanceRef, folder: str | None) -> str:
    where = ["--run", instance.dag_id, instance.run_id] if folder is None else ["--folder", folder]
    return f"airflow musicapi settle {shlex.join(where)}"
