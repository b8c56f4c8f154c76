"""The shared poller: one session, one pace and one pause for all waiters; nobody waits in vain."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.api.async_client import CONNECTIONS, MusicAPIAsyncClient
from musicapi_provider.api.verdict import State
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIError,
    MusicAPIRetiredError,
    Spent,
)
from musicapi_provider.waiting import pace
from musicapi_provider.waiting import poller as poller_module
from musicapi_provider.waiting import wait as waiting
from musicapi_provider.waiting.pace import Pace
from musicapi_provider.waiting.poller import Poller, shared_poller
from musicapi_provider.waiting.schedule import PRIOR, Experience
from musicapi_provider.waiting.wait import UNKNOWN_TASK_GRACE, Wait

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.settings import ClientSettings
    from tests.unit.conftest import OddServer

BODY = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
READ = "GET /sonic/task/{task_id}"
#: Seconds after which a test that hangs fails.
PATIENCE = 10.0


@pytest.fixture
def settings(settings: ClientSettings) -> ClientSettings:
    """Return settings with a pace that tests need not wait for."""
    return replace(settings, polls_per_second=2000.0)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten the pauses that are constants; nothing may be left in the registry afterwards."""
    monkeypatch.setattr(poller_module, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(pace, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.02)
    poller_module._experiences.clear()
    yield
    assert poller_module._shared == {}


@pytest.fixture
async def poller(settings: ClientSettings) -> AsyncIterator[Poller]:
    """Return a poller of one's own."""
    poller = Poller(MusicAPIAsyncClient(settings))
    yield poller
    await poller.close()


@pytest.fixture
def buy(simulator: SimulatorServer) -> Callable[..., str]:
    """Return a function that books a music task, with a scenario of its own, and finishes it if asked to."""
    simulator.state.configure(credits=10**6)

    def buy(scenario: str | None = None, *, finished: bool = False) -> str:
        words = f"simulate:{scenario}" if scenario else ""
        job = simulator.state.book(BODY | {"title": words})
        assert job is not None
        if finished:
            simulator.state.finish(job.task_id)
        return job.task_id

    return buy


def reads(simulator: SimulatorServer) -> int:
    """Return the number of polls that the API has answered."""
    return simulator.state.requests[READ]


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until something has happened."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the simulator's thread knows no asyncio event
            await asyncio.sleep(0.001)


async def all_of(*waits: Any) -> list[Any]:
    """Return the results of all, errors included, within the patience of a test."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*waits, return_exceptions=True)


# -- waiting ------------------------------------------------------------------------------------------------


async def test_many_ids_in_one_wait(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Each id is polled until it is final, and not once more."""
    ids = [buy(), buy("failed"), buy("partial"), buy(finished=True), buy("not-found-at-first")]
    wait = Wait(ids, 60.0)

    assert await poller.wait(wait) == "finished"
    assert [verdict.state.value for verdict in wait.verdicts.values()] == [
        *("succeeded", "failed", "partial", "succeeded", "succeeded")
    ]
    assert reads(simulator) == 3 + 3 + 3 + 1 + 3


async def test_what_is_final_is_not_asked_for(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """A wait that is over needs no poll, and no worker."""
    wait = Wait([buy(finished=True)], 60.0)
    first, second = await poller.wait(wait), await poller.wait(wait)

    assert (first, second) == ("finished", "finished")
    assert await poller.wait(Wait([], 60.0)) == "finished"
    assert reads(simulator) == 1


async def test_waiters_end_each_at_their_own_deadline(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """One runs out of time while another goes on; the first one's polls end with it."""
    impatient, patient = Wait([buy("running")], 0.05), Wait([buy("running")], 60.0)
    other = asyncio.create_task(poller.wait(patient))
    result = await poller.wait(impatient)
    simulator.state.clear_scenarios()
    simulator.state.finish(patient.music_task_ids[0])

    assert result == "timeout"
    assert await other == "finished"
    assert impatient.pending


async def test_deadline_is_of_the_wall_clock(poller: Poller, buy: Callable[..., str]) -> None:
    """A wait whose time is already over is not begun again in another process."""
    assert await poller.wait(Wait([buy()], 60.0, time.time() - 61)) == "timeout"


async def test_first_poll_can_be_put_off(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str], stopwatch: Callable[[], float]
) -> None:
    """Nothing is polled before the time that the caller names."""
    await poller.wait(Wait([buy(finished=True)], 60.0), first_poll=time.time() + 0.1)

    assert stopwatch() >= 0.1
    assert reads(simulator) == 1


async def test_own_interval_goes_before_the_connections(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """An hour between polls: none before the deadline."""
    assert await poller.wait(Wait([buy()], 0.05), poll_interval=3600.0) == "timeout"
    assert reads(simulator) == 0


async def test_without_an_interval_the_schedule_decides(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """The first poll comes late."""
    async with MusicAPIAsyncClient(replace(settings, poll_interval=None)) as client:
        assert await Poller(client).wait(Wait([buy()], 0.05)) == "timeout"
    assert reads(simulator) == 0


async def test_unknown_id_gets_its_grace(poller: Poller, buy: Callable[..., str]) -> None:
    """Not found is expected at first and the end later."""
    young, old = (
        Wait([buy("not-found-at-first")], 60.0),
        Wait(["x"], 3600.0, time.time() - UNKNOWN_TASK_GRACE),
    )
    results = await all_of(poller.wait(young), poller.wait(old))

    assert results == ["finished", "finished"]
    assert young.verdicts[young.music_task_ids[0]].state is State.SUCCEEDED
    assert old.verdicts["x"].state is State.FAILED


@pytest.mark.parametrize(
    "scenario",
    [
        *("read-500", "read-502", "read-504", "read-429", "read-429-date", "read-truncated", "read-html"),
        *("read-drop", "unknown-404", "unknown-400", "no-audio-url", "unknown-type"),
    ],
)
async def test_no_failure_makes_a_tight_loop(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str], scenario: str
) -> None:
    """Whatever goes wrong for ever, there are pauses in between, and the end is the deadline."""
    simulator.state.configure(job_rule="at-once")
    simulator.state.scenario(scenario, times=None)
    result = await poller.wait(Wait([buy()], 0.15), poll_interval=0.0)
    # aiohttp itself repeats a read whose kept connection was closed.
    repeats = 2 if scenario == "read-drop" else 1

    assert result == "timeout"
    assert 2 <= reads(simulator) <= 1 + repeats * 0.15 / poller_module.MIN_PAUSE


@pytest.mark.parametrize(
    "scenario",
    [
        *("not-found-at-first", "running", "not-ready-200", "code-102", "empty-data"),
        *("streaming-state", "unknown-state"),
    ],
)
async def test_no_running_task_makes_a_tight_loop(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str], scenario: str
) -> None:
    """However the API says that a task is running: likewise."""
    result = await poller.wait(Wait([buy(f"{scenario}*1000")], 0.15), poll_interval=0.0)

    assert result == "timeout"
    assert 2 <= reads(simulator) <= 1 + 0.15 / poller_module.MIN_PAUSE


async def test_server_that_is_away_is_waited_for(settings: ClientSettings, refusing_url: str) -> None:
    """Refused connections are no reason to hurry, and no end before the deadline."""
    async with MusicAPIAsyncClient(replace(settings, base_url=refusing_url)) as client:
        poller = Poller(client)
        results = await all_of(*(poller.wait(Wait([f"t{n}"], 0.1)) for n in range(50)))

    assert results == ["timeout"] * 50
    assert poller.pace.current < poller.pace.full


# -- one for all --------------------------------------------------------------------------------------------


async def test_two_hundred_waiters_share_a_few_connections(
    settings: ClientSettings,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    unclosed_sessions: list[str],
) -> None:
    """One client, at most ten connections, no poll too many, and all closed in the end."""
    clients: list[MusicAPIAsyncClient] = []

    async def make_client() -> MusicAPIAsyncClient:
        await asyncio.sleep(0)
        clients.append(MusicAPIAsyncClient(settings))
        return clients[-1]

    async def wait_for(id_: str) -> str:
        async with shared_poller("conn", make_client) as shared:
            return await shared.wait(Wait([id_], 60.0))

    results = await all_of(*(wait_for(buy()) for _ in range(200)))
    gc.collect()

    assert results == ["finished"] * 200
    assert len(clients) == 1
    assert 1 <= simulator.state.connections_opened <= CONNECTIONS
    assert reads(simulator) == 3 * 200
    assert clients[0]._session is None
    assert unclosed_sessions == []


async def test_pause_that_the_server_asks_for_holds_for_all(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Nobody polls before the pause ends, and afterwards polls come one by one."""
    simulator.state.retry_after = 0.2
    simulator.state.scenario("read-429", times=1)
    waits = [asyncio.create_task(poller.wait(Wait([buy(finished=True)], 60.0))) for _ in range(30)]
    await until(lambda: reads(simulator) > 0)
    await asyncio.sleep(0.1)
    in_flight = reads(simulator)
    await asyncio.sleep(0.05)

    assert in_flight == reads(simulator) <= CONNECTIONS
    assert await all_of(*waits) == ["finished"] * 30
    assert reads(simulator) == 30 + 1


async def test_server_that_is_overloaded_gets_a_pause(
    settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """503 with ``Retry-After`` is as good as a 429."""
    server = odd_server(lambda _: (503, {"Retry-After": "60"}, "Busy"))
    async with MusicAPIAsyncClient(replace(settings, base_url=server.base_url), connections=2) as client:
        poller = Poller(client)
        await all_of(*(poller.wait(Wait([f"t{n}"], 0.2)) for n in range(20)))

    assert 1 <= len(server.requests) <= 2


async def test_pace_holds_for_all_waiters(
    settings: ClientSettings,
    simulator: SimulatorServer,
    buy: Callable[..., str],
    stopwatch: Callable[[], float],
) -> None:
    """Fifty waiters make no more polls than one might."""
    async with MusicAPIAsyncClient(replace(settings, polls_per_second=50.0)) as client:
        poller = Poller(client)
        waits = [asyncio.create_task(poller.wait(Wait([buy("running")], 60.0))) for _ in range(50)]
        await until(lambda: reads(simulator) >= 5)
        polls, seconds = reads(simulator), stopwatch()
        for wait in waits:
            wait.cancel()
        await all_of(*waits)
        await poller.close()

    assert polls <= 1 + 50 * seconds


async def test_finished_tasks_teach_the_next_waiters(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """What one poller has learned, the next one of the connection knows; failures teach nothing."""
    for scenario in (None, "failed"):
        async with shared_poller(f"conn {scenario}", lambda: _client(settings)) as shared:
            await shared.wait(Wait([buy(scenario) for _ in range(10)], 60.0))
    async with (
        shared_poller("conn None", lambda: _client(settings)) as learned,
        shared_poller("conn failed", lambda: _client(settings)) as ignorant,
    ):
        assert learned.experience.expectation.median < PRIOR.median
        assert ignorant.experience.expectation is PRIOR


async def test_poller_takes_the_given_experience(settings: ClientSettings, buy: Callable[..., str]) -> None:
    """An expectation of a few seconds makes the first poll early."""
    experience = Experience()
    for _ in range(2000):
        experience.finished(4.9, 5.1)
    async with MusicAPIAsyncClient(replace(settings, poll_interval=None)) as client:
        poller = Poller(client, experience=experience)
        wait = asyncio.create_task(poller.wait(Wait([buy()], 60.0)))
        await asyncio.sleep(0)
        delay = poller._queue[0].due - asyncio.get_running_loop().time()
        wait.cancel()
        await all_of(wait)
        await poller.close()

    assert 2 < delay < 5


# -- errors -------------------------------------------------------------------------------------------------


async def test_refused_key_ends_every_waiter(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """All get the error, as an object of their own that names no other's task; and so does who comes."""
    waits = [asyncio.create_task(poller.wait(Wait([buy("running")], 60.0))) for _ in range(20)]
    await until(lambda: reads(simulator) > 20)
    simulator.state.configure(api_key="new")
    errors = await all_of(*waits)

    assert {type(error) for error in errors} == {MusicAPIAuthError}
    assert len({id(error) for error in errors}) == 20
    assert sum(error.music_task_id is not None for error in errors) == 1
    with pytest.raises(MusicAPIAuthError):
        await poller.wait(Wait([buy()], 60.0))


async def test_refused_music_task_ends_its_waiter_only(
    settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """A 410 is about one music task; the others go on."""
    server = odd_server(lambda request: (410 if request.path.endswith("/old") else 202, {}, "{}"))
    async with MusicAPIAsyncClient(replace(settings, base_url=server.base_url)) as client:
        poller = Poller(client)
        results = await all_of(poller.wait(Wait(["old"], 60.0)), poller.wait(Wait(["new"], 0.2)))
        await poller.close()

    assert isinstance(results[0], MusicAPIRetiredError)
    assert results[1] == "timeout"


class BrokenClient(MusicAPIAsyncClient):
    """A client with a fault that a socket cannot show."""

    fault: BaseException = TypeError("unheard of")

    async def get_task(self, music_task_id: str, *, retry: bool = True) -> Any:
        """Break at one music task."""
        if music_task_id == "odd":
            raise self.fault
        return await super().get_task(music_task_id, retry=retry)


async def test_bug_about_one_answer_ends_its_waiter_only(
    settings: ClientSettings, buy: Callable[..., str]
) -> None:
    """No silent hang, and no harm to others."""
    async with BrokenClient(settings) as client:
        poller = Poller(client)
        results = await all_of(poller.wait(Wait(["odd"], 60.0)), poller.wait(Wait([buy()], 60.0)))
        await poller.close()

    assert type(results[0]) is MusicAPIError
    assert "TypeError: unheard of" in str(results[0])
    assert isinstance(results[0].__cause__, TypeError)
    assert results[0].spent is Spent.NO_EFFECT
    assert results[1] == "finished"


async def test_worker_that_ends_ends_every_waiter(settings: ClientSettings, buy: Callable[..., str]) -> None:
    """Cancelled from inside or crashed: nobody waits for a worker that is gone."""
    client = BrokenClient(settings)
    client.fault = asyncio.CancelledError()
    async with client:
        poller = Poller(client)
        results = await all_of(poller.wait(Wait(["odd"], 60.0)), poller.wait(Wait([buy("running")], 60.0)))
        await poller.close()

    assert [type(result) for result in results] == [MusicAPIError] * 2


async def test_crash_of_the_queue_ends_every_waiter(
    settings: ClientSettings, buy: Callable[..., str]
) -> None:
    """A fault in the poller itself reaches all, and a shared poller is not used again."""

    class BrokenPace(Pace):
        def take(self, now: float) -> None:
            raise ZeroDivisionError("no pace")

    async def wait_for(id_: str) -> str:
        async with shared_poller("conn", lambda: _client(settings)) as shared:
            if id_ != "healthy":
                shared.pace = BrokenPace(10.0, "polls of music tasks")
            return await shared.wait(Wait([buy()], 60.0))

    broken = [asyncio.create_task(wait_for(f"t{n}")) for n in range(3)]
    results = await all_of(*broken)

    assert ["ZeroDivisionError" in str(result) for result in results] == [True] * 3
    assert await wait_for("healthy") == "finished"


async def test_closed_poller_ends_its_waiters(poller: Poller, buy: Callable[..., str]) -> None:
    """An error, not a hang."""
    wait = asyncio.create_task(poller.wait(Wait([buy("running")], 60.0)))
    await asyncio.sleep(0.02)
    await poller.close()
    (error,) = await all_of(wait)

    assert "closed" in str(error)


# -- leaving ------------------------------------------------------------------------------------------------


async def test_cancelled_waiter_leaves_at_once(
    poller: Poller, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """Its polls are dropped, although a poll is under way; the others go on."""
    simulator.state.scenario("read-slow", times=1)
    gone, stays = Wait([buy("running"), buy("running")], 60.0), Wait([buy()], 60.0)
    leaver = asyncio.create_task(poller.wait(gone))
    await until(lambda: reads(simulator) > 1)
    leaver.cancel()
    began = time.monotonic()
    (result,) = await all_of(leaver)
    left = time.monotonic() - began
    stayed = await poller.wait(stays)
    await until(lambda: not poller._queue)

    assert isinstance(result, asyncio.CancelledError)
    assert left < 0.1
    assert stayed == "finished"
    assert poller._waiters == set()


async def test_last_waiter_closes_the_session(settings: ClientSettings, buy: Callable[..., str]) -> None:
    """As long as one is there the poller lives, and the next one gets another."""
    seen: list[Poller] = []
    for _ in range(2):
        async with shared_poller("conn", lambda: _client(settings)) as first:
            async with shared_poller("conn", lambda: _client(settings)) as second:
                await second.wait(Wait([buy()], 60.0))
            alive = first.client._session is not None
            seen.append(first)

        assert alive
        assert first is second
        assert first.client._session is None
    assert seen[0] is not seen[1]


async def test_other_key_is_another_poller(settings: ClientSettings) -> None:
    """Two connections share nothing."""
    async with (
        shared_poller("one", lambda: _client(settings)) as one,
        shared_poller("two", lambda: _client(settings)) as two,
    ):
        assert one is not two


def test_event_loops_do_not_share(settings: ClientSettings, buy: Callable[..., str]) -> None:
    """A session belongs to its loop; a loop that was abandoned is forgotten."""
    seen: list[Poller] = []

    async def wait_once() -> None:
        async with shared_poller("conn", lambda: _client(settings)) as shared:
            seen.append(shared)
            assert await shared.wait(Wait([buy()], 60.0)) == "finished"

    abandoned = asyncio.new_event_loop()
    left_open = shared_poller("conn", lambda: _client(settings))
    seen.append(abandoned.run_until_complete(left_open.__aenter__()))
    abandoned.close()
    for _ in range(2):
        asyncio.run(wait_once())

    assert len({id(shared) for shared in seen}) == 3


# -- the client ---------------------------------------------------------------------------------------------


async def _client(settings: ClientSettings) -> MusicAPIAsyncClient:
    return MusicAPIAsyncClient(settings)


async def test_failed_client_does_not_poison_the_next(
    settings: ClientSettings, buy: Callable[..., str]
) -> None:
    """Those who came together get the error of the one try; who comes later tries again."""
    tries: list[int] = []

    async def make_client() -> MusicAPIAsyncClient:
        tries.append(1)
        await asyncio.sleep(0.01)
        if len(tries) == 1:
            raise OSError("the secrets backend is away")
        return MusicAPIAsyncClient(settings)

    async def wait_for() -> str:
        async with shared_poller("conn", make_client) as shared:
            return await shared.wait(Wait([buy()], 60.0))

    results = await all_of(*(wait_for() for _ in range(5)))

    assert [type(result) for result in results] == [OSError] * 5
    assert await wait_for() == "finished"
    assert len(tries) == 2


async def test_cancelled_first_waiter_leaves_the_client_to_the_others(
    settings: ClientSettings, buy: Callable[..., str]
) -> None:
    """Whoever began making the client may go before it is there; if all go, it is not made."""
    tries: list[int] = []

    async def make_client() -> MusicAPIAsyncClient:
        tries.append(1)
        await asyncio.sleep(0.02)
        return MusicAPIAsyncClient(settings)

    async def wait_for() -> str:
        async with shared_poller("conn", make_client) as shared:
            return await shared.wait(Wait([buy()], 60.0))

    first, second = (asyncio.create_task(wait_for()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    results = await all_of(first, second)
    alone = asyncio.create_task(wait_for())
    await asyncio.sleep(0)
    alone.cancel()
    await all_of(alone)

    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == "finished"
    assert len(tries) == 2


async def test_rotated_key_is_noticed(
    settings: ClientSettings, simulator: SimulatorServer, buy: Callable[..., str]
) -> None:
    """After a 401 the next waiter gets a new client, although others have not left yet."""

    async def make_client() -> MusicAPIAsyncClient:
        return MusicAPIAsyncClient(replace(settings, api_key=simulator.api_key))

    async with shared_poller("conn", make_client) as old:
        simulator.state.configure(api_key="new")
        with pytest.raises(MusicAPIAuthError):
            await old.wait(Wait([buy()], 60.0))
        async with shared_poller("conn", make_client) as new:
            result = await new.wait(Wait([buy()], 60.0))

    assert result == "finished"
    assert old is not new


# -- progress -----------------------------------------------------------------------------------------------


async def test_progress_is_told_calmly(
    poller: Poller, buy: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A few lines, each twice as far from the last, whatever the number of polls."""
    caplog.set_level(logging.INFO, "musicapi_provider.waiting.wait")
    monkeypatch.setattr(waiting, "FIRST_LINE", 0.03)
    wait = Wait([buy("running"), buy(finished=True), buy("running")], 0.8)
    await poller.wait(wait)
    lines = [record.getMessage() for record in caplog.records]

    assert lines[-1] == "1 of 3 music tasks done, next poll in 0 s"
    assert 2 <= len(lines) <= 6  # at 0.03, 0.06, 0.12, 0.24 and 0.48 s, and the first change


async def test_workers_do_not_log_as_the_first_waiter(
    settings: ClientSettings, buy: Callable[..., str]
) -> None:
    """Airflow sorts log lines by context; workers serve everybody."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")
    seen: list[str] = []

    class ListeningClient(MusicAPIAsyncClient):
        async def get_task(self, music_task_id: str, *, retry: bool = True) -> Any:
            seen.append(whose.get())
            return await super().get_task(music_task_id, retry=retry)

    whose.set("the first waiter's")
    async with ListeningClient(settings) as client:
        poller = Poller(client)
        await poller.wait(Wait([buy(finished=True)], 60.0))
        await poller.close()

    assert seen == ["nobody's"]
