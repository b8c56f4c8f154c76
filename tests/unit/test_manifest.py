"""The manifest: what became of each row, and what a later run buys, collects or leaves alone."""

from __future__ import annotations

import json
import locale
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.manifest import (
    FAILED,
    NOT_SUBMITTED,
    POSTPONED,
    STORED,
    SUBMITTED,
    UNKNOWN,
    complete_plan,
    plan_rows,
    read_history,
    row_results,
    rows_to_do,
    write_manifest_file,
)
from musicapi_provider.prompt_table import PromptRow
from musicapi_provider.submission import fingerprint_of
from tests.conftest import QUICK

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

ROWS = [PromptRow(name, {"prompt": f"about {name}"}, n) for n, name in enumerate("abcd", 2)]
TRACK = {"clip_id": "c1", "uri": "file:///music/c1.mp3"}
SONG = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
#: What became of the four rows in an earlier run.
PAST: dict[str, dict[str, Any]] = {
    "a": {"state": STORED, "music_task_id": "t1", "tracks": [TRACK], "credits": 15.0},
    "b": {"state": SUBMITTED, "music_task_id": "t2", "tracks": [], "credits": 15.0},
    "c": {"state": UNKNOWN, "music_task_id": None, "tracks": [], "credits": None},
    "d": {"state": NOT_SUBMITTED, "music_task_id": None, "tracks": [], "credits": 0.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStoragePath:
    """Return an empty folder as object storage."""
    return ObjectStoragePath(tmp_path.as_uri())


def entry_of(row: PromptRow, account: str = "test", **known: Any) -> dict[str, Any]:
    """Return the manifest entry of a row, by default of one that nobody has worked on."""
    return {
        **{"prompt_id": row.prompt_id, "body": row.body},
        "fingerprint": fingerprint_of(row.body, account=account),
        **PAST["d"],
        **known,
    }


def past_plan() -> list[dict[str, Any]]:
    """Return the manifest of the earlier run."""
    return [entry_of(row, **PAST[row.prompt_id]) for row in ROWS]


def write(
    folder: ObjectStoragePath, run_id: str, entries: list[dict[str, Any]], mtime: float | None = None
) -> Path:
    """Write a manifest, as of that time."""
    path = Path(write_manifest_file(folder, run_id, entries).removeprefix("file://"))
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


# -- planning -----------------------------------------------------------------------------------------------


def test_plan_of_a_first_run_buys_everything(folder: ObjectStoragePath) -> None:
    """Without a manifest no row is known."""
    plan = plan_rows(ROWS, folder, account="test")

    assert [entry_of(row) for row in ROWS] == plan
    assert rows_to_do(plan) == [
        {"prompt_id": row.prompt_id, "body": row.body, "adopt_music_task_id": None} for row in ROWS
    ]


def test_plan_of_a_later_run_knows_each_row(
    folder: ObjectStoragePath, caplog: pytest.LogCaptureFixture
) -> None:
    """Stored is done, bought is collected, unknown is left alone, and the rest is bought."""
    caplog.set_level("INFO")
    write(folder, "first", past_plan())
    plan = plan_rows(ROWS, folder, account="test")

    assert past_plan() == plan
    assert rows_to_do(plan) == [
        {"prompt_id": "b", "body": {"prompt": "about b"}, "adopt_music_task_id": "t2"},
        {"prompt_id": "d", "body": {"prompt": "about d"}, "adopt_music_task_id": None},
    ]
    assert "4 rows; known from earlier runs: {'stored': 1, 'submitted': 1, 'unknown outcome': 1}" in (
        caplog.text
    )


def test_edited_row_is_another_purchase(folder: ObjectStoragePath) -> None:
    """The name alone does not make a row the same."""
    write(folder, "first", past_plan())
    (entry,) = plan_rows([PromptRow("a", {"prompt": "about z"}, 2)], folder, account="test")

    assert (entry["state"], entry["music_task_id"], entry["tracks"]) == (NOT_SUBMITTED, None, [])


def test_renamed_row_is_another_purchase(folder: ObjectStoragePath) -> None:
    """Two rows with the same body are two songs."""
    write(folder, "first", past_plan())
    (entry,) = plan_rows([PromptRow("z", {"prompt": "about a"}, 2)], folder, account="test")

    assert entry["state"] == NOT_SUBMITTED


def test_other_account_is_another_purchase(folder: ObjectStoragePath) -> None:
    """A music task of one key cannot be collected with another."""
    write(folder, "first", past_plan())

    assert [row["state"] for row in plan_rows(ROWS, folder, account="other")] == [NOT_SUBMITTED] * 4


def test_order_of_fields_does_not_matter(folder: ObjectStoragePath) -> None:
    """Columns may change places."""
    first, moved = {"prompt": "la", "title": "La"}, {"title": "La", "prompt": "la"}
    write(folder, "first", [entry_of(PromptRow("a", first, 2), **PAST["a"])])
    (entry,) = plan_rows([PromptRow("a", moved, 9)], folder, account="test")

    assert entry["state"] == STORED


def test_failed_row_is_bought_anew_not_adopted(folder: ObjectStoragePath) -> None:
    """The id of a refunded music task is kept for the reader only."""
    row = ROWS[0]
    write(folder, "first", [entry_of(row, state=NOT_SUBMITTED, music_task_id="t1")])
    plan = plan_rows([row], folder, account="test")

    assert plan[0]["music_task_id"] == "t1"
    assert [todo["adopt_music_task_id"] for todo in rows_to_do(plan)] == [None]


def test_entry_without_details_counts_as_not_submitted(folder: ObjectStoragePath) -> None:
    """What an earlier version did not write is not known."""
    known = {name: entry_of(ROWS[0])[name] for name in ("prompt_id", "fingerprint")}
    write(folder, "first", [known])

    assert [entry_of(ROWS[0])] == plan_rows(ROWS[:1], folder, account="test")


def test_plan_of_an_empty_table_is_empty(folder: ObjectStoragePath) -> None:
    """No rows, no entries."""
    assert plan_rows([], folder, account="test") == rows_to_do([]) == complete_plan([], {}) == []


def states_of(plan: list[dict[str, Any]]) -> list[str]:
    """Return the states in the table's order."""
    return [entry["state"] for entry in plan]


@pytest.mark.parametrize(
    ("max_credits", "states"),
    [
        pytest.param(None, [NOT_SUBMITTED] * 4, id="no-limit"),
        pytest.param(60, [NOT_SUBMITTED] * 4, id="exactly-enough"),
        pytest.param(59, [NOT_SUBMITTED] * 3 + [POSTPONED], id="one-short"),
        pytest.param(0, [POSTPONED] * 4, id="nothing"),
    ],
)
def test_run_spends_no_more_than_it_may(
    folder: ObjectStoragePath, max_credits: float | None, states: list[str]
) -> None:
    """Rows are bought in the table's order until the credits are used up."""
    plan = plan_rows(ROWS, folder, account="test", max_credits=max_credits)

    assert states_of(plan) == states
    assert len(rows_to_do(plan)) == states.count(NOT_SUBMITTED)


def test_limit_counts_only_what_this_run_buys(folder: ObjectStoragePath) -> None:
    """What is stored, bought or undecided costs nothing; what failed is bought anew, by the given price."""
    past = past_plan()
    past[3] = entry_of(ROWS[3], state=FAILED, music_task_id="t4")
    write(folder, "first", past)

    def states(max_credits: float) -> list[str]:
        return states_of(
            plan_rows(ROWS, folder, account="test", max_credits=max_credits, price=lambda _body: 12)
        )

    assert states(12) == [STORED, SUBMITTED, UNKNOWN, FAILED]
    assert states(11) == [STORED, SUBMITTED, UNKNOWN, POSTPONED]


def test_no_row_overtakes_a_postponed_one(folder: ObjectStoragePath) -> None:
    """A cheap row at the end does not get what a dearer one before it could not pay."""
    rows = [ROWS[0], PromptRow("cheap", {"task_type": "concat_music", "continue_clip_id": "c1"}, 3)]

    assert states_of(plan_rows(rows, folder, account="test", max_credits=5)) == [POSTPONED, POSTPONED]


def test_postponed_row_is_bought_by_a_later_run(folder: ObjectStoragePath) -> None:
    """The manifest says that it waits; nothing more."""
    write(folder, "first", complete_plan(plan_rows(ROWS, folder, account="test", max_credits=30), {}))

    assert [entry["state"] for entry in read_history(folder).values()].count(POSTPONED) == 2
    assert states_of(plan_rows(ROWS, folder, account="test")) == [NOT_SUBMITTED] * 4


@pytest.mark.parametrize("max_credits", [-1, float("nan")])
def test_impossible_limit_is_refused(folder: ObjectStoragePath, max_credits: float) -> None:
    """A limit that is none must not pass as one."""
    with pytest.raises(MusicAPIConfigurationError, match="max_credits must be 0 or more"):
        plan_rows(ROWS, folder, account="test", max_credits=max_credits)


@pytest.mark.parametrize(
    ("decision", "state", "adopted"),
    [
        pytest.param("resubmit", NOT_SUBMITTED, None, id="bought-again"),
        pytest.param(" t7 ", SUBMITTED, "t7", id="collected"),
    ],
)
def test_unknown_outcome_is_settled_as_decided(
    folder: ObjectStoragePath, decision: str, state: str, adopted: str | None
) -> None:
    """A human has looked into the account; the row goes on from there."""
    write(folder, "first", past_plan())
    plan = plan_rows(ROWS, folder, account="test", settle={"c": decision})

    assert states_of(plan) == [STORED, SUBMITTED, state, NOT_SUBMITTED]
    assert {row["prompt_id"]: row["adopt_music_task_id"] for row in rows_to_do(plan)}["c"] == adopted


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param({"a": "resubmit"}, id="stored-row"),
        pytest.param({"b": "t9"}, id="bought-row"),
        pytest.param({"z": "resubmit"}, id="no-such-row"),
        pytest.param({"c": " "}, id="blank"),
        pytest.param({"c": None}, id="null"),
    ],
)
def test_decision_that_decides_nothing_is_refused(folder: ObjectStoragePath, settle: dict[str, Any]) -> None:
    """A slip in a name must not buy what is there, nor pass as settled."""
    write(folder, "first", past_plan())
    with pytest.raises(MusicAPIConfigurationError, match=r"nothing was bought.*outcome \(c\)"):
        plan_rows(ROWS, folder, account="test", settle=settle)


