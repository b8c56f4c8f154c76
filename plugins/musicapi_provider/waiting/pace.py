"""
When the next request may leave: a steady pace for polls and for creates, and one pause for all.
"""

from __future__ import annotations

import logging
import random

from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.exceptions import MusicAPIError, MusicAPINotSentError, MusicAPIThrottledError
from musicapi_provider.waiting.schedule import JITTER
from musicapi_provider.waiting.wait import MIN_PAUSE

log = logging.getLogger(__name__)

#: Seconds of the first and the longest pause after a refusal that does not say how long to wait.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Pace after a refusal, its floor, and its growth with each good answer; all as shares of the full pace.
SLOWER, SLOWEST, RECOVERY = 0.5, 0.05, 0.01


class Pace:
    """
    When the next request may leave: a steady pace, and one pause for all when the server asks for it.

    A refusal (429, 503, ``Retry-After``, nobody there) also halves the pace, and good answers bring it back.
    There are no bursts, so what fell due during a pause comes one by one after it.

    :param per_second: Requests a second, at most; infinity: as fast as they come.
    :param what: What the requests are, for the log.
    :param recovery: Share of the full pace that a good answer brings back.
    """

    def __init__(self, per_second: float, what: str, *, recovery: float = RECOVERY) -> None:
        self.full = self.current = per_second
        self._what = what
        self._recovery = recovery
        #: Loop time before which nothing may leave.
        self.next_at = 0.0
        self._paused_until = 0.0
        self._refusals = 0

    def take(self, now: float) -> None:
        """Use up the present moment."""
        self.next_at = now + 1 / self.current

    def heed(self, answer: object, now: float) -> None:
        """Slow down or recover, as an answer, or the error of a request, suggests."""
        if not isinstance(answer, MusicAPIError) or not asks_for_a_pause(answer):
            self._refusals = 0
            self.current = min(self.current + self._recovery * self.full, self.full)
            return
        if now >= self._paused_until:  # else an answer to a request that left before the pause
            self._refusals += 1
            self.current = max(self.current * SLOWER, SLOWEST * self.full)
        own = min(FIRST_PAUSE * 2 ** min(self._refusals - 1, 30), LONGEST_PAUSE)
        asked = own if answer.retry_after is None else min(answer.retry_after, MAX_RETRY_AFTER)
        # Never earlier than asked; other processes were asked to come back at the same time.
        pause = max(asked, MIN_PAUSE) * (1 + JITTER * random.random())  # noqa: S311 - jitter, not a secret
        if now + pause > self._paused_until:
            self._paused_until = now + pause
            self.next_at = max(self.next_at, self._paused_until)
            log.warning("%s No %s for %.1f s.", answer.message, self._what, pause)


def asks_for_a_pause(error: MusicAPIError) -> bool:
    """Tell whether an error is a reason to leave the API alone for a while; it concerns no single request."""
    return (
        error.retry_after is not None
        or error.status_code == 503
        or isinstance(error, (MusicAPIThrottledError, MusicAPINotSentError))
    )
