"""``airflow musicapi setup`` on a real metadata database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import delete, select

KEY = "sk-setup-0123456789"
NAMES = ("connection musicapi_default", "connection aws_music", "pool musicapi_creates")


@dataclass(frozen=True)
class Said:
    """What the command ended with, and what it said of each thing."""

    code: str | int | None
    of: dict[str, str]


@pytest.fixture
def setup(
    database: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Return a function that runs the command with an environment and returns what it says, by name."""
    with create_session() as session:
        session.execute(delete(Connection))
        session.execute(delete(Pool).where(Pool.pool != Pool.DEFAULT_POOL_NAME))

    def run(*words: str, **environment: str) -> Said:
        from airflow.cli.cli_parser import get_parser

        code: str | int | None = None
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            args = get_parser().parse_args(["musicapi", "setup", *words])
            try:
                args.func(args)
            except SystemExit as end:
                code = end.code
        said = capsys.readouterr().out
        assert KEY not in f"{said} {code}"
        return Said(code, dict(line.split(": ", 1) for line in said.splitlines()))

    return run


def connection(conn_id: str) -> Connection:
    """Return a connection as the database has it."""
    with create_session() as session:
        found = session.scalar(select(Connection).where(Connection.conn_id == conn_id))
        assert found is not None
        session.expunge(found)
        return found


def add(conn_id: str, **fields: str) -> None:
    """Make a connection as a user would."""
    with create_session() as session:
        session.add(Connection(conn_id=conn_id, **fields))


STORE = {
    "MUSICAPI_S3_ACCESS_KEY": "id",
    "MUSICAPI_S3_SECRET_KEY": "hidden",
    "MUSICAPI_S3_ENDPOINT_URL": "http://s3:8333",
}


def test_everything_is_made(setup: Callable[..., Said]) -> None:
    """The API's connection, the store's, and the pool."""
    said = setup(MUSICAPI_KEY=KEY, MUSICAPI_BASE_URL="http://api.test/v1", MUSICAPI_CREATE_SLOTS="7", **STORE)
    api, store = connection("musicapi_default"), connection("aws_music")
    pool = Pool.get_pool("musicapi_creates")

    assert Said(None, dict.fromkeys(NAMES, "created")) == said
    assert (api.conn_type, api.host, api.password) == ("musicapi", "http://api.test/v1", KEY)
    assert (store.conn_type, store.login, store.password) == ("aws", "id", "hidden")
    assert json.loads(store.extra) == {"endpoint_url": "http://s3:8333", "region_name": "us-east-1"}
    assert pool is not None
    assert pool.slots == 7


def test_second_run_changes_nothing(setup: Callable[..., Said]) -> None:
    """It may run at each start."""
    setup(MUSICAPI_KEY=KEY, **STORE)

    assert Said(None, dict.fromkeys(NAMES, "as wanted")) == setup(MUSICAPI_KEY=KEY, **STORE)


def test_what_it_made_follows_the_environment(setup: Callable[..., Said]) -> None:
    """A new key is taken over, and only the changed fields are named."""
    setup(MUSICAPI_KEY="sk-old", **STORE)
    said = setup(MUSICAPI_KEY=KEY, MUSICAPI_EXTRA='{"timeout": 5}', MUSICAPI_CREATE_SLOTS="2", **STORE)

    assert list(said.of.values()) == ["changed: password, extra", "as wanted", "changed: slots"]
    assert connection("musicapi_default").password == KEY


def test_users_connection_is_replaced_only_by_force(setup: Callable[..., Said]) -> None:
    """Without ``--force`` the difference is named, the rest done, and the exit code is 1."""
    add("musicapi_default", conn_type="musicapi", password="sk-mine", host="https://mine.test/v1")
    said = setup(MUSICAPI_KEY=KEY, **STORE)
    kept = connection("musicapi_default").password
    forced = setup("--force", MUSICAPI_KEY=KEY, **STORE)

    assert said.code == 1
    assert said.of[NAMES[0]].startswith(
        "NOT changed: somebody else has made it, and it differs in host, password"
    )
    assert said.of[NAMES[1]] == "created"
    assert kept == "sk-mine"
    assert forced.of[NAMES[0]] == "changed: host, password"
    assert connection("musicapi_default").password == KEY


def test_users_connection_that_is_as_wanted_is_fine(setup: Callable[..., Said]) -> None:
    """Nothing has to be changed, so nothing is complained of."""
    add("musicapi_default", conn_type="musicapi", password=KEY, extra="{}")

    assert setup(MUSICAPI_KEY=KEY).of[NAMES[0]] == "as wanted"


def test_what_is_not_given_is_left_alone(setup: Callable[..., Said]) -> None:
    """The connection may come from a secrets backend."""
    said = setup()

    assert list(said.of.values()) == ["left alone: not in the environment"] * 2 + ["created"]


@pytest.mark.parametrize(
    "environment",
    [
        {"MUSICAPI_KEY": KEY, "MUSICAPI_EXTRA": '{"timeout": -1}'},
        {"MUSICAPI_KEY": KEY, "MUSICAPI_BASE_URL": "ftp://api.test"},
        {"MUSICAPI_KEY": KEY, "MUSICAPI_CREATE_SLOTS": "many"},
    ],
    ids=str,
)
def test_unusable_value_changes_nothing(environment: dict[str, str], setup: Callable[..., Said]) -> None:
    """A connection that the hook would refuse is not stored."""
    said = setup(**environment)

    assert "must be" in str(said.code)
    assert said.of == {}
    with create_session() as session:
        assert session.scalars(select(Connection)).all() == []
