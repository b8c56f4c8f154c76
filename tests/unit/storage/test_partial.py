"""Files on their way: on any storage, whatever another run or a bad moment does to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from musicapi_provider.storage.partial import Leftovers, PartFile, put

if TYPE_CHECKING:
    from tests.unit.conftest import Log


@pytest.fixture(params=["file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStoragePath]:
    """Return a folder on this machine, and in a storage that is neither that nor an object store."""
    if request.param == "file":
        yield ObjectStoragePath(f"file://{tmp_path}/music")
        return
    MemoryFileSystem.store.clear()
    attach("memory", "part", fs=MemoryFileSystem())
    yield ObjectStoragePath("memory://part@part/music")
    MemoryFileSystem.store.clear()


def files_in(folder: ObjectStoragePath) -> set[str]:
    """Return the names of all files in it and below."""
    return {name.rpartition("/")[2] for name in folder.fs.find(folder.path)}


def test_part_takes_its_final_name(folder: ObjectStoragePath) -> None:
    """And replaces what had it."""
    for content in (b"old", b"new"):
        part = PartFile(folder, "clip")
        part.restart()
        part.write(content)
        part.close()
        part.move_to(folder / "clip.mp3")

    assert files_in(folder) == {"clip.mp3"}
    assert folder.fs.cat_file((folder / "clip.mp3").path) == b"new"


def test_discarded_part_leaves_nothing(folder: ObjectStoragePath) -> None:
    """Twice is no harm, nor is it before anything was written."""
    part = PartFile(folder, "clip")
    part.discard()
    part.restart()
    part.write(b"half")
    part.discard()
    part.discard()

    assert files_in(folder) == set()
    assert part.written == 0


def test_restart_forgets_what_was_written(folder: ObjectStoragePath) -> None:
    """Size and hash are those of the new content."""
    part = PartFile(folder, "clip")
    part.restart()
    part.write(b"something else")
    part.restart()
    part.write(b"ab")
    part.close()
    with part.open() as file:
        content = file.read()

    assert content == b"ab"
    assert part.sha256 == "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"


def test_small_file_is_put_whole(folder: ObjectStoragePath) -> None:
    """No temporary name stays."""
    put(folder / "clip.json", b"{}")

    assert files_in(folder) == {"clip.json"}


def test_small_file_that_cannot_be_put_leaves_nothing(tmp_path: Path) -> None:
    """A folder of its name is in the way."""
    folder = ObjectStoragePath(f"file://{tmp_path}")
    (tmp_path / "clip.json").mkdir()
    with pytest.raises(OSError, match=r"clip\.json"):
        put(folder / "clip.json", b"{}")

    assert files_in(folder) == set()
    assert not list((tmp_path / "clip.json").iterdir())


def test_write_needs_a_beginning(folder: ObjectStoragePath) -> None:
    """A slip in our own code is told."""
    with pytest.raises(ValueError, match="restart"):
        PartFile(folder, "clip").write(b"x")


class CleanedUp(LocalFileSystem):
    """A file system where another run removes the empty subfolder at the worst moment."""

    times = 0

    def open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a file, unless it is the moment."""
        if self.times:
            self.times -= 1
            shutil.rmtree(Path(path).parent)
        return super().open(path, *args, **kwargs)


@pytest.fixture
def cleaned_up(tmp_path: Path) -> tuple[ObjectStoragePath, CleanedUp]:
    """Return a folder in it, and the file system."""
    fs = CleanedUp(skip_instance_cache=True)
    attach("file", "cleaned", fs=fs).fs = fs
    return ObjectStoragePath(f"file://cleaned@{tmp_path}/music"), fs


def test_subfolder_that_another_run_removes_is_made_again(
    cleaned_up: tuple[ObjectStoragePath, CleanedUp],
) -> None:
    """Between its making and the opening of the file."""
    folder, fs = cleaned_up
    fs.times = 2
    put(folder / "clip.json", b"{}")

    assert files_in(folder) == {"clip.json"}


def test_subfolder_that_never_stays_is_an_error(cleaned_up: tuple[ObjectStoragePath, CleanedUp]) -> None:
    """Nobody is kept busy for ever."""
    folder, fs = cleaned_up
    fs.times = 99
    with pytest.raises(FileNotFoundError):
        put(folder / "clip.json", b"{}")


def test_cleaning_up_hides_no_error(folder: ObjectStoragePath, logged: Log) -> None:
    """A storage that fails to write often fails to close, too."""
    part = PartFile(folder, "clip")
    part.restart()
    part.write(b"half")
    part._file = MagicMock(close=MagicMock(side_effect=OSError("away")))
    part.discard()

    assert "Could not close" in logged.text


def test_leftovers_of_one_name_only(folder: ObjectStoragePath) -> None:
    """A name that begins alike is another one."""
    for name in ("clip.a.part", "clip.json.b.part", "clip2.c.part"):
        path = folder / ".incomplete" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    Leftovers(folder).remove("clip")
    some = files_in(folder)
    Leftovers(folder).remove()

    assert some == {"clip2.c.part"}
    assert files_in(folder) == set()


def test_uploads_that_may_not_be_listed_are_left_alone(logged: Log) -> None:
    """Many keys may write objects and no more; a lifecycle rule clears up then."""
    fs = MagicMock(spec=["call_s3", "split_path", "ls", "invalidate_cache", "abort_mpu"])
    fs.split_path.return_value = ("bucket", "music/.incomplete", None)
    fs.ls.return_value = []
    fs.call_s3.side_effect = PermissionError("Access Denied")
    attach("s3", "forbidden", fs=fs).fs = fs
    Leftovers(ObjectStoragePath("s3://forbidden@bucket/music")).remove()
    fs.call_s3.side_effect = None
    fs.call_s3.return_value = {"Uploads": [{"Key": "music/.incomplete/a.b.part", "UploadId": "1"}]}
    fs.abort_mpu.side_effect = PermissionError("Access Denied")
    Leftovers(ObjectStoragePath("s3://forbidden@bucket/music")).remove()

    assert "Cannot list unfinished uploads" in logged.text
    assert "Cannot abort" in logged.text
