"""The operator of a whole table: its arguments, its phases, its result, and what a second run does."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from airflow.sdk import Asset, ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from musicapi_provider import files
from musicapi_provider.exceptions import (
    MusicAPIIncompleteTableError,
    MusicAPINotSentError,
    MusicAPITriggerEventError,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.operators import prompt_table as operator_module
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from musicapi_provider.prompt_table import run as table_run
from musicapi_provider.prompt_table.manifest import MANIFESTS, read_manifest_file
from musicapi_provider.storage.index import read_index
from musicapi_provider.waiting import pace, poller
from tests.conftest import QUICK
from tests.states import FAILED, NOT_SUBMITTED, POSTPONED, STORED, SUBMITTED, UNKNOWN

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

POST = "POST /sonic/create"
#: What a person decides, by row.
Make = Callable[..., MusicAPIPromptTableOperator]


@pytest.fixture(autouse=True)
def _in_a_hurry(
    quick: None, simulator: SimulatorServer, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorten the pauses that are constants; one song, a rich account and no pace."""
    simulator.state.configure(one_song=True, credits=10**6, retry_after=0)
    connect(simulator.base_url, simulator.api_key, poll_interval=0.01, polls_per_second=2000, timeout=5)
    monkeypatch.setattr(poller, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pace, "LONGEST_PAUSE", 0.04)
    monkeypatch.setattr(files, "STORAGE_PAUSE", 0.01)
    monkeypatch.setattr(table_run, "LINGER", 0.1)
    monkeypatch.setattr(operator_module, "FIRST_POLL_OF_TRIGGER", 0.0)
    poller._experiences.clear()


@pytest.fixture
def task_instance(task_instance: MagicMock) -> MagicMock:
    """Return a task instance with names, which go into manifests and sidecars."""
    task_instance.dag_id, task_instance.task_id, task_instance.map_index = "songs", "table", -1
    return task_instance


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Return the destination's path."""
    return tmp_path / "music"


@pytest.fixture
def make(tmp_path: Path, music: Path) -> Make:
    """Return a function that makes a new operator object, as each phase of a task has one."""

    def make(**arguments: Any) -> MusicAPIPromptTableOperator:
        defaults: dict[str, Any] = {"destination": music.as_uri(), "create_interval": 0, "deferrable": False}
        if not {"prompt_table", "sql"} & arguments.keys():
            defaults["prompt_table"] = (tmp_path / "table.csv").as_uri()
        operator = MusicAPIPromptTableOperator(task_id="table", **{**defaults, **arguments})
        operator.hook = MusicAPIHook(operator.musicapi_conn_id, retries=QUICK)
        return operator

    write(tmp_path, "a", "b", "c")
    return make


def write(folder: Path, *names: str, **changed: str) -> None:
    """Write the table: a row for each name, about itself unless told otherwise."""
    lines = [f"{name},{changed.get(name, f'about {name}')}" for name in names]
    (folder / "table.csv").write_text("\n".join(["prompt_id,prompt", *lines]))


def run(
    make: Callable[[], MusicAPIPromptTableOperator], context: dict[str, Any], *, event: Any = None
) -> Any:
    """Execute, or go on after an event, and follow deferrals, each phase with a new object as in Airflow."""
    method, arguments = ("execute", {}) if event is None else ("execute_complete", {"event": event})
    for _ in range(20):
        try:
            if method == "execute":
                return make().execute(context)  # type: ignore[arg-type]
            return make().resume_execution(method, arguments, context)  # type: ignore[arg-type]
        except TaskDeferred as deferred:
            (event,) = asyncio.run(events_of(stored_and_loaded(deferred.trigger)))
            method, arguments = deferred.method_name, {"event": json.loads(json.dumps(event))}
    raise AssertionError("it goes round in circles")


def defer(operator: MusicAPIPromptTableOperator, context: dict[str, Any]) -> Any:
    """Execute what defers, and return the trigger."""
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)  # type: ignore[arg-type]
    return caught.value.trigger


def stored_and_loaded(trigger: Any) -> Any:
    """Return the trigger as a triggerer makes it from the database."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))


async def events_of(trigger: Any) -> list[Any]:
    """Run a trigger to its end."""
    return [event.payload async for event in trigger.run()]


def manifest_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Read a manifest."""
    return read_manifest_file(ObjectStoragePath(result["manifest"]))


