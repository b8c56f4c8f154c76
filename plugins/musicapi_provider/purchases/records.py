"""
Where submission records live: Airflow's task state store, or a folder that outlives dag runs.

A folder's record of a row also says what is stored of it: one file is all that is known of a row.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPINotSentError, Spent
from musicapi_provider.files import bytes_of, contents_of, list_names, put_whole, remove

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

log = logging.getLogger(__name__)

#: Subfolder of a table's destination that holds a record per row.
PURCHASES = "purchases"
#: Key of a row's file under which stands what is stored of it.
STORED_KEY = "stored"


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
    What is known of one row of a table, as a file: it outlives dag runs, map indexes and Airflow.

    The file holds the submission records of the row's body and, once its tracks are stored, their records:
    what a later run must buy is decided by it.

    One run at a time may work on a folder (``max_active_runs=1``): object storage has no locks.

    :param folder: The table's destination; the file lies in ``purchases/`` below it.
    :param prompt_id: The row: two rows with the same body are two songs.
    :param fingerprint: The body and account: an edited row is another purchase.
    """

    def __init__(self, folder: ObjectStoragePath, prompt_id: str, fingerprint: str) -> None:
        self._folder = folder / PURCHASES
        self._path = self._folder / record_name(prompt_id, fingerprint)
        self._content: bytes | None = None
        #: The JSON object in it; ``None``: not read yet.
        self._known: dict[str, Any] | None = None
        self.place = f"file {self._path}"

    def get(self, key: str) -> Any:
        """Return the record, ``None`` without a file; anything else as text, which is no record."""
        content = self._read()
        if content is None:
            return None
        return self._object.get(key) or content.decode("utf-8", errors="replace")

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write the record; a process that dies meanwhile leaves the old one or the new one."""
        self._put({**self._object, key: value})

    def delete(self, key: str) -> None:
        """Remove the record, and the file when nothing else is in it."""
        rest = {name: value for name, value in self._object.items() if name != key}
        if rest:
            self._put(rest)
        else:
            self._guarded(lambda: remove(self._path))
            self._know(None)

    def stored_tracks(self, music_task_id: str | None) -> list[dict[str, Any]]:
        """Return the records of the tracks of a music task that are stored; none while they are not."""
        stored = self._object.get(STORED_KEY)
        if (
            not isinstance(stored, dict)
            or music_task_id is None
            or stored.get("music_task_id") != music_task_id
        ):
            return []
        tracks = stored.get("tracks")
        if not isinstance(tracks, list) or not all(isinstance(track, dict) for track in tracks):
            return []
        return tracks

    def set_stored(self, music_task_id: str, tracks: Sequence[Mapping[str, Any]]) -> None:
        """Write down that a music task's tracks are stored; about 800 bytes a track."""
        self.set(STORED_KEY, {"music_task_id": music_task_id, "tracks": [dict(track) for track in tracks]})

    def _read(self) -> bytes | None:
        """Return the file's content, ``None`` without one; read once: nobody else writes it meanwhile."""
        if self._known is None:
            self._know(self._guarded(lambda: bytes_of(self._path)))
        return self._content

    @property
    def _object(self) -> dict[str, Any]:
        """The JSON object in the file; an empty one where there is none."""
        self._read()
        return self._known or {}

    def _know(self, content: bytes | None) -> None:
        self._content, self._known = content, _parsed(content)

    def _put(self, value: Mapping[str, Any]) -> None:
        content = json.dumps(value).encode()
        self._guarded(lambda: put_whole(self._path, [content]))
        self._know(content)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        return _guarded(f"storage of the records ({self._folder})", call)


def read_records(folder: ObjectStoragePath, rows: Iterable[tuple[str, str]]) -> list[FolderRecords]:
    """
    Return what is known of many rows now: one listing, then the files that are there, many at a time.

    :param folder: The table's destination.
    :param rows: Prompt id and fingerprint of each.
    :raises MusicAPINotSentError: the storage does not answer; nothing may be bought without it.
    """
    found = [FolderRecords(folder, *row) for row in rows]
    purchases = folder / PURCHASES
    contents = _guarded(
        f"storage of the records ({purchases})",
        lambda: contents_of(purchases, {one._path.name for one in found} & list_names(purchases).keys()),
    )
    for one in found:
        one._know(contents.get(one._path.name))
    return found


def _parsed(content: bytes | None) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one where there is none."""
    try:
        value = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


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
