"""
Count the requests that waiting for a track takes, and how late its end is noticed.

Virtual time, no network: 10,000 music tasks whose lengths are log-normal, the same for every way of waiting.
``python -m benchmarks.waiting_requests`` prints tables and writes ``results/waiting_requests.json`` here.
Looks take no time here. Every request counts, from the submit's answer to the result: the schedule's looks
and those around them (:data:`OURS`, :data:`RIVALS`). The http provider's sensor returns no result, so a task
behind it has to ask once more; that is not counted.
"""
# ruff: noqa: S311 - simulated chance needs no cryptography

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from statistics import mean, quantiles
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write
from musicapi_provider.waiting.schedule import PRIOR, Expectation, Experience, next_delay

TASKS = 10_000
#: Finished music tasks that our schedule has learned from, and learners that share the tasks.
LEARNED_FROM, LEARNERS = 20, 50
#: What music tasks may really take; the first is what the schedule assumes.
TRUTHS = [
    *(Expectation(median) for median in (75.0, 30.0, 150.0, 300.0)),
    *(Expectation(spread=spread) for spread in (0.2, 0.6)),
]

#: A way of waiting: the ages at which it looks, without end or until it gives up.
Looks = Callable[[random.Random], Iterator[float]]


def every(interval: float, *, extra: int = 0, budget: float = math.inf) -> Looks:
    """Return a loop that looks at once and then in a fixed interval, with further looks at the start."""

    def looks(_chance: random.Random) -> Iterator[float]:
        yield from [0.0] * extra
        age = 0.0
        while age < budget:
            yield age
            age += interval

    return looks


def ours(expectation: Expectation) -> Looks:
    """Return our schedule with an expectation."""

    def looks(chance: random.Random) -> Iterator[float]:
        age = 0.0
        while True:
            age += next_delay(age, expectation=expectation, chance=chance.random())
            yield age

    return looks


#: The guide's loop, the SDK's (gives up after 300 s), and the http provider's sensor, which looks once on the
#: worker and once as its trigger starts, with the sensor's default interval and with its trigger's own.
RIVALS = {
    "vendor guide, 5 s": every(5.0),
    "vendor SDK, 5 s, 300 s at most": every(5.0, budget=300.0),
    "HttpSensor deferrable, default 60 s": every(60.0, extra=1),
    "HttpSensorTrigger default, 5 s": every(5.0, extra=1),
    "vendor docs, 15 s": every(15.0),
}


#: What the others are compared with.
REFERENCES = {
    "guide": "vendor guide, 5 s",
    "sdk": "vendor SDK, 5 s, 300 s at most",
    "http": "HttpSensorTrigger default, 5 s",
}

#: Our ways of waiting, and their requests beside those of the shared poller's schedule: the sensor looks
#: before it defers and when a worker resumes it; a create that waits knows that nothing can be done yet; a
#: sensor that lives in the triggerer looks at once there, and nobody resumes.
OURS = {"sensor, deferrable": 2, "create and wait": 1, "sensor, worker-free": 1}


def durations_of(truth: Expectation, tasks: int, seed: int) -> list[float]:
    """Return how long each music task takes, in seconds."""
    chance = random.Random(seed)
    return [chance.lognormvariate(math.log(truth.median), truth.spread) for _ in range(tasks)]


def follow(looks: Looks, duration: float, chance: random.Random) -> tuple[int, float, float | None]:
    """Return the number of looks, the age at the last but one, and at the last (``None``: gave up)."""
    count, before = 0, 0.0
    for age in looks(chance):
        count += 1
        if age >= duration:
            return count, before, age
        before = age
    return count, before, None


def figures(ways: list[Looks], durations: list[float]) -> dict[str, float]:
    """Return the figures of one way of waiting; several are given the tasks in turn."""
    chance = random.Random(1)
    counts, delays = [], []
    for number, duration in enumerate(durations):
        count, _, found = follow(ways[number % len(ways)], duration, chance)
        counts.append(count)
        if found is not None:
            delays.append(found - duration)
    return {
        "looks": mean(counts),
        "mean_delay": mean(delays),
        "p95_delay": quantiles(delays, n=20)[-1],
        "gave_up": 1 - len(delays) / len(durations),
    }


