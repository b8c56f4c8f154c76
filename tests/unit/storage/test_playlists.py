"""Playlists: what is new, all that is known, and titles that are anybody's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.storage import StoredTrack
from musicapi_provider.storage.playlists import write_playlists

#: What every playlist begins with.
HEADER = "#EXTM3U\n"


def track(clip_id: str, **facts: object) -> StoredTrack:
    """Return a stored track."""
    known = {
        "clip_id": clip_id,
        "music_task_id": "t",
        "uri": f"file:///music/{clip_id}.mp3",
        "duration": 61.6,
    }
    return StoredTrack.from_json({**known, **facts})


def write(path: Path, *tracks: StoredTrack) -> tuple[int, str, str]:
    """Write the playlists; return how many are new, and what the two then hold."""
    new = write_playlists(ObjectStoragePath(path.as_uri()), tracks)
    return new, *((path / name).read_text() for name in ("new_tracks.m3u8", "all_tracks.m3u8"))


def test_first_tracks_are_all_new(tmp_path: Path) -> None:
    """Each with its length in whole seconds, its title and its file."""
    count, new, every = write(tmp_path, track("a", title="Rain"), track("b", prompt_id="row 2"), track("c"))

    assert count == 3
    assert (
        new == every == f"{HEADER}#EXTINF:62,Rain\na.mp3\n#EXTINF:62,row 2\nb.mp3\n#EXTINF:62,c.mp3\nc.mp3\n"
    )


def test_later_tracks_are_added_and_new_alone(tmp_path: Path) -> None:
    """A track that is listed is not new, whichever run stored it."""
    write(tmp_path, track("a"))
    count, new, every = write(tmp_path, track("a"), track("b"))

    assert count == 1
    assert (new.count(".mp3\n"), every.count("\na.mp3\n"), every.count("\nb.mp3\n")) == (2, 1, 1)
    assert new == f"{HEADER}#EXTINF:62,b.mp3\nb.mp3\n"


@pytest.mark.parametrize(
    "edited",
    [
        pytest.param(b"#EXTM3U\na.mp3", id="no end of the last line"),
        pytest.param(b"\xef\xbb\xbf#EXTM3U\r\na.mp3\r\n", id="by Windows"),
        pytest.param(b"#EXTM3U\n#EXTINF:62,Zo\xeb\na.mp3\n", id="in another encoding"),
    ],
)
def test_list_that_a_person_has_edited_keeps_its_lines(tmp_path: Path, edited: bytes) -> None:
    """Its entries stay as they are and stay known; a new one begins a line of its own."""
    every = tmp_path / "all_tracks.m3u8"
    every.write_bytes(edited)
    tracks = [track("a"), track("b")]

    assert write_playlists(ObjectStoragePath(tmp_path.as_uri()), tracks) == 1
    assert every.read_bytes().startswith(edited)
    assert every.read_bytes().endswith(b"\n#EXTINF:62,b.mp3\nb.mp3\n")
    assert b"a.mp3" in every.read_bytes().splitlines()
    assert write_playlists(ObjectStoragePath(tmp_path.as_uri()), tracks) == 0


def test_nothing_new_leaves_both_as_they_are(tmp_path: Path) -> None:
    """A repeated task does not empty what the first try wrote."""
    before = write(tmp_path, track("a"))

    assert write(tmp_path, track("a")) == (0, *before[1:])


def test_no_tracks_write_no_file(tmp_path: Path) -> None:
    """Nothing is there yet, and nothing comes."""
    assert write_playlists(ObjectStoragePath(tmp_path.as_uri()), []) == 0
    assert not list(tmp_path.iterdir())


def test_a_track_twice_is_one_entry(tmp_path: Path) -> None:
    """Two manifests may name it."""
    assert write(tmp_path, track("a"), track("a"))[0] == 1


@pytest.mark.parametrize(
    ("title", "shown"),
    [("La\n../../etc/passwd", "La ../../etc/passwd"), ("half \ud83d of it", "half \ufffd of it")],
    ids=["line-break", "half-a-character"],
)
def test_title_cannot_become_a_line_of_its_own(tmp_path: Path, title: str, shown: str) -> None:
    """It is anybody's text."""
    _, new, _ = write(tmp_path, track("a", title=title))

    assert new == f"{HEADER}#EXTINF:62,{shown}\na.mp3\n"


def test_unknown_length_is_minus_one(tmp_path: Path) -> None:
    """As players expect it."""
    assert "#EXTINF:-1,a.mp3" in write(tmp_path, track("a", duration=0))[1]
