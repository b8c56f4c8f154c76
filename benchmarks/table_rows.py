"""
Put 1,000 and 10,000 rows through ``MusicAPIPromptTableOperator``: rows a second, memory, and how both grow.

Jobs finish at once, creates are not paced, and all tracks sound alike, so nothing is measured but the work
for each row: balance, create, look, two downloads, and what is written (records before and after the create,
two checked and hashed tracks with their sidecars, what is stored), most of it synced to disk. ``execute``
runs in a fresh process without a scheduler, the simulator in another one; imports are not timed. Log lines
are made as in a worker and counted instead of sent. Then once more over the same rows, where all is done.

Beside it, in the same run, the least that a script could do for the same files: one ``requests`` session, row
by row a POST, a GET until it is done, two downloads; no records, no checks, no log. The memory is the peak of
the process (``VmHWM``), imports included.

``python -m benchmarks.table_rows`` prints a table and writes ``results/table_rows.json`` here.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import requests
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from benchmarks.runner import KEY, CountingLog, connections
from benchmarks.simulator import PROJECT, OwnSimulator, own_simulator

ROWS = (1_000, 10_000)
OURS, AGAIN, PLAIN = "table operator", "again, all done", "plain loop"
#: MB that 10,000 rows may take at their peak.
LIMIT = 400
#: Seconds that one measured process may take.
PATIENCE = 400
OPTIONS = {"create_interval": 0, "max_in_flight": 100}
EXTRA = {"poll_interval": 0.05, "polls_per_second": 5000}
MB = 10**6


# -- the processes that are measured ------------------------------------------------------------------------


def run_operator(table: Path, folder: Path) -> dict[str, Any]:
    """Execute the operator as a worker does."""
    from airflow.sdk.log import configure_logging

    import musicapi_provider.hooks.musicapi
    import musicapi_provider.prompt_table.run  # noqa: F401 - both are imported late
    from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator

    log = CountingLog()
    configure_logging(json_output=True, output=cast("Any", log), sending_to_supervisor=True)
    operator = MusicAPIPromptTableOperator(
        task_id="table",
        prompt_table=f"file://{table}",
        destination=f"file://{folder}",
        deferrable=False,
        **cast("Any", OPTIONS),
    )
    ti = SimpleNamespace(
        dag_id="bench", task_id="table", run_id="benchmark", map_index=-1, try_number=1, max_tries=0
    )
    with timed() as times:
        summary = operator.execute(cast("Any", {"ti": ti}))
    return {**times, "tracks": summary["tracks"], "log_lines": log.lines}


def run_plainly(table: Path, folder: Path, base_url: str) -> dict[str, Any]:
    """Do the same with the least code."""
    folder.mkdir()
    tracks = 0
    with timed() as times, requests.Session() as api, requests.Session() as media, table.open() as file:
        api.headers["Authorization"] = f"Bearer {KEY}"
        for row in csv.DictReader(file):
            body = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": False}
            body["gpt_description_prompt"] = row["gpt_description_prompt"]
            id_ = api.post(f"{base_url}/sonic/create", json=body, timeout=30).json()["task_id"]
            while True:
                clips = api.get(f"{base_url}/sonic/task/{id_}", timeout=30).json().get("data") or []
                if clips and all(clip["state"] == "succeeded" for clip in clips):
                    break
                time.sleep(EXTRA["poll_interval"])
            for clip in clips:
                audio = media.get(clip["audio_url"], timeout=30).content
                (folder / f"{clip['clip_id']}.mp3").write_bytes(audio)
                tracks += 1
    return {**times, "tracks": tracks, "log_lines": 0}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Give a dict that holds seconds and CPU seconds of this process when the block is over."""
    times: dict[str, float] = {}
    began, cpu = time.perf_counter(), time.process_time()
    yield times
    times |= {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def measure(way: str, table: Path, folder: Path, base_url: str) -> dict[str, Any]:
    """Return what a way takes of this process."""
    figures = run_plainly(table, folder, base_url) if way == PLAIN else run_operator(table, folder)
    # Not ru_maxrss, which may be the parent's.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return {**figures, "peak_mb": peak / MB}


# -- the parent ---------------------------------------------------------------------------------------------


def write_table(path: Path, rows: int) -> None:
    """Write a prompt table."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("prompt_id", "gpt_description_prompt"))
        lines.writerows((f"row-{number}", f"a song about the number {number}") for number in range(rows))


def run(way: str, folder: Path, simulator: OwnSimulator) -> dict[str, Any]:
    """Measure a way in a fresh process; also what it asked of the API and of the media host."""
    destination = folder / ("plain" if way == PLAIN else "ours")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    environment |= {"AIRFLOW_HOME": str(folder / "airflow"), **connections(simulator.base_url, **EXTRA)}
    before = simulator.state()["requests"]
    os.sync()  # nobody pays for what the one before has left to be written
    command = [sys.executable, "-m", "benchmarks.table_rows", "--measure", way, str(folder / "table.csv")]
    result = subprocess.run(
        [*command, str(destination), simulator.base_url],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    asked = {name: count - before.get(name, 0) for name, count in simulator.state()["requests"].items()}
    figures["requests"] = {name: count for name, count in asked.items() if count}
    return figures


def measure_rows(rows: int) -> dict[str, dict[str, Any]]:
    """Return each way's figures for a number of rows."""
    arguments = ["--jobs", "at-once", "--one-song", "--song-seconds", "1", "--credits", str(40 * rows)]
    with TemporaryDirectory(prefix="benchmark-") as name, own_simulator(*arguments) as simulator:
        folder = Path(name)
        write_table(folder / "table.csv", rows)
        found = {way: run(way, folder, simulator) for way in (OURS, AGAIN, PLAIN)}
        files = {way: len(list((folder / way).glob("*.mp3"))) for way in ("ours", "plain")}
        booked = sum(simulator.state()["creates_booked"].values())
    assert files == {"ours": 2 * rows, "plain": 2 * rows}, files
    assert booked == 2 * rows, booked
    assert found[AGAIN]["requests"] == {}, found[AGAIN]
    for figures in found.values():
        figures["rows_per_second"] = rows / figures["seconds"]
        figures["cpu_ms_per_row"] = 1000 * figures["cpu_s"] / rows
    found[OURS]["seconds_over_plain"] = found[OURS]["seconds"] / found[PLAIN]["seconds"]
    return found


def growth_of(small: dict[str, Any], large: dict[str, Any], times: float) -> dict[str, float]:
    """Return how a way's cost grows: 1 is linear."""
    return {
        "seconds_per_row": large["seconds"] / small["seconds"] / times,
        "cpu_per_row": large["cpu_s"] / small["cpu_s"] / times,
        "peak_kib_per_further_row": (large["peak_mb"] - small["peak_mb"]) * MB / 1024 / (ROWS[1] - ROWS[0]),
    }


def table_of(results: dict[int, dict[str, dict[str, Any]]]) -> Table:
    """Return the figures as a table."""
    table = Table(title="Rows whose jobs finish at once, creates not paced")
    headings = ("rows", "way", "seconds", "rows/s", "CPU ms a row", "peak MB", "requests", "log lines")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for rows, ways in results.items():
        for way, row in ways.items():
            table.add_row(
                *(f"{rows:,}", way, f"{row['seconds']:.1f}", f"{row['rows_per_second']:.0f}"),
                *(f"{row['cpu_ms_per_row']:.2f}", f"{row['peak_mb']:.0f}"),
                *(f"{sum(row['requests'].values()):,}", f"{row['log_lines']:,}"),
            )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--measure", nargs=4, metavar=("WAY", "TABLE", "FOLDER", "URL"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.measure:
        way, table, folder, base_url = given.measure
        print("\n" + json.dumps(measure(way, Path(table), Path(folder), base_url)))
        return
    results = {rows: measure_rows(rows) for rows in ROWS}
    small, large = (results[rows] for rows in ROWS)
    growth = {way: growth_of(small[way], large[way], ROWS[1] / ROWS[0]) for way in small}
    Console(width=130).print(table_of(results))
    ours = growth[OURS]
    print(
        f"From {ROWS[0]:,} to {ROWS[1]:,} rows a row takes {ours['seconds_per_row']:.2f} times as long "
        f"and {ours['peak_kib_per_further_row']:.1f} KiB. Beside the plain loop: "
        f"{large[OURS]['seconds_over_plain']:.2f} of its time."
    )
    write(
        "table_rows",
        {"limit_mb": LIMIT, "options": {**OPTIONS, **EXTRA}, "results": results, "growth": growth},
    )
    assert large[OURS]["peak_mb"] < LIMIT


if __name__ == "__main__":
    main()