def states_of(result: dict[str, Any]) -> dict[str, str]:
    """Return the states by row."""
    return {entry.prompt_id: entry.state for entry in manifest_of(result)}


def summary_of(task_instance: MagicMock) -> dict[str, Any]:
    """Return the summary that a task has pushed last."""
    calls = [call for call in task_instance.xcom_push.mock_calls if call.kwargs["key"] == "summary"]
    return dict(calls[-1].kwargs["value"])


# -- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"prompt_table": None}, "prompt_table, sql: give one of them", id="no-source"),
        pytest.param({"prompt_table": "None", "sql": " "}, "give one of them", id="empty-params"),
        pytest.param({"prompt_table": "file:///x.csv", "sql": "SELECT 1"}, "give one of them", id="both"),
        pytest.param({"sql": "SELECT 1"}, "sql_conn_id: is needed", id="no-database"),
        pytest.param(
            {"sql": "SELECT 1", "sql_conn_id": "None"}, "sql_conn_id: is needed", id="empty-database"
        ),
        pytest.param({"destination": ""}, "destination: must be the URI", id="no-destination"),
        pytest.param({"destination": "None"}, "destination: must be the URI", id="empty-destination"),
        pytest.param({"skip_invalid": "perhaps"}, "skip_invalid", id="flag"),
        pytest.param({"max_credits": "many"}, "max_credits: must be a number", id="credits"),
        pytest.param({"max_credits": "nan"}, "max_credits: must be a number", id="nan"),
        pytest.param({"max_credits": True}, "max_credits: must be a number", id="boolean"),
        pytest.param({"max_credits": 14}, "max_credits must cover at least one row", id="too-few"),
        pytest.param({"max_credits": "-1"}, "max_credits must cover at least one row", id="negative"),
        pytest.param({"settle": "{half"}, "settle: must be a mapping", id="half-json"),
        pytest.param({"settle": ["a"]}, "settle: must be a mapping", id="list"),
        pytest.param({"settle": {"z": "resubmit"}}, "settle: 'z'", id="no-such-row"),
        pytest.param({"settle": {"a": 5}}, "settle: 'a'", id="no-text"),
        pytest.param({"settle": {"a": "no-such-task"}}, "does not know music task", id="no-such-task"),
        pytest.param({"on_unknown_outcome": "{{ 'x' }}"}, "on_unknown_outcome: must be", id="policy"),
        pytest.param({"prompt_table": "file:///nowhere/table.csv"}, "no prompt table", id="no-table"),
        pytest.param({"musicapi_conn_id": "nowhere"}, "'nowhere' does not exist", id="no-connection"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_bought(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, arguments: dict[str, Any], says: str
) -> None:
    """For good: no retry cures them. The argument is named."""
    with pytest.raises(AirflowFailException, match=says):
        make(**arguments).execute(context)

    assert simulator.state.requests[POST] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_success": 1.1},
        {"min_success": -0.1},
        {"min_success": float("nan")},
        {"max_in_flight": 0},
        {"concurrency": 0},
        {"timeout": -1},
        {"create_interval": float("inf")},
        {"poll_interval": -1},
        {"on_unknown_outcome": "retry"},
    ],
    ids=str,
)
def test_slip_in_the_dag_file_is_told_when_it_is_parsed(make: Make, arguments: dict[str, Any]) -> None:
    """Not on the day it matters."""
    with pytest.raises(ValueError, match=next(iter(arguments)) + "|retry"):
        make(**arguments)


def test_arguments_that_people_fill_in_are_templates(make: Make, context: dict[str, Any]) -> None:
    """Text from params gets its type; a settled row, a number and a flag among them."""
    params = {"max": "30", "skip": "True", "settle": '{"a": "resubmit"}', "policy": "resubmit", "none": None}
    operator = make(
        max_credits="{{ params.max }}",
        skip_invalid="{{ params.skip }}",
        settle="{{ params.settle }}",
        on_unknown_outcome="{{ params.policy }}",
        sql="{{ params.none }}",
        prompt_table="{{ params.uri }}",
    )
    operator.render_template_fields({"params": {**params, "uri": make().prompt_table}})  # type: ignore[typeddict-item]
    result = operator.execute(context)  # type: ignore[arg-type]

    assert set(MusicAPIPromptTableOperator.template_fields) >= {
        "destination",
        "sql_parameters",
        "sql_conn_id",
    }
    assert all(hasattr(make(), name) for name in MusicAPIPromptTableOperator.template_fields)
    assert (result["stored"], result["postponed"], result["credits"]) == (2, 1, 30)


