"""The ledger of a dag run: rows that move, slots that ask at once, and what Airflow forgets."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPINotSentError
from musicapi_provider.purchases import KEY, Asker, Ledger, Purchase, RunLedger, run_ledger
from musicapi_provider.purchases.run_ledger import MAX_KEY, order_key, run_name, slot_key, slot_name

RUN = "songs/manual__1"


class ProcessDiedError(BaseException):
    """The worker is gone: nothing catches this."""


@dataclass
class Values:
    """
    A store of values, as a database behind an API server.

    :param lag: Seconds that a call takes, at most, before and after it has its effect.
    """

    place: str = "state of asset 'purchases'"
    kept: dict[str, str] = field(default_factory=dict)
    lag: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    before_set: Callable[[str], None] = lambda key: None

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        self._wait("get")
        found = self.kept.get(key, "null")
        self._wait()
        return json.loads(found)

    def set(self, key: str, value: Mapping[str, object]) -> None:
        """Write the value."""
        self.before_set(key)
        text = json.dumps(value)
        self._wait("set")
        self.kept[key] = text
        self._wait()

    def delete(self, key: str) -> None:
        """Remove the value."""
        self._wait("delete")
        self.kept.pop(key, None)

    def _wait(self, call: str = "") -> None:
        if call:
            self.calls[call] += 1
        if self.lag:
            time.sleep(random.uniform(0, self.lag))  # noqa: S311 - no secret


@dataclass
class Run:
    """A dag run, its clears and its purchases; buying is a record here."""

    values: Values = field(default_factory=Values)
    clears: int = 0
    bought: list[str] = field(default_factory=list)
    copies: dict[str, Values] = field(default_factory=dict)

    def ledger(self, index: int) -> RunLedger:
        """Return a process's ledger."""
        copy = self.copies.setdefault(f"create[{index}]", Values("task state store"))
        return RunLedger(self.values, Asker(RUN, f"create[{index}]", self.clears), copy=copy)

    def ask(self, index: int, body: str) -> str:
        """Collect or buy."""
        store = self.ledger(index)
        with store.claim():
            store.find(body)
            ledger = Ledger(store)
            found = ledger.get(body)
            if found is None:
                intent = Purchase.intent(None, "g")
                intent = Purchase(intent.at, "g", entry=intent.entry, asked=store.asker.asks())
                ledger.put(body, intent)
                if self.values.lag:
                    time.sleep(100 * self.values.lag)  # a create takes longer than a write
                self.bought.append(f"{body} {len(self.bought)} {uuid4().hex}")
                found = intent.named(self.bought[-1])
                ledger.put(body, found)
            return str(found.music_task_id)

    def ask_at_once(self, bodies: list[str]) -> list[str]:
        """Let all slots of an expansion ask at once."""
        start = threading.Barrier(len(bodies))

        def ask(index: int) -> str:
            start.wait()
            return self.ask(index, bodies[index])

        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(ask, range(len(bodies))))


@pytest.fixture
def run() -> Run:
    """Return a new dag run."""
    return Run()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again without noticeable pauses."""
    monkeypatch.setattr(run_ledger, "LISTING_PAUSE", 0.005)


# -- at once -------------------------------------------------------------------------------------------------


def test_twins_that_start_at_once_are_both_found_after_a_clear() -> None:
    """Whoever of them has written the list of the order last."""
    for _ in range(10):
        run = Run(Values(lag=0.001))
        first = run.ask_at_once(["A", "A"])
        run.clears += 1
        again = run.ask_at_once(["A", "A"])

        assert len(set(first)) == len(run.bought) == 2
        assert again == first


@pytest.mark.parametrize(
    ("before", "after", "bought"),
    [
        pytest.param(["A", "A"], ["X", "Y", "A", "A"], 4, id="twins-moved"),
        pytest.param(["A", "A", "B", "B"], ["B", "B", "A", "A"], 4, id="exchanged"),
        pytest.param(["A", "X"], ["A", "A"], 3, id="one-stays-and-one-comes"),
        pytest.param(["A", "B", "C", "D"], ["D", "C", "B", "A"], 4, id="turned"),
        pytest.param(["A", "A", "A", "A"], ["X", "X", "X", "X", "A", "A", "A", "A"], 8, id="four"),
    ],
)
def test_slots_that_take_over_at_once_have_one_purchase_each(
    before: list[str], after: list[str], bought: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are collected, none by two, and nothing is bought twice."""
    monkeypatch.setattr(run_ledger, "LISTING_PAUSE", 0.2)  # other tests run beside this one
    for _ in range(3):
        run = Run(Values(lag=0.001))
        run.ask_at_once(before)
        run.clears += 1
        found = run.ask_at_once(after)

        assert len(set(found)) == len(after), "two rows have the same purchase"
        assert len(run.bought) == bought
        assert all(id_.startswith(body) for id_, body in zip(found, after, strict=True))
        assert run.ask_at_once(after) == found, "a retry finds the same"


