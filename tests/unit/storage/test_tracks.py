"""Storing tracks: checked, once, and without leftovers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mutagen
import pytest
from airflow.sdk import ObjectStoragePath

from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import CATALOGUE
from musicapi_provider.api.models import Track
from musicapi_provider.exceptions import MusicAPIAuthError, MusicAPIStorageError, Spent
from musicapi_provider.storage import About, TrackStore
from musicapi_provider.storage.downloads import ATTEMPTS
from musicapi_provider.storage.tags import _TAGGED
from tests.media import MediaServer, frames, media_server
from tests.s3 import S3Bucket, s3_bucket

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.api.settings import ClientSettings
    from tests.unit.conftest import Log, OddServer

__all__ = ["media_server", "s3_bucket"]
pytestmark = pytest.mark.usefixtures("quick")

ABOUT = {"prompt_id": "row-7", "body": {"prompt": "La la"}, "credits": 15, "run_id": "manual__1"}
BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"}
GET_TRACK = "GET /media/{clip_id}.mp3"
GET_COVER = "GET /media/{clip_id}.jpeg"


@pytest.fixture
def track(client: MusicAPIClient, simulator: SimulatorServer) -> Track:
    """Return a finished track, as the sensor returns it."""
    simulator.state.job_rule = "at-once"
    return Track.from_dict(client.get_task(client.create(BODY)).tracks[0].as_dict())


@dataclass(frozen=True)
class Destination:
    """
    A folder for tracks, looked at without our code.

    :param bucket: Where it is on S3, else ``local``.
    """

    uri: str
    local: Path
    bucket: S3Bucket | None = None

    def names(self) -> set[str]:
        """Return the names of all files in it and below, hidden ones too."""
        if self.bucket:
            return {key.removeprefix("music/") for key in self.bucket.sizes()}
        return {str(path.relative_to(self.local)) for path in self.local.rglob("*") if path.is_file()}

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        if self.bucket:
            found = self.bucket.client.get_object(Bucket=self.bucket.name, Key=f"music/{name}")
            return bytes(found["Body"].read())
        return (self.local / name).read_bytes()

    def json(self, name: str) -> Any:
        """Return a sidecar."""
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Put a file there."""
        if self.bucket:
            self.bucket.client.put_object(Bucket=self.bucket.name, Key=f"music/{name}", Body=content)
            return
        (self.local / name).parent.mkdir(parents=True, exist_ok=True)
        (self.local / name).write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self.bucket:
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=f"music/{name}")
        else:
            (self.local / name).unlink()


