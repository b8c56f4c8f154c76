"""
A store for ledgers in Airflow's task state store: per dag run, task and map index.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.purchases import KEY
from musicapi_provider.purchases.folder import guarded

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

log = logging.getLogger(__name__)


class TaskStateStore:
    """
    The ledger of one task instance.

    It survives kills, retries and clears; XCom does not, and is never the record. It ends with the dag run
    (``airflow db clean``, deleting the run), and with success where ``[state_store] clear_on_success`` is on.
    """

    place = f"task state {KEY!r}"

    def __init__(self, context: Context) -> None:
        try:
            self._store: TaskStateStoreAccessor = context["task_state_store"]
        except KeyError as error:
            raise MusicAPIConfigurationError(
                "This Airflow has no task state store to record a purchase in; nothing was sent.",
                next_step="use Airflow 3.3 or later.",
            ) from error
        if conf.getboolean("state_store", "clear_on_success", fallback=False):
            log.warning(
                "[state_store] clear_on_success is on: Airflow forgets this purchase when the task succeeds, "
                "and clearing the task then BUYS AGAIN. Turn the option off to be safe."
            )

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        return guarded("task state store", lambda: self._store.get(key))

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write the value; it never expires, since money does not."""
        guarded("task state store", lambda: self._store.set(key, value, retention=NEVER_EXPIRE))

    def delete(self, key: str) -> None:
        """Remove the value."""
        guarded("task state store", lambda: self._store.delete(key))
