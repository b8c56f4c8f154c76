"""
What a callback does: note it, settle its purchase, poll once, end or resume who waits.

A callback is a hint: the truth is read from the API. What is lost on the way costs minutes, not the track:
the trigger still polls by itself, rarely.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from musicapi_provider.api.verdict import judge
from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.links.extra_links import media_links
from musicapi_provider.triggers.events import BEGIN, FIRST_POLL_OF_TRIGGER, event_about
from musicapi_provider.waiting.wait import Wait, answer_about, doubts_from
from musicapi_provider.webhooks import airflow_tables as tables
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS
from musicapi_provider.webhooks.signature import Callback, Reason, RefusedError

if TYPE_CHECKING:
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.api.models import MusicTask, Track
    from musicapi_provider.hooks.base import MusicAPIBaseHook
    from musicapi_provider.links.place import Place
    from musicapi_provider.webhooks.airflow_tables import Waiting

log = logging.getLogger(__name__)

#: Seconds after which what still is to be done is tried again: the API may call before its own reads know,
#: and Airflow must have heard of a deferral before a task is resumed.
PAUSES = (0.0, 2.0, 6.0, 20.0, 60.0, 120.0)
#: Seconds after which nobody is at work on a callback whose end is not noted: its API server has died.
FORSAKEN = 60.0
#: Ids of deliveries that are remembered for each purchase.
MOST_IDS = 50


class Outcome(StrEnum):
    """What became of a callback whose signature holds."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Call:
    """
    A callback that was accepted.

    :param place: The task instance that bought the music task.
    """

    conn_id: str
    token: str
    music_task_id: str
    is_final: bool
    place: Place


@tables.again
def accept(conn_id: str, token: str, callback: Callback) -> tuple[Outcome, Call | None]:
    """
    Write down what a callback tells, durably and once, however many API servers there are.

    :return: And what is still to be done about it.
    :raises RefusedError: it is about a music task of another purchase.
    """
    with tables.transaction() as session:
        place = tables.payer(session, token)
        told = tables.told(session, place, token) if place else None
        if place is None or told is None:
            return Outcome.UNKNOWN, None
        if told.get("musicapi_conn_id") != conn_id:
            raise RefusedError(Reason.NOT_ITS_TOKEN)
        known = told.get("music_task_id") or tables.bought(session, place, token)
        if known not in (None, callback.music_task_id):
            raise RefusedError(Reason.NOT_ITS_TOKEN)
        if known is None and tables.is_bought_elsewhere(session, callback.music_task_id, place):
            raise RefusedError(Reason.NOT_ITS_TOKEN)
        call = Call(conn_id, token, callback.music_task_id, callback.is_final, place)
        ids = list(told.get("ids") or ())
        # The id is in a header, and headers are not signed: an event that is known is none, whatever its id.
        if callback.id in ids or callback.event in told.get("events", ()):
            forsaken = not told.get("done") and time.time() - told.get("at", 0.0) > FORSAKEN
            return Outcome.DUPLICATE, call if forsaken else None
        told.update(
            music_task_id=callback.music_task_id,
            ids=[*ids, callback.id][-MOST_IDS:],
            events=[*told.get("events", ()), callback.event][-MOST_IDS:],
            at=time.time(),
        )
        tables.tell(session, told)
        tables.leave_note(session, place, token)
        if callback.is_final:
            for waiting in {place, *tables.waiting_for(session, callback.music_task_id)}:
                tables.leave_note(session, waiting, callback.music_task_id)
    return Outcome.ACCEPTED, call


def act(call: Call, hook: MusicAPIBaseHook) -> bool:
    """
    Do what is to be done about a callback, and can be done now.

    :return: Whether nothing is left to do.
    """
    done = _resume_the_asking(call)
    if not call.is_final:
        return done
    polls = _Polls(hook.client)
    with tables.transaction() as session:
        places = {call.place, *tables.waiting_for(session, call.music_task_id)}
        found = [tables.deferred(session, place) for place in places]
        done = done and not any(tables.is_on_its_way(session, place) for place in places)
        wants_asset = tables.is_followed(session, COMPLETED_TRACKS)
    waits = [one for one in found if one and one.trigger == tables.TASK_TRIGGER]
    results = [_finish(waiting, call, polls) for waiting in waits]
    if wants_asset:
        results.append(_update_asset(call, polls))
    done = done and all(results)
    if done:
        _note_done(call)
    return done


