"""
A run of one of the DAGs in ``dags``, and what a user or an accident can do to it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI
    from include.local.stack import Stack
    from include.musicapi_simulator import SimulatorServer
    from include.musicapi_simulator.jobs import Job

#: Seconds for one step of a run; a step takes two to eight.
PATIENCE = 90.0
#: States in which a task instance stays until somebody clears it.
FINAL = {"success", "failed", "skipped", "upstream_failed"}


@dataclass
class World:
    """
    What the tests act on: a real Airflow, and the API it buys from.

    :param processes: Folder in which task processes report themselves.
    :param patience: Seconds for one step of a run.
    """

    stack: Stack
    api: AirflowAPI
    simulator: SimulatorServer
    processes: Path
    patience: float = PATIENCE

    def until(self, what: str, reached: Callable[[], Any]) -> Any:
        """Wait until a condition is true and return its value."""
        deadline = time.monotonic() + self.patience
        while not (value := reached()):
            self.stack.check_alive()
            assert time.monotonic() < deadline, f"not within {self.patience:g} s: {what}"
            time.sleep(0.1)
        return value


class Song:
    """
    A run whose task ``create`` buys; the methods speak of that task, see :meth:`at`.

    :param world: Where it runs.
    :param dag_id: One of ``dags``.
    :param conf: The run's conf: ``prompt``, or ``prompts`` of a mapped create; or ``books``, prompts by name
        that are booked at the simulator beforehand: the run's param ``ids`` then holds an id for each, or a
        list of ids for a list of prompts. What begins with ``id:`` is an id and is not booked.
    """

    task_id = "create"

    def __init__(self, world: World, dag_id: str, conf: Mapping[str, Any]) -> None:
        self._world = world
        self.dag_id = dag_id
        books = conf.get("books", {})
        self.ids = {name: self._book(wanted) for name, wanted in books.items()}
        self.prompts: list[str] = [] if books else conf.get("prompts") or [conf["prompt"]]
        self.run_id = world.api.trigger(dag_id, {"ids": self.ids} if books else conf)

    def _book(self, wanted: str | list[str]) -> Any:
        if isinstance(wanted, list):
            return [self._book(prompt) for prompt in wanted]
        if wanted.startswith("id:"):
            return wanted.removeprefix("id:")
        job = self._world.simulator.state.book({"task_type": "create_music", "prompt": wanted})
        assert job is not None
        return job.task_id

    def at(self, task_id: str) -> Song:
        """Return the same run for which the methods speak of another task."""
        other = copy(self)
        other.task_id = task_id
        return other

    # -- what is there -------------------------------------------------------------------------------------

    @property
    def bookings(self) -> list[int]:
        """How often each prompt was bought."""
        return [self._world.simulator.state.creates_booked[prompt] for prompt in self.prompts]

    def job(self, prompt: str | None = None) -> Job:
        """Return the only music task that was bought with this prompt, at the simulator."""
        (job,) = self.jobs(prompt)
        return job

    def jobs(self, prompt: str | None = None) -> list[Job]:
        """Return all music tasks that were bought with this prompt, at the simulator."""
        booked = self._world.simulator.state.jobs.copy().values()
        return [job for job in booked if job.text == (prompt or self.prompts[0])]

    def instance(self, map_index: int = -1) -> dict[str, Any] | None:
        """Return the task instance, ``None`` while it is not expanded."""
        instances = self._world.api.task_instances(self.dag_id, self.run_id)
        found = [ti for ti in instances if (ti["task_id"], ti["map_index"]) == (self.task_id, map_index)]
        return found[0] if found else None

    def xcom(self, map_index: int = -1, *, key: str = "return_value") -> Any:
        """Return an XCom of the last try."""
        return self._world.api.xcom(self.dag_id, self.run_id, self.task_id, map_index=map_index, key=key)

    def find_xcom(self, key: str) -> Any:
        """Return an XCom, or ``None``."""
        there = self._world.api.xcom_keys(self.dag_id, self.run_id, self.task_id)
        return self.xcom(key=key) if key in there else None

    def link(self, name: str) -> str | None:
        """Return an extra link."""
        return self._world.api.links(self.dag_id, self.run_id, self.task_id)[name]

    def exception(self) -> tuple[str, str]:
        """Return type and text of what ended the last try."""
        instance = self.instance()
        assert instance is not None
        entries = self._world.api.log_entries(self.dag_id, self.run_id, instance)
        (found,) = [e["error_detail"][0] for e in entries if isinstance(e, dict) and e.get("error_detail")]
        return found["exc_type"], found["exc_value"]

    def clip_ids(self, map_index: int = -1) -> list[str]:
        """Return the clips among the tracks that the last try returned."""
        return [track["clip_id"] for track in self.xcom(map_index)]

    def workers(self, map_index: int = -1) -> list[str]:
        """Return the ids of the processes that have begun or resumed it."""
        file = self._world.processes / f"{self.run_id}_{self.task_id}_{map_index}"
        return file.read_text().split() if file.exists() else []

    def log(self, map_index: int = -1) -> str:
        """Return everything that the last try logged."""
        instance = self.instance(map_index)
        assert instance is not None
        return self._world.api.log_text(self.dag_id, self.run_id, instance)

    # -- waiting -------------------------------------------------------------------------------------------

    def until(self, state: str, map_index: int = -1) -> dict[str, Any]:
        """Wait until the task instance is in this state and return it; another final state is an error."""

        def reached() -> dict[str, Any] | None:
            instance = self.instance(map_index)
            if instance is None or instance["state"] == state:
                return instance
            assert instance["state"] not in FINAL, f"{instance['state']}:\n{self.log(map_index)}"
            return None

        found: dict[str, Any] = self._world.until(f"{self.dag_id} {map_index} {state}", reached)
        return found

    def until_looked_at(self, looks: int, prompt: str | None = None) -> Job:
        """Wait until the music task is bought and was asked for this often."""
        self._world.until(f"{looks} looks", lambda: any(job.reads >= looks for job in self.jobs(prompt)))
        return self.job(prompt)

    def until_started(self, times: int, map_index: int = -1) -> int:
        """Wait until this many processes have begun or resumed it; return the last one's id."""

        def started() -> list[str]:
            pids = self.workers(map_index)
            return pids if len(pids) >= times else []

        pids = self._world.until(f"{times} processes of {self.dag_id} {map_index}", started)
        assert len(pids) == times
        return int(pids[-1])

    def until_over(self) -> None:
        """
        Wait until the run has ended.

        A clear between the end of the last task and the end of its run is lost: the scheduler then ends the
        run with a task that nobody starts.
        """
        state = self._world.api.run_state
        self._world.until("the run's end", lambda: state(self.dag_id, self.run_id) in FINAL)

    # -- what a user does ----------------------------------------------------------------------------------

    def clear(self, map_index: int = -1) -> None:
        """Clear the task instance."""
        self._world.api.clear(self.dag_id, self.run_id, self.task_id, map_index)

    def edit_prompt(self, prompt: str) -> None:
        """Change the prompt that the next try renders."""
        self._world.api.set_variable(f"prompt_{self.run_id}", prompt)
        self.prompts.append(prompt)

    def settle(self, music_task_id: str, map_index: int) -> None:
        """Say which music task a lost answer was about, for the next try."""
        self._world.api.set_variable(f"adopt_{self.run_id}_{map_index}", music_task_id)

    # -- accidents -----------------------------------------------------------------------------------------

    def kill_process(self, map_index: int = -1, *, start: int = 1) -> None:
        """
        Kill the process that runs the task instance, as a crash or the kernel would.

        :param start: Which of its processes: each try and each resumption has its own.
        """
        os.kill(self.until_started(start, map_index), signal.SIGKILL)
