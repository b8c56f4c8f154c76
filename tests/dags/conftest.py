"""A migrated database and the example DAGs, once per run; each test runs a DAG through Airflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun
    from sqlalchemy.engine import Connection


@pytest.fixture(scope="session")
def dag_bag() -> DagBag:
    """Parse the examples against a fresh SQLite database."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(PROJECT / "dags"))


@pytest.fixture
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the wait that avoids the scheduler's race; ``dag.test()`` has no scheduler."""
    for module in ("operators.control_flow", "operators.prompt_table"):
        monkeypatch.setattr(f"musicapi_provider.{module}.FIRST_POLL_OF_TRIGGER", 0.0)


@pytest.fixture
def run_file(dag_bag: DagBag, connection: str, no_race: None) -> Callable[..., DagRun]:
    """Return a function that runs the only DAG of a file to its end and returns the dag run."""

    def run(file: Path) -> DagRun:
        bag = type(dag_bag)(str(file))
        assert bag.import_errors == {}
        (dag,) = bag.dags.values()
        return dag.test()

    return run


@pytest.fixture
def run_dag(dag_bag: DagBag, connection: str, no_race: None) -> Callable[..., DagRun]:
    """Return a function that runs an example with a conf to its end and returns the dag run."""

    def run(dag_id: str, **conf: Any) -> DagRun:
        # Parsed anew: dag.test() leaves the conf in the DAG's params.
        fresh = type(dag_bag)(str(PROJECT / "dags" / f"{dag_id}.py"))
        dag = fresh.dags[dag_id]
        for task in dag.tasks:
            if isinstance(task, MusicAPIPromptTableOperator):
                task.create_interval = 0  # the pace is for the real API
        return dag.test(run_conf=conf)

    return run


@pytest.fixture
def deliver(dag_bag: DagBag) -> Callable[..., AbstractContextManager[None]]:
    """
    Return a context manager in which new runs of a DAG are triggered by asset events.

    It does to the metadata database what the scheduler does, which ``dag.test()`` is without.
    """
    from airflow.models.asset import association_table
    from airflow.models.dagrun import DagRun

    @contextmanager
    def delivered(dag_id: str, *event_ids: int) -> Iterator[None]:
        def consume(_mapper: Any, connection: Connection, run: DagRun) -> None:
            if run.dag_id == dag_id:
                consumed = [{"dag_run_id": run.id, "event_id": id_} for id_ in event_ids]
                connection.execute(association_table.insert(), consumed)

        sqlalchemy.event.listen(DagRun, "after_insert", consume)
        try:
            yield
        finally:
            sqlalchemy.event.remove(DagRun, "after_insert", consume)

    return delivered


@pytest.fixture
def asset_events() -> Callable[[], dict[int, dict[str, Any]]]:
    """Return a function that reads the events of the asset ``musicapi_tracks``: extras by id, in order."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    def read() -> dict[int, dict[str, Any]]:
        query = (
            sqlalchemy.select(AssetEvent.id, AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetModel.name == "musicapi_tracks")
            .order_by(AssetEvent.id)
        )
        with create_session() as session:
            return {event.id: event.extra for event in session.execute(query)}

    return read


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """
    Return a function after which a person answers what a DAG asks; it returns the questions, as they come.

    ``dag.test()`` sleeps while it waits for a person. The answer goes the way of the UI's buttons.
    """
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    def answer_as(user: str, option: str) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        person = SimpleAuthManagerUser(username=user, role="user")
        payload = UpdateHITLDetailPayload(chosen_options=[option])
        waiting = (
            sqlalchemy.select(HITLDetail)
            .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
            .where(TaskInstance.state == "awaiting_input")
        )

        def respond(_seconds: float) -> None:
            with create_session() as session:
                for detail in session.scalars(waiting).all():
                    asked.append({"subject": detail.subject, "body": detail.body, "options": detail.options})
                    ti = detail.task_instance
                    update_hitl_detail(ti.dag_id, ti.run_id, ti.task_id, payload, person, session)

        monkeypatch.setattr("time.sleep", respond)
        return asked

    return answer_as


@pytest.fixture
def xcom() -> Callable[..., Any]:
    """Return a function that reads a task's result of a run, ``None`` where there is none."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    def read(run: DagRun, task_id: str, *, map_index: int = -1, key: str = "return_value") -> Any:
        with create_session() as session:
            query = XComModel.get_many(
                run_id=run.run_id, dag_ids=run.dag_id, task_ids=task_id, key=key, map_indexes=map_index
            )
            row = session.scalars(query).first()
            return XComModel.deserialize_value(row) if row is not None else None

    return read


@pytest.fixture
def logs(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return a function that reads everything logged so far; ``dag.test()`` logs to the terminal."""
    caplog.set_level("INFO")
    collected: list[str] = []

    def read() -> str:
        collected.extend([*capfd.readouterr(), caplog.text])
        return "".join(collected)

    return read
