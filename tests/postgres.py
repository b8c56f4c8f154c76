"""
A real Postgres server of the distribution's package, for tests; ``pytest_plugins = ["tests.postgres"]``.

Without the package the tests are skipped; where the environment says ``CI`` they fail instead.
"""

from __future__ import annotations

import getpass
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

#: Where Debian and Red Hat put the server's programs, which are not on the PATH there.
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
#: Seconds until a server must answer.
PATIENCE = 60.0
USER = DATABASE = "prompts"
#: What one answers that is quick to set up and need not survive a power cut.
IN_A_HURRY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server: where it listens, and the password of its only user."""

    port: int
    password: str
    pid: int

    @property
    def uri(self) -> str:
        """What ``psycopg2.connect`` and SQLAlchemy take; Airflow takes it too."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def connection_json(self, **changes: Any) -> str:
        """Return the Airflow connection for ``AIRFLOW_CONN_<ID>``."""
        connection = {
            **{"conn_type": "postgres", "host": "127.0.0.1", "port": self.port, "schema": DATABASE},
            **{"login": USER, "password": self.password},
        }
        return json.dumps(connection | changes)

    def execute(self, *statements: str, rows: Sequence[Sequence[Any]] = ()) -> None:
        """Run statements and commit; the last one for each of the rows, when there are any."""
        import psycopg2

        connection = psycopg2.connect(self.uri)
        try:
            with connection, connection.cursor() as cursor:
                for statement in statements[:-1] if rows else statements:
                    cursor.execute(statement)
                if rows:
                    cursor.executemany(statements[-1], rows)
        finally:
            connection.close()


def sqlite_connection_json(path: Path) -> str:
    """Return the Airflow connection of a SQLite file for ``AIRFLOW_CONN_<ID>``."""
    return json.dumps({"conn_type": "sqlite", "host": str(path)})


def postgres_programs() -> Path | None:
    """Return the folder of the newest server's programs, or none."""
    found = [folder for place in PLACES for folder in Path("/").glob(place[1:])]
    found.sort(key=lambda folder: [int(part) for part in folder.parent.name.split("-")[-1].split(".")])
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).parent)
    usable = [folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return usable[-1] if usable else None


@contextmanager
def postgres_server(programs: Path) -> Iterator[Postgres]:
    """Run a server of its own on a free port of 127.0.0.1; its folder goes with it."""
    # Not pytest's folder: that is closed to other users, and Postgres refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="musicapi-postgres-", dir="/tmp"))
    try:
        password, owner = secrets.token_urlsafe(12), _owner()
        (folder / "password").write_text(password)
        _give(folder, owner)
        _initialize(programs, folder, owner)
        server, port = _start(programs, folder, owner)
        try:
            postgres = Postgres(port, password, server.pid)
            _create_database(postgres)
            yield postgres
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run; tests make tables of their own names."""
    programs = postgres_programs()
    if programs is None:
        reason = "there is no Postgres server on this machine (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with postgres_server(programs) as server:
        yield server


def _owner() -> str:
    """Return who may run Postgres: not root."""
    if os.geteuid() != 0:
        return getpass.getuser()
    known = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _give(folder: Path, owner: str) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, owner)


def _as(owner: str) -> dict[str, Any]:
    """Return what makes a process another user's, when this one may."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(owner)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _initialize(programs: Path, folder: Path, owner: str) -> None:
    command = [
        *(str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username", USER),
        *("--pwfile", str(folder / "password"), "--auth", "scram-sha-256"),
        *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **_as(owner))
    assert done.returncode == 0, done.stderr


def _start(programs: Path, folder: Path, owner: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it answers; a port that was taken in between is not the only one."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *IN_A_HURRY]
        command = [str(programs / "postgres"), "-D", str(folder / "data")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                command + [part for setting in settings for part in ("-c", setting)],
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": folder, **_as(owner)},
            )
        if _answers(server, port):
            return server, port
    raise AssertionError((folder / "log").read_text())


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + PATIENCE
    try:
        while server.poll() is None and time.monotonic() < end:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return server.poll() is None
            time.sleep(0.02)
    except BaseException:  # such as Ctrl-C: nobody else knows this process
        server.kill()
        raise
    server.kill()
    server.wait()
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast": open connections are closed
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _create_database(postgres: Postgres) -> None:
    """Make the database, as soon as the server takes connections: it listens a little earlier."""
    import psycopg2

    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection = psycopg2.connect(postgres.uri.removesuffix(DATABASE) + "postgres")
        except psycopg2.OperationalError as error:
            if "starting up" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            break
    connection.autocommit = True  # CREATE DATABASE goes into no transaction
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {DATABASE}")
    connection.close()
