"""The two ends of a mapped table: what is to be done, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk import Asset, BaseOperator, ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException, XComNotFound

from musicapi_provider.operators.prompt_table_steps import (
    MusicAPIReadPromptTableOperator,
    MusicAPIWriteManifestOperator,
)
from musicapi_provider.prompt_table.manifest import read_manifest_file
from musicapi_provider.purchases import FolderStore, Order, buy, fingerprint_of
from tests.states import NOT_SUBMITTED, STORED, SUBMITTED

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

pytestmark = pytest.mark.usefixtures("connection", "quick")

#: What a read task leaves behind: what it returns, and the plan that it pushes.
Read = Callable[..., tuple[list[dict[str, Any]], list[dict[str, Any]]]]
#: A function that makes the write task.
Write = Callable[..., MusicAPIWriteManifestOperator]


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Return the destination's path."""
    return tmp_path / "music"


@pytest.fixture
def read(tmp_path: Path, music: Path, context: dict[str, Any], task_instance: MagicMock) -> Read:
    """Return a function that runs the read task over a table of two rows."""
    (tmp_path / "table.csv").write_text("prompt_id,prompt\na,about a\nb,about b\n")

    def read(**arguments: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        table = (tmp_path / "table.csv").as_uri()
        operator = MusicAPIReadPromptTableOperator(
            task_id="read", destination=music.as_uri(), prompt_table=table, **arguments
        )
        todo = operator.execute(context)  # type: ignore[arg-type]
        return [dict(row) for row in todo], pushed(task_instance, "plan")

    return read


@pytest.fixture
def write(music: Path) -> Write:
    """Return a function that makes the write task."""

    def write(**arguments: Any) -> MusicAPIWriteManifestOperator:
        defaults = {"destination": music.as_uri(), "tracks": []}
        return MusicAPIWriteManifestOperator(task_id="write", **{**defaults, **arguments})

    return write


def pushed(task_instance: MagicMock, key: str) -> Any:
    """Return what was pushed last under a key."""
    calls = [call for call in task_instance.xcom_push.mock_calls if call.kwargs["key"] == key]
    return calls[-1].kwargs["value"]


def bought(operator: BaseOperator, row: dict[str, Any], music: Path) -> str:
    """Buy a row as its create task does; return the music task's id."""
    hook = MusicAPIReadPromptTableOperator(task_id="x", destination=music.as_uri()).hook
    fingerprint = fingerprint_of(row["body"], account=hook.account)
    store = FolderStore(ObjectStoragePath(music.as_uri()), row["prompt_id"], fingerprint)
    return buy(hook.client, Order(row["body"], fingerprint, "manual__1#0"), store).music_task_id


def record_of(prompt_id: str, music_task_id: str) -> dict[str, Any]:
    """Return what a store task returns of a track."""
    uri = f"file:///music/{prompt_id}.mp3"
    return {"clip_id": prompt_id, "music_task_id": music_task_id, "uri": uri, "prompt_id": prompt_id}


# -- read ----------------------------------------------------------------------------------------------------


def test_what_is_to_be_done_are_arguments_of_creates(read: Read, simulator: SimulatorServer) -> None:
    """A row each, and nothing is bought; the plan has them all."""
    todo, plan = read()

    assert [row["prompt_id"] for row in todo] == ["a", "b"]
    assert set(todo[0]) == {"prompt_id", "body", "adopt_music_task_id", "on_unknown_outcome"}
    assert [(row["prompt_id"], row["state"]) for row in plan] == [("a", NOT_SUBMITTED), ("b", NOT_SUBMITTED)]
    assert simulator.state.requests["POST /sonic/create"] == 0


def test_rows_beyond_the_limit_are_in_the_plan_alone(read: Read) -> None:
    """15 credits are one row; text from a template counts."""
    todo, plan = read(max_credits="15")

    assert [row["prompt_id"] for row in todo] == ["a"]
    assert [row["state"] for row in plan] == [NOT_SUBMITTED, "postponed"]


def test_nothing_is_to_be_done_when_all_is_stored(
    read: Read, write: Write, context: dict[str, Any], music: Path
) -> None:
    """The later run maps over nothing, and its manifest still has every row."""
    todo, plan = read()
    writer = write(plan=plan)
    records = [record_of(row["prompt_id"], bought(writer, row, music)) for row in todo]
    for record in records:
        (music / f"{record['clip_id']}.mp3").touch()
    write(plan=plan, tracks=[records]).execute(context)  # type: ignore[arg-type]

    todo, plan = read()
    summary = write(plan=plan, tracks=None).execute(context)  # type: ignore[arg-type]

    assert todo == []
    assert (summary["rows"], summary["stored"], summary["tracks"]) == (2, 2, 2)


def test_bad_row_is_refused_for_good(tmp_path: Path, read: Read) -> None:
    """No retry cures it; it is named."""
    (tmp_path / "table.csv").write_text("prompt_id,prompt\na,\n")

    with pytest.raises(AirflowFailException, match=r"table.csv:2"):
        read()


# -- write ---------------------------------------------------------------------------------------------------


def test_rows_are_joined_with_what_is_stored(
    read: Read, write: Write, context: dict[str, Any], music: Path
) -> None:
    """In lists of any depth, with gaps of tasks that failed."""
    todo, plan = read()
    a, b = (bought(write(plan=plan), row, music) for row in todo)
    tracks = [[None, [record_of("a", a)]], [record_of("b", "of another music task")], "text"]

    with pytest.raises(AirflowFailException, match="1 of 2 rows have their tracks") as failed:
        write(plan=plan, tracks=tracks).execute(context)  # type: ignore[arg-type]

    rows = read_manifest_file(next(ObjectStoragePath((music / "manifests").as_uri()).glob("*.jsonl")))
    assert [(row.state, row.music_task_id) for row in rows] == [(STORED, a), (SUBMITTED, b)]
    assert "b (submitted)" in str(failed.value)


def test_enough_rows_update_the_outlets(
    read: Read, write: Write, context: dict[str, Any], music: Path
) -> None:
    """They get the summary and the destination."""
    todo, plan = read()
    a = bought(write(plan=plan), todo[0], music)
    asset = Asset("songs")

    summary = write(plan=plan, tracks=[record_of("a", a)], min_success=0.5, outlets=[asset]).execute(context)  # type: ignore[arg-type]

    assert (summary["stored"], summary["without_tracks"], summary["credits"]) == (1, 1, 15)
    assert context["outlet_events"][asset].extra == {**summary, "destination": music.as_uri()}


def test_too_few_rows_leave_the_summary(
    read: Read, write: Write, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """A failed task returns nothing, so it stands under a key of its own."""
    _, plan = read()

    with pytest.raises(AirflowFailException, match="0 of 2 rows"):
        write(plan=plan).execute(context)  # type: ignore[arg-type]

    summary = pushed(task_instance, "summary")
    assert (summary["stored"], summary["without_tracks"]) == (0, 2)
    assert Path(summary["manifest"].removeprefix("file://")).is_file()


@pytest.mark.parametrize("plan", ["[{'prompt_id': 'a'}]", None, [{"prompt_id": "a"}], 5])
def test_plan_that_is_none_is_named(write: Write, context: dict[str, Any], plan: Any) -> None:
    """Such as the text that a template makes of a list."""
    with pytest.raises(AirflowFailException, match="plan: must be the plan of a table"):
        write(plan=plan).execute(context)


def test_missing_plan_fails_for_good(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read task failed: no retry finds a plan, and the error names what is missing."""

    def not_found(*_: object) -> None:
        raise XComNotFound("songs", "read", "plan")

    monkeypatch.setattr(BaseOperator, "render_template_fields", not_found)

    with pytest.raises(AirflowFailException, match=r"no table to report on: .*plan"):
        write(plan=[]).render_template_fields({})  # type: ignore[typeddict-item]


def test_share_is_checked_when_the_dag_is_parsed(write: Write) -> None:
    """From 0 to 1."""
    with pytest.raises(ValueError, match="min_success must be a share"):
        write(plan=[], min_success=95)
