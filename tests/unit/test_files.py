"""Small files in object storage: what is nothing, what is a failure, and what a dying process leaves."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach

from musicapi_provider.files import bytes_of, contents_of, create_whole, list_names, put_whole, remove
from tests.s3 import connection_json
from tests.s3 import s3_bucket as s3_bucket
from tests.unit.purchases.test_folder import UnreliableFileSystem

if TYPE_CHECKING:
    from tests.s3 import S3Bucket
    from tests.unit.conftest import OddServer


class ProcessDiedError(BaseException):
    """The worker is gone: nothing catches this."""


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStoragePath:
    """Return a folder that does not exist yet."""
    if request.param == "s3":
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        return ObjectStoragePath(bucket.uri)
    if request.param == "memory":
        return unreliable()[0]
    return ObjectStoragePath((tmp_path / "music").as_uri())


def unreliable() -> tuple[ObjectStoragePath, set[str]]:
    """Return a folder, and the names of methods of its storage that shall fail once."""
    storage, alias = UnreliableFileSystem(), f"files{uuid.uuid4().hex}"
    attach("memory", alias, fs=storage)
    return ObjectStoragePath(f"memory://{alias}@{alias}/music-{alias}"), storage.away


def test_folder_that_does_not_exist_holds_nothing(folder: ObjectStoragePath) -> None:
    """That is an answer, and no failure."""
    assert list_names(folder) == {}
    assert bytes_of(folder / "x.json") is None
    assert contents_of(folder, ["x.json", "y.json"]) == {}
    assert contents_of(folder, []) == {}


def test_files_are_put_listed_and_read(folder: ObjectStoragePath) -> None:
    """Names with sizes, without folders; contents without what is not there."""
    put_whole(folder / "a.json", [b"one", b"two"])
    put_whole(folder / "b.json", [])
    put_whole(folder / "deep" / "c.json", [b"c"])

    assert list_names(folder) == {"a.json": 6, "b.json": 0}
    assert bytes_of(folder / "a.json") == b"onetwo"
    assert contents_of(folder, ["a.json", "b.json", "no.json"]) == {"a.json": b"onetwo", "b.json": b""}
    assert contents_of(folder, ["a.json"]) == {"a.json": b"onetwo"}
    assert list_names(folder / "deep") == {"c.json": 1}


def test_put_replaces(folder: ObjectStoragePath) -> None:
    """And what is read next is the new one, also where listings are remembered."""
    put_whole(folder / "a.json", [b"old"])
    list_names(folder)
    put_whole(folder / "a.json", [b"newer"])

    assert list_names(folder) == {"a.json": 5}
    assert bytes_of(folder / "a.json") == b"newer"


def test_what_another_process_writes_is_listed(s3_bucket: S3Bucket) -> None:
    """s3fs remembers listings; money is not decided by memories."""
    folder = ObjectStoragePath(s3_bucket.uri)
    put_whole(folder / "a.json", [b"a"])
    list_names(folder)
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="music/b.json", Body=b"bb")

    assert list_names(folder) == {"a.json": 1, "b.json": 2}


def test_file_of_another_process_is_seen_after_a_listing(s3_bucket: S3Bucket) -> None:
    """s3fs remembers listings: a purchase of another process must not look like none."""
    folder = ObjectStoragePath(s3_bucket.uri) / "purchases"
    assert create_whole(folder / "a.json", b"1")
    assert list_names(folder).keys() == {"a.json"}
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="music/purchases/b.json", Body=b"2")

    assert bytes_of(folder / "b.json") == b"2"
    assert bytes_of(folder / "c.json") is None


def test_file_of_another_process_is_removed_after_a_listing(s3_bucket: S3Bucket) -> None:
    """What is to be gone is gone, whatever a listing said before."""
    folder = ObjectStoragePath(s3_bucket.uri) / "purchases"
    assert create_whole(folder / "a.json", b"1")
    list_names(folder)
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="music/purchases/b.json", Body=b"2")
    remove(folder / "b.json")
    remove(folder / "c.json")

    assert s3_bucket.sizes().keys() == {"music/purchases/a.json"}


@pytest.mark.parametrize(
    ("away", "call"),
    [
        pytest.param("ls", list_names, id="list"),
        pytest.param("read", lambda folder: bytes_of(folder / "a.json"), id="read"),
        pytest.param("read", lambda folder: contents_of(folder, ["a.json", "b.json"]), id="read-many"),
        pytest.param("read", lambda folder: contents_of(folder, ["a.json"]), id="read-one-of-many"),
        pytest.param("write", lambda folder: put_whole(folder / "a.json", [b"new"]), id="write"),
    ],
)
def test_storage_that_is_away_is_never_taken_for_an_empty_one(
    away: str, call: Callable[[ObjectStoragePath], object]
) -> None:
    """Whoever decides about money must know the difference."""
    folder, failing = unreliable()
    for name in ("a.json", "b.json"):
        put_whole(folder / name, [b"old"])
    failing.add(away)
    with pytest.raises(OSError, match="503 Slow Down"):
        call(folder)

    assert contents_of(folder, ["a.json", "b.json"]) == {"a.json": b"old", "b.json": b"old"}


def test_file_that_may_not_be_read_is_a_failure(tmp_path: Path) -> None:
    """A folder in its place is none either."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json"):
        bytes_of(ObjectStoragePath(tmp_path.as_uri()) / "a.json")


def pieces_of_a_dying_process() -> Iterator[bytes]:
    """Write a half."""
    yield b"half of the ne"
    raise ProcessDiedError


@pytest.mark.parametrize("before", [b"old", None], ids=["replaced", "first"])
def test_process_that_dies_in_the_middle_leaves_the_old_file(tmp_path: Path, before: bytes | None) -> None:
    """Or none; and the next one is not disturbed by what is left."""
    folder = ObjectStoragePath(tmp_path.as_uri())
    if before is not None:
        put_whole(folder / "a.json", [before])
    with pytest.raises(ProcessDiedError):
        put_whole(folder / "a.json", pieces_of_a_dying_process())
    left = bytes_of(folder / "a.json")
    put_whole(folder / "a.json", [b"next"])

    assert left == before
    assert list_names(folder) == {"a.json": 4}


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that a power cut could leave an empty file of the right name: a purchase forgotten."""
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("name"), replace(self, to)))
    put_whole(ObjectStoragePath(tmp_path.as_uri()) / "a.json", [b"a"])

    assert order == ["sync", "name", "sync"], "at last the folder, which knows the name"


def test_disk_that_is_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error passes as it is."""

    def full(_number: int) -> NoReturn:
        raise OSError("No space left on device")

    path = ObjectStoragePath(tmp_path.as_uri()) / "a.json"
    put_whole(path, [b"old"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            put_whole(path, [b"new"])

    assert bytes_of(path) == b"old"


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")]
)
def test_store_that_refuses_a_condition_in_few_words_has_the_file(
    odd_server: Callable[..., OddServer], monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """SeaweedFS leaves out which condition it was, by which s3fs knows the refusal of AWS."""
    answer = f"<Error><Code>{code}</Code><Message>At least one condition did not hold</Message></Error>"
    server = odd_server(lambda _: (status, {"Content-Type": "application/xml"}, answer))
    monkeypatch.setenv(f"AIRFLOW_CONN_AWS_TERSE{status}", connection_json(server.base_url))

    assert not create_whole(ObjectStoragePath(f"s3://aws_terse{status}@music/a.claim"), b"mine")
