"""Where records live: what survives a death, what a broken storage means, what stays in the folder."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import MagicMock
from uuid import UUID

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.io import attach
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from musicapi_provider.exceptions import (
    MusicAPIConfigurationError,
    MusicAPIInvalidRequestError,
    MusicAPINotSentError,
    Spent,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.ledgers.assets import PURCHASES as ASSET
from musicapi_provider.ledgers.choice import folder_of_records
from musicapi_provider.ledgers.task_state import TaskState
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.prompt_table import read_prompt_table
from musicapi_provider.purchases import (
    KEY,
    PURCHASES,
    FolderStore,
    Ledger,
    Order,
    buying,
    fingerprint_of,
    status_of,
)
from musicapi_provider.purchases.folder import record_name
from tests.conftest import QUICK
from tests.states import NOT_SUBMITTED, SUBMITTED, UNKNOWN
from tests.unit.conftest import MemoryStateStore

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

pytestmark = pytest.mark.usefixtures("connection", "quick")

POST = "POST /sonic/create"
BODY = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
VALUE = {"f": {"music_task_id": "t1", "prompt": "Größe 音楽 🎵 \ud83c"}}
#: Prompt ids that somebody might write, or that would like to be somewhere else.
HOSTILE = [
    pytest.param("../x", id="parent"),
    pytest.param("/etc", id="absolute"),
    pytest.param("/etc/passwd\x00.json", id="null-byte"),
    pytest.param("..", id="two-dots"),
    pytest.param(".", id="dot"),
    pytest.param("", id="empty"),
    pytest.param("   ", id="blank"),
    pytest.param("a" * 5000, id="very-long"),
    pytest.param("🎵🎶", id="emoji"),
    pytest.param("half a pair: \ud83c", id="half-a-pair"),
    pytest.param("a\\b:c*d?e|f", id="windows"),
    pytest.param("s3://bucket/x", id="uri"),
    pytest.param("x?versionId=1#top%2e%2e", id="query"),
    pytest.param("{{ params.x }}", id="template"),
    pytest.param("con.json\n", id="newline"),
]


class ProcessDiedError(BaseException):
    """The worker is gone: nothing catches this."""


class UnreliableFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """
    A storage that does not answer now and then, as any over a network.

    :cvar away: Names of the methods whose next call fails.
    """

    protocol = "memory"
    cachable = False
    away: set[str]
    #: What local files, sftp, smb and hdfs have; the memory's own is a look into a dict.
    exists = AbstractFileSystem.exists

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.away = set()

    def info(self, path: str, **kwargs: Any) -> Any:
        """Look at a file; ``exists`` of fsspec asks here."""
        self._check("info")
        return super().info(path, **kwargs)

    def ls(self, path: str, **kwargs: Any) -> Any:
        """List a folder."""
        self._check("ls")
        return super().ls(path, **kwargs)

    def cat_file(self, path: str, **kwargs: Any) -> Any:
        """Read a file whole."""
        self._check("read")
        return super().cat_file(path, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        self._check("read" if "r" in mode else "write")
        return super()._open(path, mode, **kwargs)

    def _check(self, method: str) -> None:
        if method in self.away:
            self.away.remove(method)
            raise OSError(f"{method}: 503 Slow Down")


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStoragePath:
    """Return a folder that does not exist yet."""
    return ObjectStoragePath((tmp_path / "music").as_uri())


@pytest.fixture
def in_memory() -> ObjectStoragePath:
    """Return a folder in a storage that is not local."""
    alias = f"memory{uuid.uuid4().hex}"
    attach("memory", alias, fs=UnreliableFileSystem())
    return ObjectStoragePath(f"memory://{alias}@{alias}/music")


@pytest.fixture
def unreliable() -> tuple[ObjectStoragePath, set[str]]:
    """Return a folder in a storage that is not local, and names of its methods that shall fail once."""
    alias = f"unreliable{uuid.uuid4().hex}"
    storage = UnreliableFileSystem()
    attach("memory", alias, fs=storage)
    return ObjectStoragePath(f"memory://{alias}@{alias}/music"), storage.away


@pytest.fixture(params=["folder", "in_memory"], ids=["local", "object-storage"])
def anywhere(request: pytest.FixtureRequest) -> ObjectStoragePath:
    """Return a folder, local and not."""
    found: ObjectStoragePath = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def hook(connection: str) -> MusicAPIHook:
    """Return a hook for the simulator."""
    return MusicAPIHook(connection, retries=QUICK)


def local(path: ObjectStoragePath) -> Path:
    """Return a local folder of records as the file system knows it."""
    return Path(path.path) / PURCHASES


def buy(hook: MusicAPIHook, folder: ObjectStoragePath, prompt_id: str = "a", run_id: str = "run") -> str:
    """Buy a row for real and return the music task's id."""
    fingerprint = fingerprint_of(BODY, account=hook.account)
    records = FolderStore(folder, prompt_id, fingerprint)
    generation = f"{run_id}#0"
    return buying.buy(hook.client, Order(BODY, fingerprint, generation), records).music_task_id


