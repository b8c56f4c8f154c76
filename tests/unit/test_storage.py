"""Storing tracks: checked, once, and without leftovers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from airflow.sdk import ObjectStoragePath

from include.musicapi_simulator.scenarios import CATALOGUE, Stage
from musicapi_provider.exceptions import MusicAPIStorageError, Spent
from musicapi_provider.storage import ATTEMPTS, TrackStore

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.client import MusicAPIClient
    from musicapi_provider.settings import ClientSettings
    from tests.unit.conftest import Log, OddAnswer, OddServer

pytestmark = pytest.mark.usefixtures("quick")

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"}
GET_TRACK = "GET /media/{clip_id}.mp3"
GET_COVER = "GET /media/{clip_id}.jpeg"


@pytest.fixture
def track(client: MusicAPIClient, simulator: SimulatorServer) -> dict[str, Any]:
    """Return a finished track, as the sensor returns it."""
    simulator.state.job_rule = "at-once"
    return client.get_task(client.create(BODY)).tracks[0].as_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that does not exist yet."""
    return tmp_path / "deep" / "music"


@pytest.fixture
def open_store(settings: ClientSettings, folder: Path) -> Iterator[Callable[..., TrackStore]]:
    """Return a function that opens a store in the folder."""
    opened: list[TrackStore] = []

    def make(changes: dict[str, Any] | None = None, **arguments: Any) -> TrackStore:
        arguments = {"max_bytes": 10_000_000, **arguments}
        store = TrackStore(
            ObjectStoragePath(f"file://{folder}"), replace(settings, **(changes or {})), **arguments
        )
        opened.append(store)
        return store.__enter__()

    yield make
    for store in opened:
        store.__exit__(None, None, None)


@pytest.fixture
def store(open_store: Callable[..., TrackStore]) -> TrackStore:
    """Return a store for the simulator's media."""
    return open_store()


def names_in(folder: Path) -> set[str]:
    """Return the names of all files, hidden ones too."""
    return {path.name for path in folder.iterdir()}


# -- what is stored ------------------------------------------------------------------------------------------


def test_track_and_sidecar_are_stored(store: TrackStore, track: dict[str, Any], folder: Path) -> None:
    """Named by the clip's id; the record tells what is there."""
    record = store.store(track)
    clip_id = track["clip_id"]
    audio = (folder / f"{clip_id}.mp3").read_bytes()

    assert names_in(folder) == {f"{clip_id}.mp3", f"{clip_id}.json"}
    assert record == {
        "clip_id": clip_id,
        "music_task_id": track["music_task_id"],
        "title": track["title"],
        "audio_url": track["audio_url"],
        "uri": f"file://{folder}/{clip_id}.mp3",
        "bytes": len(audio),
        "sha256": hashlib.sha256(audio).hexdigest(),
        "content_type": "audio/mp3",
        "duration": pytest.approx(track["duration"], abs=0.3),
    }


def test_sidecar_holds_record_and_track(store: TrackStore, track: dict[str, Any], folder: Path) -> None:
    """Whoever has only the folder knows everything."""
    record = store.store(track)
    sidecar = json.loads((folder / f"{track['clip_id']}.json").read_text(encoding="utf-8"))

    assert sidecar == {**record, "track": track}


def test_uri_of_the_record_can_be_opened(store: TrackStore, track: dict[str, Any]) -> None:
    """Downstream tasks pass it on."""
    record = store.store(track)

    assert ObjectStoragePath(record["uri"]).stat().st_size == record["bytes"]


def test_second_run_downloads_nothing(
    open_store: Callable[..., TrackStore], track: dict[str, Any], simulator: SimulatorServer
) -> None:
    """The same record comes out, with this run's extra entries."""
    first = open_store().store(track)
    second = open_store().store(track, extra={"prompt_id": "row-7"})

    assert second == {**first, "prompt_id": "row-7"}
    assert simulator.state.requests[GET_TRACK] == 1


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda mp3, sidecar: mp3.unlink(), id="file gone"),
        pytest.param(lambda mp3, sidecar: mp3.write_bytes(b"ID3"), id="file cut"),
        pytest.param(lambda mp3, sidecar: sidecar.unlink(), id="sidecar gone"),
        pytest.param(lambda mp3, sidecar: sidecar.write_text("{"), id="sidecar cut"),
        pytest.param(lambda mp3, sidecar: sidecar.write_text("{}"), id="sidecar empty"),
        pytest.param(lambda mp3, sidecar: sidecar.write_text("[]"), id="sidecar no object"),
        pytest.param(lambda mp3, sidecar: sidecar.write_text('{"uri": 5, "bytes": 1}'), id="sidecar odd"),
        pytest.param(lambda mp3, sidecar: sidecar.write_bytes(b"\xff\xfe"), id="sidecar no text"),
    ],
)
def test_damaged_track_is_downloaded_again(
    damage: Callable[[Path, Path], Any],
    open_store: Callable[..., TrackStore],
    track: dict[str, Any],
    folder: Path,
    simulator: SimulatorServer,
) -> None:
    """Only a whole one counts as stored."""
    first = open_store().store(track)
    damage(folder / f"{track['clip_id']}.mp3", folder / f"{track['clip_id']}.json")
    second = open_store().store(track)

    assert first == second
    assert simulator.state.requests[GET_TRACK] == 2
    assert names_in(folder) == {f"{track['clip_id']}.mp3", f"{track['clip_id']}.json"}


