"""The fault plan: the same seed is the same plan, and every purchase reaches an end."""

from __future__ import annotations

import pytest

from tests.e2e.torture.plan import (
    BETWEEN_ROUNDS,
    CHANCES,
    KILLS,
    LATEST,
    RETRIES,
    SCENARIOS,
    Fault,
    fate_of,
    is_cleared,
    new_purchases,
    planned_faults,
)
from tests.e2e.torture.purchases import named_in, prompt_of, purchase_name

NAMES = [purchase_name(index) for index in range(400)]


def fates(seed, try_number=1, **options):
    """Draw the fates of all purchases."""
    return [fate_of(seed, name, try_number, **options) for name in NAMES]


def test_seed_makes_the_plan():
    """A seed repeats its plan exactly; another seed, try or phase has another one."""
    plans = [fates(1), fates(2), fates(1, 2), fates(1, resumed=True), fates(1, round_=1)]

    assert fates(1) == plans[0]
    assert all(plan != plans[0] for plan in plans[1:])


def test_every_fault_is_planned():
    """The chances are percentages, name every fault, and a large run meets them all."""
    everything = set(Fault) - {Fault.NOTHING}

    assert sum(CHANCES.values()) == 100
    assert set(CHANCES) == set(Fault) - {Fault.KILL_RESUMED, *BETWEEN_ROUNDS}
    assert planned_faults(1, 400, 3, rounds=True) == everything
    assert planned_faults(1, 400, 0) == everything - {Fault.KILL_RESUMED, *BETWEEN_ROUNDS}


@pytest.mark.parametrize("resumed", [False, True])
def test_last_try_is_never_killed(resumed):
    """The try after the last retry lives, or the task would reach no end of its own."""
    last = {fate.fault for fate in fates(1, RETRIES + 1, resumed=resumed)}

    assert not last & KILLS
    assert {fate.fault for fate in fates(1, RETRIES, resumed=resumed)} & KILLS


def test_kills_come_in_time():
    """Delays are spread over the whole window of their kind, and nothing else has one."""
    drawn = [*fates(1), *fates(1, resumed=True)]

    for fault, latest in LATEST.items():
        delays = [fate.delay for fate in drawn if fate.fault is fault]
        assert 0 <= min(delays) < latest / 4
        assert latest * 3 / 4 < max(delays) <= latest
    assert not any(fate.delay for fate in drawn if fate.fault not in LATEST)


def test_clears_and_new_rows_are_planned():
    """About half of the purchases are cleared, always the same ones; new rows have names of their own."""
    cleared = [is_cleared(1, name) for name in NAMES]

    assert cleared == [is_cleared(1, name) for name in NAMES] != [is_cleared(2, name) for name in NAMES]
    assert 160 < sum(cleared) < 240
    assert len(new_purchases(400)) == 40
    assert len(new_purchases(3)) == 1
    assert not set(new_purchases(400)) & set(NAMES)


def test_prompt_names_way_and_purchase():
    """The gate finds out from the prompt who buys; no prompt is part of another."""
    prompts = {prompt_of("ours", name) for name in NAMES}

    assert named_in(prompt_of("sdk", "purchase-0007")) == ("sdk", "purchase-0007")
    assert not any(one in other for one in prompts for other in prompts - {one})


def test_scenarios_are_of_the_simulator():
    """Each fault of the API is a scenario that the simulator knows."""
    from include.musicapi_simulator.scenarios import CATALOGUE

    assert set(SCENARIOS.values()) <= set(CATALOGUE)
    assert set(SCENARIOS) == set(CHANCES) - KILLS - {Fault.NOTHING, Fault.UNREACHABLE}
