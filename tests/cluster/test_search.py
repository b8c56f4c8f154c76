"""After everything that the other tests have done: the key is nowhere, and the search would have found it."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from tests.cluster.search import decrypted, forms_of, places_of

if TYPE_CHECKING:
    from tests.cluster.place import World

pytestmark = pytest.mark.cluster
#: What has to be found, and where: a destination, a mapped row's prompt, names in Celery's messages, in Redis
#: and in environments.
DESTINATION, PROMPT = "s3://aws_music@music/faults", "a song of many machines 3, mapped"
MESSAGE, QUEUE, SETTING = "cluster_table", "_kombu.binding", "CeleryExecutor"
TASKS = "api dags/~/dagRuns/~/taskInstances"


@pytest.fixture(scope="module")
def found(world: World, key: str) -> dict[str, list[str]]:
    """Look everywhere, once."""
    return places_of([key, DESTINATION, PROMPT, MESSAGE, QUEUE, SETTING], world)


def test_key_is_nowhere(found: dict[str, list[str]], key: str) -> None:
    """In no file, database, queue, object, XCom, rendered field, answer or process."""
    assert found[key] == []


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (DESTINATION, ["dump", "s3 ", "file volumes/logs/dag_id=cluster_table/", "api dags/~/dagRuns"]),
        (DESTINATION, [TASKS, "api xcom ", "api logs "]),
        (PROMPT, ["dump", "s3 mapped.csv", "s3 mapped/", TASKS, "api xcom "]),
        (MESSAGE, ["file volumes/redis/", "api eventLogs", "api dags", "api musicapi"]),
        (QUEUE, ["redis "]),
        (SETTING, ["process worker-1 ", "process triggerer-", "process scheduler ", "process api-server "]),
    ],
)
def test_search_finds_what_is_there(found: dict[str, list[str]], text: str, places: list[str]) -> None:
    """The same search is not blind: it finds what each place holds."""
    assert [place for place in places if not any(one.startswith(place) for one in found[text])] == []


def test_search_sees_through_encryption(world: World, key: str) -> None:
    """Where the key has to be, in the connection, it is found: encrypted values are read as Airflow does."""
    assert [place for place, content in decrypted(world, "connection") if key.encode() in content] != []


@pytest.mark.parametrize("before", range(3))
def test_search_reads_base64(key: str, before: int) -> None:
    """A text is found within base64, whatever stands before it."""
    message = b64encode(b"x" * before + key.encode() + b" and more")

    assert any(form in message for form in forms_of(key))
    assert key.encode() not in message
