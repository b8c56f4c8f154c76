"""
The fault plan: what happens to which try of which purchase. The same seed makes the same plan. Pure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from tests.e2e.torture.purchases import purchase_name

#: Airflow's retries of every purchase, so five tries; the last one is never killed and hence reaches an end.
RETRIES = 4
#: Seconds after the begin of ``execute`` within which a kill at a random instant comes.
ANY_INSTANT = 0.6
#: Seconds after the answer within which it comes. The record is on its way out of the process after a few
#: milliseconds: of 23 kills spread over the longer window not one came before it, hence the shorter one.
BEFORE_RECORD, AROUND_RECORD = 0.003, 0.1


class Fault(StrEnum):
    """What can happen to a try."""

    NOTHING = "nothing"
    KILL_ANYTIME = "killed at a random instant"
    KILL_ON_ARRIVAL = "killed when the create arrived"
    KILL_AFTER_BOOKING = "killed booked, before the answer"
    KILL_AT_ANSWER = "killed 0-3 ms after the answer"
    KILL_AFTER_ANSWER = "killed 0-100 ms after the answer"
    KILL_RESUMED = "killed when resumed after waiting"
    DROP_BEFORE_BOOKING = "dropped before booking"
    DROP_AFTER_BOOKING = "dropped after booking"
    BAD_GATEWAY = "502 after booking"
    SLOW = "answered too late, booked"
    TRUNCATED = "answer truncated, booked"
    THROTTLED = "429 with Retry-After"
    REFUSED = "403, out of credits"
    UNREACHABLE = "connection refused"
    CLEARED = "cleared, task state discarded"
    MOVED = "moved by rows in front"

    @property
    def is_kill(self) -> bool:
        """Whether the task process dies."""
        return self in KILLS


KILLS = frozenset(
    {
        Fault.KILL_ANYTIME,
        Fault.KILL_ON_ARRIVAL,
        Fault.KILL_AFTER_BOOKING,
        Fault.KILL_AT_ANSWER,
        Fault.KILL_AFTER_ANSWER,
        Fault.KILL_RESUMED,
    }
)
#: What befalls purchases that have ended, each kind in a round of its own.
BETWEEN_ROUNDS = (Fault.CLEARED, Fault.MOVED)
#: Chance that a purchase is cleared after the first round; and share of rows that are new after the second.
CHANCE_OF_CLEAR, SHARE_OF_NEW = 0.5, 0.1
#: Kills that wait for the create to arrive; the others come by the clock.
AT_CREATE = frozenset(
    {Fault.KILL_ON_ARRIVAL, Fault.KILL_AFTER_BOOKING, Fault.KILL_AT_ANSWER, Fault.KILL_AFTER_ANSWER}
)
#: Faults that the simulator plays, by the name of its scenario.
SCENARIOS = {
    Fault.DROP_BEFORE_BOOKING: "drop-before-booking",
    Fault.DROP_AFTER_BOOKING: "drop-after-booking",
    Fault.BAD_GATEWAY: "create-502-after-booking",
    Fault.SLOW: "slow-create",
    Fault.TRUNCATED: "truncated-create",
    Fault.THROTTLED: "throttled",
    Fault.REFUSED: "no-credits",
}
#: Chances of a try in percent. A third goes well: a purchase that was killed must also get its second chance.
CHANCES = {
    Fault.NOTHING: 31,
    Fault.KILL_ANYTIME: 15,
    Fault.KILL_ON_ARRIVAL: 5,
    Fault.KILL_AFTER_BOOKING: 6,
    Fault.KILL_AT_ANSWER: 7,
    Fault.KILL_AFTER_ANSWER: 5,
    Fault.DROP_BEFORE_BOOKING: 4,
    Fault.DROP_AFTER_BOOKING: 4,
    Fault.BAD_GATEWAY: 4,
    Fault.SLOW: 3,
    Fault.TRUNCATED: 4,
    Fault.THROTTLED: 5,
    Fault.REFUSED: 3,
    Fault.UNREACHABLE: 4,
}
#: Chance that a task which comes back from the triggerer is killed, and seconds within which: it soon ends.
CHANCE_WHEN_RESUMED, WHILE_RESUMED = 0.5, 0.15
#: Kills of resumed tasks that must be planned before one of them must have taken place.
SURELY = 10

#: Seconds within which a delayed kill comes.
LATEST = {
    Fault.KILL_ANYTIME: ANY_INSTANT,
    Fault.KILL_AT_ANSWER: BEFORE_RECORD,
    Fault.KILL_AFTER_ANSWER: AROUND_RECORD,
    Fault.KILL_RESUMED: WHILE_RESUMED,
}


@dataclass(frozen=True, slots=True)
class Fate:
    """
    What happens to one try.

    :param delay: Seconds after the begin of the try, or after the answer, at which a kill comes.
    """

    fault: Fault
    delay: float = 0.0


def fate_of(seed: int, purchase: str, try_number: int, *, resumed: bool = False, round_: int = 0) -> Fate:
    """
    Draw the fate of a try.

    :param try_number: Since the last clear.
    :param resumed: The try comes back from the triggerer.
    :param round_: How often purchases that had ended were cleared before.
    """
    which = f"{seed}:{purchase}:{try_number}{':resumed' * resumed}{f':round {round_}' if round_ else ''}"
    chance = random.Random(which)  # noqa: S311 - no secret
    fault = _resumed_fault(chance) if resumed else chance.choices(list(CHANCES), list(CHANCES.values()))[0]
    if fault.is_kill and try_number > RETRIES:
        return Fate(Fault.NOTHING)
    return Fate(fault, chance.uniform(0, LATEST[fault]) if fault in LATEST else 0.0)


def _resumed_fault(chance: random.Random) -> Fault:
    return Fault.KILL_RESUMED if chance.random() < CHANCE_WHEN_RESUMED else Fault.NOTHING


def is_cleared(seed: int, purchase: str) -> bool:
    """Draw whether a purchase is cleared after the first round."""
    return random.Random(f"{seed}:{purchase}:clear").random() < CHANCE_OF_CLEAR  # noqa: S311 - no secret


def new_purchases(purchases: int) -> list[str]:
    """Return what is ordered in front of all others after the second round."""
    return [purchase_name(purchases + index) for index in range(max(1, int(purchases * SHARE_OF_NEW)))]


def planned_faults(seed: int, purchases: int, waiting: int, *, rounds: bool = False) -> set[Fault]:
    """
    Return the faults that must take place: those of first tries; whether there are later ones is luck.

    :param waiting: Every which purchase waits in the triggerer; 0: none.
    :param rounds: Purchases that have ended are cleared and moved.
    """
    names = [purchase_name(index) for index in range(purchases)]
    planned = {fate_of(seed, name, 1).fault for name in names} - {Fault.NOTHING}
    resumed = [fate_of(seed, name, 1, resumed=True).fault for name in names[::waiting]] if waiting else []
    planned |= set(BETWEEN_ROUNDS) if rounds else set()
    return planned | ({Fault.KILL_RESUMED} if resumed.count(Fault.KILL_RESUMED) >= SURELY else set())
