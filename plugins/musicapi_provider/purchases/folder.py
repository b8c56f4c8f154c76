"""
A store for ledgers in a folder of object storage: it outlives dag runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from musicapi_provider.exceptions import MusicAPIError, MusicAPINotSentError, Spent
from musicapi_provider.files import bytes_of, contents_of, list_names, put_whole, remove
from musicapi_provider.purchases import claims
from musicapi_provider.purchases.claims import Claim
from musicapi_provider.purchases.ledger import KEY, Ledger, LedgerStore, purchases_from
from musicapi_provider.purchases.twins import SAME_ORDER, chosen, is_free, names

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.purchases.purchase import Asker, Purchase

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Subfolder of a table's destination that holds a file per row.
PURCHASES = "purchases"
#: Purchases of one order, without prompt id, that are looked for by the names of their files.
MOST_TWINS = 1000
#: What the file of an order without a readable prompt id is called.
_NAMELESS = re.compile(r"row-[0-9a-f]{32}\.json")
#: Files of equal orders that may be missing between others.
GAPS = 1


class FolderStore(LedgerStore):
    """
    What is known of one order, as a file: it outlives dag runs, map indexes and Airflow.

    The file holds the order's ledger and, under keys of their own, what else is to be known of it, such as
    what is stored. An order without prompt id that is placed twice in one dag run has two files.

    :param folder: The table's destination; the file lies in ``purchases/`` below it.
    :param prompt_id: The row: two rows with the same body are two songs; an order without one is its body.
    :param fingerprint: The body and account: an edited row is another purchase.
    :param asker: Who asks, and holds the claim; ``None``: somebody who only reads.
    :param require_claims: Refuse to buy where the storage has no exclusive create, see
        :class:`.claims.Claim`.
    """

    def __init__(
        self,
        folder: ObjectStoragePath,
        prompt_id: str,
        fingerprint: str,
        asker: Asker | None = None,
        *,
        require_claims: bool = True,
    ) -> None:
        self._folder = folder / PURCHASES
        self._prompt_id = prompt_id
        self.asker = asker
        first = self._folder / record_name(prompt_id, fingerprint)
        self._claim = Claim(first, asker.owner if asker else "", required=require_claims)
        self._open(first)

    @classmethod
    def of_file(
        cls,
        folder: ObjectStoragePath,
        name: str,
        fingerprint: str,
        asker: Asker | None = None,
        *,
        require_claims: bool = True,
    ) -> FolderStore:
        """
        Return the store of a file that is there, by its name: it does not tell the whole prompt id.

        :param name: In ``purchases/``. Twins of an order are claimed by its first file, all others by their
            own.
        """
        store = cls(folder, "", fingerprint, asker, require_claims=require_claims)
        path = store._folder / name
        if not is_twin(name, fingerprint):
            store._claim = Claim(path, store._claim.owner, required=require_claims)
        store._open(path)
        return store

    def _open(self, path: ObjectStoragePath) -> None:
        self._path = path
        self._content: bytes | None = None
        #: The JSON object in it; ``None``: not read yet.
        self._known: dict[str, object] | None = None
        self.place = f"file {path}"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep others from deciding about the same order; what they have written before is read anew."""
        if self.asker is None or self._claim.is_held:
            yield
            return
        with ExitStack() as stack:
            self._guarded(lambda: stack.enter_context(self._claim))
            self._open(self._path)
            yield

    def read_after_others(self, give_up: float) -> None:
        """
        Read the record anew, once nobody else decides about the order.

        :param give_up: Monotonic seconds at which it is read all the same.
        """
        self._guarded(lambda: self._claim.wait_for_others(give_up))
        if self.asker is not None and self._guarded(lambda: self._claim.is_left):
            with self.claim():  # an earlier try of this very task has died with it: nobody else need wait
                pass
        self._open(self._path)

    def find(self, fingerprint: str) -> None:
        """Choose among the purchases of this order the one that belongs to who asks, or a new file."""
        if self._prompt_id or self.asker is None:
            return
        purchases, new = self._twins(fingerprint)
        choice = chosen(self.asker, purchases)
        if choice is None:
            if purchases:
                log.info(SAME_ORDER, ", ".join(names(purchases.values())))
            self._open(new)
            self._know(None)
            return
        self._open(choice)
        if is_free(purchases[choice], self.asker):
            Ledger(self).put(fingerprint, purchases[choice].taken_by(self.asker))

    def _twins(self, fingerprint: str) -> tuple[dict[ObjectStoragePath, Purchase], ObjectStoragePath]:
        """
        Return the purchases of this order, by file, and the file of the next one.

        Somebody may have removed a file, such as a damaged one: what is behind the gap is no less bought.
        """
        purchases: dict[ObjectStoragePath, Purchase] = {}
        gaps: list[ObjectStoragePath] = []
        while len(gaps) <= GAPS:
            path = self._folder / record_name(self._prompt_id, fingerprint, len(purchases) + len(gaps))
            self._open(path)
            if purchase := Ledger(self).get(fingerprint):
                purchases[path] = purchase
            else:
                gaps.append(path)
        return purchases, gaps[0]

    def get(self, key: str) -> object:
        """Return the record, ``None`` without a file; anything else as text, which is no record."""
        content = self._read()
        if content is None:
            return None
        return self._object.get(key) or content.decode("utf-8", errors="replace")

    def set(self, key: str, value: dict[str, object]) -> None:
        """
        Write the record; a process that dies meanwhile leaves the old one or the new one.

        :raises MusicAPINotSentError: it is about to buy, and its claim is over.
        """
        if key == KEY and self._claim.is_over and any(p.is_intent for p in purchases_from(value).values()):
            raise MusicAPINotSentError(
                f"It took more than {claims.LEASE:.0f} s from reading the record to buying, so somebody else "
                f"may decide about the same order by now ({self.place}); this try has sent nothing.",
                spent=Spent.UNKNOWN,
                next_step="a later try goes on where this one stopped.",
            )
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
        """Return the file's content, ``None`` without one; read once while it is open."""
        if self._known is None:
            self._know(self._guarded(lambda: bytes_of(self._path)))
        return self._content

    @property
    def _object(self) -> dict[str, object]:
        """The JSON object in the file; an empty one where there is none."""
        self._read()
        return self._known or {}

    def _know(self, content: bytes | None) -> None:
        self._content, self._known = content, parsed(content)

    def _put(self, value: Mapping[str, object]) -> None:
        content = json.dumps(value).encode()
        self._guarded(lambda: put_whole(self._path, [content]))
        self._know(content)

    def _guarded(self, call: Callable[[], _Result]) -> _Result:
        return guarded(f"storage of the records ({self._folder})", call)


