"""
When to poll a music task next. Pure: the caller gives the age, the chance and the clock.

Nobody knows when a music task finishes, so polls are spread by how likely it is to finish now. Let ``h`` be
the hazard: the chance a second that a task which still runs finishes. Polls at the rate ``r(age)`` cost
``r`` requests a second and find the end ``1 / 2r`` late; requests times their price plus delay is least where
``r = sqrt(h / (2 * price))``. So: nothing while nothing can be done, dense around the expected end, sparse
after it.
"""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

#: Seconds that half of all music tasks take, and the spread (sigma of a log-normal: 2 of 3 within 0.7 to 1.4
#: medians). Assumed: field code says 30 to 90 s, live tests saw minutes, the vendor says nothing (facts 1).
MEDIAN, SPREAD = 75.0, 0.35

#: Seconds of delay that one saved request is worth. With 0.265, music tasks of the assumed length are noticed
#: 2.5 s late on average, as with the vendor's loop of 5 s, with about half of its requests.
PRICE = 0.265

#: Bounds of the seconds between polls. An old task gets polls no closer than 3 per cent of its age: a
#: task that takes five minutes may be noticed 5 s late, and one that hangs must not cost like a busy one.
CLOSEST, WIDEST, SHARE_OF_AGE = 1.0, 60.0, 0.03

#: Share of a step that is left to chance, so that tasks started together do not poll together.
JITTER = 0.1

#: What the assumption weighs beside finished music tasks: as many of them for the median, and for the spread.
PRIOR_WEIGHT, PRIOR_SPREAD_WEIGHT = 3.0, 8.0
#: Seconds after which a finished music task weighs half: the service is slower at some times of the day.
#: Not a number of tasks: in a batch the slow ones finish last, and would seem to be the rule.
HALF_LIFE = 6 * 3600.0
#: Bounds of the learned median in seconds and of the learned spread.
MEDIANS, SPREADS = (2.0, 1800.0), (0.15, 1.0)
#: Learned values are rounded, median by 2 per cent, so that waits share timetables.
MEDIAN_GRID, SPREAD_GRID = 0.02, 0.05
#: Spreads from the median beyond which a finished task counts as that far away: an outlier, not a rule.
OUTLIER = 3.0

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Expectation:
    """
    When music tasks finish: log-normal.

    :param median: Seconds.
    :param spread: Sigma of the logarithm.
    """

    median: float = MEDIAN
    spread: float = SPREAD

    def hazard(self, age: float) -> float:
        """Return the chance a second that a music task of this age, still running, finishes now."""
        score = math.log(age / self.median) / self.spread
        if score > 6:  # beyond, density and survival are too small to divide; this is their limit
            return score / (self.spread * age)
        survival = 0.5 * math.erfc(score / math.sqrt(2))
        return _NORMAL.pdf(score) / (self.spread * age * survival)


#: What is assumed before anything has finished.
PRIOR = Expectation()


def next_delay(
    age: float,
    *,
    poll_interval: float | None = None,
    expectation: Expectation = PRIOR,
    chance: float | None = None,
) -> float:
    """
    Return the seconds to wait before the next poll.

    :param age: Seconds since the waiting began.
    :param poll_interval: Seconds between polls as the user fixed them; overrides everything.
    :param expectation: When music tasks finish.
    :param chance: 0 to 1, for tests; default random.
    """
    if poll_interval is not None:
        return poll_interval
    luck = random.random() if chance is None else chance  # noqa: S311 - jitter, not a secret
    step = 1 - JITTER + 2 * JITTER * luck
    polls, age = timetable(expectation), max(age, 0.0)  # a wall clock can be set back
    if age >= polls[-2]:
        return step * min(max(polls[-1] - polls[-2], SHARE_OF_AGE * age), WIDEST)
    # Who comes between two polls of the timetable goes on in between the next two.
    index = bisect_right(polls, age) - 1
    place = index + (age - polls[index]) / (polls[index + 1] - polls[index]) + step
    index = min(int(place), len(polls) - 2)
    return max(polls[index] + (place - index) * (polls[index + 1] - polls[index]) - age, CLOSEST)


