"""Claims: of all who ask for an order at once, one decides; what a dead owner leaves, one takes over."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPINotSentError
from musicapi_provider.purchases import Asker, FolderStore, claims
from musicapi_provider.purchases.claims import Claim
from tests.s3 import s3_bucket as s3_bucket

FORK = multiprocessing.get_context("fork")


class Plain(MemoryFileSystem):  # type: ignore[misc]
    """A storage with fsspec's general create only, which asks, then writes."""

    protocol = "memory"
    cachable = False
    pipe_file = AbstractFileSystem.pipe_file


class Overwriting(MemoryFileSystem):  # type: ignore[misc]
    """A storage that passes over the condition."""

    protocol = "memory"
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write, whatever the mode says."""
        super().pipe_file(path, value, mode="overwrite", **kwargs)


def in_storage(kind: type = MemoryFileSystem) -> ObjectStoragePath:
    """Return a record's path in a storage in memory."""
    alias = f"claims{uuid4().hex}"
    attach("memory", alias, fs=kind())
    return ObjectStoragePath(f"memory://{alias}@{alias}/music/row.json")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for claims without noticeable pauses."""
    monkeypatch.setattr(claims, "PAUSE", 0.002)
    monkeypatch.setattr(claims, "PATIENCE", 30.0)


@pytest.fixture
def record(tmp_path: Path) -> ObjectStoragePath:
    """Return a record's path on this disk."""
    return ObjectStoragePath(f"file://{tmp_path}/purchases/row.json")


@pytest.fixture(params=["local", "memory", "s3"])
def anywhere(request: pytest.FixtureRequest, record: ObjectStoragePath) -> ObjectStoragePath:
    """Return a record's path in one storage after another."""
    if request.param == "s3":
        return ObjectStoragePath(request.getfixturevalue("s3_bucket").uri) / "row.json"
    return record if request.param == "local" else in_storage()


def files_beside(record: ObjectStoragePath) -> list[str]:
    """Return the names of what lies beside a record."""
    if not record.parent.exists():
        return []
    return sorted(one.name for one in record.parent.iterdir())


def left_by_the_dead(record: ObjectStoragePath, *, until: float, owner: str = "dead") -> None:
    """Write the claim of somebody who died with it."""
    record.parent.mkdir(parents=True, exist_ok=True)
    claim = {"owner": owner, "number": "d", "until": until}
    record.with_suffix(".claim").write_bytes(json.dumps(claim).encode())


class Counter:
    """Tells how many were inside at once, at most."""

    def __init__(self) -> None:
        self.inside = self.most = self.entered = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Go in, stay for a moment, come out."""
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.002)
        with self._lock:
            self.inside -= 1


def crowd(record: ObjectStoragePath, size: int, times: int = 1) -> Counter:
    """Let many claim one record at once."""
    counter, start = Counter(), threading.Barrier(size)

    def claim_it(number: int) -> None:
        start.wait()
        for time_ in range(times):
            with Claim(record, f"owner {number}.{time_}"):
                counter.enter()

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(claim_it, range(size)))
    return counter


# -- one at a time -------------------------------------------------------------------------------------------


def test_one_thread_of_twenty_has_the_claim_at_a_time(record: ObjectStoragePath) -> None:
    """All get it, one after the other, and nothing is left."""
    counter = crowd(record, 20, times=5)

    assert (counter.entered, counter.most) == (100, 1)
    assert files_beside(record) == []


@pytest.mark.parametrize("anywhere", ["memory", "s3"], indirect=True)
def test_object_storage_gives_one_claim_at_a_time(anywhere: ObjectStoragePath) -> None:
    """As a disk does."""
    counter = crowd(anywhere, 5, times=2)

    assert (counter.entered, counter.most) == (10, 1)
    assert files_beside(anywhere) == []


def _add_in_a_process(path: str, number: int, times: int) -> None:
    record, total = ObjectStoragePath(f"file://{path}"), Path(path).with_suffix(".total")
    for time_ in range(times):
        with Claim(record, f"owner {number}.{time_}"):
            before = int(total.read_text())
            time.sleep(0.001)
            total.write_text(str(before + 1))


def test_one_process_of_eight_has_the_claim_at_a_time(record: ObjectStoragePath) -> None:
    """What is read, then written under the claim is not lost."""
    total = Path(record.with_suffix(".total").path)
    total.parent.mkdir(parents=True)
    total.write_text("0")
    crowd_ = [FORK.Process(target=_add_in_a_process, args=(record.path, n, 10)) for n in range(8)]
    for process in crowd_:
        process.start()
    for process in crowd_:
        process.join(60)

    assert total.read_text() == "80"
    assert files_beside(record) == ["row.total"]


def test_claim_is_given_back_when_the_work_fails(anywhere: ObjectStoragePath) -> None:
    """An error is no reason to keep others waiting."""
    with pytest.raises(ValueError, match="work"), Claim(anywhere, "me"):
        raise ValueError("work")

    assert files_beside(anywhere) == []


def test_patience_ends_with_an_error_that_names_the_owner(
    anywhere: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, and a retry may come later."""
    monkeypatch.setattr(claims, "PATIENCE", 0.05)
    with (
        Claim(anywhere, "songs/run create[3]"),
        pytest.raises(MusicAPINotSentError, match=r"songs/run create\[3\] is deciding") as caught,
        Claim(anywhere, "another"),
    ):
        pass

    assert caught.value.retryable
    assert files_beside(anywhere) == []


# -- what the dead leave -------------------------------------------------------------------------------------


def test_claim_of_a_dead_owner_is_waited_for(record: ObjectStoragePath) -> None:
    """Until it is over, and no longer."""
    over = time.time() + 0.3
    left_by_the_dead(record, until=over)
    with Claim(record, "heir"):
        assert over <= time.time() < over + 5

    assert files_beside(record) == []


