"""
The sensor: wait for music tasks that somebody else submitted. Waiting buys nothing, so it is safe to retry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.links.extra_links import MusicAPICoverLink, MusicAPIListenLink, MusicAPIMusicTaskLink
from musicapi_provider.operators.control_flow import (
    DEFAULT_TIMEOUT,
    WaitsForTracks,
    airflow_errors,
)
from musicapi_provider.sensors.mapped import is_expanded
from musicapi_provider.waiting.ids import checked_ids
from musicapi_provider.waiting.wait import Doubt, Wait, doubts_from

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


#: Seconds between pokes: the lower end of what the vendor recommends (facts 1).
DEFAULT_POKE_INTERVAL = 15.0
#: Task state key under which a rescheduled sensor remembers doubtful answers from poke to poke.
DOUBTS_KEY = "musicapi_doubts"


class MusicAPITaskSensor(WaitsForTracks, BaseSensorOperator):
    """
    Wait until music tasks are done and return their tracks.

    Costs no credits, whatever happens. A music task is done when every clip has succeeded or failed; a clip
    counts only with a final audio URL, never with a streaming one. Passing errors (time-outs, 429, 5xx,
    unreadable answers) are tolerated until the deadline; a refused key ends the wait at once, an unknown id
    after 60 s.

    Returns (XCom) a list of track dicts, about 600 bytes each: ``music_task_id, clip_id, title, audio_url,
    image_url, video_url, duration`` (float seconds)``, tags, mv, created_at`` (and ``lyrics``).

    .. seealso:: ``musicapi-facts.md`` 1.1 and 3.1 for what final means, 9 for the unknowns.

    :param music_task_id: One music task id or a list of them; a create operator's output (templated).
    :param musicapi_conn_id: Airflow connection, the same key that submitted (templated).
    :param poke_interval: Seconds between polls. Default: 15 in poke and reschedule mode (the vendor
        recommends 15 to 25); when deferrable the connection's ``poll_interval``, else adaptive.
    :param timeout: Seconds to wait in total, in every mode. Default 30 minutes.
    :param deferrable: Wait in the triggerer without a worker slot. Default: Airflow's ``default_deferrable``.
    :param fail_on_partial: Fail when some clips failed and others succeeded. Default: return what succeeded,
        log what failed; it is paid for.
    :param include_lyrics: Also return lyrics, up to 5,000 characters a track.
    :param worker_free: Wait, and where possible also start and end, in the triggerer: a success then never
        touches a worker, which spares two worker starts and about a second (``airflow-notes.md``). Failures
        go to a worker, so that they mean the same. It starts on a worker when mapped or when the ids come
        from a mapped task, and ends on one with ``outlets`` or a custom XCom backend. Airflow calls no
        listeners for such an end, and gives each trigger that starts a task a copy of the whole DAG: with
        500 such sensors in one DAG that was 2.9 MiB each (measured), so keep those DAGs small. Off by
        default.
    :param webhook: The API calls when the music task is done (docs/webhooks.md): a deferred sensor ends
        within a second of it, and polls every 5 minutes only. Default: as the connection says. Say ``False``
        for music tasks that were bought without a webhook.
    :param prompt_id: The prompt table's row that this belongs to, for labels and logs (templated).
    :raises ValueError: ``worker_free`` with a template as ``music_task_id``: pass an id or a task's output.
    :raises AirflowFailException: failed, refused or unknown; a retry cannot cure it.
    :raises AirflowSensorTimeout: still running at the deadline; clearing the task goes on waiting.
    """

    template_fields: Sequence[str] = ("music_task_id", "musicapi_conn_id", "prompt_id")
    operator_extra_links = (MusicAPIListenLink(), MusicAPICoverLink(), MusicAPIMusicTaskLink())
    ui_color = "#e8def8"

    def __init__(
        self,
        *,
        music_task_id: str | list[str] | XComArg,
        musicapi_conn_id: str = DEFAULT_CONN_ID,
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_on_partial: bool = False,
        include_lyrics: bool = False,
        worker_free: bool = False,
        webhook: bool | None = None,
        prompt_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            poke_interval=DEFAULT_POKE_INTERVAL if poke_interval is None else poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.music_task_id = music_task_id
        self.musicapi_conn_id = musicapi_conn_id
        self.poll_interval = None if poke_interval is None else self.poke_interval
        self.deferrable = deferrable or worker_free
        self.worker_free = worker_free
        self.fail_on_partial = fail_on_partial
        self.include_lyrics = include_lyrics
        self.webhook = webhook
        self.prompt_id = prompt_id
        # None: what an earlier try remembered is not ours, so the first poke writes in any case.
        self._remembered: dict[str, Doubt] | None = None
        if worker_free and not is_expanded(self):
            self._start_in_triggerer()

    def _start_in_triggerer(self) -> None:
        """Tell Airflow to start this task in the triggerer, where nothing is lost by that."""
        from musicapi_provider.triggers.worker_free import start_args

        self.start_trigger_args = start_args(self)
        # Airflow decides by these attributes of an instance, so a mapped sensor starts on a worker: for those
        # it would send the arguments unexpanded (airflow-notes.md).
        self.start_from_trigger = self.start_trigger_args is not None

    def execute(self, context: Context) -> Any:
        """Wait in the chosen mode; a deferrable sensor polls once before it defers."""
        with self._skipping():
            with airflow_errors():
                self._wait = self._begin(context)
            if self.worker_free:
                self._end_in_triggerer()
            if self.deferrable:
                return self.poll_or_defer(context, self._wait)
        # The deadline is the wait's, checked in poke: BaseSensorOperator's would name no ids, and would not
        # honour never_fail as it does for deferred sensors.
        timeout, self.timeout = self.timeout, math.inf
        try:
            return super().execute(context)
        finally:
            self.timeout = timeout

    def execute_complete(self, context: Context, event: object = None) -> list[dict[str, object]]:
        """Go on after the trigger, see :class:`WaitsForTracks`."""
        with self._skipping():
            return super().execute_complete(context, event)

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        """Skip instead of failing, if that is wanted, and log why: Airflow would not."""
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout) as error:
            flag = "soft_fail" if self.soft_fail else "never_fail" if self.never_fail else None
            if flag is None:
                raise
            self.log.warning("Skipping: %s", error)
            # Airflow's words: it replaces any others when a deferred sensor resumes.
            raise AirflowSkipException(f"Skipping due to {flag} is set to True.") from error

    def _end_in_triggerer(self) -> None:
        """Let the task end in the triggerer, unless something would be lost by that."""
        from musicapi_provider.triggers.worker_free import why_not

        reason = why_not(self)
        self.ends_in_triggerer = reason is None
        if reason:
            self.log.info("This wait ends on a worker: %s", reason)

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once what is not final yet."""
        with self._skipping(), airflow_errors():
            result = self.poll(self._wait, next_poll=self.poke_interval)
        if self.reschedule and self._wait.doubts != self._remembered:
            doubts: Any = self._wait.doubts
            context["task_state_store"].set(DOUBTS_KEY, doubts)
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def on_kill(self) -> None:
        """Say what stays behind."""
        self.log.warning(
            "No longer waiting for %s: it goes on at the API and its credits stay spent.", self.music_task_id
        )

    def _begin(self, context: Context) -> Wait:
        """Return the wait; a rescheduled sensor goes on with the one of its first poke."""
        wait = Wait(checked_ids(self.music_task_id), self.timeout)
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        if first:
            wait.started = first.timestamp()
            wait.doubts = doubts_from(context["task_state_store"].get(DOUBTS_KEY))
            self._remembered = dict(wait.doubts)
        elif not self.deferrable:
            self.show_music_tasks(context, wait.music_task_ids)
        return wait
