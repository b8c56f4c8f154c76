"""
The state of the purchases' asset, as a running task reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.ledgers.assets import PURCHASES
from musicapi_provider.purchases.folder import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor
    from pydantic import JsonValue


class AssetState:
    """Values in the state of :data:`.assets.PURCHASES`."""

    place = f"state of asset {PURCHASES.name!r}"

    def __init__(self, context: Context) -> None:
        try:
            self._store: AssetStateStoreAccessor = context["asset_state_store"][PURCHASES]
        except KeyError as error:
            raise MusicAPIConfigurationError(
                f"This task has no place to record a purchase in: asset {PURCHASES.name!r} is none of its "
                "inlets, or this Airflow keeps no state of assets; nothing was sent.",
                next_step="leave the inlet that the operator adds, with Airflow 3.3 or later; or give a "
                "folder: records, or [musicapi] records.",
            ) from error

    def get(self, key: str) -> object:
        """Return the value, or ``None``."""
        return guarded(self.place, lambda: self._store.get(key))

    def set(self, key: str, value: Mapping[str, object]) -> None:
        """Write the value."""
        guarded(self.place, lambda: self._store.set(key, cast("JsonValue", dict(value))))

    def delete(self, key: str) -> None:
        """Remove the value."""
        guarded(self.place, lambda: self._store.delete(key))
