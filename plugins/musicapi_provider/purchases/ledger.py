"""
The ledger: what is on record about the purchases of an order.

The API knows no idempotency key (facts 5), so the memory is ours: a small store that survives the death of
the process, the clear of a task, and lists whose rows move. ``folder`` and ``run_ledger`` are the two that
there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Protocol

from musicapi_provider.exceptions import (
    MusicAPIConfigurationError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
)
from musicapi_provider.purchases.purchase import Asker, Purchase, PurchaseState, PurchaseStatus

#: The one key of a store that a ledger uses.
KEY = "musicapi_submissions"


class LedgerStore(Protocol):
    """
    Where a ledger is kept: anything with these that survives the death of the process.

    Who buys holds :meth:`claim` from :meth:`find` until the id is written.
    """

    #: What errors call it.
    place: str
    #: Who asks; ``None``: nobody tells two equal orders apart.
    asker: Asker | None = None

    def claim(self) -> AbstractContextManager[object]:
        """Keep other processes from deciding about the same order meanwhile."""
        return nullcontext()

    def find(self, fingerprint: str) -> None:
        """See to it that what belongs to the asker, whoever had asked for it before, is in the record."""

    def get(self, key: str) -> object:
        """Return the value, or ``None``."""

    def set(self, key: str, value: dict[str, object]) -> None:
        """Write or overwrite the value."""

    def delete(self, key: str) -> None:
        """Remove the value."""


class Ledger:
    """
    The purchases in a store: a record per body, under one key.

    :raises MusicAPIConfigurationError: when what is stored is no ledger; nothing was sent.
    """

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._purchases = purchases_in(store.get(KEY), store.place)

    def get(self, fingerprint: str) -> Purchase | None:
        """Return what is on record about a body."""
        return self._purchases.get(fingerprint)

    def others(self, fingerprint: str) -> dict[str, Purchase]:
        """Return what is on record about other bodies, by fingerprint."""
        return {other: purchase for other, purchase in self._purchases.items() if other != fingerprint}

    def intents(self) -> dict[str, Purchase]:
        """Return the purchases whose answers were lost, by fingerprint."""
        return {print_: purchase for print_, purchase in self._purchases.items() if purchase.is_intent}

    def put(self, fingerprint: str, purchase: Purchase | None) -> None:
        """Write a record, or take it out."""
        purchases = {**self._purchases, fingerprint: purchase}
        self._purchases = {print_: kept for print_, kept in purchases.items() if kept is not None}
        if self._purchases:
            self._store.set(KEY, {print_: kept.as_json() for print_, kept in self._purchases.items()})
        else:
            self._store.delete(KEY)


def purchases_from(value: object) -> dict[str, Purchase]:
    """Read what a ledger wrote, by fingerprint; raises ``TypeError`` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError("a ledger must be an object")
    return {str(fingerprint): Purchase.from_json(item) for fingerprint, item in value.items()}


def purchases_in(value: object, place: str) -> dict[str, Purchase]:
    """
    Read what stands in a store, by fingerprint.

    :raises MusicAPIConfigurationError: it is no ledger; nothing was sent.
    """
    try:
        return purchases_from(value)
    except TypeError as error:
        raise MusicAPIConfigurationError(
            f"The submission record in the {place} is unreadable ({error}); nothing was sent.",
            next_step="delete it if you are sure that nothing was bought.",
        ) from error


def fingerprint_of(body: Mapping[str, object], *, account: str, prompt_id: str | None = None) -> str:
    """
    Return a digest of what is bought: the same body on the same account is the same purchase.

    :param account: The connection id, or the account itself.
    :param prompt_id: Rows with the same body are several orders.
    :raises MusicAPIInvalidRequestError: the body is no JSON, so it cannot be sent either.
    """
    try:
        named = [account, body, *([prompt_id] if prompt_id else [])]
        canonical = json.dumps(named, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MusicAPIInvalidRequestError(
            f"The request body is no JSON ({error}); nothing was sent."
        ) from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def status_of(store: LedgerStore, fingerprint: str | None) -> PurchaseStatus:
    """
    Say where the purchase of a body stands by the record; never raises.

    A body without a record is unknown, too, while the answer about another body of this task is lost: a body
    that changes from try to try must not look unpaid.

    :param fingerprint: ``None`` where the body itself is not known: then any record makes it unknown.
    """
    try:
        ledger = Ledger(store)
    except MusicAPIError:
        return PurchaseStatus(PurchaseState.UNKNOWN)
    purchase = ledger.get(fingerprint) if fingerprint else None
    if purchase is not None:
        return PurchaseStatus.of(purchase)
    others = ledger.others(fingerprint or "").values()
    if any(other.is_intent for other in others) if fingerprint else others:
        return PurchaseStatus(PurchaseState.UNKNOWN)
    return PurchaseStatus(PurchaseState.NOT_SUBMITTED, credits=0.0)


def awaited_callback(store: LedgerStore) -> tuple[str, float] | None:
    """
    Return the token by which the API may still name a create whose answer was lost, and when that was.

    :return: The latest one's, with epoch seconds; ``None``: there is none.
    """
    lost = [purchase for purchase in Ledger(store).intents().values() if purchase.token]
    if not lost:
        return None
    latest = max(lost, key=lambda purchase: datetime.fromisoformat(purchase.at))
    return str(latest.token), datetime.fromisoformat(latest.at).timestamp()
