"""When to poll next: late first, dense around the expected end, sparse after it; better with experience."""

# ruff: noqa: S311 - simulated chance needs no cryptography

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicapi_provider.waiting.schedule import (
    CLOSEST,
    HALF_LIFE,
    JITTER,
    MEDIAN,
    MEDIANS,
    PRIOR,
    SHARE_OF_AGE,
    SPREAD,
    SPREADS,
    WIDEST,
    Expectation,
    Experience,
    next_delay,
    timetable,
)

expectations = st.builds(Expectation, st.floats(*MEDIANS), st.floats(*SPREADS))


def follow(expectation: Expectation, duration: float, chance: random.Random) -> tuple[int, float, float]:
    """Return the polls that a music task costs, and its ages at the last two."""
    polls, before, age = 0, 0.0, 0.0
    while age < duration:
        before, age = age, age + next_delay(age, expectation=expectation, chance=chance.random())
        polls += 1
    return polls, before, age


def figures(expectation: Expectation, truth: Expectation, tasks: int = 3000) -> tuple[float, float]:
    """Return polls and delay in seconds per music task, on average, when the truth may be another."""
    chance = random.Random(1)
    durations = [chance.lognormvariate(math.log(truth.median), truth.spread) for _ in range(tasks)]
    results = [follow(expectation, duration, chance) for duration in durations]
    delays = [age - duration for (_, _, age), duration in zip(results, durations, strict=True)]
    return mean(polls for polls, _, _ in results), mean(delays)


def experienced(truth: Expectation, tasks: int = 20) -> Experience:
    """Return what that many music tasks teach, one after the other."""
    chance, experience = random.Random(2), Experience()
    for _ in range(tasks):
        duration = chance.lognormvariate(math.log(truth.median), truth.spread)
        _, before, age = follow(experience.expectation, duration, chance)
        experience.finished(before, age)
    return experience


# -- the delay ----------------------------------------------------------------------------------------------


def test_first_poll_is_late() -> None:
    """Fewer than one in twenty music tasks is expected to be done by then."""
    assert 38 <= next_delay(0.0, chance=0.5) <= 42


def test_delay_is_shortest_around_the_expected_end() -> None:
    """Late, dense, sparse."""
    delays = [next_delay(age, chance=0.5) for age in (0.0, 42.0, 85.0, 300.0, 900.0, 4000.0)]
    first, before, around, after, later, at_last = delays

    assert first > before > around < after < later < at_last == WIDEST


def test_delay_goes_on_from_any_age() -> None:
    """A wait that comes from another process, or a poll that came late, finds its place."""
    first, second, *_ = timetable(PRIOR)[1:]
    between = (first + second) / 2

    assert next_delay(first / 2, chance=0.5) == pytest.approx(between - first / 2)
    assert next_delay(first, chance=0.5) == pytest.approx(second - first)


def test_users_interval_overrides_everything() -> None:
    """To the second: no jitter, no experience."""
    assert next_delay(3.0, poll_interval=7.0, expectation=Expectation(500.0)) == 7.0


@given(expectations, st.floats(-1e4, 1e6), st.floats(0, 1))
def test_delay_is_bounded(expectation: Expectation, age: float, chance: float) -> None:
    """Whatever is expected, and however old the wait is: no tight loop, and no poll that never comes."""
    delay = next_delay(age, expectation=expectation, chance=chance)
    longest = max(WIDEST, 3 * expectation.median)

    assert CLOSEST * (1 - JITTER) <= delay <= longest * (1 + JITTER)


@given(expectations)
def test_timetable_is_bounded(expectation: Expectation) -> None:
    """It grows, is short, and never polls closer than the share of the age."""
    polls = timetable(expectation)

    assert polls[0] == 0.0
    assert 3 <= len(polls) < 200
    assert all(
        later - sooner >= max(CLOSEST, SHARE_OF_AGE * later) - 1e-6 for sooner, later in pairwise(polls)
    )


@pytest.mark.parametrize("age", [0.0, 60.0, 2000.0])
def test_chance_spreads_the_looks(age: float) -> None:
    """Music tasks that started together do not poll together."""
    earliest, latest = next_delay(age, chance=0.0), next_delay(age, chance=1.0)

    assert latest - earliest >= 1.2 * JITTER * earliest
    assert earliest < next_delay(age) < latest


@pytest.mark.parametrize("age", [20.0, 75.0, 150.0])
def test_hazard_is_the_share_that_finishes(age: float) -> None:
    """Compared with the log-normal's own difference quotient."""
    scores = [math.log(near / MEDIAN) / SPREAD for near in (age - 0.01, age + 0.01)]
    survival = [0.5 * math.erfc(score / math.sqrt(2)) for score in scores]
    expected = (survival[0] - survival[1]) / 0.02 / mean(survival)

    assert PRIOR.hazard(age) == pytest.approx(expected, rel=1e-3)


