"""
When to look at a music task next. Pure: the caller gives the age and the chance.
"""

from __future__ import annotations

import random

#: Seconds before the first look after submitting. Most music tasks need 30 to 90 s (facts 1), and a trigger
#: that fires at once runs into Airflow's deferral race (design.md 4), so the first look comes late.
FIRST_LOOK = 20.0

#: (age in seconds up to which it holds, seconds between looks): dense while most tasks finish, then the
#: 15 to 25 s that the vendor recommends, then sparse (facts 1).
STEPS = ((120.0, 8.0), (300.0, 15.0), (float("inf"), 30.0))

#: Share of the delay that is spread at random, so that tasks started together do not poll together.
JITTER = 0.1


def next_delay(age: float, *, poll_interval: float | None = None, chance: float | None = None) -> float:
    """
    Return the seconds to wait before the next look.

    :param age: Seconds since the waiting began; in the first half of :data:`FIRST_LOOK` the first
        look is meant.
    :param poll_interval: Seconds between looks as the user fixed them; overrides everything.
    :param chance: 0 to 1, for tests; default random.
    """
    if poll_interval is not None:
        return poll_interval
    delay = FIRST_LOOK - age if age < FIRST_LOOK / 2 else next(step for end, step in STEPS if age < end)
    spread = random.random() if chance is None else chance  # noqa: S311 - jitter, not a secret
    return delay * (1 - JITTER + 2 * JITTER * spread)
