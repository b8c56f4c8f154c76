"""``make torture``: exit code 0 only when nothing was paid twice, nothing lost, and faults really struck."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from rich.console import Console

from include.local.stack import StackError, end_by_signal
from tests.e2e.torture.harness import Options, Outcome, run
from tests.e2e.torture.judge import objections
from tests.e2e.torture.plan import planned_faults
from tests.e2e.torture.purchases import DAG_IDS
from tests.e2e.torture.report import print_way

#: Every which purchase of ours waits for its tracks in the triggerer.
WAITING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and say what came out."""
    options = _options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    end_by_signal()
    again = f"make torture PURCHASES={options.purchases} SEED={options.seed}"
    console.print(f"[bold]{options.purchases} purchases[/bold], seed {options.seed}", highlight=False)
    try:
        outcome = run(options, lambda text: console.print(text, highlight=False))
    except StackError as error:
        console.print(f"[red]The torture stopped:[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    said = []
    for way in options.ways:
        print_way(console, outcome, way)
        said += _objections(outcome, way)
    for objection in said:
        console.print(f"[red]Failed:[/red] {objection}", highlight=False)
    way = f" ({options.ways[0]})" if options.ways != ("ours",) else ""
    console.print(
        f"{'Failed' if said else 'Passed'}{way}. Again with the same plan: {again}", highlight=False
    )
    return 1 if said else 0


def _objections(outcome: Outcome, way: str) -> list[str]:
    options = outcome.options
    waiting = options.waiting if way == "ours" else 0
    planned = planned_faults(options.seed, options.purchases, waiting, rounds=way == "ours")
    return objections(
        outcome.rows[way], outcome.seen[way].counts(), planned, outcome.triggerer_kills, waiting
    )


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--purchases", type=int, default=300, help="songs to buy (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the fault plan (default: a random one, printed)")
    parser.add_argument("--way", choices=DAG_IDS, default="ours", help="how to buy (default: %(default)s)")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    return Options(given.purchases, seed, (given.way,), WAITING)


if __name__ == "__main__":
    sys.exit(main())
