"""What a task's links open on the API server: its manifest, and its music tasks as the API knows them now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath

from include.local.stack import connection_json
from musicapi_provider.links import xcoms
from musicapi_provider.links.extra_links import MusicAPIMusicTaskLink, music_tasks_url
from musicapi_provider.links.pages import manifest_path
from musicapi_provider.prompt_table import Row
from musicapi_provider.prompt_table.manifest import write_manifest_file
from tests.unit.ui.conftest import RUN

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.client import MusicAPIClient
    from tests.s3 import S3Bucket
    from tests.unit.api_server import Server

BODY = {"task_type": "create_music", "custom_mode": False, "gpt_description_prompt": "x", "mv": "sonic-v5"}
PLACE = ("songs", RUN, "store", -1)
NOT_FOUND = (404, b'{"detail":"Not Found"}')


# -- the manifest --------------------------------------------------------------------------------------------


@pytest.fixture
def write(leave: Callable[..., None]) -> Callable[..., str]:
    """Return a function that writes a manifest as a table's task does, and returns its URI."""

    def manifest(folder: str, *, key: str = "return_value", **place: Any) -> str:
        uri = write_manifest_file(ObjectStoragePath(folder), "run-1a2b3c4d", [Row("row-1")], final=False)
        leave(xcoms.DESTINATION, folder, **place)
        leave(key, {"manifest": uri, "rows": 1}, **place)
        return uri

    return manifest


@pytest.mark.parametrize("key", ["return_value", xcoms.SUMMARY])
def test_a_manifest_is_shown_as_text(server: Server, write: Callable[..., str], music: str, key: str) -> None:
    """Also that of a task that has failed or is not done."""
    write(music, key=key)
    answer = server.ask(manifest_path(*PLACE))

    assert answer.status == 200
    assert answer.json["prompt_id"] == "row-1"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == 'inline; filename="run-1a2b3c4d.jsonl"'


def test_a_manifest_on_s3_is_shown(server: Server, write: Callable[..., str], s3_bucket: S3Bucket) -> None:
    """By the folder's connection."""
    write(s3_bucket.uri, map_index=3)

    assert server.ask(manifest_path(*PLACE[:3], 3)).json["prompt_id"] == "row-1"
    assert server.ask(manifest_path(*PLACE)).status == 404


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "{folder}/index.csv",
        "{folder}/secret.jsonl",
        "{folder}/manifests/../secret.jsonl",
        "{folder}/manifests/deeper/secret.jsonl",
        "{folder}/manifests/.jsonl",
        "{folder}/manifests/run-1a2b3c4d.parquet",
        "file:///elsewhere/manifests/run-1a2b3c4d.jsonl",
        "run-1a2b3c4d.jsonl",
        "",
        None,
        ["{folder}/manifests/run-1a2b3c4d.jsonl"],
    ],
)
def test_only_a_manifest_of_the_tasks_own_folder_is_served(
    server: Server,
    write: Callable[..., str],
    leave: Callable[..., None],
    music: str,
    tmp_path: Path,
    uri: Any,
) -> None:
    """Whatever a task says it has written."""
    write(music, task_id="another")
    (tmp_path / "music" / "secret.jsonl").write_text('{"secret": 1}')
    leave(xcoms.DESTINATION, music)
    leave("return_value", {"manifest": uri.format(folder=music) if isinstance(uri, str) else uri})
    answer = server.ask(manifest_path(*PLACE))

    assert (answer.status, answer.body) == NOT_FOUND


@pytest.mark.parametrize("left", ["text", 1, ["text"], None])
def test_a_task_without_a_manifest_has_none(
    server: Server, leave: Callable[..., None], music: str, left: Any
) -> None:
    """Its result is something else."""
    leave(xcoms.DESTINATION, music)
    leave("return_value", left)

    assert server.ask(manifest_path(*PLACE)).status == 404


def test_a_manifest_of_a_dag_that_a_user_may_not_read_is_not_there(
    server: Server, write: Callable[..., str], music: str
) -> None:
    """The same answer as for a task that never was."""
    write(music, dag_id="secret")
    hidden = server.ask(manifest_path("secret", *PLACE[1:]), user="reader")
    never = server.ask(manifest_path("never", *PLACE[1:]), user="reader")

    assert (hidden.status, hidden.body) == (never.status, never.body) == NOT_FOUND
    assert server.ask(manifest_path("secret", *PLACE[1:])).status == 200


# -- music tasks ---------------------------------------------------------------------------------------------