def test_hazard_far_out_is_a_number() -> None:
    """Where density and survival are too small to divide; the two formulas meet."""
    edge = MEDIAN * math.exp(6 * SPREAD)

    assert PRIOR.hazard(edge * 1.0001) == pytest.approx(PRIOR.hazard(edge * 0.9999), rel=0.05)
    assert 0 < PRIOR.hazard(1e9) < 1


# -- what it costs ------------------------------------------------------------------------------------------


def test_expected_tasks_cost_half_of_the_vendors_loop() -> None:
    """The guide's loop asks 17.4 times and is 2.5 s late; the least possible at that delay is 9.0."""
    polls, delay = figures(PRIOR, PRIOR)

    assert polls < 9.6
    assert delay < 2.6


@pytest.mark.parametrize(
    ("truth", "polls", "delay"),
    [
        pytest.param(Expectation(30.0), 6.5, 2.5, id="quick"),
        pytest.param(Expectation(150.0), 15.0, 5.0, id="slow"),
        pytest.param(Expectation(300.0), 20.0, 9.0, id="very-slow"),
        pytest.param(Expectation(spread=0.2), 9.0, 2.6, id="alike"),
        pytest.param(Expectation(spread=0.6), 13.0, 4.0, id="different"),
    ],
)
def test_twenty_finished_tasks_correct_the_assumption(truth: Expectation, polls: float, delay: float) -> None:
    """Both figures come near what knowing the truth would give."""
    results = [figures(experienced(truth, tasks).expectation, truth) for tasks in (20, 25, 30)]

    assert mean(result[0] for result in results) < polls
    assert mean(result[1] for result in results) < delay


# -- experience ---------------------------------------------------------------------------------------------


def test_nothing_learned_is_the_assumption() -> None:
    """Before anything has finished."""
    assert Experience().expectation is PRIOR


def test_a_few_tasks_move_the_expectation_a_little() -> None:
    """One quick task may be luck."""
    experience = Experience()
    experience.finished(20.0, 22.0)

    assert 0.6 * MEDIAN < experience.expectation.median < 0.95 * MEDIAN


def test_many_tasks_replace_the_assumption() -> None:
    """Median and spread both."""
    learned = experienced(Expectation(200.0, 0.2), 400).expectation

    assert learned.median == pytest.approx(200.0, rel=0.08)
    assert learned.spread == pytest.approx(0.2, abs=0.051)


def test_a_hanging_task_is_an_outlier() -> None:
    """One hour among minutes changes little."""
    experience = experienced(PRIOR)
    before = experience.expectation
    experience.finished(3590.0, 3600.0)

    assert experience.expectation.median < 1.15 * before.median


def test_finished_at_the_first_poll_says_little() -> None:
    """A wait that another process began: the task may have been done for a long time."""
    experience = Experience()
    for _ in range(20):
        experience.finished(0.0, 1000.0)

    assert experience.expectation.median == pytest.approx(MEDIAN, rel=0.02)


@pytest.mark.parametrize(("after", "by"), [(5.0, 5.0), (6.0, 5.0), (-1.0, 5.0), (0.0, 0.0), (math.nan, 5.0)])
def test_impossible_durations_are_ignored(after: float, by: float) -> None:
    """A wall clock that was set back."""
    experience = Experience()
    experience.finished(after, by)

    assert experience.expectation is PRIOR


def test_old_tasks_fade() -> None:
    """A day later the assumption is nearly back."""
    experience = Experience()
    for _ in range(50):
        experience.finished(295.0, 300.0, now=0.0)
    learned = experience.expectation.median
    experience.finished(74.0, 76.0, now=10 * HALF_LIFE)

    assert learned > 200
    assert experience.expectation.median == pytest.approx(MEDIAN, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=40))
def test_any_experience_gives_a_usable_expectation(durations: list[tuple[float, float]]) -> None:
    """Within bounds, so that a timetable can be made of it."""
    experience = Experience()
    for after, by in durations:
        experience.finished(after, by)
    expectation = experience.expectation

    assert MEDIANS[0] <= expectation.median <= MEDIANS[1]
    assert SPREADS[0] <= expectation.spread <= SPREADS[1]
    assert next_delay(0.0, expectation=expectation) > 0


def test_waits_share_timetables() -> None:
    """Learned values are rounded: a thousand finished tasks make some dozens of expectations."""
    chance, experience, seen = random.Random(3), Experience(), set()
    for _ in range(1000):
        duration = chance.lognormvariate(math.log(MEDIAN), SPREAD)
        experience.finished(duration - 2, duration + 2)
        seen.add(experience.expectation)

    assert len(seen) < 60
