"""The index beside the tracks: complete, cheap to keep, safe to open."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.storage import index as track_index
from musicapi_provider.storage.index import COLUMNS, INDEX, read_index, update_index
from musicapi_provider.storage.partial import Leftovers, PartFile
from tests.s3 import s3_bucket

__all__ = ["s3_bucket"]


ABOUT = {"body": {"prompt": "La la"}, "credits": 15, "dag_id": "songs", "run_id": "manual__1"}


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., None]:
    """Return a function that puts a track with its sidecar into the folder."""

    def put(clip_id: str, *, cover: bool = False, about: Any = None, **changes: Any) -> None:
        (tmp_path / f"{clip_id}.mp3").write_bytes(b"ID3")
        sidecar = {
            "clip_id": clip_id,
            "music_task_id": "task-1",
            "title": "Rain",
            "prompt_id": "row-7",
            "duration": 61.5,
            "uri": f"s3://a@b/music/{clip_id}.mp3",
            "stored_at": "2026-11-25T12:00:00+00:00",
            "about": about or ABOUT,
            **changes,
        }
        if cover:
            (tmp_path / f"{clip_id}.jpeg").write_bytes(b"\xff\xd8\xff")
            sidecar["cover_uri"] = f"s3://a@b/music/{clip_id}.jpeg"
        (tmp_path / f"{clip_id}.json").write_text(json.dumps(sidecar))

    return put


@pytest.fixture
def update(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """Return a function that updates the index and returns its rows."""

    def rows(**arguments: Any) -> list[dict[str, str]]:
        update_index(ObjectStoragePath(f"file://{tmp_path}"), **arguments)
        text = (tmp_path / INDEX).read_bytes().decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    return rows


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of all files whose content is asked for."""
    names: list[str] = []
    genuine = track_index.contents_of

    def contents_of(folder: ObjectStoragePath, wanted: Any) -> dict[str, bytes]:
        wanted = list(wanted)
        names.extend(wanted)
        return genuine(folder, wanted)

    monkeypatch.setattr(track_index, "contents_of", contents_of)
    return names


def test_index_holds_a_row_for_each_track(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """Oldest first, with the mark by which a spreadsheet knows UTF-8."""
    add("b", stored_at="2026-11-25T13:00:00+00:00", title='Grüße, 東京\nund "mehr"', cover=True)
    add("a")
    first, second = update()

    assert first == {
        "title": "Rain",
        "prompt_id": "row-7",
        "duration": "61.5",
        "credits": "15",
        "file": "a.mp3",
        "cover": "",
        "music_task_id": "task-1",
        "clip_id": "a",
        "stored_at": "2026-11-25T12:00:00+00:00",
        "dag_id": "songs",
        "run_id": "manual__1",
        "picked_by": "",
        "prompt": "La la",
    }
    assert second["title"] == 'Grüße, 東京\nund "mehr"'
    assert (second["file"], second["cover"]) == ("b.mp3", "b.jpeg")
    assert (tmp_path / INDEX).read_bytes().startswith(b"\xef\xbb\xbftitle,")


def test_empty_folder_has_an_empty_index(update: Callable[..., list[dict[str, str]]]) -> None:
    """Only the headings."""
    assert update() == []


def test_only_new_sidecars_are_read(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], reads: list[str]
) -> None:
    """The index itself is the cache of the others."""
    add("a")
    update()
    add("b")
    reads.clear()
    rows = update()

    assert reads == [INDEX, "b.json", INDEX]  # and once more, for what others have written meanwhile
    assert [row["clip_id"] for row in rows] == ["a", "b"]


def test_index_that_is_up_to_date_is_not_written(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """Object storages bill writes."""
    add("a")
    update()
    before = (tmp_path / INDEX).stat()
    update()

    assert (tmp_path / INDEX).stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / INDEX).stat().st_ino == before.st_ino


@pytest.mark.parametrize("gone", ["a.json", "a.mp3"])
def test_row_of_a_removed_track_goes(
    gone: str, add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """What is not complete is not listed."""
    add("a")
    add("b")
    update()
    (tmp_path / gone).unlink()

    assert [row["clip_id"] for row in update()] == ["b"]


def test_row_is_renewed_when_a_cover_comes_or_goes(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """Another run may have added it; the listing tells."""
    add("a")
    bare = update()[0]["cover"]
    add("a", cover=True)
    covered = update()[0]["cover"]
    (tmp_path / "a.jpeg").unlink()

    assert [bare, covered, update()[0]["cover"]] == ["", "a.jpeg", ""]


def test_row_of_a_rewritten_sidecar_is_renewed(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], reads: list[str]
) -> None:
    """The store knows which it has written; one that has written a thousand reads each once."""
    add("a")
    update()
    add("a", title="Snow")
    reads.clear()
    (row,) = update(rewritten={"a"})

    assert row["title"] == "Snow"
    assert reads == [INDEX, "a.json", INDEX]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"title,clip_id\r\nx,y\r\n",
        ",".join(COLUMNS).encode() + b"\r\nshort\r\n",
        b'"' + b"x" * 200_000,
    ],
    ids=["empty", "no text", "other columns", "short row", "huge cell"],
)
def test_damaged_index_is_made_anew(
    content: bytes, add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """It is a cache, nothing is lost with it."""
    add("a")
    (tmp_path / INDEX).write_bytes(content)

    assert [row["clip_id"] for row in update()] == ["a"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '"text"', '{"clip_id": "other", "uri": "x.mp3"}', '{"uri": 5, "clip_id": "notes"}'],
)
def test_other_json_files_have_no_row(
    content: str, add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """A folder may hold more than tracks."""
    add("a")
    (tmp_path / "notes.json").write_text(content)

    assert [row["clip_id"] for row in update()] == ["a"]


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "\rx"], ids=repr)
def test_text_is_no_formula(
    text: str, add: Callable[..., None], update: Callable[..., list[dict[str, str]]]
) -> None:
    """A title from a server, a prompt from a table: no spreadsheet shall run them, now or after a rewrite."""
    add("a", title=text, prompt_id=text, about={"prompt": text})
    (once,) = update()
    add("b")
    twice = update()[0]

    assert once == twice
    assert {f"'{text}"} == {once[name] for name in ("title", "prompt_id", "prompt")}


