"""
Download tracks and covers into part files: patient with what may pass, strict with what came.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tenacity

from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.storage.kinds import AUDIO, IMAGE, Kind
from musicapi_provider.storage.media import BrokenDownloadError, MediaClient
from musicapi_provider.storage.tags import seconds_of

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings
    from musicapi_provider.storage.partial import PartFile

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Tries of one download, and seconds before the second one, doubled each time.
ATTEMPTS = 4
FIRST_WAIT = 0.5
#: Share of the duration that the API states which a file may lack before it counts as cut short.
SHORT_BY = 0.1


class Downloads:
    """
    Downloads of one store, until they are stopped.

    :param settings: Proxies, certificates and time-out; see :class:`MediaClient`.
    :param max_bytes: Largest body that is accepted.
    :param connections: Downloads at a time.
    """

    def __init__(self, settings: ClientSettings, *, max_bytes: int, connections: int) -> None:
        self._media = MediaClient(settings, max_bytes=max_bytes, connections=connections)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all downloads at their next piece, and all waiting: the task is being ended."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._media.close()

    def audio(self, url: str | None, part: PartFile, stated: float | None) -> float:
        """
        Download a track and return its measured duration in seconds.

        :param stated: Seconds as the API tells them, if it does; a much shorter file is a stream of an
            unfinished clip, or cut.
        :raises MusicAPIStorageError: see :meth:`MediaClient.fetch`; or not readable, or too short.
        """

        def check() -> float:
            seconds = seconds_of(part, str(url))
            if stated is not None and seconds < stated * (1 - SHORT_BY) - 1:
                part.discard()
                raise BrokenDownloadError(
                    f"the file lasts {seconds:g} of {stated:g} s: a streaming preview or cut short"
                )
            return seconds

        return self._download(url, AUDIO, part, check)

    def cover(self, url: str | None, part: PartFile) -> None:
        """Download a picture."""
        self._download(url, IMAGE, part, lambda: None)

    def _download(self, url: str | None, kind: Kind, part: PartFile, check: Callable[[], _Result]) -> _Result:
        """Download into a part file and check it; repeat or resume what can be."""

        def once() -> _Result:
            self._media.fetch(url, kind, part, self._stopped)
            part.close()
            return check()

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait,
            sleep=tenacity.sleep_using_event(self._stopped),
            retry=tenacity.retry_if_exception_type(BrokenDownloadError),
            before_sleep=lambda state: log.warning(
                "%s: %s. Next try in %.1f s.", url, _error_of(state), state.upcoming_sleep
            ),
            reraise=True,
        )
        try:
            return retrying(once)
        except BrokenDownloadError as error:
            raise MusicAPIStorageError(f"{url} broke off {ATTEMPTS} times: {error}.") from error


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds before the next try: the server's ``Retry-After``, else backoff and jitter."""
    error = _error_of(state)
    if isinstance(error, BrokenDownloadError) and error.retry_after is not None:
        return min(error.retry_after, MAX_RETRY_AFTER)
    backoff = tenacity.wait_exponential(multiplier=FIRST_WAIT, max=8.0)(state)
    return float(backoff + tenacity.wait_random(0, FIRST_WAIT)(state))
