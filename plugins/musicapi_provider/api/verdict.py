"""
Decide what an answer about a music task means: running, succeeded, partial or failed.

The one place for this decision; sensor, operator and trigger all ask here, so that the modes cannot drift.
Pure: no clock, no network, no log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from musicapi_provider.api.models import FINAL_STATES, MusicTask, Track
from musicapi_provider.api.urls import is_usable_url
from musicapi_provider.exceptions import (
    MusicAPIError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIPartialResultError,
    MusicAPITaskFailedError,
    MusicAPIThrottledError,
    MusicAPITransientError,
    MusicAPIUnknownTaskError,
    Spent,
)

#: ``type`` words that end a music task, with the error each stands for (facts 3.1, 6.4).
FAILURE_TYPES: Mapping[str, type[MusicAPIError]] = {
    "failed": MusicAPITaskFailedError,
    "timeout": MusicAPITaskFailedError,
    "api_error": MusicAPITaskFailedError,
    "forbidden": MusicAPIModerationError,
}

#: Body codes of an answer without clips that mean "keep polling" (facts 3.1; 102 is seen in the quickstart).
RUNNING_CODES = frozenset({None, 102, 200, 202})

#: Seconds for which a succeeded clip may lack its final URL: it can come late (facts 9).
URL_PATIENCE = 90.0
#: Seconds for which an answer may have an unknown shape; at least one more poll confirms it (facts 9).
SHAPE_PATIENCE = 5.0
#: The next step where nothing shows that the API refunded.
NOT_REFUNDED = "look at the music task in the account's history; force_new=True buys it again."


class State(StrEnum):
    """Where a music task stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What one answer about a music task tells.

    :param tracks: Finished tracks with a usable audio URL.
    :param failures: One sentence per failed clip or failed task.
    :param error: What to raise when this is a failure.
    :param patience: Running for want of a better word: the answer fits no documented shape. Seconds after
        which the doubt counts as the end (see ``confirmed`` of :func:`judge`); ``None``: no doubt.
    :param retry_after: Seconds that the server asked to wait before the next poll.
    """

    state: State
    reason: str
    tracks: tuple[Track, ...] = ()
    failures: tuple[str, ...] = ()
    error: MusicAPIError | None = None
    patience: float | None = None
    retry_after: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether waiting is over."""
        return self.state is not State.RUNNING


def judge(task: MusicTask, *, allow_http: bool = False, confirmed: bool = False) -> Verdict:
    """
    Judge one answer of the task endpoint.

    :param allow_http: See :func:`.urls.is_usable_url`.
    :param confirmed: The answer has been doubtful for longer than its patience: decide.
    """
    if task.status_code == 202:
        return Verdict(State.RUNNING, "the API says it is not ready (HTTP 202)")
    if task.tracks:
        return _judge_clips(task, allow_http=allow_http, confirmed=confirmed)
    return _judge_envelope(task, confirmed=confirmed)


def judge_error(error: MusicAPIError, *, in_grace: bool) -> Verdict:
    """
    Judge a poll that raised: still running, or failed for good.

    :param in_grace: The music task is so young that not finding it proves nothing (facts 9).
    :raises MusicAPIError: the error itself when it concerns the account, not the music task (401, ...).
    """
    if isinstance(error, (MusicAPITransientError, MusicAPIThrottledError, MusicAPINotSentError)):
        return Verdict(State.RUNNING, error.message, retry_after=error.retry_after)
    if isinstance(error, MusicAPIUnknownTaskError):
        if in_grace:
            return Verdict(State.RUNNING, "the API does not know it yet")
        return Verdict(State.FAILED, error.message, failures=(error.message,), error=error)
    raise error


def conclude(verdicts: Mapping[str, Verdict], *, fail_on_partial: bool) -> tuple[list[Track], list[str]]:
    """
    Turn the final verdicts of all awaited music tasks into tracks, or into the error to raise.

    :param verdicts: Final verdict by music task id.
    :param fail_on_partial: Whether one failed clip or task among good ones is a failure.
    :return: All usable tracks, and a sentence for each thing that failed.
    :raises MusicAPIError: the single task's own error, or one that lists the failures.
    """
    tracks = [track for verdict in verdicts.values() for track in verdict.tracks]
    failures = [text for verdict in verdicts.values() for text in verdict.failures]
    if not failures or (tracks and not fail_on_partial):
        return tracks, failures
    errors = [verdict.error for verdict in verdicts.values() if verdict.error]
    if len(verdicts) == 1 and errors:
        raise errors[0]
    text = "; ".join(failures)
    if tracks:
        raise MusicAPIPartialResultError(f"{len(tracks)} clips succeeded and some did not: {text}.")
    refunded = all(error.spent is Spent.REFUNDED for error in errors)
    raise MusicAPITaskFailedError(
        f"None of {len(verdicts)} music tasks gave a track: {text}.",
        spent=Spent.REFUNDED if refunded else Spent.UNKNOWN,
    )


