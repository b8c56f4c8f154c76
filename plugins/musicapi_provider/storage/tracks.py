"""
Store tracks in a folder of object storage: each once, whole, and with all that is known of it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from musicapi_provider.api.bodies import shortened
from musicapi_provider.exceptions import MusicAPIError, MusicAPIStorageError
from musicapi_provider.files import bytes_of, file_system, make_folder
from musicapi_provider.storage.downloads import Downloads
from musicapi_provider.storage.index import update_index
from musicapi_provider.storage.kinds import AUDIO, IMAGE
from musicapi_provider.storage.partial import Leftovers, PartFile, put, size_of
from musicapi_provider.storage.records import About, Sidecar, StoredTrack
from musicapi_provider.storage.tags import Tags, tag
from musicapi_provider.storage.urls import TrackURLs

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.api.models import Track
    from musicapi_provider.api.settings import ClientSettings

log = logging.getLogger(__name__)

#: Bytes: eight minutes of WAV are 90 MB.
DEFAULT_MAX_BYTES = 200 * 1024 * 1024
#: Downloads at a time: two music tasks' worth; more gains little and looks like an attack to a CDN.
DEFAULT_CONCURRENCY = 4

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class TrackStore:
    """
    A folder of tracks in object storage. Use it as a context manager; any thread may call :meth:`store`.

    A track is ``{clip_id}.mp3`` (or its format's suffix), its cover ``{clip_id}.jpeg``, and
    ``{clip_id}.json`` the sidecar with all that is known. The sidecar is written last: where it stands, the
    track is complete. Whatever is not whole stands in ``.incomplete/``.

    :param folder: Where the files go; created when missing, except buckets.
    :param settings: Proxies, certificates and time-out for the download. The key is not used.
    :param max_bytes: Largest body that is accepted.
    :param store_cover: Also store the cover image.
    :param embed_tags: Write title, genre, ids, lyrics and the stored cover into the audio file. Hash and size
        are then those of the tagged file. Tracks that are stored already stay as they are.
    :param fresh_tracks: Reads a music task again, by its id, and returns its tracks. Asked once per
        track, when the media host answers 403, 404 or 410: URLs may expire, what was paid for does not.
    :param concurrency: Downloads at a time in :meth:`store_all`.
    """

    def __init__(
        self,
        folder: ObjectStoragePath,
        settings: ClientSettings,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        store_cover: bool = False,
        embed_tags: bool = False,
        fresh_tracks: Callable[[str], Sequence[Track]] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more; got {concurrency!r}")
        self.folder = folder
        self.store_cover = store_cover
        self.embed_tags = embed_tags
        self.fresh_tracks = fresh_tracks
        self.concurrency = concurrency
        self._downloads = Downloads(settings, max_bytes=max_bytes, connections=concurrency)
        self._clip_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._fresh_lock = threading.Lock()
        self._rewritten: set[str] = set()
        #: What killed processes have left; known once everything was removed.
        self._leftovers: Leftovers | None = None

    def __enter__(self) -> TrackStore:
        """Create the folder; look up its connection, since only a task's main thread may ask Airflow."""
        file_system(self.folder)
        make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections and remove the subfolder for what is incomplete, if it is empty."""
        self._downloads.close()
        Leftovers(self.folder).remove_folder()

    # -- the folder ----------------------------------------------------------------------------------------

    def remove_leftovers(self) -> None:
        """Remove everything that is incomplete; only for who knows that no other process writes here."""
        self._leftovers = Leftovers(self.folder)
        self._leftovers.remove()
        self._leftovers.remove_folder()

    def write_index(self) -> str | None:
        """
        Bring ``index.csv`` up to date: a line per track, for people.

        :return: its URI; ``None`` when that failed, with a warning: the tracks are stored all the same, and
            the next run makes up for it.
        """
        try:
            return str(update_index(self.folder, frozenset(self._rewritten)))
        except Exception:
            log.warning("The index of %s could not be written.", self.folder, exc_info=True)
            return None

    # -- tracks --------------------------------------------------------------------------------------------

    def store_all(
        self,
        tracks: Iterable[Track],
        about: About = About(),  # noqa: B008 - frozen
        *,
        about_tasks: Mapping[str, About] | None = None,
    ) -> list[StoredTrack]:
        """
        Store every track that can be stored, some at a time, then fail if one could not.

        :param about: As in :meth:`store`, the same for all.
        :param about_tasks: Instead of ``about`` for the tracks of a music task, by its id.
        :return: them, in the order of the tracks.
        :raises MusicAPIStorageError: names every track that is missing, and why.
        """
        todo = list(tracks)
        leftovers = Leftovers(self.folder)

        def attempt(track: Track) -> StoredTrack | Exception:
            try:
                return self._store(track, (about_tasks or {}).get(track.music_task_id, about), leftovers)
            except Exception as error:  # noqa: BLE001 - whatever a storage raises must not keep the others out
                log.error("Clip %s is not stored: %s", track.clip_id, _words(error))  # noqa: TRY400
                return error

        if len(todo) < 2 or self.concurrency == 1:
            outcomes = [attempt(track) for track in todo]
        else:
            outcomes = self._at_once(attempt, todo)
        return all_stored(outcomes)

    def _at_once(
        self, attempt: Callable[[Track], StoredTrack | Exception], todo: list[Track]
    ) -> list[StoredTrack | Exception]:
        pool = ThreadPoolExecutor(min(self.concurrency, len(todo)), thread_name_prefix="store-tracks")
        try:
            return list(pool.map(attempt, todo))
        except BaseException:  # the task is being ended: by its time-out, or by hand
            self._downloads.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def store(self, track: Track, about: About = About()) -> StoredTrack:  # noqa: B008 - frozen
        """
        Store one track unless it is there.

        :param about: What else the sidecar shall tell. ``prompt_id`` also goes into what is returned.
        :raises MusicAPIStorageError: unusable id or URL, an answer that is not the audio it should be, or a
            storage that refuses.
        """
        return self._store(track, about, self._leftovers or Leftovers(self.folder))

    def _store(self, track: Track, about: About, leftovers: Leftovers) -> StoredTrack:
        clip_id = checked_clip_id(track.clip_id)
        try:
            with self._clip_locks[clip_id]:
                stored = self._stored(clip_id, track, about, leftovers)
        except OSError as error:  # what a media host does wrong has been translated by now
            raise MusicAPIStorageError(
                f"Clip {clip_id}: the storage {self.folder} refuses ({type(error).__name__}: {error}).",
                next_step="check the storage and the rights of its connection, then clear the store task.",
            ) from error
        return replace(stored, prompt_id=about.prompt_id or stored.prompt_id)

    def _stored(self, clip_id: str, track: Track, about: About, leftovers: Leftovers) -> StoredTrack:
        """Return a track that is stored by now."""
        source = TrackURLs(track, self._fresh)
        sidecar = self._complete(clip_id)
        if sidecar is None:
            leftovers.remove(clip_id)
            stored = self._fetch(clip_id, about, source)
            name, seconds = shortened(stored.title or clip_id), stored.duration or 0
            log.info("Stored %s (%.0f s, %d bytes): %s", name, seconds, stored.bytes, stored.uri)
            return stored
        if self.store_cover and track.image_url and not sidecar.stored.cover_uri:
            if cover := self._cover(clip_id, source):
                sidecar = replace(sidecar, stored=replace(sidecar.stored, cover_uri=str(cover)))
                self._write_sidecar(sidecar)
        else:
            log.info("Clip %s is stored already: %s", clip_id, sidecar.stored.uri)
        return sidecar.stored

    def _complete(self, clip_id: str) -> Sidecar | None:
        """Return the sidecar of a complete track: readable, file there, size right."""
        fs = file_system(self.folder)
        try:
            sidecar = Sidecar.from_bytes(fs.cat_file((self.folder / f"{clip_id}.json").path))
            path = self.folder / sidecar.stored.file_name
            complete = 0 < sidecar.stored.bytes == size_of(path)
        except (FileNotFoundError, ValueError):
            return None
        return replace(sidecar, stored=replace(sidecar.stored, uri=str(path))) if complete else None

    def _write_sidecar(self, sidecar: Sidecar) -> None:
        write_sidecar(self.folder, sidecar)
        self._rewritten.add(sidecar.stored.clip_id)

    # -- downloads -----------------------------------------------------------------------------------------

    def _fetch(self, clip_id: str, about: About, source: TrackURLs) -> StoredTrack:
        try:
            return self._fetch_once(clip_id, about, source)
        except FileNotFoundError:
            log.warning(
                "Clip %s went away while it was incomplete; does another run clean up? Again.", clip_id
            )
            return self._fetch_once(clip_id, about, source)

    def _fetch_once(self, clip_id: str, about: About, source: TrackURLs) -> StoredTrack:
        part, track = PartFile(self.folder, clip_id), source.track
        try:
            url, seconds = source.get(
                lambda track: track.audio_url,
                lambda url: self._downloads.audio(url, part, track.duration),
            )
            cover = self._cover(clip_id, source) if self.store_cover else None
            content_type, suffix = part.content_type, AUDIO.suffix_of(part.head) or ""
            if self.embed_tags:
                tagged = PartFile(self.folder, clip_id)
                part = tag(part, tagged, suffix, Tags.of(track, about, _content_of(cover)))
            final = self.folder / f"{clip_id}{suffix}"
            size, sha256 = part.written, part.sha256
            part.move_to(final)
        except BaseException:
            part.discard()
            raise
        stored = StoredTrack(
            clip_id=clip_id,
            music_task_id=track.music_task_id or None,
            title=track.title,
            audio_url=url,
            uri=str(final),
            bytes=size,
            sha256=sha256,
            duration=seconds,
            content_type=content_type,
            prompt_id=about.prompt_id,
            cover_uri=str(cover) if cover else None,
        )
        told = track.as_dict(include_lyrics=track.lyrics is not None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write_sidecar(Sidecar(stored, told, about, now))
        return stored

    def _cover(self, clip_id: str, source: TrackURLs) -> ObjectStoragePath | None:
        """Store the cover; the track is what was paid for, so a missing picture only warns."""
        if not source.track.image_url:
            return None
        part = PartFile(self.folder, clip_id)
        try:
            source.get(lambda track: track.image_url, lambda url: self._downloads.cover(url, part))
            final: ObjectStoragePath = self.folder / f"{clip_id}{IMAGE.suffix_of(part.head)}"
            part.move_to(final)
        except MusicAPIStorageError as error:
            part.discard()
            log.warning("Clip %s has no cover: %s", clip_id, error.message)
            return None
        except BaseException:
            part.discard()
            raise
        return final

    def _fresh(self, music_task_id: str) -> Sequence[Track] | None:
        if self.fresh_tracks is None:
            return None
        with self._fresh_lock:  # a client is for one thread at a time
            return self.fresh_tracks(music_task_id)


def checked_clip_id(value: object) -> str:
    """
    Return a clip id that can name a file.

    :raises MusicAPIStorageError: it cannot.
    """
    if isinstance(value, str) and _SAFE_ID.fullmatch(value):
        return value
    raise MusicAPIStorageError(f"clip_id {value!r} cannot name a file.")


def read_sidecar(folder: ObjectStoragePath, clip_id: str) -> Sidecar | None:
    """Return a clip's sidecar, ``None`` where there is none that is readable."""
    try:
        sidecar = Sidecar.from_bytes(bytes_of(folder / f"{checked_clip_id(clip_id)}.json") or b"")
    except ValueError:
        return None
    return sidecar if sidecar.stored.clip_id == clip_id else None


def write_sidecar(folder: ObjectStoragePath, sidecar: Sidecar) -> None:
    """Write a track's sidecar, whole."""
    put(folder / f"{sidecar.stored.clip_id}.json", sidecar.as_bytes())


def all_stored(outcomes: Sequence[StoredTrack | Exception]) -> list[StoredTrack]:
    """
    Return tracks that were all tried.

    :raises MusicAPIStorageError: names every track that is missing, and why.
    """
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    stored = [outcome for outcome in outcomes if isinstance(outcome, StoredTrack)]
    if errors:
        raise MusicAPIStorageError(
            f"{len(errors)} tracks could not be stored, {len(stored)} are: "
            f"{' '.join(_words(error) for error in errors)}"
        ) from errors[0]
    return stored


def _words(error: Exception) -> str:
    return error.message if isinstance(error, MusicAPIError) else f"{type(error).__name__}: {error}."


def _content_of(path: ObjectStoragePath | None) -> tuple[bytes, str] | None:
    return None if path is None else (file_system(path).cat_file(path.path), path.suffix)
