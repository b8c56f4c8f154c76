"""
All purchases on record, and what people decide about lost answers among them. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.purchases.purchase import PurchaseStatus
from musicapi_provider.purchases.twins import holders

if TYPE_CHECKING:
    from musicapi_provider.purchases.purchase import Purchase

#: Purchases that an error names.
MOST_NAMED = 10
#: Characters of a fingerprint that a purchase's name begins with, and of its own that follow.
PRINT_LENGTH, OWN_LENGTH = 8, 6


class Standing(StrEnum):
    """Where a purchase stands, as people read it."""

    SUBMITTED = "submitted"
    UNKNOWN = "unknown outcome"
    RESEND = "unknown outcome, will be sent again"


@dataclass(frozen=True, slots=True)
class Record:
    """
    A purchase where it lies.

    :param place: What the ledger calls that.
    :param prompt_id: As far as the place tells it.
    """

    place: str
    fingerprint: str
    purchase: Purchase
    prompt_id: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A purchase of a ledger, once.

    :param record: As the slot that holds it knows it.
    :param places: Wherever it is on record, that one first.
    """

    record: Record
    places: tuple[str, ...]

    @property
    def purchase(self) -> Purchase:
        """What is on record."""
        return self.record.purchase

    @property
    def name(self) -> str:
        """What people call it: the beginning of its fingerprint, which errors name, and of its own digest."""
        # Two rows of a folder may have the same body.
        own = f"{self.record.prompt_id}/{self.purchase.identity}"
        digest = hashlib.sha256(own.encode()).hexdigest()[:OWN_LENGTH]
        return f"{self.record.fingerprint[:PRINT_LENGTH]}-{digest}"

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        if not self.purchase.is_intent:
            return Standing.SUBMITTED
        return Standing.RESEND if self.purchase.resend else Standing.UNKNOWN

    def is_called(self, name: str) -> bool:
        """Tell whether a text is the beginning of its name, or of its fingerprint."""
        return bool(name) and (self.name.startswith(name) or self.record.fingerprint.startswith(name))

    def as_json(self) -> dict[str, object]:
        """Return what people want to know of it."""
        purchase, asked = self.purchase, self.purchase.asked
        status = PurchaseStatus.of(purchase)
        return {
            "order": self.name,
            "ordered": purchase.ordered,
            "prompt_id": self.record.prompt_id,
            "state": str(self.standing),
            "music_task_id": purchase.music_task_id,
            "credits": status.credits,
            "lost_credits": status.lost_credits,
            "price": status.price,
            "balance": purchase.balance,
            "at": purchase.at,
            "asked_run": asked.run if asked else None,
            "asked_slot": asked.slot if asked else None,
            "asked_at": asked.at if asked else None,
            "earlier": list(purchase.earlier),
            "lost_at": list(purchase.lost_at),
            "fingerprint": self.record.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What somebody has decided about a lost answer.

    :param order: The beginning of an entry's name.
    :param adopt: The music task that it is; ``None``: none is named.
    :param resubmit: It is sent again, once.
    :raises MusicAPIInvalidRequestError: both or neither is said.
    """

    order: str
    adopt: str | None = None
    resubmit: bool = False

    def __post_init__(self) -> None:
        if (self.adopt is not None) == self.resubmit:
            raise MusicAPIInvalidRequestError(
                f"{self.order}: must be adopted or sent again, and not both; nothing was changed.",
                next_step="say either --adopt MUSIC_TASK_ID or --resubmit.",
            )


def entries_of(records: Iterable[Record]) -> list[Entry]:
    """Return each purchase of a dag run once, the oldest first: several slots may know the same one."""
    by_order: dict[str, dict[str, Record]] = {}
    for record in records:
        by_order.setdefault(record.fingerprint, {})[record.place] = record
    found = []
    for of_order in by_order.values():
        known = {place: record.purchase for place, record in of_order.items()}
        for identity, holder in holders(known).items():
            others = [place for place in known if known[place].identity == identity and place != holder]
            found.append(Entry(of_order[holder], (holder, *others)))
    return in_order(found)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries, the oldest first."""
    return sorted(entries, key=lambda entry: (entry.purchase.at, entry.name))


def chosen_entry(entries: Sequence[Entry], order: str) -> Entry:
    """
    Return the entry that is called so.

    :raises MusicAPIInvalidRequestError: none is, or several are; the error lists what there is.
    """
    found = [entry for entry in entries if entry.is_called(order)]
    if len(found) == 1:
        return found[0]
    if found:
        raise MusicAPIInvalidRequestError(
            f"{order!r}: names {len(found)} purchases; nothing was changed. They are: {_listed(found)}.",
            next_step="give more of the name.",
        )
    raise MusicAPIInvalidRequestError(
        f"{order!r}: no purchase on record is called so; nothing was changed. "
        + (f"There are: {_listed(entries)}." if entries else "Nothing is on record here."),
        next_step="take a name from airflow musicapi purchases.",
    )


def settled(entries: Sequence[Entry], decision: Decision) -> tuple[Entry, Purchase | None]:
    """
    Return which purchase a decision is about, and what it becomes; ``None``: it is so already.

    :raises MusicAPIInvalidRequestError: there is nothing to decide, or another order has that music task.
    """
    entry = chosen_entry(entries, decision.order)
    purchase = entry.purchase
    if decision.adopt is not None:
        _check_free(entries, entry, decision.adopt)
        if purchase.music_task_id == decision.adopt:
            return entry, None
    if not purchase.is_intent:
        raise MusicAPIInvalidRequestError(
            f"{entry.name}: is no unknown outcome, but music task {purchase.music_task_id}; nothing was "
            "changed.",
            next_step="clear its task: it collects that. To buy the same again, use force_new=True.",
        )
    if decision.adopt is not None:
        # Its name stays what it was.
        return entry, replace(
            purchase.adopting(decision.adopt, purchase.generation), entry=purchase.identity, resend=False
        )
    return entry, None if purchase.resend else replace(purchase, resend=True)


def changed_meanwhile(entry: Entry) -> MusicAPIInvalidRequestError:
    """Return the error of a decision about what is not any more as it was read."""
    return MusicAPIInvalidRequestError(
        f"{entry.name}: somebody has written about it meanwhile; nothing was changed.",
        next_step="look at it again: airflow musicapi purchases.",
    )


def _check_free(entries: Iterable[Entry], mine: Entry, music_task_id: str) -> None:
    for entry in entries:
        purchase = entry.purchase
        if entry is not mine and music_task_id in (purchase.music_task_id, *purchase.earlier):
            raise MusicAPIInvalidRequestError(
                f"--adopt: music task {music_task_id} is on record as {entry.name}; nothing was changed.",
                next_step="name the music task that this order has made, or send it again.",
            )


def _listed(entries: Sequence[Entry]) -> str:
    # What can be decided comes first.
    entries = sorted(entries, key=lambda entry: not entry.purchase.is_intent)
    named = ", ".join(_call(entry) for entry in entries[:MOST_NAMED])
    return named + (f" and {len(entries) - MOST_NAMED} more" if len(entries) > MOST_NAMED else "")


def _call(entry: Entry) -> str:
    words = ": ".join(part for part in (entry.record.prompt_id, entry.purchase.ordered) if part)
    return f"{entry.name} ({words}, {entry.standing})" if words else f"{entry.name} ({entry.standing})"