@pytest.fixture(params=["local", "s3"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    """Return a folder that does not exist yet: on this machine, then in a bucket."""
    local = tmp_path / "deep" / "music"
    if request.param == "local":
        return Destination(f"file://{local}", local)
    bucket = request.getfixturevalue("s3_bucket")
    return Destination(bucket.uri, local, bucket)


@pytest.fixture
def open_store(settings: ClientSettings, destination: Destination) -> Iterator[Callable[..., TrackStore]]:
    """Return a function that opens a store in the folder."""
    with ExitStack() as opened:

        def make(changes: dict[str, Any] | None = None, **arguments: Any) -> TrackStore:
            arguments = {"max_bytes": 10_000_000, **arguments}
            store = TrackStore(
                ObjectStoragePath(destination.uri), replace(settings, **(changes or {})), **arguments
            )
            return opened.enter_context(store)

        yield make


@pytest.fixture
def store(open_store: Callable[..., TrackStore]) -> TrackStore:
    """Return a store for the simulator's media."""
    return open_store()


# -- what is stored ------------------------------------------------------------------------------------------


def test_track_and_sidecar_are_stored(store: TrackStore, track: Track, destination: Destination) -> None:
    """Named by the clip's id; the record tells what is there."""
    record = store.store(track)
    clip_id = track.clip_id
    audio = destination.read(f"{clip_id}.mp3")

    assert destination.names() == {f"{clip_id}.mp3", f"{clip_id}.json"}
    assert record.as_json() == {
        "clip_id": clip_id,
        "music_task_id": track.music_task_id,
        "title": track.title,
        "audio_url": track.audio_url,
        "uri": f"{destination.uri}/{clip_id}.mp3",
        "bytes": len(audio),
        "sha256": hashlib.sha256(audio).hexdigest(),
        "content_type": "audio/mp3",
        "duration": pytest.approx(track.duration, abs=0.3),
    }


def test_sidecar_holds_record_and_track(store: TrackStore, track: Track, destination: Destination) -> None:
    """Whoever has only the folder knows everything; of the rest, the record has only the row's id."""
    record = store.store(track, About.from_json(ABOUT))
    sidecar = destination.json(f"{track.clip_id}.json")

    stored_at = datetime.fromisoformat(sidecar["stored_at"])

    assert sidecar == {
        **record.as_json(),
        **{"stored_at": sidecar["stored_at"], "track": track.as_dict(), "about": ABOUT},
    }
    assert stored_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - stored_at) < timedelta(minutes=1)


def test_uri_of_the_record_can_be_opened(store: TrackStore, track: Track) -> None:
    """Downstream tasks pass it on."""
    record = store.store(track)

    assert ObjectStoragePath(record.uri).stat().st_size == record.bytes


def test_second_run_downloads_nothing(
    open_store: Callable[..., TrackStore], track: Track, simulator: SimulatorServer
) -> None:
    """The same record comes out, with this run's extra entries."""
    first = open_store().store(track)
    second = open_store().store(track, About(prompt_id="row-7"))

    assert second == replace(first, prompt_id="row-7")
    assert simulator.state.requests[GET_TRACK] == 1


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        pytest.param(".mp3", None, id="file gone"),
        pytest.param(".mp3", b"ID3", id="file cut"),
        pytest.param(".json", None, id="sidecar gone"),
        pytest.param(".json", b"{", id="sidecar cut"),
        pytest.param(".json", b"{}", id="sidecar empty"),
        pytest.param(".json", b"[]", id="sidecar no object"),
        pytest.param(".json", b'{"uri": 5, "bytes": 1}', id="sidecar odd"),
        pytest.param(".json", b"\xff\xfe", id="sidecar no text"),
    ],
)
def test_damaged_track_is_downloaded_again(
    suffix: str,
    content: bytes | None,
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    simulator: SimulatorServer,
) -> None:
    """Only a whole one counts as stored."""
    first = open_store().store(track)
    name = f"{track.clip_id}{suffix}"
    destination.remove(name) if content is None else destination.write(name, content)
    second = open_store().store(track)

    assert first == second
    assert simulator.state.requests[GET_TRACK] == 2
    assert destination.names() == {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}


@pytest.mark.parametrize(
    "title",
    ["Grüße aus 東京", "../../etc/passwd", "a\nb\x00c", "half an emoji \ud83c", "", None],
    ids=["other scripts", "path", "control characters", "cut surrogate pair", "empty", "none"],
)
def test_title_is_data_and_never_a_name(
    title: str | None, store: TrackStore, track: Track, destination: Destination
) -> None:
    """Whatever it holds, it survives in the sidecar and touches no path."""
    store.store(replace(track, title=title))
    sidecar = destination.json(f"{track.clip_id}.json")

    assert sidecar["title"] == title
    assert destination.names() == {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}


def test_cover_is_stored_on_request(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    simulator: SimulatorServer,
) -> None:
    """Beside the track; not otherwise."""
    record = open_store(store_cover=True).store(track)

    assert record.cover_uri == f"{destination.uri}/{track.clip_id}.jpeg"
    assert destination.read(f"{track.clip_id}.jpeg").startswith(b"\xff\xd8\xff")
    assert simulator.state.requests[GET_COVER] == 1
    assert simulator.state.media_requests_with_key == 0


def test_cover_is_fetched_later_for_a_stored_track(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    simulator: SimulatorServer,
) -> None:
    """Who turns ``store_cover`` on later gets covers, without downloading the audio again."""
    open_store().store(track)
    record = open_store(store_cover=True).store(track)

    assert record.cover_uri == f"{destination.uri}/{track.clip_id}.jpeg"
    assert simulator.state.requests[GET_TRACK] == 1


def test_track_without_a_cover_is_fine(open_store: Callable[..., TrackStore], track: Track) -> None:
    """Not every clip has one."""
    record = open_store(store_cover=True).store(replace(track, image_url=None))

    assert record.cover_uri is None


# -- misbehaving hosts ---------------------------------------------------------------------------------------

