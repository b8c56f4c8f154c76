"""When to look next: late first, then dense, then sparse, with jitter."""

from __future__ import annotations

import pytest

from musicapi_provider.schedule import FIRST_LOOK, JITTER, STEPS, next_delay


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(0.0, 20.0, id="first-look-is-late"),
        pytest.param(4.0, 16.0, id="first-look-counts-from-the-start"),
        pytest.param(9.9, 10.1, id="last-moment-of-the-first-look"),
        pytest.param(10.0, 8.0, id="first-look-is-over"),
        pytest.param(20.0, 8.0, id="dense"),
        pytest.param(119.9, 8.0, id="dense-until-two-minutes"),
        pytest.param(120.0, 15.0, id="as-the-vendor-recommends"),
        pytest.param(299.9, 15.0, id="until-five-minutes"),
        pytest.param(300.0, 30.0, id="sparse"),
        pytest.param(1e9, 30.0, id="sparse-for-ever"),
    ],
)
def test_delay_follows_the_age(age: float, expected: float) -> None:
    """With the middle chance the delay is the step's own."""
    assert next_delay(age, chance=0.5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("chance", "factor"),
    [pytest.param(0.0, 0.9, id="earliest"), pytest.param(1.0, 1.1, id="latest")],
)
@pytest.mark.parametrize("age", [0.0, 60.0, 200.0, 1000.0])
def test_jitter_spreads_a_tenth_both_ways(age: float, chance: float, factor: float) -> None:
    """The chance moves the delay by a tenth at most."""
    middle = next_delay(age, chance=0.5)

    assert next_delay(age, chance=chance) == pytest.approx(middle * factor)


def test_chance_is_drawn_when_none_is_given() -> None:
    """Two tasks that started together do not go on together."""
    delays = {next_delay(60.0) for _ in range(20)}
    step = STEPS[0][1]

    assert len(delays) > 1
    assert all(step * (1 - JITTER) <= delay <= step * (1 + JITTER) for delay in delays)


@pytest.mark.parametrize("age", [0.0, 60.0, 1000.0])
def test_poll_interval_of_the_user_overrides_everything(age: float) -> None:
    """A fixed interval knows no age and no jitter."""
    assert next_delay(age, poll_interval=2.5) == 2.5


def test_steps_cover_every_age_and_never_get_denser() -> None:
    """The table ends at infinity and only slows down."""
    ends, delays = zip(*STEPS, strict=True)

    assert list(ends) == sorted(ends)
    assert ends[-1] == float("inf")
    assert list(delays) == sorted(delays)
    assert next_delay(0.0, chance=0.5) == FIRST_LOOK