@pytest.mark.parametrize(
    "title",
    ["Grüße aus 東京", "../../etc/passwd", "a\nb\x00c", "half an emoji \ud83c", "", None],
    ids=["other scripts", "path", "control characters", "cut surrogate pair", "empty", "none"],
)
def test_title_is_data_and_never_a_name(
    title: str | None, store: TrackStore, track: dict[str, Any], folder: Path
) -> None:
    """Whatever it holds, it survives in the sidecar and touches no path."""
    store.store({**track, "title": title})
    sidecar = json.loads((folder / f"{track['clip_id']}.json").read_text(encoding="utf-8"))

    assert sidecar["title"] == title
    assert names_in(folder) == {f"{track['clip_id']}.mp3", f"{track['clip_id']}.json"}


def test_cover_is_stored_on_request(
    open_store: Callable[..., TrackStore], track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """Beside the track; not otherwise."""
    record = open_store(store_cover=True).store(track)

    assert record["cover_uri"] == f"file://{folder}/{track['clip_id']}.jpeg"
    assert (folder / f"{track['clip_id']}.jpeg").read_bytes().startswith(b"\xff\xd8\xff")
    assert simulator.state.requests[GET_COVER] == 1
    assert simulator.state.media_requests_with_key == 0


def test_cover_is_fetched_later_for_a_stored_track(
    open_store: Callable[..., TrackStore], track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """Who turns ``store_cover`` on later gets covers, without downloading the audio again."""
    open_store().store(track)
    record = open_store(store_cover=True).store(track)

    assert record.get("cover_uri") == f"file://{folder}/{track['clip_id']}.jpeg"
    assert simulator.state.requests[GET_TRACK] == 1


def test_track_without_a_cover_is_fine(open_store: Callable[..., TrackStore], track: dict[str, Any]) -> None:
    """Not every clip has one."""
    record = open_store(store_cover=True).store({**track, "image_url": None})

    assert "cover_uri" not in record


# -- misbehaving hosts ---------------------------------------------------------------------------------------

# scenario: (words of the error, or None for success; requests for the track)
MEDIA: dict[str, tuple[str | None, int]] = {
    "media-404": ("answered HTTP 404", 1),
    "media-html": ("answered text/html", 1),
    "media-truncated": (None, 2),
    "media-empty": ("the body is empty", ATTEMPTS),
    "media-drop-once": (None, 2),
    "media-redirect": (None, 2),
}


def test_every_media_scenario_is_in_the_table() -> None:
    """A new way to misbehave at a download is tested, too."""
    assert set(MEDIA) == {s.name for s in CATALOGUE.values() if s.stage is Stage.MEDIA}


@pytest.mark.parametrize("name", MEDIA)
def test_media_scenario(
    name: str, store: TrackStore, track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """Passing failures are repeated, lasting ones told; nothing half-done stays in the folder."""
    words, requests = MEDIA[name]
    simulator.state.scenario(name)
    if words is None:
        store.store(track)
    else:
        with pytest.raises(MusicAPIStorageError, match=words) as caught:
            store.store(track)

        assert track["audio_url"] in str(caught.value)
        assert caught.value.spent is Spent.SPENT
    stored = {f"{track['clip_id']}.mp3", f"{track['clip_id']}.json"}

    assert simulator.state.requests[GET_TRACK] == requests
    assert names_in(folder) == (set() if words else stored)


@pytest.mark.parametrize("name", ["media-truncated", "media-drop-once"])
def test_download_that_always_breaks_off_ends_in_its_error(
    name: str, store: TrackStore, track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """After the last try it is told, and Airflow may retry it."""
    simulator.state.scenario(name, times=None)
    with pytest.raises(MusicAPIStorageError, match=f"broke off {ATTEMPTS} times") as caught:
        store.store(track)

    assert caught.value.retryable
    assert simulator.state.requests[GET_TRACK] == ATTEMPTS
    assert names_in(folder) == set()


def _answers(status: int, headers: dict[str, str], body: str) -> Callable[..., OddAnswer]:
    return lambda _: (status, headers, body)


AUDIO = {"content-type": "audio/mpeg"}


@pytest.mark.parametrize(
    ("answer", "words", "requests"),
    [
        pytest.param(_answers(503, {}, ""), "HTTP 503", ATTEMPTS, id="away"),
        pytest.param(_answers(429, {}, ""), "HTTP 429", ATTEMPTS, id="throttled"),
        pytest.param(_answers(403, {}, "expired"), "HTTP 403", 1, id="expired"),
        pytest.param(_answers(200, AUDIO, "this is no music"), "does not begin like", 1, id="magic bytes"),
        pytest.param(_answers(200, AUDIO, "ID3 but no frames at all"), "not readable", 1, id="no frames"),
        pytest.param(_answers(200, {"content-type": "video/mp4"}, "x"), "video/mp4", 1, id="video"),
        pytest.param(_answers(200, {}, "x"), "no content type", 1, id="no content type"),
        pytest.param(_answers(302, {"location": "/loop"}, ""), "TooManyRedirects", 0, id="endless redirect"),
    ],
)
def test_answer_that_is_no_audio_is_refused(
    answer: Callable[[BaseHTTPRequestHandler], OddAnswer],
    words: str,
    requests: int,
    store: TrackStore,
    track: dict[str, Any],
    folder: Path,
    odd_server: Callable[..., OddServer],
) -> None:
    """The error names the URL and what came instead; nothing stays behind."""
    server = odd_server(answer)
    url = f"{server.base_url}/song.mp3"
    with pytest.raises(MusicAPIStorageError, match=words) as caught:
        store.store({**track, "audio_url": url})

    assert url in str(caught.value)
    assert len(server.requests) == requests or not requests
    assert names_in(folder) == set()


def test_file_much_shorter_than_stated_is_refused(
    store: TrackStore, track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """A stream of an unfinished clip is whole as a file, but not as a song."""
    with pytest.raises(MusicAPIStorageError, match="of 500 s"):
        store.store({**track, "duration": 500.0})

    assert simulator.state.requests[GET_TRACK] == ATTEMPTS
    assert names_in(folder) == set()


@pytest.mark.parametrize("duration", [None, 0.0, "unknown"], ids=repr)
def test_unknown_duration_is_no_reason_to_refuse(
    duration: Any, store: TrackStore, track: dict[str, Any]
) -> None:
    """The file's own duration goes into the record."""
    record = store.store({**track, "duration": duration})

    assert record["duration"] > 0


def test_store_all_goes_on_after_a_failure_and_names_each(
    store: TrackStore, track: dict[str, Any], folder: Path
) -> None:
    """One bad track must not keep the others out."""
    bad = [{**track, "clip_id": "../x"}, {**track, "audio_url": None}]
    with pytest.raises(MusicAPIStorageError, match="2 tracks could not be stored, 1 are") as caught:
        store.store_all([*bad, {**track, "clip_id": "good"}])

    assert "'../x'" in str(caught.value)
    assert names_in(folder) == {"good.mp3", "good.json"}


def test_body_beyond_max_bytes_is_refused(
    open_store: Callable[..., TrackStore], track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """It stops in the middle and is not repeated."""
    with pytest.raises(MusicAPIStorageError, match="larger than 1000 bytes"):
        open_store(max_bytes=1000).store(track)

    assert simulator.state.requests[GET_TRACK] == 1
    assert names_in(folder) == set()


def test_body_of_exactly_max_bytes_is_fine(
    open_store: Callable[..., TrackStore], track: dict[str, Any], folder: Path
) -> None:
    """The limit itself is allowed."""
    size = open_store().store(track)["bytes"]
    (folder / f"{track['clip_id']}.json").unlink()
    record = open_store(max_bytes=size).store(track)

    assert record["bytes"] == size


def test_interrupted_download_leaves_nothing(
    store: TrackStore, track: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the worker ends the task in the middle."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("mutagen.File", kill)
    with pytest.raises(Killed):
        store.store(track)

    assert names_in(folder) == set()


# -- ids and URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clip_id",
    ["../x", "a/b", "..", ".hidden", "", "a b", "a\n", "x" * 200, None, 5, ["a"]],
    ids=repr,
)
def test_bad_clip_id_is_refused(
    clip_id: Any, store: TrackStore, track: dict[str, Any], folder: Path, simulator: SimulatorServer
) -> None:
    """It comes from a server and becomes a path, so nothing but plain ids passes."""
    with pytest.raises(MusicAPIStorageError, match="clip_id"):
        store.store({**track, "clip_id": clip_id})

    assert names_in(folder) == set()
    assert simulator.state.requests[GET_TRACK] == 0


@pytest.mark.parametrize(
    "url",
    [None, "", "file:///etc/passwd", "ftp://a/b.mp3", "https://", "https://audiopipe.suno.ai/?item_id=x", 5],
    ids=repr,
)
def test_url_that_is_not_final_is_refused(
    url: Any, store: TrackStore, track: dict[str, Any], folder: Path
) -> None:
    """No file of this machine, no stream of an unfinished clip."""
    with pytest.raises(MusicAPIStorageError, match="no final https URL"):
        store.store({**track, "audio_url": url})

    assert names_in(folder) == set()


def test_http_url_is_refused_where_the_api_is_https(
    open_store: Callable[..., TrackStore], track: dict[str, Any], simulator: SimulatorServer
) -> None:
    """Http is for the simulator alone."""
    store = open_store({"base_url": "https://api.musicapi.ai/api/v1"})
    with pytest.raises(MusicAPIStorageError, match="no final https URL"):
        store.store(track)

    assert not simulator.state.requests[GET_TRACK]


@pytest.mark.parametrize("url", ["ftp://a.example/b.jpeg", "file:///etc/passwd"])
def test_cover_url_is_checked_like_the_tracks(
    url: str, open_store: Callable[..., TrackStore], track: dict[str, Any], folder: Path, logged: Log
) -> None:
    """A cover that cannot be had only warns: the track is what was paid for."""
    record = open_store(store_cover=True).store({**track, "image_url": url})

    assert "cover_uri" not in record
    assert "no final https URL" in logged.text
    assert names_in(folder) == {f"{track['clip_id']}.mp3", f"{track['clip_id']}.json"}


def test_cover_that_is_no_picture_is_left_out(
    open_store: Callable[..., TrackStore],
    track: dict[str, Any],
    folder: Path,
    odd_server: Callable[..., OddServer],
    logged: Log,
) -> None:
    """No temporary file of it stays behind."""
    server = odd_server(lambda _: (200, {"content-type": "image/jpeg"}, "no picture"))
    record = open_store(store_cover=True).store({**track, "image_url": f"{server.base_url}/a.jpeg"})

    assert "cover_uri" not in record
    assert "does not begin like" in logged.text
    assert names_in(folder) == {f"{track['clip_id']}.mp3", f"{track['clip_id']}.json"}


def test_redirect_from_https_to_http_is_refused(
    open_store: Callable[..., TrackStore],
    track: dict[str, Any],
    folder: Path,
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """A redirect cannot talk us out of https."""
    secure = odd_server(lambda _: (302, {"location": track["audio_url"]}, ""), tls=certificate)
    store = open_store({"base_url": secure.base_url, "verify": str(certificate)})
    with pytest.raises(MusicAPIStorageError, match="redirected to http, which is not https"):
        store.store({**track, "audio_url": f"{secure.base_url}/song.mp3"})

    assert names_in(folder) == set()


def test_verify_of_the_connection_beats_the_environment(
    open_store: Callable[..., TrackStore],
    track: dict[str, Any],
    odd_server: Callable[..., OddServer],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its certificates serve the download where ``REQUESTS_CA_BUNDLE`` is set, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    secure = odd_server(lambda _: (404, {}, ""), tls=certificate)
    store = open_store({"base_url": secure.base_url, "verify": str(certificate)})
    with pytest.raises(MusicAPIStorageError, match="answered HTTP 404"):
        store.store({**track, "audio_url": f"{secure.base_url}/song.mp3"})

    assert len(secure.requests) == 1


def test_neither_key_nor_headers_go_to_the_media_host(
    open_store: Callable[..., TrackStore], track: dict[str, Any], odd_server: Callable[..., OddServer]
) -> None:
    """They are for the API alone."""
    server = odd_server(lambda _: (404, {}, ""))
    store = open_store({"api_key": "sk-secret", "headers": {"X-Token": "tok-123"}})
    with pytest.raises(MusicAPIStorageError):
        store.store({**track, "audio_url": f"{server.base_url}/song.mp3"})
    seen = str(server.headers)

    assert server.requests
    assert "sk-secret" not in seen
    assert "tok-123" not in seen
    assert "authorization" not in seen.lower()
