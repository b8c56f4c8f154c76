"""
Which way of buying pays twice? ``make bench``: the same purchases, faults and kills in three ways.

Side by side in one Airflow: this provider's operator, a task around the vendor's SDK, and the http
provider's ``HttpOperator``, all with the same retries. The harness is that of ``make torture``. Prints a
table and writes the figures to ``benchmarks/results/paying_twice.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from include.local.stack import StackError, end_by_signal
from include.musicapi_simulator.settings import COSTS
from tests.e2e.torture.harness import Options, Outcome, run
from tests.e2e.torture.judge import Row, Verdict, judge
from tests.e2e.torture.plan import RETRIES

if TYPE_CHECKING:
    from tests.e2e.torture.gate import Way

RESULT = Path(__file__).parent / "results" / "paying_twice.json"
TITLES = {"ours": "MusicAPICreateOperator", "sdk": "@task + musicapi-sdk", "http": "HttpOperator"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the three ways, print and write the figures."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--purchases", type=int, default=60, help="songs to buy in each way")
    parser.add_argument("--seed", type=int, default=1, help="of the fault plan, the same for all ways")
    parser.add_argument("--result", type=Path, default=RESULT, help="where the figures go")
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    end_by_signal()
    try:
        # Nobody waits: the other two ways cannot, and the question is what is paid.
        outcome = run(Options(given.purchases, given.seed, tuple(TITLES), waiting=0), console.print)
    except StackError as error:
        console.print(f"[red]The benchmark stopped:[/red] {error}")
        return 1
    figures = {way: figures_of(outcome.rows[way], outcome.seen[way]) for way in TITLES}
    console.print(_table(figures, given.purchases, given.seed))
    given.result.parent.mkdir(exist_ok=True)
    given.result.write_text(json.dumps(_result(outcome, figures), indent=2) + "\n")
    return (
        0 if all(row.state in ("success", "failed") for rows in outcome.rows.values() for row in rows) else 1
    )


def figures_of(rows: Sequence[Row], seen: Way) -> dict[str, int]:
    """Return what a way did with the purchases, and what it cost."""
    verdicts = [judge(row) for row in rows]
    twice = sum(max(0, len(row.booked) - 1) for row in rows)
    flagged = {Verdict.UNKNOWN_BOOKED, Verdict.UNKNOWN_NOT_BOOKED}
    lost = sum(row.lost for row in rows)
    evident = verdicts.count(Verdict.UNKNOWN_BOOKED)
    return {
        "purchases asked": len(rows),
        "tries": seen.tries,
        "task processes killed": sum(count for fault, count in seen.counts().items() if fault.is_kill),
        "faults of the API": sum(count for fault, count in seen.counts().items() if not fault.is_kill),
        "creates sent": seen.posts,
        "songs booked": sum(len(row.booked) for row in rows),
        "songs paid more than once": sum(len(row.booked) > 1 for row in rows),
        "credits spent": COSTS["create_music"] * sum(len(row.booked) for row in rows),
        "credits wasted on second copies": COSTS["create_music"] * twice,
        "ids lost: booked, not in XCom": lost,
        "  of these in silence": lost - evident,
        "tasks that succeeded": sum(row.state == "success" for row in rows),
        "tasks that failed, saying that nothing was paid": verdicts.count(Verdict.NOT_BOUGHT),
        "tasks left to a human as 'outcome unknown'": sum(verdict in flagged for verdict in verdicts),
    }


def _table(figures: dict[str, dict[str, int]], purchases: int, seed: int) -> Table:
    table = Table(title=f"{purchases} purchases, retries={RETRIES}, seed {seed}", header_style="bold")
    table.add_column("")
    for title in TITLES.values():
        table.add_column(title, justify="right")
    for name in figures["ours"]:
        table.add_row(name, *(str(figures[way][name]) for way in TITLES))
    table.add_section()
    for name, ratio in RATIOS.items():
        table.add_row(name, *(f"{ratio(figures[way]):.2f}" for way in TITLES))
    return table


def _per(numerator: str, denominator: str) -> Callable[[dict[str, int]], float]:
    return lambda figures: figures[numerator] / max(1, figures[denominator])


RATIOS = {
    "creates sent per purchase": _per("creates sent", "purchases asked"),
    "songs booked per purchase": _per("songs booked", "purchases asked"),
    "share of the credits wasted": _per("credits wasted on second copies", "credits spent"),
    "share of the booked ids lost in silence": _per("  of these in silence", "songs booked"),
}


def _result(outcome: Outcome, figures: dict[str, dict[str, int]]) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB RAM, Python {platform.python_version()}, "
        f"Airflow {version('apache-airflow')}, SQLite, LocalExecutor, musicapi-sdk {version('musicapi-sdk')}",
        "command": f"make bench N={outcome.options.purchases} SEED={outcome.options.seed}",
        "seconds": round(outcome.seconds),
        "ways": {
            way: {name.strip(): figure for name, figure in figures[way].items()}
            | {"faults": {str(fault): count for fault, count in outcome.seen[way].counts().items()}}
            for way in TITLES
        },
    }


if __name__ == "__main__":
    sys.exit(main())
