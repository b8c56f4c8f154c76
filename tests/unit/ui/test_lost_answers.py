"""Lost answers of a task instance on the API server: what is told, and who may decide."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.configuration import conf
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.log import Log
from airflow.sdk import ObjectStoragePath
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from musicapi_provider.links.pages import lost_answers_page_path, lost_answers_path
from musicapi_provider.purchases import Asker, FolderStore, Ledger, Purchase, RunLedger
from tests.unit.api_server import PATIENCE
from tests.unit.asset_table import AssetTable
from tests.unit.ui.conftest import RUN

if TYPE_CHECKING:
    from tests.unit.api_server import Server

FIRST, SECOND = "aaaaaaaa" + "0" * 24, "bbbbbbbb" + "0" * 24
PATH = lost_answers_path("songs", RUN, "create", 0)


@pytest.fixture
def ledger(server: Server) -> Iterator[Callable[..., RunLedger]]:
    """Return a function that opens the ledger of a slot of a dag run."""
    table = AssetTable()
    yield lambda slot="create[0]", dag_id="songs": RunLedger(table, Asker(f"{dag_id}/{RUN}", slot))
    with create_session() as session:
        session.execute(delete(AssetStateStoreModel))


@pytest.fixture
def rendered(server: Server) -> Iterator[Callable[..., None]]:
    """Return a function that leaves a task instance's rendered fields, as a worker does."""
    database = conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///")

    def write(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
            connection.execute(statement, values)
            connection.commit()

    def leave(records: Any = None, dag_id: str = "songs") -> None:
        fields = json.dumps({"records": records})
        write(
            "INSERT INTO rendered_task_instance_fields (dag_id, task_id, run_id, map_index, rendered_fields) "
            "VALUES (?, 'create', ?, 0, ?)",
            *(dag_id, RUN, fields),
        )

    write("DELETE FROM rendered_task_instance_fields")
    yield leave
    write("DELETE FROM rendered_task_instance_fields")


def put(store: RunLedger | FolderStore, fingerprint: str = FIRST, **changes: Any) -> Purchase:
    """Put an intent whose answer was lost into a store, and return it."""
    assert store.asker is not None
    about = {"credits": 15.0, "balance": 100.0, "ordered": "Rain", "asked": store.asker.asks()}
    purchase = replace(Purchase.intent(None, f"{RUN}#0"), **about | changes)
    Ledger(store).put(fingerprint, purchase)
    return purchase


def order_of(server: Server) -> str:
    """Return the name of the one lost answer."""
    (lost,) = server.ask(PATH).json["lost"]
    return str(lost["order"])


def after(store: RunLedger | FolderStore) -> Purchase:
    """Return what is on record now."""
    purchase = Ledger(store).get(FIRST)
    assert purchase is not None
    return purchase


# -- what is told --------------------------------------------------------------------------------------------


def test_the_evidence_is_shown(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None]
) -> None:
    """Of this task instance's lost answers; what is submitted, and other slots', are not its."""
    rendered()
    put(ledger())
    put(ledger(), SECOND, music_task_id="music-2")
    put(ledger("create[1]"), SECOND)
    told = server.ask(PATH).json
    (lost,) = told["lost"]

    assert (told["problem"], told["may_decide"]) == (None, True)
    assert told["command"] == f"airflow musicapi settle --run songs {RUN}"
    assert lost | {"ordered": "Rain", "price": 15.0, "balance": 100.0, "state": "unknown outcome"} == lost


def test_what_a_user_may_not_read_is_not_there(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None]
) -> None:
    """The same answer as for a task that never was; and who may read only may not decide."""
    rendered()
    put(ledger())
    hidden = lost_answers_path("secret", RUN, "create", 0)
    answers = [
        server.ask(hidden, user="reader"),
        server.ask(hidden, user="reader", method="POST", body={"order": "x", "resubmit": True}),
    ]

    assert [answer.status for answer in answers] == [404, 404]
    assert server.ask(PATH, user="reader").json["may_decide"] is False


# -- decisions -----------------------------------------------------------------------------------------------


def test_a_lost_answer_is_adopted_in_a_dag_run(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None]
) -> None:
    """Airflow's audit log says who did it."""
    rendered()
    put(ledger())
    answer = server.ask(PATH, method="POST", body={"order": order_of(server), "adopt": " music-1 "})
    with create_session() as session:
        logged = session.scalars(select(Log).where(Log.event == "musicapi_settle")).all()

    assert answer.status == 200
    assert after(ledger()).music_task_id == "music-1"
    assert server.ask(PATH).json["lost"] == []
    assert (logged[-1].owner, logged[-1].dag_id, logged[-1].task_id) == ("admin", "songs", "create")