def test_list_that_is_written_over_is_written_again(run: Run) -> None:
    """Another slot has read the list before this one was in it, and writes it now."""
    run.ask(0, "A")
    run.values.before_set = lambda key: None
    slow = run.ledger(1)
    with slow.claim():
        slow.find("A")
        run.ask(2, "A")  # meanwhile
        Ledger(slow).put("A", Purchase("t", "g", "m1", entry="e", asked=slow.asker.asks()))

    listed = run.values.get(order_key(RUN, "A"))["slots"]
    assert sorted(listed) == ["create[0]", "create[1]", "create[2]"]


def test_slot_that_a_list_has_lost_is_listed_by_its_next_try(run: Run) -> None:
    """It died before it could look."""
    bought = run.ask(0, "A")
    run.values.set(order_key(RUN, "A"), {"slots": []})
    run.clears += 1
    assert run.ask(0, "A") == bought
    run.clears += 1

    assert run.ask(5, "A") == bought


# -- death ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_death_while_taking_over_loses_nothing(dies_at: int) -> None:
    """At any write; the retry and the others find every purchase once."""
    run = Run()
    first = [run.ask(0, "A"), run.ask(1, "A")]
    run.clears += 1
    writes = iter(range(1, 100))

    def die(key: str) -> None:
        if next(writes) == dies_at:
            raise ProcessDiedError

    run.values.before_set = die
    with suppress(ProcessDiedError):
        run.ask(2, "A")
    run.values.before_set = lambda key: None

    found = [run.ask(2, "A"), run.ask(3, "A")]
    assert sorted(found) == sorted(first)
    assert len(run.bought) == 2


# -- what is outdated ----------------------------------------------------------------------------------------


def test_what_a_slot_has_left_behind_is_outdated(run: Run) -> None:
    """The newest record counts: an old one would buy anew what was refunded and bought anew already."""
    run.ask(0, "A")
    run.clears += 1
    store = run.ledger(1)
    with store.claim():
        store.find("A")
        ledger, known = Ledger(store), Ledger(store).get("A")
        assert known is not None
        ledger.put("A", Purchase.intent(known, "g", refunded=True).named("anew"))
    for slot in (1, 0, 1, 0):
        run.clears += 1

        assert run.ask(slot, "A") == "anew"
    assert len(run.bought) == 1


# -- what Airflow forgets, and version 0.1 -------------------------------------------------------------------


def as_of_version_01(purchase: Purchase) -> dict[str, object]:
    """Return a record as version 0.1 wrote it."""
    record = purchase.as_json()
    for name in ("resend", "ordered", "entry", "asked"):
        del record[name]
    return record


def test_purchase_of_version_01_is_collected_and_moves_from_then_on(run: Run) -> None:
    """Its copy is all there is at first."""
    old = as_of_version_01(Purchase("2026-01-01T00:00:00+00:00", "g", "m1"))
    run.copies["create[0]"] = Values("task state store", {KEY: json.dumps({"A": old})})

    assert run.ask(0, "A") == "m1"
    run.clears += 1
    assert run.ask(4, "A") == "m1"
    run.clears += 1
    assert run.ask(0, "A") == "m1"
    assert run.bought == []


