"""
Claims: one process at a time decides about an order in a folder that several dag runs, DAGs or people use.

A claim is a file that a storage creates for one of all who ask, whatever their timing (S3 and Azure:
``If-None-Match: *``; Google: ``ifGenerationMatch=0``; a disk: ``O_EXCL``). Its owner removes it. An owner
that died loses it after :data:`LEASE` seconds: then the *successor* of that very claim is created, again by
one of all who ask, and is the claim from then on. Nothing is overwritten, so nobody takes what another holds.
The first file says that the others count: it is removed first, and who takes over looks whether it is there.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPINotSentError, Spent
from musicapi_provider.files import bytes_of, create_whole, local_path, remove

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

#: Seconds after which a claim is lost: longer than a create with its repetitions takes. Clocks of workers may
#: differ by some seconds.
LEASE = 120.0
#: Seconds for which somebody else's claim is waited for: a create takes some.
PATIENCE = 60.0
#: Seconds between two attempts.
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class _Claimed:
    """
    What stands in a claim.

    :param owner: Dag run and slot, for people, and for a retry, which may take over what its own slot left.
    :param number: Of this claim alone.
    :param until: Epoch seconds.
    """

    owner: str
    number: str
    until: float


class Claim:
    """
    The claim on one record, a context manager.

    :param path: Of the record; the claim lies beside it.
    :param owner: Who claims: the same for all tries of a task, which follow one another.
    :param required: Refuse a storage that cannot create exclusively; else go on without.
    :raises MusicAPINotSentError: somebody else holds it and does not give it back; nothing is sent here.
    :raises MusicAPIConfigurationError: the storage cannot create exclusively, and it is required.
    """

    def __init__(self, path: ObjectStoragePath, owner: str, *, required: bool = True) -> None:
        self._path = path
        self.owner = owner
        self._required = required
        self._files: list[ObjectStoragePath] = []
        #: Of the claim that is held.
        self._mine: _Claimed | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was held so long that somebody else may hold it by now."""
        return bool(self._files) and self._mine is not None and time.time() >= self._mine.until

    @property
    def is_held(self) -> bool:
        """Whether this very object holds it."""
        return bool(self._files)

    def __enter__(self) -> Self:
        try:
            self._files = self._acquire()
        except NotImplementedError as error:
            if self._required:
                raise self._refusal() from error
        return self

    def __exit__(self, *_: object) -> None:
        files, self._files = self._files, []
        try:
            if files and not self._is_taken_over(files):
                for path in files:
                    remove(path)
        except Exception:
            log.exception("Claim %s could not be removed; it ends in %.0f s.", files[-1], LEASE)
        self._mine = None

    def _is_taken_over(self, files: list[ObjectStoragePath]) -> bool:
        """Take over from itself what others might, so that nobody can while the files are removed."""
        assert self._mine is not None  # noqa: S101 - it is held
        if time.time() < self._mine.until - LEASE / 2:
            return False
        files.append(self._successor(self._mine))
        return not create_whole(files[-1], self._content(_Claimed(self.owner, uuid4().hex[:12], 0.0)))

    def wait_for_others(self, give_up: float) -> None:
        """
        Wait while somebody else holds it, without taking it.

        :param give_up: Monotonic seconds at which that ends.
        """
        while self._is_held_by_another() and time.monotonic() < give_up:
            time.sleep(PAUSE)

    @property
    def is_left(self) -> bool:
        """Whether there is one that an earlier try of the same task has left, or that is over."""
        return bytes_of(self._path.with_suffix(".claim")) is not None and not self._is_held_by_another()

    def _is_held_by_another(self) -> bool:
        path = self._path.with_suffix(".claim")
        while (content := bytes_of(path)) is not None:
            holder = _read(content)
            if holder.owner != self.owner and holder.until >= time.time():
                return True
            path = self._successor(holder)
        return False

    def _acquire(self) -> list[ObjectStoragePath]:
        """
        Return the files of the claim, once it is held.

        :raises NotImplementedError: the storage cannot create exclusively.
        """
        give_up = time.monotonic() + PATIENCE
        while True:
            chain = [self._path.with_suffix(".claim")]
            holder = self._create_or_read(chain[-1])
            first = holder
            while holder is not None and (holder.owner == self.owner or holder.until < time.time()):
                log.info("The claim of %s on %s is taken over.", holder.owner, self._path)
                chain.append(self._successor(holder))
                holder = self._create_or_read(chain[-1])
            if holder is None and (first is None or self._stands(chain[0], first)):
                self._try_storage(chain)
                return chain
            if holder is None:  # what it followed was over, and is gone meanwhile
                remove(chain[-1])
                continue
            if time.monotonic() >= give_up:
                raise MusicAPINotSentError(
                    f"{holder.owner} is deciding about the same order (claim {chain[-1]}); this try has sent "
                    "nothing.",
                    spent=Spent.UNKNOWN,
                    next_step=f"let a later retry collect what it buys. Should it have died, its claim ends "
                    f"by itself in {max(holder.until - time.time(), 0):.0f} s.",
                )
            time.sleep(PAUSE)

    def _create_or_read(self, path: ObjectStoragePath) -> _Claimed | None:
        """Create a claim; return who holds it if somebody does."""
        self._mine = _Claimed(self.owner, uuid4().hex[:12], time.time() + LEASE)
        while not create_whole(path, self._content(self._mine)):
            content = bytes_of(path)
            if content is None:  # its owner has given it back meanwhile
                continue
            holder = _read(content)
            # A client that lost the answer may have repeated its own request.
            return None if holder.number == self._mine.number else holder
        return None

    def _stands(self, path: ObjectStoragePath, claimed: _Claimed) -> bool:
        """Tell whether a claim that was read is still there."""
        content = bytes_of(path)
        return content is not None and _read(content).number == claimed.number

    def _successor(self, claimed: _Claimed) -> ObjectStoragePath:
        return self._path.with_suffix(f".claim-{claimed.number}")

    @staticmethod
    def _content(claimed: _Claimed) -> bytes:
        return json.dumps(asdict(claimed)).encode()

    def _try_storage(self, chain: list[ObjectStoragePath]) -> None:
        """Find out whether the storage refuses to create what is there: some pass over the condition."""
        if local_path(chain[-1]) is None and create_whole(chain[-1], b"overwritten"):
            remove(chain[-1])
            raise NotImplementedError("the storage overwrites")

    def _refusal(self) -> MusicAPIConfigurationError:
        return MusicAPIConfigurationError(
            f"The storage of {self._path.parent} cannot create a file for one of several processes that ask "
            "at the same time, so two dag runs could buy the same order twice; nothing was sent.",
            next_step="use S3, Google Cloud Storage, Azure or a disk; or, if one dag run at a time uses this "
            "folder (max_active_runs=1), set [musicapi] require_claims = False.",
        )


def _read(content: bytes) -> _Claimed:
    """Read a claim; one that is damaged is of nobody and over."""
    try:
        value = json.loads(content)
        return _Claimed(str(value["owner"]), str(value["number"]), float(value["until"]))
    except (ValueError, KeyError, TypeError):
        return _Claimed("nobody", "damaged", 0.0)
