"""Airflow's own API server with the plugin as it is installed, over HTTP, on a fresh SQLite database."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from include.local.stack import free_port
from tests.unit.ui.picky_auth_manager import PickyAuthManager

USERS = {"admin": "admin", "reader": "viewer"}
PATIENCE = 60


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Server:
    """
    A running API server.

    :param tokens: A login for each user.
    """

    port: int
    app: Any
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(
        self, path: str, *, user: str | None = "admin", method: str = "GET", body: Any = None, **headers: str
    ) -> Answer:
        """
        Send a request as it is: no client takes ``../`` out of the path.

        :param headers: With ``_`` for ``-``.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if user:
            sent["Authorization"] = f"Bearer {self.tokens[user]}"
        if body is not None:
            sent["Content-Type"], body = "application/json", json.dumps(body)
        with closing(connection):
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start Airflow's API server, with the plugin as it is installed and a fresh SQLite database."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    manager = f"{PickyAuthManager.__module__}.{PickyAuthManager.__name__}"
    users = ",".join(f"{name}:{role}" for name, role in USERS.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", manager)
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", users)
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET",
            "a secret of sixty-four characters, for nothing but these tests ...",
        )
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
        app = create_app(apps="core")
        running = Server(free_port(), app)
        config = uvicorn.Config(app, host="127.0.0.1", port=running.port, log_config=None, access_log=False)
        served = uvicorn.Server(config)
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        while not served.started:
            thread.join(0.05)
            assert thread.is_alive()
        passwords = PickyAuthManager.get_passwords()
        for name in USERS:
            login = {"username": name, "password": passwords[name]}
            answer = running.ask("/auth/token", user=None, method="POST", body=login)
            running.tokens[name] = answer.json["access_token"]
            assert (
                running.ask("/musicapi/tracks", user=name).status == 200
            )  # Airflow keeps the secret from here
    yield running
    served.should_exit = True
    thread.join(PATIENCE)
    purge_cached_app()
