"""
Which tracks there are: the ``index.csv`` of each folder, kept in memory while it stays as it is.

An index is read again when the storage says that it has changed. A folder that does not answer is left out,
and nobody waits for it long.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from typing import NamedTuple

from airflow.sdk import ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.files import local_path
from musicapi_provider.storage.index import INDEX, IndexRow, read_index
from musicapi_provider.storage.kinds import AUDIO, IMAGE
from musicapi_provider.storage.tracks import checked_clip_id
from musicapi_provider.ui.kept_file_systems import forget_file_system
from musicapi_provider.ui.stored_files import stored_file

log = logging.getLogger(__name__)

#: Seconds that a request waits for the folders' storages.
PATIENCE = 4.0
#: Seconds until one that kept a request waiting, and failed, is asked again.
REST = 30.0
#: Bytes of an index, at most: about 100,000 tracks. A larger one would fill the API server's memory.
LARGEST_INDEX = 64 * 1024 * 1024
#: Bytes of all indexes that are kept, as files.
MOST_KEPT = 128 * 1024 * 1024


class ListedTrack(NamedTuple):
    """A row of an index whose file names are those of its clip."""

    clip_id: str
    music_task_id: str
    title: str
    prompt: str
    prompt_id: str
    dag_id: str
    run_id: str
    picked_by: str
    stored_at: str
    file: str
    cover: str
    duration: float | None
    credits: float | None

    def has(self, text: str) -> bool:
        """Tell whether title, prompt or ``prompt_id`` contain a text that is casefolded."""
        return any(text in value.casefold() for value in (self.title, self.prompt, self.prompt_id))


class Index(NamedTuple):
    """
    A folder's tracks by clip id.

    :param version: Of the file; empty when there is none yet.
    :param size: Of the file, in bytes.
    """

    version: str
    size: int
    tracks: Mapping[str, ListedTrack]


class _Look(NamedTuple):
    began: float
    outcome: Future[Index]


class Library:
    """
    The indexes of folders; any thread may ask.

    :param patience: Seconds to wait for folders that are looked at.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._kept: OrderedDict[str, Index] = OrderedDict()
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()

    def indexes(self, uris: Iterable[str]) -> dict[str, Index]:
        """Return the present index of each folder, without those that do not answer."""
        looks = {uri: look.outcome for uri in uris if (look := self._look(uri)) is not None}
        wait(looks.values(), self.patience)
        return {uri: look.result() for uri, look in looks.items() if look.done() and look.exception() is None}

    def track(self, uri: str, clip_id: str) -> ListedTrack | None:
        """Return a track of a folder; for one that is known the storage is not asked."""
        index = self._kept.get(uri)
        if index is None or clip_id not in index.tracks:
            index = self.indexes([uri]).get(uri)
        return None if index is None else index.tracks.get(clip_id)

    def _look(self, uri: str) -> _Look | None:
        """Look at a folder, or join who does; ``None`` when others have waited for that in vain."""
        now = time.monotonic()
        with self._lock:
            look = self._looks.get(uri)
            if look is None or (look.outcome.done() and now - look.began > REST):
                look = self._looks[uri] = _Look(now, Future())
                # A thread for each, and none that the process waits for at its end: what hangs in one
                # storage must hold up nothing else.
                threading.Thread(target=self._finish, args=(uri, look), daemon=True).start()
            return look if now - look.began <= self.patience else None

    def _finish(self, uri: str, look: _Look) -> None:
        try:
            index = _read_index(uri, self._kept.get(uri))
        except Exception as error:  # noqa: BLE001 - each backend has its own
            log.warning("The tracks page cannot read %s (%s: %s)", uri, type(error).__name__, error)
            forget_file_system(uri)
            with self._lock:
                if time.monotonic() - look.began <= self.patience:
                    del self._looks[uri]
            look.outcome.set_exception(error)
            return
        with self._lock:
            del self._looks[uri]
            self._keep(uri, index)
        look.outcome.set_result(index)

    def _keep(self, uri: str, index: Index) -> None:
        self._kept[uri] = index
        self._kept.move_to_end(uri)
        while sum(kept.size for kept in self._kept.values()) > MOST_KEPT:
            self._kept.popitem(last=False)


def _read_index(uri: str, kept: Index | None) -> Index:
    """
    Return a folder's index, the one that is kept if it has not changed.

    :raises Exception: the storage does not answer, or a local folder is not on this machine.
    """
    folder = ObjectStoragePath(uri)
    if (local := local_path(folder)) is not None and not local.is_dir():
        raise NotADirectoryError(f"there is no folder {local} on this machine")
    try:
        file = stored_file(folder, INDEX)
    except FileNotFoundError:
        return Index("", 0, {})
    if kept is not None and kept.version == file.version:
        return kept
    if file.size > LARGEST_INDEX:
        raise MusicAPIStorageError(f"{INDEX} has {file.size} bytes; {LARGEST_INDEX} are read at most")
    return Index(file.version, file.size, _tracks_of(file.read(0, file.size)))


_TEXTS = [name for name in ListedTrack._fields if name not in ("duration", "credits")]


def _tracks_of(content: bytes) -> dict[str, ListedTrack]:
    found = (_track_of(row) for row in read_index(content))
    return {track.clip_id: track for track in found if track is not None}


def _track_of(row: IndexRow) -> ListedTrack | None:
    """
    Make a track of a row, ``None`` of one that nobody can have written here.

    What is served are files of this name, so a row must not choose another.
    """
    try:
        clip_id = checked_clip_id(row.clip_id)
    except MusicAPIStorageError:
        return None
    if row.file not in {clip_id + suffix for suffix in AUDIO.suffixes}:
        return None
    texts = {name: getattr(row, name) for name in _TEXTS}
    if row.cover not in {clip_id + suffix for suffix in IMAGE.suffixes}:
        texts["cover"] = ""
    return ListedTrack(**texts, duration=_number(row.duration), credits=_number(row.credits))


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
