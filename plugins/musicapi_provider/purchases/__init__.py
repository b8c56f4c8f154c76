"""
What is bought: on record before it is sent, and never bought twice in silence. No Airflow.

``purchase``: what is on record about an order. ``twins``: whose it is, where one order was placed twice.
``decide``: what to do about an order. All pure. ``ledger``: what keeps records, with two stores: ``folder``
(object storage, with ``claims``) and ``run_ledger`` (of one dag run). ``buying``: does it.
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
    Asked,
    Asker,
    Bought,
    Order,
    Purchase,
    PurchaseState,
    PurchaseStatus,
    generation_of,
    run_of,
)
from musicapi_provider.purchases.run_ledger import RunLedger

__all__ = [
    "KEY",
    "PURCHASES",
    "Asked",
    "Asker",
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
    "RunLedger",
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
