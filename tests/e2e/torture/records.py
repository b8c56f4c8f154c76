"""
What Airflow knows in the end: states and XComs, read from its database in one go.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicapi_provider.links import xcoms
from tests.e2e.torture.judge import Row
from tests.e2e.torture.purchases import DAG_IDS, TASK_ID, prompt_of

if TYPE_CHECKING:
    from tests.e2e.torture.gate import Torture

#: XCom keys that hold an id; a return value of tracks holds it inside.
ID_KEYS = (xcoms.MUSIC_TASK_ID, "return_value")


def task_states(database: Path, way: str) -> Counter[str]:
    """Count the states of a way's task instances; cheap enough to ask every second."""
    found = _rows(
        database,
        "SELECT state, COUNT(*) FROM task_instance WHERE dag_id = ? AND task_id = ? GROUP BY state",
        way,
    )
    return Counter({str(state): count for state, count in found})


def read_rows(database: Path, torture: Torture, way: str, order: Sequence[str]) -> list[Row]:
    """
    Return every purchase of a way: what the simulator booked beside what Airflow knows.

    :param order: The purchases by map index.
    """
    booked = _booked(torture)
    states = dict(
        _rows(database, "SELECT map_index, state FROM task_instance WHERE dag_id = ? AND task_id = ?", way)
    )
    left: dict[tuple[int, str], Any] = {}
    query = "SELECT map_index, key, value FROM xcom WHERE dag_id = ? AND task_id = ?"
    for index, key, value in _rows(database, query, way):
        left[index, key] = json.loads(value)
    rows = []
    for index, name in enumerate(order):
        ids = (_ids_in(left.get((index, key))) for key in ID_KEYS)
        rows.append(
            Row(
                purchase=name,
                booked=tuple(booked.get(prompt_of(way, name), ())),
                state=states.get(index),
                collected=frozenset().union(*ids),
                submission=(left.get((index, xcoms.SUBMISSION)) or {}).get("state"),
                resent=name in torture.ways[way].resent,
            )
        )
    return rows


def _booked(torture: Torture) -> dict[str, list[str]]:
    booked: dict[str, list[str]] = {}
    for job in list(torture.state.jobs.values()):
        booked.setdefault(job.body["prompt"], []).append(job.task_id)
    return booked


def _ids_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    return {track["music_task_id"] for track in value or ()}


def _rows(database: Path, query: str, way: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(query, (DAG_IDS[way], TASK_ID)).fetchall()


def discard_task_state(database: Path, way: str, indexes: Sequence[int]) -> None:
    """Delete what the task state store has of these map indexes, as clears of a coming Airflow will."""
    query = "DELETE FROM task_state_store WHERE dag_id = ? AND task_id = ? AND map_index = ?"
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.executemany(query, [(DAG_IDS[way], TASK_ID, index) for index in indexes])