# -- a folder ------------------------------------------------------------------------------------------------


def test_record_comes_back_until_it_is_deleted(anywhere: ObjectStoragePath) -> None:
    """Written by one process, read by another, overwritten, removed."""
    FolderStore(anywhere, "a", "f").set(KEY, {"f": 1})
    FolderStore(anywhere, "a", "f").set(KEY, VALUE)
    known = FolderStore(anywhere, "a", "f").get(KEY)
    FolderStore(anywhere, "a", "f").delete(KEY)

    assert known == VALUE
    assert FolderStore(anywhere, "a", "f").get(KEY) is None


def test_no_file_is_no_record(anywhere: ObjectStoragePath) -> None:
    """Neither the file nor the folder needs to exist, to read as to delete."""
    records = FolderStore(anywhere, "a", "f")
    records.delete(KEY)

    assert records.get(KEY) is None
    assert not anywhere.exists()


def test_rows_and_fingerprints_have_files_of_their_own(anywhere: ObjectStoragePath) -> None:
    """Two rows with the same body are two songs; an edited row is another one."""
    names = [("a", "f"), ("a", "g"), ("b", "f"), ("é", "f"), ("è", "f"), ("", "f"), ("row", "f"), ("A", "f")]
    for name in names:
        FolderStore(anywhere, *name).set(KEY, {"of": list(name)})

    assert [{"of": list(name)} for name in names] == [FolderStore(anywhere, *name).get(KEY) for name in names]


def test_record_is_one_small_json_file_and_nothing_else(folder: ObjectStoragePath) -> None:
    """A human can read it, with the row's name in the file's."""
    FolderStore(folder, "evening song", "f").set(KEY, VALUE)
    (file,) = local(folder).iterdir()

    assert re.fullmatch(r"evening-song-[0-9a-f]{32}\.json", file.name)
    assert json.loads(file.read_bytes()) == {KEY: VALUE}


@pytest.mark.parametrize("prompt_id", HOSTILE)
def test_record_never_leaves_its_folder(anywhere: ObjectStoragePath, prompt_id: str) -> None:
    """Prompt ids are free text; file names are not."""
    records = FolderStore(anywhere, prompt_id, "f")
    records.set(KEY, VALUE)
    (path,) = (anywhere / PURCHASES).iterdir()

    assert re.fullmatch(r"[A-Za-z0-9_-]+\.json", path.name)
    assert len(path.name) <= 100
    assert record_name(prompt_id, "f") == path.name
    assert records.get(KEY) == VALUE
    assert [entry.name for entry in anywhere.iterdir()] == [PURCHASES]
    assert [anywhere.name] == [entry.name for entry in anywhere.parent.iterdir()]


def test_names_stay_apart_once_cleaned_and_cut() -> None:
    """What is unreadable or too long in a name still makes a difference."""
    ids = ["é", "è", "-", "", "row", "a" * 60, "a" * 61, "a" * 60 + "b", "a b", "a-b", "a/b", "A B", '","']
    prints = ["f", "g", ""]
    pairs = [(prompt_id, print_) for prompt_id in ids for print_ in prints]

    assert len(pairs) == len({record_name(*pair).lower() for pair in pairs})
    assert record_name("a", "f") == record_name("a", "f")


