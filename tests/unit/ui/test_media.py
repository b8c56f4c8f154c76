"""Audio and covers: whole, in ranges, from local folders and S3; and nothing else, whatever is asked for."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from musicapi_provider.links import xcoms
from musicapi_provider.links.pages import folder_key, media_path
from musicapi_provider.storage.index import COLUMNS, INDEX
from musicapi_provider.ui import access, responses
from tests.unit.ui.picky_auth_manager import READABLE

if TYPE_CHECKING:
    from tests.s3 import S3Bucket
    from tests.unit.api_server import Answer, Server

Store = Callable[..., list[dict[str, Any]]]
NOT_FOUND = (404, b'{"detail":"Not Found"}')


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, music: str) -> str:
    """Return a local folder, and one on S3."""
    return music if request.param == "local" else request.getfixturevalue("s3_bucket").uri


def content_of(folder: str, name: str, request: pytest.FixtureRequest) -> bytes:
    """Return a stored file's content, read without our code."""
    if folder.startswith("file://"):
        return (Path(folder.removeprefix("file://")) / name).read_bytes()
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return bytes(bucket.client.get_object(Bucket=bucket.name, Key=f"music/{name}")["Body"].read())


def seen(answer: Answer) -> tuple[int, bytes]:
    """Return what a browser can tell answers apart by."""
    return answer.status, answer.body


# -- what is served ------------------------------------------------------------------------------------------


