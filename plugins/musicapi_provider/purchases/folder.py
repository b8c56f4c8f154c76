"""
A store for ledgers in a folder of object storage: it outlives dag runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from musicapi_provider.exceptions import MusicAPINotSentError, Spent
from musicapi_provider.files import bytes_of, contents_of, list_names, put_whole, remove

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_Result = TypeVar("_Result")

#: Subfolder of a table's destination that holds a file per row.
PURCHASES = "purchases"


class FolderStore:
    """
    What is known of one row of a table, as a file: it outlives dag runs, map indexes and Airflow.

    The file holds the row's ledger and, under keys of their own, what else is to be known of it, such as what
    is stored.

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
        self._known: dict[str, object] | None = None
        self.place = f"file {self._path}"

    def get(self, key: str) -> object:
        """Return the record, ``None`` without a file; anything else as text, which is no record."""
        content = self._read()
        if content is None:
            return None
        return self._object.get(key) or content.decode("utf-8", errors="replace")

    def set(self, key: str, value: dict[str, object]) -> None:
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

    def _read(self) -> bytes | None:
        """Return the file's content, ``None`` without one; read once: nobody else writes it meanwhile."""
        if self._known is None:
            self._know(self._guarded(lambda: bytes_of(self._path)))
        return self._content

    @property
    def _object(self) -> dict[str, object]:
        """The JSON object in the file; an empty one where there is none."""
        self._read()
        return self._known or {}

    def _know(self, content: bytes | None) -> None:
        self._content, self._known = content, _parsed(content)

    def _put(self, value: Mapping[str, object]) -> None:
        content = json.dumps(value).encode()
        self._guarded(lambda: put_whole(self._path, [content]))
        self._know(content)

    def _guarded(self, call: Callable[[], _Result]) -> _Result:
        return guarded(f"storage of the records ({self._folder})", call)


def read_stores(folder: ObjectStoragePath, rows: Iterable[tuple[str, str]]) -> list[FolderStore]:
    """
    Return what is known of many rows now: one listing, then the files that are there, many at a time.

    :param folder: The table's destination.
    :param rows: Prompt id and fingerprint of each.
    :raises MusicAPINotSentError: the storage does not answer; nothing may be bought without it.
    """
    found = [FolderStore(folder, *row) for row in rows]
    purchases = folder / PURCHASES
    contents = guarded(
        f"storage of the records ({purchases})",
        lambda: contents_of(purchases, {one._path.name for one in found} & list_names(purchases).keys()),
    )
    for one in found:
        one._know(contents.get(one._path.name))
    return found


def _parsed(content: bytes | None) -> dict[str, object]:
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


def guarded(what: str, call: Callable[[], _Result]) -> _Result:
    """
    Ask a store; whatever it raises, nothing may be bought without it.

    :raises MusicAPINotSentError: it does not answer.
    """
    try:
        return call()
    except Exception as error:  # whatever the backend raises: no record, no purchase
        raise MusicAPINotSentError(
            f"The {what} failed ({type(error).__name__}: {error}); this try has sent nothing.",
            spent=Spent.UNKNOWN,  # earlier tries may have bought; that is what cannot be read
            next_step="look at the API server's log, or at the storage; a later try goes on where this one "
            "stopped.",
        ) from error
