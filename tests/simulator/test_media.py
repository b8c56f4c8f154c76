"""Tracks and covers: playable, as long as reported, the same for the same words."""

from __future__ import annotations

import io
import time
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


# -- range requests ------------------------------------------------------------------------------------------


def _get(url, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(url, headers=named, timeout=5)


@pytest.mark.parametrize("field", ["audio_url", "image_url"])
def test_files_say_that_parts_can_be_asked_for(caller, field):
    """A strong ETag, the same at each download, another for another file."""
    first, second = (clip[field] for clip in _clips(caller))
    tags = [_get(url).headers["ETag"] for url in (first, first, second)]

    assert _get(first).headers["Accept-Ranges"] == "bytes"
    assert tags[0] == tags[1] != tags[2]
    assert tags[0].startswith('"')


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=1000-", slice(1000, None)),
        ("bytes=0-", slice(0, None)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=10-99999999", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
@pytest.mark.parametrize("field", ["audio_url", "image_url"])
def test_part_is_what_was_asked_for(caller, field, asked, part):
    """206 with just these bytes, and where they are in the file."""
    url = _clips(caller)[0][field]
    whole = _get(url).content
    answer = _get(url, Range=asked)
    start, stop, _ = part.indices(len(whole))

    assert (206, whole[part]) == (answer.status_code, answer.content)
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert len(whole[part]) == int(answer.headers["Content-Length"])


@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,4-5", "lines=1-", "bytes=x-"])
def test_range_that_is_not_understood_is_ignored(caller, asked):
    """The whole file comes with 200."""
    url = _clips(caller)[0]["audio_url"]

    assert (200, _get(url).content) == (_get(url, Range=asked).status_code, _get(url, Range=asked).content)


@pytest.mark.parametrize("beyond", ["bytes={}-", "bytes=-0"])
def test_range_beyond_the_end_is_416(caller, beyond):
    """The answer tells how long the file is."""
    url = _clips(caller)[0]["audio_url"]
    size = len(_get(url).content)
    answer = _get(url, Range=beyond.format(size))

    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_if_range_gives_the_whole_file_when_it_is_another(caller):
    """A part is given to who has the beginning of this very file."""
    url = _clips(caller)[0]["audio_url"]
    tag = _get(url).headers["ETag"]
    statuses = [_get(url, Range="bytes=9-", If_Range=held).status_code for held in (tag, '"old"', f"W/{tag}")]

    assert statuses == [206, 200, 200]


def test_download_that_is_cut_again_and_again_can_be_resumed(caller):
    """Each answer is cut to half of what was due; whoever goes on where it broke gets the whole."""
    url = _clips(caller, prompt="simulate:media-truncated*3")[0]["audio_url"]
    got, shares = b"", []
    for _ in range(4):
        with requests.get(url, headers={"Range": f"bytes={len(got)}-"}, stream=True, timeout=5) as answer:
            begin, due = len(got), int(answer.headers["Content-Length"])
            try:
                for piece in answer.iter_content(256):
                    got += piece
            except requests.RequestException:
                pass
            shares.append(((len(got) - begin) / due, answer.status_code))

    assert got == _get(url).content
    assert shares == [(pytest.approx(0.5, abs=0.03), 206)] * 3 + [(1, 206)]


def test_range_may_be_ignored_after_a_cut(caller):
    """With both scenarios the file breaks off, and then comes whole although its rest was asked for."""
    words = "simulate:media-truncated simulate:media-no-range"
    url = _clips(caller, prompt=words)[0]["audio_url"]
    with pytest.raises(requests.RequestException):
        _get(url)
    answer = _get(url, Range="bytes=9-")

    assert answer.status_code == 200
    assert "Accept-Ranges" not in answer.headers
    assert len(answer.content) == int(answer.headers["Content-Length"])


# -- URLs that expire ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["audio_url", "image_url"])
def test_url_expires_and_a_fresh_one_works(caller, state, field):
    """After its time a URL is 403; reading the task again gives another."""
    task_id = caller.submit()
    state.media_url_seconds = 0.3
    old = caller.poll(task_id).json()["data"][0][field]
    statuses = [_get(old).status_code]
    time.sleep(0.3)
    state.media_url_seconds = 60
    new = caller.poll(task_id).json()["data"][0][field]
    statuses += [_get(old).status_code, _get(new).status_code]

    assert statuses == [200, 403, 200]
    assert old.split("?")[0] == new.split("?")[0]


def test_url_must_be_signed_as_it_is(caller, state):
    """Without a token, with another file's, or with a later time it is 403."""
    state.media_url_seconds = 60
    first, second = (clip["audio_url"] for clip in _clips(caller))
    bare, query = first.split("?")
    bad = [
        bare,
        f"{bare}?{second.split('?')[1]}",
        first.replace("expires=", "expires=9"),
        f"{bare}?token=",
        f"{bare}?{query[:-1]}",
        f"{bare}?expires=soon&token=é",
    ]

    assert [403] * len(bad) == [_get(url).status_code for url in bad]
    assert _get(first).status_code == 200


def test_stream_url_expires_too(caller, state):
    """An early stream is signed like the rest."""
    state.configure(job_rule="reads:3", media_url_seconds=60.0)
    task_id = caller.submit()
    caller.poll(task_id)
    url = caller.poll(task_id).json()["data"][0]["audio_url"]

    assert "/media/stream/" in url
    assert (_get(url).status_code, _get(url.split("?")[0]).status_code) == (200, 403)


def test_redirect_keeps_the_signature(caller, state):
    """The target of a redirect can be fetched although URLs expire."""
    state.media_url_seconds = 60
    url = _clips(caller, prompt="simulate:media-redirect")[0]["audio_url"]

    assert _get(url).headers["Content-Type"] == "audio/mp3"


def test_urls_are_bare_unless_they_expire(caller):
    """Usually a URL has no query and works for ever."""
    assert not [clip for clip in _clips(caller) if "?" in clip["audio_url"] + clip["image_url"]]


# -- one song ------------------------------------------------------------------------------------------------


def test_one_song_is_the_same_for_all_words(caller, state):
    """Tracks and covers are alike and as long as reported; the two takes still differ."""
    state.one_song = True
    pairs = [_clips(caller, prompt=prompt, title=None) for prompt in ("boats", "a sad night, slow")]
    tracks = [[_track(clip).content for clip in pair] for pair in pairs]
    covers = {_get(pair[0]["image_url"]).content for pair in pairs}

    assert tracks[0] == tracks[1]
    assert (len(set(tracks[0])), len(covers)) == (2, 1)
    assert float(pairs[0][0]["duration"]) == pytest.approx(
        mutagen.mp3.MP3(io.BytesIO(tracks[0][0])).info.length, abs=0.1
    )


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
