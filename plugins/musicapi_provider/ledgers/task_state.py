"""
Airflow's task state store: what belongs to a slot only. It may be gone after a clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.purchases.folder import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor
    from pydantic import JsonValue


class TaskState:
    """The notes of one task instance: expected callbacks, and the purchases of version 0.1."""

    place = "task state store"

    def __init__(self, context: Context) -> None:
        try:
            self._store: TaskStateStoreAccessor = context["task_state_store"]
        except KeyError as error:
            raise MusicAPIConfigurationError(
                "This Airflow has no task state store; nothing was sent.",
                next_step="use Airflow 3.3 or later.",
            ) from error

    def get(self, key: str) -> object:
        """Return the value, or ``None``."""
        return guarded(self.place, lambda: self._store.get(key))

    def set(self, key: str, value: Mapping[str, object]) -> None:
        """Write the value; it never expires, since money does not."""
        guarded(
            self.place, lambda: self._store.set(key, cast("JsonValue", dict(value)), retention=NEVER_EXPIRE)
        )

    def delete(self, key: str) -> None:
        """Remove the value."""
        guarded(self.place, lambda: self._store.delete(key))
