"""One suite for every store of purchases: what is bought, collected, decided; and storages that fail."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import ONCE
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIError,
    MusicAPINotSentError,
    Spent,
)
from musicapi_provider.purchases import (
    KEY,
    Asker,
    Bought,
    FolderStore,
    Ledger,
    LedgerStore,
    Order,
    PurchaseState,
    RunLedger,
    adopt,
    buy,
    buying,
    claims,
    fingerprint_of,
    run_ledger,
    status_of,
)
from musicapi_provider.purchases.folder import guarded
from tests.s3 import s3_bucket as s3_bucket

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.settings import ClientSettings

CREATE = "POST /sonic/create"
FORK = multiprocessing.get_context("fork")


def body_of(prompt: str) -> dict[str, Any]:
    """Return a body."""
    return {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": prompt}


class Away(dict[str, int]):
    """Calls of a storage that fail: how often each may still succeed."""

    def check(self, call: str) -> None:
        """Fail, if it is time to."""
        if call in self:
            if self[call] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self[call] -= 1


@dataclass
class Values:
    """A store of values, which an API server keeps."""

    away: Away
    place: str = "state of asset 'purchases'"
    kept: dict[str, str] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        return guarded(self.place, lambda: self._do("read", lambda: json.loads(self.kept.get(key, "null"))))

    def set(self, key: str, value: Any) -> None:
        """Write the value."""
        text = json.dumps(value)
        guarded(self.place, lambda: self._do("write", lambda: self.kept.update({key: text})))

    def delete(self, key: str) -> None:
        """Remove the value."""
        guarded(self.place, lambda: self._do("write", lambda: self.kept.pop(key, None)))

    def _do(self, call: str, effect: Callable[[], Any]) -> Any:
        self.away.check(call)
        return effect()


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object storage that fails as told."""

    protocol = "memory"
    cachable = False

    def __init__(self, away: Away) -> None:
        super().__init__()
        self.store, self.away = {}, away

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Read."""
        self.away.check("read")
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> Any:
        """Write, or create."""
        self.away.check("write")
        return super().pipe_file(path, value, mode=mode, **kwargs)

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Write in pieces."""
        if "w" in mode:
            self.away.check("write")
        return super().open(path, mode, **kwargs)


@dataclass
class Place:
    """
    Somewhere to keep purchases, as several processes reach it.

    :param away: What fails; empty where a storage cannot be told to.
    """

    make: Callable[[Asker, str, str], LedgerStore]
    away: Away
    raw: Callable[[], Any]
    prompt_id: str = ""
    clears: int = 0

    def store(self, prompt: str = "A", slot: str = "create[0]", run: str = "songs/run") -> LedgerStore:
        """Return a process's store."""
        return self.make(Asker(run, slot, self.clears), self.print_of(prompt), self.prompt_id)

    def print_of(self, prompt: str) -> str:
        """Return the fingerprint."""
        return fingerprint_of(body_of(prompt), account="test")

    def order(self, prompt: str = "A") -> Order:
        """Return an order."""
        return Order(body_of(prompt), self.print_of(prompt), f"run#{self.clears}")


