"""
Answer one look of 500 waiting tracks with 429 and ``Retry-After: 30``, and count what is asked before that.

Our triggers, then the http provider's, in Airflow's own ``TriggerRunner`` (``benchmarks/runner.py``), a look
each 5 s; the simulator in the same process counts by the second. Ours at 100 looks a second at most, so that
it keeps the interval, and at the default of 10.

``python -m benchmarks.throttle`` prints a table and writes ``results/throttle.json`` here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.poller_load import PROJECT, READ, WAYS, arguments_of
from benchmarks.runner import KEY, running, set_connections
from include.musicapi_simulator import Settings, SimulatorServer
from include.musicapi_simulator.scenario import Armed, Stage
from include.musicapi_simulator.scenarios import find

TRACKS = 500
#: Seconds: what the simulator asks for; before it; after the pause.
RETRY_AFTER, BEFORE, AFTER = 30.0, 12.0, 15.0
#: Way and looks a second at most, which only ours knows.
CASES = {
    "ours": ("ours", 100.0),
    "ours, default pace": ("ours", 10.0),
    "HttpSensorTrigger": ("HttpSensorTrigger", 0),
}

#: Goes before the 404 that keeps theirs waiting.
REFUSED = replace(find("read-429"), stage=Stage.POLL)


class Refusal(Armed):
    """A 429 for one look, which remembers when."""

    at: float | None = None

    def fires(self, stage: Stage, text: str) -> bool:
        """Say whether this look is refused."""
        if fired := super().fires(stage, text):
            self.at = time.monotonic()
        return fired


async def measure(case: str, simulator: SimulatorServer, ids: list[str]) -> dict[str, Any]:
    """Return the looks before, during and after the pause."""
    way, pace = CASES[case]
    set_connections(simulator.base_url, **({"polls_per_second": pace} if pace else {}))
    state, refusal = simulator.state, Refusal(REFUSED, 1)
    if way == "HttpSensorTrigger":
        state.scenario("unknown-404", times=None)
    times: list[tuple[float, int]] = []
    async with running() as runner:
        await runner.give(WAYS[way], arguments_of(way, ids), seconds=5)
        await asyncio.sleep(BEFORE - 5)
        state.armed.insert(0, refusal)
        end = time.monotonic() + 5 + RETRY_AFTER * 1.1 + AFTER
        while time.monotonic() < end:
            times.append((time.monotonic(), state.requests[READ]))
            await asyncio.sleep(0.02)
        ended = len(ids) - runner.waiting
    assert refusal.at is not None
    return {"waits_ended": ended, **_figures(times, refusal.at)}


def _figures(times: list[tuple[float, int]], at: float) -> dict[str, Any]:
    looks = [(now - at, count - old) for (_, old), (now, count) in pairwise(times)]
    during = [(age, count) for age, count in looks if 0.1 < age <= RETRY_AFTER and count]
    after = [(age, count) for age, count in looks if age > RETRY_AFTER and count]
    first = after[0][0]
    by_second = [sum(n for age, n in after if second <= age - first < second + 1) for second in range(10)]
    return {
        "looks_in_the_first_100_ms": sum(count for age, count in looks if 0 < age <= 0.1),
        "looks_before_the_pause_ends": sum(count for _, count in during),
        "first_poll_after_s": first,
        "looks_by_second_after": by_second,
    }


def run(case: str) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.throttle", "--measure", case]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert result.returncode == 0, result.stderr[-2000:]
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """Return what happened as a table."""
    table = Table(title=f"{TRACKS} tracks wait, one look is answered with 429, Retry-After: {RETRY_AFTER:g}")
    table.add_column("")
    for case in results:
        table.add_column(case, justify="right")
    for name in next(iter(results.values())):
        cells = [row[name] for row in results.values()]
        table.add_row(
            name.replace("_", " "),
            *(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells),
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        settings = Settings(api_key=KEY, credits=10**6, job_rule="seconds:1000000", retry_after=RETRY_AFTER)
        with SimulatorServer(settings) as simulator:
            jobs = [simulator.state.book({"task_type": "create_music"}) for _ in range(TRACKS)]
            ids = [job.task_id for job in jobs if job]
            figures = asyncio.run(measure(given.measure, simulator, ids))
        print("\n" + json.dumps(figures))
        return
    results = {case: run(case) for case in CASES}
    Console(width=150).print(table_of(results))
    write("throttle", {"tracks": TRACKS, "retry_after": RETRY_AFTER, "results": results})


if __name__ == "__main__":
    main()