@pytest.fixture
def link(leave: Callable[..., None]) -> Callable[..., str]:
    """Return a function that leaves the link as a task does, and returns the address on the server."""

    def made(*music_task_ids: str, conn_id: str = "musicapi_default", dag_id: str = "songs") -> str:
        place = SimpleNamespace(dag_id=dag_id, run_id=RUN, task_id="store", map_index=-1)
        url = music_tasks_url(place, conn_id, music_task_ids)
        leave(MusicAPIMusicTaskLink().xcom_key, f"https://airflow.example/base{url}", dag_id=dag_id)
        return url

    return made


def test_the_link_shows_what_the_api_says_now(
    server: Server, connection: str, client: MusicAPIClient, link: Callable[..., str]
) -> None:
    """In the order of the ids; one that the API does not know does not hide the others."""
    music_task_id = client.create(BODY)
    url = link(music_task_id, "unknown-id")
    first, _, third = (server.ask(url) for _ in range(3))
    running, unknown = first.json["music_tasks"]
    done, _ = third.json["music_tasks"]

    assert first.status == 200
    assert (running["music_task_id"], running["state"], running["tracks"]) == (music_task_id, "running", [])
    assert (done["state"], [track["state"] for track in done["tracks"]]) == ("succeeded", ["succeeded"] * 2)
    assert done["tracks"][0]["audio_url"].startswith("http://")
    assert (unknown["state"], unknown["tracks"]) == (None, [])
    assert "does not know" in unknown["error"]
    assert b"\n  " in first.body  # for people


def test_what_is_left_out_of_many_is_named(
    server: Server, connection: str, simulator: SimulatorServer, link: Callable[..., str]
) -> None:
    """Each is a request to the API, and somebody waits for all of them."""
    ids = [f"id-{number}" for number in range(25)]
    answer = server.ask(link(*ids)).json

    assert [task["music_task_id"] for task in answer["music_tasks"]] == ids[:20]
    assert answer["left_out"] == ids[20:]
    assert sum(simulator.state.requests.values()) == 20


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("musicapi_default", "other_conn", id="another connection"),
        pytest.param("=id-1", "=id-2", id="another music task"),
        pytest.param("=id-1", "=id-1&music_task_id=id-2", id="one more"),
        pytest.param("/tasks/store/", "/tasks/create/", id="another task"),
        pytest.param("map_index=-1", "map_index=0", id="another map index"),
        pytest.param("/runs/manual", "/runs/scheduled", id="another run"),
        pytest.param("/dags/songs/", "/dags/jingles/", id="another dag"),
    ],
)
def test_only_what_the_task_links_to_is_asked(
    server: Server, connection: str, simulator: SimulatorServer, link: Callable[..., str], old: str, new: str
) -> None:
    """Nobody can make the server ask for other music tasks, or with other connections."""
    url = link("id-1")
    answer = server.ask(url.replace(old, new))

    assert old in url
    assert (answer.status, answer.body) == NOT_FOUND
    assert simulator.state.requests == {}


def test_without_a_link_nothing_is_asked(server: Server, connection: str, link: Callable[..., str]) -> None:
    """The answer is the same where a user may not read the DAG."""
    linked = link("id-1", dag_id="secret")
    answers = [
        server.ask(linked, user="reader"),
        server.ask(linked.replace("secret", "songs"), user="reader"),
    ]

    assert [(answer.status, answer.body) for answer in answers] == [NOT_FOUND] * 2
    assert server.ask(linked).status == 200


@pytest.mark.parametrize(
    "query", ["", "?conn_id=x", "?conn_id=x&music_task_id=", "?music_task_id=x", "?map_index=x"]
)
def test_an_incomplete_address_is_refused(server: Server, link: Callable[..., str], query: str) -> None:
    """Before anything is looked up."""
    path = link("id-1").partition("?")[0]

    assert server.ask(path + query).status in (404, 422)


@pytest.mark.parametrize("conn_id", ["refused_key", "no_such", "away", "other_type"])
def test_an_api_that_cannot_be_asked_is_a_502_with_our_words(
    server: Server,
    simulator: SimulatorServer,
    connect: Callable[..., None],
    link: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    refusing_url: str,
    conn_id: str,
) -> None:
    """Which say what is wrong, and never the key."""
    key = "sk-secret-0123456789"
    connect(simulator.base_url, key, conn_id="refused_key")
    connect(refusing_url, key, conn_id="away")
    monkeypatch.setenv(
        "AIRFLOW_CONN_OTHER_TYPE", connection_json(simulator.base_url, key).replace("musicapi", "http")
    )
    words = {
        "refused_key": "401",
        "no_such": "does not exist",
        "away": "refused",
        "other_type": "not of type MusicAPI",
    }
    answer = server.ask(link("id-1", conn_id=conn_id))

    assert answer.status == 502
    assert words[conn_id] in answer.json["error"]
    assert key.encode() not in answer.body
    if conn_id == "other_type":
        assert simulator.state.requests == {}