def test_audio_and_cover_are_served_as_they_are_stored(
    server: Server, store: Store, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, whole, with a content type of our choosing, and as nothing that could act as a page."""
    monkeypatch.setattr(responses, "PIECE", 1000)
    record, _ = store(place)
    clip_id = record["clip_id"]
    audio, cover = (server.ask(media_path(place, clip_id, kind)) for kind in ("audio", "cover"))

    assert (audio.status, cover.status) == (200, 200)
    assert audio.body == content_of(place, f"{clip_id}.mp3", request)
    assert cover.body == content_of(place, f"{clip_id}.jpeg", request)
    assert (audio.headers["content-type"], cover.headers["content-type"]) == ("audio/mpeg", "image/jpeg")
    assert audio.headers["content-disposition"] == f'inline; filename="{clip_id}.mp3"'
    assert audio.headers["content-length"] == str(record["bytes"])
    assert audio.headers["x-content-type-options"] == "nosniff"
    assert audio.headers["content-security-policy"].startswith("default-src 'none';")
    assert audio.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param("bytes=0-", slice(0, None), id="from the beginning"),
        pytest.param("bytes=100-199", slice(100, 200), id="in the middle"),
        pytest.param("bytes=100-99999999", slice(100, None), id="beyond the end"),
        pytest.param("bytes=-10", slice(-10, None), id="the end"),
        pytest.param("bytes=-99999999", slice(0, None), id="more than there is, from the end"),
    ],
)
def test_a_browser_can_seek(
    server: Server,
    store: Store,
    place: str,
    request: pytest.FixtureRequest,
    wanted: str,
    expected: slice,
) -> None:
    """A range is answered with exactly its bytes."""
    record, _ = store(place)
    whole = content_of(place, f"{record['clip_id']}.mp3", request)
    answer = server.ask(media_path(place, record["clip_id"], "audio"), Range=wanted)
    start, stop, _ = expected.indices(len(whole))

    assert (answer.status, answer.body) == (206, whole[expected])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-4",
        "bytes=-",
        "bytes=0-1,5-6",
        "bytes=x-",
        "seconds=1-2",
        f"bytes={'9' * 5000}-",
        "bytes=1-2 ",
    ],
)
def test_what_is_no_single_range_gets_the_whole_file(
    server: Server, store: Store, music: str, wanted: str
) -> None:
    """As HTTP allows."""
    record, _ = store(music)
    answer = server.ask(media_path(music, record["clip_id"], "audio"), Range=wanted)

    assert (answer.status, len(answer.body)) in {(200, record["bytes"]), (206, 2)}
    assert "content-range" not in answer.headers or wanted == "bytes=1-2 "


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_range_of_nothing_is_refused(server: Server, store: Store, music: str, wanted: str) -> None:
    """With the size, so that the browser can ask anew."""
    record, _ = store(music)
    answer = server.ask(media_path(music, record["clip_id"], "audio"), Range=wanted)

    assert seen(answer) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{record['bytes']}"


def test_head_tells_the_size_only(server: Server, store: Store, place: str) -> None:
    """Without reading the file."""
    record, _ = store(place)
    answer = server.ask(media_path(place, record["clip_id"], "audio"), method="HEAD")

    assert seen(answer) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == (
        str(record["bytes"]),
        "bytes",
    )


def test_what_the_browser_has_is_not_sent_again(server: Server, store: Store, place: str) -> None:
    """It asks each time, so a login that has ended, or a right that is taken away, counts at once."""
    record, _ = store(place)
    path = media_path(place, record["clip_id"], "cover")
    tag = server.ask(path).headers["etag"]
    again = server.ask(path, If_None_Match=tag)
    part = server.ask(path, Range="bytes=0-9", If_Range=tag)
    other = server.ask(path, Range="bytes=0-9", If_Range='"another"')

    assert seen(again) == (304, b"")
    assert server.ask(path, If_None_Match=tag, user=None).status == 401
    assert (part.status, other.status) == (206, 200)


def test_a_page_of_covers_looks_for_the_folders_once(
    server: Server, store: Store, music: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again at once for what is new: another folder, another DAG in a folder that is known."""
    looks: list[int] = []
    genuine = access.destinations

    def destinations() -> dict[str, set[str]]:
        looks.append(1)
        return genuine()

    monkeypatch.setattr(access, "destinations", destinations)
    records = store(music)
    paths = [media_path(music, record["clip_id"], kind) for record in records for kind in ("audio", "cover")]
    first = [server.ask(path).status for path in paths]
    looked = len(looks)
    other = f"file://{tmp_path}/other"
    new = [(music, store(music, dag_id="jingles")[0]), (other, store(other)[0])]

    assert (first, looked <= 2) == ([200] * 4, True)
    assert [server.ask(media_path(uri, track["clip_id"], "audio")).status for uri, track in new] == [200, 200]


# -- for whom ------------------------------------------------------------------------------------------------


def test_files_of_dags_that_a_user_may_not_read_are_not_there(
    server: Server, store: Store, tmp_path: Path
) -> None:
    """Neither in a folder of another DAG nor in one that is shared; the answer is that for what never was."""
    shared, other = f"file://{tmp_path}/shared", f"file://{tmp_path}/other"
    mine, _ = store(shared, dag_id=READABLE)
    theirs = [(shared, store(shared, dag_id="secret")[0]), (other, store(other, dag_id="secret")[0])]
    paths = [media_path(folder, track["clip_id"], "audio") for folder, track in theirs]
    never = media_path(shared, "never-was", "audio")

    assert server.ask(media_path(shared, mine["clip_id"], "audio"), user="reader").status == 200
    assert {seen(server.ask(path, user="reader")) for path in (*paths, never)} == {NOT_FOUND}
    assert {server.ask(path).status for path in paths} == {200}


def test_a_folder_that_no_task_has_stored_to_is_not_served(
    server: Server, store: Store, leave: Callable[..., None], tmp_path: Path
) -> None:
    """Whatever lies in it; and a DAG that has stored to it opens it for its own tracks only."""
    folder = f"file://{tmp_path}/music"
    record, _ = store(folder, dag_id="secret")
    moved = f"file://{tmp_path}/moved"
    (tmp_path / "music").rename(tmp_path / "moved")
    path = media_path(moved, record["clip_id"], "audio")
    unknown = seen(server.ask(path))
    leave(xcoms.DESTINATION, moved, dag_id="songs")

    assert unknown == NOT_FOUND
    assert seen(server.ask(path)) == NOT_FOUND


# -- path tricks ---------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file beside the folder, which nobody may get."""
    path = tmp_path / "secret.mp3"
    path.write_bytes(b"ID3 secret")
    return path


@pytest.mark.parametrize(
    "clip_id",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "%2e%2e/secret",
        "..%5csecret",
        "....//secret",
        "%00",
        "clip%00.mp3",
        "..",
        ".",
        "",
        "index.csv",
        "purchases",
        "{absolute}",
        "file:%2f%2f{absolute}",
    ],
)
def test_no_path_leads_out_of_the_index(
    server: Server, store: Store, music: str, secret: Path, clip_id: str
) -> None:
    """What is served are clips of the index: what looks like a path names none."""
    record, _ = store(music)
    named = clip_id.format(absolute=quote(str(secret.with_suffix("")), safe=""))
    folder = f"/musicapi/media/{folder_key(music)}"
    kinds = ("audio", "cover", "file", "json", "..", "audio/..", "audio%2f..", "..%2faudio")
    paths = [f"{folder}/{named}/{kind}" for kind in kinds]
    paths += [f"{folder}/{record['clip_id']}/{kind}" for kind in kinds[2:]]

    assert {seen(server.ask(path)) for path in paths} == {NOT_FOUND}


