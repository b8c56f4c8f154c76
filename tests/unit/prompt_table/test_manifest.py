"""The manifest: a line a row, as JSON Lines and as Parquet, whatever the text."""

from __future__ import annotations

import json
import locale
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.prompt_table import Adopt, Resubmit, Row
from musicapi_provider.prompt_table.manifest import (
    manifest_name,
    read_manifest_file,
    tracks_of,
    write_manifest_file,
)
from musicapi_provider.storage import StoredTrack
from tests.states import STORED, UNKNOWN

TRACK = {"clip_id": "c1", "music_task_id": "t1", "title": "A", "uri": "file:///music/c1.mp3", "bytes": 5}


def row_of(prompt_id: str = "a", **known: Any) -> Row:
    """Return a stored row, read as a manifest has it."""
    entry: dict[str, Any] = {
        "prompt_id": prompt_id,
        "body": {"prompt": "La"},
        "fingerprint": "f",
        "state": STORED,
    }
    entry |= {"music_task_id": "t1", "submitted_at": "2026-01-02T03:04:05+00:00", "tracks": [TRACK]}
    entry |= {"error": None, "credits": 15.0, "lost_credits": 0.0, "price": 15.0, "paid_by": "run"}
    return Row.from_json({**entry, **known})


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStoragePath:
    """Return an empty folder as object storage."""
    return ObjectStoragePath(tmp_path.as_uri())


def test_file_has_a_json_line_per_row(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """The file lies below the folder, named after the run, one row a line."""
    rows = [row_of("a"), row_of("b")]
    uri = write_manifest_file(folder, manifest_name("manual__2026-01-02T03:04:05+00:00"), rows)
    (path,) = (tmp_path / "manifests").glob("manual__2026-01-02T03-04-05-00-00-*.jsonl")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    assert path.as_uri() == uri
    assert {datetime.fromisoformat(entry.pop("written_at")).tzinfo for entry in entries} == {UTC}
    assert [row.as_json(final=True) for row in rows] == entries


def test_parquet_has_the_same_rows(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """Types are those of a table: numbers, a list of tracks, a time; the body is JSON."""
    rows = [row_of("a"), row_of("b", state=UNKNOWN, credits=None, tracks=[], error="lost")]
    write_manifest_file(folder, "m", rows)
    one, other = pyarrow.parquet.read_table(tmp_path / "manifests" / "m.parquet").to_pylist()

    assert (one["prompt_id"], one["credits"], json.loads(one["body"])) == ("a", 15.0, {"prompt": "La"})
    assert {name: one["tracks"][0][name] for name in TRACK} == TRACK
    assert one["written_at"].tzinfo is not None
    assert (other["state"], other["credits"], other["tracks"], other["error"]) == (UNKNOWN, None, [], "lost")


def test_manifest_of_no_rows_can_be_read(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """An empty one has its columns all the same."""
    uri = write_manifest_file(folder, "m", [])

    assert read_manifest_file(ObjectStoragePath(uri)) == []
    assert "prompt_id" in pyarrow.parquet.read_table(tmp_path / "manifests" / "m.parquet").column_names


def test_manifest_of_a_run_that_goes_on_is_written_again(folder: ObjectStoragePath, tmp_path: Path) -> None:
    """It is put whole each time, and Parquet comes at the end."""
    write_manifest_file(folder, "m", [row_of("a", state=UNKNOWN)], final=False)
    unfinished = sorted(path.name for path in (tmp_path / "manifests").iterdir())
    uri = write_manifest_file(folder, "m", [row_of("a")])

    assert unfinished == ["m.jsonl"]
    assert [row.state for row in read_manifest_file(ObjectStoragePath(uri))] == [STORED]
    assert sorted(path.name for path in (tmp_path / "manifests").iterdir()) == ["m.jsonl", "m.parquet"]


@pytest.mark.parametrize(("one", "other"), [("é", "è"), ("r" * 250 + "1", "r" * 250 + "2"), ('a", "b', "a")])
def test_every_run_has_a_name_of_its_own(one: str, other: str) -> None:
    """Run ids that look alike once cleaned or cut must not overwrite each other's manifest."""
    assert manifest_name(one) != manifest_name(other)


def test_tries_of_a_run_share_a_name_and_tasks_do_not() -> None:
    """A manifest per run and task: a retry replaces what its killed try has left."""
    names = [manifest_name("run", *whose) for whose in [("dag", "a"), ("dag", "b"), ("other", "a")]]

    assert manifest_name("run", "dag", "a") == names[0]
    assert len(set(names)) == 3


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b", "a\\b", "ä b", ""])
def test_run_id_never_leaves_the_folder(folder: ObjectStoragePath, tmp_path: Path, run_id: str) -> None:
    """Run ids are free text; file names are not."""
    write_manifest_file(folder, manifest_name(run_id), [], final=False)

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
def test_any_text_comes_back_in_any_locale(folder: ObjectStoragePath, tmp_path: Path, text: str) -> None:
    """The manifest is written after everything is paid for: no text and no locale may break it."""
    row = row_of(text, body={"prompt": text}, error=text, tracks=[{**TRACK, "title": text}])
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        uri = write_manifest_file(folder, "m", [row])
        (read,) = read_manifest_file(ObjectStoragePath(uri))
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    (line,) = pyarrow.parquet.read_table(tmp_path / "manifests" / "m.parquet").to_pylist()

    assert row == read
    assert json.loads(line["body"]) == {"prompt": text}
    assert line["tracks"][0]["title"] == text.replace("\ud83c", "\ufffd")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"no JSON {\n", "1 is no JSON", id="no-json"),
        pytest.param(b"[1, 2]\n", "1 is no entry", id="list"),
        pytest.param(b'{"prompt_id": "a"}\n', "1 is no entry", id="half-an-entry"),
        pytest.param(b"\xff\xfe\n", "1 is no JSON", id="no-text"),
    ],
)
def test_unreadable_manifest_is_an_error(
    folder: ObjectStoragePath, tmp_path: Path, content: bytes, words: str
) -> None:
    """The place is named; nothing is guessed."""
    (tmp_path / "m.jsonl").write_bytes(content)

    with pytest.raises(MusicAPIStorageError, match=f"m.jsonl:{words}"):
        read_manifest_file(folder / "m.jsonl")


