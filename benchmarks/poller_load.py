"""
Measure what a thousand waiting tracks cost a process: ours against the http provider's trigger.

Both in a fresh process and one event loop each, against the same simulator in a third process. Ours is the
coroutine that a trigger will await, not yet the trigger; theirs is ``HttpSensorTrigger.run``. Each track is
looked at every 5 s and never done; starts are spread over 5 s. Ours gets the API's usual running answer,
theirs a 404, since anything else ends its wait. Log lines are formatted and thrown away. "bare aiohttp" is
the floor: one session, the same looks one after the other, JSON parsed and nothing judged.

``python -m benchmarks.poller_load`` prints a table and writes ``results/poller_load.json`` here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
import requests
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "poller_load.json"
TRACKS = (500, 2000)
#: Seconds between looks of one track; before measuring; and of measuring.
INTERVAL, WARM_UP, WINDOW = 5.0, 2.0, 10.0
#: Looks a second of ours, so that it keeps the interval; the default of 10 would make it look less often.
PACE = 2000.0
KEY = "simulator-key"
FLOOR = "bare aiohttp"
READ = "GET /sonic/task/{task_id}"

Waits = list[Coroutine[Any, Any, object]]


# -- the processes that are measured ------------------------------------------------------------------------


def our_waits(base_url: str, ids: list[str]) -> Waits:
    """Return one wait per track, as a trigger does it."""
    from musicapi_provider.async_client import MusicAPIAsyncClient
    from musicapi_provider.poller import shared_poller
    from musicapi_provider.settings import ClientSettings
    from musicapi_provider.waiting import Wait

    settings = ClientSettings(KEY, base_url, poll_interval=INTERVAL, polls_per_second=PACE)

    async def make_client() -> MusicAPIAsyncClient:
        return MusicAPIAsyncClient(settings)

    async def wait_for(id_: str) -> str:
        async with shared_poller("benchmark", make_client) as poller:
            return await poller.wait(Wait([id_], 3600.0))

    return [wait_for(id_) for id_ in ids]


def their_waits(base_url: str, ids: list[str]) -> Waits:
    """Return one run of the http provider's trigger per track."""
    connection = {"conn_type": "http", "host": base_url, "extra": {"Authorization": f"Bearer {KEY}"}}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(connection)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    async def wait_for(id_: str) -> object:
        trigger = HttpSensorTrigger(endpoint=f"sonic/task/{id_}", method="GET", poke_interval=INTERVAL)
        return await anext(aiter(trigger.run()))

    return [wait_for(id_) for id_ in ids]


WAITS: dict[str, Callable[[str, list[str]], Waits]] = {"ours": our_waits, "HttpSensorTrigger": their_waits}


async def measure(way: str, base_url: str, ids: list[str]) -> dict[str, float]:
    """Return what waiting for these tracks costs this process."""
    await _one_look(way, base_url, ids[0])  # imports and first-time work are not the tracks' cost
    process, lags = psutil.Process(), []
    gc.collect()
    memory = process.memory_info().rss
    waits = []  # begun evenly, because theirs would otherwise all look at once for ever
    for coroutine in WAITS[way](base_url, ids):
        waits.append(asyncio.create_task(coroutine))
        await asyncio.sleep(INTERVAL / len(ids))
    await asyncio.sleep(WARM_UP)
    before, cpu, began = _counters(base_url), time.process_time(), time.monotonic()
    while time.monotonic() - began < WINDOW:
        due = time.monotonic() + 0.02
        await asyncio.sleep(0.02)
        lags.append(time.monotonic() - due)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    after = _counters(base_url)
    gc.collect()
    grown = process.memory_info().rss - memory
    assert not any(wait.done() for wait in waits), "a wait ended"
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    polls = after["requests"][READ] - before["requests"][READ]
    opened = after["connections_opened"] - before["connections_opened"] - 1  # one is of the second counting
    return {
        "polls_per_second": polls / seconds,
        "cpu_seconds_per_1000_polls": 1000 * cpu / polls,
        "connections_opened": opened,
        "loop_lag_p99_ms": 1000 * quantiles(lags, n=100)[-1],
        "rss_kib_per_track": grown / 1024 / len(ids),
    }


