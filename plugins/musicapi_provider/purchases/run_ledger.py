"""
The ledger of one dag run, over a store of values that has neither listings nor locks.

Each slot writes a record of its own (its purchases by body), which nobody else writes, so no two can lose
each other's. Beside it lies, for each body, the list of the slots that have ordered it: by that a row that
has moved finds what another slot has bought. The list is read again after it was written, and written again
until everybody is in it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIError
from musicapi_provider.purchases.ledger import KEY, LedgerStore, purchases_from, purchases_in
from musicapi_provider.purchases.twins import SAME_ORDER, chosen, is_free, names, rivals

if TYPE_CHECKING:
    from musicapi_provider.purchases.purchase import Asker, Purchase

log = logging.getLogger(__name__)

#: Times that a slot sees to it that it is in the list of an order; only equal orders at the same instant need
#: more than one.
LISTINGS = 6
#: Seconds between them, at most.
LISTING_PAUSE = 0.2
#: Times that a slot looks whether it may have what it takes over; each one that gives way needs two.
TURNS = 100
#: Characters of a key; Airflow keeps 512.
MAX_KEY = 500


class Values(Protocol):
    """A store of JSON values by key that survives what the ledger must survive."""

    #: What errors call it.
    place: str

    def get(self, key: str) -> object:
        """Return the value, or ``None``."""

    def set(self, key: str, value: Mapping[str, object]) -> None:
        """Write or overwrite the value."""

    def delete(self, key: str) -> None:
        """Remove the value."""


class RunLedger(LedgerStore):
    """
    The purchases of one slot of a dag run, and the way to those of its other slots.

    :param values: Where they are kept.
    :param asker: The slot.
    :param copy: Where the slot's purchases are kept once more, should Airflow forget the values; version 0.1
        kept them there alone. Read when nothing else is known, and this is not the slot's first try.
    :param is_first_try: Nothing can be there yet.
    :param renamed: Fingerprints that version 0.1 had others for.
    """

    asker: Asker

    def __init__(
        self,
        values: Values,
        asker: Asker,
        *,
        copy: Values | None = None,
        is_first_try: bool = False,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self._values = values
        self.asker = asker
        self._copy = copy
        self._is_first_try = is_first_try
        self._renamed = renamed or {}
        self.place = f"{values.place}, {slot_key(asker.run, asker.slot)!r}"
        #: The slot's record; ``None``: not read yet.
        self._mine: dict[str, Purchase] | None = None
        #: Orders that this process has put itself on the list of.
        self._listed: set[str] = set()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Read the record anew; see to it, at the end, that others find what was ordered."""
        self._mine = None
        try:
            yield
        finally:
            for fingerprint in self._listed:
                self._stay_listed(fingerprint)
            self._listed.clear()

    def get(self, key: str) -> object:
        """Return the slot's ledger."""
        if key != KEY:
            raise KeyError(key)
        return {print_: one.as_json() for print_, one in self._purchases().items()} or None

    def set(self, key: str, value: dict[str, object]) -> None:
        """Write the slot's ledger: others can find what is new in it before it is there."""
        if key != KEY:
            raise KeyError(key)
        purchases = purchases_from(value)
        for fingerprint in purchases.keys() - self._purchases().keys():
            self._list(fingerprint)
        self._values.set(slot_key(self.asker.run, self.asker.slot), value)
        self._mine = purchases
        if self._copy is not None and not any(one.is_intent for one in purchases.values()):
            try:
                self._copy.set(KEY, value)
            except MusicAPIError as error:  # it is on record
                log.warning("A purchase is on record, but has no copy in the %s: %s", self._copy.place, error)

    def delete(self, key: str) -> None:
        """Remove the slot's ledger."""
        if key != KEY:
            raise KeyError(key)
        self._values.delete(slot_key(self.asker.run, self.asker.slot))
        self._mine = {}

    def find(self, fingerprint: str) -> None:
        """Take over what belongs to this slot, and leave what another one has asked for since the clear."""
        mine = self._purchases().get(fingerprint)
        if mine is not None and not self._may_move(mine):
            return
        for turn in range(TURNS):
            known = self._everywhere(fingerprint)
            slot = chosen(self.asker, known)
            if slot is None:
                self._leave(fingerprint)
                if known:
                    log.info(SAME_ORDER, ", ".join(names(known.values())))
                return
            one, others = known[slot], known.keys() - {self.asker.slot}
            if slot == self.asker.slot and not is_free(one, self.asker):  # taken, in the turn before
                if turn == TURNS - 1 or not rivals(slot, known):
                    break
                time.sleep(random.uniform(0, LISTING_PAUSE))  # noqa: S311 - no secret
                continue
            if slot != self.asker.slot:
                log.info("What %s of this dag run has ordered is what this task orders now.", slot)
            self._put(fingerprint, one.taken_by(self.asker, taking=bool(others)))
            if not others:
                return
            time.sleep(LISTING_PAUSE)  # whoever is about to do the same is on the list by then
        # Nobody else was first: who looks from now on sees that it is taken.
        taken = self._purchases()[fingerprint]
        if taken.asked is not None:
            self._put(fingerprint, replace(taken, asked=replace(taken.asked, taking=False)))

    def _may_move(self, mine: Purchase) -> bool:
        """Tell whether what this slot has may be another's by now."""
        return is_free(mine, self.asker) or (mine.asked is not None and mine.asked.taking)

    def _everywhere(self, fingerprint: str) -> dict[str, Purchase]:
        """Return what is on record about an order, by slot."""
        mine, slots = self._purchases().get(fingerprint), self._slots_of(fingerprint)
        if mine is not None and self.asker.slot not in slots:
            # Version 0.1 had no lists, and somebody who wrote at the same instant may have left it out.
            self._list(fingerprint)
            slots = self._slots_of(fingerprint)
        found = {} if mine is None else {self.asker.slot: mine}
        for slot in slots:
            if slot != self.asker.slot and (one := self._read(slot).get(fingerprint)):
                found[slot] = one
        return found

    def _purchases(self) -> dict[str, Purchase]:
        if self._mine is None:
            self._mine = self._read(self.asker.slot)
            if not self._mine and self._copy is not None and not self._is_first_try:
                found = purchases_in(self._copy.get(KEY), self._copy.place)
                # Should both names be there, the newer one counts.
                self._mine = {self._renamed.get(print_, print_): one for print_, one in found.items()} | {
                    print_: one for print_, one in found.items() if print_ in self._renamed.values()
                }
        return self._mine

    def _read(self, slot: str) -> dict[str, Purchase]:
        return purchases_in(self._values.get(slot_key(self.asker.run, slot)), self.place)

    def _put(self, fingerprint: str, purchase: Purchase) -> None:
        purchases = {**self._purchases(), fingerprint: purchase}
        self.set(KEY, {print_: one.as_json() for print_, one in purchases.items()})

    def _leave(self, fingerprint: str) -> None:
        """Forget, here, what another slot has."""
        if fingerprint in self._purchases():
            rest = {print_: one for print_, one in self._purchases().items() if print_ != fingerprint}
            if rest:
                self.set(KEY, {print_: one.as_json() for print_, one in rest.items()})
            else:
                self.delete(KEY)

    # -- the list of an order's slots ------------------------------------------------------------------------

    def _slots_of(self, fingerprint: str) -> list[str]:
        value = self._values.get(order_key(self.asker.run, fingerprint))
        slots = value.get("slots") if isinstance(value, Mapping) else [] if value is None else None
        if not isinstance(slots, list):
            raise MusicAPIConfigurationError(
                f"The list of who has ordered {fingerprint} in the {self.place} is unreadable; nothing was "
                "sent.",
                next_step="delete it if you are sure that nothing was bought.",
            )
        return [str(slot) for slot in slots]

    def _list(self, fingerprint: str) -> None:
        slots = self._slots_of(fingerprint)
        if self.asker.slot not in slots:
            self._values.set(order_key(self.asker.run, fingerprint), {"slots": [*slots, self.asker.slot]})
            self._listed.add(fingerprint)

    def _stay_listed(self, fingerprint: str) -> None:
        """Write the list again if somebody who wrote it at the same instant has left this slot out."""
        with suppress(MusicAPIError):  # what is bought is on record
            for _ in range(LISTINGS):
                slots = self._slots_of(fingerprint)
                if self.asker.slot in slots:
                    return
                self._values.set(order_key(self.asker.run, fingerprint), {"slots": [*slots, self.asker.slot]})
                time.sleep(random.uniform(0, LISTING_PAUSE))  # noqa: S311 - no secret
        log.warning(
            "The list of who has ordered %s lacks %s: if this row moves, it may not be found.",
            *(fingerprint, self.asker.slot),
        )


def run_name(dag_id: str, run_id: str) -> str:
    """Return what a dag run is called in keys."""
    return f"{dag_id}/{run_id}"


def slot_name(task_id: str, map_index: int | None) -> str:
    """Return what a slot of a dag run is called."""
    return task_id if map_index is None or map_index < 0 else f"{task_id}[{map_index}]"


def slot_key(run: str, slot: str) -> str:
    """Return the key of a slot's purchases."""
    return _short(f"{run}/{slot}")


def order_key(run: str, fingerprint: str) -> str:
    """Return the key of the list of slots that have ordered a body; no task has a colon in its id."""
    return _short(f"{run}/order:{fingerprint}")


def _short(key: str) -> str:
    """Return a key that every database can keep: DAG, run and task may have 250 characters each."""
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 33]}~{hashlib.sha256(key.encode()).hexdigest()[:32]}"
