"""The client against the simulator, synchronous and asynchronous side by side."""

from __future__ import annotations

import asyncio
import gc
import inspect
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
import tenacity

from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import CATALOGUE
from musicapi_provider.api.answers import MAX_SERVER_TEXT, parse_retry_after
from musicapi_provider.api.async_client import MusicAPIAsyncClient
from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import MAX_RETRY_AFTER, ClientSettings, RetrySettings
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPICreditsError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIRetiredError,
    MusicAPIThrottledError,
    MusicAPITransientError,
    MusicAPIUnknownTaskError,
    Spent,
)
from tests.conftest import QUICK

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.models import MusicTask
    from tests.unit.conftest import Log, OddAnswer, OddServer

BODY = {
    "task_type": "create_music",
    "mv": "sonic-v5",
    "custom_mode": True,
    "prompt": "La la",
    "tags": "folk",
}
POST = "POST /sonic/create"
GET_TASK = "GET /sonic/task/{task_id}"
GET_CREDITS = "GET /get-credits"


class EitherClient:
    """One face for both clients, so that each test holds for both."""

    def __init__(self, client: MusicAPIClient | MusicAPIAsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method and return its result, awaited if need be."""
        result = getattr(self.client, method)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=[MusicAPIClient, MusicAPIAsyncClient], ids=["sync", "async"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., EitherClient]]:
    """Return a function that makes a client of settings; all are closed in the end."""
    opened: list[EitherClient] = []

    def make(settings: ClientSettings, retries: RetrySettings = QUICK) -> EitherClient:
        opened.append(EitherClient(request.param(settings, retries=retries)))
        return opened[-1]

    yield make
    for client in opened:
        await client("close")


@pytest.fixture
def call(either: Callable[..., EitherClient], settings: ClientSettings) -> EitherClient:
    """Return a client for the simulator."""
    return either(settings)


@pytest.fixture
def music_task_id(simulator: SimulatorServer) -> str:
    """Return a finished music task that no client has touched."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book(BODY)
    assert job is not None
    return job.task_id


# -- creates -------------------------------------------------------------------------------------------------


async def test_create_returns_the_id_of_the_booked_task(
    call: EitherClient, simulator: SimulatorServer
) -> None:
    """One POST, one purchase, its id, and the body as given."""
    music_task_id = await call("create", BODY)

    assert [music_task_id] == list(simulator.state.jobs)
    assert simulator.state.jobs[music_task_id].body == BODY
    assert simulator.state.requests[POST] == 1


AMBIGUOUS = (MusicAPIAmbiguousSubmitError, Spent.UNKNOWN)
REFUSED = Spent.NOT_SPENT
# scenario: (error class and credits, or None for success), purchases booked, POST requests sent
CREATES: dict[str, tuple[tuple[type[MusicAPIError], Spent] | None, int, int]] = {
    "invalid": ((MusicAPIInvalidRequestError, REFUSED), 0, 1),
    "no-credits": ((MusicAPICreditsError, REFUSED), 0, 1),
    "no-credits-402": ((MusicAPICreditsError, REFUSED), 0, 1),
    "no-subscription": ((MusicAPICreditsError, REFUSED), 0, 1),
    "moderated": ((MusicAPIModerationError, REFUSED), 0, 1),
    "unauthorized": ((MusicAPIAuthError, REFUSED), 0, 1),
    "retired": ((MusicAPIRetiredError, REFUSED), 0, 1),
    "throttled": (None, 1, 2),
    "throttled-date": (None, 1, 2),
    "throttled-bare": (None, 1, 2),
    "create-500": (AMBIGUOUS, 0, 1),
    "drop-before-booking": (AMBIGUOUS, 0, 1),
    "create-502-after-booking": (AMBIGUOUS, 1, 1),
    "drop-after-booking": (AMBIGUOUS, 1, 1),
    "slow-create": (AMBIGUOUS, 1, 1),
    "truncated-create": (AMBIGUOUS, 1, 1),
    "html-create": (AMBIGUOUS, 1, 1),
    "no-task-id": (AMBIGUOUS, 1, 1),
    "nested-task-id": (None, 1, 1),
    "create-code-200": (None, 1, 1),
}


def test_every_create_scenario_is_in_the_table() -> None:
    """A new way to misbehave at a create is tested, too."""
    assert set(CREATES) == {s.name for s in CATALOGUE.values() if s.stage in (Stage.CREATE, Stage.BOOKED)}


@pytest.mark.parametrize("name", CREATES)
async def test_create_scenario(
    name: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    simulator: SimulatorServer,
) -> None:
    """Each has its error, says what became of the credits, and is never repeated once it may have arrived."""
    failure, booked, posts = CREATES[name]
    simulator.state.slow_seconds = 0.3
    simulator.state.scenario(name)
    call = either(replace(settings, timeout=0.1) if name == "slow-create" else settings)
    caught: MusicAPIError | None = None
    try:
        music_task_id = await call("create", BODY)
    except MusicAPIError as error:
        caught = error

    assert failure == (caught and (type(caught), caught.spent))
    assert booked == simulator.state.creates_booked.total()
    assert posts == simulator.state.requests[POST]
    if failure is None:
        assert [music_task_id] == list(simulator.state.jobs)


@pytest.mark.parametrize("name", [n for n, (failure, *_) in CREATES.items() if failure])
async def test_failed_create_says_what_it_cost_and_what_to_do(
    name: str, either: Callable[..., EitherClient], settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """The text alone is enough to act on."""
    simulator.state.slow_seconds = 0.3
    simulator.state.scenario(name)
    with pytest.raises(MusicAPIError) as caught:
        await either(replace(settings, timeout=0.1))("create", BODY)

    assert f"Credits: {caught.value.spent}." in str(caught.value)
    assert "Next: " in str(caught.value)


async def test_error_carries_status_request_id_and_the_servers_words(
    call: EitherClient, simulator: SimulatorServer
) -> None:
    """Support can find the request, and a moderated text says what is wrong with it."""
    simulator.state.scenario("moderated")
    with pytest.raises(MusicAPIModerationError) as caught:
        await call("create", BODY)

    assert caught.value.status_code == 403
    assert str(caught.value.request_id).startswith("sim-")
    assert caught.value.server_text == "Lyrics contain copyrighted content"
    assert all(fact in str(caught.value) for fact in ("HTTP 403", "sim-", "copyrighted content"))


async def test_endless_throttling_of_a_create_ends_in_its_error(
    call: EitherClient, simulator: SimulatorServer
) -> None:
    """It is repeated as often as the settings say, then raised; nothing was booked."""
    simulator.state.scenario("throttled", times=None)
    with pytest.raises(MusicAPIThrottledError) as caught:
        await call("create", BODY)

    assert caught.value.spent is Spent.NOT_SPENT
    assert simulator.state.requests[POST] == QUICK.attempts
    assert not simulator.state.creates_booked


@pytest.mark.parametrize(
    ("scenario", "method"),
    [
        pytest.param("throttled", "create", id="create, seconds"),
        pytest.param("read-429", "get_credits", id="read, seconds"),
    ],
)
async def test_retry_after_is_waited_for(
    scenario: str,
    method: str,
    call: EitherClient,
    simulator: SimulatorServer,
    stopwatch: Callable[[], float],
) -> None:
    """The next try comes when the server asked for it, not after the backoff."""
    simulator.state.retry_after = 0.2
    simulator.state.scenario(scenario, times=1)
    await call(method, *([BODY] if method == "create" else []))

    assert stopwatch() >= 0.2


@pytest.mark.parametrize(
    ("scenario", "method"),
    [
        pytest.param("throttled", "create", id="create, seconds"),
        pytest.param("throttled-date", "create", id="create, date"),
        pytest.param("read-429", "get_credits", id="read, seconds"),
        pytest.param("read-429-date", "get_credits", id="read, date"),
    ],
)
async def test_throttled_error_carries_retry_after(
    scenario: str,
    method: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    simulator: SimulatorServer,
) -> None:
    """Seconds and dates come out alike, for whoever waits above the client."""
    simulator.state.retry_after = 60
    simulator.state.scenario(scenario)
    with pytest.raises(MusicAPIThrottledError) as caught:
        await either(settings, RetrySettings(attempts=1))(method, *([BODY] if method == "create" else []))

    assert caught.value.retry_after == pytest.approx(60, abs=2)


@pytest.mark.parametrize(
    ("header", "expected"),
    [pytest.param({"Retry-After": "60"}, 60.0, id="asked"), pytest.param({}, None, id="not-asked")],
)
async def test_unavailable_error_carries_retry_after(
    header: dict[str, str],
    expected: float | None,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
) -> None:
    """A server that is overloaded says 503 rather than 429."""
    server = odd_server(lambda _: (503, header, "Busy"))
    with pytest.raises(MusicAPITransientError) as caught:
        await either(replace(settings, base_url=server.base_url))("get_task", "t1", retry=False)

    assert expected == caught.value.retry_after


async def test_reads_share_a_limited_number_of_connections(
    settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """Many reads at once wait for a free connection."""
    async with MusicAPIAsyncClient(settings, retries=QUICK, connections=2) as client:
        await asyncio.gather(*(client.get_credits() for _ in range(20)))

    assert simulator.state.connections_opened == 2


async def test_refused_connection_certainly_sent_nothing_and_is_repeated(
    either: Callable[..., EitherClient], settings: ClientSettings, refusing_url: str, logged: Log
) -> None:
    """A create that nobody listened to is safe to send again; the error names the URL."""
    with pytest.raises(MusicAPINotSentError) as caught:
        await either(replace(settings, base_url=refusing_url))("create", BODY)

    assert caught.value.spent is Spent.NOT_SPENT
    assert refusing_url in str(caught.value)
    assert "refused" in str(caught.value).lower()
    assert logged.text.count("Next try in") == QUICK.attempts - 1


@pytest.mark.parametrize(
    ("method", "spent"),
    [
        pytest.param("create", Spent.NOT_SPENT, id="create"),
        pytest.param("get_credits", Spent.NO_EFFECT, id="read"),
    ],
)
async def test_unknown_host_certainly_sent_nothing(
    method: str, spent: Spent, either: Callable[..., EitherClient], settings: ClientSettings
) -> None:
    """No name, no request; reading is free anyway."""
    base_url = "http://nowhere.invalid/api/v1"
    with pytest.raises(MusicAPINotSentError) as caught:
        await either(replace(settings, base_url=base_url), RetrySettings(attempts=1))(
            method, *([BODY] if method == "create" else [])
        )

    assert caught.value.spent is spent
    assert base_url in str(caught.value)


async def test_refused_certificate_certainly_sent_nothing(
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """We hang up before the first byte of the request, so neither body nor key left."""
    server = odd_server(lambda _: (200, {}, '{"task_id": "t"}'), tls=certificate)
    with pytest.raises(MusicAPINotSentError, match=r"(?i)certificate"):
        await either(replace(settings, base_url=server.base_url))("create", BODY)

    assert server.requests == []


async def test_own_ca_bundle_is_trusted(
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """``verify`` may name a bundle; then the same server is fine."""
    server = odd_server(lambda _: (200, {}, '{"task_id": "t"}'), tls=certificate)
    trusting = replace(settings, base_url=server.base_url, verify=str(certificate))
    music_task_id = await either(trusting)("create", BODY)

    assert music_task_id == "t"


async def test_unverified_certificate_is_accepted_on_request(
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """``verify=False`` means what it says."""
    server = odd_server(lambda _: (200, {}, '{"credits": 7}'), tls=certificate)
    credits = await either(replace(settings, base_url=server.base_url, verify=False))("get_credits")

    assert credits.credits == 7


@pytest.mark.parametrize("trusts_file", [True, False], ids=["bundle", "unverified"])
async def test_verify_of_the_connection_beats_the_environment(
    trusts_file: bool,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the connection says about certificates holds where ``REQUESTS_CA_BUNDLE`` is set, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    server = odd_server(lambda _: (200, {}, '{"credits": 7}'), tls=certificate)
    verify = str(certificate) if trusts_file else False
    credits = await either(replace(settings, base_url=server.base_url, verify=verify))("get_credits")

    assert credits.credits == 7


async def test_client_certificate_of_the_connection_is_loaded(
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """A combined file with certificate and key works in both clients."""
    server = odd_server(lambda _: (200, {}, '{"credits": 7}'), tls=certificate)
    both = replace(settings, base_url=server.base_url, verify=str(certificate), cert=str(certificate))
    credits = await either(both)("get_credits")

    assert credits.credits == 7


async def test_server_that_never_answers_leaves_a_create_ambiguous(
    either: Callable[..., EitherClient], settings: ClientSettings, silent_url: str, logged: Log
) -> None:
    """It got the request; nobody knows the rest, so it is not sent again."""
    with pytest.raises(MusicAPIAmbiguousSubmitError) as caught:
        await either(replace(settings, base_url=silent_url, timeout=0.1))("create", BODY)

    assert caught.value.spent is Spent.UNKNOWN
    assert "Next try" not in logged.text


async def test_server_that_never_answers_is_a_passing_error_for_a_read(
    either: Callable[..., EitherClient], settings: ClientSettings, silent_url: str
) -> None:
    """Reading is free, so it is repeated before it is raised."""
    with pytest.raises(MusicAPITransientError) as caught:
        await either(replace(settings, base_url=silent_url, timeout=0.05))("get_credits")

    assert caught.value.spent is Spent.NO_EFFECT


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"base_url": "https://127.0.0.1:9/api/v1", "verify": "/missing/ca.pem"}, id="CA bundle"),
        pytest.param({"base_url": "https://127.0.0.1:9/api/v1", "cert": "/missing/cert.pem"}, id="cert"),
        pytest.param({"headers": {"X-Team": "line\nbreak"}}, id="header with a line break"),
        pytest.param({"base_url": "http:///api/v1"}, id="URL without a host"),
    ],
)
async def test_settings_that_cannot_be_sent_with_are_no_ambiguous_create(
    changes: dict[str, Any],
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    simulator: SimulatorServer,
) -> None:
    """The request never left, so the error must say that nothing was spent, and must be one of ours."""
    with pytest.raises(MusicAPIError) as caught:
        await either(replace(settings, **changes), RetrySettings(attempts=1))("create", BODY)

    assert caught.value.spent is Spent.NOT_SPENT
    assert simulator.state.requests[POST] == 0


@pytest.mark.parametrize(
    "value",
    [pytest.param(float("nan"), id="NaN"), pytest.param(object(), id="no JSON value")],
)
@pytest.mark.parametrize("way", ["create", "request"])
async def test_body_that_is_no_json_is_refused_before_it_is_sent(
    value: object, way: str, call: EitherClient, simulator: SimulatorServer
) -> None:
    """It never left, so the error must not call it ambiguous, and must be one of ours."""
    body = {**BODY, "mystery": value}
    with pytest.raises(MusicAPIError) as caught:
        await (
            call("create", body) if way == "create" else call("request", "POST", "/sonic/create", json=body)
        )

    assert caught.value.spent is Spent.NOT_SPENT
    assert simulator.state.requests[POST] == 0


async def test_creates_side_by_side_do_not_disturb_each_other(
    settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """A create opens its own connection; that must not close the one of a create in flight."""
    simulator.state.latency = 0.1

    async def create_after(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return await client.create({**BODY, "title": f"After {seconds} s"})

    async with MusicAPIAsyncClient(settings, retries=QUICK) as client:
        ids = await asyncio.gather(
            *(create_after(seconds) for seconds in (0.0, 0.03, 0.06)), return_exceptions=True
        )

    assert set(simulator.state.jobs) == set(ids)
    assert simulator.state.requests[POST] == 3


async def test_reads_side_by_side_leave_no_session_open(
    settings: ClientSettings, unclosed_sessions: list[str]
) -> None:
    """Calls that begin together share one session, so that closing the client closes all."""
    async with MusicAPIAsyncClient(settings, retries=QUICK) as client:
        await asyncio.gather(*(client.get_credits() for _ in range(3)))
    del client
    gc.collect()

    assert unclosed_sessions == []


async def test_create_does_not_cut_off_a_read_in_flight(
    settings: ClientSettings, simulator: SimulatorServer, music_task_id: str
) -> None:
    """A read beside a create needs no second try."""
    simulator.state.latency = 0.05
    async with MusicAPIAsyncClient(settings, retries=RetrySettings(attempts=1)) as client:
        await client.get_credits()
        reading = asyncio.create_task(client.get_task(music_task_id))
        await asyncio.sleep(0.02)
        await client.create(BODY)
        task = await reading

    assert task.music_task_id == music_task_id


# -- reads ---------------------------------------------------------------------------------------------------


async def test_get_task_reads_the_clips(call: EitherClient, music_task_id: str) -> None:
    """The answer arrives parsed."""
    task: MusicTask = await call("get_task", music_task_id)

    assert task.music_task_id == music_task_id
    assert [track.state for track in task.tracks] == ["succeeded", "succeeded"]


async def test_get_credits_reads_both_balances(call: EitherClient, simulator: SimulatorServer) -> None:
    """Credits and extra credits, and their sum."""
    simulator.state.configure(credits=30, extra_credits=12)
    credits = await call("get_credits")

    assert (credits.credits, credits.extra_credits, credits.total) == (30, 12, 42)


PASSING: dict[str, type[MusicAPIError]] = {
    "read-500": MusicAPITransientError,
    "read-502": MusicAPITransientError,
    "read-504": MusicAPITransientError,
    "read-429": MusicAPIThrottledError,
    "read-429-date": MusicAPIThrottledError,
    "read-truncated": MusicAPITransientError,
    "read-html": MusicAPITransientError,
    "read-drop": MusicAPITransientError,
    "read-slow": MusicAPITransientError,
}


def test_every_read_scenario_is_in_the_table() -> None:
    """A new way to misbehave at a read is tested, too."""
    assert {*PASSING, "read-unauthorized"} == {s.name for s in CATALOGUE.values() if s.stage is Stage.READ}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("method", ["get_task", "get_credits", "request"])
async def test_passing_failure_of_a_read_is_repeated_and_succeeds(
    name: str,
    method: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    simulator: SimulatorServer,
    music_task_id: str,
) -> None:
    """Two failures, then the answer: three requests."""
    simulator.state.slow_seconds = 0.2
    simulator.state.scenario(name)
    call = either(replace(settings, timeout=0.05) if name == "read-slow" else settings)
    arguments = {"get_task": [music_task_id], "get_credits": [], "request": ["GET", "/get-credits"]}
    result = await call(method, *arguments[method])

    assert result
    assert simulator.state.requests[GET_TASK if method == "get_task" else GET_CREDITS] == 3


@pytest.mark.parametrize(("name", "error_class"), PASSING.items(), ids=PASSING)
async def test_lasting_failure_of_a_read_ends_in_its_error(
    name: str,
    error_class: type[MusicAPIError],
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    simulator: SimulatorServer,
    music_task_id: str,
) -> None:
    """After the last try it is raised, and Airflow may retry it."""
    simulator.state.slow_seconds = 0.2
    simulator.state.scenario(name, times=None)
    call = either(replace(settings, timeout=0.05) if name == "read-slow" else settings)
    with pytest.raises(error_class) as caught:
        await call("get_task", music_task_id)

    assert type(caught.value) is error_class
    assert caught.value.retryable
    # aiohttp itself repeats a GET whose connection the server closed, which is fine for reads.
    assert (
        QUICK.attempts
        <= simulator.state.requests[GET_TASK]
        <= QUICK.attempts * (2 if name == "read-drop" else 1)
    )


@pytest.mark.parametrize(
    ("scenario", "error_class", "status"),
    [
        pytest.param("unknown-404", MusicAPIUnknownTaskError, 404, id="unknown by 404"),
        pytest.param("unknown-400", MusicAPIUnknownTaskError, 400, id="unknown by 400"),
        pytest.param("read-unauthorized", MusicAPIAuthError, 401, id="revoked key"),
    ],
)
async def test_certain_refusal_of_a_read_is_not_repeated(
    scenario: str,
    error_class: type[MusicAPIError],
    status: int,
    call: EitherClient,
    simulator: SimulatorServer,
    music_task_id: str,
) -> None:
    """Asking again would not change it."""
    simulator.state.scenario(scenario)
    with pytest.raises(error_class) as caught:
        await call("get_task", music_task_id)

    assert status == caught.value.status_code
    assert simulator.state.requests[GET_TASK] == 1


async def test_unknown_task_error_names_the_id(call: EitherClient) -> None:
    """Which of many ids it was must be in the text."""
    with pytest.raises(MusicAPIUnknownTaskError, match="'nobody-knows'") as caught:
        await call("get_task", "nobody-knows")

    assert caught.value.music_task_id == "nobody-knows"


async def test_refunded_504_is_the_tasks_answer(
    call: EitherClient, simulator: SimulatorServer, music_task_id: str
) -> None:
    """With refund text it ends the music task instead of being a gateway's hiccup."""
    simulator.state.scenario("gateway-timeout-refunded")
    job = simulator.state.book(BODY)
    assert job is not None
    task: MusicTask = await call("get_task", job.task_id)

    assert (task.status_code, task.tracks) == (504, ())
    assert simulator.state.requests[GET_TASK] == 1


async def test_id_is_quoted_in_the_path(
    either: Callable[..., EitherClient], settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """An id with path characters stays one segment."""
    server = odd_server(lambda _: (404, {}, '{"error": "Task not found"}'))
    with pytest.raises(MusicAPIUnknownTaskError):
        await either(replace(settings, base_url=server.base_url))("get_task", "../get-credits?x")

    assert server.requests == [("GET", "/api/v1/sonic/task/..%2Fget-credits%3Fx")]


async def test_reads_share_one_connection(
    call: EitherClient, simulator: SimulatorServer, music_task_id: str
) -> None:
    """One session serves them all."""
    for _ in range(5):
        await call("get_task", music_task_id)
        await call("get_credits")

    assert simulator.state.connections_opened == 1


async def test_wrong_key_is_told_by_connection_name(
    either: Callable[..., EitherClient], settings: ClientSettings
) -> None:
    """The reader learns which connection to mend, and that nothing was paid."""
    with pytest.raises(MusicAPIAuthError, match="connection 'test'") as caught:
        await either(replace(settings, api_key="wrong"))("create", BODY)

    assert caught.value.spent is Spent.NOT_SPENT
    assert "Next: " in str(caught.value)


# -- request() -----------------------------------------------------------------------------------------------


async def test_request_get_returns_the_parsed_answer(call: EitherClient, simulator: SimulatorServer) -> None:
    """Any endpoint can be read."""
    answer = await call("request", "get", "get-credits", params={"of": "me"})

    assert answer == {"credits": simulator.state.credits, "extra_credits": 0}


async def test_request_post_returns_the_parsed_answer(call: EitherClient, simulator: SimulatorServer) -> None:
    """Any endpoint can be posted to, once."""
    answer = await call("request", "POST", "/suno/create", json=BODY)

    assert answer == {"message": "success", "task_id": next(iter(simulator.state.jobs))}


@pytest.mark.parametrize(
    "name", ["create-500", "drop-after-booking", "truncated-create", "html-create", "slow-create"]
)
async def test_request_post_is_never_repeated_once_it_may_have_arrived(
    name: str, either: Callable[..., EitherClient], settings: ClientSettings, simulator: SimulatorServer
) -> None:
    """Whatever is posted may cost credits, so a lost answer is ambiguous."""
    simulator.state.slow_seconds = 0.3
    simulator.state.scenario(name)
    call = either(replace(settings, timeout=0.1) if name == "slow-create" else settings)
    with pytest.raises(MusicAPIAmbiguousSubmitError) as caught:
        await call("request", "POST", "/sonic/create", json=BODY)

    assert caught.value.spent is Spent.UNKNOWN
    assert simulator.state.requests[POST] == 1


async def test_request_post_is_repeated_when_throttled(
    call: EitherClient, simulator: SimulatorServer
) -> None:
    """A 429 cost nothing."""
    simulator.state.scenario("throttled")
    await call("request", "POST", "/sonic/create", json=BODY)

    assert simulator.state.requests[POST] == 2
    assert simulator.state.creates_booked.total() == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/nuro/create"), ("GET", "/nuro/task/some-id")], ids=["POST", "GET"]
)
async def test_request_to_a_retired_family(method: str, path: str, call: EitherClient) -> None:
    """A 410 is told as what it is."""
    with pytest.raises(MusicAPIRetiredError) as caught:
        await call("request", method, path)

    assert caught.value.status_code == 410


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_request_to_no_endpoint_doubts_the_base_url(
    method: str, call: EitherClient, settings: ClientSettings
) -> None:
    """A 404 outside the task endpoint is a wrong address."""
    with pytest.raises(MusicAPIConfigurationError) as caught:
        await call("request", method, "/sonic/nothing")

    assert settings.base_url in str(caught.value)


# -- other servers -------------------------------------------------------------------------------------------


def _page(_: BaseHTTPRequestHandler) -> OddAnswer:
    return 200, {"content-type": "text/html"}, "<!doctype html><title>Welcome</title>"


def _missing_page(_: BaseHTTPRequestHandler) -> OddAnswer:
    return 404, {"content-type": "text/html"}, "<!doctype html><title>Not found</title>"


@pytest.mark.parametrize("answer", [_page, _missing_page], ids=["200", "404"])
@pytest.mark.parametrize("method", ["create", "get_credits"])
async def test_html_answer_makes_the_error_doubt_the_base_url(
    answer: Callable[..., OddAnswer],
    method: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
) -> None:
    """A web page in place of JSON is most often a wrong host; the text names it and shows no page."""
    server = odd_server(answer)
    call = either(replace(settings, base_url=server.base_url))
    with pytest.raises(MusicAPIError) as caught:
        await call(method, *([BODY] if method == "create" else []))

    assert server.base_url in str(caught.value)
    assert "HTML" in str(caught.value) or "endpoint" in str(caught.value)
    assert "doctype" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["create", "get_credits"])
async def test_redirect_is_not_followed(
    status: int,
    method: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
) -> None:
    """Key and body are for the connection's host alone; the text says where it would have gone."""
    other = odd_server(lambda _: (200, {}, '{"task_id": "t", "credits": 1}'))
    server = odd_server(lambda _: (status, {"location": f"{other.base_url}/elsewhere"}, ""))
    with pytest.raises(MusicAPIConfigurationError) as caught:
        await either(replace(settings, base_url=server.base_url))(
            method, *([BODY] if method == "create" else [])
        )

    assert caught.value.spent is (Spent.NOT_SPENT if method == "create" else Spent.NO_EFFECT)
    assert other.requests == []
    assert len(server.requests) == 1
    assert f"{other.base_url}/elsewhere" in str(caught.value)


async def test_credits_endpoint_without_a_balance_doubts_the_base_url(
    either: Callable[..., EitherClient], settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """JSON of another service is not a balance of 0."""
    server = odd_server(lambda _: (200, {}, '{"hello": "world"}'))
    with pytest.raises(MusicAPIConfigurationError, match="base URL") as caught:
        await either(replace(settings, base_url=server.base_url))("get_credits")

    assert server.base_url in str(caught.value)


async def test_missing_cdn_flag_is_explained(
    either: Callable[..., EitherClient], settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """If the API begins to want ``use_suno_cdn``, the error says how to give it."""
    server = odd_server(lambda _: (400, {}, '{"error": "use_suno_cdn is required"}'))
    with pytest.raises(MusicAPIInvalidRequestError, match="Pass use_suno_cdn=True or False"):
        await either(replace(settings, base_url=server.base_url))("create", BODY)


async def test_long_server_text_is_cut(
    either: Callable[..., EitherClient], settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """A server cannot fill the log."""
    server = odd_server(lambda _: (400, {}, "x" * 50_000))
    with pytest.raises(MusicAPIInvalidRequestError) as caught:
        await either(replace(settings, base_url=server.base_url))("create", BODY)

    assert len(caught.value.server_text or "") == MAX_SERVER_TEXT


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param({"X-Team": "music"}, {"x-team": "music"}, id="further header"),
        pytest.param({"Authorization": "Basic eA=="}, {}, id="Authorization"),
        pytest.param({"authorization": "Basic eA=="}, {}, id="authorization, lower case"),
    ],
)
async def test_headers_of_the_connection_are_sent_and_never_replace_the_key(
    extra: dict[str, str],
    expected: dict[str, str],
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
) -> None:
    """Exactly one Authorization header goes out, with the key."""
    server = odd_server(lambda _: (200, {}, '{"credits": 1}'))
    await either(replace(settings, base_url=server.base_url, headers=extra))("get_credits")
    sent = [(name.lower(), value) for name, value in server.headers[0]]

    assert [f"Bearer {settings.api_key}"] == [value for name, value in sent if name == "authorization"]
    assert expected.items() <= dict(sent).items()
    assert dict(sent)["accept"] == "application/json"


async def test_netrc_never_replaces_the_key(
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry for the host in the user's ``.netrc`` is for others."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = odd_server(lambda _: (200, {}, '{"credits": 1}'))
    await either(replace(settings, base_url=server.base_url))("get_credits")

    assert f"Bearer {settings.api_key}" == dict(server.headers[0])["Authorization"]


@pytest.mark.parametrize("in_environment", [False, True], ids=["alone", "above the environment's"])
async def test_proxy_of_the_connection_is_used(
    in_environment: bool,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request goes to the connection's proxy, with the whole URL, whatever the environment names."""
    if in_environment:
        wrong = odd_server(lambda _: (200, {}, '{"credits": 0}'))
        monkeypatch.setenv("HTTP_PROXY", wrong.base_url.removesuffix("/api/v1"))
        monkeypatch.setenv("http_proxy", wrong.base_url.removesuffix("/api/v1"))
    proxy = odd_server(lambda _: (200, {}, '{"credits": 5}'))
    through = replace(
        settings,
        base_url="http://api.example/api/v1",
        proxies={"http": proxy.base_url.removesuffix("/api/v1")},
    )
    credits = await either(through)("get_credits")

    assert credits.credits == 5
    assert proxy.requests == [("GET", "http://api.example/api/v1/get-credits")]


# -- the key -------------------------------------------------------------------------------------------------


def _echo_words(handler: BaseHTTPRequestHandler) -> OddAnswer:
    return 400, {}, f'{{"error": "bad header {handler.headers["authorization"]}"}}'


def _echo_text(handler: BaseHTTPRequestHandler) -> OddAnswer:
    return 500, {"content-type": "text/plain"}, f"cannot parse {handler.headers['authorization']}"


def _echo_request_id(handler: BaseHTTPRequestHandler) -> OddAnswer:
    return 401, {"x-request-id": f"for {handler.headers['authorization']}"}, "{}"


def _echo_location(handler: BaseHTTPRequestHandler) -> OddAnswer:
    key = handler.headers["authorization"].removeprefix("Bearer ")
    return 302, {"location": f"http://127.0.0.1/login?token={key}"}, ""


ECHOES = [
    pytest.param(_echo_words, id="error text"),
    pytest.param(_echo_text, id="plain text"),
    pytest.param(_echo_request_id, id="request id"),
    pytest.param(_echo_location, id="redirect"),
]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("method", ["create", "get_credits"])
async def test_key_never_shows_even_if_the_server_echoes_it(
    echo: Callable[..., OddAnswer],
    method: str,
    either: Callable[..., EitherClient],
    settings: ClientSettings,
    odd_server: Callable[..., OddServer],
    logged: Log,
) -> None:
    """Neither in the error with all its causes, nor in any log line."""
    key = "sk-echoed-0123456789"
    server = odd_server(echo)
    with pytest.raises(MusicAPIError) as caught:
        await either(replace(settings, api_key=key, base_url=server.base_url))(
            method, *([BODY] if method == "create" else [])
        )

    assert key not in "".join(traceback.format_exception(caught.value))
    assert key not in repr(caught.value)
    assert key not in repr(vars(caught.value))
    assert key not in logged.text


async def test_key_never_shows_in_the_words_of_a_failed_task(
    either: Callable[..., EitherClient], settings: ClientSettings, odd_server: Callable[..., OddServer]
) -> None:
    """A poll's text becomes an error and a log line later, so it is cleaned, too."""
    key = "sk-echoed-0123456789"
    server = odd_server(
        lambda handler: (200, {}, f'{{"type": "failed", "error": "{handler.headers["authorization"]}"}}')
    )
    task = await either(replace(settings, api_key=key, base_url=server.base_url))("get_task", "some-id")

    assert task.type == "failed"
    assert key not in repr(task)


async def test_key_never_shows_when_nobody_listens(
    either: Callable[..., EitherClient], settings: ClientSettings, refusing_url: str, logged: Log
) -> None:
    """The libraries' own errors do not bring it in either."""
    key = "sk-unreachable-0123456789"
    with pytest.raises(MusicAPINotSentError) as caught:
        await either(replace(settings, api_key=key, base_url=refusing_url))("create", BODY)

    assert key not in "".join(traceback.format_exception(caught.value))
    assert key not in logged.text


def test_settings_hide_key_proxies_and_headers() -> None:
    """Each may hold a secret."""
    settings = ClientSettings(
        api_key="sk-secret", proxies={"https": "http://me:pw@proxy"}, headers={"X-Token": "tok"}
    )

    assert not [secret for secret in ("sk-secret", "me:pw", "tok") if secret in repr(settings)]


# -- pieces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param("", None, id="empty"),
        pytest.param("5", 5.0, id="seconds"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("-3", 0.0, id="negative"),
        pytest.param("nan", None, id="NaN"),
        pytest.param("soon", None, id="words"),
        pytest.param(formatdate(1_000_030, usegmt=True), 30.0, id="date"),
        pytest.param(formatdate(999_000, usegmt=True), 0.0, id="past date"),
        pytest.param("Wed, 99 Foo 2026 07:28:00 GMT", None, id="broken date"),
    ],
)
def test_parse_retry_after(value: str | None, expected: float | None) -> None:
    """Seconds from now, 0 or more, or nothing."""
    assert expected == parse_retry_after(value, now=1_000_000)


def _after(error: BaseException, attempt: int = 1) -> tenacity.RetryCallState:
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, None))
    return state


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(7.0, 7.0, id="as asked"),
        pytest.param(0.0, 0.0, id="at once"),
        pytest.param(3600.0, MAX_RETRY_AFTER, id="capped"),
        pytest.param(float("inf"), MAX_RETRY_AFTER, id="endless"),
    ],
)
def test_wait_follows_retry_after(asked: float, expected: float) -> None:
    """The server decides, up to a limit."""
    assert expected == RetrySettings().wait(_after(MusicAPIThrottledError("slow", retry_after=asked)))


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [pytest.param(1, 0.5, 1.0, id="first"), pytest.param(3, 2.0, 2.5, id="third"), (9, 8.0, 8.0)],
)
def test_wait_without_retry_after_backs_off_with_jitter(attempt: int, least: float, most: float) -> None:
    """Doubling from the first wait up to the longest."""
    assert least <= RetrySettings().wait(_after(MusicAPITransientError("5xx"), attempt)) <= most


@pytest.mark.parametrize(
    ("base_url", "path", "expected"),
    [
        ("https://a/api/v1", "/get-credits", "https://a/api/v1/get-credits"),
        ("https://a/api/v1/", "get-credits", "https://a/api/v1/get-credits"),
    ],
    ids=["slash in path", "slash in base"],
)
def test_settings_join_base_url_and_path(base_url: str, path: str, expected: str) -> None:
    """Exactly one slash between them."""
    assert expected == ClientSettings(api_key="k", base_url=base_url).url(path)


@pytest.mark.parametrize(
    ("base_url", "allowed"), [("https://a/api/v1", False), ("http://127.0.0.1/api/v1", True)]
)
def test_http_audio_is_fine_only_where_the_api_is_http(base_url: str, allowed: bool) -> None:
    """The simulator's own rule, and nobody else's."""
    assert allowed is ClientSettings(api_key="k", base_url=base_url).allow_http_audio