# scenario: (words of the error, or None for success; requests for the track)
MEDIA: dict[str, tuple[str | None, int]] = {
    "media-404": ("answered HTTP 404", 1),
    "media-expired": ("answered HTTP 403", 1),
    "media-html": ("answered an HTML page", 1),
    "media-image": ("does not begin like the audio file", 1),
    "media-truncated": (None, 2),
    "media-empty": ("the body is empty", ATTEMPTS),
    "media-drop-once": (None, 2),
    "media-no-range": (None, 1),
    "media-preview": ("a streaming preview or cut short", ATTEMPTS),
    "media-redirect": (None, 2),
    "media-redirect-private": (r"leads to the private address 127\.0\.0\.2", 1),
    "media-redirect-scheme": ("redirected to ftp", 1),
}


def test_every_media_scenario_is_in_the_table() -> None:
    """A new way to misbehave at a download is tested, too."""
    assert set(MEDIA) == {s.name for s in CATALOGUE.values() if s.stage is Stage.MEDIA}


@pytest.mark.parametrize("name", MEDIA)
def test_media_scenario(
    name: str, store: TrackStore, track: Track, destination: Destination, simulator: SimulatorServer
) -> None:
    """Passing failures are repeated, lasting ones told; nothing half-done stays in the folder."""
    words, requests = MEDIA[name]
    simulator.state.scenario(name)
    if words is None:
        store.store(track)
    else:
        with pytest.raises(MusicAPIStorageError, match=words) as caught:
            store.store(track)

        assert track.audio_url in str(caught.value)
        assert caught.value.spent is Spent.SPENT
    stored = {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}

    assert simulator.state.requests[GET_TRACK] == requests
    assert destination.names() == (set() if words else stored)


@pytest.mark.parametrize("name", ["media-truncated", "media-drop-once"])
def test_download_that_always_breaks_off_ends_in_its_error(
    name: str, store: TrackStore, track: Track, destination: Destination, simulator: SimulatorServer
) -> None:
    """After the last try it is told, and Airflow may retry it."""
    simulator.state.scenario(name, times=None)
    with pytest.raises(MusicAPIStorageError, match=f"broke off {ATTEMPTS} times") as caught:
        store.store(track)

    assert caught.value.retryable
    assert simulator.state.requests[GET_TRACK] == ATTEMPTS
    assert destination.names() == set()


def test_file_much_shorter_than_stated_is_refused(
    store: TrackStore, track: Track, destination: Destination, simulator: SimulatorServer
) -> None:
    """A stream of an unfinished clip is whole as a file, but not as a song."""
    with pytest.raises(MusicAPIStorageError, match="of 500 s"):
        store.store(replace(track, duration=500.0))

    assert simulator.state.requests[GET_TRACK] == ATTEMPTS
    assert destination.names() == set()


@pytest.mark.parametrize("duration", [None, 0.0, "unknown"], ids=repr)
def test_unknown_duration_is_no_reason_to_refuse(duration: Any, store: TrackStore, track: Track) -> None:
    """The file's own duration goes into the record."""
    record = store.store(Track.from_dict({**track.as_dict(), "duration": duration}))

    assert record.duration > 0


def test_store_all_goes_on_after_a_failure_and_names_each(
    store: TrackStore, track: Track, destination: Destination
) -> None:
    """One bad track must not keep the others out."""
    bad = [replace(track, clip_id="../x"), replace(track, audio_url=None)]
    with pytest.raises(MusicAPIStorageError, match="2 tracks could not be stored, 1 are") as caught:
        store.store_all([*bad, replace(track, clip_id="good")])

    assert "'../x'" in str(caught.value)
    assert destination.names() == {"good.mp3", "good.json"}


def test_body_beyond_max_bytes_is_refused(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    simulator: SimulatorServer,
) -> None:
    """It stops in the middle and is not repeated."""
    with pytest.raises(MusicAPIStorageError, match="larger than 1000 bytes"):
        open_store(max_bytes=1000).store(track)

    assert simulator.state.requests[GET_TRACK] == 1
    assert destination.names() == set()


def test_body_of_exactly_max_bytes_is_fine(
    open_store: Callable[..., TrackStore], track: Track, destination: Destination
) -> None:
    """The limit itself is allowed."""
    size = open_store().store(track).bytes
    destination.remove(f"{track.clip_id}.json")
    record = open_store(max_bytes=size).store(track)

    assert record.bytes == size