def _resume_the_asking(call: Call) -> bool:
    """Let a task go on that waits to hear what became of its create."""
    with tables.transaction() as session:
        waiting = tables.deferred(session, call.place)
        if waiting is None or waiting.trigger != tables.CALLBACK_TRIGGER:
            return True
        if waiting.arguments.get("token") != call.token:
            return True
        return _may_resume(waiting) and tables.resume(session, waiting, BEGIN)


def _may_resume(waiting: Waiting) -> bool:
    """Tell whether Airflow has heard of the deferral by now: a resumed task fails before that (the race)."""
    return (datetime.now(UTC) - waiting.since).total_seconds() > FIRST_POLL_OF_TRIGGER


class _Polls:
    """Polls of music tasks, each once."""

    def __init__(self, client: MusicAPIClient) -> None:
        self._client = client
        self._answers: dict[str, MusicTask | MusicAPIError] = {}
        self.allow_http = client.settings.allow_http_audio

    def at(self, music_task_id: str) -> MusicTask | MusicAPIError:
        """Return the API's answer, or why there is none."""
        if music_task_id not in self._answers:
            self._answers[music_task_id] = answer_about(self._client, music_task_id)
        return self._answers[music_task_id]


def _finish(waiting: Waiting, call: Call, polls: _Polls) -> bool:
    """End a wait, or let a worker end it, when all that it waits for is done."""
    arguments = waiting.arguments
    with tables.transaction() as session:
        about = {**tables.started(session, waiting.place, call.music_task_id)}
        ids = arguments.get("music_task_ids") or about.get("music_task_ids") or []
        if call.music_task_id not in ids:
            return True  # the buyer, waiting for something else by now
        if set(ids) != tables.notes(session, waiting.place, ids):
            return True  # the callback that comes last ends it
    begun = float(arguments.get("started") or about["started"])
    wait = Wait(ids, float(arguments["timeout"]), begun, doubts_from(arguments.get("doubts")), quiet=True)
    try:
        for id_ in wait.pending:
            wait.learn(id_, polls.at(id_), allow_http=polls.allow_http)
    except MusicAPIError as error:
        log.warning("Music task %s cannot be polled: %s", call.music_task_id, error)
        return False
    if wait.pending:
        return False
    return _end(waiting, wait) if arguments.get("ends_here") else _resume(waiting, wait)


@tables.again
def _end(waiting: Waiting, wait: Wait) -> bool:
    arguments = waiting.arguments
    try:
        tracks = wait.tracks(fail_on_partial=bool(arguments.get("fail_on_partial"))) or []
    except MusicAPIError:
        return _resume(waiting, wait)  # a worker polls again, and says it as workers do
    result = [track.as_dict(include_lyrics=bool(arguments.get("include_lyrics"))) for track in tracks]
    xcom = {"return_value": result, **media_links(result)}
    with tables.transaction() as session:
        if tables.end(session, waiting, xcom):
            log.info("Callback: %s has its %d tracks and is done.", _name(waiting), len(result))
    return True


@tables.again
def _resume(waiting: Waiting, wait: Wait) -> bool:
    if not _may_resume(waiting):
        return False
    with tables.transaction() as session:
        if tables.resume(session, waiting, event_about(wait, {"status": "finished"})):
            log.info("Callback: %s goes on on a worker.", _name(waiting))
    return True


@tables.again
def _update_asset(call: Call, polls: _Polls) -> bool:
    """Tell of completed tracks, once."""
    tracks = _tracks(polls.at(call.music_task_id), allow_http=polls.allow_http)
    if not tracks:
        return tracks is not None
    about = {"music_task_id": call.music_task_id, "musicapi_conn_id": call.conn_id, **call.place._asdict()}
    with tables.transaction() as session:
        told = tables.told(session, call.place, call.token)
        if told is None or told.get("asset"):
            return True
        told["asset"] = True
        tables.tell(session, told)
        extra = {**about, "tracks": [track.as_dict() for track in tracks]}
        tables.update_asset(session, COMPLETED_TRACKS, extra)
    return True


def _tracks(answer: MusicTask | MusicAPIError, *, allow_http: bool) -> Sequence[Track] | None:
    """Return the usable tracks of a music task that is done, ``None`` while it is not known to be."""
    if isinstance(answer, MusicAPIError):
        return None
    verdict = judge(answer, allow_http=allow_http)
    return verdict.tracks if verdict.is_final else None


@tables.again
def _note_done(call: Call) -> None:
    with tables.transaction() as session:
        told = tables.told(session, call.place, call.token)
        if told is not None:
            told["done"] = True
            tables.tell(session, told)


def _name(waiting: Waiting) -> str:
    place = waiting.place
    mapped = f" [{place.map_index}]" if place.map_index >= 0 else ""
    return f"{place.dag_id}.{place.task_id}{mapped}"