@pytest.mark.parametrize("prompt_id", ["", "dawn / 1"])
def test_a_lost_answer_is_sent_again_from_a_folder(
    server: Server, rendered: Callable[..., None], music: str, prompt_id: str
) -> None:
    """The folder is known from the task's rendered fields."""
    rendered(music)

    def store() -> FolderStore:
        asker = Asker(f"songs/{RUN}", "songs.create[0]")
        return FolderStore(ObjectStoragePath(music), prompt_id, FIRST, asker)

    put(store())
    told = server.ask(PATH).json
    answer = server.ask(PATH, method="POST", body={"order": order_of(server), "resubmit": True})

    assert told["command"] == f"airflow musicapi settle --folder {music}"
    assert answer.status == 200
    assert after(store()).resend


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        pytest.param({"adopt": "music-2"}, 409, "on record as", id="of another order"),
        pytest.param({"adopt": "  "}, 409, "must be an id", id="no id"),
        pytest.param({}, 409, "adopted or sent again", id="nothing"),
        pytest.param({"adopt": "music-1", "resubmit": True}, 409, "not both", id="both"),
        pytest.param({"resubmit": True, "order": "cccc"}, 409, "no purchase on record", id="unknown order"),
        pytest.param({"resubmit": "yes"}, 422, "bool", id="no bool"),
        pytest.param({"resubmit": True, "more": 1}, 422, "extra", id="unknown field"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    server: Server,
    ledger: Callable[..., RunLedger],
    rendered: Callable[..., None],
    body: dict[str, Any],
    status: int,
    said: str,
) -> None:
    """In words, and nothing is changed."""
    rendered()
    before = put(ledger())
    put(ledger("create[1]"), SECOND, music_task_id="music-2")
    answer = server.ask(PATH, method="POST", body={"order": order_of(server), **body})

    assert (answer.status, said in answer.body.decode()) == (status, True)
    assert after(ledger()) == before


def test_a_purchase_of_another_task_is_refused(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None]
) -> None:
    """The right to clear one DAG's tasks is none to decide for others."""
    rendered()
    before = put(ledger("create[1]"))
    answer = server.ask(PATH, method="POST", body={"order": FIRST, "resubmit": True})

    assert (answer.status, "Nothing is on record here" in answer.body.decode()) == (409, True)
    assert after(ledger("create[1]")) == before


def test_who_may_not_clear_may_not_decide(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None]
) -> None:
    """A viewer."""
    rendered()
    before = put(ledger())
    body = {"order": order_of(server), "resubmit": True}
    answer = server.ask(PATH, user="reader", method="POST", body=body)

    assert answer.status == 403
    assert after(ledger()) == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_only_json_is_read(
    server: Server, ledger: Callable[..., RunLedger], rendered: Callable[..., None], kind: str
) -> None:
    """What another site's form can make a browser send decides nothing."""
    rendered()
    before = put(ledger())
    body = json.dumps({"order": order_of(server), "resubmit": True})
    headers = {
        "Authorization": f"Bearer {server.tokens['admin']}",
        **({"Content-Type": kind} if kind else {}),
    }
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request("POST", PATH, body, headers)
        status = connection.getresponse().status

    assert status in (415, 422)
    assert after(ledger()) == before


@pytest.mark.parametrize(
    ("records", "said"),
    [
        pytest.param("http://169.254.169.254/x", "object stores only", id="on the web"),
        pytest.param(None, "is not known here", id="no rendered fields"),
    ],
)
def test_a_folder_that_the_server_cannot_know_is_said(
    server: Server, rendered: Callable[..., None], records: str | None, said: str
) -> None:
    """With the command that can."""
    if records:
        rendered(records)
    told = server.ask(PATH).json

    assert said in told["problem"]
    assert "airflow musicapi settle" in told["problem"]
    assert told["lost"] == []
    assert server.ask(PATH, method="POST", body={"order": "x", "resubmit": True}).status == 409


def test_the_page_is_the_tracks_page_with_a_task(server: Server) -> None:
    """No further page in the menu."""
    plugins = server.ask("/api/v2/plugins").json["plugins"]
    (page,) = next(one["react_apps"] for one in plugins if one["name"] == "musicapi")
    path = lost_answers_page_path("songs", RUN, "create", 0)

    assert path.startswith(f"/plugin/{page['url_route']}?dag_id=songs&")