def test_missing_manifest_is_an_error(folder: ObjectStoragePath) -> None:
    """The text names it."""
    with pytest.raises(MusicAPIStorageError, match=r"no manifest at .*m\.jsonl"):
        read_manifest_file(folder / "m.jsonl")


def test_tracks_are_rows_for_a_database() -> None:
    """Each stored track with the name of its row."""
    assert tracks_of([row_of("a"), row_of("b", tracks=[])]) == [
        StoredTrack.from_json({**TRACK, "prompt_id": "a"})
    ]


def test_tracks_hold_only_text_that_databases_take() -> None:
    """Postgres refuses NUL, and every driver half a surrogate pair: a title must not keep a row out."""
    (track,) = tracks_of([row_of(tracks=[{**TRACK, "title": "A\0B\ud83c 🎵"}])])

    assert track == StoredTrack.from_json({**TRACK, "title": "A\ufffdB\ufffd 🎵", "prompt_id": "a"})


def test_manifest_of_a_run_that_goes_on_has_its_decisions(folder: ObjectStoragePath) -> None:
    """Whoever resumes has all of a row; a final manifest is not taken for one of a run that goes on."""
    rows = [row_of("a", decision="t9"), row_of("b", state=UNKNOWN, decision="resubmit", retryable=True)]
    uri = write_manifest_file(folder, "m", rows, final=False)
    read = read_manifest_file(ObjectStoragePath(uri), unfinished=True)
    final = ObjectStoragePath(write_manifest_file(folder, "m", rows))

    assert read == rows
    assert [row.decision for row in read] == [Adopt("t9"), Resubmit()]
    with pytest.raises(MusicAPIStorageError, match=r"m\.jsonl is final"):
        read_manifest_file(final, unfinished=True)


@pytest.mark.parametrize("tracks", [None, 7, {}, "a"])
def test_a_row_without_a_list_of_tracks_is_none(tracks: object) -> None:
    """Said as what it is, so that whoever reads a damaged manifest can go on by the records."""
    with pytest.raises(ValueError, match="no entry"):
        Row.from_json({"prompt_id": "p", "state": "stored", "tracks": tracks})
