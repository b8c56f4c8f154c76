"""
Do a prompt table of 200 rows in three ways, and see how long each takes beyond the jobs' own time.

``bench_http``: mapped ``HttpOperator``, ``HttpSensor`` and a download. ``musicapi_prompt_table``: this
project's example DAG, mapped operators. ``bench_operator``: ``MusicAPIPromptTableOperator``, one task.
Each way gets a fresh Airflow of real processes on SQLite with LocalExecutor, the same settings for all, and a
reset simulator in its own process, whose jobs take the same times: log-normal, seeded.

The makespan is from the click to the end of the run. The jobs' own time is the length of the longest of the
200 jobs: what a run would take that buys all at once and loses no time; the rest is overhead. Task starts are
worker processes, counted by a listener.

``python -m benchmarks.table_ways`` prints a table and writes ``results/table_ways.json`` here.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.runner import connections
from benchmarks.simulator import PROJECT, OwnSimulator, own_simulator
from benchmarks.table_rows import write_table
from benchmarks.world import HERE, Airflow, airflow
from include.local.stack import IN_A_HURRY, end_by_signal
from include.musicapi_simulator.jobs import JobRule, length_of
from include.musicapi_simulator.settings import COSTS, Settings

ROWS = 200
#: How long jobs take, and the seed of the simulator.
JOBS, SEED = "seconds:30", Settings().seed
HTTP, MAPPED, OPERATOR = "bench_http", "musicapi_prompt_table", "bench_operator"
TITLES = {HTTP: "http provider, mapped", MAPPED: "ours, mapped", OPERATOR: "ours, one task"}
#: Our connection's looks a second at most. The default of 10 suits the 30 music tasks that are in flight by
#: default; here 200 are, and whoever raises that raises this. The http provider's looks know no limit.
EXTRA = {"polls_per_second": 50}
#: Seconds that one way may take.
PATIENCE = 900.0
#: What share of the http provider's overhead the issue allows.
GOALS = {MAPPED: 1.0, OPERATOR: 0.1}


def write_dags(folder: Path) -> None:
    """Put the DAGs of all ways into a folder; the example as it is, but for its schedule."""
    shutil.copytree(HERE / "dags_tables", folder, ignore=shutil.ignore_patterns("__pycache__"))
    example = (PROJECT / "dags" / f"{MAPPED}.py").read_text()
    assert example.count('schedule="@daily"') == 1
    (folder / f"{MAPPED}.py").write_text(example.replace('schedule="@daily"', "schedule=None"))


def measure(way: str, rows: int, simulator: OwnSimulator) -> dict[str, Any]:
    """Run a way in a fresh Airflow; return what it took."""
    simulator.reset()
    with TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        write_table(folder / "table.csv", rows)
        write_dags(folder / "dags")
        settings = {
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins_tables"),
            **connections(simulator.base_url, **EXTRA),
        }
        with airflow(folder, folder / "dags", [way], settings) as here:
            figures = _run(here, way, folder)
        figures["tracks_on_disk"] = len(list((folder / "music").glob("*.mp3")))
    state = simulator.state()
    figures["requests"] = dict(sorted(state["requests"].items()))
    figures["songs_booked"] = sum(state["creates_booked"].values())
    figures["credits_spent"] = credits_for(rows) - state["credits"]
    return figures


def _run(here: Airflow, way: str, folder: Path) -> dict[str, Any]:
    conf = {"prompt_table": f"file://{folder}/table.csv", "destination": f"file://{folder}/music"}
    clicked = time.time()
    run = (way, here.api.trigger(way, {**conf, **({"max_credits": None} if way == MAPPED else {})}))
    makespan = here.until(
        "the run's end", lambda: here.api.run_state(*run) in ("success", "failed"), patience=PATIENCE
    )
    instances = here.api.task_instances(*run)
    return {
        "run": here.api.run_state(*run),
        "makespan_s": makespan,
        "worker_starts": dict(here.worker_starts()),
        "states": dict(Counter(str(ti["state"]) for ti in instances)),
        "retries": sum(max(0, ti["try_number"] - 1) for ti in instances),
        "starts_at_s": _starts_at(here, clicked),
        "mean_task_s": _mean_seconds(instances),
    }


def _mean_seconds(instances: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how long a task instance took on average, by task."""
    seconds: dict[str, list[float]] = {}
    for one in instances:
        seconds.setdefault(one["task_id"], []).append(one["duration"] or 0.0)
    return {task: sum(found) / len(found) for task, found in seconds.items()}


def _starts_at(here: Airflow, clicked: float) -> dict[str, list[float]]:
    """Return when each task got its first and its last worker process, in seconds from the click."""
    found: dict[str, list[float]] = {}
    for line in here.starts.read_text().splitlines():
        task, at = line.split()
        found.setdefault(task, []).append(round(float(at) - clicked, 1))
    return {
        task: sorted(times) if len(times) < 10 else [min(times), max(times)] for task, times in found.items()
    }


def credits_for(rows: int) -> int:
    """Return what the account holds at first: enough for creates that are sent twice."""
    return 3 * rows * COSTS["create_music"]


def own_time(rows: int) -> float:
    """Return the length of the longest job, in seconds."""
    return max(length_of(JobRule.parse(JOBS), SEED, number) for number in range(rows))


def table_of(results: dict[str, dict[str, Any]], rows: int) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"{rows} rows, jobs of {JOBS}, the longest {own_time(rows):.0f} s")
    table.add_column("")
    for way in results:
        table.add_column(TITLES[way], justify="right")
    for name in next(iter(results.values())):
        table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in results.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_cell(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", choices=list(TITLES), help="one way; writes nothing")
    given = parser.parse_args()
    end_by_signal()
    rows, ways = given.rows, [given.only] if given.only else list(TITLES)
    arguments = ["--jobs", JOBS, "--seed", str(SEED), "--one-song", "--credits", str(credits_for(rows))]
    with own_simulator(*arguments) as simulator:
        results = {way: measure(way, rows, simulator) for way in ways}
    for figures in results.values():
        figures["overhead_s"] = figures["makespan_s"] - own_time(rows)
        figures["task_starts"] = sum(figures["worker_starts"].values())
        if not given.only:
            figures["overhead_over_http"] = figures["overhead_s"] / results[HTTP]["overhead_s"]
    Console(width=130).print(table_of(results, rows))
    if given.only or rows != ROWS:
        return
    for way, goal in GOALS.items():
        share = results[way]["overhead_over_http"]
        met = "met" if share <= goal else "MISSED"
        print(f"{TITLES[way]}: {share:.2f} of the http provider's overhead; the goal of {goal:g} is {met}.")
    write(
        "table_ways",
        {
            **{"rows": rows, "jobs": JOBS, "seed": SEED, "own_time_s": own_time(rows)},
            **{"goals": {TITLES[way]: goal for way, goal in GOALS.items()}},
            **{"settings": dict(IN_A_HURRY), "connection": EXTRA},
            "results": {TITLES[way]: row for way, row in results.items()},
        },
    )


if __name__ == "__main__":
    main()
