"""
All that webhooks need of Airflow's tables: the only place that an upgrade of Airflow can break.

Airflow has no public way to wake a deferred task from outside (``airflow-notes.md``). What is done here is
what its own API server and triggerer do, with the same classes; :data:`.addresses.KNOWN_AIRFLOW` names the
versions it was tried with, and tests/unit/webhooks/test_airflow_tables.py says what has changed in another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import tenacity
from airflow._shared.state import AssetScope
from airflow.assets.manager import AssetManager
from airflow.models.asset import AssetModel
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.state import get_state_backend
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import String, cast, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm.exc import StaleDataError

from musicapi_provider.ledgers.assets import PURCHASES
from musicapi_provider.links import xcoms
from musicapi_provider.links.place import Place
from musicapi_provider.purchases.run_ledger import run_name, slot_key, slot_name
from musicapi_provider.webhooks.addresses import callback_key, called_key, payer_of, waits_for_key

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

TASK_TRIGGER = "musicapi_provider.triggers.musicapi.MusicAPITaskTrigger"
CALLBACK_TRIGGER = "musicapi_provider.webhooks.triggers.MusicAPICallbackTrigger"
#: Databases that are busy for a moment, and two API servers that write the same: once more.
again = tenacity.retry(
    retry=tenacity.retry_if_exception_type((OperationalError, IntegrityError, StaleDataError)),
    stop=tenacity.stop_after_attempt(6),
    wait=tenacity.wait_random(0.05, 0.5),
    reraise=True,
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A deferred task instance.

    :param trigger: Class path of what it waits with.
    :param arguments: The trigger's.
    :param since: When it was deferred.
    """

    place: Place
    trigger_id: int
    trigger: str
    arguments: Mapping[str, Any]
    since: datetime


@contextmanager
def transaction() -> Iterator[Session]:
    """Do several things at once, or none of them."""
    with create_session() as session:
        yield session


def payer(session: Session, token: str) -> Place | None:
    """Return the task instance that a token was made by, in whichever try; ``None`` where it is gone."""
    id_ = payer_of(token)
    for model, column in (
        (TaskInstance, TaskInstance.id),
        (TaskInstanceHistory, TaskInstanceHistory.task_instance_id),
    ):
        place = session.execute(
            select(model.dag_id, model.run_id, model.task_id, model.map_index).where(column == id_)
        ).first()
        if place is not None:
            return Place(*place)
    return None


class Told(dict[str, Any]):
    """What is known of a purchase's callbacks, with the text of the task state it was read from."""

    row_id: int
    text: str


def told(session: Session, place: Place, token: str) -> Told | None:
    """Return what is known of a purchase's callbacks; ``None``: no purchase expects this token."""
    row = session.execute(
        _of(TaskStateStoreModel, place)
        .with_only_columns(TaskStateStoreModel.id, TaskStateStoreModel.value)
        .where(TaskStateStoreModel.key == callback_key(token))
    ).first()
    if row is None:
        return None
    value = json.loads(row.value)
    known = Told(value if isinstance(value, dict) else {})
    known.row_id, known.text = row.id, row.value
    return known


def tell(session: Session, known: Told) -> None:
    """
    Write what is known now, if nobody has written since it was read.

    :raises StaleDataError: somebody has: read it again (:data:`again`). Not every database can lock a row.
    """
    written = session.execute(
        update(TaskStateStoreModel)
        .where(TaskStateStoreModel.id == known.row_id, TaskStateStoreModel.value == known.text)
        .values(value=json.dumps(known), updated_at=datetime.now(UTC))
    )
    if written.rowcount != 1:  # type: ignore[attr-defined]
        raise StaleDataError("another API server was told at the same time")


def bought(session: Session, place: Place, token: str) -> str | None:
    """Return the music task that a purchase is on record with, ``None`` while it is not."""
    asset = _asset(session, PURCHASES)
    if asset is None:
        return None
    run = run_name(place.dag_id, place.run_id)
    key = slot_key(run, slot_name(place.task_id, place.map_index))
    text = get_state_backend().get(AssetScope(asset_id=asset.id), key, session=session)
    ledger = json.loads(text) if text else {}
    for record in ledger.values() if isinstance(ledger, dict) else ():
        if isinstance(record, dict) and record.get("token") == token:
            return record.get("music_task_id")
    return None


def is_bought_elsewhere(session: Session, music_task_id: str, place: Place) -> bool:
    """Tell whether another task instance has bought a music task."""
    buyers = _with_xcom(
        session, xcoms.MUSIC_TASK_ID, cast(XComModel.value, String) == json.dumps(music_task_id)
    )
    return any(buyer != place for buyer in buyers)


def waiting_for(session: Session, music_task_id: str) -> list[Place]:
    """Return the task instances that have said that they wait for a music task."""
    return _with_xcom(session, waits_for_key(music_task_id))


