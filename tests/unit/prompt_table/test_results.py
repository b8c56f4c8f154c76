"""Stored tracks of a manifest: as records, and as rows of a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIStorageError
from musicapi_provider.prompt_table import Row
from musicapi_provider.prompt_table.manifest import write_manifest_file
from musicapi_provider.prompt_table.results import read_tracks, upsert_tracks
from musicapi_provider.storage import StoredTrack
from tests.states import FAILED, STORED


def manifest_of(path: Path, **titles: str) -> str:
    """Write a manifest with a stored row of one track for each title, and a failed row; return its URI."""
    rows = [
        Row(
            name,
            state=STORED,
            tracks=[
                StoredTrack.from_json(
                    {
                        "clip_id": f"clip-{name}",
                        "music_task_id": "t",
                        "uri": f"file:///{name}.mp3",
                        "title": title,
                    }
                )
            ],
        )
        for name, title in titles.items()
    ]
    return write_manifest_file(ObjectStoragePath(path.as_uri()), "run", [*rows, Row("bad", state=FAILED)])


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of an empty SQLite database, which Airflow knows as ``songs_db``."""
    monkeypatch.setenv("AIRFLOW_CONN_SONGS_DB", f'{{"conn_type": "sqlite", "host": "{tmp_path}/songs.db"}}')
    return tmp_path / "songs.db"


def rows_in(database: Path, table: str = "tracks") -> list[tuple[str, ...]]:
    """Return what the table holds."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            f"SELECT clip_id, prompt_id, title FROM {table} ORDER BY clip_id"  # noqa: S608 - a test's own name
        ).fetchall()


def test_tracks_bear_the_name_of_their_row(tmp_path: Path) -> None:
    """Rows without tracks have none."""
    tracks = read_tracks(manifest_of(tmp_path, a="Rain", b="Sun"))

    assert [(track.clip_id, track.prompt_id) for track in tracks] == [("clip-a", "a"), ("clip-b", "b")]


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    """As a summary of another run may name it."""
    with pytest.raises(MusicAPIStorageError, match=r"no manifest at .*gone\.jsonl"):
        read_tracks(f"file://{tmp_path}/gone.jsonl")


def test_table_is_made_and_tracks_are_rows(tmp_path: Path, database: Path) -> None:
    """Text is data: it never becomes SQL."""
    manifest = manifest_of(tmp_path, a="'); DROP TABLE tracks; --")

    assert upsert_tracks(manifest, "songs_db", "tracks") == 1
    assert rows_in(database) == [("clip-a", "a", "'); DROP TABLE tracks; --")]


def test_repeated_write_changes_rows_and_doubles_none(tmp_path: Path, database: Path) -> None:
    """The later one counts; others stay."""
    upsert_tracks(manifest_of(tmp_path, a="Rain", b="Sun"), "songs_db", "tracks")

    assert upsert_tracks(manifest_of(tmp_path, a="Snow"), "songs_db", "tracks") == 1
    assert rows_in(database) == [("clip-a", "a", "Snow"), ("clip-b", "b", "Sun")]


@pytest.mark.parametrize("name", ["", "Tracks", "a b", "a.b.c", "a;b", "1a", "a" * 64, "tracks--"])
def test_table_name_that_could_be_sql_is_refused(tmp_path: Path, database: Path, name: str) -> None:
    """Before anything is read or written."""
    with pytest.raises(MusicAPIConfigurationError, match="table: must be a name"):
        upsert_tracks(f"file://{tmp_path}/gone.jsonl", "songs_db", name)

    assert not database.exists()
