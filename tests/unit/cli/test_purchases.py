"""``airflow musicapi purchases`` and ``settle`` on a real metadata database, and on folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.connection import Connection
from airflow.sdk import ObjectStoragePath
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from musicapi_provider.purchases import KEY, Asker, FolderStore, Ledger, Purchase, RunLedger
from tests.s3 import CONN_ID, S3Bucket, s3_bucket
from tests.unit.cli.conftest import Said

if TYPE_CHECKING:
    from tests.unit.asset_table import AssetTable

__all__ = ["s3_bucket"]

Opened = Callable[..., RunLedger]
Run = Callable[..., Said]
RUN = ("--run", "songs", "run 1")
FIRST, SECOND = "aaaaaaaa" + "0" * 24, "bbbbbbbb" + "0" * 24


def lost(store: RunLedger | FolderStore, **changes: Any) -> Purchase:
    """Return an intent whose answer was lost, as the asker of a store leaves it."""
    assert store.asker is not None
    intent = Purchase.intent(None, "run 1#0")
    about = {"credits": 15.0, "balance": 100.0, "ordered": "Rain", "asked": store.asker.asks()}
    return replace(intent, **about | changes)


def put(store: RunLedger | FolderStore, fingerprint: str = FIRST, **changes: Any) -> Purchase:
    """Put a purchase into a store, and return it."""
    purchase = lost(store, **changes)
    Ledger(store).put(fingerprint, purchase)
    return purchase


def listed(airflow: Run, *where: str) -> list[dict[str, Any]]:
    """Return what is listed as JSON."""
    said = airflow("purchases", *where, "--output", "json")
    assert said.code is None
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


# -- of a dag run --------------------------------------------------------------------------------------------


def test_purchases_of_a_run_are_listed(airflow: Run, ledger: Opened) -> None:
    """Of all its slots; of other runs, and of runs whose ids begin so, none."""
    put(ledger("create[0]"), ordered="Rain")
    put(ledger("create[1]"), SECOND, music_task_id="music-2", ordered="Snow", lost=15.0)
    put(ledger("create", run="songs/run 1/b"))
    put(ledger("create", run="songs/run 11"))
    put(ledger("create", run="songsXrun 1"))
    rain, snow = listed(airflow, *RUN)

    assert rain | {"state": "unknown outcome", "credits": None, "lost_credits": 15.0} == rain
    assert rain | {"ordered": "Rain", "asked_run": "songs/run 1", "asked_slot": "create[0]"} == rain
    assert snow | {"state": "submitted", "credits": 15.0, "lost_credits": 15.0} == snow
    assert (snow["music_task_id"], snow["fingerprint"]) == ("music-2", SECOND)


def test_the_table_is_for_people(airflow: Run, ledger: Opened) -> None:
    """A title is text, also where it looks like markup; nothing on record is said."""
    assert "No data found" in airflow("purchases", *RUN).out
    put(ledger("create[0]"), ordered="[bold]Rain")
    said = airflow("purchases", *RUN).out

    assert "[bold]Rain" in said
    assert "unknown outcome" in said
    assert "aaaaaaaa-" in said


def test_a_purchase_that_moved_is_listed_once_and_settled_everywhere(airflow: Run, ledger: Opened) -> None:
    """Whichever of the slots is cleared collects."""
    first, second = ledger("create[0]"), ledger("create[1]")
    before = put(first)
    Ledger(second).put(FIRST, replace(before, asked=second.asker.asks(before.asked)))
    (entry,) = listed(airflow, *RUN)
    said = airflow("settle", *RUN, entry["order"], "--adopt", "music-1")
    found = [Ledger(ledger(f"create[{number}]")).get(FIRST) for number in range(2)]

    assert entry["asked_slot"] == "create[1]"
    assert said.code is None
    assert "clear the task create[1] of songs/run 1" in said.out
    assert [one.music_task_id for one in found if one] == ["music-1"] * 2
    assert [one.asked.slot for one in found if one and one.asked] == ["create[0]", "create[1]"]


def test_a_lost_answer_is_sent_again(airflow: Run, ledger: Opened) -> None:
    """The next try does it; that it may pay twice is said."""
    put(ledger())
    said = airflow("settle", *RUN, "aaaa", "--resubmit")
    purchase = Ledger(ledger()).get(FIRST)
    again = airflow("settle", *RUN, "aaaa", "--resubmit")

    assert purchase is not None
    assert purchase.resend
    assert "pays twice" in said.out
    assert "was already to be sent again" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("aaaa",), "either --adopt MUSIC_TASK_ID or --resubmit", id="no decision"),
        pytest.param(("aaaa", "--adopt", "x", "--resubmit"), "not both", id="two decisions"),
        pytest.param(("aaaa", "--adopt", " "), "music_task_id: must be an id", id="no id"),
        pytest.param(("aaaa", "--adopt", "music-2"), "is on record as bbbbbbbb-", id="of another order"),
        pytest.param(("cccc", "--resubmit"), "There are: aaaaaaaa-", id="unknown"),
        pytest.param(("bbbb", "--resubmit"), "no unknown outcome", id="submitted"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    airflow: Run, ledger: Opened, words: tuple[str, ...], said: str
) -> None:
    """And nothing is changed."""
    put(ledger("create[0]"))
    put(ledger("create[1]"), SECOND, music_task_id="music-2")
    before = listed(airflow, *RUN)
    answer = airflow("settle", *RUN, *words)

    assert said in str(answer.code)
    assert listed(airflow, *RUN) == before


@pytest.mark.parametrize("where", [(), (*RUN, "--folder", "file:///music")], ids=["neither", "both"])
def test_one_place_must_be_named(airflow: Run, where: tuple[str, ...]) -> None:
    """A dag run or a folder."""
    assert "one of both must be given" in str(airflow("purchases", *where).code)


def test_long_names_are_found(airflow: Run, asset_table: AssetTable) -> None:
    """Keys are cut then; the writer's place tells whose they are."""
    dag_id, run_id, task_id = "d" * 240, "r" * 240, "t" * 240
    put(RunLedger(asset_table, Asker(f"{dag_id}/{run_id}", f"{task_id}[3]")))
    with create_session() as session:
        row = session.scalars(
            select(AssetStateStoreModel).where(AssetStateStoreModel.value.contains("Rain"))
        ).one()
        row.last_updated_by_dag_id, row.last_updated_by_run_id = dag_id, run_id
        row.last_updated_by_task_id, row.last_updated_by_map_index = task_id, 3
    (entry,) = listed(airflow, "--run", dag_id, run_id)
    airflow("settle", "--run", dag_id, run_id, entry["order"], "--adopt", "music-1")

    assert entry["asked_slot"] == f"{task_id}[3]"
    assert listed(airflow, "--run", dag_id, run_id)[0]["music_task_id"] == "music-1"


