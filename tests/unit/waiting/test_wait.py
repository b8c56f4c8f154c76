"""Polling and waiting: what is tolerated, what ends it, and how often the API is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.api.async_client import MusicAPIAsyncClient
from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.models import MusicTask
from musicapi_provider.api.settings import MAX_RETRY_AFTER, ClientSettings
from musicapi_provider.api.verdict import SHAPE_PATIENCE, URL_PATIENCE, State, Verdict
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPIModerationError,
    MusicAPIPartialResultError,
    MusicAPITaskFailedError,
    MusicAPITransientError,
    MusicAPIUnknownTaskError,
    Spent,
)
from musicapi_provider.waiting import wait as waiting
from musicapi_provider.waiting.schedule import JITTER, PRIOR, timetable
from musicapi_provider.waiting.wait import (
    MIN_PAUSE,
    UNKNOWN_TASK_GRACE,
    Doubt,
    Wait,
    doubts_from,
    poll,
    poll_async,
    wait_for_tracks,
)
from tests.conftest import QUICK
from tests.samples import SUCCEEDED, TASK_ID

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

#: Seconds to the schedule's first poll.
FIRST_LOOK = timetable(PRIOR)[1]
BODY = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
READ = "GET /sonic/task/{task_id}"
RUNNING = Verdict(State.RUNNING, "two clips are running")
SUCCESS = Verdict(State.SUCCEEDED, "two clips succeeded")
FAILURE = Verdict(State.FAILED, "failed")
ODD = {"type": "weird", "error": "Something new happened"}
WITHOUT_URL = {"code": 200, "data": [SUCCEEDED | {"audio_url": None}]}


def ago(seconds: float) -> float:
    """Return the epoch seconds of a moment in the past."""
    return time.time() - seconds


def old_wait(*ids: str) -> Wait:
    """Return a wait whose grace for unknown ids is over."""
    return Wait(ids, 3600.0, ago(UNKNOWN_TASK_GRACE + 1))


@pytest.fixture
def buy(client: MusicAPIClient, simulator: SimulatorServer) -> Callable[..., str]:
    """Return a function that buys a music task, with scenarios, and finishes it if asked to."""

    def buy(scenario: str | None = None, *, finished: bool = False) -> str:
        if scenario:
            simulator.state.scenario(scenario, times=1)
        music_task_id = client.create(BODY)
        if finished:
            simulator.state.finish(music_task_id)
        return music_task_id

    return buy


def reads(simulator: SimulatorServer) -> int:
    """Return the number of polls that the API has answered."""
    return simulator.state.requests[READ]


# -- one poll -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "state", "error_class"),
    [
        pytest.param(None, State.SUCCEEDED, None, id="succeeded"),
        pytest.param("numeric-duration", State.SUCCEEDED, None, id="numeric-duration"),
        pytest.param("one-clip", State.SUCCEEDED, None, id="one-clip"),
        pytest.param("extended-pairs", State.SUCCEEDED, None, id="extended-pairs"),
        pytest.param("partial", State.PARTIAL, MusicAPIPartialResultError, id="partial"),
        pytest.param("all-failed", State.FAILED, MusicAPITaskFailedError, id="all-failed"),
        pytest.param("timeout", State.FAILED, MusicAPITaskFailedError, id="timeout"),
        pytest.param("forbidden", State.FAILED, MusicAPIModerationError, id="forbidden"),
        pytest.param("gateway-timeout-refunded", State.FAILED, MusicAPITaskFailedError, id="504"),
    ],
)
def test_look_tells_how_a_music_task_ended(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    scenario: str | None,
    state: State,
    error_class: type[MusicAPIError] | None,
) -> None:
    """One request, one verdict."""
    wait = old_wait(id_ := buy(scenario, finished=True))
    poll(client, wait)
    verdict = wait.verdicts[id_]

    assert state is verdict.state
    assert error_class is (verdict.error and type(verdict.error))
    assert (wait.pending, wait.doubts) == ([], {})
    assert reads(simulator) == 1


def test_look_keeps_final_verdicts_without_asking_again(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Only what was still running is asked for, and the order of the ids stays."""
    ids = [buy(), buy(finished=True), buy("failed", finished=True), buy()]
    wait = old_wait(*ids)
    poll(client, wait)
    first = dict(wait.verdicts)
    pending = wait.pending
    poll(client, wait)

    assert ids == list(first) == list(wait.verdicts)
    assert [v.state.value for v in first.values()] == ["running", "succeeded", "failed", "running"]
    assert [ids[0], ids[3]] == pending
    assert reads(simulator) == 4 + 2
    assert all(first[id_] is wait.verdicts[id_] for id_ in ids[1:3])


