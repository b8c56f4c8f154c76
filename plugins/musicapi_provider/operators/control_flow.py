"""
Turn this provider's errors and waiting into Airflow's control flow.

Operators and sensors do it here and nowhere else: which errors end a task, how it defers, how it resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from musicapi_provider.exceptions import (
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPITaskFailedError,
    Spent,
)
from musicapi_provider.hooks.base import MusicAPIBaseHook
from musicapi_provider.hooks.notices import notices_of
from musicapi_provider.links.extra_links import MusicAPIMusicTaskLink, MusicAPITracksLink, music_tasks_url
from musicapi_provider.links.shown import ShowsFacts
from musicapi_provider.triggers.events import BEGIN, FIRST_POLL_OF_TRIGGER, error_from, wait_from
from musicapi_provider.waiting.wait import Wait, poll

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.api.models import Track
    from musicapi_provider.waiting.notices import Notices

#: Seconds to wait for tracks: well over the 10 minutes that the facts sheet advises as a minimum (facts 9).
DEFAULT_TIMEOUT = 1800.0


@contextmanager
def airflow_errors(*, buys: bool = False) -> Iterator[None]:
    """
    Raise what Airflow understands.

    * Out of time: ``AirflowSensorTimeout``. Airflow does not retry it: a retry would double the time.
    * What a retry cannot cure (bad body, key, credits, content, unknown outcome, failed music task):
      ``AirflowFailException``, so that no further try is made.
    * What a later try can cure (throttled, unreachable) passes as it is and follows the task's ``retries``.

    :param buys: The task's next try buys anew what has failed and was refunded, so that is curable, too.
    """
    try:
        yield
    except MusicAPIDeadlineError as error:
        raise AirflowSensorTimeout(str(error)) from error
    except MusicAPIError as error:
        if buys and type(error) is MusicAPITaskFailedError and error.spent is Spent.REFUNDED:
            raise error.but(
                next_step="the task's next retry buys it anew; if none is left, clear the task."
            ) from error
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error


class TalksToAPI(BaseOperator, ShowsFacts):
    """What all operators share that ask the API: a hook by their connection."""

    @cached_property
    def hook(self) -> MusicAPIBaseHook:
        """The hook; made at run time, when templates are rendered."""
        return MusicAPIBaseHook(self.musicapi_conn_id)


class WaitsForTracks(TalksToAPI):
    """
    What the sensor and the waiting create operator share: poll, defer, resume, collect.

    Whoever resumes polls again, with the code of the first poll, so every mode ends the same way.
    """

    timeout: float
    fail_on_partial: bool
    include_lyrics: bool
    #: Seconds between polls as the user fixed them; ``None``: the connection's, else adaptive.
    poll_interval: float | None
    #: Whether the next try of this task buys anew what has failed.
    buys: bool = False
    #: End the task in the triggerer when it succeeds.
    ends_in_triggerer: bool = False
    #: Whether notices are expected when the music tasks are done; ``None``: as the connection says.
    webhook: bool | None = None

    @cached_property
    def notices(self) -> Notices:
        """What this task is told about its music tasks, rather than asking."""
        return notices_of(self.hook.settings, self.webhook, self.musicapi_conn_id)

    def show_only_music_tasks(self, music_task_ids: Sequence[str]) -> None:
        """Leave out the links that have nothing to show: Airflow pushes empty ones, too, a request each."""
        self.music_task_ids = list(music_task_ids)
        self.operator_extra_links = (MusicAPIMusicTaskLink(),)

    def show_music_tasks(self, context: Context, music_task_ids: Sequence[str]) -> None:
        """Show the link to the music tasks now: Airflow asks for links when a worker is done waiting."""
        self.music_task_ids = list(music_task_ids)
        try:
            url = music_tasks_url(context["ti"], self.musicapi_conn_id, self.music_task_ids)
            context["ti"].xcom_push(key=MusicAPIMusicTaskLink().xcom_key, value=url)
        except Exception:  # a button is not what a paid task fails by
            self.log.warning("The link to the music task could not be shown.", exc_info=True)

    def poll(self, wait: Wait, *, next_poll: float) -> list[dict[str, object]] | None:
        """
        Poll once; return the result when all is final, ``None`` while there is time to wait.

        :param next_poll: Seconds to the next poll, for the log.
        :raises MusicAPIError: failed, refused, or out of time.
        """
        self.music_task_ids = list(wait.music_task_ids)
        poll(self.hook.client, wait)
        tracks = wait.tracks(fail_on_partial=self.fail_on_partial)
        if tracks is None:
            wait.log_progress(next_poll)
            return None
        return self.result(tracks)

    def result(self, tracks: Sequence[Track]) -> list[dict[str, object]]:
        """Return tracks as they go to XCom."""
        self.operator_extra_links = tuple(
            link
            for link in type(self).operator_extra_links
            if self.destination is not None or not isinstance(link, MusicAPITracksLink)
        )
        self.collected_tracks = [track.as_dict(include_lyrics=self.include_lyrics) for track in tracks]
        return self.collected_tracks

    def poll_or_defer(self, context: Context, wait: Wait) -> list[dict[str, object]]:
        """Poll once and return the result, or hand the wait to the triggerer (which raises)."""
        with airflow_errors(buys=self.buys):
            self.notices.announce(context, wait)
            result = self.poll(wait, next_poll=FIRST_POLL_OF_TRIGGER)
        if result is None:
            if self._is_told(wait):
                self.notices.withdraw(context, set(wait.music_task_ids) - set(wait.pending))
            self.wait_in_triggerer(wait)
        return result

    def execute_complete(self, context: Context, event: object = None) -> list[dict[str, object]]:
        """
        Go on after the trigger: poll again, and finish or wait on.

        :param event: A hint of the trigger, one of a closed set; anything else is refused.
        """
        if event == BEGIN:
            return self.execute(context)  # type: ignore[no-any-return]
        with airflow_errors(buys=self.buys):
            wait = wait_from(event, timeout=self.timeout)
            if (error := error_from(event)) is not None:
                if (result := self.poll(wait, next_poll=math.inf)) is not None:
                    return result
                raise error  # what the triggerer could not do, it will not do when asked again
        return self.poll_or_defer(context, wait)

    def _is_told(self, wait: Wait) -> bool:
        """Tell whether notices are expected about a wait, so that it is polled rarely."""
        return self.notices.poll_interval(wait.music_task_ids) is not None

    def wait_in_triggerer(self, wait: Wait) -> NoReturn:
        """Hand the wait to the triggerer."""
        from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
        from musicapi_provider.triggers.worker_free import why_not

        self.show_only_music_tasks(wait.music_task_ids)
        is_told = self._is_told(wait)
        trigger = MusicAPITaskTrigger(
            music_task_ids=wait.music_task_ids,
            musicapi_conn_id=self.musicapi_conn_id,
            timeout=wait.timeout,
            started=wait.started,
            first_poll_time=time.time() + FIRST_POLL_OF_TRIGGER,
            poll_interval=self.poll_interval,
            doubts=wait.doubts,
            ends_here=self.destination is None
            and (self.ends_in_triggerer or (is_told and why_not(self) is None)),
            webhook=is_told,
            fail_on_partial=self.fail_on_partial,
            include_lyrics=self.include_lyrics,
        )
        # Airflow gets no timeout: its own skips execute_complete. The trigger keeps the deadline.
        self.defer(trigger=trigger, method_name="execute_complete")
