"""The list of tracks: what is in it, for whom, and what filters leave of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from musicapi_provider.links import xcoms
from musicapi_provider.ui import track_list
from musicapi_provider.ui.app import app, library
from tests.s3 import connection_json
from tests.unit.ui.conftest import RUN
from tests.unit.ui.picky_auth_manager import READABLE, WITHOUT_XCOM, XCOM_ONLY

if TYPE_CHECKING:
    from tests.s3 import S3Bucket
    from tests.unit.api_server import Server

NOTHING = {"tracks": [], "total_entries": 0, "dag_ids": [], "unread_folders": 0, "older_folders": 0}
Store = Callable[..., list[dict[str, Any]]]


def titles(answer: dict[str, Any]) -> list[str]:
    """Return the titles of both takes once."""
    return [track["title"] for track in answer["tracks"][::2]]


# -- login ---------------------------------------------------------------------------------------------------


def test_no_route_answers_without_a_login(server: Server) -> None:
    """Each route that there is, and what is none: also documentation, which FastAPI would add by itself."""
    routes = [(route.path, method) for route in app.routes for method in route.methods]  # type: ignore[attr-defined]
    paths = [(re.sub("{[^}]*}", "x", path), method) for path, method in routes]
    paths += [
        (path, "GET") for path in ("/docs", "/redoc", "/openapi.json", "/", "/tracks/", "/tracks?limit=x")
    ]
    found = {
        (path, method): server.ask(f"/musicapi{path}", user=None, method=method) for path, method in paths
    }

    assert len(routes) > 10
    assert {answer.status for answer in found.values()} == {401}
    assert {answer.body for answer in found.values()} <= {b'{"detail":"Not authenticated"}', b""}


def test_a_made_up_login_is_none(server: Server) -> None:
    """A token that Airflow has not signed."""
    server.tokens["nobody"] = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."

    assert server.ask("/musicapi/tracks", user="nobody").status == 403


def test_what_is_not_there_is_told_to_those_who_have_a_login(server: Server) -> None:
    """With any method."""
    answers = [server.ask("/musicapi/nothing", method=method) for method in ("GET", "POST", "DELETE")]

    assert [answer.status for answer in answers] == [404] * 3


# -- what is in it -------------------------------------------------------------------------------------------


def test_without_tracks_the_list_is_empty(server: Server, leave: Callable[..., None], music: str) -> None:
    """Also when a task has said where it will store, and has not begun."""
    before = server.ask("/musicapi/tracks").json
    Path(music.removeprefix("file://")).mkdir()
    leave(xcoms.DESTINATION, music)

    assert before == NOTHING
    assert server.ask("/musicapi/tracks").json == {**NOTHING, "dag_ids": ["songs"]}


def test_a_track_tells_what_it_is_and_where_it_is_served(server: Server, store: Store, music: str) -> None:
    """Not where it is stored."""
    first, _ = store(music, title="Rain", prompt_id="row-7", picked_by="Ada")
    listed = server.ask("/musicapi/tracks").json
    (track,) = [one for one in listed["tracks"] if one["clip_id"] == first["clip_id"]]
    stored_at, folder_key = track.pop("stored_at"), track["audio"].split("/")[2]

    assert track == {
        "clip_id": first["clip_id"],
        "music_task_id": first["music_task_id"],
        "title": "Rain",
        "prompt": "A song called Rain",
        "prompt_id": "row-7",
        "dag_id": "songs",
        "run_id": RUN,
        "picked_by": "Ada",
        "duration": first["duration"],
        "credits": 15,
        "audio": f"musicapi/media/{folder_key}/{first['clip_id']}/audio",
        "cover": f"musicapi/media/{folder_key}/{first['clip_id']}/cover",
    }
    assert stored_at.startswith("20")
    assert listed["total_entries"] == 2
    assert music not in str(listed)


def test_newest_tracks_come_first_whichever_folder_they_are_in(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's own order does not matter."""
    for number, folder in enumerate("abab"):
        _at_hour(number, monkeypatch)
        store(f"file://{tmp_path}/{folder}", title=f"Song {number}")

    assert titles(server.ask("/musicapi/tracks").json) == ["Song 3", "Song 2", "Song 1", "Song 0"]