def test_a_damaged_record_is_named(airflow: Run, ledger: Opened, asset_table: AssetTable) -> None:
    """Rather than left out."""
    put(ledger())
    asset_table.set("songs/run 1/create", {FIRST: "damaged"})

    assert "asset state 'songs/run 1/create' is unreadable" in str(airflow("purchases", *RUN).code)


def test_a_backend_without_tables_is_refused(
    airflow: Run, database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be listed, and the error says what can be done."""
    monkeypatch.setattr("airflow.state._backend_instance", object())

    assert "[state_store] backend: must be Airflow's own" in str(airflow("purchases", *RUN).code)


def test_purchases_of_version_0_1_are_settled_where_they_are(
    airflow: Run, ledger: Opened, write: Callable[..., None]
) -> None:
    """In the state of their tasks, unless the slot has written since."""
    purchase = lost(ledger())
    names = ("entry", "ordered", "asked", "resend")
    old = {name: part for name, part in purchase.as_json().items() if name not in names}
    row = {"dag_run_id": 1, "dag_id": "songs", "run_id": "run 1", "key": KEY, "updated_at": "2026-11-28"}
    write("task_state_store", **row, task_id="create", map_index=0, value=json.dumps({FIRST: old}))
    write("task_state_store", **row, task_id="create", map_index=1, value=json.dumps({SECOND: old}))
    put(ledger("create[1]"), SECOND, music_task_id="music-2")
    first, second = sorted(listed(airflow, *RUN), key=lambda entry: str(entry["fingerprint"]))
    said = airflow("settle", *RUN, first["order"], "--adopt", "music-1")
    after = {entry["order"]: entry["music_task_id"] for entry in listed(airflow, *RUN)}

    assert (first["state"], first["asked_slot"]) == ("unknown outcome", None)
    assert second["music_task_id"] == "music-2"
    assert "clear the task that has ordered it" in said.out
    assert after == {first["order"]: "music-1", second["order"]: "music-2"}


@pytest.mark.parametrize(("state", "is_refused"), [("running", True), ("deferred", False), ("failed", False)])
def test_a_task_that_is_at_work_decides_itself(
    airflow: Run, ledger: Opened, write: Callable[..., None], state: str, is_refused: bool
) -> None:
    """It would write what it has read before; one that is deferred reads again."""
    put(ledger("create[0]"))
    place = {"dag_id": "songs", "run_id": "run 1", "task_id": "create", "map_index": 0}
    write("task_instance", id="a" * 32, **place, state=state, try_number=1, pool="default_pool", pool_slots=1)
    said = airflow("settle", *RUN, "aaaa", "--resubmit")

    assert ("task create[0] is running" in str(said.code)) is is_refused
    assert listed(airflow, *RUN)[0]["state"].endswith("sent again") is not is_refused


# -- in a folder ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStoragePath:
    """Return an empty folder."""
    return ObjectStoragePath(f"file://{tmp_path}/music")


def in_folder(folder: ObjectStoragePath, prompt_id: str = "", slot: str = "songs.create[0]") -> FolderStore:
    """Open the ledger of an order."""
    return FolderStore(folder, prompt_id, FIRST, Asker("songs/run 1", slot))


def test_purchases_in_a_folder_are_listed(airflow: Run, folder: ObjectStoragePath) -> None:
    """Rows with their prompt ids; two rows with the same body are two; also records of version 0.1."""
    put(in_folder(folder, "dawn"))
    put(in_folder(folder, "dusk / 2"))
    put(in_folder(folder))
    old = in_folder(folder, "old")
    new = lost(old, music_task_id="music-0")
    value = {
        name: part
        for name, part in new.as_json().items()
        if name not in ("entry", "ordered", "asked", "resend")
    }
    old.set(KEY, {FIRST: value})
    found = listed(airflow, "--folder", str(folder))
    by_id = {entry["prompt_id"]: entry for entry in found}

    assert set(by_id) == {"", "dawn", "dusk-2", "old"}
    assert len({entry["order"] for entry in found}) == 4
    assert (by_id["old"]["music_task_id"], by_id["old"]["asked_slot"]) == ("music-0", None)


@pytest.mark.parametrize("prompt_id", ["", "dusk / 2"])
def test_a_lost_answer_in_a_folder_is_adopted(
    airflow: Run, folder: ObjectStoragePath, prompt_id: str
) -> None:
    """What else stands in the file stays, and no claim is left."""
    store = in_folder(folder, prompt_id)
    put(store)
    store.set("stored", {"files": 1})
    said = airflow("settle", "--folder", str(folder), "aaaa", "--adopt", "music-1")
    after = in_folder(folder, prompt_id)
    purchase = Ledger(after).get(FIRST)

    assert "clear the task songs.create[0] of songs/run 1" in said.out
    assert purchase is not None
    assert purchase.music_task_id == "music-1"
    assert after.get("stored") == {"files": 1}
    assert [path.suffix for path in (folder / "purchases").iterdir()] == [".json"]


def test_a_folder_is_reached_by_its_connection_in_the_database(
    airflow: Run, database: None, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a person has made it in the UI."""
    uri = s3_bucket.uri.replace(CONN_ID, "aws_by_hand")
    fields = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])
    extra = fields.pop("extra", {})
    extra = extra if isinstance(extra, str) else json.dumps(extra)
    with create_session() as session:
        session.execute(delete(Connection).where(Connection.conn_id == "aws_by_hand"))
        session.add(Connection(conn_id="aws_by_hand", extra=extra, **fields))
    put(in_folder(ObjectStoragePath(s3_bucket.uri), "dawn"))
    said = airflow("settle", "--folder", uri, "aaaa", "--adopt", "music-1")
    (entry,) = listed(airflow, "--folder", uri)

    assert said.code is None
    assert (entry["prompt_id"], entry["music_task_id"]) == ("dawn", "music-1")