def test_text_of_the_table_is_never_rendered(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Braces of a prompt are sung as they are."""
    write(tmp_path, "a", a="{{ ds }} and {% raw %} for {{ conn.musicapi_default.password }}")
    operator = make()
    operator.render_template_fields({**context, "ds": "2024-01-01"})  # type: ignore[arg-type]
    operator.execute(context)  # type: ignore[arg-type]
    (job,) = simulator.state.jobs.values()

    assert job.body["prompt"] == "{{ ds }} and {% raw %} for {{ conn.musicapi_default.password }}"


def test_rows_of_a_query_are_a_table(
    make: Make, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any SQL connection, with parameters."""
    path = tmp_path / "songs.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs (id TEXT, words TEXT)")
        database.executemany("INSERT INTO songs VALUES (?, ?)", [("a", "La"), ("b", "Le"), ("c", "Lu")])
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    result = make(
        sql="SELECT id AS prompt_id, words AS prompt FROM songs WHERE id < ? ORDER BY id",
        sql_conn_id="songs",
        sql_parameters=["c"],
    ).execute(context)  # type: ignore[arg-type]

    assert states_of(result) == {"a": STORED, "b": STORED}


@pytest.mark.parametrize("skip", [True, False])
def test_bad_rows_stop_everything_or_are_left_out(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, tmp_path: Path, skip: bool
) -> None:
    """One bad row, before anything is paid."""
    write(tmp_path, "a", "b", b=" ")
    if not skip:
        with pytest.raises(AirflowFailException, match=r"table\.csv:3"):
            make().execute(context)  # type: ignore[arg-type]
    else:
        assert states_of(make(skip_invalid=True).execute(context)) == {"a": STORED}  # type: ignore[arg-type]

    assert simulator.state.requests[POST] == int(skip)


# -- the result ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [False, True])
def test_table_becomes_tracks(
    make: Make,
    context: dict[str, Any],
    simulator: SimulatorServer,
    music: Path,
    task_instance: MagicMock,
    deferrable: bool,
) -> None:
    """The same result in both modes: tracks, sidecars, an index, a manifest twice, and counts."""
    if deferrable:
        simulator.state.configure(job_rule="seconds:0.5")
    result = run(lambda: make(deferrable=deferrable), context)
    manifest = manifest_of(result)
    parquet = pq.read_table(Path(ObjectStoragePath(result["manifest"]).path).with_suffix(".parquet"))

    assert result == {
        "manifest": result["manifest"],
        **{"rows": 3, "stored": 3, "tracks": 6, "without_tracks": 0, "unknown": 0, "postponed": 0},
        **{"credits": 45, "lost_credits": 0},
    }
    assert json.loads(json.dumps(result)) == result
    assert [entry.prompt_id for entry in manifest] == ["a", "b", "c"] == parquet["prompt_id"].to_pylist()
    assert len(list(music.glob("*.mp3"))) == 6
    assert len((music / "index.csv").read_text("utf-8-sig").splitlines()) == 7
    assert not [path for path in music.rglob("*") if path.suffix in (".part", ".new")]
    lines = Path(ObjectStoragePath(result["manifest"]).path).read_text("utf-8").splitlines()
    assert {frozenset(json.loads(line)) for line in lines} == {frozenset(parquet.column_names)}
    pushed = [call.kwargs for call in task_instance.xcom_push.mock_calls]
    assert {"key": "musicapi_destination", "value": f"file://{music}"} == pushed[0]


def test_outlets_tell_what_has_come(make: Make, context: dict[str, Any], music: Path) -> None:
    """The asset event has the counts, the manifest and the place."""
    asset = Asset("songs")
    result = make(outlets=[asset]).execute(context)

    assert context["outlet_events"][asset].extra == {**result, "destination": music.as_uri()}