# -- results ------------------------------------------------------------------------------------------------


class Xcoms:
    """The XComs of the mapped tasks, as a task instance pulls them: by task id, key and map index."""

    def __init__(self, values: Mapping[tuple[str, str, int], Any]) -> None:
        self.values = values

    def xcom_pull(self, *, task_ids: str, key: str = "return_value", map_indexes: int) -> Any:
        """Return a value, or ``None``."""
        return self.values.get((task_ids, key, map_indexes))


OTHERS_TRACK = {**TRACK, "music_task_id": "t9"}


def test_row_results_are_those_of_the_map_index(connection: str, simulator: SimulatorServer) -> None:
    """Each row gets what its own tasks left behind, nothing of another row that had the index before."""
    rows = rows_to_do([entry_of(row) for row in ROWS])
    ti = Xcoms(
        {
            ("song.create", "music_task_id", 0): "t1",
            ("song.create", "submission", 0): {"state": SUBMITTED, "prompt_id": "a", "credits": 15.0},
            ("song.store", "return_value", 0): [{**TRACK, "music_task_id": "t1"}, OTHERS_TRACK],
            ("song.create", "submission", 1): {"state": SUBMITTED, "prompt_id": "another"},
            ("song.create", "music_task_id", 1): "t9",
            ("song.store", "return_value", 1): [OTHERS_TRACK],
            ("song.create", "submission", 2): {"state": UNKNOWN, "prompt_id": "c", "credits": None},
        }
    )
    results = row_results(ti, rows, MusicAPIHook(connection), create="song.create", store="song.store")

    tracks = [{**TRACK, "music_task_id": "t1"}]
    bought = {"submission": SUBMITTED, "music_task_id": "t1", "credits": 15.0}
    lost = {"submission": UNKNOWN, "music_task_id": None, "credits": None}
    assert results == {
        "a": {**bought, "tracks": tracks, "failed": False},
        "c": {**lost, "tracks": [], "failed": False},
    }
    assert simulator.state.requests.total() == 0


