"""
Read 10,000 prompts from CSV, JSON Lines, Parquet and SQLite: seconds and memory, beside reading unchecked.

Each case in a process of its own that has read a small table before, so that Airflow and the format's library
are loaded. "Plain" is what one would write instead (``csv.DictReader``, ``json.loads``,
``read_table().to_pylist()``, ``fetchall``): it types, checks and refuses nothing.

``python -m benchmarks.prompt_tables`` prints a table and writes ``results/prompt_tables.json`` here.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write

PROJECT = Path(__file__).parents[1]
ROWS = 10_000
#: Characters of a prompt: a brief, and the lyrics of a long song.
LENGTHS = {"briefs": 300, "lyrics": 4000}
FORMATS = ("csv", "jsonl", "parquet", "sqlite")
WAYS = ("ours", "plain")
#: Runs of each case; the fastest counts, as anything else on the machine only makes it slower.
RUNS = 3
COLUMNS = ("prompt_id", "prompt", "title", "tags", "make_instrumental", "style_weight", "vocal_gender")
#: The typographic quote and the letters make Python keep two bytes a character, as real lyrics do.
WORDS = (
    *("rain", "neon", "harbour", "slowly", "falling", "über", "the", "café", "roofs", "and", "nobody\u2019s"),
    *("radio", "sings", "of", "an", "ocean", "made", "of", "glass"),
)


def make_rows(count: int, length: int) -> list[dict[str, Any]]:
    """Return prompts of about a length; a third of the optional cells is empty."""
    chance = random.Random(7)  # noqa: S311 - the same rows each time
    rows = []
    for number in range(count):
        words = chance.choices(WORDS, k=length // 4)
        some: dict[str, Any] = {
            "title": f"Song No. {number}",
            "tags": ", ".join(chance.choices(WORDS, k=4)),
            "make_instrumental": chance.random() < 0.1,
            "style_weight": round(chance.random(), 2),
            "vocal_gender": chance.choice("fm"),
        }
        row = {name: value if chance.random() > 1 / 3 else None for name, value in some.items()}
        rows.append({"prompt_id": f"song-{number:06}", "prompt": " ".join(words)[:length], **row})
    return rows


def store(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows in each format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (folder / "songs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "songs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "songs.parquet")
    database = sqlite3.connect(folder / "songs.sqlite")
    database.execute(f"CREATE TABLE songs ({', '.join(COLUMNS)})")
    values = ", ".join(f":{name}" for name in COLUMNS)
    database.executemany(f"INSERT INTO songs VALUES ({values})", rows)  # noqa: S608
    database.commit()
    database.close()


def plain(file: Path) -> list[dict[str, Any]]:
    """Read a table as one would without checks, all of it at once."""
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8-sig") as text:
            return list(csv.DictReader(text))
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(file).to_pylist())
    database = sqlite3.connect(file)
    cursor = database.execute("SELECT * FROM songs ORDER BY prompt_id")
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    database.close()
    return rows


def reading(way: str, file: Path) -> Callable[[], list[Any]]:
    """Return what is measured, with everything imported that it needs."""
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.prompt_table import query_prompt_table, read_prompt_table

    if way == "plain":
        return lambda: plain(file)
    if file.suffix == ".sqlite":
        connection = {"conn_type": "sqlite", "host": str(file)}
        os.environ["AIRFLOW_CONN_SONGS"] = json.dumps(connection)
        return lambda: query_prompt_table("SELECT * FROM songs ORDER BY prompt_id", "songs")
    return lambda: read_prompt_table(ObjectStoragePath(file.as_uri()))


def memory(name: str) -> float:
    """Return a figure of this process in MB; ``getrusage`` would mix its peak with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measure(way: str, small: Path, file: Path) -> dict[str, Any]:
    """Return seconds and memory of reading a file, after a small one that loads everything."""
    reading(way, small)()
    read = reading(way, file)
    before = memory("VmHWM")
    began = time.perf_counter()
    rows = read()
    seconds = time.perf_counter() - began
    assert len(rows) == ROWS
    return {"seconds": seconds, "peak_mb": memory("VmHWM"), "more_mb": memory("VmHWM") - before}


def run(way: str, small: Path, file: Path) -> dict[str, Any]:
    """Measure one case in processes of its own."""
    command = [sys.executable, "-m", "benchmarks.prompt_tables", "--measure", way, str(small), str(file)]
    runs = []
    for _ in range(RUNS):
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
        assert result.returncode == 0, result.stderr[-2000:]
        runs.append(json.loads(result.stdout.splitlines()[-1]))
    best: dict[str, Any] = min(runs, key=lambda figures: figures["seconds"])
    return best


def table_of(results: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"{ROWS:,} prompts; MB: at the peak of the process, and more than before reading")
    for name in (
        "",
        "file MB",
        "ours s",
        "plain s",
        "ratio",
        "ours MB",
        "plain MB",
        "ours more",
        "plain more",
    ):
        table.add_column(name, justify="left" if not name else "right")
    for case, figures in results.items():
        ours, other = figures["ours"], figures["plain"]
        table.add_row(
            *(case, f"{figures['file']['mb']:.1f}", f"{ours['seconds']:.2f}", f"{other['seconds']:.2f}"),
            f"{ours['seconds'] / other['seconds']:.1f}",
            *(f"{figures[way][name]:.0f}" for name in ("peak_mb", "more_mb") for way in WAYS),
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        way, small, file = given.measure
        print("\n" + json.dumps(measure(way, Path(small), Path(file))))
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, length in LENGTHS.items():
            small, large = Path(name) / kind / "small", Path(name) / kind / "large"
            for folder, count in ((small, 10), (large, ROWS)):
                folder.mkdir(parents=True)
                store(folder, make_rows(count, length))
            for ending in FORMATS:
                files = small / f"songs.{ending}", large / f"songs.{ending}"
                figures = {way: run(way, *files) for way in WAYS}
                results[f"{kind}, {ending}"] = {
                    "file": {"mb": files[1].stat().st_size / 2**20, "characters": length},
                    **figures,
                }
    Console(width=150).print(table_of(results))
    write("prompt_tables", {"rows": ROWS, "runs": RUNS, "results": results})


if __name__ == "__main__":
    main()
