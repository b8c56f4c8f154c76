"""Tracks and covers: playable, as long as reported, the same for the same words."""

from __future__ import annotations

import io
from dataclasses import replace

import mutagen.mp3
import numpy as np
import pytest
import requests
from PIL import Image

from include.musicapi_simulator.audio import render
from include.musicapi_simulator.melody import compose

SONGS = [
    pytest.param("rain on the window\nlofi, soft", id="slow"),
    pytest.param("upbeat disco party", id="fast"),
    pytest.param("a song about nothing at all", id="plain"),
    pytest.param("", id="no-words"),
]


def _clips(caller, **changes):
    return caller.poll(caller.submit(**changes)).json()["data"]


def _track(clip):
    return requests.get(clip["audio_url"], timeout=5)


def test_track_is_an_mp3_as_long_as_reported(caller, state):
    """Both takes are 48 kHz stereo MP3s whose length is the reported duration."""
    state.song_seconds = 8.0
    for clip in _clips(caller):
        answer = _track(clip)
        info = mutagen.mp3.MP3(io.BytesIO(answer.content)).info

        assert answer.headers["Content-Type"] == "audio/mp3"
        assert len(answer.content) == int(answer.headers["Content-Length"])
        assert (info.sample_rate, info.channels) == (48_000, 2)
        assert float(clip["duration"]) == pytest.approx(info.length, abs=0.1)
        assert 8 <= info.length <= 14


@pytest.mark.parametrize("text", SONGS)
@pytest.mark.parametrize("take", [0, 1])
@pytest.mark.parametrize("lead", ["voice", "pluck", "bell", "reed"])
def test_song_is_audible_and_unclipped(text, take, lead):
    """No song is silent, clipped, off-centre, or ends with a click."""
    song = compose(text, instrumental=False, gender="", take=take, song_seconds=8)
    wave = render(replace(song, plan=replace(song.plan, lead=lead)))

    assert 0.5 < np.abs(wave).max() < 0.8
    assert np.sqrt(np.mean(wave**2)) > 0.05
    assert abs(float(np.mean(wave))) < 0.01
    assert np.abs(wave[-10:]).max() < 0.01
    seconds = np.abs(wave[: len(wave) // 48_000 * 48_000]).reshape(-1, 48_000 * 2).max(axis=1)
    assert seconds[:-1].min() > 0.05


def test_same_words_give_the_same_bytes_and_other_words_others(caller):
    """Take by take a prompt repeats exactly; takes, prompts, voice and instrumental differ."""
    bodies = [{}, {"prompt": "other words"}, {"make_instrumental": True}, {"vocal_gender": "m"}]
    tracks = [_track(clip).content for body in bodies for clip in _clips(caller, **body)]

    assert tracks[:2] == [_track(clip).content for clip in _clips(caller)]
    assert len(tracks) == len(set(tracks))


def test_cover_is_a_square_picture(caller):
    """The cover is a 512 pixel JPEG, another for each take."""
    pictures = [requests.get(clip["image_url"], timeout=5) for clip in _clips(caller)]

    assert pictures[0].headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(pictures[0].content)).size == (512, 512)
    assert pictures[0].content != pictures[1].content


@pytest.mark.parametrize("field", ["audio_url", "image_url"])
def test_key_sent_to_the_media_host_is_refused_and_counted(caller, state, field):
    """A client that sends its key to a media host is told so, and the test can see it."""
    url = _clips(caller)[0][field]
    answer = requests.get(url, headers={"Authorization": "Bearer simulator-key"}, timeout=5)

    assert answer.status_code == 400
    assert state.media_requests_with_key == 1


def test_unknown_clip_is_404(caller):
    """A file of no clip is not found."""
    root = caller.server.base_url.removesuffix("/api/v1")

    assert requests.get(f"{root}/media/nothing.mp3", timeout=5).status_code == 404


def test_urls_are_on_the_host_that_was_asked(caller):
    """Media URLs use the name by which the client knows this server."""
    base = caller.server.base_url.replace("127.0.0.1", "localhost")
    task_id = caller.submit()
    headers = {"Authorization": "Bearer simulator-key"}
    clip = requests.get(f"{base}/sonic/task/{task_id}", headers=headers, timeout=5).json()["data"][0]

    assert clip["audio_url"].startswith("http://localhost:")
