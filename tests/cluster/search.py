"""
Look for a secret in everything that a cluster has written, holds, or answers.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from include.cluster.programs import postgres_programs

if TYPE_CHECKING:
    import requests

    from tests.cluster.place import World

#: What Airflow's API says of a run and of its task instances, rendered fields among it.
_OF_RUN = ("", "/taskInstances?limit=1000")
_OF_TASK = ("/xcomEntries?limit=1000", "/links")
#: Columns of the metadata database that are encrypted, by table.
_ENCRYPTED = {"trigger": ("kwargs",), "connection": ("password", "extra")}
#: What it says beside runs.
_ANSWERS = (
    *("connections", "variables", "pools", "eventLogs?limit=1000", "importErrors", "jobs", "providers"),
    *("config", "assets/events?limit=1000"),
)


def places_with(secret: str, world: World) -> list[str]:
    """
    Return where a secret was found.

    The simulator's own process is left out: it plays the API, and knows the key as the API would.
    """
    wanted = secret.encode()
    return [place for place, content in _everything(world) if wanted in content]


def _everything(world: World) -> Iterator[tuple[str, bytes]]:
    own = {world.cluster.log("simulator")}
    for path in sorted(world.cluster.state.rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in own:
            yield str(path), path.read_bytes()
    yield "dump of the metadata database", _dump(world)
    yield from decrypted(world, "trigger")
    for key, content in world.folder("").contents().items():
        yield f"s3 {key}", content
    yield from _redis(world)
    yield from _answers(world)
    yield from _processes(world)


def _dump(world: World) -> bytes:
    command = [str(postgres_programs()[-1] / "pg_dump"), "--host", world.cluster.addresses["postgres"]]
    environment = {"PGPASSWORD": world.values["POSTGRES_PASSWORD"], "PATH": os.defpath}
    return subprocess.run(
        [*command, "--username", "airflow", "airflow"], env=environment, check=True, capture_output=True
    ).stdout


def decrypted(world: World, table: str) -> Iterator[tuple[str, bytes]]:
    """Return the encrypted values of a table as Airflow reads them."""
    import psycopg2
    from cryptography.fernet import Fernet

    fernet = Fernet(world.values["AIRFLOW_FERNET_KEY"])
    account = {"dbname": "airflow", "user": "airflow", "password": world.values["POSTGRES_PASSWORD"]}
    with closing(psycopg2.connect(host=world.cluster.addresses["postgres"], **account)) as connection:
        cursor = connection.cursor()
        for column in _ENCRYPTED[table]:
            cursor.execute(f'SELECT id, "{column}" FROM "{table}"')  # noqa: S608 - names of ours
            for id_, value in cursor.fetchall():
                if (
                    value
                ):  # what a worker hands over is JSON in clear: Airflow's API server stores it as it is
                    plain = value.encode()
                    yield (
                        f"{table} {id_} {column}",
                        plain if value.startswith("{") else fernet.decrypt(plain),
                    )


def _redis(world: World) -> Iterator[tuple[str, bytes]]:
    import redis

    client = redis.Redis(world.cluster.addresses["redis"], password=world.values["REDIS_PASSWORD"])
    for name in client.scan_iter():
        yield f"redis {name!r}", name + (client.dump(name) or b"")


def _answers(world: World) -> Iterator[tuple[str, bytes]]:
    session = world.api._session
    base = f"{world.cluster.url}/api/v2"

    def get(path: str) -> requests.Response:
        return session.get(f"{base}/{path}", timeout=120)

    for path in _ANSWERS:
        yield path, get(path).content
    for run in get("dags/~/dagRuns?limit=1000").json()["dag_runs"]:
        of_run = f"dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'], safe='')}"
        for path in _OF_RUN:
            yield of_run + path, get(of_run + path).content
        instances = get(f"{of_run}/taskInstances?limit=1000").json()["task_instances"]
        for task_id in sorted({one["task_id"] for one in instances}):
            of_task = f"{of_run}/taskInstances/{task_id}"
            for path in _OF_TASK:
                yield of_task + path, get(of_task + path).content
            for entry in get(f"{of_task}/xcomEntries?limit=1000").json()["xcom_entries"]:
                name = f"{of_task}/xcomEntries/{quote(entry['key'], safe='')}?map_index={entry['map_index']}"
                yield name, get(name).content


def _processes(world: World) -> Iterator[tuple[str, bytes]]:
    """What the living processes were started with."""
    for name, process in world.cluster.processes.items():
        for one in process._family() if name != "simulator" else []:
            for what in ("environ", "cmdline"):
                file = Path(f"/proc/{one.pid}/{what}")
                with suppress(OSError):  # it has ended meanwhile
                    yield f"{name} {file}", file.read_bytes()
