"""
Tracks in object storage.

``tracks`` says what is kept, ``records`` what is known of it. ``downloads``, ``media``, ``kinds``,
``addresses`` and ``urls`` fetch and check, ``partial`` gives a file its name when it is whole. ``tags``,
``index`` and ``playlists`` describe, ``choices`` keeps what a person has decided.
"""

from musicapi_provider.storage.choices import keep_take, pick_track, remove_track
from musicapi_provider.storage.records import About, Sidecar, StoredTrack
from musicapi_provider.storage.tracks import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES, TrackStore, all_stored

__all__ = [
    "DEFAULT_CONCURRENCY",
    "DEFAULT_MAX_BYTES",
    "About",
    "Sidecar",
    "StoredTrack",
    "TrackStore",
    "all_stored",
    "keep_take",
    "pick_track",
    "remove_track",
]
