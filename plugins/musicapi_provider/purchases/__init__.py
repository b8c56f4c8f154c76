"""
What is bought: on record before it is sent, and never bought twice in silence. No Airflow.

``purchase``: what is on record about an order. ``ledger``: where that is kept. ``decide``: what to do about
an order (pure). ``buying``: does it. ``folder``: a store for ledgers that outlives dag runs.
"""

from musicapi_provider.purchases.buying import Callbacks, Expected, adopt, buy
from musicapi_provider.purchases.decide import Policy, UnknownOutcome
from musicapi_provider.purchases.folder import PURCHASES, FolderStore, read_stores
from musicapi_provider.purchases.ledger import (
    KEY,
    Ledger,
    LedgerStore,
    awaited_callback,
    fingerprint_of,
    status_of,
)
from musicapi_provider.purchases.purchase import (
    Bought,
    Order,
    Purchase,
    PurchaseState,
    PurchaseStatus,
    generation_of,
    run_of,
)

__all__ = [
    "KEY",
    "PURCHASES",
    "Bought",
    "Callbacks",
    "Expected",
    "FolderStore",
    "Ledger",
    "LedgerStore",
    "Order",
    "Policy",
    "Purchase",
    "PurchaseState",
    "PurchaseStatus",
    "UnknownOutcome",
    "adopt",
    "awaited_callback",
    "buy",
    "fingerprint_of",
    "generation_of",
    "read_stores",
    "run_of",
    "status_of",
]
