"""
What triggers tell whoever resumes: written and read here only.
"""

from __future__ import annotations

from collections.abc import Mapping

from musicapi_provider import exceptions
from musicapi_provider.exceptions import MusicAPIError, MusicAPITriggerEventError
from musicapi_provider.waiting.wait import Wait, doubts_from

#: The closed set of event statuses: worth polling, out of time, refused (``error`` names the class); and
#: the event that says "a worker must begin this wait".
STATUSES = frozenset({"finished", "timeout", "error"})
BEGIN = {"status": "begin"}
#: Seconds for which a trigger keeps still, whatever the poll interval. If it fires before the scheduler has
#: handled the end of the task's first phase, Airflow 3.3 fails the task (``airflow-notes.md``, the race):
#: with polls after 2 s, 2 of 9 sensors failed on a busy machine.
FIRST_POLL_OF_TRIGGER = 5.0


def event_about(wait: Wait, outcome: Mapping[str, object]) -> dict[str, object]:
    """Return an event that says what it is about: ``dag.test()`` drops the arguments of a deferral."""
    about = {"music_task_ids": list(wait.music_task_ids), "started": wait.started, "doubts": wait.doubts}
    return {**outcome, **about}


def wait_from(event: object, *, timeout: float) -> Wait:
    """
    Return the wait that an event of :class:`MusicAPITaskTrigger` is about.

    :raises MusicAPITriggerEventError: an event outside the closed set, also ``None``.
    """
    if isinstance(event, dict) and str(event.get("status")) in STATUSES:
        ids, started = event.get("music_task_ids"), event.get("started")
        if isinstance(ids, list) and ids and isinstance(started, (int, float)):
            return Wait(ids, timeout, started, doubts_from(event.get("doubts")))
    raise MusicAPITriggerEventError(f"The trigger sent an unknown event: {event!r}.")


def error_from(event: object) -> MusicAPIError | None:
    """Return the error that an event carries, of the class that the trigger met."""
    if not isinstance(event, Mapping) or event.get("status") != "error":
        return None
    error_class = getattr(exceptions, str(event.get("error")), MusicAPIError)
    if not (isinstance(error_class, type) and issubclass(error_class, MusicAPIError)):
        error_class = MusicAPIError
    text = f"In the triggerer: {event.get('message')}"
    return error_class(text, spent=exceptions.Spent.NO_EFFECT, next_step="")