def test_interrupted_download_leaves_nothing(
    store: TrackStore, track: Track, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the worker ends the task in the middle."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("mutagen.File", kill)
    with pytest.raises(Killed):
        store.store(track)

    assert destination.names() == set()


# -- ids and URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clip_id",
    ["../x", "a/b", "..", ".hidden", "", "a b", "a\n", "x" * 200, None, 5, ["a"]],
    ids=repr,
)
def test_bad_clip_id_is_refused(
    clip_id: Any,
    store: TrackStore,
    track: Track,
    destination: Destination,
    simulator: SimulatorServer,
) -> None:
    """It comes from a server and becomes a path, so nothing but plain ids passes."""
    with pytest.raises(MusicAPIStorageError, match="clip_id"):
        store.store(replace(track, clip_id=clip_id))

    assert destination.names() == set()
    assert simulator.state.requests[GET_TRACK] == 0


@pytest.mark.parametrize(
    "url",
    [None, "", "file:///etc/passwd", "ftp://a/b.mp3", "https://", "https://audiopipe.suno.ai/?item_id=x", 5],
    ids=repr,
)
def test_url_that_is_not_final_is_refused(
    url: Any, store: TrackStore, track: Track, destination: Destination
) -> None:
    """No file of this machine, no stream of an unfinished clip."""
    with pytest.raises(MusicAPIStorageError, match="no final https URL"):
        store.store(replace(track, audio_url=url))

    assert destination.names() == set()


@pytest.mark.parametrize("url", ["ftp://a.example/b.jpeg", "file:///etc/passwd"])
def test_cover_url_is_checked_like_the_tracks(
    url: str,
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    logged: Log,
) -> None:
    """A cover that cannot be had only warns: the track is what was paid for."""
    record = open_store(store_cover=True).store(replace(track, image_url=url))

    assert record.cover_uri is None
    assert "no final https URL" in logged.text
    assert destination.names() == {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}


def test_cover_that_is_no_picture_is_left_out(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    odd_server: Callable[..., OddServer],
    logged: Log,
) -> None:
    """No temporary file of it stays behind."""
    server = odd_server(lambda _: (200, {"content-type": "image/jpeg"}, "no picture"))
    record = open_store(store_cover=True).store(replace(track, image_url=f"{server.base_url}/a.jpeg"))

    assert record.cover_uri is None
    assert "does not begin like" in logged.text
    assert destination.names() == {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}


# -- fresh URLs ----------------------------------------------------------------------------------------------


@pytest.fixture
def expiring(simulator: SimulatorServer, client: MusicAPIClient) -> list[Track]:
    """Return the tracks of a finished music task, with expired URLs; reading it again gives fresh ones."""
    simulator.state.job_rule = "at-once"
    simulator.state.configure(media_url_seconds=60.0)
    return [
        replace(
            track,
            audio_url=re.sub(r"expires=\d+", "expires=1", str(track.audio_url)),
            image_url=re.sub(r"expires=\d+", "expires=1", str(track.image_url)),
        )
        for track in client.get_task(client.create(BODY)).tracks
    ]


def reader(client: MusicAPIClient, asked: list[str]) -> Callable[[str], Sequence[Track]]:
    """Return a function that reads a music task again and notes that it did."""

    def fresh_tracks(music_task_id: str) -> Sequence[Track]:
        asked.append(music_task_id)
        return client.get_task(music_task_id).tracks

    return fresh_tracks


def test_expired_url_is_replaced_by_the_fresh_one(
    expiring: list[Track],
    open_store: Callable[..., TrackStore],
    client: MusicAPIClient,
    simulator: SimulatorServer,
) -> None:
    """Read again once per track, which is free; the cover's URL is taken from the same answer."""
    asked: list[str] = []
    store = open_store(fresh_tracks=reader(client, asked), store_cover=True)
    records = store.store_all(expiring)

    assert [track.music_task_id for track in expiring] == asked
    assert [track.clip_id for track in expiring] == [record.clip_id for record in records]
    assert all("expires=1&" not in f"{record.audio_url}&" for record in records)
    assert all(record.cover_uri for record in records)
    assert simulator.state.requests[GET_TRACK] == 4
    assert simulator.state.requests[GET_COVER] == 2


