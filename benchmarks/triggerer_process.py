"""
Measure a real triggerer process while 500 tracks wait: ours, then the http provider's trigger.

Real Airflow processes on SQLite, 25 DAGs of 20 tasks. Each track is a task of its own with a trigger of its
own, looked at every 5 s. Ours get the usual running answer, theirs a 404, since anything else ends its wait.
CPU is that of the triggerer's child, which runs the triggers, and of its supervisor, which writes their logs.
Theirs are started in the triggerer by an operator of the benchmark; how they got there does not matter to the
triggerer. Then 10 tracks wait in ordinary deferrable sensors, and worker processes are counted for each kind.

``python -m benchmarks.triggerer_process`` prints a table and writes ``results/triggerer_process.json`` here.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.world import World, world
from include.local.stack import end_by_signal

if TYPE_CHECKING:
    import psutil

TRACKS = 500
#: Seconds of a measurement, and measurements of each kind.
WINDOW, WINDOWS = 12.0, 3
KINDS = {"ours": "bench_ours", "HttpSensorTrigger": "bench_theirs"}
DAG_IDS = [f"{{}}_{number}" for number in range(TRACKS // 20)]
READ = "GET /sonic/task/{task_id}"
#: Sensors whose worker processes are counted, per kind.
COUNTED = 10


def measure(here: World, dag_id: str) -> dict[str, Any]:
    """Let all tracks wait in a run; return what that costs the triggerer."""
    state = here.simulator.state
    supervisor, runner = here.triggerer()
    memory, blocked, opened = runner.memory_info().rss, _blocked(here), state.connections_opened
    looked_at = here.reads() if dag_id == "bench_ours" else None
    runs = {name: here.api.trigger(name, {}) for name in (each.format(dag_id) for each in DAG_IDS)}
    here.until("all deferred", lambda: here.all_states(runs) == {"deferred": len(here.ids)})
    if looked_at is not None:
        before = looked_at
        here.until("all looked at", lambda: all(n > o for n, o in zip(here.reads(), before, strict=True)))
    time.sleep(10)
    windows = [_window(here, supervisor, runner) for _ in range(WINDOWS)]
    figures: dict[str, Any] = {
        "cpu_s_per_1000_polls": [each["runner"] for each in windows],
        "with_supervisor": [each["both"] for each in windows],
        "polls_per_second": [each["polls_per_second"] for each in windows],
        "connections_opened": state.connections_opened - opened,
        "blocked_warnings": _blocked(here) - blocked,
        "rss_kib_per_track": (runner.memory_info().rss - memory) / 1024 / len(here.ids),
        "running_task_instances": here.all_states(runs)["running"],
    }
    state.clear_scenarios()
    here.finish()
    figures["s_from_done_to_runs_ended"] = here.until("the runs' ends", lambda: here.all_over(runs))
    figures["states"] = dict(here.all_states(runs))
    return figures


def _window(here: World, supervisor: psutil.Process, runner: psutil.Process) -> dict[str, float]:
    requests = here.simulator.state.requests
    polls, began = requests[READ], time.monotonic()
    cpu = [_cpu(process) for process in (runner, supervisor)]
    time.sleep(WINDOW)
    spent = [_cpu(process) - old for process, old in zip((runner, supervisor), cpu, strict=True)]
    polls, seconds = requests[READ] - polls, time.monotonic() - began
    return {
        "runner": 1000 * spent[0] / polls,
        "both": 1000 * sum(spent) / polls,
        "polls_per_second": polls / seconds,
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _blocked(here: World) -> int:
    return here.triggerer_log().count("was blocked for")


def count_starts() -> dict[str, Any]:
    """Return how many worker processes a sensor of each kind gets, and how its tasks ended."""
    with world(COUNTED, ["bench_ours_0", "bench_deferrable"]) as here:
        runs = {dag_id: here.api.trigger(dag_id, {}) for dag_id in ("bench_ours_0", "bench_deferrable")}
        here.until(
            "all deferred",
            lambda: all(here.states(*run) == {"deferred": COUNTED} for run in runs.items()),
        )
        time.sleep(10)
        here.finish()
        here.until(
            "the runs' ends", lambda: all(here.api.run_state(*run) == "success" for run in runs.items())
        )
        starts: Counter[str] = here.worker_starts()
    return {
        "worker_starts_per_sensor": {
            "worker-free": starts["free"] / COUNTED,
            "deferrable": starts["deferrable"] / COUNTED,
        }
    }


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"A triggerer process with {TRACKS} waiting tracks, a look each 5 s")
    table.add_column("")
    for way in results:
        table.add_column(way, justify="right")
    for name in next(iter(results.values())):
        table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in results.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{sorted(value)[len(value) // 2]:.2f} ({min(value):.2f}-{max(value):.2f})"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print, write."""
    end_by_signal()
    results = {}
    for way, dag_id in KINDS.items():
        with world(TRACKS, [each.format(dag_id) for each in DAG_IDS], polls_per_second=1000) as here:
            if way != "ours":
                here.simulator.state.scenario("unknown-404", times=None)
            results[way] = measure(here, dag_id)
    starts = count_starts()
    Console(width=120).print(table_of(results))
    print("worker processes per sensor:", starts["worker_starts_per_sensor"])
    write("triggerer_process", {"tracks": TRACKS, "results": results, **starts})


if __name__ == "__main__":
    main()