def test_wait_knows_nothing_at_first(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Every id is asked for until it has a final verdict of its own; given verdicts are kept."""
    old, new = buy(finished=True), buy(finished=True)
    wait = Wait([old, new], 60.0, verdicts={old: SUCCESS})
    pending = wait.pending
    poll(client, wait)

    assert [new] == pending
    assert wait.verdicts[old] is SUCCESS
    assert reads(simulator) == 1


@pytest.mark.parametrize(
    "scenario",
    [
        *("read-500", "read-502", "read-504", "read-429", "read-429-date"),
        *("read-truncated", "read-html", "read-drop"),
    ],
)
def test_look_tolerates_a_passing_failure(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str], scenario: str
) -> None:
    """A blip is no verdict, costs one request and no patience; the next poll finds the track."""
    wait = old_wait(id_ := buy(finished=True))
    simulator.state.scenario(scenario, times=1)
    poll(client, wait)
    blip = wait.verdicts[id_]
    requests = reads(simulator)
    poll(client, wait)

    assert (blip.state, blip.patience, wait.doubts) == (State.RUNNING, None, {})
    assert requests == 1
    assert State.SUCCEEDED is wait.verdicts[id_].state


def test_look_tolerates_a_server_that_is_away(settings: ClientSettings, refusing_url: str) -> None:
    """A network that is down for a while is waited out."""
    wait = old_wait("t1")
    poll(MusicAPIClient(replace(settings, base_url=refusing_url), retries=QUICK), wait)

    assert State.RUNNING is wait.verdicts["t1"].state


@pytest.mark.parametrize("scenario", ["unknown-404", "unknown-400"])
@pytest.mark.parametrize(
    ("age", "state"),
    [
        pytest.param(0.0, State.RUNNING, id="in-grace"),
        pytest.param(UNKNOWN_TASK_GRACE - 5, State.RUNNING, id="late-in-grace"),
        pytest.param(UNKNOWN_TASK_GRACE + 1, State.FAILED, id="after-grace"),
    ],
)
def test_unknown_id_is_expected_until_its_grace_ends(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    scenario: str,
    age: float,
    state: State,
) -> None:
    """Not found proves nothing right after submitting, and everything later."""
    wait = Wait([id_ := buy(finished=True)], 3600.0, ago(age))
    simulator.state.scenario(scenario)
    poll(client, wait)
    verdict = wait.verdicts[id_]

    assert state is verdict.state
    assert isinstance(verdict.error, MusicAPIUnknownTaskError) is (state is State.FAILED)


def test_revoked_key_ends_the_look(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """A refused key concerns the account; waiting would not cure it."""
    wait = Wait([buy(finished=True)], 60.0)
    simulator.state.configure(api_key="new")

    with pytest.raises(MusicAPIAuthError):
        poll(client, wait)


def test_look_at_nothing_asks_nothing(client: MusicAPIClient, simulator: SimulatorServer) -> None:
    """No ids, no requests."""
    wait = Wait([], 60.0)
    poll(client, wait)

    assert wait.verdicts == {}
    assert reads(simulator) == 0


# -- doubts -------------------------------------------------------------------------------------------------

DOUBTS = [
    pytest.param("no-audio-url", URL_PATIENCE, id="no-audio-url"),
    pytest.param("unknown-type", SHAPE_PATIENCE, id="unknown-type"),
]


@pytest.mark.parametrize(("scenario", "patience"), DOUBTS)
def test_doubtful_answer_counts_when_its_patience_is_over(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    scenario: str,
    patience: float,
) -> None:
    """An odd answer is polled again, one request a poll, and fails when it stays odd for long."""
    wait = old_wait(id_ := buy(scenario, finished=True))
    states = []
    for since in (None, patience - 1, patience):
        if since is not None:
            wait.doubts[id_] = [ago(since), patience]
        poll(client, wait)
        states.append(wait.verdicts[id_].state)

    assert states == [State.RUNNING, State.RUNNING, State.FAILED]
    assert isinstance(wait.verdicts[id_].error, MusicAPITaskFailedError)
    assert wait.verdicts[id_].error.spent is Spent.UNKNOWN
    assert reads(simulator) == 3


def test_first_doubt_is_dated_and_keeps_its_date(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """Patience runs from the first doubtful answer, not from the last."""
    wait = old_wait(id_ := buy("no-audio-url", finished=True))
    poll(client, wait)
    dated = dict(wait.doubts)
    poll(client, wait)

    assert abs(time.time() - dated[id_][0]) < 1
    assert dated == wait.doubts


@pytest.mark.parametrize(("scenario", "patience"), DOUBTS)
def test_doubt_that_goes_away_is_forgotten(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    scenario: str,
    patience: float,
) -> None:
    """A URL that arrives at the last moment makes it a success."""
    wait = old_wait(id_ := buy(scenario, finished=True))
    poll(client, wait)
    wait.doubts[id_] = [ago(patience + 1), patience]
    simulator.state.clear_scenarios()
    poll(client, wait)

    assert State.SUCCEEDED is wait.verdicts[id_].state
    assert wait.doubts == {}


def test_doubt_starts_anew_after_a_clear_answer() -> None:
    """Two odd answers with a sound one between them are two first doubts."""
    wait = Wait([TASK_ID], 60.0, doubts={TASK_ID: [ago(URL_PATIENCE + 1), URL_PATIENCE]})
    for body in ({"type": "not_ready"}, WITHOUT_URL):
        wait.learn(TASK_ID, MusicTask.from_answer(TASK_ID, 200, body), allow_http=False)

    assert State.RUNNING is wait.verdicts[TASK_ID].state
    assert time.time() - wait.doubts[TASK_ID][0] < 1


def test_blip_while_doubting_decides_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """A failed second poll is not a second opinion, and it does not set the clock back."""
    wait = old_wait(id_ := buy("no-audio-url", finished=True))
    wait.doubts[id_] = since = [ago(URL_PATIENCE + 1), URL_PATIENCE]
    simulator.state.scenario("read-500", times=1)
    poll(client, wait)

    assert State.RUNNING is wait.verdicts[id_].state
    assert {id_: since} == wait.doubts


def test_doubt_about_one_music_task_is_not_one_about_another() -> None:
    """Each id has a clock of its own."""
    wait = Wait(["old", "new"], 60.0, doubts={"old": [ago(SHAPE_PATIENCE), SHAPE_PATIENCE]})
    for id_ in ("old", "new"):
        wait.learn(id_, MusicTask.from_answer(id_, 200, ODD), allow_http=False)

    assert [verdict.state for verdict in wait.verdicts.values()] == [State.FAILED, State.RUNNING]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"t1": [5, 90], "t2": (1.5, 5.0)}, {"t1": [5.0, 90.0], "t2": [1.5, 5.0]}, id="doubts"),
        pytest.param({}, {}, id="no-doubts"),
        pytest.param(
            {"t1": ["5", 5], "t2": None, "t3": [7.0, 5], "t4": 7.0, "t5": [1]}, {"t3": [7.0, 5.0]}, id="odd"
        ),
        pytest.param(None, {}, id="none"),
        pytest.param([("t1", 5)], {}, id="list"),
        pytest.param("t1", {}, id="text"),
    ],
)
def test_doubts_from_another_process(value: object, expected: dict[str, Doubt]) -> None:
    """What an event carries is taken if it makes sense, and is no doubt otherwise."""
    assert expected == doubts_from(value)


# -- the asynchronous twin ----------------------------------------------------------------------------------


def told(verdict: Verdict) -> tuple[Any, ...]:
    """Return what both twins must agree on."""
    text = verdict.error and verdict.error.message
    return (
        *(verdict.state, verdict.tracks, verdict.failures, verdict.patience, verdict.retry_after),
        *(type(verdict.error), text),
    )


async def look_with_both(
    client: MusicAPIClient, settings: ClientSettings, twins: tuple[Wait, Wait]
) -> list[tuple[Any, ...]]:
    """Poll with each twin at its own wait and return what it learned about the one music task."""
    async with MusicAPIAsyncClient(settings, retries=QUICK) as twin:
        await poll_async(twin, twins[1])
    poll(client, twins[0])
    return [told(*wait.verdicts.values()) for wait in twins]


@pytest.mark.parametrize("doubted", [pytest.param(False, id="first"), pytest.param(True, id="doubted")])
@pytest.mark.parametrize(
    "ending",
    [
        *(None, "partial", "all-failed", "failed", "timeout", "api-error", "forbidden"),
        *("gateway-timeout-refunded", "unknown-type", "no-audio-url", "one-clip", "extended-pairs"),
        *("numeric-duration", "running", "not-ready-200", "code-102", "empty-data", "streaming-state"),
        *("unknown-state", "not-found-at-first"),
    ],
)
async def test_poll_async_agrees_with_look_about_every_job(
    client: MusicAPIClient,
    settings: ClientSettings,
    buy: Callable[..., str],
    ending: str | None,
    doubted: bool,
) -> None:
    """The same answers mean the same in the triggerer, at first and after a long doubt."""
    openings = {"running", "not-ready-200", "code-102", "empty-data", "streaming-state", "unknown-state"}
    id_ = buy(ending, finished=ending not in openings | {"not-found-at-first"})
    twins = old_wait(id_), old_wait(id_)
    if doubted:
        for wait in twins:
            wait.doubts[id_] = [
                ago(URL_PATIENCE),
                SHAPE_PATIENCE if ending == "unknown-type" else URL_PATIENCE,
            ]
    first, second = await look_with_both(client, settings, twins)

    assert first == second
    assert twins[0].doubts.keys() == twins[1].doubts.keys()


@pytest.mark.parametrize(
    "scenario",
    [
        *("read-500", "read-502", "read-504", "read-429", "read-429-date", "read-truncated"),
        *("read-html", "unknown-404", "unknown-400"),
    ],
)
@pytest.mark.parametrize(
    "age", [pytest.param(0.0, id="grace"), pytest.param(UNKNOWN_TASK_GRACE + 1, id="later")]
)
async def test_poll_async_agrees_with_look_about_every_failing_read(
    client: MusicAPIClient,
    settings: ClientSettings,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    scenario: str,
    age: float,
) -> None:
    """The same failures are tolerated, and to the same degree; one request each."""
    id_ = buy(finished=True)
    simulator.state.scenario(scenario, times=2)
    twins = Wait([id_], 3600.0, ago(age)), Wait([id_], 3600.0, ago(age))
    first, second = await look_with_both(client, settings, twins)

    assert first == second
    assert reads(simulator) == 2


async def test_poll_async_tolerates_a_dropped_connection(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """A connection that breaks is a blip here, too."""
    wait = old_wait(id_ := buy(finished=True))
    simulator.state.scenario("read-drop", times=1)
    states = []
    async with MusicAPIAsyncClient(settings, retries=QUICK) as twin:
        for _ in range(2):
            await poll_async(twin, wait)
            states.append(wait.verdicts[id_].state)

    assert states == [State.RUNNING, State.SUCCEEDED]


async def test_poll_async_keeps_final_verdicts_without_asking_again(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Only what was still running is asked for."""
    ids = [buy(), buy(finished=True)]
    wait = old_wait(*ids)
    async with MusicAPIAsyncClient(settings, retries=QUICK) as twin:
        await poll_async(twin, wait)
        final = wait.verdicts[ids[1]]
        await poll_async(twin, wait)

    assert ids == list(wait.verdicts)
    assert final is wait.verdicts[ids[1]]
    assert reads(simulator) == 2 + 1


async def test_poll_async_raises_for_a_revoked_key(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """What concerns the account is raised here, too."""
    wait = Wait([buy()], 60.0)
    simulator.state.configure(api_key="new")
    async with MusicAPIAsyncClient(settings, retries=QUICK) as twin:
        with pytest.raises(MusicAPIAuthError):
            await poll_async(twin, wait)


# -- waiting ------------------------------------------------------------------------------------------------


def test_waiting_returns_all_tracks_in_order(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Two music tasks, four tracks, and no request more than needed."""
    ids = [buy(), buy()]
    tracks = wait_for_tracks(client, ids, timeout=5, poll_interval=0.01, pause=lambda _: None)

    assert [ids[0], ids[0], ids[1], ids[1]] == [track.music_task_id for track in tracks]
    assert all(track.audio_url for track in tracks)
    assert reads(simulator) == 2 * 3


def test_waiting_with_the_real_clock(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """Without a pause of one's own it sleeps for the interval."""
    started = time.monotonic()
    wait_for_tracks(client, [buy()], timeout=5, poll_interval=0.06)

    assert time.monotonic() - started >= 2 * 0.06


def test_waiting_keeps_the_users_interval(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """A fixed interval is kept to the second."""
    pauses: list[float] = []
    wait_for_tracks(client, [buy()], timeout=100, poll_interval=7.0, pause=pauses.append)

    assert pauses == [7.0, 7.0]


def test_waiting_without_an_interval_follows_the_schedule(
    client: MusicAPIClient, buy: Callable[..., str]
) -> None:
    """The second poll comes late, as the schedule says."""
    pauses: list[float] = []
    wait_for_tracks(client, [buy()], timeout=100, pause=pauses.append)

    assert all(FIRST_LOOK * (1 - JITTER) - 1 <= pause <= FIRST_LOOK * (1 + JITTER) + 1 for pause in pauses)


def test_waiting_never_pauses_beyond_the_deadline(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """The last poll is made when the time is over, not an interval later."""
    pauses: list[float] = []
    wait_for_tracks(client, [buy()], timeout=3, poll_interval=50, pause=pauses.append)

    assert pauses
    assert all(2 < pause <= 3 for pause in pauses)


def test_waiting_waits_as_long_as_the_server_asks(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """``Retry-After`` goes above the user's interval, once."""
    id_ = buy(finished=True)
    simulator.state.retry_after = 30.0
    simulator.state.scenario("read-429", times=1)
    pauses: list[float] = []
    wait_for_tracks(client, [id_], timeout=100, poll_interval=0.1, pause=pauses.append)

    assert pauses == [30.0]


@pytest.mark.parametrize("poll_interval", [0.0, 0.02])
def test_deadline_is_an_error_that_names_what_runs(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str], poll_interval: float
) -> None:
    """Out of time: the id, the last poll, the credits; and no tight loop on the way."""
    id_, done = buy("running"), buy(finished=True)
    with pytest.raises(MusicAPIDeadlineError) as raised:
        wait_for_tracks(client, [id_, done], timeout=0.12, poll_interval=poll_interval)

    assert id_ in str(raised.value)
    assert done not in str(raised.value)
    assert (id_, Spent.SPENT) == (raised.value.music_task_id, raised.value.spent)
    assert 2 <= reads(simulator) - 1 <= 2 + 0.12 / MIN_PAUSE


def test_timeout_of_zero_looks_once(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """What is there already is taken; what is not is not waited for."""
    done, running = buy(finished=True), buy("running")

    assert len(wait_for_tracks(client, [done], timeout=0)) == 2
    with pytest.raises(MusicAPIDeadlineError):
        wait_for_tracks(client, [running], timeout=0)
    assert reads(simulator) == 2


def test_waiting_for_a_partial_result_both_ways(
    client: MusicAPIClient, buy: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """The good clip is the result and the bad one is logged, unless a partial result is a failure."""
    id_ = buy("partial", finished=True)
    (track,) = wait_for_tracks(client, [id_], timeout=5)

    assert track.state == "succeeded"
    assert "Not among the results: clip" in caplog.text
    with pytest.raises(MusicAPIPartialResultError):
        wait_for_tracks(client, [id_], timeout=5, fail_on_partial=True)


def test_waiting_for_good_and_failed_tasks_both_ways(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """Of several music tasks the good ones are the result, unless a partial result is a failure."""
    ids = [buy("failed", finished=True), buy()]
    tracks = wait_for_tracks(client, ids, timeout=5, poll_interval=0.01, pause=lambda _: None)

    assert [ids[1]] * 2 == [track.music_task_id for track in tracks]
    with pytest.raises(MusicAPIPartialResultError):
        wait_for_tracks(client, ids, timeout=5, fail_on_partial=True)


def test_waiting_for_a_failed_task_raises_its_error(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """The class of the failure arrives."""
    with pytest.raises(MusicAPIModerationError, match="Inappropriate content"):
        wait_for_tracks(client, [buy("forbidden", finished=True)], timeout=5)


def test_waiting_gives_a_young_id_its_grace(client: MusicAPIClient, buy: Callable[..., str]) -> None:
    """Not found at first is waited out."""
    id_ = buy("not-found-at-first")

    assert len(wait_for_tracks(client, [id_], timeout=5, poll_interval=0.01, pause=lambda _: None)) == 2


def test_waiting_says_what_it_waits_for_once(
    client: MusicAPIClient, buy: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not a log line per poll."""
    caplog.set_level("INFO")
    id_ = buy("running")
    with pytest.raises(MusicAPIDeadlineError):
        wait_for_tracks(client, [id_], timeout=0.15, poll_interval=0.01)
    lines = [record.getMessage() for record in caplog.records]

    assert [line for line in lines if id_ in line] == [
        f"Music task {id_}: 2 of 2 clips are running, next poll in 0 s"
    ]


def test_waiting_outlives_a_doubt(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """A URL that comes late is waited for."""
    id_ = buy("no-audio-url", finished=True)

    tracks = wait_for_tracks(
        client, [id_], timeout=5, poll_interval=1, pause=lambda _: simulator.state.clear_scenarios()
    )

    assert len(tracks) == 2
    assert reads(simulator) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("scenario", ["no-audio-url", "unknown-type"])
def test_waiting_ends_when_a_doubt_does_not(
    client: MusicAPIClient, simulator: SimulatorServer, buy: Callable[..., str], scenario: str
) -> None:
    """An answer that stays odd for longer than the patience is a failure, well before the deadline."""
    id_ = buy(scenario, finished=True)
    with pytest.raises(MusicAPITaskFailedError) as raised:
        wait_for_tracks(client, [id_], timeout=60, poll_interval=0.01)

    assert raised.value.spent is Spent.UNKNOWN
    assert reads(simulator) >= 2


# -- the state of a wait ------------------------------------------------------------------------------------


def wait_with(*verdicts: Verdict, timeout: float = 60.0, age: float = 0.0) -> Wait:
    """Return a wait for music tasks t1, t2, ... of which this is known."""
    known = {f"t{n}": verdict for n, verdict in enumerate(verdicts, 1)}
    return Wait(list(known), timeout, ago(age), verdicts=known)


@pytest.mark.parametrize(
    ("asked", "poll_interval", "expected"),
    [
        pytest.param([None], 5.0, 5.0, id="nobody-asks"),
        pytest.param([3.0], 5.0, 5.0, id="asked-for-less"),
        pytest.param([9.0], 5.0, 9.0, id="asked-for-more"),
        pytest.param([9.0, None, 12.0], 5.0, 12.0, id="longest-wins"),
        pytest.param([1e9], 5.0, MAX_RETRY_AFTER, id="capped"),
        pytest.param([0.0], 0.0, MIN_PAUSE, id="never-a-tight-loop"),
        pytest.param([], 5.0, 5.0, id="nothing-awaited"),
        pytest.param([None], 1e9, 1000.0, id="never-beyond-the-deadline"),
    ],
)
def test_delay_before_the_next_poll(asked: list[float | None], poll_interval: float, expected: float) -> None:
    """The interval, or longer if the server asks for it, within the deadline."""
    wait = wait_with(*(replace(RUNNING, retry_after=wish) for wish in asked), timeout=1000.0)

    assert wait.delay(poll_interval) == pytest.approx(expected, abs=0.01)


def test_delay_after_the_deadline_is_nothing() -> None:
    """Never negative: sleep would refuse it."""
    assert wait_with(RUNNING, timeout=1.0, age=5.0).delay(3.0) == 0.0


def test_delay_without_an_interval_follows_the_schedule() -> None:
    """A young wait polls late for the first time."""
    delay = wait_with(RUNNING).delay(None)

    assert FIRST_LOOK * (1 - JITTER) - 1 < delay <= FIRST_LOOK * (1 + JITTER) + 1


def test_age_and_time_left_go_by_the_wall_clock() -> None:
    """A wait that goes on in another process has neither more nor less time."""
    wait = Wait(["t1"], 60.0, ago(45.0))

    assert wait.age == pytest.approx(45.0, abs=1)
    assert wait.seconds_left == pytest.approx(15.0, abs=1)
    assert Wait(["t1"], 60.0).age < 1


def test_first_poll_and_first_change_are_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """One music task is told in full, several are counted, and further changes wait for the next line."""
    caplog.set_level("INFO")
    one, three = wait_with(RUNNING, age=0), wait_with(RUNNING, FAILURE, RUNNING, age=0)
    for wait in (one, one, three, three):
        wait.log_progress(12.3)
    for verdict in (SUCCESS, RUNNING, SUCCESS):
        three.verdicts["t3"] = verdict
        three.log_progress(0.6)

    assert [record.getMessage() for record in caplog.records] == [
        "Music task t1: two clips are running, next poll in 12 s",
        "1 of 3 music tasks done, next poll in 12 s",
        "2 of 3 music tasks done, next poll in 1 s",
    ]


@pytest.mark.parametrize("anew", [False, True], ids=["one process", "a process for each poll"])
@pytest.mark.parametrize("interval", [1.0, 15.0, 45.0])
def test_lines_of_progress_double_in_distance(
    interval: float, anew: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Alternating answers for a day, at any interval, with or without a memory: a dozen lines and a few."""
    caplog.set_level("INFO")
    wait, ages = wait_with(RUNNING, age=0), []
    for number in range(int(86400 / interval)):
        now = wait.started + number * interval
        monkeypatch.setattr(waiting.time, "time", lambda now=now: now)
        wait.verdicts["t1"] = RUNNING if number % 2 else Verdict(State.RUNNING, "HTTP 500")
        if anew:
            wait = replace(wait, _told=None, _said="", _changes=0)
        seen = len(caplog.records)
        wait.log_progress(interval)
        ages += [number * interval] * (len(caplog.records) - seen)

    assert 12 <= len(ages) <= 14
    assert ages[0] == 0
    assert all(late >= 1.3 * early for early, late in pairwise(ages[3:]))


def test_quiet_wait_tells_nothing_of_its_own(logged: Log) -> None:
    """Its owner tells of all its waits; a line for each of thousands would hide that."""
    wait = Wait(["t1"], 60, quiet=True)
    wait.log_progress(1.0)
    wait.verdicts["t1"] = Verdict(State.SUCCEEDED, "done")

    assert wait.tracks(fail_on_partial=False) == []
    assert logged.text == ""


def test_line_of_progress_falls_due_by_age() -> None:
    """At 30 s, 60 s, 120 s, also after the clock was set back."""
    due = [wait_with(RUNNING, age=age).seconds_to_line for age in (-10, 0, 29, 31, 61, 121)]

    assert due == pytest.approx([40, 30, 1, 29, 59, 119], abs=0.5)


def test_last_line_names_no_next_poll(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is none."""
    caplog.set_level("INFO")
    wait_with(RUNNING, age=5).log_progress(math.inf)

    assert [record.getMessage() for record in caplog.records] == ["Music task t1: two clips are running"]


@pytest.mark.parametrize("known", [[0.0, URL_PATIENCE], [0.0, SHAPE_PATIENCE + 1]])
def test_doubt_of_another_kind_from_another_process_starts_anew(known: Doubt) -> None:
    """A first odd answer is never confirmed by the age of an older, different doubt."""
    wait = Wait([TASK_ID], 60.0, doubts={TASK_ID: known})
    wait.learn(TASK_ID, MusicTask.from_answer(TASK_ID, 200, ODD), allow_http=False)

    assert State.RUNNING is wait.verdicts[TASK_ID].state
    assert wait.doubts[TASK_ID] == [pytest.approx(time.time(), abs=1), SHAPE_PATIENCE]


def test_deadline_error_names_all_that_run() -> None:
    """Of several, each is named, and none is singled out."""
    with pytest.raises(MusicAPIDeadlineError) as several:
        wait_with(RUNNING, SUCCESS, RUNNING, age=61.0).tracks(fail_on_partial=False)
    with pytest.raises(MusicAPIDeadlineError) as single:
        wait_with(RUNNING, SUCCESS, age=61.0).tracks(fail_on_partial=False)

    assert "After 60 s still running: t1, t3 (last poll: two clips are running)." in str(several.value)
    assert several.value.music_task_id is None
    assert single.value.music_task_id == "t1"


def test_tracks_are_not_there_while_something_runs() -> None:
    """In time: nothing yet, no error, even if another music task has failed."""
    assert wait_with(RUNNING, FAILURE).tracks(fail_on_partial=True) is None


def test_tracks_after_the_deadline_are_taken_if_all_is_final() -> None:
    """A last poll that finds everything is in time."""
    assert wait_with(SUCCESS, age=61.0).tracks(fail_on_partial=True) == []


def test_tracks_of_nothing_is_nothing() -> None:
    """An empty list of ids, as an empty mapping gives it, is no failure."""
    assert Wait([], 60.0).tracks(fail_on_partial=True) == []


def test_learning_an_error_keeps_the_servers_wish() -> None:
    """The next poll comes when the server asked for it."""
    wait = Wait(["t1"], 1000.0)
    wait.learn("t1", MusicAPITransientError("x", retry_after=50.0), allow_http=False)

    assert wait.delay(1.0) == pytest.approx(50.0)