def _judge_clips(task: MusicTask, *, allow_http: bool, confirmed: bool) -> Verdict:
    running = [track for track in task.tracks if track.state not in FINAL_STATES or track.joining]
    if running:
        states = sorted({"joining" if track.joining else str(track.state) for track in running})
        return Verdict(State.RUNNING, f"{len(running)} of {len(task.tracks)} clips are {', '.join(states)}")
    succeeded = [track for track in task.tracks if track.state == "succeeded"]
    usable = tuple(track for track in succeeded if is_usable_url(track.audio_url, allow_http=allow_http))
    if len(usable) < len(succeeded) and not confirmed:
        return Verdict(State.RUNNING, "a succeeded clip has no usable audio URL", patience=URL_PATIENCE)
    failures = tuple(_clip_failure(track) for track in task.tracks if track not in usable)
    return _verdict_of(task, usable, failures)


def _clip_failure(track: Track) -> str:
    if track.state == "succeeded":
        return f"clip {track.clip_id} succeeded without a usable audio URL ({track.audio_url!r})"
    return f"clip {track.clip_id} failed: {track.error_message or 'no reason given'}"


def _verdict_of(task: MusicTask, usable: tuple[Track, ...], failures: tuple[str, ...]) -> Verdict:
    total = len(usable) + len(failures)
    if not failures:
        return Verdict(State.SUCCEEDED, f"{total} clips succeeded", usable)
    text = "; ".join(failures)
    if usable:
        partial = MusicAPIPartialResultError(
            f"{len(usable)} of {total} clips succeeded: {text}.", music_task_id=task.music_task_id
        )
        return Verdict(State.PARTIAL, f"{len(usable)} of {total} clips succeeded", usable, failures, partial)
    refunded = all(track.state == "failed" for track in task.tracks)
    failed = MusicAPITaskFailedError(
        f"No clip of the music task succeeded: {text}.",
        music_task_id=task.music_task_id,
        spent=Spent.REFUNDED if refunded else Spent.UNKNOWN,
        next_step=None if refunded else NOT_REFUNDED,
    )
    return Verdict(State.FAILED, f"all {total} clips failed", (), failures, failed)


def _judge_envelope(task: MusicTask, *, confirmed: bool) -> Verdict:
    """Judge an answer without clips: by its ``type``, else by its ``code``."""
    if task.status_code == 504:  # the client lets a 504 through only with refund text: terminal (facts 3.1)
        return _ended(task, MusicAPITaskFailedError, "timed out at the provider")
    if task.type is not None and task.type in FAILURE_TYPES:
        return _ended(task, FAILURE_TYPES[task.type], f"ended with {task.type!r}")
    if task.type == "not_ready":
        return Verdict(State.RUNNING, "the API says it is not ready")
    odd = task.type is not None or task.code not in RUNNING_CODES
    if not odd or not task.text or task.has_data:
        return Verdict(State.RUNNING, "the API lists no clips yet")
    name = f"type {task.type!r}" if task.type else f"code {task.code}"
    if confirmed:
        return _ended(
            task, MusicAPITaskFailedError, f"ended with the unknown {name}", Spent.UNKNOWN, NOT_REFUNDED
        )
    return Verdict(State.RUNNING, f"the answer has the unknown {name}", patience=SHAPE_PATIENCE)


def _ended(
    task: MusicTask,
    error_class: type[MusicAPIError],
    what: str,
    spent: Spent = Spent.REFUNDED,
    next_step: str | None = None,
) -> Verdict:
    error = error_class(
        f"The music task {what}.",
        music_task_id=task.music_task_id,
        server_text=task.text,
        spent=spent,
        next_step=next_step,
    )
    sentence = f"music task {task.music_task_id} {what}" + (f": {task.text}" if task.text else "")
    return Verdict(State.FAILED, what, failures=(sentence,), error=error)
