"""
Where submission records live: Airflow's task state store, or a folder that outlives dag runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPINotSentError, Spent

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

log = logging.getLogger(__name__)

#: Subfolder of a table's destination that holds a record per row.
PURCHASES = "purchases"


class TaskStateRecords:
    """
    Submission records in Airflow's task state store: per dag run, task and map index.

    It survives kills, retries and clears; XCom does not, and is never the record. It ends with the dag run
    (``airflow db clean``, deleting the run), and with success where ``[state_store] clear_on_success`` is on.
    """

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
        """Return the record, or ``None``."""
        return _guarded("task state store", lambda: self._store.get(key))

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write the record; it never expires, since money does not."""
        _guarded("task state store", lambda: self._store.set(key, value, retention=NEVER_EXPIRE))

    def delete(self, key: str) -> None:
        """Remove the record."""
        _guarded("task state store", lambda: self._store.delete(key))


class FolderRecords:
    """
    The submission record of one row of a table, as a file: it outlives dag runs, map indexes and Airflow.

    One run at a time may work on a folder (``max_active_runs=1``): object storage has no locks.

    :param folder: The table's destination; the file lies in ``purchases/`` below it.
    :param prompt_id: The row: two rows with the same body are two songs.
    :param fingerprint: The body and account: an edited row is another purchase.
    """

    def __init__(self, folder: ObjectStoragePath, prompt_id: str, fingerprint: str) -> None:
        self._path = folder / PURCHASES / record_name(prompt_id, fingerprint)
        self.place = f"file {self._path}"

    def get(self, key: str) -> Any:
        """Return the record, ``None`` without a file; anything else as text, which is no record."""

        def read() -> Any:
            try:  # not exists(): it says no as well when the storage does not answer
                text = self._path.read_bytes().decode("utf-8", errors="replace")
            except FileNotFoundError:
                return None
            try:
                return json.loads(text)[key] or text
            except (ValueError, TypeError, KeyError):
                return text

        return self._guarded(read)

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write the record; a process that dies meanwhile leaves the old one or the new one."""
        self._guarded(lambda: self._write(json.dumps({key: value}).encode()))

    def delete(self, key: str) -> None:
        """Remove the record."""
        self._guarded(lambda: self._path.unlink(missing_ok=True))

    def _write(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.protocol not in ("file", "local"):
            self._path.write_bytes(content)  # object storages put whole objects
            return
        path = Path(self._path.path)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        return _guarded(f"storage of the records ({self._path.parent})", call)


def record_name(prompt_id: str, fingerprint: str) -> str:
    """Return the name of a row's record: readable, and of its own whatever the prompt id is made of."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", prompt_id)[:60].strip("-")
    digest = hashlib.sha256(json.dumps([prompt_id, fingerprint]).encode()).hexdigest()[:32]
    return f"{readable or 'row'}-{digest}.json"


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # whatever the backend raises: no record, no purchase
        raise MusicAPINotSentError(
            f"The {what} failed ({type(error).__name__}: {error}); this try has sent nothing.",
            spent=Spent.UNKNOWN,  # earlier tries may have bought; that is what cannot be read
            next_step="look at the API server's log, or at the storage; a later try goes on where this one "
            "stopped.",
        ) from error
