"""One simulator for all tests of it, as clean as new before each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests

from include.musicapi_simulator import Settings, SimulatorServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.musicapi_simulator.state import SimulatorState

#: A body that passes every check.
SONG = {
    "task_type": "create_music",
    "custom_mode": True,
    "mv": "sonic-v5",
    "prompt": "[Verse]\nPaper boats along the river",
    "title": "Paper Boats",
    "tags": "indie folk",
}
#: Short delays: nothing here is measured to less than a tenth of a second.
QUICK = Settings(job_rule="at-once", song_seconds=1.0, slow_seconds=0.15)


@dataclass
class Caller:
    """A bare client, so that the simulator is not tested by our own one."""

    server: SimulatorServer
    key: str = "simulator-key"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Call the API, each time on a fresh connection."""
        headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
        return requests.request(method, self.server.base_url + path, headers=headers, timeout=5, **options)

    def create(self, **changes: Any) -> requests.Response:
        """Submit the usual song with changes; a field set to None is left out."""
        body = {name: value for name, value in (SONG | changes).items() if value is not None}
        return self.call("POST", "/sonic/create", json=body)

    def submit(self, **changes: Any) -> str:
        """Submit and return the task id."""
        return str(self.create(**changes).json()["task_id"])

    def poll(self, task_id: str) -> requests.Response:
        """Read a task."""
        return self.call("GET", f"/sonic/task/{task_id}")

    def credits(self) -> int:
        """Read the credits."""
        return int(self.call("GET", "/get-credits").json()["credits"])

    def control(self, method: str, path: str, **options: Any) -> requests.Response:
        """Call a control route, without a key."""
        root = self.server.base_url.removesuffix("/api/v1")
        return requests.request(method, f"{root}/_control{path}", timeout=5, **options)


@pytest.fixture(scope="package")
def running_server() -> Iterator[SimulatorServer]:
    """Run one simulator for the package."""
    with SimulatorServer(QUICK) as server:
        yield server


@pytest.fixture
def server(running_server: SimulatorServer) -> SimulatorServer:
    """Return the simulator, reset."""
    running_server.reset()
    return running_server


@pytest.fixture
def state(server: SimulatorServer) -> SimulatorState:
    """Return the simulator's state."""
    return server.state


@pytest.fixture
def caller(server: SimulatorServer) -> Caller:
    """Return a client with the right key."""
    return Caller(server)
