"""
The URLs of a track, which may expire: what was paid for does not, and the music task tells fresh ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from musicapi_provider.api.models import Track
from musicapi_provider.exceptions import MusicAPIError, MusicAPIStorageError
from musicapi_provider.storage.media import ExpiredURLError

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class TrackURLs:
    """
    The URLs of a track: its own, and once the fresh ones of its music task.

    :param fresh_tracks: Returns the music task's tracks as they are now; ``None``: nobody can.
    """

    def __init__(self, track: Track, fresh_tracks: Callable[[str], Sequence[Track] | None]) -> None:
        self.track = track
        self._fresh_tracks = fresh_tracks
        self._fresh: Track | None = None

    def get(
        self, url_of: Callable[[Track], str | None], download: Callable[[str | None], _Result]
    ) -> tuple[str | None, _Result]:
        """
        Download a URL of the track, or its fresh one where the host does not give it any more.

        :return: The URL that was good, and what ``download`` returned.
        :raises MusicAPIStorageError: the fresh one is refused too, or there is none; says what is left to do.
        """
        # The music task may no longer list the clip; its own URL may be good all the same.
        url = (self._fresh and url_of(self._fresh)) or url_of(self.track)
        try:
            return url, download(url)
        except ExpiredURLError as error:
            if self._fresh is not None:
                raise _for_good(
                    error, "The music task was read again before, so no fresh URL is left."
                ) from error
            expired = error
        fresh = url_of(self._read_again(expired))
        if not fresh or fresh == url:
            raise _for_good(expired, "The API was asked again and still gives this URL.") from expired
        log.info("%s has expired; trying the fresh URL of the music task.", url)
        try:
            return fresh, download(fresh)
        except ExpiredURLError as error:
            raise _for_good(error, f"That was the fresh URL; before it {expired.message}") from error

    def _read_again(self, expired: ExpiredURLError) -> Track:
        music_task_id, clip_id = self.track.music_task_id, self.track.clip_id
        try:
            tracks = self._fresh_tracks(music_task_id) if music_task_id else None
        except MusicAPIError as error:
            raise _for_good(expired, f"A fresh URL could not be read: {error.message}") from error
        if tracks is None:
            raise MusicAPIStorageError(
                f"{expired.message} It may have expired.",
                status_code=expired.status_code,
                next_step="clear the waiting task: it reads the music task's fresh URLs, which is free; or "
                "give fresh_tracks to the store.",
            ) from expired
        gone = Track(music_task_id, clip_id, state=None)  # without URLs
        self._fresh = next((track for track in tracks if track.clip_id == clip_id), gone)
        return self._fresh


def _for_good(error: ExpiredURLError, more: str) -> MusicAPIStorageError:
    return MusicAPIStorageError(
        f"{error.message} {more}",
        status_code=error.status_code,
        next_step="clear the store task later; if it stays so, the file is gone at the vendor: ask there, "
        "with the clip's id, before buying it again.",
    )
