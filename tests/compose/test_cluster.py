"""Services as processes: their order, health, names, restarts and ends; with Redis, which starts at once."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from include.cluster.cluster import Cluster, ClusterError

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and list(Path("/usr/lib").glob("*/libnss_wrapper.so"))),
    reason="needs Debian's redis-server and libnss-wrapper",
)

COMPOSE = """
services:
  redis:
    image: redis:7
    restart: unless-stopped
    command: [sh, -c, 'exec redis-server --bind 0.0.0.0 --dir /data --requirepass "$$PASSWORD"']
    environment: {PASSWORD: "${REDIS_PASSWORD:?}"}
    volumes: ["redis:/data"]
    healthcheck: {test: 'REDISCLI_AUTH="$$PASSWORD" redis-cli -h redis ping | grep -q PONG'}
  other:
    image: redis:7
    command: redis-server --bind 0.0.0.0
    hostname: somebody
    healthcheck: {test: redis-cli -h other ping}
    depends_on: {redis: {condition: service_healthy}, once: {condition: service_completed_successfully}}
  once:
    image: redis:7
    restart: "no"
    command: [sh, -c, "echo $$HOSTNAME is alone >> /data/once; exit ${CODE:-0}"]
    volumes: ["redis:/data"]
    depends_on: {redis: {condition: service_healthy}}
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Return a function that makes a cluster of a compose file, ended with the test."""
    with ExitStack() as stack:

        def enter(text: str = COMPOSE, **values: str) -> Cluster:
            file = tmp_path / "compose.yaml"
            file.write_text(text)
            values = {"REDIS_PASSWORD": "secret", **values}
            return stack.enter_context(Cluster([file], tmp_path / "state", values))

        yield enter


@pytest.fixture
def cluster(make: Callable[..., Cluster]) -> Cluster:
    """Return the started cluster."""
    cluster = make()
    cluster.start(patience=30)
    return cluster


def pid(cluster: Cluster, name: str) -> int:
    """Return the process of a service."""
    process = cluster.processes[name]._process
    assert process is not None
    return process.pid


def answers(cluster: Cluster, name: str) -> bool:
    """Tell whether a service takes connections, at its own address."""
    try:
        socket.create_connection((cluster.addresses[name], 6379), timeout=1).close()
    except OSError:
        return False
    return True


def until(reached: Callable[[], bool]) -> None:
    """Wait for something that is under way."""
    for _ in range(2000):
        if reached():
            return
        psutil.Process().cpu_percent(0.01)
    raise AssertionError("not reached")


def test_services_start_in_the_order_of_their_needs(make: Callable[..., Cluster]) -> None:
    """Healthy or completed is what others wait for; both listen on the same port."""
    cluster, ready = make(), []
    cluster.start(patience=30, say=ready.append)

    assert ready == ["redis", "once", "other"]
    assert answers(cluster, "redis")
    assert answers(cluster, "other")
    assert (cluster.state / "volumes" / "redis" / "once").read_text() == "once is alone\n"


def test_nothing_of_this_shell_reaches_a_service(make: Callable[..., Cluster]) -> None:
    """As in a container: what is not in the file is not there."""
    os.environ["MUSICAPI_KEY"] = "sk-of-this-shell"
    try:
        cluster = make()
        cluster.start("redis", patience=30)
    finally:
        del os.environ["MUSICAPI_KEY"]

    assert "MUSICAPI_KEY" not in psutil.Process(pid(cluster, "redis")).environ()


def test_end_by_itself_is_followed_by_a_restart(cluster: Cluster) -> None:
    """`unless-stopped`: a crash is no stop."""
    first = pid(cluster, "redis")
    os.kill(first, 9)
    psutil.wait_procs([psutil.Process(first)], 5) if psutil.pid_exists(first) else None

    def is_back() -> bool:
        cluster.tend()
        return pid(cluster, "redis") != first and answers(cluster, "redis")

    until(is_back)


def test_killed_service_stays_dead_until_it_is_started(cluster: Cluster) -> None:
    """What a test kills is not brought back by a policy."""
    cluster.processes["redis"].kill()
    cluster.tend()
    dead = not answers(cluster, "redis")
    cluster.start("redis", patience=30)

    assert dead
    assert answers(cluster, "redis")


def test_service_that_may_not_end_stops_all(cluster: Cluster) -> None:
    """Without a restart policy an end is an error, told with the end of its log."""
    os.kill(pid(cluster, "other"), 9)
    with pytest.raises(ClusterError, match=r"other ended with exit code -9:(.|\n)*Ready to accept"):
        until(lambda: cluster.tend() is not None)


def test_failed_setup_stops_the_start(make: Callable[..., Cluster]) -> None:
    """Who waits for a completion would wait for ever."""
    with pytest.raises(ClusterError, match="once ended with exit code 3"):
        make(CODE="3").start(patience=30)


def test_end_leaves_no_process(make: Callable[..., Cluster], tmp_path: Path) -> None:
    """Also not of a service that has children."""
    before = set(psutil.Process().children(recursive=True))
    with make(COMPOSE.replace("exec redis-server", "true; redis-server")) as cluster:
        cluster.start(patience=30)
        during = set(psutil.Process().children(recursive=True)) - before

    assert during
    assert [process for process in during if process.is_running() and process.status() != "zombie"] == []


def test_one_cluster_at_a_time_has_a_folder(cluster: Cluster) -> None:
    """Two Postgres servers on one folder would fight."""
    with pytest.raises(ClusterError, match="another cluster is running"), Cluster([], cluster.state, {}):
        pass