def test_process_that_dies_while_it_writes_leaves_the_old_record(
    folder: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is there in part and is not read; the next write goes through."""
    records = FolderStore(folder, "a", "f")
    records.set(KEY, {"f": "old"})
    (file,) = local(folder).iterdir()

    def die(*_: object, **__: object) -> NoReturn:
        (new,) = local(folder).glob("*.new")
        new.write_bytes(b'{"musicapi_sub')
        raise ProcessDiedError

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        patch.setattr(Path, "unlink", die)  # a dead process does not tidy up
        with pytest.raises(ProcessDiedError):
            records.set(KEY, {"f": "new"})
    left = sorted(path.suffix for path in local(folder).iterdir())
    known = records.get(KEY)
    records.set(KEY, {"f": "newer"})

    assert left == [".json", ".new"]
    assert known == {"f": "old"}
    assert records.get(KEY) == {"f": "newer"}
    assert json.loads(file.read_bytes()) == {KEY: {"f": "newer"}}


def test_process_that_dies_at_the_first_write_leaves_no_record(
    folder: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent is not written, so nothing was sent: the next try buys, once."""

    def die(_fileno: int) -> NoReturn:
        raise ProcessDiedError

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(ProcessDiedError):
            buy(hook, folder)
    sent = simulator.state.requests[POST]
    id_ = buy(hook, folder)

    assert sent == 0
    assert [id_] == list(simulator.state.jobs)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"musicapi_sub', id="half"),
        pytest.param(b"\xff\xfe\x00", id="no-text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"<html>Sign in</html>", id="html"),
        pytest.param(b'{"musicapi_submissions": [1]}', id="list-as-ledger"),
        pytest.param(b'{"musicapi_submissions": {"f": {"at": 1}}}', id="odd-record"),
        pytest.param(b"[" * 100_000, id="too-deep"),
    ],
)
def test_unreadable_record_is_an_unknown_outcome_and_sends_nothing(
    folder: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer, content: bytes
) -> None:
    """What cannot be read may have been a purchase."""
    buy(hook, folder)
    (file,) = local(folder).iterdir()
    file.write_bytes(content)
    fingerprint = fingerprint_of(BODY, account=hook.account)

    assert status_of(FolderStore(folder, "a", fingerprint), fingerprint).state == UNKNOWN
    with pytest.raises((MusicAPIConfigurationError, MusicAPINotSentError)):
        buy(hook, folder)
    assert simulator.state.requests[POST] == 1
    assert file.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}", b'{"other": {}}', b'{"musicapi_submissions": null}'])
def test_record_without_its_key_is_unreadable(
    folder: ObjectStoragePath, hook: MusicAPIHook, content: bytes
) -> None:
    """A file that is there but holds no ledger is no proof that nothing was bought."""
    buy(hook, folder)
    (file,) = local(folder).iterdir()
    file.write_bytes(content)
    fingerprint = fingerprint_of(BODY, account=hook.account)

    assert status_of(FolderStore(folder, "a", fingerprint), fingerprint).state == UNKNOWN


def make_a_file(purchases: Path) -> None:
    """Put a file where the folder should be."""
    purchases.parent.mkdir(parents=True)
    purchases.write_text("in the way")


def make_a_folder(purchases: Path) -> None:
    """Put a folder where the file should be."""
    hook = MusicAPIHook()
    name = record_name("a", fingerprint_of(BODY, account=hook.account))
    (purchases / name).mkdir(parents=True)


@pytest.mark.parametrize("spoil", [make_a_file, make_a_folder], ids=["no-folder", "no-file"])
def test_storage_that_cannot_be_written_sends_nothing(
    folder: ObjectStoragePath,
    hook: MusicAPIHook,
    simulator: SimulatorServer,
    spoil: Callable[[Path], None],
) -> None:
    """No record, no purchase; a retry may cure it, and the message says where to look."""
    spoil(local(folder))
    with pytest.raises(MusicAPINotSentError, match=r"storage of the records \(.*purchases\)") as caught:
        buy(hook, folder)

    assert caught.value.retryable
    assert caught.value.spent is Spent.UNKNOWN
    assert "this try has sent nothing" in str(caught.value)
    assert simulator.state.requests[POST] == 0


