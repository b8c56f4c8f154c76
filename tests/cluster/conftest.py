"""One cluster for all tests here."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.cluster.__main__ import COMPOSE
from include.cluster.cluster import Cluster
from include.cluster.values import made_env
from tests.cluster.place import World

HERE = Path(__file__).parent
DAGS = ("musicapi_prompt_table", "musicapi_large_table", "cluster_table", "cluster_probe")


@pytest.fixture(scope="session")
def key() -> str:
    """Return the API key of this run: nothing else looks like it."""
    return f"sk-cluster-{secrets.token_hex(12)}"


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """Make a folder for the cluster; it stays when CLUSTER_KEEP is set."""
    # Not pytest's folder: that is closed to other users, and Postgres refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="musicapi-cluster-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    if not os.environ.get("CLUSTER_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def world(state: Path, key: str) -> Iterator[World]:
    """Start all services of docker-compose.yaml, every one a process."""
    values = {
        **made_env(state / "secrets.env"),
        **{"PATH": os.environ["PATH"], "COMPOSE_PROFILES": "simulator", "SIMULATOR_KEY": key},
        **{"AIRFLOW_API_WORKERS": "1", "AIRFLOW_WORKER_CONCURRENCY": "4"},
    }
    with Cluster([COMPOSE, HERE / "compose.yaml"], state, values) as cluster:
        cluster.start(patience=600)
        world = World(cluster, values)
        for dag_id in DAGS:
            world.until(f"{dag_id} is parsed", lambda dag_id=dag_id: world.api.has_dag(dag_id))  # type: ignore[misc]
        yield world
