"""
Tracks in object storage.

``tracks`` says what is kept, ``downloads``, ``media``, ``kinds``, ``addresses`` and ``urls`` fetch and check,
``partial`` gives a file its name when it is whole, ``tags`` and ``index`` describe, ``choices`` keeps what a
person has decided.
"""

from musicapi_provider.storage.choices import keep_take, pick_track, remove_track
from musicapi_provider.storage.tracks import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES, TrackStore, records_of

__all__ = [
    "DEFAULT_CONCURRENCY",
    "DEFAULT_MAX_BYTES",
    "TrackStore",
    "keep_take",
    "pick_track",
    "records_of",
    "remove_track",
]