def read_stores(
    folder: ObjectStoragePath, rows: Iterable[tuple[str, str]], asker: Asker | None = None
) -> list[FolderStore]:
    """
    Return what is known of many rows now: one listing, then the files that are there, many at a time.

    :param folder: The table's destination.
    :param rows: Prompt id and fingerprint of each.
    :param asker: Who reads.
    :raises MusicAPINotSentError: the storage does not answer; nothing may be bought without it.
    """
    found = [FolderStore(folder, *row, asker) for row in rows]
    purchases = folder / PURCHASES
    contents = guarded(
        f"storage of the records ({purchases})",
        lambda: contents_of(purchases, {one._path.name for one in found} & list_names(purchases).keys()),
    )
    for one in found:
        one._know(contents.get(one._path.name))
    return found


def parsed(content: bytes | None) -> dict[str, object]:
    """Return the JSON object in a file, an empty one where there is none."""
    try:
        value = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def record_name(prompt_id: str, fingerprint: str, twin: int = 0) -> str:
    """
    Return the name of an order's record: readable, and of its own whatever the prompt id is made of.

    :param twin: Number of the purchase, where one order was placed several times; the first is 0.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", prompt_id)[:60].strip("-")
    named: list[object] = [prompt_id, fingerprint, *([twin] if twin else [])]
    digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]
    return f"{readable or 'row'}-{digest}.json"


def is_twin(name: str, fingerprint: str) -> bool:
    """Tell whether a file is of an order without prompt id: the first one, or one of its twins."""
    return bool(_NAMELESS.fullmatch(name)) and any(
        name == record_name("", fingerprint, twin) for twin in range(MOST_TWINS)
    )


def guarded(what: str, call: Callable[[], _Result]) -> _Result:
    """
    Ask a store; whatever it raises, nothing may be bought without it.

    :raises MusicAPINotSentError: it does not answer.
    """
    try:
        return call()
    except MusicAPIError:
        raise
    except Exception as error:  # whatever the backend raises: no record, no purchase
        raise MusicAPINotSentError(
            f"The {what} failed ({type(error).__name__}: {error}); this try has sent nothing.",
            spent=Spent.UNKNOWN,  # earlier tries may have bought; that is what cannot be read
            next_step="look at the API server's log, or at the storage; a later try goes on where this one "
            "stopped.",
        ) from error
