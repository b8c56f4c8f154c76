"""
Which ledger a task's purchases are in: a folder, or its dag run's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.sdk import ObjectStoragePath, conf

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.ledgers.asset_state import AssetState
from musicapi_provider.ledgers.task_state import TaskState
from musicapi_provider.purchases import Asker, FolderStore, RunLedger
from musicapi_provider.purchases.run_ledger import run_name, slot_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from airflow.sdk import Context


def folder_of_records(records: str | bool | None) -> ObjectStoragePath | None:
    """
    Return the folder that keeps purchases; ``None``: each dag run keeps its own.

    :param records: The operator's argument: a URI, false for none, ``None`` for ``[musicapi] records``.
    """
    where = "records"
    if records is None:
        where, records = "[musicapi] records", conf.get("musicapi", "records", fallback="") or False
    if records is False:
        return None
    if not isinstance(records, str) or records.strip() in ("", "None"):  # a template's, of an empty param
        raise MusicAPIInvalidRequestError(
            f"{where}: must be the URI of a folder; got {records!r}. Nothing was sent.",
            next_step="give one, such as s3://conn_id@bucket/music or file:///data/music.",
        )
    return ObjectStoragePath(records)


def run_ledger(context: Context, asker: Asker, renamed: Mapping[str, str]) -> RunLedger:
    """
    Return the ledger of a task instance among those of its dag run.

    :param renamed: Fingerprints that version 0.1 had others for.
    """
    return RunLedger(
        AssetState(context),
        asker,
        copy=TaskState(context),
        is_first_try=context["ti"].try_number == 1,
        renamed=renamed,
    )


def folder_ledger(
    folder: ObjectStoragePath, prompt_id: str | None, fingerprint: str, asker: Asker | None
) -> FolderStore:
    """Return the ledger of an order in a folder."""
    return FolderStore(folder, prompt_id or "", fingerprint, asker, require_claims=claims_are_required())


def claims_are_required() -> bool:
    """Tell whether a folder without exclusive create is refused: ``[musicapi] require_claims``."""
    return conf.getboolean("musicapi", "require_claims", fallback=True)


def asker_of(context: Context, retries: int, *, with_dag: bool = False) -> Asker:
    """
    Return who asks.

    :param retries: The task's: a clear lets it try as often again.
    :param with_dag: Several DAGs share the ledger.
    """
    ti = context["ti"]
    task = f"{ti.dag_id}.{ti.task_id}" if with_dag else ti.task_id
    dag_run = context["dag_run"]
    return Asker(
        run_name(ti.dag_id, ti.run_id),
        slot_name(task, ti.map_index),
        dag_run.clear_number or 0,
        _made_at(ti.id) if ti.try_number == ti.max_tries - retries + 1 else "",
        _text(dag_run.start_date),
    )


def _made_at(id_: UUID) -> str:
    """
    Return when a task instance was made: its id says so, a UUID of version 7.

    Airflow makes a new one for each try (``airflow-notes.md``): the first one's, of all tries since the last
    clear, tells since when the slot is as it is.
    """
    if id_.version != 7:
        return ""
    return _text(datetime.fromtimestamp((id_.int >> 80) / 1000, UTC))


def _text(time: datetime | None) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds") if time else ""
