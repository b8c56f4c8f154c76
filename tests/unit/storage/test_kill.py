"""A store that is killed in the middle: nothing half-done is seen, and the next run heals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.models import Track
from musicapi_provider.storage import TrackStore
from tests.media import MediaServer, frames, media_server
from tests.s3 import S3Bucket, s3_bucket

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings

__all__ = ["media_server", "s3_bucket"]
PROJECT = Path(__file__).parents[2]

#: Large enough that S3 has got parts of it when the kill comes.
BODY = frames(20_000_000)
CUT = 17_000_000
#: Stores the tracks in the second argument, in the folder in the first.
STORE = """
import json, sys
from airflow.sdk import ObjectStoragePath
from musicapi_provider.api.models import Track
from musicapi_provider.api.settings import ClientSettings
from musicapi_provider.storage import TrackStore
folder, tracks, base_url = sys.argv[1:]
with TrackStore(ObjectStoragePath(folder), ClientSettings(api_key="k", base_url=base_url)) as store:
    store.store_all([Track.from_dict(track) for track in json.loads(tracks)])
"""


def kill_in_the_middle(
    server: MediaServer, folder: str, tracks: list[dict[str, Any]], is_ripe: Callable[[], bool]
) -> None:
    """Store in a process of its own; kill it when the host has stalled and what came has been written."""
    base_url = f"{server.origin}/api/v1"
    command = [sys.executable, "-c", STORE, folder, json.dumps(tracks), base_url]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "plugins")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        stalled = server.stalled.wait(60)
        end = time.monotonic() + 30
        while not is_ripe() and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        process.kill()
    _, errors = process.communicate()

    assert stalled, errors.decode()[-2000:]


def test_killed_store_heals_in_a_local_folder(
    media_server: Callable[..., MediaServer], settings: ClientSettings, tmp_path: Path
) -> None:
    """The half file stands in ``.incomplete`` and nowhere else, until the next run."""
    server = media_server(BODY, breaks=[CUT], stalls=True)
    folder = f"file://{tmp_path}/music"
    track = {"clip_id": "clip", "audio_url": server.url()}
    kill_in_the_middle(server, folder, [track], lambda: _size_of_parts(tmp_path) > CUT - 10**6)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    with TrackStore(ObjectStoragePath(folder), _for(server, settings)) as store:
        record = store.store(Track.from_dict(track))

    assert len(left) == 1
    assert left.pop().startswith("music/.incomplete/clip.")
    assert {path.name for path in (tmp_path / "music").iterdir()} == {"clip.mp3", "clip.json"}
    assert (tmp_path / "music" / "clip.mp3").read_bytes() == BODY
    assert record.bytes == len(BODY)


def test_killed_store_heals_on_s3(
    media_server: Callable[..., MediaServer], settings: ClientSettings, s3_bucket: S3Bucket
) -> None:
    """No object is seen at all; the parts that were uploaded do not stay in the bucket either."""
    server = media_server(BODY, breaks=[CUT], stalls=True)
    track = {"clip_id": "clip", "audio_url": server.url()}
    kill_in_the_middle(server, s3_bucket.uri, [track], lambda: bool(s3_bucket.unfinished_uploads()))
    seen, uploads = s3_bucket.sizes(), s3_bucket.unfinished_uploads()
    with TrackStore(ObjectStoragePath(s3_bucket.uri), _for(server, settings)) as store:
        store.store(Track.from_dict(track))

    assert seen == {}
    assert [key.rpartition(".incomplete/")[2].partition(".")[0] for key in uploads] == ["clip"]
    assert set(s3_bucket.sizes()) == {"music/clip.mp3", "music/clip.json"}
    assert s3_bucket.sizes()["music/clip.mp3"] == len(BODY)
    assert s3_bucket.unfinished_uploads() == []


def test_kill_loses_only_what_was_not_stored(
    media_server: Callable[..., MediaServer], settings: ClientSettings, tmp_path: Path
) -> None:
    """Tracks that were whole are not downloaded again; ``remove_leftovers`` clears up without storing."""
    server = media_server(frames(50_000), breaks=[None, 20_000], stalls=True)
    folder = f"file://{tmp_path}/music"
    tracks = [{"clip_id": name, "audio_url": server.url(name)} for name in ("one", "two")]
    first = media_server(frames(50_000))
    music = tmp_path / "music"
    kill_in_the_middle(
        server, folder, tracks, lambda: bool([*music.glob("*.json")]) and _size_of_parts(tmp_path) > 0
    )
    complete = [path.stem for path in music.glob("*.json")]
    with TrackStore(ObjectStoragePath(folder), _for(first, settings)) as store:
        store.remove_leftovers()
        cleared = not (music / ".incomplete").exists()
        store.store_all([Track.from_dict({**track, "audio_url": first.url()}) for track in tracks])

    assert len(complete) == 1
    assert cleared
    assert len(first.asked) == 1
    assert len(list(music.glob("*.mp3"))) == 2


def _size_of_parts(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.part"))


def _for(server: MediaServer, settings: ClientSettings) -> ClientSettings:
    return replace(settings, base_url=f"{server.origin}/api/v1")
