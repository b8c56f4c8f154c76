"""
Look for a secret in everything that a cluster has written, holds, or answers.
"""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from include.cluster.programs import postgres_programs

if TYPE_CHECKING:
    import requests

    from tests.cluster.place import World

#: Columns of the metadata database that are encrypted, by table.
_ENCRYPTED = {"trigger": ("kwargs",), "connection": ("password", "extra")}
#: Where Airflow's API has lists; task instances come with their rendered fields, mapped ones as well.
_TASKS = "dags/~/dagRuns/~/taskInstances"
_XCOMS = f"{_TASKS}/~/xcomEntries"
_LISTS = (
    *("connections", "variables", "pools", "eventLogs", "importErrors", "jobs", "providers", "plugins"),
    *("assets", "assets/events", "dags", "dags/~/dagRuns", _TASKS, _XCOMS),
)
#: Entries of a list that Airflow gives at once, however many are asked for.
_PAGE = 100


def places_of(texts: Sequence[str], world: World) -> dict[str, list[str]]:
    """
    Return where each of some texts was found; a place's first word says what it is.

    All are looked for in the same pass: what finds one would find the others.
    The simulator's own process is left out: it plays the API, and knows the key as the API would.
    """
    wanted = {text: forms_of(text) for text in texts}
    found: dict[str, list[str]] = {text: [] for text in texts}
    for place, content in _everything(world):
        for text, forms in wanted.items():
            if any(form in content for form in forms):
                found[text].append(place)
    return found


def forms_of(text: str) -> list[bytes]:
    """Return how a text may stand somewhere: plain, or within base64 as in Celery's messages."""
    plain = text.encode()
    # Base64 makes four characters of three bytes: what comes out depends on how many stand before. The
    # characters at both ends, which hold bits of other bytes, are left out.
    encoded = (
        b64encode(bytes(before) + plain)[-(-8 * before // 6) : 8 * (before + len(plain)) // 6]
        for before in range(3)
    )
    return [plain, *encoded]


def _everything(world: World) -> Iterator[tuple[str, bytes]]:
    own = {world.cluster.log("simulator")}
    for path in sorted(world.cluster.state.rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in own:
            with suppress(FileNotFoundError):  # Postgres has removed it meanwhile
                yield f"file {path.relative_to(world.cluster.state)}", path.read_bytes()
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
            cursor.execute(f'SELECT id, "{column}" FROM "{table}" WHERE "{column}" <> \'\'')  # noqa: S608 - ours
            for id_, value in cursor.fetchall():
                # A trigger of a worker's is JSON in clear: Airflow's API server encrypts none.
                is_clear = table == "trigger" and value.startswith("{")
                content = value.encode() if is_clear else fernet.decrypt(value.encode())
                yield f"{table} {id_} {column}", content


def _redis(world: World) -> Iterator[tuple[str, bytes]]:
    import redis

    client = redis.Redis(world.cluster.addresses["redis"], password=world.values["REDIS_PASSWORD"])
    client.config_set("rdbcompression", "no")  # else long values are dumped as something that hides them
    for name in client.scan_iter():
        yield f"redis {name!r}", name + (client.dump(name) or b"")


def _answers(world: World) -> Iterator[tuple[str, bytes]]:
    def get(path: str, base: str = f"{world.cluster.url}/api/v2") -> requests.Response:
        answer = world.api._session.get(f"{base}/{path}", timeout=120)
        answer.raise_for_status()  # who is refused finds nothing
        return answer

    instances, xcoms = [], []
    for name in _LISTS:
        offset, total = 0, 1
        while offset < total:
            answer = get(f"{name}?limit={_PAGE}&offset={offset}")
            yield f"api {name}", answer.content
            page = answer.json()
            offset, total = offset + _PAGE, page["total_entries"]
            instances += page["task_instances"] if name == _TASKS else []
            xcoms += page["xcom_entries"] if name == _XCOMS else []
    for one in instances:
        task = _task(one["dag_id"], one["dag_run_id"], one["task_id"])
        for what in ("links", "state-store", f"logs/{max(one['try_number'], 1)}"):
            path = f"{task}/{what}?map_index={one['map_index']}"
            yield f"api {what.partition('/')[0]} {path}", get(path).content
    for one in xcoms:
        task = _task(one["dag_id"], one["run_id"], one["task_id"])
        path = f"{task}/xcomEntries/{quote(one['key'], safe='')}?map_index={one['map_index']}"
        yield f"api xcom {path}", get(path).content
    yield "api musicapi", get("tracks?limit=200", f"{world.cluster.url}/musicapi").content


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"


def _processes(world: World) -> Iterator[tuple[str, bytes]]:
    """What the living processes were started with."""
    for name, process in world.cluster.processes.items():
        for one in process._family() if name != "simulator" else []:
            for what in ("environ", "cmdline"):
                with suppress(OSError):  # it has ended meanwhile
                    yield f"process {name} {one.pid} {what}", Path(f"/proc/{one.pid}/{what}").read_bytes()
