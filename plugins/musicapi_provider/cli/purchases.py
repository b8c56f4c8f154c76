"""
``airflow musicapi purchases`` and ``settle``: what is on record, and what becomes of lost answers.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.sdk import ObjectStoragePath
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from rich.markup import escape

from musicapi_provider.exceptions import MusicAPIError, MusicAPIInvalidRequestError
from musicapi_provider.ledgers.folders import FolderRecords, person
from musicapi_provider.ledgers.tables import RunTables
from musicapi_provider.purchases.settling import Decision, Entry, settled
from musicapi_provider.text import clean
from musicapi_provider.waiting.ids import checked_ids

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

#: Columns of the table; other formats have all fields of ``Entry.as_json``.
COLUMNS = (
    "order",
    "ordered",
    "prompt_id",
    "state",
    "music_task_id",
    "credits",
    "lost_credits",
    "at",
    "asked_by",
)


@suppress_logs_and_warning
@providers_configuration_loaded
def purchases(args: argparse.Namespace) -> None:
    """List what is on record."""
    try:
        ledger = _ledger_of(args)
        entries = ledger.entries()
    except MusicAPIError as error:
        sys.exit(str(error))
    _print(entries, args.output)
    unread = ledger.unread if isinstance(ledger, FolderRecords) else {}
    for name, why in unread.items():
        sys.stderr.write(f"{name}: is no record ({why}).\n")
    if unread:
        sys.exit(1)


@suppress_logs_and_warning
@providers_configuration_loaded
def settle(args: argparse.Namespace) -> None:
    """Decide an unknown outcome, and say what was done and what is to be done next."""
    try:
        adopt = None if args.adopt is None else checked_ids(args.adopt)[0]
        ledger = _ledger_of(args)
        entry, after = settled(ledger.entries(), Decision(args.order, adopt, args.resubmit))
        if after is not None:
            ledger.write(entry, after)
    except MusicAPIError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{_said(entry, adopt, is_new=after is not None)}\n")


def _ledger_of(args: argparse.Namespace) -> RunTables | FolderRecords:
    if (args.run is None) == (args.folder is None):
        raise MusicAPIInvalidRequestError(
            "--run, --folder: one of both must be given, to say which purchases are meant.",
            next_step="give --run DAG_ID RUN_ID, or --folder with the records of the task or the destination "
            "of the table.",
        )
    if args.run is not None:
        return RunTables(*args.run)
    # Or the folder's connection would be looked for in the environment only.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    return FolderRecords(ObjectStoragePath(args.folder), person("airflow musicapi settle"))


def _print(entries: Sequence[Entry], output: str) -> None:
    console = AirflowConsole()
    listed = [entry.as_json() for entry in entries]
    if output == "json":
        console.print_as_json(listed)  # type: ignore[arg-type]
    elif output == "yaml":
        console.print_as_yaml(listed)  # type: ignore[arg-type]
    else:
        # A title may have brackets, which are markup in a table.
        shown = escape if output == "table" else str
        console.print_as([_row(one, shown) for one in listed], output)


def _row(listed: dict[str, Any], shown: Callable[[str], str]) -> dict[str, str]:
    asked_by = " ".join(listed[name] for name in ("asked_run", "asked_slot") if listed[name])
    values = {**listed, "asked_by": asked_by}
    return {name: shown(_cell(values[name])) for name in COLUMNS}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else " ".join(clean(str(value)).split())


def _said(entry: Entry, adopt: str | None, *, is_new: bool) -> str:
    asked = entry.purchase.asked
    task = f"the task {asked.slot} of {asked.run}" if asked else "the task that has ordered it"
    done = f"{entry.name}: {'is' if is_new else 'was already'} "
    if adopt is not None:
        return (
            f"{done}music task {adopt}. Next: clear {task}; it collects that and buys nothing "
            "(with force_new=True it would buy once more)."
        )
    return (
        f"{done}to be sent again, once. If the first create was booked, that pays twice. Next: clear {task}."
    )
