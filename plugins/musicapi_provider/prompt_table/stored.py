"""
What is stored of a row, in the file of its ledger: what a later run must do is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from musicapi_provider.storage.records import StoredTrack

if TYPE_CHECKING:
    from musicapi_provider.purchases import LedgerStore

#: Key of a row's file under which stands what is stored of it.
STORED_KEY = "stored"


def stored_tracks(store: LedgerStore, music_task_id: str | None) -> list[StoredTrack]:
    """Return the tracks of a music task that are stored; none while they are not."""
    stored = store.get(STORED_KEY)
    if not isinstance(stored, dict) or music_task_id is None or stored.get("music_task_id") != music_task_id:
        return []
    tracks = stored.get("tracks")
    try:
        return [StoredTrack.from_json(track) for track in tracks] if isinstance(tracks, list) else []
    except ValueError:
        return []


def set_stored(store: LedgerStore, music_task_id: str | None, tracks: Sequence[StoredTrack]) -> None:
    """Write down that a music task's tracks are stored; about 800 bytes a track."""
    store.set(STORED_KEY, {"music_task_id": music_task_id, "tracks": [track.as_json() for track in tracks]})
