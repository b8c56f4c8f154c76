"""
Measure what a thousand waiting tracks cost a triggerer: our trigger against the http provider's.

Both run in Airflow's own ``TriggerRunner`` (``benchmarks/runner.py``), each in a fresh process, against a
simulator in another one. Each track is looked at every 5 s and never done; starts are spread over 5 s. Ours
gets the API's usual running answer, theirs a 404, since anything else ends its wait. "Airflow alone" are
triggers that only sleep: what the runner itself costs. "bare aiohttp" is the floor: one session, the same
looks at the same pace, JSON parsed and nothing judged. CPU time is the measured process's.

``python -m benchmarks.poller_load`` prints a table and writes ``results/poller_load.json`` here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import requests
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.runner import IDLE, KEY, OURS, THEIRS, CountingLog, running, set_connections

PROJECT = Path(__file__).parents[1]
TRACKS = (500, 2000)
REPEATS = 3
#: Seconds between looks of one track; before measuring; and of measuring.
INTERVAL, WARM_UP, WINDOW = 5.0, 2.0, 10.0
#: Looks a second of ours, so that it keeps the interval; the default of 10 would make it look less often.
PACE = 2000.0
FLOOR = "bare aiohttp"
WAYS = {"ours": OURS, "HttpSensorTrigger": THEIRS, "Airflow alone": IDLE}
READ = "GET /sonic/task/{task_id}"
CPU = "cpu_s_per_1000_polls"


# -- the processes that are measured ------------------------------------------------------------------------


def arguments_of(way: str, ids: list[str], *, interval: float = INTERVAL) -> list[dict[str, Any]]:
    """Return each track's trigger arguments, as the sensors would make them."""
    if way == "ours":
        settings = {"musicapi_conn_id": "musicapi_default", "timeout": 3600.0, "poll_interval": interval}
        return [{"music_task_ids": [id_], "started": time.time(), **settings} for id_ in ids]
    if way == "HttpSensorTrigger":
        return [{"endpoint": f"sonic/task/{id_}", "method": "GET", "poke_interval": interval} for id_ in ids]
    return [{"moment": datetime(2100, 1, 1, tzinfo=UTC)} for _ in ids]


async def measure(way: str, base_url: str, ids: list[str]) -> dict[str, float]:
    """Return what waiting for these tracks costs this process."""
    set_connections(base_url, polls_per_second=PACE)
    process = psutil.Process()
    async with running() as runner:
        # Imports and first-time work are not the tracks' cost.
        await runner.give(WAYS[way], arguments_of(way, ids[:1], interval=0.5), seconds=2)
        await runner.clear()
        before = await counters(base_url)
        gc.collect()
        memory = process.memory_info().rss
        await runner.give(WAYS[way], arguments_of(way, ids), seconds=INTERVAL)
        await asyncio.sleep(WARM_UP)
        figures, polls = await _window(base_url, runner.log)
        gc.collect()
        grown = process.memory_info().rss - memory
        assert runner.waiting == len(ids), "a wait ended"
        after = await counters(base_url)
    cpu = figures.pop("cpu_s")
    return {
        "polls_per_second": polls / figures.pop("seconds"),
        **({CPU: 1000 * cpu / polls} if polls else {"cpu_s_per_s": cpu / WINDOW}),
        # Three are of counting.
        "connections_opened": after["connections_opened"] - before["connections_opened"] - 3,
        **figures,
        "rss_kib_per_track": grown / 1024 / len(ids),
    }


async def _window(base_url: str, log: CountingLog) -> tuple[dict[str, float], int]:
    """Return CPU, lag and log of some seconds, and the looks in them."""
    lags, lines, blocked = [], log.lines, log.blocked
    before, cpu, began = await counters(base_url), time.process_time(), time.monotonic()
    while time.monotonic() - began < WINDOW:
        due = time.monotonic() + 0.02
        await asyncio.sleep(0.02)
        lags.append(time.monotonic() - due)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    polls = (await counters(base_url))["requests"].get(READ, 0) - before["requests"].get(READ, 0)
    figures = {
        "cpu_s": cpu,
        "seconds": seconds,
        "loop_lag_p99_ms": 1000 * quantiles(lags, n=100)[-1],
        "blocked_warnings": log.blocked - blocked,
        "log_lines": log.lines - lines,
    }
    return figures, polls