@lru_cache(maxsize=256)
def timetable(expectation: Expectation) -> tuple[float, ...]:
    """
    Return the ages, in seconds and from 0 on, at which a music task is polled.

    The integral of the best rate grows by one from poll to poll. The last gap is the one to go on with.
    """
    tick = expectation.median / 200  # fine enough: half as much moves no figure of the benchmark
    polls, since, age, gap = [0.0], 0.0, tick / 2, 0.0
    while gap < WIDEST and age < 4 * expectation.median:  # from there on the share of the age rules
        since += tick * math.sqrt(expectation.hazard(age) / (2 * PRICE))
        gap = age - polls[-1] if age > expectation.median else 0.0
        if (since >= 1 and age - polls[-1] >= max(CLOSEST, SHARE_OF_AGE * age)) or gap >= WIDEST:
            polls.append(age)
            since = 0.0
        age += tick
    return tuple(polls)


@dataclass(slots=True)
class Experience:
    """
    Learn from finished music tasks when others will finish.

    A weighted mean and variance of log durations, beside the weight of :data:`PRIOR`. Whoever begins to wait
    takes the expectation of that moment and keeps it: within a batch the quick ones finish first, and would
    make the others look overdue.
    """

    _weight: float = 0.0
    _sum: float = 0.0
    _squares: float = 0.0
    _learned: float = field(default_factory=time.monotonic)

    def finished(self, after: float, by: float, *, now: float | None = None) -> None:
        """
        Learn that a music task finished between two polls.

        :param after: Its age in seconds at the last poll that found it running; 0 if there was none.
        :param by: Its age at the poll that found it finished.
        :param now: Monotonic seconds, for tests.
        """
        if not 0 <= after < by:  # a wall clock that was set back
            return
        self._fade(time.monotonic() if now is None else now)
        mean, spread = self._moments()
        score = _score_between(_score(after, mean, spread), _score(by, mean, spread))
        value = mean + spread * max(-OUTLIER, min(score, OUTLIER))
        self._weight += 1
        self._sum += value
        self._squares += value * value

    @property
    def expectation(self) -> Expectation:
        """What to expect now; :data:`PRIOR` while nothing has finished."""
        if not self._weight:
            return PRIOR
        mean, spread = self._moments()
        median = math.exp(round(mean / MEDIAN_GRID) * MEDIAN_GRID)
        rounded = round(round(spread / SPREAD_GRID) * SPREAD_GRID, 2)
        return Expectation(_within(round(median, 2), MEDIANS), _within(rounded, SPREADS))

    def _moments(self) -> tuple[float, float]:
        prior = math.log(MEDIAN)
        mean = (PRIOR_WEIGHT * prior + self._sum) / (PRIOR_WEIGHT + self._weight)
        scatter = self._squares - 2 * mean * self._sum + self._weight * mean * mean
        variance = (PRIOR_SPREAD_WEIGHT * SPREAD**2 + max(scatter, 0.0)) / (
            PRIOR_SPREAD_WEIGHT + self._weight
        )
        return mean, _within(math.sqrt(variance), SPREADS)

    def _fade(self, now: float) -> None:
        share = 0.5 ** (max(now - self._learned, 0.0) / HALF_LIFE)
        self._learned = now
        self._weight *= share
        self._sum *= share
        self._squares *= share


def _score(age: float, mean: float, spread: float) -> float:
    return (math.log(age) - mean) / spread if age > 0 else -math.inf


def _score_between(low: float, high: float) -> float:
    """
    Return where a standard normal number lies on average, given that it lies between two others.

    Not the middle: that a first poll finds a task finished says little about how long ago it did.
    """
    mass = _NORMAL.cdf(high) - _NORMAL.cdf(low)
    if mass < 1e-9:  # far outside: the bound that is nearer to what was expected
        return low if low > 0 else high
    return (_NORMAL.pdf(low) - _NORMAL.pdf(high)) / mass


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