def test_expired_url_without_a_way_to_a_fresh_one_says_what_to_do(
    expiring: list[Track], store: TrackStore
) -> None:
    """The waiting task has it."""
    with pytest.raises(MusicAPIStorageError, match=r"HTTP 403.*expired.*clear the waiting task"):
        store.store(expiring[0])


@pytest.mark.parametrize(
    ("fresh", "words"),
    [
        pytest.param({"audio_url": "{old}?2"}, r"HTTP 404\..*That was the fresh URL", id="refused, too"),
        pytest.param({"audio_url": "{old}"}, "still gives this URL", id="the same"),
        pytest.param({"audio_url": None}, "still gives this URL", id="none"),
        pytest.param({"clip_id": "other"}, "still gives this URL", id="other clips"),
    ],
)
def test_fresh_url_that_does_not_help_says_so(
    fresh: dict[str, Any],
    words: str,
    open_store: Callable[..., TrackStore],
    track: Track,
    simulator: SimulatorServer,
    destination: Destination,
) -> None:
    """The file is gone at the vendor; nobody is sent in circles."""
    simulator.state.scenario("media-404")
    changed = {name: value and value.replace("{old}", track.audio_url) for name, value in fresh.items()}
    asked: list[str] = []

    def fresh_tracks(music_task_id: str) -> list[Track]:
        asked.append(music_task_id)
        return [replace(track, **changed)]

    with pytest.raises(MusicAPIStorageError, match=words) as caught:
        open_store(fresh_tracks=fresh_tracks).store(track)

    assert "ask there, with the clip's id" in str(caught.value)
    assert [track.music_task_id] == asked
    assert destination.names() == set()


def test_music_task_that_cannot_be_read_again_is_told(
    open_store: Callable[..., TrackStore], track: Track, simulator: SimulatorServer
) -> None:
    """With both reasons."""
    simulator.state.scenario("media-404")

    def fresh_tracks(_: str) -> list[Track]:
        raise MusicAPIAuthError("The key is refused.")

    with pytest.raises(MusicAPIStorageError, match=r"HTTP 404.*could not be read: The key is refused"):
        open_store(fresh_tracks=fresh_tracks).store(track)


# -- what a death leaves -------------------------------------------------------------------------------------


def test_leftovers_of_the_clip_go_before_it_is_stored(
    store: TrackStore, track: Track, destination: Destination
) -> None:
    """Those of others may belong to a run at work."""
    clip_id = track.clip_id
    destination.write(f".incomplete/{clip_id}.0123456789ab.part", b"half")
    destination.write(f".incomplete/{clip_id}.json.0123456789ab.part", b"half")
    destination.write(".incomplete/other.0123456789ab.part", b"half")
    store.store_all([track])

    assert destination.names() == {
        f"{clip_id}.mp3",
        f"{clip_id}.json",
        ".incomplete/other.0123456789ab.part",
    }


def test_all_leftovers_go_on_request(store: TrackStore, destination: Destination) -> None:
    """For who knows that nobody else writes there."""
    destination.write(".incomplete/one.0123456789ab.part", b"half")
    destination.write(".incomplete/anything", b"half")
    store.remove_leftovers()

    assert destination.names() == set()
    assert not (destination.local / ".incomplete").exists()


def test_unfinished_uploads_are_aborted(settings: ClientSettings, s3_bucket: S3Bucket, track: Track) -> None:
    """S3 keeps and bills their parts, and shows them in no listing; those elsewhere are not ours."""
    clip_id = track.clip_id
    keys = [f"music/.incomplete/{clip_id}.x.part", "music/.incomplete/other.x.part", "elsewhere/other"]
    for key in keys:
        s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    with TrackStore(ObjectStoragePath(s3_bucket.uri), settings) as store:
        store.store(track)
        after_store = s3_bucket.unfinished_uploads()
        store.remove_leftovers()

    assert sorted(keys[1:]) == sorted(after_store)
    assert [keys[2]] == s3_bucket.unfinished_uploads()


def test_download_survives_another_runs_cleaning_up(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    media_server: Callable[..., MediaServer],
) -> None:
    """A part file that vanished is downloaded once more."""
    server = media_server(frames(100_000), breaks=[50_000], stalls=True)
    other = open_store()

    def clean_up() -> None:
        server.stalled.wait(30)
        other.remove_leftovers()
        server.go_on.set()

    cleaner = threading.Thread(target=clean_up)
    cleaner.start()
    record = open_store().store(replace(track, audio_url=server.url(), duration=None))
    cleaner.join()

    assert destination.read(f"{track.clip_id}.mp3") == server.body
    assert record.sha256 == hashlib.sha256(server.body).hexdigest()