@pytest.mark.parametrize(
    "away",
    [
        pytest.param("read", id="read"),
        pytest.param("write", id="write"),
        pytest.param(
            "info",
            id="look",
        ),
    ],
)
def test_storage_that_is_away_for_a_moment_never_buys_twice(
    unreliable: tuple[ObjectStoragePath, set[str]], hook: MusicAPIHook, simulator: SimulatorServer, away: str
) -> None:
    """A storage that does not answer says nothing about a purchase."""
    folder, failing = unreliable
    bought = buy(hook, folder)
    failing.add(away)
    try:
        again = buy(hook, folder, run_id="second")
    except MusicAPINotSentError:
        again = bought
    failing.clear()

    assert simulator.state.requests[POST] == 1
    assert again == buy(hook, folder) == bought


def test_storage_that_is_away_is_an_unknown_outcome(
    unreliable: tuple[ObjectStoragePath, set[str]], hook: MusicAPIHook
) -> None:
    """Whoever reports does not fail for it, and does not say that nothing was bought."""
    folder, failing = unreliable
    buy(hook, folder)
    failing.add("read")
    fingerprint = fingerprint_of(BODY, account=hook.account)

    assert status_of(FolderStore(folder, "a", fingerprint), fingerprint).state == UNKNOWN


def test_record_that_cannot_be_deleted_is_an_error(folder: ObjectStoragePath) -> None:
    """An intent that stays must not pass as withdrawn."""
    records = FolderStore(folder, "a", "f")
    (local(folder) / record_name("a", "f")).mkdir(parents=True)

    with pytest.raises(MusicAPINotSentError, match="storage of the records"):
        records.delete(KEY)


def test_certain_refusal_leaves_no_record(
    anywhere: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer
) -> None:
    """The intent is withdrawn: the row is not submitted."""
    simulator.state.scenario("no-credits")
    fingerprint = fingerprint_of(BODY, account=hook.account)
    with pytest.raises(Exception, match="credits"):
        buy(hook, anywhere)

    assert list((anywhere / PURCHASES).iterdir()) == []
    assert status_of(FolderStore(anywhere, "a", fingerprint), fingerprint).state == NOT_SUBMITTED


def test_purchase_is_collected_from_the_folder(
    anywhere: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer
) -> None:
    """Another run of the same row collects; another row with the same body buys."""
    first = buy(hook, anywhere, run_id="first")
    again = buy(hook, anywhere, run_id="second")
    other = buy(hook, anywhere, "b", run_id="second")

    assert first == again
    assert [first, other] == list(simulator.state.jobs)