def learned(truth: Expectation, seed: int) -> Expectation:
    """Return what some finished music tasks teach, one after the other."""
    chance, experience = random.Random(seed), Experience()
    for duration in durations_of(truth, LEARNED_FROM, seed):
        _, before, found = follow(ours(experience.expectation), duration, chance)
        assert found is not None
        experience.finished(before, found)
    return experience.expectation


# -- the least possible -------------------------------------------------------------------------------------


def frontier(truth: Expectation, delay: float) -> float:
    """
    Return the fewest looks with which any schedule that knows the truth can be that late on average.

    Dynamic programming on a grid: from each age the next look that minimises price times looks plus delay;
    the price is found by bisection.
    """
    cheap, dear = 1e-3, 1e3
    for _ in range(30):
        price = math.sqrt(cheap * dear)
        looks, late = _best(truth, price)
        cheap, dear = (price, dear) if late < delay else (cheap, price)
    return looks


def _best(truth: Expectation, price: float) -> tuple[float, float]:
    step = truth.median / 300
    ages = np.arange(int(truth.median * math.exp(5 * truth.spread) / step)) * step
    scores = (np.log(np.maximum(ages, 1e-9)) - math.log(truth.median)) / truth.spread
    done = np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])
    sums = np.concatenate([[0.0], np.cumsum((done[1:] + done[:-1]) / 2 * step)])
    costs, following = np.zeros(len(ages)), np.zeros(len(ages), dtype=int)
    for here in range(len(ages) - 2, -1, -1):
        to = np.arange(here + 1, min(len(ages), here + 1 + 400))
        late = sums[to] - sums[here] - done[here] * (ages[to] - ages[here])
        total = price * (1 - done[here]) + late + costs[to]
        best = int(np.argmin(total))
        costs[here], following[here] = total[best], to[best]
    looks, late, here = 0.0, 0.0, 0
    while here < len(ages) - 1:
        to = following[here]
        looks += 1 - done[here]
        late += sums[to] - sums[here] - done[here] * (ages[to] - ages[here])
        here = to
    return float(looks), float(late)


# -- the report ---------------------------------------------------------------------------------------------


def compare(truth: Expectation) -> dict[str, Any]:
    """Return the figures of every way of waiting for one kind of music tasks."""
    durations = durations_of(truth, TASKS, seed=0)
    rows = {name: figures([way], durations) for name, way in RIVALS.items()}
    rows = {name: {"requests": row["looks"], **row} for name, row in rows.items()}
    expectations = [learned(truth, seed) for seed in range(LEARNERS)]
    schedules = {
        "as assumed": figures([ours(PRIOR)], durations),
        f"after {LEARNED_FROM} tasks": figures([ours(each) for each in expectations], durations),
        "if it knew the truth": figures([ours(truth)], durations),
    }
    for known, row in schedules.items():
        rows |= {
            f"{way}, {known}": {"requests": row["looks"] + around, **row} for way, around in OURS.items()
        }
    least: dict[float, float] = {}
    for row in rows.values():
        for short, rival in REFERENCES.items():
            row[f"over_{short}"] = row["requests"] / rows[rival]["requests"]
        delay = row["mean_delay"]
        if delay not in least:
            least[delay] = frontier(truth, delay)
        row["least_looks_at_this_delay"] = least[delay]
    return {"median": truth.median, "spread": truth.spread, "tasks": TASKS, "ways": rows}


def table_of(result: dict[str, Any]) -> Table:
    """Return one kind of music tasks as a table."""
    table = Table(title=f"Music tasks of {result['median']:g} s (median), spread {result['spread']:g}")
    table.add_column("way of waiting")
    heads = ("requests", "schedule's", "of guide's", "of SDK's", "of http's", "least possible")
    for name in (*heads, "mean delay s", "p95 s", "gave up"):
        table.add_column(name, justify="right")
    for name, row in result["ways"].items():
        table.add_row(
            name,
            *(f"{row['requests']:.2f}", f"{row['looks']:.2f}"),
            *(f"{row[f'over_{short}']:.0%}" for short in REFERENCES),
            *(f"{row['least_looks_at_this_delay']:.2f}", f"{row['mean_delay']:.2f}"),
            *(f"{row['p95_delay']:.1f}", f"{row['gave_up']:.1%}"),
        )
    return table


def main() -> None:
    """Compare, print, write."""
    results = [compare(truth) for truth in TRUTHS]
    console = Console(width=150)
    for result in results:
        console.print(table_of(result))
    write("waiting_requests", {"results": results})


if __name__ == "__main__":
    main()
