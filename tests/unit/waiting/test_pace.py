"""The pace: no bursts, one pause for all, slower after a refusal, and how fast it comes back."""

from __future__ import annotations

import logging
import math

import pytest

from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPIError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIThrottledError,
    MusicAPITransientError,
)
from musicapi_provider.waiting import wait as waiting
from musicapi_provider.waiting.pace import SLOWEST, Pace, asks_for_a_pause


def refusal(retry_after: float | None = None) -> MusicAPIThrottledError:
    """Return a 429."""
    return MusicAPIThrottledError("Slow down.", status_code=429, retry_after=retry_after)


def test_looks_are_a_moment_apart() -> None:
    """Ten a second are a tenth of a second apart; there is no credit for idle times."""
    pace = Pace(10.0, "polls of music tasks")
    pace.take(100.0)

    assert pace.next_at == pytest.approx(100.1)


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        pytest.param(5.0, 5.0, id="asked"),
        pytest.param(0.0, waiting.MIN_PAUSE, id="never-a-tight-loop"),
        pytest.param(1e9, MAX_RETRY_AFTER, id="capped"),
    ],
)
def test_pause_is_what_the_server_asked_for(asked: float, least: float) -> None:
    """Never less, and a little more by chance: other processes come back at the same time."""
    pace = Pace(10.0, "polls of music tasks")
    pace.heed(refusal(asked), 100.0)

    assert 100.0 + least <= pace.next_at <= 100.0 + 1.1 * least


def test_pauses_grow_when_nobody_says_how_long() -> None:
    """Doubled each time up to a minute; answers to requests that were under way do not count."""
    pace, now, pauses = Pace(10.0, "polls of music tasks"), 0.0, []
    for _ in range(9):
        for _ in range(3):
            pace.heed(refusal(), now)
        pauses.append(pace.next_at - now)
        now = pace.next_at

    assert [pytest.approx(2**n, rel=0.11) for n in range(6)] == pauses[:6]
    assert all(60 <= pause <= 66 for pause in pauses[6:])


@pytest.mark.parametrize(
    "error",
    [
        refusal(),
        MusicAPITransientError("x", status_code=503),
        MusicAPITransientError("x", status_code=500, retry_after=1.0),
        MusicAPINotSentError("x"),
    ],
)
def test_refusals_slow_the_pace_and_answers_bring_it_back(error: MusicAPIError) -> None:
    """A server with a lower limit is not met at full speed after each pause; the floor keeps it going."""
    pace, now = Pace(10.0, "polls of music tasks"), 0.0
    for _ in range(20):
        pace.heed(error, now)
        now = pace.next_at
    slowest = pace.current
    for _ in range(200):
        pace.heed(MusicAPITransientError("x", status_code=500), now)

    assert slowest == pytest.approx(10.0 * SLOWEST)
    assert pace.current == pace.full == 10.0


def test_constants_agree() -> None:
    """The pause that nothing undercuts is the one of every mode."""
    assert waiting.MIN_PAUSE == 0.05


@pytest.mark.parametrize(
    ("recovery", "answers"), [pytest.param(0.01, 50, id="polls"), pytest.param(0.25, 2, id="creates")]
)
def test_recovery_is_its_own(recovery: float, answers: int) -> None:
    """Polls are many and come back slowly; creates are few, and a quarter each is slow enough."""
    pace = Pace(1.0, "creates", recovery=recovery)
    pace.heed(refusal(0.0), 100.0)
    for _ in range(answers - 1):
        pace.heed(None, 200.0)
    almost = pace.current
    pace.heed(None, 200.0)

    assert almost < pace.full
    assert pace.current == pytest.approx(pace.full)


def test_refused_creates_keep_a_pace_and_the_distance_follows_it() -> None:
    """After one refusal creates are twice as far apart."""
    pace = Pace(1 / 3, "creates", recovery=0.25)
    pace.heed(refusal(0.0), 0.0)
    pace.take(100.0)

    assert pace.next_at == pytest.approx(106.0)


def test_pace_without_end_knows_pauses_all_the_same() -> None:
    """No interval between creates: as fast as they come, except while the server asks for a pause."""
    pace = Pace(math.inf, "creates", recovery=0.25)
    pace.take(100.0)
    free = pace.next_at
    pace.heed(refusal(2.0), 100.0)
    paused = pace.next_at
    pace.heed(None, 103.0)
    pace.take(103.0)

    assert free == 100.0
    assert 102.0 <= paused <= 102.2
    assert pace.next_at == 103.0
    assert pace.current == math.inf


def test_shorter_pause_does_not_cut_a_longer_one() -> None:
    """Another request's answer, that left before the pause."""
    pace = Pace(10.0, "polls")
    pace.heed(refusal(60.0), 100.0)
    pace.heed(refusal(1.0), 101.0)

    assert pace.next_at >= 160.0
    assert pace.current == 5.0


def test_pause_is_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    """Why, what waits, and how long; once per pause."""
    caplog.set_level(logging.WARNING)
    pace = Pace(10.0, "creates")
    for _ in range(3):
        pace.heed(refusal(10.0), 100.0)
    told = [line for line in caplog.messages if "Slow down. No creates for 1" in line]

    assert 1 <= len(told) <= 3


@pytest.mark.parametrize(
    ("error", "asks"),
    [
        pytest.param(MusicAPIThrottledError("x"), True, id="429"),
        pytest.param(MusicAPINotSentError("x"), True, id="nobody-there"),
        pytest.param(MusicAPITransientError("x", status_code=503), True, id="503"),
        pytest.param(MusicAPITransientError("x", status_code=500), False, id="500"),
        pytest.param(MusicAPIAmbiguousSubmitError("x", status_code=503), True, id="lost-in-a-503"),
        pytest.param(MusicAPIAuthError("x"), False, id="key"),
        pytest.param(MusicAPIModerationError("x", retry_after=0.0), True, id="any-retry-after"),
    ],
)
def test_what_asks_for_a_pause(error: MusicAPIError, asks: bool) -> None:
    """What concerns no single request, or says so itself."""
    assert asks_for_a_pause(error) is asks
