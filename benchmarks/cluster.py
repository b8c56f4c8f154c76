"""
Do prompt tables on the services of docker-compose.yaml, with one and two workers, one and two triggerers.

All services are processes of this machine (``include/cluster``): Celery on Redis, Postgres, S3. Two ways: the
table operator (one task) and the example DAG of mapped tasks. On a machine of two cores a second worker is no
second machine: what is seen is what it costs or spares there.

The makespan is from the click to the end of the run; the music tasks' own time is the length of the longest
of them; the rest is overhead.

``python -m benchmarks.cluster`` prints a table and writes ``results/cluster.json`` here. It needs what
``make test-cluster`` needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from include.cluster.__main__ import COMPOSE
from include.cluster.cluster import Cluster
from include.cluster.values import made_env
from include.local.stack import PROJECT, end_by_signal
from include.musicapi_simulator.jobs import JobRule, length_of
from include.musicapi_simulator.settings import Settings

#: Rows of the operator, and of the mapped DAG, whose every row is two task instances and more.
ROWS, MAPPED_ROWS = 200, 20
OPERATOR, MAPPED = "bench_cluster", "musicapi_prompt_table"
JOBS = "seconds:10"
#: Workers and triggerers.
SIZES = ((1, 1), (2, 1), (1, 2), (2, 2))
#: Seconds after which what was killed is known to be gone.
FORGOTTEN = 40.0
#: Seconds that one run may take.
PATIENCE = 900.0


def measure(rows: int, mapped_rows: int) -> list[dict[str, Any]]:
    """Run each way with each number of services; return the figures."""
    from tests.cluster.place import World

    state = Path(tempfile.mkdtemp(prefix="musicapi-cluster-", dir="/tmp"))
    state.chmod(0o755)
    values = {
        **made_env(state / "secrets.env"),
        **{"PATH": os.environ["PATH"], "COMPOSE_PROFILES": "simulator", "SIMULATOR_KEY": "benchmark-key"},
        **{"AIRFLOW_API_WORKERS": "1", "AIRFLOW_WORKER_CONCURRENCY": "4"},
    }
    try:
        with Cluster([COMPOSE, PROJECT / "benchmarks" / "cluster_compose.yaml"], state, values) as cluster:
            cluster.start(patience=600)
            world = World(cluster, values)
            for dag_id in (OPERATOR, MAPPED):
                world.until(f"{dag_id} is parsed", lambda dag_id=dag_id: world.api.has_dag(dag_id))  # type: ignore[misc]
            for dag_id in (OPERATOR, MAPPED):
                _run(world, dag_id, 2)  # not measured: what only a first run pays
            return [
                {"workers": workers, "triggerers": triggerers, **figures}
                for workers, triggerers in SIZES
                for figures in _with(world, workers, triggerers, rows, mapped_rows)
            ]
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _with(world: Any, workers: int, triggerers: int, rows: int, mapped_rows: int) -> list[dict[str, Any]]:
    """Have this many services, and run both ways."""
    changed = False
    for name, wanted in (("worker-2", workers == 2), ("triggerer-2", triggerers == 2)):
        running = world.cluster.processes[name].has_started
        if running and not wanted:
            world.cluster.processes[name].kill()
            changed = True
        elif wanted and not running:
            world.cluster.start(name)
    if changed:
        time.sleep(FORGOTTEN)
    return [_run(world, OPERATOR, rows), _run(world, MAPPED, mapped_rows)]


def _run(world: Any, dag_id: str, rows: int) -> dict[str, Any]:
    from tests.cluster.place import Run

    before = len(world.shop.sales())
    name = f"{dag_id}-{before}"
    prompts = [f"a song about the number {before + row}" for row in range(rows)]
    conf = {"prompt_table": world.put_table(f"{name}.csv", prompts), "destination": world.folder(name).uri}
    clicked = time.monotonic()
    run = Run(world, dag_id, **conf, **({"max_credits": None} if dag_id == MAPPED else {}))
    state = run.until_over(patience=PATIENCE)
    makespan = time.monotonic() - clicked
    rule, seed = JobRule.parse(JOBS), Settings().seed
    longest = max(length_of(rule, seed, number) for number in range(before, before + rows))
    tracks = world.folder(name).tracks()
    print(f"{dag_id}: {tracks} tracks in {makespan:.0f} s", flush=True)
    return {
        "way": dag_id,
        "rows": rows,
        "run": state,
        "songs_bought": len(world.shop.sales()) - before,
        "tracks": tracks,
        "tracks_per_minute": 60 * tracks / makespan,
        "makespan_s": makespan,
        "own_time_s": longest,
        "overhead_s": makespan - longest,
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"Prompt tables on docker-compose.yaml, songs of {JOBS}")
    for name in results[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in results:
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--mapped-rows", type=int, default=MAPPED_ROWS)
    given = parser.parse_args()
    end_by_signal()
    results = measure(given.rows, given.mapped_rows)
    Console(width=140).print(table_of(results))
    if (given.rows, given.mapped_rows) == (ROWS, MAPPED_ROWS):
        write("cluster", {"jobs": JOBS, "seed": Settings().seed, "results": results})


if __name__ == "__main__":
    main()