def test_second_run_buys_nothing_and_asks_nobody(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """Done is done: tomorrow's run costs nothing and has its own manifest."""
    first = make().execute(context)  # type: ignore[arg-type]
    task_instance.run_id = "scheduled__tomorrow"
    simulator.state.requests.clear()
    second = make().execute(context)  # type: ignore[arg-type]

    assert simulator.state.requests.total() == 0
    assert second == {**first, "manifest": second["manifest"], "credits": 0}
    assert first["manifest"] != second["manifest"]
    assert [entry.tracks for entry in manifest_of(second)] == [e.tracks for e in manifest_of(first)]


def test_hundred_rows_with_three_changes_buy_three(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, tmp_path: Path, music: Path
) -> None:
    """Two are new, one is edited, one is deleted: its tracks stay."""
    names = [f"r{number}" for number in range(100)]
    write(tmp_path, *names)
    make(max_in_flight=100).execute(context)
    before = {path.name for path in music.glob("*.mp3")}
    write(tmp_path, *names[1:], "new1", "new2", r50="about other things")
    result = make().execute(context)

    assert simulator.state.requests[POST] == 103
    assert (result["rows"], result["stored"]) == (101, 101)
    assert before < {path.name for path in music.glob("*.mp3")}


def test_rows_beyond_the_limit_are_the_next_runs(
    make: Make, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """They fail nothing; a retry of the same run does not spend more, the next run goes on."""
    first = make(max_credits=30).execute(context)
    retry = make(max_credits=30).execute(context)
    task_instance.run_id = "tomorrow"
    second = make(max_credits=30).execute(context)

    assert states_of(first) == states_of(retry) == {"a": STORED, "b": STORED, "c": POSTPONED}
    assert (first["credits"], retry["credits"], second["credits"]) == (30, 30, 15)
    assert (first["postponed"], first["without_tracks"]) == (1, 0)
    assert set(states_of(second).values()) == {STORED}


def test_limit_holds_over_deferrals(make: Make, context: dict[str, Any], simulator: SimulatorServer) -> None:
    """Each phase counts what those before it have spent."""
    simulator.state.configure(job_rule="seconds:0.3")
    result = run(lambda: make(deferrable=True, max_credits=30, max_in_flight=1), context)

    assert states_of(result) == {"a": STORED, "b": STORED, "c": POSTPONED}
    assert simulator.state.requests[POST] == 2


# -- too few -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_success", "failing", "enough"),
    [(1, 0, True), (1, 1, False), (0.7, 3, True), (0.7, 4, False), (0.75, 3, False), (0, 10, True)],
)
def test_share_of_rows_that_must_succeed(
    make: Make,
    context: dict[str, Any],
    simulator: SimulatorServer,
    tmp_path: Path,
    task_instance: MagicMock,
    min_success: float,
    failing: int,
    enough: bool,
) -> None:
    """Ten rows, some refused: the rest is stored, and the summary is there either way."""
    write(tmp_path, *"abcdefghij")
    for name in "abcdefghij"[:failing]:
        simulator.state.scenario("moderated", match=f"about {name}")
    operator = make(min_success=min_success)
    if enough:
        result = operator.execute(context)  # type: ignore[arg-type]
    else:
        with pytest.raises(AirflowFailException, match=rf"{10 - failing} of 10 rows have their tracks.*a \("):
            operator.execute(context)  # type: ignore[arg-type]
        result = summary_of(task_instance)

    assert (result["stored"], result["without_tracks"]) == (10 - failing, failing)
    assert simulator.state.credits == 10**6 - 15 * (10 - failing)


def test_what_a_retry_can_cure_asks_for_one(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """A refunded row is bought anew by the retry, and nothing else is."""
    simulator.state.scenario("failed", match="about b", times=1)
    with pytest.raises(MusicAPIIncompleteTableError, match=r"2 of 3 rows.*b \(failed\)") as caught:
        make().execute(context)  # type: ignore[arg-type]
    failed = summary_of(task_instance)
    state = states_of(failed)["b"]
    now = time.time
    operator = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator_module.time, "time", lambda: now() + 2)  # records know whole seconds
        result = operator.execute(context)  # type: ignore[arg-type]

    assert caught.value.retryable
    assert (failed["stored"], failed["credits"], state) == (2, 30, FAILED)
    assert (result["stored"], result["credits"]) == (3, 45)
    assert simulator.state.requests[POST] == 4


def test_what_no_retry_can_cure_fails_for_good(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """A lost answer waits for a decision, and the error says how to make it."""
    simulator.state.scenario("drop-after-booking", match="about b", times=1)
    with pytest.raises(AirflowFailException, match=r"b \(unknown outcome\).*run with settle"):
        make().execute(context)  # type: ignore[arg-type]
    summary = summary_of(task_instance)
    error = manifest_of(summary)[1].error
    (lost,) = [id_ for id_, job in simulator.state.jobs.items() if job.body["prompt"] == "about b"]
    result = make(settle=json.dumps({"b": lost})).execute(context)  # type: ignore[arg-type]

    assert (summary["unknown"], summary["credits"], summary["lost_credits"]) == (1, 30, 15)
    assert "Evidence" in error
    assert (result["stored"], result["credits"], result["lost_credits"]) == (3, 45, 0)
    assert simulator.state.requests[POST] == 3


def test_every_row_says_why_it_has_no_tracks(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """In the manifest, in words, whatever stopped it."""
    simulator.state.scenario("media-404", match="about a", times=None)
    simulator.state.scenario("unauthorized", match="about b")
    with pytest.raises(MusicAPIIncompleteTableError, match="0 of 3"):
        make(max_in_flight=1).execute(context)  # type: ignore[arg-type]
    manifest = manifest_of(summary_of(task_instance))

    assert [entry.state for entry in manifest] == [
        SUBMITTED,
        NOT_SUBMITTED,
        NOT_SUBMITTED,
    ]
    assert "could not be stored" in manifest[0].error
    assert all("not bought: The API does not accept the key" in entry.error for entry in manifest[1:])


def test_storage_that_does_not_answer_buys_nothing(
    make: Make,
    context: dict[str, Any],
    simulator: SimulatorServer,
    music: Path,
) -> None:
    """No records, no plan, no purchase; a retry may cure it."""
    music.mkdir()
    (music / "purchases").write_text("in the way")
    with pytest.raises(MusicAPINotSentError, match="storage of the records") as caught:
        make().execute(context)  # type: ignore[arg-type]

    assert caught.value.retryable
    assert simulator.state.requests[POST] == 0


# -- deferral ------------------------------------------------------------------------------------------------


def test_waiting_costs_no_worker(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, music: Path
) -> None:
    """One trigger for all that is in flight; the manifest says how far the run is."""
    simulator.state.scenario("running")
    trigger = defer(make(deferrable=True, poll_interval=7), context)
    (in_progress,) = (music / MANIFESTS).iterdir()
    entries = read_manifest_file(ObjectStoragePath(in_progress.as_uri()))

    assert list(trigger.waits) == list(simulator.state.jobs)
    assert all(timeout == 1800 + 1 or 1800 <= timeout < 1802 for _, timeout in trigger.waits.values())
    assert (trigger.enough, trigger.poll_interval) == (3, 7)
    assert trigger.about["manifest"] == in_progress.stem
    assert [entry.state for entry in entries] == [SUBMITTED] * 3
    assert in_progress.suffix == ".jsonl"


def test_half_of_the_places_must_be_free_before_a_worker_buys_on(
    make: Make, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """With rows to buy; a single free place is not worth a start of a process."""
    simulator.state.scenario("running")
    trigger = defer(make(deferrable=True, max_in_flight=2), context)

    assert (len(trigger.waits), trigger.enough) == (2, 1)


def test_deferrals_go_on_until_all_is_done(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Two places, six rows: bought in order, once each, by as many processes as it takes."""
    write(tmp_path, *"abcdef")
    simulator.state.configure(job_rule="seconds:0.3")
    result = run(lambda: make(deferrable=True, max_in_flight=2), context)
    order = [job.body["prompt"] for job in simulator.state.jobs.values()]

    assert result["stored"] == 6
    assert order == [f"about {name}" for name in "abcdef"]


def test_same_object_may_defer_and_resume(
    make: Make, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """As ``dag.test()`` does: nothing in it belongs to the event loop of the phase before."""
    simulator.state.configure(job_rule="seconds:0.4")
    operator = make(deferrable=True)
    result = run(lambda: operator, context)

    assert result["stored"] == 3


@pytest.mark.parametrize("spoilt", ["gone", "half", "no-entry"])
def test_resume_without_its_manifest_goes_by_the_records(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, music: Path, spoilt: str, logged: Log
) -> None:
    """Nothing is bought again."""
    simulator.state.scenario("running")
    trigger = defer(make(deferrable=True), context)
    for id_ in list(simulator.state.jobs):
        simulator.state.finish(id_)
    (path,) = (music / MANIFESTS).iterdir()
    if spoilt == "gone":
        path.unlink()
    else:
        path.write_text('{"prompt_id": "a"' if spoilt == "half" else '{"x": 1}\n')
    event = {"status": "finished", "finished": [], "about": trigger.about}
    result = run(lambda: make(deferrable=True), context, event=event)

    assert result["stored"] == 3
    assert simulator.state.requests[POST] == 3
    assert "The records say how far the table is" in logged.text


@pytest.mark.parametrize("manifest", ["old", "final"])
def test_resume_that_is_repeated_buys_nothing_twice(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, music: Path, manifest: str
) -> None:
    """A worker died after it had bought, or even after it had written all: the records know."""
    simulator.state.scenario("running")
    trigger = defer(make(deferrable=True, max_in_flight=1), context)
    simulator.state.armed.clear()
    for id_ in list(simulator.state.jobs):
        simulator.state.finish(id_)
    event = {"status": "finished", "finished": list(trigger.waits), "about": trigger.about}
    path = music / MANIFESTS / f"{trigger.about['manifest']}.jsonl"
    old = path.read_bytes()
    first = make(max_in_flight=1).execute_complete(context, event)  # type: ignore[arg-type]
    if manifest == "old":
        path.write_bytes(old)
    second = make(max_in_flight=1).execute_complete(context, event)  # type: ignore[arg-type]

    assert first == second
    assert first["stored"] == 3
    assert dict(simulator.state.creates_booked) == dict.fromkeys(("about a", "about b", "about c"), 1)


ABOUT = {"manifest": "m", "started": 1.0}


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(None, id="none"),
        pytest.param("finished", id="text"),
        pytest.param({}, id="empty"),
        pytest.param({"status": "finished"}, id="about-nothing"),
        pytest.param({"status": "success", "about": ABOUT}, id="unknown-status"),
        pytest.param({"status": ["finished"], "about": ABOUT}, id="odd-status"),
        pytest.param({"status": "finished", "about": {}}, id="empty-about"),
        pytest.param({"status": "finished", "about": {"manifest": "m"}}, id="no-start"),
        pytest.param({"status": "finished", "about": {"started": 1.0}}, id="no-manifest"),
        pytest.param({"status": "finished", "about": {**ABOUT, "manifest": 5}}, id="odd-manifest"),
        pytest.param({"status": "finished", "about": ABOUT, "finished": 5}, id="odd-ids"),
    ],
)
def test_odd_event_is_refused(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, event: Any
) -> None:
    """Nothing may pass silently, and nothing is bought by it."""
    with pytest.raises(AirflowFailException, match="unknown event") as caught:
        make().execute_complete(context, event)  # type: ignore[arg-type]

    assert isinstance(caught.value.__cause__, MusicAPITriggerEventError)
    assert simulator.state.requests.total() == 0


def test_what_the_triggerer_cannot_do_a_worker_does(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, logged: Log
) -> None:
    """Handing over again would go round in circles, a worker start each."""
    simulator.state.configure(job_rule="seconds:0.5")
    trigger = defer(make(deferrable=True), context)
    event = {"status": "error", "error": "X", "message": "no connection here.", "about": trigger.about}
    result = make(deferrable=True).execute_complete(context, event)  # type: ignore[arg-type]

    assert result["stored"] == 3
    assert "In the triggerer: no connection here." in logged.text


def test_key_that_is_revoked_while_all_wait_ends_the_task(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """The trigger tells, the worker meets the same, and each row says so; nothing is lost."""
    simulator.state.scenario("running")
    trigger = defer(make(deferrable=True), context)
    simulator.state.configure(api_key="another")
    (event,) = asyncio.run(events_of(stored_and_loaded(trigger)))
    with pytest.raises(AirflowFailException, match=r"0 of 3 rows.*a \(submitted\)"):
        make(deferrable=True).execute_complete(context, event)  # type: ignore[arg-type]
    manifest = manifest_of(summary_of(task_instance))

    assert (event["status"], event["error"]) == ("error", "MusicAPIAuthError")
    assert all("does not accept the key" in entry.error for entry in manifest)
    assert [entry.music_task_id for entry in manifest] == list(trigger.waits)


def test_lost_answers_stay_out_of_later_phases(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, task_instance: MagicMock
) -> None:
    """The try has done with them; so it has with what was not bought after three of them."""
    simulator.state.scenario("running", match="about a")
    simulator.state.scenario("drop-after-booking", match="about b", times=1)
    trigger = defer(make(deferrable=True), context)
    for job in simulator.state.jobs.values():
        simulator.state.finish(job.task_id)
    event = {"status": "finished", "finished": list(trigger.waits), "about": trigger.about}
    with pytest.raises(AirflowFailException, match="2 of 3 rows"):
        make(deferrable=True, on_unknown_outcome="resubmit").execute_complete(context, event)  # type: ignore[arg-type]

    assert states_of(summary_of(task_instance)) == {"a": STORED, "b": UNKNOWN, "c": STORED}
    assert simulator.state.requests[POST] == 3


def test_key_is_nowhere(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, music: Path, logged: Log
) -> None:
    """Not in the trigger, the event, the result, a file or the log."""
    simulator.state.configure(job_rule="seconds:0.4")
    trigger = defer(make(deferrable=True), context)
    (event,) = asyncio.run(events_of(stored_and_loaded(trigger)))
    result = make(deferrable=False).execute_complete(context, event)  # type: ignore[arg-type]
    written = b"".join(path.read_bytes() for path in music.rglob("*") if path.is_file())

    assert simulator.api_key.encode() not in written
    assert simulator.api_key not in json.dumps([trigger.serialize(), event, result])
    assert simulator.api_key not in logged.text
    assert simulator.state.media_requests_with_key == 0


@pytest.mark.parametrize("scenario", ["slow-create", "running"])
def test_execution_timeout_loses_no_purchase(
    make: Make, context: dict[str, Any], simulator: SimulatorServer, scenario: str
) -> None:
    """Airflow raises it in a signal handler, wherever the main thread is: what is under way is recorded."""

    class TaskTimeoutError(BaseException):
        pass

    def strike(*_: Any) -> None:
        raise TaskTimeoutError

    def strike_after_the_first_booking() -> None:
        while not simulator.state.jobs:
            time.sleep(0.01)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    simulator.state.scenario(scenario, times=1)
    before = signal.signal(signal.SIGALRM, strike)
    striker = threading.Thread(target=strike_after_the_first_booking)
    striker.start()
    try:
        with pytest.raises(TaskTimeoutError):
            make().execute(context)  # type: ignore[arg-type]
    finally:
        striker.join()
        signal.signal(signal.SIGALRM, before)
    booked = simulator.state.creates_booked.total()
    for id_ in list(simulator.state.jobs):
        simulator.state.finish(id_)
    result = make().execute(context)  # type: ignore[arg-type]

    assert booked >= 1
    assert result["stored"] == 3
    assert dict(simulator.state.creates_booked) == dict.fromkeys(("about a", "about b", "about c"), 1)


def test_killed_task_buys_nothing_more(
    make: Make, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """Airflow calls on_kill and lets the task go on for seconds: SIGKILL must not cut off a create."""
    operator = make(create_interval=0.3)

    def kill() -> None:
        while not simulator.state.jobs:
            time.sleep(0.01)
        operator.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(AirflowFailException, match="1 of 3 rows"):
        operator.execute(context)  # type: ignore[arg-type]
    killer.join()

    assert simulator.state.requests[POST] == 1


def test_kill_says_what_stays_behind(make: Make, logged: Log) -> None:
    """Credits stay spent, and nothing is lost."""
    make().on_kill()

    assert "their credits stay spent" in logged.text
    assert "collects them without paying again" in logged.text


# -- while it waits ------------------------------------------------------------------------------------------


def test_what_is_stored_is_shown_while_others_run(
    make: Make,
    context: dict[str, Any],
    music: Path,
    simulator: SimulatorServer,
    task_instance: MagicMock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Index, counts and the links to manifest and tracks are there when the task defers."""
    monkeypatch.setattr(table_run, "LINGER", 1.0)  # time for two downloads, on a busy machine, too
    simulator.state.scenario("running", match="about a")
    operator = make(deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    links = [link.get_link(operator, ti_key=task_instance) for link in operator.operator_extra_links]
    rows = read_index((music / "index.csv").read_bytes())

    assert {row.prompt_id for row in rows} == {"b", "c"}
    assert {row.credits for row in rows} == {"15"}
    assert summary_of(task_instance) == {
        "manifest": operator.manifest_uri,
        **{"rows": 3, "stored": 2, "tracks": 4, "without_tracks": 1, "unknown": 0, "postponed": 0},
        **{"credits": 45, "lost_credits": 0},
    }
    assert links[0].endswith("/plugin/musicapi-tracks?dag_id=songs&run_id=manual__1")
    assert links[1].endswith("/runs/manual__1/tasks/table/manifest?map_index=-1")
