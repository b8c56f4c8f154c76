"""
Airflow and the simulator as processes of this project: free loopback ports, one folder, ended together.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from include.local.airflow_api import AirflowAPI

PROJECT = Path(__file__).parents[2]
#: Airflow's folder for ``make up``; the demo has its own below it, so that neither finds the other's runs.
AIRFLOW_HOME = PROJECT / ".airflow"
SIMULATOR_KEY = "simulator-key"
#: Airflow's parts beside the API server. Logs are read from files, so nobody serves them.
PARTS: Mapping[str, list[str]] = {
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
#: Settings of tests and benchmarks: more tasks at once, less idling, and a triggerer that soon takes over
#: what a killed one has left.
IN_A_HURRY: Mapping[str, str] = {
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
}
#: Seconds to wait for a process: the first start also compiles byte code.
PATIENCE = 180.0


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StackError(Exception):
    """Something of the stack did not start or ended by itself; the text ends with the end of its log."""


class Stack:
    """
    Airflow on SQLite with LocalExecutor, every part its own process. Use it as a context manager.

    The tasks have an API server of their own. In one process with SQLite, Airflow 3.3.2 writes its audit log
    on the event loop, waits there for the lock of a task's request, and keeps that from finishing: a click
    while tasks run then ends after 5 s with a 500.

    :param home: Airflow's folder: database, logs, secrets.
    :param port: Port of the API server and UI; 0 takes a free one.
    :param fresh: Begin with an empty folder.
    :param settings: Further environment, such as ``AIRFLOW_CONN_MUSICAPI_DEFAULT``.
    :param api_workers: Processes of the API server.
    """

    def __init__(
        self,
        *,
        home: Path = AIRFLOW_HOME,
        port: int = 0,
        fresh: bool = False,
        settings: Mapping[str, str] | None = None,
        api_workers: int = 1,
    ) -> None:
        self.home = home
        self.port = port or free_port()
        self.fresh = fresh
        self.url = f"http://127.0.0.1:{self.port}"
        self.execution_port = free_port()
        self.environment: dict[str, str] = {}
        self._settings = settings or {}
        self._api_workers = api_workers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spawned: set[str] = set()
        self._cleanup = ExitStack()

    @property
    def password(self) -> str:
        """The password of the user ``admin``."""
        return _secrets(self.home)["password"]

    def __enter__(self) -> Stack:
        """Take the project's Airflow folder; start nothing yet."""
        self._cleanup.enter_context(_lock(self.home.with_suffix(".lock")))
        if self.fresh:
            shutil.rmtree(self.home, ignore_errors=True)
        self.environment = {**_environment(self.home, self.port, self.execution_port), **self._settings}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process that was started, last first; a second Ctrl-C does not cut that short."""
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
        for process in reversed(self._processes.values()):
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 15
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)  # also children that outlived it
            process.wait()
        self._cleanup.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)

    # -- starting ------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Create or upgrade the SQLite database."""
        done = subprocess.run(
            [*_airflow(), "db", "migrate"], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StackError(f"airflow db migrate failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        # Six processes share the file: with a write-ahead log readers do not block the writer.
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            database.execute("PRAGMA journal_mode=WAL")

    def start_simulator(self, *, port: int = 0, jobs: str = "seconds:8", options: Iterable[str] = ()) -> str:
        """
        Start the simulator, also one that was killed, and return its base URL.

        :param port: 0 takes a free one.
        :param options: Further ones, such as ``--journal FILE``, by which it remembers jobs when killed.
        """
        port = port or free_port()
        command = [sys.executable, "-m", "include.musicapi_simulator", "--port", str(port), "--jobs", jobs]
        self._spawn("simulator", [*command, "--api-key", SIMULATOR_KEY, "--webhooks-over-http", *options])
        base_url = f"http://127.0.0.1:{port}/api/v1"
        self._wait("simulator", lambda: _answers(f"{base_url}/get-credits"))
        return base_url

    def start_airflow(self) -> None:
        """Start the API servers, then the other parts, and wait until all are healthy."""
        self.start_api_server()
        server = [*_airflow(), "api-server", "--host", "127.0.0.1", "--port"]
        self._spawn("execution-server", [*server, str(self.execution_port), "--apps", "execution"])
        for name, command in PARTS.items():
            self._spawn(name, [*_airflow(), *command])
        self._wait("api-server", lambda: _answers(f"{self.url}/api/v2/version"))
        # Its first request takes seconds; the first task need not.
        execution_health = f"http://127.0.0.1:{self.execution_port}/execution/health"
        self._wait("execution-server", lambda: _answers(execution_health))
        for name in PARTS:
            self._wait(name, lambda name=name: self._is_healthy(name))  # type: ignore[misc]

    def start_with(self, dag_ids: Iterable[str]) -> AirflowAPI:
        """Make the database, start Airflow, and return its API once it knows these DAGs."""
        self.migrate()
        self.start_airflow()
        api = self.api()
        for dag_id in dag_ids:
            self.wait_for_dag(api, dag_id)
        return api

    def kill(self, name: str) -> None:
        """End a part as a crash does: SIGKILL to the process and its children, without a goodbye."""
        process = self._processes.pop(name)  # it did not end by itself
        _signal(process, signal.SIGKILL)
        process.wait()

    def start_api_server(self) -> None:
        """Start the server of UI, API and plugins, also one that was killed, and return at once."""
        options = ["--port", str(self.port), "--workers", str(self._api_workers), "--apps", "core"]
        self._spawn("api-server", [*_airflow(), "api-server", "--host", "127.0.0.1", *options])

    def start_part(self, name: str) -> None:
        """Start one of :data:`PARTS` again and return at once."""
        self._spawn(name, [*_airflow(), *PARTS[name]])

    def wait_for_dag(self, api: AirflowAPI, dag_id: str) -> None:
        """Wait until the DAG processor has parsed it."""
        try:
            self._wait("dag-processor", lambda: api.has_dag(dag_id))
        except StackError as error:
            raise StackError(f"DAG {dag_id} did not appear. {api.import_errors()}\n{error}") from error

    def check_alive(self) -> None:
        """Raise when a process has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StackError(f"{name} ended with exit code {process.returncode}:\n{self._tail(name)}")

    def _spawn(self, name: str, command: list[str]) -> None:
        log = self._log_file(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        # The log of what is started again goes on where the last one ended.
        with log.open("ab" if name in self._spawned else "wb") as out:
            self._spawned.add(name)
            self._processes[name] = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that its children can be ended with it
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise StackError(f"{name} was not ready after {PATIENCE:g} s:\n{self._tail(name)}")
            time.sleep(0.2)

    def _is_healthy(self, name: str) -> bool:
        health = _loopback().get(f"{self.url}/api/v2/monitor/health", timeout=30).json()
        return bool((health.get(name.replace("-", "_")) or {}).get("status") == "healthy")

    def _log_file(self, name: str) -> Path:
        return self.home / "processes" / f"{name}.log"

    def _tail(self, name: str, lines: int = 25) -> str:
        log = self._log_file(name)
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) + f"\n(whole log: {log})"

    # -- talking to Airflow --------------------------------------------------------------------------------

    def api(self) -> AirflowAPI:
        """Return a logged-in client of Airflow's public API."""
        return AirflowAPI(self.url, self.password)


def end_by_signal() -> None:
    """Let signals end this program by an exception, so that its processes are ended, too."""
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def connection_json(base_url: str, key: str, **extra: Any) -> str:
    """Return a connection as Airflow reads it from the environment."""
    return json.dumps({"conn_type": "musicapi", "host": base_url, "password": key, "extra": extra})


def _environment(home: Path, port: int, execution_port: int) -> dict[str, str]:
    """Return the environment of every Airflow process: this project's folders, loopback only."""
    hidden = _secrets(home)
    passwords = home / "passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({"admin": hidden["password"]}))
    settings = {
        "CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",  # SQLite has one writer; more tasks at once only wait for each other
        "CORE__FERNET_KEY": hidden["fernet"],
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{execution_port}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "CORE__TEST_CONNECTION": "Enabled",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__SECRET_KEY": hidden["api"],
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": hidden["jwt"],
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "USAGE_DATA_COLLECTION__ENABLED": "False",  # nothing leaves this machine
    }
    proxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    no_proxy = ",".join(filter(None, [proxied, "127.0.0.1,localhost"]))
    # Another Airflow's settings and connections, and a real key, must not slip into this one.
    foreign = ("AIRFLOW_", "MUSICAPI_", "PYTHONDONTWRITEBYTECODE")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **keep,  # without byte code Airflow starts three times slower
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(PROJECT),  # DAGs may import include
        # Both spellings: where both are set, the lower-case one wins.
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def _secrets(home: Path) -> dict[str, str]:
    """Return this folder's own secrets, made at first use and kept readable to its owner only."""
    path = home / "secrets.json"
    if not path.exists():
        from cryptography.fernet import Fernet

        home.mkdir(parents=True, exist_ok=True)
        made = {name: secrets.token_urlsafe(48) for name in ("jwt", "api")}
        made |= {"fernet": Fernet.generate_key().decode(), "password": secrets.token_urlsafe(9)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(made))
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded


class _lock:  # noqa: N801 - reads as a verb where it is used
    """Hold the project's Airflow folder: two schedulers on one SQLite file would fight."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("the same make target is running in this folder already.") from None

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def _airflow() -> list[str]:
    return [sys.executable, "-m", "airflow"]


def _answers(url: str) -> bool:
    try:
        return _loopback().get(url, timeout=30).status_code < 500
    except requests.ConnectionError:
        return False


def _loopback() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy of the environment is not for this machine
    return session


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
