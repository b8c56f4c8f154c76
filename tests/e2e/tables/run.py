"""
A run of ``dags/tables.py`` over a local destination, what can be seen of it, and what can be done to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from musicapi_provider.storage.partial import INCOMPLETE

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI
    from include.local.stack import Stack
    from tests.e2e.tables.shop import Shop

DAG_ID, TASK_ID = "e2e_table", "make_songs"
#: Seconds for one step of a run; a step takes two to twenty.
PATIENCE = 120.0


@dataclass
class World:
    """
    What the tests act on.

    :param processes: Folder in which task processes report themselves.
    """

    stack: Stack
    api: AirflowAPI
    shop: Shop
    processes: Path

    def until(self, what: str, reached: Callable[[], Any], *, pause: float = 0.02) -> Any:
        """Wait until a condition is true and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (value := reached()):
            self.stack.check_alive()
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
            time.sleep(pause)
        return value


class Run:
    """
    A run of the DAG.

    :param conf: Its conf: ``prompt_table, destination, settle``.
    """

    def __init__(self, world: World, **conf: Any) -> None:
        self._world = world
        self.id = world.api.trigger(DAG_ID, conf)

    def until_over(self) -> str:
        """Wait until the run has ended and return its state."""
        state = self._world.api.run_state
        return str(
            self._world.until(
                "the run's end",
                lambda: (found := state(DAG_ID, self.id)) in ("success", "failed") and found,
                pause=0.2,
            )
        )

    def instance(self) -> Mapping[str, Any]:
        """Return the task instance."""
        (found,) = self._world.api.task_instances(DAG_ID, self.id)
        return found

    @property
    def is_deferred(self) -> bool:
        """Whether the task waits in the triggerer, or for one."""
        return bool(self.instance()["state"] == "deferred")

    def summary(self) -> dict[str, Any]:
        """Return what the task says in the end; a failed one says it beside its result."""
        api = self._world.api
        key = "return_value" if "return_value" in api.xcom_keys(DAG_ID, self.id, TASK_ID) else "summary"
        found: dict[str, Any] = api.xcom(DAG_ID, self.id, TASK_ID, key=key)
        return found

    def log(self) -> str:
        """Return everything that the last try logged."""
        return self._world.api.log_text(DAG_ID, self.id, self.instance())

    # -- its processes -------------------------------------------------------------------------------------

    def starts(self) -> int:
        """Return how many processes have begun or resumed the task."""
        return len(self._pids())

    def process(self, number: int) -> psutil.Process:
        """Wait for the process that begins or resumes the task for this time, counted from 1."""
        pids = self._world.until(
            f"process {number} of the task", lambda: len(pids := self._pids()) >= number and pids
        )
        return psutil.Process(int(pids[number - 1]))

    def _pids(self) -> list[str]:
        file = self._world.processes / self.id
        return file.read_text().split() if file.exists() else []


def kill(process: psutil.Process) -> None:
    """End a process as a crash or the kernel would, and return when it is dead."""
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)


class Destination:
    """A local destination, as far as a run has come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def uri(self) -> str:
        """As a DAG names it."""
        return f"file://{self.folder}"

    def tracks(self) -> int:
        """Return how many tracks are complete."""
        return sum(1 for name in _names(self.folder) if name.endswith(".json"))

    def parts(self) -> int:
        """Return how many files are incomplete."""
        return len(_names(self.folder / INCOMPLETE))

    def contents(self) -> dict[str, bytes]:
        """Return all files by their paths in it."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
