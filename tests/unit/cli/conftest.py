"""A database, and what dag runs have on record in it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
from airflow.configuration import conf
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.utils.session import create_session
from sqlalchemy import delete

from musicapi_provider.purchases import Asker, RunLedger
from tests.unit.asset_table import AssetTable


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


@pytest.fixture
def write(database: None) -> Iterator[Callable[..., None]]:
    """Return a function that writes a row of a table, without what it hangs on; removed at the end."""
    path = conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///")
    written: list[tuple[str, str]] = []

    def execute(statement: str, values: Sequence[object]) -> None:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute(statement, values)
            connection.commit()

    def write(table: str, **fields: object) -> None:
        places = ", ".join("?" * len(fields))
        execute(f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({places})", [*fields.values()])  # noqa: S608
        written.append((table, str(fields["dag_id"])))

    yield write
    for table, dag_id in written:
        execute(f"DELETE FROM {table} WHERE dag_id = ?", [dag_id])  # noqa: S608