def test_lost_answer_of_version_01_moves_with_its_name(run: Run) -> None:
    """It stays one purchase when it gets an id, wherever it was written."""
    lost = as_of_version_01(Purchase("2026-01-01T00:00:00+00:00", "g"))
    run.copies["create[0]"] = Values("task state store", {KEY: json.dumps({"A": lost})})
    run.ask(0, "A")
    run.clears += 1
    store = run.ledger(1)
    with store.claim():
        store.find("A")
        ledger, known = Ledger(store), Ledger(store).get("A")
        assert known is not None
        ledger.put("A", known.named("m1"))
    run.clears += 1

    assert run.ask(0, "A") == "m1"


def test_prompt_id_finds_what_was_bought_without_it() -> None:
    """Version 0.1 had one fingerprint for both; should both be there, none hides the other."""
    old = as_of_version_01(Purchase("2026-01-01T00:00:00+00:00", "g", "old"))
    new = as_of_version_01(Purchase("2026-01-01T00:00:00+00:00", "g", "new"))
    for kept, found in (({"plain": old}, "old"), ({"print": new, "plain": old}, "new")):
        copy = Values("task state store", {KEY: json.dumps(kept)})
        store = RunLedger(Values(), Asker(RUN, "create"), copy=copy, renamed={"plain": "print"})
        known = Ledger(store).get("print")

        assert known is not None
        assert known.music_task_id == found


def test_values_that_are_gone_are_found_in_the_copy(run: Run) -> None:
    """Somebody has emptied the asset's state."""
    bought = run.ask(0, "A")
    run.values.kept.clear()

    assert run.ask(0, "A") == bought


def test_copy_that_cannot_be_written_is_no_error(run: Run) -> None:
    """The purchase is on record."""

    def away(key: str) -> None:
        raise MusicAPINotSentError("away")

    run.copies["create[0]"] = Values("task state store", before_set=away)

    assert run.ask(0, "A") == run.ask(0, "A")


@pytest.mark.parametrize("value", [[], "x", {"slots": "x"}, {}, {"slot": []}])
def test_damaged_list_sends_nothing(run: Run, value: Any) -> None:
    """What it does not say may be bought."""
    run.ask(0, "A")
    run.clears += 1
    run.values.kept[order_key(RUN, "A")] = json.dumps(value)
    with pytest.raises(MusicAPIConfigurationError, match="unreadable"):
        run.ask(1, "A")

    assert len(run.bought) == 1


def test_damaged_record_of_another_slot_sends_nothing(run: Run) -> None:
    """It may be what this one looks for."""
    run.ask(0, "A")
    run.clears += 1
    run.values.kept[slot_key(RUN, "create[0]")] = json.dumps({"A": {"at": 1}})
    with pytest.raises(MusicAPIConfigurationError, match="unreadable"):
        run.ask(1, "A")


# -- cost and keys -------------------------------------------------------------------------------------------


def test_requests_of_a_purchase_and_of_a_retry(run: Run) -> None:
    """Four reads and three writes; a retry reads once."""
    run.ask(0, "A")
    bought = dict(run.values.calls)
    run.values.calls.clear()
    run.ask(0, "A")

    assert bought == {"get": 4, "set": 3}
    assert dict(run.values.calls) == {"get": 1}


def test_other_keys_are_no_ledger(run: Run) -> None:
    """A slip in the code is no empty record."""
    store = run.ledger(0)
    for call in (lambda: store.get("x"), lambda: store.set("x", {}), lambda: store.delete("x")):
        with pytest.raises(KeyError):
            call()


def test_keys_fit_and_stay_apart() -> None:
    """DAG, run and task may have 250 characters each."""
    run = run_name("d" * 250, "r" * 250)
    keys = {slot_key(run, slot_name("t" * 250, index)) for index in (None, -1, 0, 1)}

    assert len(keys) == 3
    assert all(len(key) <= MAX_KEY for key in keys)
    assert order_key("a/b", "f") == "a/b/order:f"
