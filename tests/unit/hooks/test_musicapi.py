"""The hook: Airflow connections of every shape, and HttpHook's own ways."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException

from musicapi_provider.api.settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, ClientSettings
from musicapi_provider.exceptions import (
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPIDeadlineError,
    MusicAPIPartialResultError,
    MusicAPIUnknownTaskError,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from tests.conftest import QUICK

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log, OddAnswer, OddServer

KEY = "sk-test-0123456789"
BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"}
DEFAULT = "musicapi_default"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets a connection of any fields; without fields it takes the connection away."""

    def set_connection(conn_id: str = DEFAULT, **fields: Any) -> None:
        fields = {"conn_type": "musicapi", "password": KEY, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return set_connection


@pytest.fixture
async def hook(connection: str) -> AsyncIterator[MusicAPIHook]:
    """Return a hook for the simulator."""
    hook = MusicAPIHook(connection, retries=QUICK)
    yield hook
    await hook.aclose()


# -- the connection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, DEFAULT_BASE_URL, id="no host"),
        pytest.param({"host": "  "}, DEFAULT_BASE_URL, id="blank host"),
        pytest.param({"host": DEFAULT_BASE_URL}, DEFAULT_BASE_URL, id="whole URL"),
        pytest.param({"host": f"{DEFAULT_BASE_URL}/"}, DEFAULT_BASE_URL, id="trailing slash"),
        pytest.param({"host": "api.musicapi.ai"}, DEFAULT_BASE_URL, id="without scheme and path"),
        pytest.param({"host": "api.musicapi.ai/api/v1"}, DEFAULT_BASE_URL, id="without scheme"),
        pytest.param({"host": "https://api.musicapi.ai"}, DEFAULT_BASE_URL, id="without path"),
        pytest.param({"host": "https://api.musicapi.ai/"}, DEFAULT_BASE_URL, id="slash for a path"),
        pytest.param({"host": "https://gate.example/music/v2"}, "https://gate.example/music/v2", id="path"),
        pytest.param(
            {"host": "api.musicapi.ai", "schema": "http"}, "http://api.musicapi.ai/api/v1", id="schema"
        ),
        pytest.param({"host": "api.musicapi.ai", "port": 0}, DEFAULT_BASE_URL, id="port 0, as the UI's Test"),
        pytest.param({"host": "a.example", "port": 8443}, "https://a.example:8443/api/v1", id="port"),
        pytest.param({"host": "http://a.example:81"}, "http://a.example:81/api/v1", id="port in host"),
        pytest.param(
            {"host": "http://a.example:81", "port": 82}, "http://a.example:81/api/v1", id="two ports"
        ),
        pytest.param({"host": "http://[::1]:8080/api/v1"}, "http://[::1]:8080/api/v1", id="IPv6"),
    ],
)
def test_base_url(fields: dict[str, Any], expected: str, connections: Callable[..., None]) -> None:
    """However the host is written, the base URL is whole."""
    connections(**fields)

    assert expected == MusicAPIHook().settings.base_url


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param({"host": "ftp://a.example"}, "host", id="other scheme"),
        pytest.param({"host": "https://"}, "host", id="no name"),
        pytest.param({"host": "https://a.example:port"}, "host", id="bad port"),
        pytest.param({"host": "https://[::1"}, "host", id="broken IPv6"),
        pytest.param({"host": "https://me:pw@a.example"}, "host", id="password in host"),
        pytest.param({"password": None}, "API key", id="no password"),
        pytest.param({"password": " "}, "API key", id="blank password"),
        pytest.param({"password": "two words"}, "password", id="blank inside the key"),
        pytest.param({"password": "sk-kéy"}, "password", id="key not ASCII"),
        pytest.param({"extra": "{not json"}, "extra", id="extra no JSON"),
        pytest.param({"extra": "[1]"}, "extra", id="extra no object"),
        pytest.param({"extra": {"timeout": "soon"}}, "timeout", id="timeout words"),
        pytest.param({"extra": {"timeout": 0}}, "timeout", id="timeout 0"),
        pytest.param({"extra": {"timeout": -1}}, "timeout", id="timeout negative"),
        pytest.param({"extra": {"timeout": "nan"}}, "timeout", id="timeout NaN"),
        pytest.param({"extra": {"timeout": [3]}}, "timeout", id="timeout list"),
        pytest.param({"extra": {"poll_interval": "often"}}, "poll_interval", id="poll interval"),
        pytest.param({"extra": {"prices": [15]}}, "prices", id="prices no object"),
        pytest.param({"extra": {"prices": {"create_musik": 15}}}, "create_musik", id="price of nothing"),
        pytest.param({"extra": {"prices": {"remaster": "dear"}}}, "dear", id="price in words"),
        pytest.param({"extra": {"prices": {"remaster": -1}}}, "remaster", id="price below 0"),
        pytest.param({"extra": {"proxies": "{broken"}}, "proxies", id="proxies no JSON"),
        pytest.param({"extra": {"proxies": [1]}}, "proxies", id="proxies no object"),
        pytest.param({"extra": {"headers": "[1]"}}, "headers", id="headers no object"),
        pytest.param({"extra": {"headers": {"X-Team": "a\nb"}}}, "X-Team", id="line break in a header"),
        pytest.param({"extra": {"headers": {"X-Team": "音楽"}}}, "X-Team", id="header not latin"),
        pytest.param({"extra": {"headers": {"X-Team": "Zoë"}}}, "X-Team", id="header not ASCII"),
        pytest.param({"extra": {"X-Team": "Zoë"}}, "extra 'X-Team'", id="extra that is no header"),
        pytest.param({"extra": {"headers": {"X Team": "a"}}}, "X Team", id="no name of a header"),
    ],
)
def test_unusable_connection_is_refused_with_its_field(
    fields: dict[str, Any], names: str, connections: Callable[..., None]
) -> None:
    """The text says which field of which connection is wrong, and never shows the key."""
    connections("studio", **fields)
    with pytest.raises(MusicAPIConfigurationError, match=names) as caught:
        _ = MusicAPIHook("studio").settings

    assert "'studio'" in str(caught.value)
    assert str(fields.get("password") or KEY).strip() not in str(caught.value) or names == "API key"


