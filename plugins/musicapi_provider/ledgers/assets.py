"""
The asset in whose state the purchases of dag runs are kept.
"""

from __future__ import annotations

from airflow.sdk import Asset

#: An inlet of each task that buys without a folder: only so does Airflow give it the asset's state. Nothing
#: is scheduled by it, and it has no events. Its state outlives clears, retries and dag runs, as long as a DAG
#: refers to it (``airflow-notes.md``).
PURCHASES = Asset(name="musicapi_purchases", uri="musicapi://purchases")


def with_purchases(inlets: object) -> list[object]:
    """Return a task's inlets with :data:`PURCHASES` among them, once."""
    given = [] if inlets is None else list(inlets) if isinstance(inlets, (list, tuple, set)) else [inlets]
    return given if PURCHASES in given else [*given, PURCHASES]
