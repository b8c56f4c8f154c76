"""
Make 50 songs by webhook and by polling, and see what is asked and how soon the next task begins.

Real Airflow processes on SQLite with LocalExecutor, a fresh one for each way; songs take times around 75 s,
the same for both ways (log-normal, seeded). Each song's next task is in the same mapped task group, so that
it begins when its own song is there. Measured are requests for music tasks a track, and the seconds from a
song's end at the simulator to the start of the next task.

Then, on the idle Airflow that takes webhooks: how long Airflow's own API needs for a DAG, alone and while
1,000 forged callbacks come in parallel.

``python -m benchmarks.webhooks`` prints a table and writes ``results/webhooks.json`` here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import urllib3
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.runner import KEY
from benchmarks.world import HERE
from include.local.stack import IN_A_HURRY, Stack, connection_json, end_by_signal, free_port
from include.musicapi_simulator import Settings, SimulatorServer
from musicapi_provider.webhooks.addresses import callback_url, new_token
from musicapi_provider.webhooks.signature import signature

TRACKS, JOBS = 50, "seconds:75"
SECRET = "a-secret-for-nothing-but-this-benchmark"  # noqa: S105 - not one
GET_TASK = "GET /sonic/task/{task_id}"
WEBHOOK, POLLING = "webhook", "polling"
#: Forged callbacks, how many at once, and looks at the UI's data while they come, at least.
FORGED, AT_ONCE, LOOKS = 1000, 50, 40
#: What the issue asks for: looks a track, and seconds from done to the next task, median.
GOALS = {"looks_per_track": 1.0, "median_s": 1.5}
DAG_ID = "bench_songs"


@contextmanager
def _airflow(way: str, simulator: SimulatorServer) -> Iterator[Stack]:
    port = free_port()
    webhooks = {
        **{"webhook": way == WEBHOOK, "webhook_secret": SECRET},
        "webhook_base_url": f"http://127.0.0.1:{port}",
    }
    settings = {
        **IN_A_HURRY,
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags_webhooks"),
        "AIRFLOW_CONN_MUSICAPI_DEFAULT": connection_json(simulator.base_url, KEY, **webhooks),
    }
    with (
        TemporaryDirectory(prefix="benchmark-") as name,
        Stack(home=Path(name) / "airflow", port=port, settings=settings) as stack,
    ):
        yield stack
        stack.kill("triggerer")  # it would take ten seconds to say goodbye


def measure(way: str, tracks: int, jobs: str) -> dict[str, Any]:
    """Make the songs in one way; return the figures."""
    settings = Settings(api_key=KEY, credits=10**6, song_seconds=1, job_rule=jobs, one_song=True)
    settings.webhooks_over_http = True
    with SimulatorServer(settings) as simulator, _airflow(way, simulator) as stack:
        api = stack.start_with([DAG_ID])
        prompts = [f"benchmark song {number}" for number in range(tracks)]
        run_id = api.trigger(DAG_ID, {"prompts": prompts})
        while api.run_state(DAG_ID, run_id) not in ("success", "failed"):
            stack.check_alive()
            time.sleep(1)
        done = {job.text: job.created_at.timestamp() + job.seconds for job in simulator.state.jobs.values()}
        began = {
            one["map_index"]: datetime.fromisoformat(one["start_date"]).timestamp()
            for one in api.task_instances(DAG_ID, run_id)
            if one["task_id"] == "song.use"
        }
        delays = [began[index] - done[prompt] for index, prompt in enumerate(prompts)]
        looks = simulator.state.requests[GET_TASK]
        figures = {
            "run": api.run_state(DAG_ID, run_id),
            "songs_bought": sum(simulator.state.creates_booked.values()),
            "looks_per_track": looks / tracks,
            "median_s": statistics.median(delays),
            "p90_s": sorted(delays)[int(0.9 * tracks)],
            "longest_s": max(delays),
        }
        if way == WEBHOOK:
            figures["flood"] = _flood(stack)
        return figures


def _flood(stack: Stack) -> dict[str, Any]:
    """See how Airflow's own API fares while forged callbacks come."""
    host, port = urlsplit(stack.url).hostname, urlsplit(stack.url).port
    pool = urllib3.HTTPConnectionPool(str(host), port, maxsize=AT_ONCE, timeout=60)
    path = urlsplit(callback_url(stack.url, "musicapi_default", new_token("0" * 32))).path
    body = json.dumps({"event": "song.completed", "task_id": "forged", "data": ["x" * 20_000]}).encode()
    timestamp = str(int(time.time()))
    headers = {
        **{"Content-Type": "application/json", "X-Webhook-Id": "forged"},
        **{"X-Webhook-Timestamp": timestamp},
        "X-Webhook-Signature": signature("not the secret", timestamp, body),
    }
    api = stack.api()

    def looked() -> float:
        began = time.perf_counter()
        api.has_dag(DAG_ID)
        return time.perf_counter() - began

    def forge(_number: int) -> int:
        return int(pool.urlopen("POST", path, body=body, headers=headers, retries=False).status)

    forge(0)  # the receiver is imported with its first request
    quiet = [looked() for _ in range(LOOKS)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        began = time.perf_counter()
        forged = [threads.submit(forge, number) for number in range(FORGED)]
        busy = _while(lambda: not all(one.done() for one in forged), looked)
        seconds = time.perf_counter() - began
    return {
        **{"forged": FORGED, "at_once": AT_ONCE, "bytes": len(body), "seconds": seconds},
        "answers": sorted({one.result() for one in forged}),
        **{"alone_median_ms": 1000 * statistics.median(quiet), "alone_longest_ms": 1000 * max(quiet)},
        **{"flooded_median_ms": 1000 * statistics.median(busy), "flooded_longest_ms": 1000 * max(busy)},
        "looks_meanwhile": len(busy),
    }


def _while(condition: Callable[[], bool], call: Callable[[], float]) -> list[float]:
    found = [call()]
    while condition():
        found.append(call())
    return found


def table_of(results: dict[str, dict[str, Any]], tracks: int, jobs: str) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"{tracks} songs of {jobs}, each with a next task")
    table.add_column("")
    for way in results:
        table.add_column(way, justify="right")
    for name in results[POLLING]:
        table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in results.values()))
    return table


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=TRACKS)
    parser.add_argument("--jobs", default=JOBS)
    given = parser.parse_args()
    end_by_signal()
    results = {way: measure(way, given.tracks, given.jobs) for way in (WEBHOOK, POLLING)}
    flood = results[WEBHOOK].pop("flood")
    Console(width=110).print(table_of(results, given.tracks, given.jobs))
    for name, goal in GOALS.items():
        met = "met" if results[WEBHOOK][name] <= goal else "MISSED"
        print(f"{name} by webhook: {results[WEBHOOK][name]:.2f}; the goal of {goal:g} is {met}.")
    print(
        f"{flood['forged']} forged callbacks in {flood['seconds']:.1f} s, answered {flood['answers']}: "
        f"a look at a DAG takes {flood['flooded_median_ms']:.0f} ms meanwhile (longest "
        f"{flood['flooded_longest_ms']:.0f}), alone {flood['alone_median_ms']:.0f} ms (longest "
        f"{flood['alone_longest_ms']:.0f})."
    )
    if (given.tracks, given.jobs) == (TRACKS, JOBS):
        settings = {"tracks": TRACKS, "jobs": JOBS, "settings": dict(IN_A_HURRY), "goals": GOALS}
        write("webhooks", {**settings, "results": results, "forged": flood})


if __name__ == "__main__":
    main()