def test_an_order_that_a_task_decides_about_is_left_alone(
    airflow: Run, folder: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim on it is another's."""
    monkeypatch.setattr("musicapi_provider.purchases.claims.PATIENCE", 0.0)
    store = in_folder(folder, "dawn")
    before = put(store)
    with store.claim():
        said = airflow("settle", "--folder", str(folder), "aaaa", "--resubmit")

    assert "is deciding about the same order" in str(said.code)
    assert Ledger(in_folder(folder, "dawn")).get(FIRST) == before


def test_a_second_purchase_of_an_order_is_claimed_by_its_first_file(folder: ObjectStoragePath) -> None:
    """As tasks claim it."""
    first = in_folder(folder)
    with first.claim():
        put(first)
        second = in_folder(folder, slot="songs.create[1]")
        second.find(FIRST)
        put(second)
    names = sorted(path.name for path in (folder / "purchases").iterdir())
    claims = [FolderStore.of_file(folder, name, FIRST)._claim._path.name for name in names]

    assert len(names) == 2
    assert len(set(claims)) == 1


def test_a_file_that_is_no_record_is_named(
    airflow: Run, folder: ObjectStoragePath, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside what could be read; the exit code is 1."""
    put(in_folder(folder, "dawn"))
    (folder / "purchases" / "damaged.json").write_text("{")
    said = airflow("purchases", "--folder", str(folder), "--output", "json")

    assert said.code == 1
    assert [entry["prompt_id"] for entry in json.loads(said.out)] == ["dawn"]
