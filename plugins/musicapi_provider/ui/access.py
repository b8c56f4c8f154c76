"""
Who may see which tracks: those that a DAG has stored which the user may read, with its XCom.

The folders are known from XCom (:data:`musicapi_provider.links.xcoms.DESTINATION`): one that no task of this
Airflow has stored to is never looked at.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeGuard

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.dag import DagModel
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import func, select

from musicapi_provider.files import OBJECT_STORES
from musicapi_provider.links import xcoms
from musicapi_provider.links.pages import folder_key

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

#: Pairs of DAG and folder that are looked up, the newest first.
MOST_PAIRS = 10_000
#: Seconds for which :class:`Folders` remembers: a page asks for fifty covers, and each look reads an XCom of
#: each task that has stored something.
MEMORY = 10.0


class Reader:
    """What a user may read, asked of Airflow's auth manager once for each DAG."""

    def __init__(self, user: BaseUser) -> None:
        self._user = user
        self._answers: dict[str, bool] = {}

    def may_read(self, dag_id: str) -> bool:
        """Tell whether the user may read a DAG and its XCom, which is where tasks leave their results."""
        if dag_id not in self._answers:
            details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
            self._answers[dag_id] = all(
                get_auth_manager().is_authorized_dag(
                    method="GET", access_entity=entity, details=details, user=self._user
                )
                for entity in (None, DagAccessEntity.XCOM)
            )
        return self._answers[dag_id]

    def may_clear(self, dag_id: str) -> bool:
        """Tell whether the user may clear a DAG's task instances, as Airflow's own API asks for it."""
        return get_auth_manager().is_authorized_dag(
            method="PUT",
            access_entity=DagAccessEntity.TASK_INSTANCE,
            details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
            user=self._user,
        )


def destinations() -> dict[str, set[str]]:
    """Return the folders that tasks store tracks in, the latest used first, with the DAGs that do."""
    statement = (
        select(XComModel.dag_id, XComModel.value)
        .where(XComModel.key == xcoms.DESTINATION)
        .group_by(XComModel.dag_id, XComModel.value)
        .order_by(func.max(XComModel.timestamp).desc())
        .limit(MOST_PAIRS)
    )
    found: dict[str, set[str]] = {}
    with create_session() as session:
        pairs = session.execute(statement).all()
    for dag_id, uri in pairs:
        if is_served(uri):
            found.setdefault(uri, set()).add(dag_id)
    return found


class Folders:
    """The folders of :func:`destinations` by :func:`~musicapi_provider.links.pages.folder_key`."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[str, set[str]]] = {}
        self._looked = -MEMORY

    def get(self, key: str, *, anew: bool = False) -> tuple[str, set[str]]:
        """
        Return a folder's URI and the DAGs that have stored there; none of both where nobody has.

        :param anew: Do not trust memory, which may not know the latest.
        """
        if anew or time.monotonic() - self._looked >= MEMORY:
            by_key: dict[str, tuple[str, set[str]]] = {}
            for uri, dag_ids in destinations().items():
                by_key.setdefault(folder_key(uri), (uri, set()))[1].update(dag_ids)
            self._by_key, self._looked = by_key, time.monotonic()
        return self._by_key.get(key, ("", set()))


def is_served(uri: object) -> TypeGuard[str]:
    """
    Tell whether a folder is one that the API server reads: local, or in an object store.

    Whoever writes a DAG must not make the API server ask addresses of its own network, so no ``http://``, and
    none of fsspec's chains such as ``filecache::http://``.
    """
    if not isinstance(uri, str) or "::" in uri:
        return False
    scheme, separator, rest = uri.partition("://")
    if scheme in OBJECT_STORES:
        return bool(separator)
    return (rest if scheme in ("file", "local") else uri).startswith("/")


def xcom_of(dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> object:
    """
    Return what a task instance has left under a key, ``None`` for nothing.

    As the database holds it, which is text or JSON for all that is looked up here: what would be more is not
    made an object of in this process.
    """
    place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index, "key": key}
    with create_session() as session:
        return session.scalar(select(XComModel.value).filter_by(**place))


def rendered_field(dag_id: str, run_id: str, task_id: str, map_index: int, name: str) -> object:
    """
    Return a field of a task instance as its last try has rendered it, ``None`` for none.

    :raises LookupError: no fields are kept of it: it has not run, or many have since.
    """
    model = RenderedTaskInstanceFields
    place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    with create_session() as session:
        fields = session.scalar(select(model.rendered_fields).filter_by(**place))
    if fields is None:
        raise LookupError(name)
    return fields.get(name)
