"""A database, and what dag runs have on record in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from airflow._shared.state import AssetScope
from airflow.models.asset import AssetModel
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.state import get_state_backend
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from musicapi_provider.ledgers.assets import PURCHASES
from musicapi_provider.purchases import Asker, RunLedger


@dataclass(frozen=True)
class Said:
    """What a command ended with, and what it wrote."""

    code: str | int | None
    out: str


@pytest.fixture(scope="session")
def database() -> None:
    """Migrate the database of the tests."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def airflow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Return a function that runs a command of the group ``musicapi``."""
    # The command sets it for its process; this puts back what was.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT")

    def run(*words: str) -> Said:
        from airflow.cli.cli_parser import get_parser

        code: str | int | None = None
        try:
            args = get_parser().parse_args(["musicapi", *words])
            args.func(args)
        except SystemExit as end:
            code = end.code
        return Said(code, capsys.readouterr().out)

    return run


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


@pytest.fixture
def asset_table(database: None) -> Iterator[AssetTable]:
    """Return the state of the purchases' asset, empty."""
    yield AssetTable()
    with create_session() as session:
        session.execute(delete(AssetStateStoreModel))


@pytest.fixture
def ledger(asset_table: AssetTable) -> Callable[..., RunLedger]:
    """Return a function that opens the ledger of a slot of a dag run."""

    def opened(slot: str = "create", run: str = "songs/run 1") -> RunLedger:
        return RunLedger(asset_table, Asker(run, slot))

    return opened