def test_header_that_http_cannot_carry_is_named_without_its_value(connections: Callable[..., None]) -> None:
    """It may be a token; the place of the first such character is enough to find it."""
    connections("studio", extra={"headers": {"X-Token": "tok-1é3"}})
    with pytest.raises(MusicAPIConfigurationError) as caught:
        _ = MusicAPIHook("studio").settings

    assert "The extra 'headers' of the Airflow connection 'studio' must be plain ASCII" in str(caught.value)
    assert "character 6 of the value of 'X-Token' is U+00E9; percent-encode it or leave it out" in str(
        caught.value
    )
    assert "tok-1" not in str(caught.value)


@pytest.mark.parametrize(
    "password", [KEY, f"Bearer {KEY}", f"  {KEY}\n"], ids=["bare", "with Bearer", "with blanks"]
)
def test_key_is_taken_out_of_the_password(password: str, connections: Callable[..., None]) -> None:
    """What people paste is understood."""
    connections(password=password)

    assert MusicAPIHook().settings.api_key == KEY


def test_defaults_without_extra(connections: Callable[..., None]) -> None:
    """A connection with only a key is complete."""
    connections()
    settings = MusicAPIHook().settings

    assert settings == ClientSettings(api_key=KEY, name=DEFAULT)
    assert settings.timeout == DEFAULT_TIMEOUT


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param({"timeout": 7}, {"timeout": 7.0}, id="timeout"),
        pytest.param({"timeout": "7.5"}, {"timeout": 7.5}, id="timeout as text"),
        pytest.param({"timeout": ""}, {}, id="timeout left blank"),
        pytest.param({"timeout": None}, {}, id="timeout null"),
        pytest.param({"poll_interval": 3}, {"poll_interval": 3.0}, id="poll interval"),
        pytest.param({"prices": {"remaster": 10}}, {"prices": {"remaster": 10.0}}, id="prices"),
        pytest.param({"prices": '{"remaster": "10.5"}'}, {"prices": {"remaster": 10.5}}, id="prices as text"),
        pytest.param({"proxies": {"https": "http://p"}}, {"proxies": {"https": "http://p"}}, id="proxies"),
        pytest.param({"proxies": '{"https": "http://p"}'}, {"proxies": {"https": "http://p"}}, id="as text"),
        pytest.param({"proxies": ""}, {}, id="proxies left blank"),
        pytest.param(
            {"proxy": "http://p"}, {"proxies": {"http": "http://p", "https": "http://p"}}, id="one proxy"
        ),
        pytest.param({"proxy": {"http": "http://p"}}, {"proxies": {"http": "http://p"}}, id="proxy object"),
        pytest.param({"verify": False}, {"verify": False}, id="verify off"),
        pytest.param({"verify": "false"}, {"verify": False}, id="verify off as text"),
        pytest.param({"verify": "True"}, {}, id="verify on as text"),
        pytest.param({"verify": ""}, {}, id="verify left blank"),
        pytest.param({"verify": None}, {}, id="verify null"),
        pytest.param({"verify": "/ca.pem"}, {"verify": "/ca.pem"}, id="verify by bundle"),
        pytest.param({"verify_ssl": False}, {"verify": False}, id="verify_ssl, as HttpHook"),
        pytest.param({"cert": "/c.pem"}, {"cert": "/c.pem"}, id="cert"),
        pytest.param({"cert": ["/c.pem", "/k.pem"]}, {"cert": ("/c.pem", "/k.pem")}, id="cert and key"),
        pytest.param({"cert": ""}, {}, id="cert left blank"),
        pytest.param({"trust_env": False}, {"trust_env": False}, id="trust_env"),
        pytest.param({"headers": {"X-A": 1}}, {"headers": {"X-A": "1"}}, id="headers"),
        pytest.param({"headers": {"authorization": "Basic eA=="}}, {}, id="a second Authorization"),
        pytest.param({"headers": {"X-A": " 1\n"}}, {"headers": {"X-A": "1"}}, id="blanks around a header"),
        pytest.param({"headers": '{"X-A": "1"}'}, {"headers": {"X-A": "1"}}, id="headers as text"),
        pytest.param({"X-B": "2"}, {"headers": {"X-B": "2"}}, id="unknown extra is a header, as HttpHook"),
        pytest.param({"check_response": False, "stream": True, "srv_lookup": False}, {}, id="HttpHook's own"),
    ],
)
def test_extras(extra: dict[str, Any], expected: dict[str, Any], connections: Callable[..., None]) -> None:
    """Each extra has its place, whether a form, a file or a person wrote it."""
    connections(extra=extra)

    assert replace(ClientSettings(api_key=KEY, name=DEFAULT), **expected) == MusicAPIHook().settings


