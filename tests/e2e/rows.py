"""
A run of one of the DAGs in ``dags/situations.py``: what it has bought, and what can be done to it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import requests

from tests.e2e.song import FINAL

if TYPE_CHECKING:
    from tests.e2e.song import World


#: Requests that write go one by one: several at once wait for SQLite's lock on the API server's event loop,
#: see :class:`include.local.stack.Stack`.
ONE_BY_ONE = threading.Lock()
#: Times that one is sent, and seconds between: one that waits too long for a task's request gets a 500.
SENT, PAUSE = 5, 2.0


def one_by_one(call: Callable[[], object]) -> None:
    """Send a request that writes; a conflict says that an earlier one has come through after all."""
    for sent in range(SENT):
        try:
            with ONE_BY_ONE:
                call()
        except requests.HTTPError as error:
            status = error.response.status_code
            if sent and status in (404, 409):
                return
            if sent == SENT - 1 or status != 500:
                raise
            time.sleep(PAUSE)
        else:
            return


@dataclass(frozen=True, slots=True)
class Bought:
    """What a task instance returned, and everything that its last try logged."""

    music_task_id: str
    log: str

    @property
    def is_collected(self) -> bool:
        """Whether the last try says that it collects what was bought before."""
        return f"Nothing is bought: music task {self.music_task_id} was submitted at" in self.log


class Rows:
    """
    A run that orders rows.

    :param rows: Prompts, or arguments of the operator.
    :param run_id: ``None`` for a new one.
    """

    def __init__(
        self,
        world: World,
        dag_id: str = "e2e_rows",
        rows: Sequence[Any] = (),
        *,
        run_id: str | None = None,
        **conf: str,
    ) -> None:
        self._world = world
        self.dag_id = dag_id
        self.run_id = run_id or f"{dag_id}_{uuid4().hex[:8]}"
        given = {"rows": list(rows), **conf}
        one_by_one(lambda: world.api.trigger(dag_id, given, run_id=self.run_id))

    def until_over(self) -> str:
        """Wait until the run has ended and return its state; a clear before would be lost."""
        state = self._world.api.run_state
        ended = self._world.until(
            f"the end of {self.dag_id}", lambda: (now := state(self.dag_id, self.run_id)) in FINAL and now
        )
        return str(ended)

    def instances(self, task_id: str = "create") -> list[dict[str, Any]]:
        """Return the instances of a task that are not removed, by map index."""
        found = self._world.api.task_instances(self.dag_id, self.run_id)
        found = [ti for ti in found if ti["task_id"] == task_id and ti["state"] != "removed"]
        return sorted(found, key=lambda ti: ti["map_index"])

    def log(self, instance: dict[str, Any]) -> str:
        """Return everything that the last try of a task instance logged."""
        return self._world.api.log_text(self.dag_id, self.run_id, instance)

    def bought(self, task_id: str = "create") -> list[Bought]:
        """Wait until the run has succeeded, and return what its rows have."""
        state, found = self.until_over(), self.instances(task_id)
        logs = [self.log(ti) for ti in found]
        assert state == "success", logs
        api = self._world.api
        return [
            Bought(api.xcom(self.dag_id, self.run_id, task_id, map_index=ti["map_index"]), log)
            for ti, log in zip(found, logs, strict=True)
        ]

    # -- what a user or an accident does -------------------------------------------------------------------

    def order(self, *rows: Any) -> None:
        """Change what the task before the purchases returns from now on."""
        (self._world.processes / f"{self.run_id}.rows").write_text(json.dumps(rows))

    def clear(self, task_id: str = "create", *, upstream: bool = False, downstream: bool = False) -> None:
        """Clear all instances of a task, with its neighbours if asked to."""
        about = (self.dag_id, self.run_id, task_id)
        one_by_one(lambda: self._world.api.clear(*about, upstream=upstream, downstream=downstream))

    def clear_all(self) -> None:
        """Clear the run."""
        one_by_one(lambda: self._world.api.clear_run(self.dag_id, self.run_id))

    def delete(self) -> None:
        """Delete the run."""
        one_by_one(lambda: self._world.api.delete_run(self.dag_id, self.run_id))

    def discard_task_state(self) -> None:
        """Delete what the task state store has of the run, as clears of a coming Airflow will."""
        query = "DELETE FROM task_state_store WHERE dag_id = ? AND run_id = ?"
        assert self._edit(query, self.dag_id, self.run_id)

    def forget_assets(self) -> None:
        """Delete what the state of assets has of the run."""
        assert self._edit("DELETE FROM asset_state_store WHERE key LIKE ?", f"{self.dag_id}/{self.run_id}/%")

    def rewrite_task_state(self, without: Sequence[str]) -> None:
        """Take fields out of the purchases in the task state store, as an older version wrote them."""
        query = (
            "SELECT id, value FROM task_state_store "
            "WHERE dag_id = ? AND run_id = ? AND key = 'musicapi_submissions'"
        )
        with closing(self._database()) as database:
            found = database.execute(query, (self.dag_id, self.run_id)).fetchall()
        assert found
        for id_, value in found:
            ledger = json.loads(value)
            old = {
                body: {name: field for name, field in one.items() if name not in without}
                for body, one in ledger.items()
            }
            self._edit("UPDATE task_state_store SET value = ? WHERE id = ?", json.dumps(old), id_)

    def _edit(self, query: str, *values: Any) -> int:
        with closing(self._database()) as database, database:
            return database.execute(query, values).rowcount

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self._world.stack.home / "airflow.db", timeout=60)