@pytest.mark.parametrize("anywhere", ["local", "s3"], indirect=True)
def test_one_of_many_thieves_inherits(anywhere: ObjectStoragePath) -> None:
    """In every round, one at a time, also while a former one gives back what it took over."""
    for round_ in range(10 if anywhere.protocol == "file" else 1):
        left_by_the_dead(anywhere, until=time.time() - 1)
        counter = crowd(anywhere, 12 if anywhere.protocol == "file" else 4)

        assert counter.most == 1, round_
        assert files_beside(anywhere) == []


def test_heir_that_dies_is_inherited_from(record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of the dead ends as well."""
    left_by_the_dead(record, until=time.time() - 1)
    monkeypatch.setattr(claims, "LEASE", 0.0)
    for number in range(3):
        Claim(record, f"dead {number}").__enter__()
    monkeypatch.setattr(claims, "LEASE", 300.0)
    counter = crowd(record, 8)

    assert counter.most == 1
    assert files_beside(record) == []


def test_thief_who_comes_late_sees_that_the_claim_is_gone(
    record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read a dead owner's claim, which another one takes over and gives back meanwhile."""
    left_by_the_dead(record, until=time.time() - 1)
    late, original = Claim(record, "late"), Claim._successor
    passed: list[str] = []

    def let_another_pass(self: Claim, claimed: Any) -> ObjectStoragePath:
        if self is late and not passed:
            passed.append("once")
            with Claim(record, "first"):
                pass
        return original(self, claimed)

    monkeypatch.setattr(Claim, "_successor", let_another_pass)
    with late:
        assert passed
        assert files_beside(record) == ["row.claim"], "a claim that everybody sees"
    assert files_beside(record) == []


def test_owner_who_wakes_up_leaves_the_claim_of_its_heir(
    record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away for longer than its lease."""
    monkeypatch.setattr(claims, "LEASE", 0.0)
    sleeper = Claim(record, "sleeper")
    sleeper.__enter__()
    assert sleeper.is_over
    monkeypatch.setattr(claims, "LEASE", 300.0)
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    with Claim(record, "heir"):
        sleeper.__exit__()
        with pytest.raises(MusicAPINotSentError, match="heir"), Claim(record, "third"):
            pass

    assert files_beside(record) == []


def test_owner_who_is_late_and_has_no_heir_gives_back(
    record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps heirs off while it does so goes, too."""
    monkeypatch.setattr(claims, "LEASE", 0.0)
    with Claim(record, "sleeper"):
        pass

    assert files_beside(record) == []


def test_same_owner_takes_over_at_once(anywhere: ObjectStoragePath) -> None:
    """A retry follows a try that was killed."""
    Claim(anywhere, "me").__enter__()
    with Claim(anywhere, "me"):
        pass

    assert files_beside(anywhere) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner": 1}', b"\xff\xfe", b'{"until": "x"}'])
def test_damaged_claim_is_over(record: ObjectStoragePath, content: bytes) -> None:
    """Nobody can hold what nobody can read; the record itself says what is bought."""
    record.parent.mkdir(parents=True)
    record.with_suffix(".claim").write_bytes(content)
    counter = crowd(record, 8)

    assert counter.most == 1
    assert files_beside(record) == []


# -- storages that cannot ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Plain, Overwriting])
def test_storage_without_exclusive_create_is_refused(kind: type) -> None:
    """With what can be done about it, and nothing left behind."""
    record = in_storage(kind)
    with pytest.raises(MusicAPIConfigurationError, match="cannot create a file for one") as caught:
        Claim(record, "me").__enter__()

    assert "require_claims" in str(caught.value)
    assert not caught.value.retryable
    assert files_beside(record) == []


@pytest.mark.parametrize("kind", [Plain, Overwriting])
def test_storage_without_exclusive_create_is_used_when_told(kind: type) -> None:
    """One dag run at a time is somebody's own responsibility."""
    record = in_storage(kind)
    with Claim(record, "me", required=False) as claim:
        assert not claim.is_held

    assert files_beside(record) == []


def no_links(error: int) -> Callable[..., None]:
    """Return an ``os.link`` of a disk that has none."""

    def link(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    return link


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_disk_without_hard_links_is_refused(
    record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """FAT, and some mounts of clouds."""
    monkeypatch.setattr(os, "link", no_links(error))
    with pytest.raises(MusicAPIConfigurationError, match="require_claims"):
        Claim(record, "me").__enter__()
    with Claim(record, "me", required=False):
        pass

    assert files_beside(record) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_disk_that_fails_is_no_disk_without_links(
    record: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Then nobody goes on without a claim."""
    monkeypatch.setattr(os, "link", no_links(error))
    with pytest.raises(OSError, match=os.strerror(error)):
        Claim(record, "me", required=False).__enter__()


def test_claim_of_a_dead_try_is_given_back_by_the_next_one(tmp_path: Path) -> None:
    """A retry that finds a lost answer does not buy: no other dag run must wait for the dead try's lease."""
    folder = ObjectStoragePath((tmp_path / "music").as_uri())
    killed = FolderStore(folder, "row", "fingerprint", Asker("songs/one", "table"))
    never_left = killed.claim()
    never_left.__enter__()
    claim = next((tmp_path / "music" / "purchases").glob("*.claim"))

    FolderStore(folder, "row", "fingerprint", Asker("songs/two", "table")).read_after_others(0.0)
    assert claim.exists()

    FolderStore(folder, "row", "fingerprint", Asker("songs/one", "table")).read_after_others(0.0)
    assert not claim.exists()
