"""
Being told instead of asking: somebody may say that a music task is done, or what became of a create.

Whoever waits polls in any case; where a notice is expected, rarely. Who gives notices is not known here:
:func:`musicapi_provider.hooks.notices.notices_of` finds that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from musicapi_provider.purchases import Callbacks
    from musicapi_provider.waiting.wait import Wait


class Notices:
    """
    What the tasks of a connection are told: here, nothing; who gives notices says otherwise.

    Methods with a ``context`` are for workers, coroutines for triggerers, whose task instance is ``ti``.
    """

    def poll_interval(self, music_task_ids: Sequence[str], *, begun: bool = True) -> float | None:
        """
        Return the seconds between polls while notices about all of these are expected.

        :param begun: A worker has begun the wait: it has polled once, and announced it.
        :return: ``None``: none are; they are polled as ever.
        """

    def announce(self, context: Context, wait: Wait) -> None:
        """Say what this task waits for, so that notices find it; before it polls, that none is missed."""

    def withdraw(self, context: Context, music_task_ids: Iterable[str]) -> None:
        """Say that these are done already: no notice will come, and the others' end the wait."""

    async def announce_here(self, ti: TaskInstance, wait: Wait) -> None:
        """Announce a wait that no worker has begun; failing, it is polled."""

    async def have_come(self, ti: TaskInstance, music_task_ids: Sequence[str]) -> bool:
        """Tell whether there are notices about all of these; not, where nobody can say."""
        return False

    def callbacks(self, context: Context) -> Callbacks | None:
        """Return how purchases of this task are named by notices; ``None``: they are not."""

    def patience(self, timeout: float) -> float:
        """Return the seconds for which a notice about a lost answer is worth waiting for."""
        return 0.0

    def await_name(self, context: Context, token: str, until: float) -> None:
        """Block until a purchase is named, or until then (epoch seconds)."""

    def naming_trigger(self, token: str, until: float, first_poll_time: float) -> BaseTrigger:
        """Return what waits in the triggerer for that; its event makes a worker begin anew."""
        raise NotImplementedError  # with no patience nobody asks