async def measure_floor(base_url: str, ids: list[str]) -> dict[str, float]:
    """Return what the same requests cost with nothing around them."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

        async def look(id_: str) -> None:
            async with session.get(f"{base_url}/sonic/task/{id_}") as response:
                json.loads(await response.text())

        await look(ids[0])
        cpu = time.process_time()
        for id_ in ids:
            await look(id_)
            await asyncio.sleep(INTERVAL / len(ids))
    return {CPU: 1000 * (time.process_time() - cpu) / len(ids)}


async def counters(base_url: str) -> dict[str, Any]:
    """Return the simulator's counters."""
    answer = await asyncio.to_thread(requests.get, control(base_url, "state"), timeout=30)
    return dict(answer.json())


# -- the parent ---------------------------------------------------------------------------------------------


def control(base_url: str, path: str) -> str:
    """Return the address of a control of the simulator."""
    return base_url.removesuffix("/api/v1") + f"/_control/{path}"


def buy(base_url: str, tracks: int) -> list[str]:
    """Return music tasks that run for ever."""
    body = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "simulate:running"}
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        answers = [session.post(f"{base_url}/sonic/create", json=body, timeout=30) for _ in range(tracks)]
    return [answer.json()["task_id"] for answer in answers]


@contextmanager
def simulator() -> Iterator[str]:
    """Run a simulator of its own process; give its base URL."""
    command = [sys.executable, "-m", "include.musicapi_simulator", "--credits", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[3]
    finally:
        process.terminate()
        process.wait()


def run(way: str, tracks: int) -> dict[str, Any]:
    """Start a simulator and a measured process; return its figures."""
    with simulator() as base_url:
        ids = buy(base_url, tracks)
        if way == "HttpSensorTrigger":
            requests.post(control(base_url, "scenarios"), json={"name": "unknown-404"}, timeout=30)
        command = [sys.executable, "-m", "benchmarks.poller_load", "--measure", way, "--base-url", base_url]
        result = subprocess.run(
            command, input=json.dumps(ids), capture_output=True, text=True, check=False, cwd=PROJECT
        )
        assert result.returncode == 0, result.stderr[-2000:]
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def spread_of(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of each figure."""
    return {
        name: {"median": median(values), "min": min(values), "max": max(values)}
        for name in runs[0]
        if (values := [figures[name] for figures in runs])
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"Tracks waiting, a look each {INTERVAL:g} s; median (range of {REPEATS} runs)")
    names = list(dict.fromkeys(name for row in results for name in row["figures"]))
    for name in ("way of waiting", "tracks", *names):
        table.add_column(name.replace("_", " "), justify="left" if name == "way of waiting" else "right")
    for row in results:
        table.add_row(row["way"], str(row["tracks"]), *(_cell(row["figures"].get(name)) for name in names))
    return table


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    low, high = figure["min"], figure["max"]
    digits = 0 if figure["median"] >= 100 or float(figure["median"]).is_integer() else 2
    middle = f"{figure['median']:.{digits}f}"
    return middle if low == high else f"{middle} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=[*WAYS, FLOOR], help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    if given.measure:
        ids = json.loads(sys.stdin.read())
        measured = measure_floor(given.base_url, ids) if given.measure == FLOOR else None
        print("\n" + json.dumps(asyncio.run(measured or measure(given.measure, given.base_url, ids))))
        return
    runs: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(given.repeats):  # in turn, so that a busy minute of the machine hits all of them
        for tracks in TRACKS:
            for way in (*WAYS, FLOOR):
                runs.setdefault((tracks, way), []).append(run(way, tracks))
    results = [
        {"way": way, "tracks": tracks, "figures": spread_of(found)} for (tracks, way), found in runs.items()
    ]
    shares = {
        str(tracks): spread_of(
            [
                {"cpu_ours_over_theirs": ours[CPU] / theirs[CPU]}
                for ours, theirs in zip(runs[tracks, "ours"], runs[tracks, "HttpSensorTrigger"], strict=True)
            ]
        )
        for tracks in TRACKS
    }
    Console(width=190).print(table_of(results))
    for number, share in shares.items():
        print(f"CPU of ours over theirs with {number} tracks: {_cell(share['cpu_ours_over_theirs'])}")
    write("poller_load", {"in": "Airflow's TriggerRunner, in-process", "results": results, "shares": shares})


if __name__ == "__main__":
    main()