def test_closed_store_leaves_no_subfolder(
    settings: ClientSettings, destination: Destination, track: Track
) -> None:
    """Only tracks and what belongs to them."""
    with TrackStore(ObjectStoragePath(destination.uri), settings) as store:
        store.store(track)

    assert not (destination.local / ".incomplete").exists()


# -- many at a time ------------------------------------------------------------------------------------------


def test_store_all_keeps_order_and_bound(
    open_store: Callable[..., TrackStore], track: Track, odd_media: Callable[..., str]
) -> None:
    """Some at a time, never more than asked for; the records come in the order of the tracks."""
    at_once, most, lock = 0, 0, threading.Lock()

    def count(number: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += number
            most = max(most, at_once)

    url = odd_media(count)
    clips = [replace(track, clip_id=f"clip{number}", audio_url=url) for number in range(9)]
    records = open_store(concurrency=3).store_all([replace(clip, duration=None) for clip in clips])

    assert [clip.clip_id for clip in clips] == [record.clip_id for record in records]
    assert most == 3


@pytest.fixture
def odd_media(media_server: Callable[..., MediaServer]) -> Callable[..., str]:
    """Return a function that starts a host, which tells how many it serves at a time, and returns a URL."""

    def start(count: Callable[[int], None]) -> str:
        def answer(_: dict[str, str]) -> None:
            count(1)
            time.sleep(0.05)  # long enough for others to come
            count(-1)

        return media_server(frames(5000), answer_with=answer).url()

    return start


def test_same_clip_twice_is_downloaded_once(
    open_store: Callable[..., TrackStore], track: Track, simulator: SimulatorServer
) -> None:
    """Also when both are asked for at the same time."""
    first, second = open_store().store_all([track, track])

    assert first == second
    assert simulator.state.requests[GET_TRACK] == 1


def test_unexpected_error_of_one_track_does_not_keep_the_others_out(
    open_store: Callable[..., TrackStore], track: Track, destination: Destination
) -> None:
    """Whatever is raised, it comes last, with its name."""

    def broken(_: str) -> list[Track]:
        raise RuntimeError("a slip")

    tracks = [replace(track, audio_url=f"{track.audio_url}-gone"), replace(track, clip_id="good")]
    with pytest.raises(
        MusicAPIStorageError, match=r"1 tracks could not be stored, 1 are: RuntimeError: a slip"
    ):
        open_store(fresh_tracks=broken).store_all(tracks)

    assert destination.names() == {"good.mp3", "good.json"}


def test_ended_task_stops_all_downloads(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    media_server: Callable[..., MediaServer],
) -> None:
    """A time-out reaches the main thread alone; the others must not go on for it."""
    server = media_server(frames(100_000), answer_with=lambda _: (503, {"retry-after": "60"}, b""))

    class TimeOut(BaseException):
        pass

    def time_out(*_: Any) -> None:
        raise TimeOut

    def strike() -> None:
        while len(server.asked) < 2 and time.monotonic() - began < 20:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    store = open_store(concurrency=2)
    before = signal.signal(signal.SIGALRM, time_out)
    began = time.monotonic()
    clips = [replace(track, clip_id=f"clip{number}", audio_url=server.url()) for number in range(6)]
    striker = threading.Thread(target=strike)
    striker.start()  # when both downloads are under way, however slow the machine is
    try:
        with pytest.raises(TimeOut):
            store.store_all(clips)
    finally:
        striker.join()
        signal.signal(signal.SIGALRM, before)

    assert time.monotonic() - began < 20
    assert len(server.asked) == 2
    assert destination.names() == set()


@pytest.mark.parametrize("concurrency", [0, -1])
def test_concurrency_below_one_is_refused(concurrency: int, open_store: Callable[..., TrackStore]) -> None:
    """Nothing would ever be stored."""
    with pytest.raises(ValueError, match="concurrency"):
        open_store(concurrency=concurrency)


# -- tags and index ------------------------------------------------------------------------------------------


def test_tags_and_cover_are_embedded(
    open_store: Callable[..., TrackStore], track: Track, destination: Destination
) -> None:
    """Hash and size are those of the stored file, so that the next run finds it whole."""
    track = replace(track, title="Rain", lyrics="La la")
    record = open_store(embed_tags=True, store_cover=True).store(track)
    content = destination.read(f"{track.clip_id}.mp3")
    tags = mutagen.File(io.BytesIO(content)).tags

    assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert str(tags["TIT2"]) == "Rain"
    assert tags.getall("USLT")[0].text == "La la"
    assert tags.getall("APIC")[0].data == destination.read(f"{track.clip_id}.jpeg")
    assert record == open_store(embed_tags=True, store_cover=True).store(track)
    assert destination.names() == {f"{track.clip_id}{suffix}" for suffix in (".mp3", ".json", ".jpeg")}


def test_file_that_takes_no_tags_is_stored_without(
    open_store: Callable[..., TrackStore],
    track: Track,
    destination: Destination,
    logged: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure of the tags is no failure of the music."""
    monkeypatch.setitem(_TAGGED, ".mp3", lambda *_: 1 / 0)
    record = open_store(embed_tags=True).store(track)
    content = destination.read(f"{track.clip_id}.mp3")

    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert "stays without tags: ZeroDivisionError" in logged.text
    assert destination.names() == {f"{track.clip_id}.mp3", f"{track.clip_id}.json"}


def test_index_is_written_beside_the_tracks(
    open_store: Callable[..., TrackStore], track: Track, destination: Destination
) -> None:
    """A line per track; a cover that came later is in it."""
    store = open_store()
    store.store(track, About.from_json({**ABOUT, "body": BODY}))
    uri = store.write_index()
    covered = open_store(store_cover=True)
    covered.store(track)
    covered.write_index()
    (row,) = csv.DictReader(io.StringIO(destination.read("index.csv").decode("utf-8-sig")))

    assert uri == f"{destination.uri}/index.csv"
    assert (row["clip_id"], row["prompt_id"], row["prompt"]) == (track.clip_id, "row-7", "La la")
    assert row["cover"] == f"{track.clip_id}.jpeg"


def test_object_on_s3_has_its_type(settings: ClientSettings, s3_bucket: S3Bucket, track: Track) -> None:
    """A browser plays a link to it."""
    with TrackStore(ObjectStoragePath(s3_bucket.uri), settings) as store:
        store.store(track)
    head = s3_bucket.client.head_object(Bucket=s3_bucket.name, Key=f"music/{track.clip_id}.mp3")

    assert head["ContentType"] == "audio/mpeg"


def test_missing_bucket_is_told_and_not_made(
    settings: ClientSettings, s3_bucket: S3Bucket, track: Track
) -> None:
    """It may be a slip of the pen, and its owner would look for the music elsewhere."""
    uri = s3_bucket.uri.replace(s3_bucket.name, f"{s3_bucket.name}-slip")
    with (
        TrackStore(ObjectStoragePath(uri), settings) as store,
        pytest.raises(MusicAPIStorageError, match=r"the storage s3://.*-slip/music refuses"),
    ):
        store.store(track)

    assert [s3_bucket.name] == [
        name
        for bucket in s3_bucket.client.list_buckets()["Buckets"]
        if (name := bucket["Name"]).startswith(s3_bucket.name)
    ]


def test_what_is_no_json_in_about_does_not_lose_a_track(
    store: TrackStore, track: Track, destination: Destination
) -> None:
    """It stands in the sidecar as text."""
    store.store(track, About(more={"when": datetime(2026, 11, 25, tzinfo=UTC), "where": Path("/x")}))

    assert destination.json(f"{track.clip_id}.json")["about"] == {
        "when": "2026-11-25 00:00:00+00:00",
        "where": "/x",
    }


def test_many_threads_may_store_at_once(
    open_store: Callable[..., TrackStore],
    destination: Destination,
    media_server: Callable[..., MediaServer],
) -> None:
    """A listing that one thread has asked for must not hide what another has just written."""
    server = media_server(frames(5000))
    store = open_store()
    clips = [Track("", f"clip{number}", None, audio_url=server.url()) for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        records = list(pool.map(store.store, clips))

    assert len(server.asked) == 60
    assert {f"{record.clip_id}.{suffix}" for record in records for suffix in ("mp3", "json")} == (
        destination.names()
    )
