"""
What a person decides about stored tracks: this take is the one, that take may go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.files import remove
from musicapi_provider.storage.index import update_index
from musicapi_provider.storage.kinds import AUDIO, IMAGE
from musicapi_provider.storage.tracks import checked_clip_id, read_sidecar, write_sidecar

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.storage.records import Sidecar, StoredTrack


def pick_track(
    folder: ObjectStoragePath, clip_id: str, *, picked_by: str, instead_of: Iterable[str] = ()
) -> StoredTrack:
    """
    Write down who has picked a stored track: ``picked_by`` and ``picked_at`` in its sidecar, and the index.

    Doing it again changes nothing.

    :param instead_of: Clips that were not picked: what an earlier choice has written there is taken back.
    :return: The track, as :class:`~musicapi_provider.storage.TrackStore` returns it.
    :raises MusicAPIStorageError: no such track is stored in the folder.
    """
    sidecar = read_sidecar(folder, clip_id)
    if sidecar is None:
        raise MusicAPIStorageError(
            f"Clip {clip_id} is not stored in {folder}, so it cannot be picked.",
            next_step="clear the store task, which is free, then this one.",
        )
    others = list(instead_of)
    for other in others:
        if (unpicked := read_sidecar(folder, other)) is not None:
            _write_pick(folder, unpicked, None)
    _write_pick(folder, sidecar, picked_by)
    update_index(folder, {clip_id, *others})
    return sidecar.stored


def _write_pick(folder: ObjectStoragePath, sidecar: Sidecar, picked_by: str | None) -> None:
    if sidecar.about.picked_by == picked_by:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = replace(sidecar.about, picked_by=picked_by, picked_at=now if picked_by else None)
    write_sidecar(folder, replace(sidecar, about=about))


def remove_track(folder: ObjectStoragePath, clip_id: str) -> None:
    """
    Remove a stored track: sidecar, audio, cover, row of the index. One that is not there is fine.

    The sidecar goes first: a process that dies in between leaves a file that nobody takes for a track, and
    doing it again removes that, too. What was paid for can be collected again while the API keeps it. Not for
    rows of a prompt table: their records say that they are stored, and the next run would collect them again.

    :raises MusicAPIStorageError: an id that cannot name a file.
    """
    names = [checked_clip_id(clip_id) + suffix for suffix in (".json", *AUDIO.suffixes, *IMAGE.suffixes)]
    for name in names:
        remove(folder / name)
    update_index(folder)


def keep_take(
    folder: ObjectStoragePath,
    clip_ids: Sequence[str],
    picked: str,
    *,
    picked_by: str,
    drop_others: bool = False,
) -> StoredTrack:
    """
    Write down which take of a song a person has picked; perhaps remove the others.

    :param clip_ids: All takes of the song.
    :param drop_others: Remove what was not picked, see :func:`remove_track`.
    :return: The picked track.
    :raises MusicAPIStorageError: the picked take is not stored in the folder.
    """
    others = [clip_id for clip_id in clip_ids if clip_id != picked]
    stored = pick_track(folder, picked, picked_by=picked_by, instead_of=others)
    for clip_id in others if drop_others else []:
        remove_track(folder, clip_id)
    return stored
