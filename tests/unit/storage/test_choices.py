"""What a person decides about stored tracks, on files and on S3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.storage import StoredTrack, pick_track, remove_track
from musicapi_provider.storage.index import INDEX, read_index, update_index
from tests.s3 import s3_bucket

__all__ = ["s3_bucket"]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStoragePath:
    """Return a folder with two takes of a song."""
    uri = f"file://{tmp_path}" if request.param == "local" else request.getfixturevalue("s3_bucket").uri
    folder = ObjectStoragePath(uri)
    for clip_id in ("one", "two"):
        (folder / f"{clip_id}.mp3").write_bytes(b"ID3")
        (folder / f"{clip_id}.jpeg").write_bytes(b"\xff\xd8\xff")
        sidecar = {
            **{"clip_id": clip_id, "music_task_id": "task", "title": "Rain", "uri": f"{uri}/{clip_id}.mp3"},
            **{"stored_at": "2026", "track": {"lyrics": "La"}, "about": {"dag_id": "songs"}},
        }
        (folder / f"{clip_id}.json").write_text(json.dumps(sidecar))
    update_index(folder)
    return folder


@pytest.fixture
def picks(folder: ObjectStoragePath) -> Callable[[], dict[str, str]]:
    """Return a function that reads from the index who picked what."""
    return lambda: {row.clip_id: row.picked_by for row in read_index((folder / INDEX).read_bytes())}


def _sidecar(folder: ObjectStoragePath, clip_id: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{clip_id}.json").read_text()))


def test_a_pick_is_written_down(folder: ObjectStoragePath, picks: Callable[[], dict[str, str]]) -> None:
    """In the sidecar with its time, and in the index; all else stays."""
    record = pick_track(folder, "two", picked_by="ada")
    sidecar = _sidecar(folder, "two")

    assert record == StoredTrack(clip_id="two", uri=sidecar["uri"], music_task_id="task", title="Rain")
    assert sidecar["about"]["picked_by"] == "ada"
    assert sidecar["about"]["dag_id"] == "songs"
    assert sidecar["track"] == {"lyrics": "La"}
    assert picks() == {"one": "", "two": "ada"}


def test_the_same_pick_again_changes_nothing(folder: ObjectStoragePath) -> None:
    """A cleared task keeps the time of the choice."""
    pick_track(folder, "two", picked_by="ada")
    before = _sidecar(folder, "two")
    pick_track(folder, "two", picked_by="ada", instead_of=["one"])

    assert before == _sidecar(folder, "two")
    assert "picked_at" not in _sidecar(folder, "one")["about"]


def test_another_pick_takes_the_first_back(
    folder: ObjectStoragePath, picks: Callable[[], dict[str, str]]
) -> None:
    """Only one take is the one; a take that is gone does not matter."""
    pick_track(folder, "two", picked_by="ada")
    pick_track(folder, "one", picked_by="bob", instead_of=["two", "gone"])

    assert picks() == {"one": "bob", "two": ""}


def test_a_track_that_is_not_stored_cannot_be_picked(
    folder: ObjectStoragePath, picks: Callable[[], dict[str, str]]
) -> None:
    """The error says what to do, and the earlier pick stays."""
    pick_track(folder, "two", picked_by="ada")
    with pytest.raises(
        MusicAPIStorageError, match=r"not stored in .* cannot be picked.*clear the store task"
    ):
        pick_track(folder, "three", picked_by="bob", instead_of=["two"])

    assert picks() == {"one": "", "two": "ada"}


def test_a_removed_track_leaves_nothing(
    folder: ObjectStoragePath, picks: Callable[[], dict[str, str]]
) -> None:
    """Sidecar, audio, cover and row; the other take stays. Again is fine, also after a kill in between."""
    (folder / "one.json").unlink()  # a process died here
    remove_track(folder, "one")
    remove_track(folder, "one")

    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        *(INDEX, "two.jpeg", "two.json", "two.mp3"),
    ]
    assert picks() == {"two": ""}


@pytest.mark.parametrize("clip_id", ["../one", "", ".", "one/two", "one\x00", "a" * 200])
def test_ids_that_are_paths_are_refused(clip_id: str, folder: ObjectStoragePath) -> None:
    """An id comes from an API, and a name of a file must not lead elsewhere."""
    with pytest.raises(MusicAPIStorageError, match="cannot name a file"):
        remove_track(folder, clip_id)
    with pytest.raises(MusicAPIStorageError, match="cannot name a file"):
        pick_track(folder, clip_id, picked_by="ada")

    assert (folder / "one.mp3").exists()
