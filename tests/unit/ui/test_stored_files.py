"""Files opened by name: regular ones, and nothing that leads elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.ui.stored_files import stored_file
from tests.media import frames
from tests.s3 import s3_bucket

if TYPE_CHECKING:
    from tests.s3 import S3Bucket

__all__ = ["s3_bucket"]
SONG = frames(50_000)


@pytest.fixture
def here(tmp_path: Path) -> ObjectStoragePath:
    """Return a local folder, beside which a secret lies."""
    (tmp_path / "music").mkdir()
    (tmp_path / "secret.mp3").write_bytes(b"secret")
    return ObjectStoragePath(f"file://{tmp_path}/music")


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest) -> ObjectStoragePath:
    """Return a folder of each storage."""
    if request.param == "local":
        found: ObjectStoragePath = request.getfixturevalue("here")
        return found
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return ObjectStoragePath(bucket.uri)


def test_any_part_of_a_file_can_be_read(folder: ObjectStoragePath) -> None:
    """From a position up to another, in each storage."""
    (folder / "a.mp3").write_bytes(SONG)
    file = stored_file(folder, "a.mp3")

    assert len(SONG) == file.size
    assert SONG[1000:3000] == file.read(1000, 3000)
    assert file.read(0, file.size) == SONG


def test_a_file_that_changes_has_another_version(folder: ObjectStoragePath) -> None:
    """Also at the same size: a browser must not mix two takes."""
    (folder / "a.mp3").write_bytes(SONG)
    first, again = stored_file(folder, "a.mp3").version, stored_file(folder, "a.mp3").version
    (folder / "a.mp3").write_bytes(SONG[::-1])

    assert first == again
    assert first != stored_file(folder, "a.mp3").version


@pytest.mark.parametrize(
    "name", ["b.mp3", "", ".", "..", "../secret.mp3", "/etc/passwd", "a\0.mp3", "..\\a", "sub/a"]
)
def test_no_other_name_leads_to_a_file(folder: ObjectStoragePath, name: str) -> None:
    """What is not in the folder is not there."""
    (folder / "a.mp3").write_bytes(SONG)

    with pytest.raises(FileNotFoundError):
        stored_file(folder, name)


def _link(path: Path) -> None:
    path.symlink_to("../secret.mp3")


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [_link, _dangling_link, os.mkfifo, _socket, Path.mkdir])
def test_what_is_no_regular_file_is_not_there(
    here: ObjectStoragePath, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what leads elsewhere nor what would make the server wait."""
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes
    make(Path("music/a.mp3"))

    with pytest.raises(FileNotFoundError):
        stored_file(here, "a.mp3")


def test_a_file_that_becomes_a_link_is_read_no_further(here: ObjectStoragePath, tmp_path: Path) -> None:
    """Each piece is opened anew, with the same care."""
    song = tmp_path / "music" / "a.mp3"
    song.write_bytes(SONG)
    file = stored_file(here, "a.mp3")
    song.unlink()
    song.symlink_to("../secret.mp3")

    with pytest.raises(FileNotFoundError):
        file.read(0, 100)


def test_no_file_stays_open(here: ObjectStoragePath, tmp_path: Path) -> None:
    """However often a browser asks, and also where nothing is to be served."""
    (tmp_path / "music" / "a.mp3").write_bytes(SONG)
    (tmp_path / "music" / "b.mp3").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        stored_file(here, "a.mp3").read(0, 10)
        with pytest.raises(FileNotFoundError):
            stored_file(here, "b.mp3")

    assert before == len(list(Path("/proc/self/fd").iterdir()))
