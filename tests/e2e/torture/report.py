"""
Print what came out: a table of figures, and which fault led to what.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table

from tests.e2e.torture.judge import GOOD, Row, Verdict, judge
from tests.e2e.torture.plan import BETWEEN_ROUNDS, Fault

if TYPE_CHECKING:
    from rich.console import Console

    from tests.e2e.torture.gate import Way
    from tests.e2e.torture.harness import Outcome

#: Verdicts that always show, at 0 most of all.
ALWAYS = {*GOOD, Verdict.DUPLICATE, Verdict.LOST, Verdict.RESENT}
#: What each fault led to; everything else is one column.
COLUMNS = {
    Verdict.COLLECTED: "collected",
    Verdict.UNKNOWN_BOOKED: "unknown, booked",
    Verdict.UNKNOWN_NOT_BOOKED: "unknown, not booked",
    Verdict.NOT_BOUGHT: "not bought",
}


def print_way(console: Console, outcome: Outcome, way: str) -> None:
    """Print one way's tables, and every purchase that went wrong."""
    rows, seen = outcome.rows[way], outcome.seen[way]
    console.print(_faults(rows, seen))
    console.print(_figures(outcome, way))
    for row in rows:
        if judge(row) not in GOOD:
            console.print(f"[red]{judge(row)}[/red] {row}", highlight=False)


def _faults(rows: list[Row], seen: Way) -> Table:
    verdicts = {row.purchase: judge(row) for row in rows}
    table = Table(title="What struck, and what became of these purchases", header_style="bold")
    for name in ("fault", "times", *COLUMNS.values(), "[red]wrong[/red]"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for fault in Fault:
        if fault is not Fault.NOTHING:
            struck = seen.struck.get(fault, [])
            led_to = Counter(verdicts[purchase] for purchase in struck)
            wrong = sum(count for verdict, count in led_to.items() if verdict not in GOOD)
            figures = (len(struck), *(led_to[verdict] for verdict in COLUMNS), wrong)
            table.add_row(str(fault), *(str(figure) for figure in figures))
    return table


def _figures(outcome: Outcome, way: str) -> Table:
    rows, seen = outcome.rows[way], outcome.seen[way]
    counts = seen.counts()
    verdicts = Counter(judge(row) for row in rows)
    table = Table(title=f"Torture: {way}", header_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    figures = {
        "purchases asked": len(rows),
        "tries": seen.tries,
        "task processes killed": sum(count for fault, count in counts.items() if fault.is_kill),
        "kills that came too late": seen.too_late,
        "triggerers killed": outcome.triggerer_kills,
        "faults of the API": sum(
            count for fault, count in counts.items() if not fault.is_kill and fault not in BETWEEN_ROUNDS
        ),
        **{f"purchases {fault}": counts[fault] for fault in BETWEEN_ROUNDS if counts[fault]},
        "creates sent": seen.posts,
        "songs booked": sum(len(row.booked) for row in rows),
    }
    figures |= {str(verdict): verdicts[verdict] for verdict in Verdict if verdict in ALWAYS | set(verdicts)}
    figures |= {"seconds": round(outcome.seconds), "seed": outcome.options.seed}
    for name, figure in figures.items():
        table.add_row(name, str(figure))
    return table
