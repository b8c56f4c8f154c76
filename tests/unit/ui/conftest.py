"""Airflow's own API server with the plugin, over HTTP; folders of real tracks; what tasks leave in XCom."""

from __future__ import annotations

import http.client
import itertools
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from airflow.configuration import conf
from airflow.sdk import ObjectStoragePath

from include.local.stack import free_port
from musicapi_provider import xcoms
from musicapi_provider.storage import TrackStore
from musicapi_provider.waiting import wait_for_tracks
from tests.s3 import s3_bucket
from tests.unit.ui.picky_auth_manager import PickyAuthManager

if TYPE_CHECKING:
    from musicapi_provider.client import MusicAPIClient
    from musicapi_provider.settings import ClientSettings

__all__ = ["s3_bucket"]

RUN = "manual__2026-11-27T00:00:00+00:00"
USERS = {"admin": "admin", "reader": "viewer"}
PATIENCE = 60


# -- Airflow's API server ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Server:
    """
    A running API server.

    :param tokens: A login for each user.
    """

    port: int
    app: Any
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(
        self, path: str, *, user: str | None = "admin", method: str = "GET", body: Any = None, **headers: str
    ) -> Answer:
        """
        Send a request as it is: no client takes ``../`` out of the path.

        :param headers: With ``_`` for ``-``.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if user:
            sent["Authorization"] = f"Bearer {self.tokens[user]}"
        if body is not None:
            sent["Content-Type"], body = "application/json", json.dumps(body)
        with closing(connection):
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start Airflow's API server, with the plugin as it is installed and a fresh SQLite database."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    manager = f"{PickyAuthManager.__module__}.{PickyAuthManager.__name__}"
    users = ",".join(f"{name}:{role}" for name, role in USERS.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", manager)
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", users)
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET",
            "a secret of sixty-four characters, for nothing but these tests ...",
        )
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
        app = create_app(apps="core")
        running = Server(free_port(), app)
        config = uvicorn.Config(app, host="127.0.0.1", port=running.port, log_config=None, access_log=False)
        served = uvicorn.Server(config)
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        while not served.started:
            thread.join(0.05)
            assert thread.is_alive()
        passwords = PickyAuthManager.get_passwords()
        for name in USERS:
            login = {"username": name, "password": passwords[name]}
            answer = running.ask("/auth/token", user=None, method="POST", body=login)
            running.tokens[name] = answer.json["access_token"]
            assert (
                running.ask("/musicapi/tracks", user=name).status == 200
            )  # Airflow keeps the secret from here
    yield running
    served.should_exit = True
    thread.join(PATIENCE)
    purge_cached_app()


# -- what tasks leave ----------------------------------------------------------------------------------------


@pytest.fixture
def leave(server: Server) -> Iterator[Callable[..., None]]:
    """
    Return a function that puts an XCom into the database as the execution API does.

    Without its task instance, which nothing here looks at.
    """
    numbers = itertools.count(1)
    database = conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///")

    def forget_all() -> None:
        with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
            connection.execute("DELETE FROM xcom")
            connection.commit()

    def put(
        key: str,
        value: Any,
        *,
        dag_id: str = "songs",
        run_id: str = RUN,
        task_id: str = "store",
        map_index: int = -1,
    ) -> None:
        names = "dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp"
        row = (next(numbers), dag_id, run_id, task_id, map_index, key, json.dumps(value))
        with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
            moment = f"2026-11-27 00:00:{row[0]:02}.000000"
            connection.execute(f"INSERT INTO xcom ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, moment))  # noqa: S608
            connection.commit()

    forget_all()  # the tests of DAGs use the same database
    yield put
    forget_all()


@pytest.fixture
def store(
    client: MusicAPIClient, settings: ClientSettings, leave: Callable[..., None]
) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that buys a song, stores its takes as a task does, and returns their records."""

    def make(
        destination: str, *, dag_id: str = "songs", run_id: str = RUN, title: str = "Rain", **about: Any
    ) -> list[dict[str, Any]]:
        body = {"task_type": "create_music", "custom_mode": False, "mv": "sonic-v5"}
        body |= {"gpt_description_prompt": f"A song called {title}", "title": title}
        bought = wait_for_tracks(client, [client.create(body)], timeout=PATIENCE, poll_interval=0.01)
        tracks = [{**track.as_dict(), "title": title} for track in bought]
        facts = {"dag_id": dag_id, "run_id": run_id, "body": body, "credits": 15, **about}
        leave(xcoms.DESTINATION, destination, dag_id=dag_id, run_id=run_id)
        with TrackStore(ObjectStoragePath(destination), settings, store_cover=True) as tracks_at:
            records = tracks_at.store_all(tracks, about=facts)
            tracks_at.write_index()
        return records

    return make


@pytest.fixture
def music(tmp_path: Path) -> str:
    """Return the URI of a local folder for tracks."""
    return f"file://{tmp_path}/music"
