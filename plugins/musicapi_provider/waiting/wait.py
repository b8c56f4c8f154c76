"""
Poll music tasks, once or until they are done.

Between the client (one request) and the verdict (one answer) stands the poll: all awaited music tasks,
passing errors tolerated, doubtful answers given their time. Sensor, operator, hook and trigger wait with this
module, so that every mode tolerates the same things. No Airflow in here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from musicapi_provider.api.bodies import shortened
from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.api.verdict import State, Verdict, conclude, judge, judge_error
from musicapi_provider.exceptions import MusicAPIDeadlineError, MusicAPIError
from musicapi_provider.waiting.schedule import next_delay

if TYPE_CHECKING:
    from musicapi_provider.api.async_client import MusicAPIAsyncClient
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.api.models import MusicTask, Track

log = logging.getLogger(__name__)

#: Seconds after the waiting began during which "not found" proves nothing: read-after-write delay (facts 9).
UNKNOWN_TASK_GRACE = 60.0
#: Age in seconds at which a wait tells of its progress. Lines double in distance, whatever the mode: a dozen
#: in a day.
FIRST_LINE = 30.0
#: Seconds between polls that nothing undercuts, so that no answer and no setting makes a tight loop.
MIN_PAUSE = 0.05
#: Tracks that a log line names; of more it gives the count.
_FEW = 4

#: Epoch seconds since which answers are doubtful, and the patience that this kind of doubt has: a list,
#: since it goes through JSON.
Doubt = list[float]


@dataclass(slots=True)
class Wait:
    """
    The state of one wait: what is awaited, since when, and what is known.

    :param music_task_ids: Music tasks, in the order of the result.
    :param timeout: Seconds in total.
    :param started: Epoch seconds at which the wait began. Wall-clock: a wait may go on in another process.
    :param doubts: Since when an id's answers are doubtful; outlives the process as well.
    :param verdicts: The last verdict by id; final ones are not asked for again.
    """

    music_task_ids: Sequence[str]
    timeout: float
    started: float = field(default_factory=time.time)
    doubts: dict[str, Doubt] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    #: One of many, whose owner tells of all of them: no line of its own.
    quiet: bool = False
    #: Age up to which lines of progress were told, and what the last one said.
    _told: float | None = None
    _said: str = ""
    _changes: int = 0

    def __post_init__(self) -> None:
        for id_ in self.music_task_ids:
            self.verdicts.setdefault(id_, Verdict(State.RUNNING, "not polled yet"))

    @property
    def pending(self) -> list[str]:
        """The ids that are not final yet."""
        return [id_ for id_, verdict in self.verdicts.items() if not verdict.is_final]

    @property
    def age(self) -> float:
        """Seconds since the wait began."""
        return time.time() - self.started

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.timeout - self.age

    def learn(self, id_: str, answer: MusicTask | MusicAPIError, *, allow_http: bool) -> None:
        """
        Judge an answer about one music task, or the error of a poll.

        :raises MusicAPIError: the error, when it concerns the account, such as a revoked key.
        """
        if isinstance(answer, MusicAPIError):
            self.verdicts[id_] = judge_error(answer, in_grace=self.age < UNKNOWN_TASK_GRACE)
            return
        verdict = judge(answer, allow_http=allow_http)
        if verdict.patience is None:
            self.doubts.pop(id_, None)
        elif self._seconds_doubted(id_, verdict.patience) >= verdict.patience:
            verdict = judge(answer, allow_http=allow_http, confirmed=True)
        self.verdicts[id_] = verdict

    def _seconds_doubted(self, id_: str, patience: float) -> float:
        since, known = self.doubts.get(id_, (0.0, None))
        if known != patience:  # another kind of doubt has a patience of its own
            since = time.time()
            self.doubts[id_] = [since, patience]
        return time.time() - since

    def tracks(self, *, fail_on_partial: bool) -> list[Track] | None:
        """
        Return the tracks when all is final; ``None`` while there is something and time to wait for.

        :raises MusicAPIError: failed (see :func:`musicapi_provider.api.verdict.conclude`), or out of time.
        """
        if self.pending:
            if self.seconds_left <= 0:
                raise self._deadline_error()
            return None
        tracks, failures = conclude(self.verdicts, fail_on_partial=fail_on_partial)
        for failure in failures:
            log.warning("Not among the results: %s", failure)
        if not self.quiet:
            names = f": {', '.join(map(_name_of, tracks))}" if len(tracks) <= _FEW else ""
            log.info(
                "%d tracks of %d music tasks are ready after %.0f s%s",
                *(len(tracks), len(self.verdicts), self.age, names),
            )
        return tracks

    def delay(self, poll_interval: float | None) -> float:
        """
        Return the seconds to wait before the next poll, within the deadline.

        The schedule's delay, or a longer one when the server asked for it (``Retry-After``).
        """
        asked = [min(verdict.retry_after or 0.0, MAX_RETRY_AFTER) for verdict in self.verdicts.values()]
        delay = max(next_delay(self.age, poll_interval=poll_interval), *asked, MIN_PAUSE)
        return max(0.0, min(delay, self.seconds_left))

    def log_progress(self, next_poll: float) -> None:
        """
        Log how far the wait is, if a line is due: at the first poll and change, then ever more rarely.

        Lines hang on the age, so that a wait which goes through many processes does not tell more.

        :param next_poll: Seconds to the next poll.
        """
        if self.quiet:
            return
        age, line = self.age, self.progress
        # In a new process: the poll before was one interval ago.
        told = age - max(next_poll, 1.0) if self._told is None else self._told
        changed = self._told is not None and not self._changes and line != self._said
        if changed or told < _line_before(age):
            when = f", next poll in {next_poll:.0f} s" if math.isfinite(next_poll) else ""
            log.info("%s%s", line, when)
            self._changes += changed
            self._said = line
        self._told = age

    @property
    def seconds_to_line(self) -> float:
        """Seconds until the next line of progress is due."""
        last = _line_before(self.age)
        return (2 * last or FIRST_LINE) - self.age

    @property
    def progress(self) -> str:
        """How far the wait is, in a few words."""
        if len(self.verdicts) == 1:
            ((id_, verdict),) = self.verdicts.items()
            return f"Music task {id_}: {verdict.reason}"
        done = len(self.verdicts) - len(self.pending)
        return f"{done} of {len(self.verdicts)} music tasks done"

    def _deadline_error(self) -> MusicAPIDeadlineError:
        pending = self.pending
        return MusicAPIDeadlineError(
            f"After {self.timeout:g} s still running: {', '.join(pending)} "
            f"(last poll: {self.verdicts[pending[0]].reason}).",
            music_task_id=pending[0] if len(pending) == 1 else None,
        )


def _name_of(track: Track) -> str:
    title = shortened(track.title or track.clip_id or "untitled")
    return title if track.duration is None else f"{title} ({track.duration:.0f} s)"


def answer_about(client: MusicAPIClient, music_task_id: str) -> MusicTask | MusicAPIError:
    """Ask once about a music task; return the answer, or why there is none."""
    try:
        return client.get_task(music_task_id, retry=False)
    except MusicAPIError as error:
        return error


async def answer_about_async(
    client: MusicAPIAsyncClient, music_task_id: str, *, retry: bool = False
) -> MusicTask | MusicAPIError:
    """Ask about a music task; asynchronous twin of :func:`answer_about`."""
    try:
        return await client.get_task(music_task_id, retry=retry)
    except MusicAPIError as error:
        return error


def poll(client: MusicAPIClient, wait: Wait) -> None:
    """
    Poll once every music task that is not final yet.

    One request each: whoever waits polls again anyway.

    :raises MusicAPIError: something that concerns the account, such as a revoked key.
    """
    for id_ in wait.pending:
        wait.learn(id_, answer_about(client, id_), allow_http=client.settings.allow_http_audio)


async def poll_async(client: MusicAPIAsyncClient, wait: Wait, *, retry: bool = False) -> None:
    """
    Poll once every music task that is not final yet; asynchronous twin of :func:`poll`.

    :param retry: Repeat on passing failures: for whoever does not poll again.
    """
    for id_ in wait.pending:
        answer = await answer_about_async(client, id_, retry=retry)
        wait.learn(id_, answer, allow_http=client.settings.allow_http_audio)


def wait_for_tracks(
    client: MusicAPIClient,
    music_task_ids: Sequence[str],
    *,
    timeout: float,
    poll_interval: float | None = None,
    fail_on_partial: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> list[Track]:
    """
    Block until every music task is final.

    :param timeout: Seconds until :class:`MusicAPIDeadlineError`.
    :param poll_interval: Seconds between polls; ``None``: adaptive, see :mod:`.waiting.schedule`.
    :return: The usable tracks.
    :raises MusicAPIError: failed, refused, or out of time.
    """
    wait = Wait(music_task_ids, timeout)
    while True:
        poll(client, wait)
        if (tracks := wait.tracks(fail_on_partial=fail_on_partial)) is not None:
            return tracks
        delay = wait.delay(poll_interval)
        wait.log_progress(delay)
        pause(delay)


def doubts_from(value: object) -> dict[str, Doubt]:
    """Read doubts that came from another process, such as an event; what is no such thing is no doubt."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(id_): [float(number) for number in doubt] for id_, doubt in found if _is_doubt(doubt)}


def _is_doubt(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(isinstance(number, (int, float)) for number in value)


def _line_before(age: float) -> float:
    """Return the last age up to this one at which a line of progress is due: 0, 30, 60, 120 ..."""
    return FIRST_LINE * 2.0 ** math.floor(math.log2(age / FIRST_LINE)) if age >= FIRST_LINE else 0.0
