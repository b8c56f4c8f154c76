"""Folders of real tracks; what tasks leave in XCom."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.configuration import conf
from airflow.sdk import ObjectStoragePath

from musicapi_provider.links import xcoms
from musicapi_provider.storage import About, TrackStore
from musicapi_provider.waiting.wait import wait_for_tracks
from tests.s3 import s3_bucket
from tests.unit.api_server import PATIENCE, Server

if TYPE_CHECKING:
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.api.settings import ClientSettings

__all__ = ["s3_bucket"]

RUN = "manual__2026-11-27T00:00:00+00:00"


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
        tracks = [replace(track, title=title) for track in bought]
        facts = {"dag_id": dag_id, "run_id": run_id, "body": body, "credits": 15, **about}
        leave(xcoms.DESTINATION, destination, dag_id=dag_id, run_id=run_id)
        with TrackStore(ObjectStoragePath(destination), settings, store_cover=True) as tracks_at:
            stored = tracks_at.store_all(tracks, About.from_json(facts))
            tracks_at.write_index()
        return [track.as_json() for track in stored]

    return make


@pytest.fixture
def music(tmp_path: Path) -> str:
    """Return the URI of a local folder for tracks."""
    return f"file://{tmp_path}/music"
