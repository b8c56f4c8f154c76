"""The state of the purchases' asset in the database of the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping

from airflow._shared.state import AssetScope
from airflow.models.asset import AssetModel
from airflow.state import get_state_backend
from airflow.utils.session import create_session
from sqlalchemy import select

from musicapi_provider.ledgers.assets import PURCHASES


class AssetTable:
    """The state of the purchases' asset, as the execution API keeps it."""

    place = "asset state"

    def __init__(self) -> None:
        with create_session() as session:
            found = session.scalar(select(AssetModel.id).filter_by(name=PURCHASES.name, uri=PURCHASES.uri))
            if found is None:
                asset = AssetModel(name=PURCHASES.name, uri=PURCHASES.uri, group="asset")
                session.add(asset)
                session.flush()
                found = asset.id
            self._scope = AssetScope(asset_id=found)

    def get(self, key: str) -> object:
        """Return the value, or ``None``."""
        text = get_state_backend().get(self._scope, key)
        return json.loads(text) if text else None

    def set(self, key: str, value: Mapping[str, object]) -> None:
        """Write the value."""
        get_state_backend().set(self._scope, key, json.dumps(value))

    def delete(self, key: str) -> None:
        """Remove the value."""
        get_state_backend().delete(self._scope, key)
