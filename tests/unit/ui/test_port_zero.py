"""The Test button of a connection without a port: what Airflow's route receives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from musicapi_provider.ui.port_zero import PortZeroIsNoPort

STORED = {
    "connection_id": "musicapi_default",
    "conn_type": "musicapi",
    "password": "***",
    "host": "https://x",
}


@pytest.fixture
def client() -> TestClient:
    """Return a client of an app that answers what it received, behind the middleware."""
    app = FastAPI()
    app.add_middleware(PortZeroIsNoPort)

    @app.post("/api/v2/connections/test")
    @app.post("/api/v2/connections")
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {"body": body.decode(), "announced": int(request.headers["content-length"]), "sent": len(body)}

    return TestClient(app)


@pytest.mark.parametrize(
    ("connection", "port"),
    [
        pytest.param({**STORED, "port": 0}, None, id="none, as Airflow's UI sends it"),
        pytest.param({**STORED, "port": 8080}, 8080, id="a port"),
        pytest.param({**STORED, "conn_type": "http", "port": 0}, 0, id="another provider's"),
    ],
)
def test_only_port_zero_of_our_connections_becomes_none(
    connection: dict[str, Any], port: int | None, client: TestClient
) -> None:
    """All else of the connection stays, and the length is right."""
    answer = client.post("/api/v2/connections/test", json=connection).json()

    assert json.loads(answer["body"]) == {**connection, "port": port}
    assert answer["announced"] == answer["sent"]


def test_other_routes_are_left_alone(client: TestClient) -> None:
    """Saving is not testing."""
    answer = client.post("/api/v2/connections", json={**STORED, "port": 0}).json()

    assert json.loads(answer["body"])["port"] == 0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"conn_type": "musicapi", "port": 0, "extra": "%s"}' % (b"x" * 400_000), id="large"),
    ],
)
def test_what_is_no_connection_goes_through_as_it_is(body: bytes, client: TestClient) -> None:
    """Airflow says what is wrong with it."""

    def pieces() -> Any:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"content-length": str(len(body))}
    answer = client.post("/api/v2/connections/test", content=pieces(), headers=headers).json()

    assert answer["body"].encode() == body
