"""
Playlists (M3U8) beside stored tracks: what is new, and all that is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from musicapi_provider.files import bytes_of, put_whole
from musicapi_provider.text import clean

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.storage.records import StoredTrack

_HEADER = "#EXTM3U\n"


def write_playlists(
    folder: ObjectStoragePath,
    tracks: Iterable[StoredTrack],
    *,
    new: str = "new_tracks.m3u8",
    every: str = "all_tracks.m3u8",
) -> int:
    """
    Add the tracks that ``every`` does not list to it, and write them to ``new``; return how many they are.

    Safe to repeat: when nothing is new, both lists stay as they are.

    :param folder: Where the tracks are stored, and the playlists will be.
    :param tracks: Stored tracks; those without a title are called by their ``prompt_id``.
    """
    # Not by what a run has paid: it may have stored what an earlier one, killed or failed, has bought.
    # People edit the list: what is no UTF-8 stays as it is, and a last line may lack its end.
    listed = (bytes_of(folder / every) or _HEADER.encode()).decode(errors="surrogateescape")
    known = set(listed.splitlines())
    entries = {track.clip_id: _entry(track) for track in tracks if track.file_name not in known}
    if entries:
        added = "".join(entries.values())
        put_whole(folder / new, [f"{_HEADER}{added}".encode()])
        whole = listed if listed.endswith("\n") else f"{listed}\n"
        # Last: until then the new ones are new.
        put_whole(folder / every, [f"{whole}{added}".encode(errors="surrogateescape")])
    return len(entries)


def _entry(track: StoredTrack) -> str:
    """Return a track's lines. Its title is anybody's text: a line break in it would be a line of the list."""
    title = " ".join((track.title or track.prompt_id or track.file_name).split())
    return f"#EXTINF:{track.duration or -1:.0f},{clean(title)}\n{track.file_name}\n"
