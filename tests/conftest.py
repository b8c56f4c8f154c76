"""The simulator, the connection and a clean state for every test; see style in CONTRIBUTING.md."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

# One Airflow environment per run, set before the first import of Airflow; never the developer's own.
_HOME = Path(tempfile.mkdtemp(prefix="musicapi-tests-"))
#: DAG files that tests write; Airflow runs only DAGs of its own folders.
WRITTEN_DAGS = _HOME / "written_dags"
WRITTEN_DAGS.mkdir()
os.environ.update(
    {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME / 'airflow.db'}",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
            [
                {
                    "name": folder.name,
                    "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                    "kwargs": {"path": str(folder), "refresh_interval": 0},
                }
                for folder in (PROJECT / "dags", WRITTEN_DAGS)
            ]
        ),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "0",  # a retry must not make a test wait
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
)
for name in ("MUSICAPI_KEY", "MUSICAPI_BASE_URL"):
    os.environ.pop(name, None)

from include.local.stack import connection_json  # noqa: E402
from include.musicapi_simulator import Settings, SimulatorServer  # noqa: E402
from musicapi_provider.api.client import MusicAPIClient  # noqa: E402
from musicapi_provider.api.settings import ClientSettings, RetrySettings  # noqa: E402

#: Retries without noticeable waiting.
QUICK = RetrySettings(first_wait=0.01, longest_wait=0.02)


def pytest_unconfigure() -> None:
    """Remove the Airflow environment."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def simulator_server() -> Iterator[SimulatorServer]:
    """One simulator for the whole run."""
    # Jobs end at the second read: every wait meets a running answer first.
    with SimulatorServer(
        Settings(job_rule="reads:2", song_seconds=1, retry_after=0, slow_seconds=1)
    ) as server:
        yield server


@pytest.fixture
def simulator(simulator_server: SimulatorServer) -> SimulatorServer:
    """Return the simulator with a clean state."""
    simulator_server.reset()
    return simulator_server


@pytest.fixture
def settings(simulator: SimulatorServer) -> ClientSettings:
    """Return client settings for the simulator."""
    return ClientSettings(
        api_key=simulator.api_key, base_url=simulator.base_url, poll_interval=0.01, timeout=5, name="test"
    )


@pytest.fixture
def client(settings: ClientSettings) -> Iterator[MusicAPIClient]:
    """Return a client for the simulator."""
    client = MusicAPIClient(settings, retries=QUICK)
    yield client
    client.close()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets an Airflow connection, by default ``musicapi_default``."""

    def set_connection(
        base_url: str, key: str, *, conn_id: str = "musicapi_default", **extra: object
    ) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection_json(base_url, key, **extra))

    return set_connection


@pytest.fixture
def connection(simulator: SimulatorServer, connect: Callable[..., None]) -> str:
    """Set the default connection to the simulator and return its id."""
    connect(simulator.base_url, simulator.api_key, poll_interval=0.01, timeout=5)
    return "musicapi_default"
