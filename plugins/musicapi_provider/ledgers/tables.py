"""
The ledger of a dag run, as the API server and the command line reach it: Airflow's tables.

A task asks the execution API for one value after the other (:mod:`.asset_state`). Who lists them all needs
the tables, and so Airflow's own store.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.models.asset import AssetModel
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.state import get_state_backend
from airflow.state.metastore import MetastoreBackend
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import and_, or_, select, update

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIInvalidRequestError
from musicapi_provider.ledgers.assets import PURCHASES
from musicapi_provider.purchases import KEY
from musicapi_provider.purchases.ledger import purchases_from
from musicapi_provider.purchases.run_ledger import run_name, slot_key, slot_name
from musicapi_provider.purchases.settling import Entry, Record, changed_meanwhile, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from musicapi_provider.purchases import Purchase

_SLOT = re.compile(r"(?P<task_id>[^/:\[]+)(?:\[(?P<map_index>\d+)\])?")
#: Characters of a key that :func:`.run_ledger.slot_key` leaves as they are, at least.
_WHOLE = 400


@dataclass(frozen=True, slots=True)
class _Row:
    """
    A slot's ledger in a table.

    :param place: What errors call it.
    :param slot: Its slot; ``None``: its key is too long to tell.
    :param where: What tells the row from all others.
    """

    place: str
    slot: str | None
    text: str
    model: Any
    where: dict[str, Any]


class RunTables:
    """
    The purchases of one dag run.

    :raises MusicAPIConfigurationError: Airflow keeps state elsewhere, so nobody can list it.
    """

    def __init__(self, dag_id: str, run_id: str) -> None:
        self._dag_id, self._run_id = dag_id, run_id
        backend = get_state_backend()
        if not isinstance(backend, MetastoreBackend):
            raise MusicAPIConfigurationError(
                f"[state_store] backend: must be Airflow's own for this; it is {type(backend).__name__}, "
                "which cannot list what it has.",
                next_step="decide in the DAG: adopt_music_task_id, or on_unknown_outcome; or keep purchases "
                "in a folder (records).",
            )

    @property
    def place(self) -> str:
        """What people call it."""
        return f"dag run {self._run_id} of {self._dag_id}"

    def entries(self) -> list[Entry]:
        """
        Return all purchases, each once.

        :raises MusicAPIConfigurationError: what is stored is no ledger.
        """
        with create_session() as session:
            return entries_of(record for row in self._rows(session) for record in _records(row))

    def write(self, entry: Entry, purchase: Purchase) -> None:
        """
        Write what a purchase has become, wherever it is on record.

        :raises MusicAPIInvalidRequestError: a task is at work on it, or has written meanwhile.
        """
        with create_session() as session:
            for row in self._rows(session):
                if row.place not in entry.places:
                    continue
                known = purchases_from(json.loads(row.text))
                before = known.get(entry.record.fingerprint)
                if before is None or before.identity != entry.purchase.identity:
                    raise changed_meanwhile(entry)
                self._check_idle(session, row, entry)
                # Who has asked for it, and when, stays as each slot has it.
                known[entry.record.fingerprint] = replace(purchase, asked=before.asked)
                text = json.dumps({print_: one.as_json() for print_, one in known.items()})
                written = session.execute(
                    update(row.model)
                    .where(*(getattr(row.model, name) == value for name, value in row.where.items()))
                    .where(row.model.value == row.text)
                    .values(value=text, updated_at=datetime.now(UTC))
                )
                if written.rowcount != 1:  # type: ignore[attr-defined]
                    raise changed_meanwhile(entry)

    def _check_idle(self, session: Session, row: _Row, entry: Entry) -> None:
        """Refuse while a task decides about the same purchase: it writes what it has read."""
        slot = _SLOT.fullmatch(row.slot or "")
        if slot is None:
            return
        state = session.scalar(
            select(TaskInstance.state).filter_by(
                dag_id=self._dag_id,
                run_id=self._run_id,
                task_id=slot["task_id"],
                map_index=int(slot["map_index"] or -1),
            )
        )
        if state in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING):
            raise MusicAPIInvalidRequestError(
                f"{entry.name}: task {row.slot} is {state} and decides about it itself; nothing was changed.",
                next_step="wait until it is done.",
            )

    def _rows(self, session: Session) -> Iterator[_Row]:
        """Return the ledgers of all slots; those of version 0.1 are in the state of their tasks."""
        found = set()
        for row in self._asset_rows(session):
            found.add(row.slot)
            yield row
        for row in self._task_rows(session):
            if row.slot not in found:
                yield row

    def _asset_rows(self, session: Session) -> Iterator[_Row]:
        run, model = run_name(self._dag_id, self._run_id), AssetStateStoreModel
        prefix = slot_key(run, "")
        statement = (
            select(model)
            .join(AssetModel, AssetModel.id == model.asset_id)
            .where(AssetModel.name == PURCHASES.name, AssetModel.uri == PURCHASES.uri)
            .where(
                or_(
                    model.key.startswith(prefix[:_WHOLE], autoescape=True),
                    and_(
                        model.last_updated_by_dag_id == self._dag_id,
                        model.last_updated_by_run_id == self._run_id,
                    ),
                )
            )
            .order_by(model.key)
        )
        for row in session.scalars(statement):
            slot = self._slot_of(row)
            if slot is not None:
                where = {"asset_id": row.asset_id, "key": row.key}
                yield _Row(f"asset state {row.key!r}", slot, row.value, model, where)

    def _slot_of(self, row: AssetStateStoreModel) -> str | None:
        """Return the slot whose ledger a row is; ``None``: it is of another run, or no ledger."""
        run = run_name(self._dag_id, self._run_id)
        slot = row.key.removeprefix(f"{run}/")
        if slot != row.key and slot_key(run, slot) == row.key and _SLOT.fullmatch(slot):
            return slot
        # A long key is cut; who has written it last is its slot, the only one that writes it.
        if row.last_updated_by_task_id is None:
            return None
        slot = slot_name(row.last_updated_by_task_id, row.last_updated_by_map_index)
        return slot if slot_key(run, slot) == row.key else None

    def _task_rows(self, session: Session) -> Iterator[_Row]:
        model = TaskStateStoreModel
        statement = select(model).filter_by(dag_id=self._dag_id, run_id=self._run_id, key=KEY)
        for row in session.scalars(statement.order_by(model.task_id, model.map_index)):
            slot = slot_name(row.task_id, row.map_index)
            yield _Row(f"task state of {slot}", slot, row.value, model, {"id": row.id})


def of_slot(entries: Sequence[Entry], dag_id: str, run_id: str, slot: str) -> list[Entry]:
    """Return the purchases that are on record with a slot of a dag run."""
    run = run_name(dag_id, run_id)
    places = (f"asset state {slot_key(run, slot)!r}", f"task state of {slot}")
    return [entry for entry in entries if any(place in entry.places for place in places)]


def _records(row: _Row) -> list[Record]:
    try:
        known = purchases_from(json.loads(row.text))
    except (ValueError, TypeError) as error:
        raise MusicAPIConfigurationError(
            f"The submission record in the {row.place} is unreadable ({error}); nothing was changed.",
            next_step="if [workers] state_store_backend keeps values elsewhere, decide in the DAG: "
            "adopt_music_task_id, or on_unknown_outcome.",
        ) from error
    return [Record(row.place, print_, purchase) for print_, purchase in known.items()]