@pytest.mark.parametrize(
    "text", ["=1", "'=1", "''@x", "'Round Midnight", "-", "plain", "'", "", "\n=1", 'a,"b"\r\nc'], ids=repr
)
def test_text_is_read_back_as_it_was(
    text: str, add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """The tracks page shows titles and prompts, not what a spreadsheet needs."""
    add("a", title=text, about={"prompt": text or None})
    update()
    (row,) = read_index((tmp_path / INDEX).read_bytes())

    assert (row.title, row.prompt) == (text, text)


@pytest.mark.parametrize(
    "content", [b"", b"title\r\nRain\r\n", b"\xff\xfe"], ids=["empty", "other", "no text"]
)
def test_index_of_another_version_has_no_rows_to_read(content: bytes) -> None:
    """Its writer makes it anew; until then nothing is shown, and nothing wrong."""
    assert read_index(content) == []


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStoragePath:
    """Return an empty folder of either kind."""
    uri = f"file://{tmp_path}" if request.param == "local" else request.getfixturevalue("s3_bucket").uri
    return ObjectStoragePath(uri)


def store_in(folder: ObjectStoragePath, clip: str) -> None:
    """Store a track as it is done: the sidecar last, then the index."""
    (folder / f"{clip}.mp3").write_bytes(b"ID3")
    sidecar = {"clip_id": clip, "uri": f"{folder}/{clip}.mp3", "stored_at": "2026", "about": ABOUT}
    (folder / f"{clip}.json").write_text(json.dumps(sidecar))
    update_index(folder, {clip})


def clips_in(folder: ObjectStoragePath) -> list[str]:
    """Return the clip ids of the index, in its order."""
    return [row.clip_id for row in read_index((folder / INDEX).read_bytes())]


def test_writers_at_once_lose_no_row(folder: ObjectStoragePath) -> None:
    """Mapped tasks store at the same time; whoever writes last has seen what all others stored."""
    writers, each = 8, 2
    barrier = threading.Barrier(writers)

    def store(writer: int) -> None:
        barrier.wait()
        for number in range(each):
            store_in(folder, f"clip{writer}{number}")

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(store, range(writers)))

    assert clips_in(folder) == [
        f"clip{writer}{number}" for writer in range(writers) for number in range(each)
    ]


def test_a_writer_that_was_overtaken_looks_again(
    folder: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one stores and writes between its listing and its writing; neither row is lost."""
    genuine = track_index.put
    overtaking = iter(["second"])

    def put(path: ObjectStoragePath, content: bytes) -> None:
        for clip in overtaking:
            store_in(folder, clip)
        genuine(path, content)

    monkeypatch.setattr(track_index, "put", put)
    store_in(folder, "first")

    assert clips_in(folder) == ["first", "second"]


def test_a_writer_whose_file_another_one_has_cleaned_up_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is on its way looks like what a killed writer has left."""
    folder, genuine = ObjectStoragePath(f"file://{tmp_path}"), PartFile.move_to
    cleaners = iter([Leftovers(folder)])

    def move_to(part: Any, final: ObjectStoragePath) -> None:
        for leftovers in cleaners:
            leftovers.remove()
        genuine(part, final)

    monkeypatch.setattr(PartFile, "move_to", move_to)
    store_in(folder, "first")

    assert clips_in(folder) == ["first"]


def test_a_writer_that_is_overtaken_again_and_again_ends(
    folder: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever overtakes it looks again as well; a paid task must not go round for ever."""
    genuine = track_index.put

    def put(path: ObjectStoragePath, content: bytes) -> None:
        genuine(path, content)
        genuine(path, b"of another version")

    monkeypatch.setattr(track_index, "put", put)
    store_in(folder, "first")

    assert "Others keep writing" in caplog.text


def test_long_prompt_is_cut(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], reads: list[str]
) -> None:
    """A spreadsheet takes no longer cell; the sidecar has it whole. It is still a row to be read again."""
    add("a", about={"prompt": "x" * 200_000})
    update()
    reads.clear()
    (row,) = update()

    assert len(row["prompt"]) == 32_000
    assert reads == [INDEX]


def test_killed_writer_leaves_the_old_index_and_is_cleaned_up_after(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """What it left in ``.incomplete`` goes at the next update."""
    add("a")
    (tmp_path / ".incomplete").mkdir()
    (tmp_path / ".incomplete" / f"{INDEX}.0123456789ab.part").write_text("half")
    update()

    assert not list((tmp_path / ".incomplete").iterdir())


def test_update_of_a_large_index_reads_what_is_new(
    add: Callable[..., None], update: Callable[..., list[dict[str, str]]], tmp_path: Path, reads: list[str]
) -> None:
    """2,000 sidecars, ten of them new: ten are read, and the index twice."""
    add("sample", about={"prompt": "x" * 300})
    sidecar = (tmp_path / "sample.json").read_text()
    for number in range(2_000):
        (tmp_path / f"c{number}.mp3").touch()
        (tmp_path / f"c{number}.json").write_text(sidecar.replace("sample", f"c{number}"))
    update()
    for number in range(10):
        add(f"new{number}")
    reads.clear()
    update_index(ObjectStoragePath(f"file://{tmp_path}"))

    assert len(reads) == 12
