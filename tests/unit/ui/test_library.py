"""The indexes in memory: read once, bounded, and never waited for long."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.storage.index import COLUMNS, INDEX
from musicapi_provider.ui import library as module
from musicapi_provider.ui.library import Library
from tests.s3 import connection_json, endpoint, s3_bucket

if TYPE_CHECKING:
    from tests.s3 import S3Bucket

__all__ = ["s3_bucket"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes an index with some tracks and returns the folder's URI."""

    def index(folder: str, *clip_ids: str) -> str:
        rows = [dict.fromkeys(COLUMNS, "") | {"clip_id": id_, "file": f"{id_}.mp3"} for id_ in clip_ids]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / INDEX).write_bytes(text.getvalue().encode("utf-8-sig"))
        return f"file://{tmp_path}/{folder}"

    return index


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the contents of all indexes that are read."""
    contents: list[bytes] = []
    genuine = module.read_index

    def read_index(content: bytes) -> Any:
        contents.append(content)
        return genuine(content)

    monkeypatch.setattr(module, "read_index", read_index)
    return contents


def test_an_index_is_read_when_it_has_changed_only(write: Callable[..., str], reads: list[bytes]) -> None:
    """What the storage says of the file decides."""
    library = Library()
    uri = write("a", "clip-1")
    first, second = library.indexes([uri]), library.indexes([uri])
    write("a", "clip-1", "clip-2")
    third = library.indexes([uri])

    assert [list(found[uri].tracks) for found in (first, second, third)] == [
        ["clip-1"],
        ["clip-1"],
        ["clip-1", "clip-2"],
    ]
    assert len(reads) == 2


def test_an_index_of_the_same_size_and_time_is_another_file(
    write: Callable[..., str], tmp_path: Path
) -> None:
    """Writers put a new file in the place of the old one, perhaps within the clock's grain."""
    library = Library()
    uri = write("a", "clip-1")
    library.indexes([uri])
    write("b", "clip-2")
    old, new = tmp_path / "a" / INDEX, tmp_path / "b" / INDEX
    os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    new.replace(old)

    assert list(library.indexes([uri])[uri].tracks) == ["clip-2"]


def test_a_track_that_is_known_does_not_ask_the_storage(
    write: Callable[..., str], reads: list[bytes], tmp_path: Path
) -> None:
    """Of a page of covers each would."""
    library = Library()
    uri = write("a", "clip-1")
    found = library.track(uri, "clip-1")
    (tmp_path / "a" / INDEX).unlink()

    assert found is not None
    assert library.track(uri, "clip-1") == found
    assert library.track(uri, "clip-2") is None
    assert len(reads) == 1


def test_what_is_kept_is_bounded(
    write: Callable[..., str], reads: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folders looked at last stay."""
    library = Library()
    uris = [write(name, f"clip-{name}") for name in "abc"]
    size = (tmp_path / "a" / INDEX).stat().st_size
    monkeypatch.setattr(module, "MOST_KEPT", 2 * size)
    for uri in (uris[0], uris[1], uris[0], uris[2], uris[0], uris[1]):
        library.indexes([uri])

    assert [
        content.count(f"clip-{name}".encode()) > 0 for content, name in zip(reads, "abcb", strict=True)
    ] == [True] * 4


def test_an_index_that_is_too_large_is_left_out(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the API server's memory; the log says so, and the others are there."""
    small, large = write("small", "clip-1"), write("large", *(f"clip-{number}" for number in range(100)))
    monkeypatch.setattr(module, "LARGEST_INDEX", 1000)

    assert list(Library().indexes([small, large])) == [small]


def test_a_folder_that_is_not_there_is_no_empty_one(write: Callable[..., str], tmp_path: Path) -> None:
    """It may be one of another machine; one without an index is merely new."""
    (tmp_path / "new").mkdir()
    new, elsewhere = f"file://{tmp_path}/new", f"file://{tmp_path}/elsewhere"
    found = Library().indexes([new, elsewhere, write("a", "clip-1")])

    assert elsewhere not in found
    assert [len(index.tracks) for index in found.values()] == [0, 1]


def test_a_connection_that_was_wrong_is_asked_for_again(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, refusing_url: str
) -> None:
    """Who has corrected it need not restart the API server, though Airflow keeps what it has connected to."""
    right = connection_json(endpoint())
    uri = s3_bucket.uri.replace("aws_test", "aws_corrected")
    wrong_one = json.loads(connection_json(refusing_url))
    wrong_one["extra"]["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # or boto tries for seconds
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CORRECTED", json.dumps(wrong_one))
    library = Library(patience=60)
    wrong = library.indexes([uri])
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CORRECTED", right)

    assert wrong == {}
    assert list(library.indexes([uri])) == [uri]


@pytest.fixture
def silent_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a folder in a storage that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AIRFLOW_CONN_AWS_SILENT", connection_json(url))
        yield "s3://aws_silent@bucket/music"


def test_a_storage_that_hangs_keeps_nobody_waiting_but_the_first(
    write: Callable[..., str], silent_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks while that one still hangs gets the others at once."""
    awaited: list[int] = []
    genuine = module.wait

    def wait(looks: Any, patience: float) -> None:
        awaited.append(len(looks))
        genuine(looks, patience)

    monkeypatch.setattr(module, "wait", wait)
    library = Library(patience=0.2)
    uri = write("a", "clip-1")
    found = [list(library.indexes([uri, silent_folder])) for _ in range(2)]

    assert found == [[uri], [uri]]
    assert awaited == [2, 1]