@pytest.mark.parametrize(
    ("scenario", "finished", "state"),
    [
        pytest.param(None, True, SUBMITTED, id="succeeded-but-not-stored"),
        pytest.param(None, False, SUBMITTED, id="running"),
        pytest.param("partial", True, SUBMITTED, id="partial"),
        pytest.param("no-audio-url", True, SUBMITTED, id="without-url"),
        pytest.param("unknown-type", True, SUBMITTED, id="odd-answer"),
        pytest.param("unknown-404", True, SUBMITTED, id="unknown-id"),
        pytest.param("read-500", True, SUBMITTED, id="api-is-away"),
        pytest.param("read-unauthorized", True, SUBMITTED, id="revoked-key"),
        pytest.param("failed", True, FAILED, id="failed"),
        pytest.param("all-failed", True, FAILED, id="all-clips-failed"),
        pytest.param("forbidden", True, FAILED, id="moderated"),
    ],
)
@pytest.mark.parametrize("tracks", [pytest.param(None, id="no-xcom"), pytest.param([], id="no-tracks")])
def test_music_task_without_tracks_is_bought_anew_only_if_it_failed(
    connection: str,
    simulator: SimulatorServer,
    scenario: str | None,
    finished: bool,
    state: str,
    tracks: list[Any] | None,
) -> None:
    """A refund is proven by the API alone; whatever else happened, the purchase is collected later."""
    if scenario:
        simulator.state.scenario(scenario, times=None)
    hook = MusicAPIHook(connection, retries=QUICK)
    id_ = hook.create(SONG)
    if finished:
        simulator.state.finish(id_)
    plan = [entry_of(PromptRow("a", SONG, 2))]
    submission = {"state": SUBMITTED, "prompt_id": "a", "credits": 15.0}
    ti = Xcoms(
        {
            ("create", "submission", 0): submission,
            ("create", "music_task_id", 0): id_,
            ("store", "return_value", 0): tracks,
        }
    )
    results = row_results(ti, rows_to_do(plan), hook, create="create", store="store")
    (entry,) = complete_plan(plan, results)

    assert results["a"]["failed"] is (state == FAILED)
    assert (state, id_, []) == (entry["state"], entry["music_task_id"], entry["tracks"])
    assert entry["credits"] == (0 if state == FAILED else 15)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        pytest.param(
            {"music_task_id": "t9", "tracks": [TRACK], "submission": SUBMITTED, "credits": 15.0},
            {"state": STORED, "music_task_id": "t9", "tracks": [TRACK], "credits": 15.0},
            id="stored",
        ),
        pytest.param(
            {"music_task_id": "t9", "tracks": [TRACK], "failed": True},
            {"state": STORED, "music_task_id": "t9", "tracks": [TRACK]},
            id="stored-whatever-else",
        ),
        pytest.param(
            {"music_task_id": "t9", "tracks": None, "submission": SUBMITTED},
            {"state": SUBMITTED, "music_task_id": "t9", "tracks": []},
            id="submitted",
        ),
        pytest.param(
            {"music_task_id": "t9", "tracks": None, "submission": SUBMITTED, "failed": True, "credits": 15.0},
            {"state": FAILED, "music_task_id": "t9", "tracks": []},
            id="failed",
        ),
        pytest.param({"submission": UNKNOWN}, {**PAST["d"], "state": UNKNOWN, "credits": None}, id="unknown"),
        pytest.param({"submission": NOT_SUBMITTED}, PAST["d"], id="refused"),
        pytest.param({"submission": None, "music_task_id": None}, PAST["d"], id="never-ran"),
        pytest.param({}, PAST["d"], id="nothing-left-behind"),
        pytest.param(None, PAST["d"], id="no-result"),
    ],
)
def test_row_that_was_bought_now_has_its_outcome(
    result: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    """Stored, submitted, failed, unknown and refused are told apart."""
    results = {} if result is None else {"a": result}

    assert [entry_of(ROWS[0], **expected)] == complete_plan([entry_of(ROWS[0])], results)


def test_rows_nobody_worked_on_keep_what_is_known() -> None:
    """Done, unknown and not reached rows stay as they are: the next run reads the newest manifest."""
    assert past_plan() == complete_plan(past_plan(), {})
    assert past_plan() == complete_plan(past_plan(), {"b": {"submission": None, "tracks": None}})


def test_adopted_row_becomes_stored() -> None:
    """The second run's tracks belong to the first run's purchase."""
    result = {"music_task_id": "t2", "submission": SUBMITTED, "tracks": [TRACK, TRACK], "credits": 0.0}
    completed = complete_plan(past_plan(), {"b": result})

    assert [entry["state"] for entry in completed] == [STORED, STORED, UNKNOWN, NOT_SUBMITTED]
    assert (completed[1]["music_task_id"], completed[1]["tracks"]) == ("t2", [TRACK, TRACK])
    assert completed[1]["credits"] == 15, "the first run has paid, the second has not"


def test_completing_leaves_the_plan_alone() -> None:
    """The plan is an XCom of another task."""
    plan = past_plan()
    complete_plan(plan, {"d": {"music_task_id": "t4"}})

    assert past_plan() == plan


# -- history ------------------------------------------------------------------------------------------------


def test_history_of_a_new_folder_is_empty(tmp_path: Path) -> None:
    """Neither the folder nor its manifests need to exist."""
    assert read_history(ObjectStoragePath((tmp_path / "nowhere").as_uri())) == {}
    assert read_history(ObjectStoragePath(tmp_path.as_uri())) == {}
    (tmp_path / "manifests").mkdir()
    assert read_history(ObjectStoragePath(tmp_path.as_uri())) == {}


@pytest.mark.parametrize("names", [("run-1", "run-2"), ("scheduled__1", "manual__2")])
def test_newest_manifest_counts(folder: ObjectStoragePath, names: tuple[str, str]) -> None:
    """By the time in the entries, not by name or file time; what only an older one knows is known as well."""
    old = [entry_of(ROWS[0], **PAST["b"]), entry_of(ROWS[1], **PAST["b"])]
    write(folder, names[0], old, mtime=2000.0)
    write(folder, names[1], [entry_of(ROWS[0], **PAST["a"])], mtime=1000.0)
    history = read_history(folder)

    assert [row["state"] for row in plan_rows(ROWS[:2], folder, account="test")] == [STORED, SUBMITTED]
    assert [("a", old[0]["fingerprint"]), ("b", old[1]["fingerprint"])] == sorted(history)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("no JSON {", id="no-json"),
        pytest.param("[1, 2]", id="list"),
        pytest.param("7", id="number"),
        pytest.param('{"prompt_id": "a"}', id="no-fingerprint"),
        pytest.param('{"prompt_id": "a", "fingerprint": "f"}', id="no-time"),
        pytest.param('{"prompt_id": ["a"], "fingerprint": "f", "written_at": ""}', id="list-as-id"),
    ],
)
def test_unreadable_line_is_passed_over_with_a_warning(
    folder: ObjectStoragePath, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    """One bad line loses one row, not the run; the lines around it count."""
    path = write(folder, "first", past_plan())
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *others]))

    assert past_plan() == plan_rows(ROWS, folder, account="test")
    assert f"{path.name} holds a line that is no manifest entry: {line[:80]}" in caplog.text


