"""A real Airflow, every part a process, and a simulator: for the benchmarks that need them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.runner import KEY, connections
from include.local.stack import IN_A_HURRY, Stack
from include.musicapi_simulator import Settings, SimulatorServer

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI

HERE = Path(__file__).parent


@dataclass
class Airflow:
    """
    A running Airflow.

    :param starts: File to which each worker process of a task adds a line that begins with the task's name.
    """

    stack: Stack
    api: AirflowAPI
    starts: Path

    def until(self, what: str, reached: Callable[[], Any], *, patience: float = 300.0) -> float:
        """Wait until a condition is true; return the seconds that took."""
        began = time.monotonic()
        while not reached():
            self.stack.check_alive()
            assert time.monotonic() - began < patience, f"not within {patience:g} s: {what}"
            time.sleep(0.25)
        return time.monotonic() - began

    def states(self, dag_id: str, run_id: str) -> Counter[str]:
        """Return how many task instances of a run are in each state."""
        return Counter(str(ti["state"]) for ti in self.api.task_instances(dag_id, run_id))

    def all_states(self, runs: Mapping[str, str]) -> Counter[str]:
        """Return how many task instances of several runs are in each state."""
        return sum((self.states(*run) for run in runs.items()), Counter())

    def all_over(self, runs: Mapping[str, str]) -> bool:
        """Tell whether several runs have ended."""
        return all(self.api.run_state(*run) in ("success", "failed") for run in runs.items())

    def worker_starts(self) -> Counter[str]:
        """Return how many worker processes each task got."""
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        return Counter(line.split()[0] for line in lines)

    def triggerer(self) -> tuple[psutil.Process, psutil.Process]:
        """Return the triggerer's supervisor, and its child that runs the triggers."""
        supervisor = psutil.Process(self.stack._processes["triggerer"].pid)
        (runner,) = supervisor.children()
        return supervisor, runner

    def triggerer_log(self) -> str:
        """Return what the triggerer has printed."""
        return (self.stack.home / "processes" / "triggerer.log").read_text(errors="replace")


@dataclass
class World(Airflow):
    """
    An Airflow, and music tasks that run already.

    :param ids: Music tasks that run until the benchmark ends them.
    """

    simulator: SimulatorServer
    ids: list[str]

    def reads(self) -> list[int]:
        """Return how often each music task was looked at."""
        return [self.simulator.state.jobs[id_].reads for id_ in self.ids]

    def finish(self) -> None:
        """End all music tasks."""
        for id_ in self.ids:
            self.simulator.state.finish(id_)


@contextmanager
def airflow(
    folder: Path, dags: Path, dag_ids: Iterable[str], settings: Mapping[str, str]
) -> Iterator[Airflow]:
    """
    Start an Airflow; give it when the DAGs are parsed.

    :param folder: For its files; theirs are gone when the benchmark removes it.
    :param dags: Folder of the DAGs.
    """
    starts = folder / "starts"
    environment = {
        **IN_A_HURRY,
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "BENCHMARK_STARTS": str(starts),
        **settings,
    }
    with Stack(home=folder / "airflow", settings=environment) as stack:
        yield Airflow(stack, stack.start_with(dag_ids), starts)
        stack.kill("triggerer")  # it would take ten seconds to say goodbye


@contextmanager
def world(tracks: int, dag_ids: list[str], **extra: Any) -> Iterator[World]:
    """Start everything, with music tasks that are running already; give it when the DAGs are parsed."""
    settings = Settings(api_key=KEY, credits=10**6, song_seconds=1, job_rule="seconds:1000000")
    with TemporaryDirectory(prefix="benchmark-") as name, SimulatorServer(settings) as simulator:
        folder = Path(name)
        body = {"task_type": "create_music", "prompt": "a song that takes its time"}
        jobs = [simulator.state.book(dict(body)) for _ in range(tracks)]
        ids = [job.task_id for job in jobs if job]
        (folder / "ids.json").write_text(json.dumps(ids))
        environment = {
            **connections(simulator.base_url, **extra),
            "BENCHMARK_IDS": str(folder / "ids.json"),
        }
        with airflow(folder, HERE / "dags", dag_ids, environment) as running:
            yield World(running.stack, running.api, running.starts, simulator, ids)