def _at_hour(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is stored now be stored at that hour."""
    import datetime

    from musicapi_provider.storage import tracks

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(2026, 11, 27, number, tzinfo=tz)

    monkeypatch.setattr(tracks, "datetime", Clock)


def test_a_new_track_appears_and_one_that_is_removed_goes(server: Server, store: Store, music: str) -> None:
    """The list follows the folder without a restart."""
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.storage import remove_track

    store(music, title="Rain")
    server.ask("/musicapi/tracks")
    gone, kept = store(music, title="Snow")
    with_both = server.ask("/musicapi/tracks").json
    remove_track(ObjectStoragePath(music), gone["clip_id"])
    with_one = server.ask("/musicapi/tracks?text=snow").json

    assert with_both["total_entries"] == 4
    assert [track["clip_id"] for track in with_one["tracks"]] == [kept["clip_id"]]


HTML = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("title", [HTML, '=HYPERLINK("x")', "'=1", "Grüße, 東京 🎵", 'a "quote", and\nlines'])
def test_texts_arrive_as_they_are(server: Server, store: Store, music: str, title: str) -> None:
    """As data of a JSON answer, which no browser takes for a page; the index's own escape is undone."""
    store(music, title=title)
    answer = server.ask("/musicapi/tracks")

    assert titles(answer.json) == [title]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_tracks_on_s3_are_listed(server: Server, store: Store, s3_bucket: S3Bucket) -> None:
    """By the connection in the folder's URI, in the API server's process."""
    store(s3_bucket.uri, title="Cloud")
    listed = server.ask("/musicapi/tracks").json
    store(s3_bucket.uri, title="Fog")

    assert titles(listed) == ["Cloud"]
    assert server.ask("/musicapi/tracks").json["total_entries"] == 4


# -- filters -------------------------------------------------------------------------------------------------


@pytest.fixture
def three_songs(store: Store, music: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store three songs of two DAGs and three runs in one folder."""
    songs = (("Rain", "songs", "run 1"), ("Snow", "songs", "run 2"), ("Straße", "jingles", "run 3"))
    for number, (title, dag_id, run_id) in enumerate(songs):
        _at_hour(number, monkeypatch)
        store(music, title=title, dag_id=dag_id, run_id=run_id, prompt_id=f"row-{number}")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("", ["Straße", "Snow", "Rain"], id="none"),
        pytest.param("dag_id=&run_id=&text=", ["Straße", "Snow", "Rain"], id="empty"),
        pytest.param("dag_id=songs", ["Snow", "Rain"], id="dag"),
        pytest.param("dag_id=song", [], id="part of a dag"),
        pytest.param("dag_id=songs&run_id=run+1", ["Rain"], id="run"),
        pytest.param("run_id=run+3", ["Straße"], id="run alone"),
        pytest.param("text=rAI", ["Rain"], id="title in any case"),
        pytest.param(f"text={quote('STRASSE')}", ["Straße"], id="folded case"),
        pytest.param("text=called+snow", ["Snow"], id="prompt"),
        pytest.param("text=row-2", ["Straße"], id="prompt_id"),
        pytest.param("text=run+1", [], id="text is not sought elsewhere"),
        pytest.param("text=%25", [], id="no wildcards"),
    ],
)
def test_filters(three_songs: None, server: Server, query: str, expected: list[str]) -> None:
    """Each narrows the list; the choice of DAGs stays whole."""
    listed = server.ask(f"/musicapi/tracks?{query}").json

    assert titles(listed) == expected
    assert listed["total_entries"] == 2 * len(expected)
    assert listed["dag_ids"] == ["jingles", "songs"]


def test_pages_follow_each_other(three_songs: None, server: Server) -> None:
    """No track twice, none left out."""
    whole = server.ask("/musicapi/tracks").json["tracks"]
    pages = [server.ask(f"/musicapi/tracks?limit=4&offset={offset}").json for offset in (0, 4, 8)]

    assert [page["total_entries"] for page in pages] == [6, 6, 6]
    assert pages[0]["tracks"] + pages[1]["tracks"] == whole
    assert pages[2]["tracks"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "offset=-1"])
def test_odd_pages_are_refused(server: Server, query: str) -> None:
    """A page has a size that the server can bear."""
    assert server.ask(f"/musicapi/tracks?{query}").status == 422


# -- for whom ------------------------------------------------------------------------------------------------


def test_a_user_sees_only_tracks_of_dags_that_they_may_read(
    server: Server, store: Store, tmp_path: Path
) -> None:
    """Folders of other DAGs are left out, and so are rows of other DAGs in a folder that is shared."""
    store(f"file://{tmp_path}/shared", dag_id=READABLE, title="Mine")
    store(f"file://{tmp_path}/shared", dag_id="secret", title="Theirs")
    store(f"file://{tmp_path}/other", dag_id="secret", title="Theirs, too")
    listed = server.ask("/musicapi/tracks", user="reader").json

    assert (titles(listed), listed["total_entries"], listed["dag_ids"]) == (["Mine"], 2, [READABLE])
    assert server.ask("/musicapi/tracks?dag_id=secret", user="reader").json["tracks"] == []
    assert server.ask("/musicapi/tracks").json["total_entries"] == 6


@pytest.mark.parametrize("dag_id", [WITHOUT_XCOM, XCOM_ONLY])
def test_whoever_may_not_read_both_dag_and_xcom_sees_no_tracks(
    server: Server, store: Store, music: str, dag_id: str
) -> None:
    """They are results of a DAG's tasks."""
    store(music, dag_id=dag_id)

    assert server.ask("/musicapi/tracks", user="reader").json == NOTHING
    assert server.ask("/musicapi/tracks").json["total_entries"] == 2


def test_rows_of_dags_that_have_not_stored_there_are_not_shown(
    server: Server, store: Store, leave: Callable[..., None], music: str, tmp_path: Path
) -> None:
    """Another Airflow's, say, or what somebody has written into an index."""
    store(music, dag_id="songs")
    shutil.copytree(tmp_path / "music", tmp_path / "copy")
    leave(xcoms.DESTINATION, f"file://{tmp_path}/copy", dag_id="jingles")
    copied = server.ask("/musicapi/tracks?dag_id=jingles").json

    assert copied["tracks"] == []
    assert server.ask("/musicapi/tracks").json["total_entries"] == 2


# -- folders that are not read -------------------------------------------------------------------------------


def test_folders_that_do_not_answer_are_counted_and_the_others_shown(
    server: Server,
    store: Store,
    leave: Callable[..., None],
    music: str,
    monkeypatch: pytest.MonkeyPatch,
    refusing_url: str,
) -> None:
    """A local folder of another machine, a storage that is away; which they are stands in the log only."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", connection_json(refusing_url))
    monkeypatch.setattr(library, "patience", 0.5)
    store(music, title="Rain")
    for uri in ("file:///on/another/machine", "s3://aws_away@bucket/music"):
        leave(xcoms.DESTINATION, uri)
    answer = server.ask("/musicapi/tracks")

    assert titles(answer.json) == ["Rain"]
    assert answer.json["unread_folders"] == 2
    assert not [name for name in (b"another", b"away", b"bucket") if name in answer.body]


def test_old_folders_are_left_out_until_their_dag_is_chosen(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder is a request to its storage, and a daily DAG may have one a day."""
    monkeypatch.setattr(track_list, "MOST_FOLDERS", 1)
    store(f"file://{tmp_path}/old", dag_id="jingles", title="Old")
    store(f"file://{tmp_path}/new", dag_id="songs", title="New")
    listed, chosen = (server.ask(f"/musicapi/tracks?dag_id={dag_id}").json for dag_id in ("", "jingles"))

    assert (titles(listed), listed["older_folders"]) == (["New"], 1)
    assert (titles(chosen), chosen["older_folders"]) == (["Old"], 0)
