"""
Kill the triggerer while 100 tracks wait, start it again, and see what finishes and what is asked.

Real Airflow processes on SQLite; SIGKILL to the triggerer and its child. Looks every 5 s. Two kinds, one
after the other: 100 sensors that start and end in the triggerer (``worker_free``), and one mapped deferrable
sensor over 100 ids.

``python -m benchmarks.triggerer_kill`` prints a table and writes ``results/triggerer_kill.json`` here.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.world import World, world
from include.local.stack import end_by_signal

TRACKS = 100
#: Seconds between looks; seconds of looking before the kill, of being dead, and of looking after the restart.
INTERVAL, BEFORE, DEAD, AFTER = 5.0, 15.0, 5.0, 15.0
KINDS = {
    "worker-free": [f"bench_ours_{number}" for number in range(TRACKS // 20)],
    "deferrable, mapped": ["bench_deferrable"],
}


def measure(here: World, dag_ids: list[str]) -> dict[str, Any]:
    """Run DAGs, kill the triggerer while all tracks wait; return what happened."""
    for id_ in here.ids:
        here.simulator.state.jobs[id_].finished = False
    starts = here.worker_starts()
    before_run = here.reads()
    runs = {dag_id: here.api.trigger(dag_id, {}) for dag_id in dag_ids}
    to_deferred = here.until("all deferred", lambda: here.all_states(runs) == {"deferred": len(here.ids)})
    seen = here.reads()
    here.until(
        "all looked at in the triggerer",
        lambda: all(now > old for now, old in zip(here.reads(), seen, strict=True)),
    )
    rate_before = _rates(here, BEFORE)
    at_kill = here.reads()
    here.stack.kill("triggerer")
    time.sleep(DEAD)
    dead = _most(here.reads(), at_kill)
    here.stack.start_part("triggerer")
    at_start = here.reads()
    takeover = DEAD + here.until(
        "all looked at again",
        lambda: all(now > old for now, old in zip(here.reads(), at_start, strict=True)),
    )
    rate_after = _rates(here, AFTER)
    here.finish()
    to_end = here.until("the run's end", lambda: here.all_over(runs))
    states = here.all_states(runs)
    tries = {ti["try_number"] for run in runs.items() for ti in here.api.task_instances(*run)}
    return {
        "states": dict(states),
        "tries": sorted(tries),
        "s_to_deferred": to_deferred,
        "s_from_kill_to_all_looked_at": takeover,
        "s_from_done_to_run_ended": to_end,
        "looks_per_track_and_s_before": rate_before,
        "looks_per_track_and_s_after": rate_after,
        "most_looks_while_dead": dead,
        "most_looks_in_all": _most(here.reads(), before_run),
        "worker_starts": dict(here.worker_starts() - starts),
    }


def _rates(here: World, seconds: float) -> dict[str, float]:
    """Watch for some seconds; return looks per track and second, on average and of the busiest track."""
    reads, began = here.reads(), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    looks = [now - old for now, old in zip(here.reads(), reads, strict=True)]
    return {"mean": sum(looks) / len(looks) / passed, "most": max(looks) / passed}


def _most(now: list[int], before: list[int]) -> int:
    return max(new - old for new, old in zip(now, before, strict=True))


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """Return what happened as a table."""
    table = Table(title=f"Triggerer killed while {TRACKS} tracks wait, a look each {INTERVAL:g} s")
    table.add_column("")
    for kind in results:
        table.add_column(kind, justify="right")
    names = next(iter(results.values()))
    for name in names:
        table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in results.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print, write."""
    end_by_signal()
    with world(
        TRACKS, [dag_id for dag_ids in KINDS.values() for dag_id in dag_ids], polls_per_second=100
    ) as here:
        results = {kind: measure(here, dag_ids) for kind, dag_ids in KINDS.items()}
    Console(width=120).print(table_of(results))
    write("triggerer_kill", {"tracks": TRACKS, "interval": INTERVAL, "results": results})


if __name__ == "__main__":
    main()