async def test_async_settings_are_the_same(connections: Callable[..., None]) -> None:
    """The triggerer reads the connection as the worker does."""
    connections(host="a.example", extra={"timeout": 7, "X-B": "2"})

    assert MusicAPIHook().settings == await MusicAPIHook().asettings()


@pytest.mark.parametrize(
    ("base_url", "expected"), [(None, DEFAULT_BASE_URL), ("http://127.0.0.1:9", "http://127.0.0.1:9/api/v1")]
)
async def test_key_variable_serves_for_a_missing_default_connection(
    base_url: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Music in one command: the vendor's own variables are enough, in worker and triggerer."""
    monkeypatch.setenv("MUSICAPI_KEY", KEY)
    if base_url:
        monkeypatch.setenv("MUSICAPI_BASE_URL", base_url)
    settings = MusicAPIHook().settings

    assert (settings.api_key, settings.base_url) == (KEY, expected)
    assert settings == await MusicAPIHook().asettings()


def test_connection_beats_the_key_variable(
    connections: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is only for when there is no connection."""
    monkeypatch.setenv("MUSICAPI_KEY", "sk-variable")
    connections()

    assert MusicAPIHook().settings.api_key == KEY


async def test_missing_default_connection_says_how_to_make_it() -> None:
    """It names both ways: the connection and the variable."""
    with pytest.raises(MusicAPIConfigurationError) as caught:
        _ = MusicAPIHook().settings
    with pytest.raises(MusicAPIConfigurationError) as caught_async:
        await MusicAPIHook().asettings()

    assert str(caught.value) == str(caught_async.value)
    assert "airflow connections add musicapi_default --conn-type musicapi" in str(caught.value)
    assert "MUSICAPI_KEY" in str(caught.value)
    assert isinstance(caught.value.__cause__, AirflowNotFoundException)


def test_other_missing_connection_never_falls_back_to_the_key_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A misspelt id must not spend another account's credits."""
    monkeypatch.setenv("MUSICAPI_KEY", KEY)
    with pytest.raises(MusicAPIConfigurationError) as caught:
        _ = MusicAPIHook("studio").settings

    assert "airflow connections add studio --conn-type musicapi" in str(caught.value)
    assert "MUSICAPI_KEY" not in str(caught.value)


def test_settings_do_not_show_the_key(connections: Callable[..., None]) -> None:
    """Neither by ``repr`` nor by ``str``."""
    connections(extra={"headers": {"X-Token": "tok-123"}, "proxies": {"https": "http://me:pw@p"}})
    settings = MusicAPIHook().settings

    assert KEY not in f"{settings!r} {settings}"
    assert "tok-123" not in repr(settings)
    assert "me:pw" not in repr(settings)


# -- HttpHook's own way --------------------------------------------------------------------------------------


def test_session_carries_what_the_connection_says(connections: Callable[..., None]) -> None:
    """Proxies, certificates and headers reach requests; settings of ours never become headers."""
    connections(
        extra={
            "proxies": {"https": "http://p"},
            "verify": "/ca.pem",
            "cert": "/c.pem",
            "trust_env": False,
            "headers": {"X-A": "1"},
            "poll_interval": 3,
            "prices": {"remaster": 10},
            "timeout": 9,
        }
    )
    session = MusicAPIHook().get_conn(headers={"X-Call": "2"})
    headers = {name.lower() for name in session.headers}

    assert (session.proxies, session.verify, session.cert) == ({"all": "http://p"}, "/ca.pem", "/c.pem")
    assert session.trust_env is False
    assert {"x-a", "x-call", "accept"} <= headers
    assert not headers & {
        "poll_interval",
        "prices",
        "timeout",
        "verify",
        "cert",
        "proxies",
        "headers",
        "trust_env",
    }


def test_hook_knows_the_price(connections: Callable[..., None]) -> None:
    """The connection's price, else the documented one; nothing is asked."""
    connections(extra={"prices": {"remaster": 10}})
    hook = MusicAPIHook()

    assert [hook.expected_credits({"task_type": name}) for name in ("remaster", "concat_music")] == [10, 2]


def test_run_of_http_hook_works(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """Who knows HttpHook can go on as before."""
    response = hook.run("get-credits")

    assert response.json() == {"credits": simulator.state.credits, "extra_credits": 0}


def test_run_keeps_to_the_timeout_of_the_connection(
    silent_url: str, connections: Callable[..., None], stopwatch: Callable[[], float]
) -> None:
    """``run`` does not wait for ever."""
    connections(host=silent_url, extra={"timeout": 0.1})
    with pytest.raises(Exception, match="timed out"):
        MusicAPIHook().run("get-credits")

    assert stopwatch() < 5


# -- the API -------------------------------------------------------------------------------------------------


def test_methods_of_the_hook(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """Create, look, balance and any other endpoint."""
    music_task_id = hook.create(BODY)
    task = hook.get_task(music_task_id)
    credits = hook.get_credits()

    assert [music_task_id] == list(simulator.state.jobs)
    assert task.music_task_id == music_task_id
    assert credits.credits == 985
    assert hook.request("GET", "/get-credits")["credits"] == 985


async def test_async_twins_of_the_hook(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """The same four, without blocking."""
    music_task_id = await hook.acreate(BODY)
    task = await hook.aget_task(music_task_id)
    credits = await hook.aget_credits()

    assert [music_task_id] == list(simulator.state.jobs)
    assert task.music_task_id == music_task_id
    assert credits.credits == 985
    assert (await hook.arequest("GET", "/get-credits"))["credits"] == 985


async def test_one_session_serves_all_reads_of_a_hook(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """One connection for the synchronous reads, one for the asynchronous ones."""
    for _ in range(3):
        hook.get_credits()
    for _ in range(3):
        await hook.aget_credits()

    assert simulator.state.connections_opened == 2


def test_wait_for_tracks_returns_what_the_sensor_returns(
    hook: MusicAPIHook, simulator: SimulatorServer
) -> None:
    """Two finished tracks of each music task."""
    ids = [hook.create(BODY), hook.create({**BODY, "title": "Two"})]
    one = hook.wait_for_tracks(ids[0])
    both = hook.wait_for_tracks(ids)

    assert [ids[0]] * 2 == [track["music_task_id"] for track in one]
    assert [ids[0], ids[0], ids[1], ids[1]] == [track["music_task_id"] for track in both]


def test_wait_for_tracks_ends_at_its_deadline(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """The error names the id; nothing is lost."""
    simulator.state.scenario("running")
    music_task_id = hook.create(BODY)
    with pytest.raises(MusicAPIDeadlineError, match=music_task_id):
        hook.wait_for_tracks(music_task_id, timeout=0.1)


def test_wait_for_tracks_may_insist_on_all_clips(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """``fail_on_partial`` goes through."""
    simulator.state.scenario("partial")
    music_task_id = hook.create(BODY)

    assert len(hook.wait_for_tracks(music_task_id)) == 1
    with pytest.raises(MusicAPIPartialResultError):
        hook.wait_for_tracks(music_task_id, fail_on_partial=True)


def test_unknown_task_error_comes_through(hook: MusicAPIHook) -> None:
    """The hook adds nothing of its own to the client's errors."""
    with pytest.raises(MusicAPIUnknownTaskError):
        hook.get_task("nobody")


# -- the Test button -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra_credits", "expected"),
    [pytest.param(0, "1000 credits.", id="plain"), pytest.param(5, "5 extra credits.", id="with extra")],
)
def test_connection_test_shows_the_balance(
    extra_credits: int, expected: str, hook: MusicAPIHook, simulator: SimulatorServer
) -> None:
    """Success names the URL and what is left."""
    simulator.state.extra_credits = extra_credits
    worked, text = hook.test_connection()

    assert worked
    assert simulator.base_url in text
    assert text.endswith(expected)


def test_connection_test_spends_nothing(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """One free read."""
    hook.test_connection()

    assert dict(simulator.state.requests) == {"GET /get-credits": 1}


def test_connection_test_with_a_wrong_key(
    simulator: SimulatorServer, connections: Callable[..., None], logged: Log
) -> None:
    """The text says that it is the key, and does not show it."""
    connections(host=simulator.base_url)
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith("The API key is wrong")
    assert KEY not in text + logged.text


def test_connection_test_where_nobody_listens(refusing_url: str, connections: Callable[..., None]) -> None:
    """The text says where it knocked."""
    connections(host=refusing_url)
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith(f"The network fails. Cannot reach {refusing_url}")
    assert "ClientSettings" not in text


def _page(_: BaseHTTPRequestHandler) -> OddAnswer:
    return 200, {"content-type": "text/html"}, "<!doctype html><title>Welcome</title>"


def test_connection_test_at_a_web_page(
    odd_server: Callable[..., OddServer], connections: Callable[..., None]
) -> None:
    """A wrong host most often shows a page."""
    server = odd_server(_page)
    connections(host=server.base_url)
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith("The Base URL is wrong.")
    assert f"{server.base_url} answered with an HTML page" in text


def test_connection_test_of_an_unusable_connection(connections: Callable[..., None]) -> None:
    """It is reported, not raised."""
    connections(password=None)
    worked, text = MusicAPIHook().test_connection()

    assert not worked
    assert text.startswith("This connection has no API key.")


def test_connection_test_of_an_unknown_host(connections: Callable[..., None]) -> None:
    """A slip in the host name is told from a network that fails."""
    connections(host="https://api.musicapi.invalid")
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith(
        "The Base URL is wrong, or its host name is not known here. Cannot reach https://api.musicapi"
    )


def test_connection_test_at_another_path(
    simulator: SimulatorServer, connections: Callable[..., None]
) -> None:
    """The host is right, its path is not."""
    connections(host=f"{simulator.base_url}/v2")
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith("The Base URL is wrong.")


def test_connection_test_while_the_api_has_trouble(
    simulator: SimulatorServer, connections: Callable[..., None], odd_server: Callable[..., OddServer]
) -> None:
    """Neither key nor host is blamed, and nobody waits for long."""
    server = odd_server(lambda _: (503, {"content-type": "text/plain"}, "busy"))
    connections(host=server.base_url)
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert text.startswith("The API is there, but cannot say now.")


def test_connection_test_does_not_show_airflows_random_name(
    simulator: SimulatorServer, connections: Callable[..., None]
) -> None:
    """The UI tests a copy under a name that nobody knows."""
    connections("xK3mQ9", host=simulator.base_url)
    worked, text = MusicAPIHook("xK3mQ9", retries=QUICK).test_connection()

    assert not worked
    assert "xK3mQ9" not in text


def test_connection_test_with_a_missing_certificate_file(
    simulator: SimulatorServer, connections: Callable[..., None], tmp_path: Path
) -> None:
    """A path that is not there is reported, not raised."""
    missing = str(tmp_path / "missing.pem")
    connections(host="https://127.0.0.1:9/api/v1", extra={"verify": missing})
    worked, text = MusicAPIHook(retries=QUICK).test_connection()

    assert not worked
    assert missing in text


async def test_missing_certificate_file_is_our_error_in_the_triggerer_too(
    connections: Callable[..., None], tmp_path: Path
) -> None:
    """The asynchronous client says the same."""
    missing = str(tmp_path / "missing.pem")
    connections(host="https://127.0.0.1:9/api/v1", extra={"verify": missing})
    hook = MusicAPIHook(retries=QUICK)
    worked, text = hook.test_connection()
    with pytest.raises(Exception, match=r"missing\.pem|No such file") as caught:
        await hook.aget_credits()

    assert not worked
    assert type(caught.value).__name__.startswith("MusicAPI")
    assert text


async def test_revoked_key_in_both_ways(hook: MusicAPIHook, simulator: SimulatorServer) -> None:
    """The same error, synchronous or not."""
    hook.get_credits()
    simulator.state.api_key = "new"
    with pytest.raises(MusicAPIAuthError):
        hook.get_credits()
    with pytest.raises(MusicAPIAuthError):
        await hook.aget_credits()