def tamper(music: str, clip_id: str, /, **cells: Any) -> None:
    """Change a row of the index, as somebody with access to the folder could."""
    path = Path(music.removeprefix("file://")) / INDEX
    heading, *rows = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    changed = [row | cells if row["clip_id"] == clip_id else row for row in found]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([heading, *([row[name] for name in COLUMNS] for row in changed)])
    path.write_bytes(text.getvalue().encode("utf-8-sig"))


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param({"file": "../secret.mp3"}, id="parent"),
        pytest.param({"file": "{absolute}"}, id="absolute"),
        pytest.param({"file": "clip.json"}, id="another suffix"),
        pytest.param({"file": "{other}"}, id="another clip's"),
        pytest.param({"file": ""}, id="none"),
        pytest.param({"clip_id": "../secret", "file": "../secret.mp3"}, id="a path as clip"),
        pytest.param({"clip_id": "{absolute_stem}", "file": "{absolute}"}, id="an absolute path as clip"),
        pytest.param({"cover": "../secret.mp3"}, id="cover"),
        pytest.param({"cover": "{other_cover}"}, id="another clip's cover"),
    ],
)
def test_an_index_that_was_tampered_with_opens_no_other_file(
    server: Server, store: Store, music: str, secret: Path, cells: dict[str, str]
) -> None:
    """A row has the file that its clip id names, or none."""
    first, second = store(music)
    filled = {
        "absolute": secret,
        "absolute_stem": secret.with_suffix(""),
        "other": Path(second["uri"]).name,
        "other_cover": Path(second["cover_uri"]).name,
    }
    cells = {name: value.format_map(filled) for name, value in cells.items()}
    tamper(music, first["clip_id"], **cells)
    listed = server.ask("/musicapi/tracks").json
    ids = {first["clip_id"], quote(cells.get("clip_id", ""), safe="")}
    kind = "cover" if "cover" in cells else "audio"
    answers = [server.ask(f"/musicapi/media/{folder_key(music)}/{id_}/{kind}") for id_ in ids]

    assert {seen(answer) for answer in answers} == {NOT_FOUND}
    assert listed["total_entries"] == (2 if "cover" in cells else 1)


def test_numbers_that_are_none_do_not_break_the_list(server: Server, store: Store, music: str) -> None:
    """JSON knows no infinity."""
    record, _ = store(music)
    tamper(music, record["clip_id"], duration="inf", credits="nan")
    listed = server.ask("/musicapi/tracks").json["tracks"]

    assert sorted((track["duration"] is None, track["credits"]) for track in listed) == [
        (False, 15),
        (True, None),
    ]


def _link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, _: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("replace", [_link, _pipe, _folder])
def test_only_regular_files_are_served(
    server: Server, store: Store, music: str, secret: Path, replace: Callable[[Path, Path], None]
) -> None:
    """A link may lead anywhere, and a pipe would keep a thread waiting for ever."""
    record, _ = store(music)
    path = Path(music.removeprefix("file://")) / f"{record['clip_id']}.mp3"
    path.unlink()
    replace(path, secret)

    assert seen(server.ask(media_path(music, record["clip_id"], "audio"))) == NOT_FOUND


@pytest.mark.parametrize("replace", [_link, _pipe, _folder])
def test_an_index_that_is_no_regular_file_is_none(
    server: Server, store: Store, music: str, secret: Path, replace: Callable[[Path, Path], None]
) -> None:
    """It is looked at first, so it counts even more."""
    store(music)
    path = Path(music.removeprefix("file://")) / INDEX
    path.rename(secret)
    replace(path, secret)

    assert server.ask("/musicapi/tracks").json["tracks"] == []


def test_a_file_that_is_gone_is_not_found(server: Server, store: Store, place: str) -> None:
    """Though the index still knows it."""
    from airflow.sdk import ObjectStoragePath

    record, _ = store(place)
    (ObjectStoragePath(place) / f"{record['clip_id']}.mp3").unlink()

    assert seen(server.ask(media_path(place, record["clip_id"], "audio"))) == NOT_FOUND


def test_a_storage_that_does_not_answer_is_no_missing_file(
    server: Server, store: Store, music: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says so, without a path; the log knows more."""
    record, _ = store(music)
    server.ask("/musicapi/tracks")
    monkeypatch.setattr(os, "open", _refuse)
    answer = server.ask(media_path(music, record["clip_id"], "audio"))

    assert answer.status == 502
    assert "does not answer" in answer.json["detail"]
    assert b"/" not in answer.body


def _refuse(*_: Any) -> int:
    raise PermissionError(13, "/some/path")