def _with_xcom(session: Session, key: str, *conditions: ColumnElement[bool]) -> list[Place]:
    """Return the task instances that have left an XCom under a key."""
    columns = select(XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index)
    return [Place(*row) for row in session.execute(columns.where(XComModel.key == key, *conditions))]


def leave_note(session: Session, place: Place, name: str) -> None:
    """
    Leave a note for a task instance that is not done, if so: it may be about to be deferred.

    The trigger looks for notes when it begins, and this is before the look for who is deferred: one of both
    sees the other.
    """
    state = session.execute(_of(TaskInstance, place).with_only_columns(TaskInstance.state)).first()
    if state is not None and state[0] not in State.finished:
        push(session, place, called_key(name), True)


def is_on_its_way(session: Session, place: Place) -> bool:
    """Tell whether a task instance is neither done nor deferred: it may be, in a moment."""
    state = session.execute(_of(TaskInstance, place).with_only_columns(TaskInstance.state)).first()
    return state is not None and state[0] not in (*State.finished, TaskInstanceState.DEFERRED)


def notes(session: Session, place: Place, names: Sequence[str]) -> set[str]:
    """Return for which of these names there is a note."""
    keys = {called_key(name): name for name in names}
    found = session.scalars(
        _of(XComModel, place).with_only_columns(XComModel.key).where(XComModel.key.in_(keys))
    )
    return {keys[key] for key in found}


def started(session: Session, place: Place, music_task_id: str) -> Mapping[str, Any]:
    """Return what a task instance has said about its wait: ``music_task_ids`` and ``started``."""
    value = session.scalar(
        _of(XComModel, place)
        .with_only_columns(XComModel.value)
        .where(XComModel.key == waits_for_key(music_task_id))
    )
    return value if isinstance(value, dict) else {}


def deferred(session: Session, place: Place) -> Waiting | None:
    """Return a task instance that waits with one of our triggers, ``None`` where it does not."""
    instance = session.scalar(
        _of(TaskInstance, place).where(
            TaskInstance.state == TaskInstanceState.DEFERRED, TaskInstance.trigger_id.is_not(None)
        )
    )
    trigger = session.get(Trigger, instance.trigger_id) if instance is not None else None
    if trigger is None or trigger.classpath not in (TASK_TRIGGER, CALLBACK_TRIGGER):
        return None
    return Waiting(place, trigger.id, trigger.classpath, trigger.kwargs, trigger.created_date)


def end(session: Session, waiting: Waiting, xcom: Mapping[str, object]) -> bool:
    """
    End a deferred task instance with success.

    :param xcom: Its XComs; ``return_value`` among them.
    :return: False: something else was quicker.
    """
    if not _still_waits(session, waiting):
        return False
    for key, value in xcom.items():
        push(session, waiting.place, key, value)
    result = xcom.get("return_value")
    if isinstance(result, list) and waiting.place.map_index < 0:  # for tasks that are mapped over it
        session.merge(TaskMap(**waiting.place._asdict(), length=len(result), keys=None))
    Trigger.submit_event(waiting.trigger_id, TaskSuccessEvent(), session=session)
    return True


def resume(session: Session, waiting: Waiting, event: Mapping[str, object]) -> bool:
    """Let a worker go on with a deferred task instance, with an event as its trigger would yield it."""
    if not _still_waits(session, waiting):
        return False
    Trigger.submit_event(waiting.trigger_id, TriggerEvent(dict(event)), session=session)  # type: ignore[no-untyped-call]
    return True


def push(session: Session, place: Place, key: str, value: object) -> None:
    """Write an XCom, as Airflow keeps one: plain JSON."""
    XComModel.set(key=key, value=value, **place._asdict(), serialize=False, session=session)


def is_followed(session: Session, asset: Asset) -> bool:
    """Tell whether a DAG of this Airflow knows an asset."""
    model = _asset(session, asset)
    return model is not None and model.active is not None


def update_asset(session: Session, asset: Asset, extra: Mapping[str, object]) -> None:
    """Record an event of an asset; DAGs that are scheduled by it run."""
    model = _asset(session, asset)
    if model is not None:
        AssetManager.register_asset_change(asset=model, extra=dict(extra), session=session)


def _asset(session: Session, asset: Asset) -> AssetModel | None:
    return session.scalar(select(AssetModel).filter_by(name=asset.name, uri=asset.uri))


def _of(model: Any, place: Place) -> Any:
    return select(model).filter_by(**place._asdict())


def _still_waits(session: Session, waiting: Waiting) -> bool:
    row = session.scalar(
        _of(TaskInstance, waiting.place)
        .where(
            TaskInstance.state == TaskInstanceState.DEFERRED, TaskInstance.trigger_id == waiting.trigger_id
        )
        .with_for_update(of=TaskInstance)
    )
    return row is not None