def test_purchase_whose_record_cannot_be_completed_stays_an_intent(
    folder: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the intent: the id is returned, and a later run asks instead of paying."""
    sync = os.fsync
    calls: list[int] = []

    def full(fileno: int) -> None:
        calls.append(fileno)
        if len(calls) > 2:  # file and folder of the intent
            raise OSError("No space left on device")
        sync(fileno)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        id_ = buy(hook, folder)
    fingerprint = fingerprint_of(BODY, account=hook.account)

    assert [id_] == list(simulator.state.jobs)
    assert status_of(FolderStore(folder, "a", fingerprint), fingerprint).state == UNKNOWN


# -- the operator --------------------------------------------------------------------------------------------


def execute(folder: ObjectStoragePath, run_id: str, **arguments: Any) -> Any:
    """Run the create operator as the only task of a new dag run, with state stores of its own."""
    task_instance = MagicMock(spec=RuntimeTaskInstance)
    task_instance.dag_id, task_instance.run_id = "songs", run_id
    task_instance.task_id, task_instance.map_index = "create", -1
    task_instance.max_tries, task_instance.try_number = 0, 1
    task_instance.id = UUID(int=0)
    stores = MemoryStateStore()
    context = {
        "ti": task_instance,
        "dag_run": SimpleNamespace(clear_number=0, start_date=None),
        "task_state_store": stores,
        "asset_state_store": {ASSET: stores},
    }
    defaults = {"body": BODY, "prompt_id": "a", "records": str(folder)}
    operator = MusicAPICreateOperator(task_id="create", **{**defaults, **arguments})
    operator.hook = MusicAPIHook(operator.musicapi_conn_id, retries=QUICK)
    return operator.execute(context)  # type: ignore[arg-type]


def test_two_dag_runs_make_one_purchase(anywhere: ObjectStoragePath, simulator: SimulatorServer) -> None:
    """Airflow has forgotten the first run altogether; the folder has not."""
    first = execute(anywhere, "scheduled__1")
    second = execute(anywhere, "scheduled__2")

    assert first == second
    assert [first] == list(simulator.state.jobs)
    assert simulator.state.requests[POST] == 1


def test_lost_answer_of_one_dag_run_stops_the_next(
    folder: ObjectStoragePath, simulator: SimulatorServer
) -> None:
    """Perhaps paid: no other run sends it again by itself; a decision does."""
    simulator.state.scenario("drop-after-booking")
    for run_id in ("first", "second"):
        with pytest.raises(AirflowFailException, match=r"was lost|may have been booked"):
            execute(folder, run_id)
    (lost,) = simulator.state.jobs
    adopted = execute(folder, "third", adopt_music_task_id=lost)

    assert adopted == lost == execute(folder, "fourth")
    assert simulator.state.requests[POST] == 1


@pytest.mark.parametrize(
    "different",
    [{"prompt_id": "b"}, {"prompt_id": None}, {"body": {**BODY, "title": "Mine"}}, {"records": None}],
    ids=["row", "no-row", "body", "records"],
)
def test_other_row_or_place_is_another_purchase(
    folder: ObjectStoragePath, simulator: SimulatorServer, different: dict[str, Any]
) -> None:
    """Only the same row of the same folder is the same purchase."""
    execute(folder, "first")
    execute(folder, "second", **different)

    assert simulator.state.requests[POST] == 2


@pytest.mark.parametrize("records", ["", " ", "None"])
def test_empty_folder_is_refused(folder: ObjectStoragePath, simulator: SimulatorServer, records: str) -> None:
    """The text of an empty template must not become a folder of that name."""
    with pytest.raises(MusicAPIInvalidRequestError, match="records: must be the URI of a folder"):
        folder_of_records(records)
    with pytest.raises(AirflowFailException, match="records: must be the URI of a folder"):
        execute(folder, "run", records=records)

    assert simulator.state.requests.total() == 0


def test_operator_and_plan_agree_on_the_fingerprint(
    folder: ObjectStoragePath, hook: MusicAPIHook, tmp_path: Path
) -> None:
    """A body that went through a table, XCom and the operator is still the same purchase."""
    table = tmp_path / "table.csv"
    table.write_text(
        "prompt_id,prompt,title,make_instrumental,style_weight,duration\n"
        'a," Größe, 音楽\n{{ ds }} ",None,TRUE,0.50,60\n',
        encoding="utf-8",
    )
    (row,) = read_prompt_table(ObjectStoragePath(table.as_uri()))
    body = json.loads(json.dumps(row.body))
    id_ = execute(folder, "run", body=body)
    fingerprint = fingerprint_of(row.body, account=hook.account)
    known = status_of(FolderStore(folder, "a", fingerprint), fingerprint)

    assert (known.state, known.music_task_id, known.bought_in) == (SUBMITTED, id_, "run#0")


# -- Airflow's task state store ------------------------------------------------------------------------------


def test_task_state_is_kept_for_ever_until_it_is_deleted(state_store: MemoryStateStore) -> None:
    """Money does not expire, so neither does its record."""
    records = TaskState({"task_state_store": state_store})  # type: ignore[typeddict-item]
    records.set(KEY, VALUE)
    known, retention = records.get(KEY), state_store.retentions[KEY]
    records.delete(KEY)

    assert known == VALUE
    assert retention is NEVER_EXPIRE
    assert records.get(KEY) is None


def test_airflow_without_a_task_state_store_sends_nothing() -> None:
    """The message names the version that has one."""
    with pytest.raises(MusicAPIConfigurationError, match=r"nothing was sent.*Airflow 3\.3"):
        TaskState({})


@pytest.mark.parametrize("method", ["get", "set", "delete"])
def test_broken_task_state_store_sends_nothing(state_store: MemoryStateStore, method: str) -> None:
    """Whatever it raises becomes an error that a retry can cure and that claims nothing about money."""
    state_store.broken.add(method)
    records = TaskState({"task_state_store": state_store})  # type: ignore[typeddict-item]
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: Ledger(records),
        "set": lambda: records.set(KEY, VALUE),
        "delete": lambda: records.delete(KEY),
    }
    with pytest.raises(MusicAPINotSentError, match=f"task state store failed.*{method} is broken") as caught:
        calls[method]()

    assert caught.value.spent is Spent.UNKNOWN
    assert caught.value.retryable
