"""States of purchases by their short names."""

from __future__ import annotations

from musicapi_provider.purchases import PurchaseState

SUBMITTED, UNKNOWN, NOT_SUBMITTED = (
    PurchaseState.SUBMITTED,
    PurchaseState.UNKNOWN,
    PurchaseState.NOT_SUBMITTED,
)