def test_other_files_are_no_manifests(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """Only JSON Lines in the folder of manifests are read."""
    write(folder, "first", past_plan())
    (tmp_path / "manifests" / "notes.txt").write_text("x")
    (tmp_path / "other.jsonl").write_text("x")

    assert len(read_history(folder)) == 4


def test_written_manifest_is_the_next_runs_history(folder: ObjectStoragePath) -> None:
    """Two runs: what the first one completed is what the second one plans with."""
    plan = plan_rows(ROWS, folder, account="test")
    results = {
        "a": {"music_task_id": "t1", "tracks": [TRACK], "credits": 15.0},
        "b": {"music_task_id": "t2", "credits": 15.0},
        "c": {"submission": UNKNOWN},
    }
    write_manifest_file(folder, "run", complete_plan(plan, results))

    assert past_plan() == plan_rows(ROWS, folder, account="test")


# -- the file -----------------------------------------------------------------------------------------------


def test_file_has_a_json_line_per_row(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """The file lies below the folder, named after the run, one row a line."""
    rows = past_plan()
    uri = write_manifest_file(folder, "manual__2026-01-02T03:04:05+00:00", rows)
    (path,) = (tmp_path / "manifests").glob("manual__2026-01-02T03-04-05-00-00-*.jsonl")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    assert path.as_uri() == uri
    assert {datetime.fromisoformat(entry.pop("written_at")).tzinfo for entry in entries} == {UTC}
    assert rows == entries


@pytest.mark.parametrize(("one", "other"), [("é", "è"), ("r" * 250 + "1", "r" * 250 + "2")])
def test_every_run_has_a_file_of_its_own(folder: ObjectStoragePath, one: str, other: str) -> None:
    """Run ids that look alike once cleaned or cut must not overwrite each other's history."""
    uris = {write_manifest_file(folder, run_id, []) for run_id in (one, other)}

    assert len(uris) == 2


def test_no_manifest_is_ever_overwritten(folder: ObjectStoragePath) -> None:
    """A cleared run writes another file: the first may be the only record of a purchase."""
    write(folder, "run", [entry_of(ROWS[0], **PAST["b"])])
    write(folder, "run", [entry_of(ROWS[1])])

    assert [row["state"] for row in plan_rows(ROWS[:2], folder, account="test")] == [SUBMITTED, NOT_SUBMITTED]


@pytest.mark.parametrize(
    ("earlier", "later", "known"),
    [
        pytest.param("stored", "not submitted", "stored", id="an-old-run-cleared"),
        pytest.param("submitted", "not submitted", "submitted", id="bought-stays-bought"),
        pytest.param("submitted", "unknown outcome", "submitted", id="id-beats-doubt"),
        pytest.param("unknown outcome", "not submitted", "unknown outcome", id="doubt-stays"),
        pytest.param("unknown outcome", "submitted", "submitted", id="doubt-settled"),
        pytest.param("submitted", "failed", "failed", id="proven-failed"),
        pytest.param("failed", "submitted", "submitted", id="bought-anew"),
        pytest.param("submitted", "stored", "stored", id="stored-at-last"),
    ],
)
def test_evidence_of_a_purchase_outlives_the_lack_of_it(
    folder: ObjectStoragePath, earlier: str, later: str, known: str
) -> None:
    """Whatever is written later, what was paid for is never forgotten."""
    for run_id, state in (("first", earlier), ("second", later)):
        write(folder, run_id, [entry_of(ROWS[0], state=state, music_task_id="t1", tracks=[])])

    assert [entry["state"] for entry in read_history(folder).values()] == [known]


def test_failure_of_another_music_task_undoes_no_purchase(folder: ObjectStoragePath) -> None:
    """Only the proof about this very music task does."""
    write(folder, "first", [entry_of(ROWS[0], state=SUBMITTED, music_task_id="t2", tracks=[])])
    write(folder, "second", [entry_of(ROWS[0], state=FAILED, music_task_id="t1", tracks=[])])

    assert [entry["music_task_id"] for entry in read_history(folder).values()] == ["t2"]


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b", "a\\b", "ä b"])
def test_run_id_never_leaves_the_folder(tmp_path: Path, run_id: str) -> None:
    """Run ids are free text; file names are not."""
    write_manifest_file(ObjectStoragePath(tmp_path.as_uri()), run_id, [])

    assert len([*(tmp_path / "manifests").iterdir()]) == 1
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Größe 音楽 🎵", id="any-language"),
        pytest.param("line\nbreak\u2028and \x00", id="control-characters"),
        pytest.param("half a pair: \ud83c", id="half-a-pair"),
    ],
)
def test_any_text_comes_back_in_any_locale(tmp_path: Path, text: str) -> None:
    """The manifest is written after everything is paid for: no text and no locale may break it."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        write_manifest_file(ObjectStoragePath(tmp_path.as_uri()), "run", [{"prompt": text}])
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    (path,) = (tmp_path / "manifests").glob("run-*.jsonl")
    (line,) = path.read_bytes().decode("utf-8").split("\n")[:-1]

    assert json.loads(line)["prompt"] == text
