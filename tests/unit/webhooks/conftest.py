"""Task instances in a real metadata database that wait for music tasks, and the API server that is called."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select

from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from musicapi_provider.webhooks.addresses import PREFIX, callback_key, new_token, waits_for_key
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS
from musicapi_provider.webhooks.signature import Reason, signature
from musicapi_provider.webhooks.triggers import MusicAPICallbackTrigger
from tests.conftest import WRITTEN_DAGS

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

    from include.musicapi_simulator import SimulatorServer
    from tests.unit.api_server import Answer, Server

SECRET = "a-secret-of-the-webhook-tests"
OTHER_SECRET = "the-secret-that-is-being-replaced"
DAG_ID = "webhook_songs"
#: Seconds for what the receiver does after it has answered.
PATIENCE = 30.0
DAG_FILE = f'''
from datetime import datetime

from airflow.sdk import dag

from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS


@dag(dag_id="{DAG_ID}", schedule=None, start_date=datetime(2026, 1, 1))
def songs():
    create = MusicAPICreateOperator(task_id="create", gpt_description_prompt="rain")
    for number in range(3):
        MusicAPITaskSensor(task_id=f"wait_{{number}}", music_task_id=create.output)


@dag(dag_id="{DAG_ID}_arrive", schedule=[COMPLETED_TRACKS], start_date=datetime(2026, 1, 1))
def arrive():
    pass


songs()
arrive()
'''


def session() -> Any:
    """Return a session of the metadata database."""
    from airflow.utils.session import create_session

    return create_session()


@dataclass
class Instance:
    """
    A task instance.

    :param arguments: For each call of :meth:`task`.
    """

    run_id: str
    task_id: str
    tokens: list[str] = field(default_factory=list)

    @property
    def place(self) -> dict[str, Any]:
        """What tells it from others."""
        return {"dag_id": DAG_ID, "run_id": self.run_id, "task_id": self.task_id, "map_index": -1}

    def row(self) -> TaskInstance:
        """Return it as the database has it."""
        from airflow.models.taskinstance import TaskInstance

        with session() as database:
            found: TaskInstance = database.scalar(select(TaskInstance).filter_by(**self.place))
            database.expunge_all()
            return found

    @property
    def state(self) -> str:
        """Its state."""
        return str(self.row().state)

    def set_state(self, state: str) -> None:
        """Bring it into a state."""
        from airflow.models.taskinstance import TaskInstance

        with session() as database:
            database.scalar(select(TaskInstance).filter_by(**self.place)).state = state

    def xcom(self, key: str = "return_value") -> Any:
        """Return an XCom as it is kept, ``None`` for none."""
        from airflow.models.xcom import XComModel

        with session() as database:
            return database.scalar(select(XComModel.value).filter_by(**self.place, key=key))

    def expect(self, music_task_id: str | None = None, *, conn_id: str = "musicapi_default") -> str:
        """Expect a callback as a create does before it pays; return the token."""
        token = new_token(self.row().id)
        self.put_state(callback_key(token), {"expected": "now", "musicapi_conn_id": conn_id})
        if music_task_id:
            self.put_purchase({"token": token, "music_task_id": music_task_id})
        self.tokens.append(token)
        return token

    def put_purchase(self, purchase: dict[str, Any]) -> None:
        """Write into the ledger of its dag run."""
        from airflow._shared.state import AssetScope
        from airflow.models.asset import AssetModel
        from airflow.state import get_state_backend

        from musicapi_provider.ledgers.assets import PURCHASES
        from musicapi_provider.purchases.run_ledger import run_name, slot_key, slot_name

        run = run_name(self.place["dag_id"], self.place["run_id"])
        key = slot_key(run, slot_name(self.place["task_id"], self.place["map_index"]))
        with session() as database:
            asset = database.scalar(select(AssetModel).filter_by(name=PURCHASES.name))
            if asset is None:
                asset = AssetModel(name=PURCHASES.name, uri=PURCHASES.uri, group="asset")
                database.add(asset)
                database.flush()
            scope = AssetScope(asset_id=asset.id)
            get_state_backend().set(scope, key, json.dumps({"fingerprint": purchase}), session=database)

    def put_state(self, key: str, value: Any) -> None:
        """Write into its task state."""
        from airflow._shared.state import TaskScope
        from airflow.state import get_state_backend

        with session() as database:
            get_state_backend().set(TaskScope(**self.place), key, json.dumps(value), session=database)

    def told(self, token: str) -> dict[str, Any]:
        """Return what is known of a callback."""
        from airflow._shared.state import TaskScope
        from airflow.state import get_state_backend

        with session() as database:
            text = get_state_backend().get(TaskScope(**self.place), callback_key(token), session=database)
        found: dict[str, Any] = json.loads(text or "null")
        return found

    def wait_for(self, *music_task_ids: str, age: float = 60.0, **arguments: Any) -> None:
        """Be deferred for music tasks; a sensor says so in XCom, too."""
        from musicapi_provider.webhooks import airflow_tables as tables

        about = {"music_task_ids": list(music_task_ids), "started": time.time() - age}
        with session() as database:
            for id_ in music_task_ids:
                tables.push(database, tables.Place(**self.place), waits_for_key(id_), about)
        arguments = {"ends_here": True, "started": time.time() - age, "webhook": True, **arguments}
        self._defer(MusicAPITaskTrigger(music_task_ids, "musicapi_default", 600.0, **arguments), age)

    def ask(self, token: str, *, age: float = 60.0) -> None:
        """Be deferred to hear what became of a create."""
        self._defer(MusicAPICallbackTrigger(token, time.time() + 600, time.time()), age)

    def _defer(self, trigger: Any, age: float) -> None:
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger

        with session() as database:
            row = Trigger.from_object(trigger)
            row.created_date = datetime.now(UTC) - timedelta(seconds=age)
            database.add(row)
            database.flush()
            instance = database.scalar(select(TaskInstance).filter_by(**self.place))
            instance.state, instance.trigger_id = "deferred", row.id
            instance.next_method, instance.next_kwargs = "execute_complete", {}


@dataclass
class Caller:
    """
    The API, as far as it calls back.

    :param server: What it calls.
    """

    server: Server
    ids: Iterator[int] = field(default_factory=partial(itertools.count, 1))

    def call(
        self,
        token: str,
        music_task_id: str,
        event: str = "song.completed",
        *,
        conn_id: str = "musicapi_default",
        secret: str = SECRET,
        late: float = 0.0,
        method: str = "POST",
        raw: bytes | None = None,
        tampered: bytes | None = None,
        **headers: str | None,
    ) -> Answer:
        """
        Send a callback.

        :param late: Seconds that the timestamp lies ahead.
        :param raw: Instead of the event.
        :param tampered: What is sent instead of what was signed.
        :param headers: Further ones, with ``_`` for ``-``; ``None`` leaves one out.
        """
        from tests.unit.api_server import Answer

        body = json.dumps({"event": event, "task_id": music_task_id, "code": 200, "data": []}).encode()
        body = body if raw is None else raw
        timestamp = str(int(time.time() + late))
        sent: dict[str, str | None] = {
            "Content-Type": "application/json",
            "X-Webhook-Id": f"evt-{next(self.ids)}",
            "X-Webhook-Event": event,
            "X-Webhook-Timestamp": timestamp,
            "X-Webhook-Signature": signature(secret, timestamp, body),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        known = {name: value for name, value in sent.items() if value is not None}
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        ) as connection:
            path = f"{PREFIX}/{conn_id}/{token}"
            connection.request(method, path, body if tampered is None else tampered, known)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())


@pytest.fixture(scope="session")
def dags(server: Server) -> None:
    """Let Airflow know the DAG of these tests."""
    (WRITTEN_DAGS / f"{DAG_ID}.py").write_text(DAG_FILE)
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "reserialize", "--bundle-name", WRITTEN_DAGS.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (WRITTEN_DAGS / f"{DAG_ID}.py").unlink()


@pytest.fixture
def tasks(dags: None) -> Callable[[str], Instance]:
    """Return a function that gives a task instance of a new run, running."""
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.xcom import XComModel
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    run_id = f"manual__{time.time_ns()}"
    with session() as database:
        database.execute(delete(XComModel).where(XComModel.dag_id == DAG_ID))  # other tests' music tasks
        dag = SerializedDagModel.get_dag(DAG_ID, session=database)
        assert dag is not None
        dag.create_dagrun(
            run_id=run_id,
            run_after=datetime.now(UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=database,
        )

    def get(task_id: str) -> Instance:
        instance = Instance(run_id, task_id)
        instance.set_state("running")
        return instance

    return get


@pytest.fixture
def caller(
    server: Server,
    simulator: SimulatorServer,
    connect: Callable[..., None],
    dags: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Caller]:
    """Return a caller of the API server, whose connection has two active secrets."""
    from musicapi_provider.webhooks import receiver, wake
    from musicapi_provider.webhooks.receiver import receivers

    monkeypatch.setattr(wake, "PAUSES", (0.0, 0.1, 0.2, 0.4, 0.8, 1.6))
    connect(
        simulator.base_url,
        simulator.api_key,
        webhook=True,
        webhook_base_url=f"http://127.0.0.1:{server.port}",
        webhook_secret=f"{SECRET} {OTHER_SECRET}",
    )
    receivers.forget()
    yield Caller(server)
    receivers.forget()
    for task in list(receiver._wakes):
        task.get_loop().call_soon_threadsafe(task.cancel)
    until("no wake is left", lambda: not receiver._wakes)


@pytest.fixture
def refused() -> Callable[[], Mapping[Reason, int]]:
    """Return a function that says what was refused since the last time it was asked."""
    from musicapi_provider.webhooks.receiver import refusals

    before = refusals.counts.copy()

    def since() -> Mapping[Reason, int]:
        nonlocal before
        found, before = refusals.counts - before, refusals.counts.copy()
        return dict(found)

    return since


@pytest.fixture
def book(simulator: SimulatorServer) -> Callable[..., str]:
    """Return a function that books a music task at the simulator, done or running."""

    def booked(prompt: str = "rain", *, done: bool = True) -> str:
        job = simulator.state.book({"task_type": "create_music", "gpt_description_prompt": prompt})
        assert job is not None
        if done:
            simulator.state.finish(job.task_id)
        return job.task_id

    return booked


def until(what: str, reached: Callable[[], Any]) -> Any:
    """Wait for what the receiver does after it has answered."""
    deadline = time.monotonic() + PATIENCE
    while not (value := reached()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.02)
    return value


def asset_events() -> list[dict[str, Any]]:
    """Return the extras of all events of the asset of completed tracks."""
    from airflow.models.asset import AssetEvent, AssetModel

    with session() as database:
        return list(
            database.scalars(
                select(AssetEvent.extra)
                .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
                .where(AssetModel.name == COMPLETED_TRACKS.name)
                .order_by(AssetEvent.id)
            )
        )