PLACES = ["run", "run-copy", "local", "local-rows", "memory", "memory-rows", "s3", "s3-rows"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return one store after another."""
    kind, _, rest = request.param.partition("-")
    away = Away()
    if kind == "run":
        values, copies = Values(away), dict[str, Values]()

        def make(asker: Asker, fingerprint: str, prompt_id: str) -> LedgerStore:
            copy = copies.setdefault(asker.slot, Values(Away(), "task state store")) if rest else None
            return RunLedger(values, asker, copy=copy)

        return Place(make, away, lambda: values.kept)
    if kind == "local":
        folder = ObjectStoragePath(f"file://{tmp_path}/music")
    elif kind == "memory":
        alias = f"stores{uuid4().hex}"
        attach("memory", alias, fs=FailingFileSystem(away))
        folder = ObjectStoragePath(f"memory://{alias}@{alias}/music")
    else:
        folder = ObjectStoragePath(request.getfixturevalue("s3_bucket").uri)

    def open_file(asker: Asker, fingerprint: str, prompt_id: str) -> LedgerStore:
        return FolderStore(folder, prompt_id, fingerprint, asker)

    return Place(open_file, away, lambda: folder / "purchases", "row 1" if rest else "")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing."""
    monkeypatch.setattr(buying, "STORE_PAUSE", 0)
    monkeypatch.setattr(claims, "PAUSE", 0.005)
    monkeypatch.setattr(run_ledger, "LISTING_PAUSE", 0.005)


@pytest.fixture
def client(settings: ClientSettings) -> Iterator[MusicAPIClient]:
    """Return a client that asks once."""
    client = MusicAPIClient(settings, retries=ONCE)
    yield client
    client.close()


def booked(simulator: SimulatorServer) -> list[str]:
    """Return the prompts of all that was paid."""
    return sorted(job.body["prompt"] for job in simulator.state.jobs.values())


# -- one story after another ---------------------------------------------------------------------------------


def test_what_is_bought_is_collected(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """By the retry, and after clears."""
    first = buy(client, place.order(), place.store())
    retry = buy(client, place.order(), place.store())
    place.clears += 1
    cleared = buy(client, place.order(), place.store())

    assert (first.is_new, retry.is_new, cleared.is_new) == (True, False, False)
    assert first.music_task_id == retry.music_task_id == cleared.music_task_id
    assert booked(simulator) == ["A"]
    assert status_of(place.store(), place.print_of("A")).state is PurchaseState.SUBMITTED


def test_row_that_moves_takes_its_purchase_along(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """Only what is new is bought."""
    for index, prompt in enumerate(["A", "B"]):
        buy(client, place.order(prompt), place.store(prompt, f"create[{index}]"))
    place.clears += 1
    for index, prompt in enumerate(["X", "A", "B"]):
        buy(client, place.order(prompt), place.store(prompt, f"create[{index}]"))

    assert booked(simulator) == ["A", "B", "X"]


def test_lost_answer_is_asked_about_wherever_the_row_is(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """Until somebody names the music task."""
    simulator.state.scenario("drop-after-booking", times=1)
    with pytest.raises(MusicAPIError) as lost:
        buy(client, place.order(), place.store())
    place.clears += 1
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, place.order(), place.store(slot="create[7]"))
    adopted = adopt(place.store(slot="create[7]"), next(iter(simulator.state.jobs)), place.order())

    assert lost.value.spent is Spent.UNKNOWN
    assert buy(client, place.order(), place.store(slot="create[7]")) == adopted
    assert booked(simulator) == ["A"]


def test_lost_answer_is_sent_again_once_when_somebody_says_so(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """A decision is about one answer; what it may have cost is remembered."""
    for _ in range(2):
        simulator.state.scenario("drop-after-booking", times=1)
        with pytest.raises(MusicAPIError):
            buy(client, place.order(), place.store())
        store = place.store()
        with store.claim():
            store.find(place.print_of("A"))
            known = Ledger(store).get(place.print_of("A"))
            assert known is not None
            assert not known.resend
            Ledger(store).put(place.print_of("A"), replace(known, resend=True))
    sent = buy(client, place.order(), place.store())

    assert sent.is_new
    assert sent.lost_credits > 0
    assert booked(simulator) == ["A"] * 3


def test_refund_is_bought_anew_once(place: Place, client: MusicAPIClient, simulator: SimulatorServer) -> None:
    """And the first music task stays on record."""
    simulator.state.scenario("all-failed", times=1)
    first = buy(client, place.order(), place.store())
    simulator.state.finish(first.music_task_id)
    place.clears += 1
    anew = buy(client, place.order(), place.store(slot="create[3]"))
    again = buy(client, place.order(), place.store(slot="create[3]"))

    store = place.store(slot="create[3]")
    store.find(place.print_of("A"))
    known = Ledger(store).get(place.print_of("A"))
    assert (anew.is_new, again.is_new) == (True, False)
    assert known is not None
    assert known.earlier == (first.music_task_id,)
    assert booked(simulator) == ["A", "A"]


def test_refusal_leaves_nothing(place: Place, client: MusicAPIClient, simulator: SimulatorServer) -> None:
    """The next try buys."""
    simulator.state.scenario("moderated", times=1)
    with pytest.raises(MusicAPIError) as refused:
        buy(client, place.order(), place.store())

    assert refused.value.spent is Spent.NOT_SPENT
    assert status_of(place.store(), place.print_of("A")).state is PurchaseState.NOT_SUBMITTED
    assert buy(client, place.order(), place.store()).is_new


def test_equal_orders_without_prompt_id_are_two(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """With one they are one row."""
    for _ in range(2):
        for slot in ("create[0]", "create[1]"):
            buy(client, place.order(), place.store(slot=slot))
        place.clears += 1

    assert booked(simulator) == ["A"] * (1 if place.prompt_id else 2)


# -- storages that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["run", "run-copy", "memory", "memory-rows"], indirect=True)
@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("call", ["read", "write"])
def test_storage_that_fails_at_any_call_never_pays_twice(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer, call: str, cleared: bool
) -> None:
    """Away, read-only, full: what cannot be put on record is not sent, and what was sent is asked about."""
    for successes in range(8):
        prompt, slot = f"A {successes}", f"create[{successes + 10}]"
        if cleared:
            buy(client, place.order(prompt), place.store(prompt))
            place.clears += 1
        sent = simulator.state.requests[CREATE]
        place.away[call] = successes
        try:
            tried: Bought | MusicAPIError = buy(client, place.order(prompt), place.store(prompt, slot))
        except MusicAPIError as error:
            tried = error
            if isinstance(error, MusicAPINotSentError):
                assert simulator.state.requests[CREATE] == sent
        place.away.clear()
        try:
            found = buy(client, place.order(prompt), place.store(prompt, slot))
        except MusicAPIAmbiguousSubmitError:  # the id could not be written
            assert isinstance(tried, Bought)
        else:
            assert not isinstance(tried, Bought) or tried.music_task_id == found.music_task_id

        assert booked(simulator).count(prompt) == 1, successes


@pytest.mark.parametrize("place", ["local", "local-rows"], indirect=True)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_disk_that_cannot_be_written_sends_nothing(
    place: Place,
    client: MusicAPIClient,
    simulator: SimulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    """The error says what the disk said; once it is well, the order is bought."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(MusicAPINotSentError, match=os.strerror(error)):
            buy(client, place.order(), place.store())
    assert booked(simulator) == []
    assert buy(client, place.order(), place.store()).is_new


@pytest.mark.parametrize("content", ["{", "[]", '"x"', '{"f": 1}', "\x00"])
def test_damaged_content_sends_nothing(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer, content: str
) -> None:
    """It may have said that it is bought."""
    buy(client, place.order(), place.store())
    raw = place.raw()
    if isinstance(raw, dict):
        slot = next(key for key in raw if "/order:" not in key)
        raw[slot] = content if content.startswith("[") else json.dumps({"f": content})
    else:
        for file in list(raw.iterdir()):
            file.write_bytes(content.encode())
    with pytest.raises(MusicAPIError, match="unreadable"):
        buy(client, place.order(), place.store())

    assert booked(simulator) == ["A"]
    assert status_of(place.store(), place.print_of("A")).state is PurchaseState.UNKNOWN


@pytest.mark.parametrize("place", ["local", "local-rows", "memory", "s3", "s3-rows"], indirect=True)
def test_folder_of_version_01_is_collected_from(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """Its records say neither who asked nor what was ordered."""
    bought = buy(client, place.order(), place.store())
    (file,) = place.raw().iterdir()
    kept = json.loads(file.read_bytes())
    for name in ("resend", "ordered", "entry", "asked"):
        del kept[KEY][place.print_of("A")][name]
    file.write_bytes(json.dumps(kept).encode())

    found = [buy(client, place.order(), place.store(slot=slot)) for slot in ("create[4]", "create[4]")]
    place.clears += 1
    found.append(buy(client, place.order(), place.store(slot="create[0]")))
    assert {one.music_task_id for one in found} == {bought.music_task_id}
    assert booked(simulator) == ["A"]


@pytest.mark.parametrize("place", ["local", "memory", "s3"], indirect=True)
def test_twin_behind_a_file_that_somebody_removed_is_found(
    place: Place, client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """Such as a damaged one, as the error advises."""
    first, second = (
        buy(client, place.order(), place.store(slot=slot)) for slot in ("create[0]", "create[1]")
    )
    for file in list(place.raw().iterdir()):
        if first.music_task_id in file.read_bytes().decode():
            file.unlink()

    assert buy(client, place.order(), place.store(slot="create[1]")).music_task_id == second.music_task_id
    assert buy(client, place.order(), place.store(slot="create[0]")).is_new
    assert booked(simulator) == ["A"] * 3


# -- at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local", "local-rows", "memory", "s3", "s3-rows"], indirect=True)
def test_two_dags_at_once_buy_no_order_twice(
    place: Place, settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """Each order is bought by one of them and collected by the other."""
    prompts = [f"row {number}" for number in range(5)]

    def run(dag: str) -> list[str]:
        client = MusicAPIClient(settings, retries=ONCE)
        try:
            return [
                buy(
                    client, place.order(prompt), place.store(prompt, f"{dag}.create[{index}]", f"{dag}/run")
                ).music_task_id
                for index, prompt in enumerate(prompts)
            ]
        finally:
            client.close()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, ["a", "b", "c"]))
    assert booked(simulator) == prompts
    assert found[0] == found[1] == found[2]


def _run_of_a_process(folder: str, settings: ClientSettings, dag: str) -> None:
    client = MusicAPIClient(settings, retries=ONCE)
    for number in range(20):
        body = body_of(f"row {number}")
        print_ = fingerprint_of(body, account="test")
        asker = Asker(f"{dag}/run", f"{dag}.create[{number}]")
        store = FolderStore(ObjectStoragePath(f"file://{folder}"), "", print_, asker)
        buy(client, Order(body, print_, "run#0"), store)


def test_processes_of_two_dags_buy_twenty_rows_once(
    tmp_path: Path, settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """All at the same time."""
    processes = [FORK.Process(target=_run_of_a_process, args=(str(tmp_path), settings, dag)) for dag in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert set(Counter(booked(simulator)).values()) == {1}
    assert len(booked(simulator)) == 20


@pytest.mark.parametrize("place", ["run", "run-copy", "local", "memory", "s3"], indirect=True)
def test_twins_at_once_are_two_and_stay_two(
    place: Place, settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """In every round, and after a clear, by rows that have moved."""

    def ask(slot: str, prompt: str) -> str:
        client = MusicAPIClient(settings, retries=ONCE)
        try:
            return buy(client, place.order(prompt), place.store(prompt, slot)).music_task_id
        finally:
            client.close()

    for round_ in range(1 if str(place.raw()).startswith("s3") else 5):
        prompt = f"A {round_}"
        found = []
        for slots in (["create[0]", "create[1]"], ["create[0]", "create[1]"], ["create[8]", "create[9]"]):
            with ThreadPoolExecutor(2) as pool:
                found.append(sorted(pool.map(ask, slots, [prompt] * 2)))
            place.clears += 1

        assert found[0] == found[1] == found[2]
        assert len(set(found[0])) == 2
        assert booked(simulator).count(prompt) == 2


def test_decision_between_reading_and_buying_that_takes_too_long_sends_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is over: somebody else may have bought."""
    monkeypatch.setattr(claims, "LEASE", 0.0)
    print_ = fingerprint_of(body_of("A"), account="test")
    order = Order(body_of("A"), print_, "run#0")
    store = FolderStore(ObjectStoragePath(f"file://{tmp_path}"), "", print_, Asker("songs/run", "create"))
    with pytest.raises(MusicAPINotSentError, match="somebody else may decide"):
        buy(client, order, store)

    assert booked(simulator) == []