async def measure_floor(base_url: str, ids: list[str]) -> dict[str, float]:
    """Return what the same requests cost with nothing around them."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        cpu = time.process_time()
        for id_ in ids:
            async with session.get(f"{base_url}/sonic/task/{id_}") as response:
                json.loads(await response.text())
            await asyncio.sleep(INTERVAL / len(ids))
    return {"cpu_seconds_per_1000_polls": 1000 * (time.process_time() - cpu) / len(ids)}


async def _one_look(way: str, base_url: str, id_: str) -> None:
    (wait,) = (asyncio.create_task(wait) for wait in WAITS[way](base_url, [id_]))
    await asyncio.sleep(INTERVAL + 1 if way == "ours" else 1)
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)


def _counters(base_url: str) -> dict[str, Any]:
    # Blocks the loop for a moment, twice, outside of the lag's measuring.
    counters: dict[str, Any] = requests.get(_control(base_url, "state"), timeout=30).json()
    return counters


# -- the parent ---------------------------------------------------------------------------------------------


def _control(base_url: str, path: str) -> str:
    return base_url.removesuffix("/api/v1") + f"/_control/{path}"


def buy(base_url: str, tracks: int) -> list[str]:
    """Return music tasks that run for ever."""
    body = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "simulate:running"}
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        answers = [session.post(f"{base_url}/sonic/create", json=body, timeout=30) for _ in range(tracks)]
    return [answer.json()["task_id"] for answer in answers]


def run(way: str, tracks: int) -> dict[str, Any]:
    """Start a simulator and a measured process; return its figures."""
    simulator = subprocess.Popen(
        [sys.executable, "-m", "include.musicapi_simulator", "--credits", "1000000"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    try:
        assert simulator.stdout is not None
        base_url = simulator.stdout.readline().split()[3]
        ids = buy(base_url, tracks)
        if way == "HttpSensorTrigger":
            requests.post(_control(base_url, "scenarios"), json={"name": "unknown-404"}, timeout=30)
        command = [sys.executable, "-m", "benchmarks.poller_load", "--measure", way, "--base-url", base_url]
        result = subprocess.run(
            command, input=json.dumps(ids), capture_output=True, text=True, check=True, cwd=PROJECT
        )
    finally:
        simulator.terminate()
        simulator.wait()
    return {"way": way, "tracks": tracks, **json.loads(result.stdout.splitlines()[-1])}


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"Tracks waiting, a look each {INTERVAL:g} s")
    names = [name for name in results[0] if name != "way"]
    table.add_column("way of waiting")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in results:
        table.add_row(
            row["way"],
            *(f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in names),
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=[*WAITS, FLOOR], help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        logging.basicConfig(filename=os.devnull, level=logging.INFO, force=True)
        ids = json.loads(sys.stdin.read())
        if given.measure == FLOOR:
            figures = asyncio.run(measure_floor(given.base_url, ids))
        else:
            figures = asyncio.run(measure(given.measure, given.base_url, ids))
        print(json.dumps(figures))
        return
    results = [run(way, tracks) for tracks in TRACKS for way in WAITS]
    floor = run(FLOOR, TRACKS[-1])
    Console(width=150).print(table_of(results))
    ratios = {
        str(ours["tracks"]): {
            name: ours[name] / theirs[name] for name in ours if name not in ("way", "tracks") and theirs[name]
        }
        for ours, theirs in zip(results[::2], results[1::2], strict=True)
    }
    shares = {tracks: f"{ratio['cpu_seconds_per_1000_polls']:.0%}" for tracks, ratio in ratios.items()}
    print("CPU of ours as a share of theirs, by tracks:", shares)
    print(f"bare aiohttp: {floor['cpu_seconds_per_1000_polls']:.2f} CPU s per 1,000 polls")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"results": results, "floor": floor, "ours_over_theirs": ratios}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
