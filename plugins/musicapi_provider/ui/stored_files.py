"""
Files of a folder, opened by name for reading: regular ones, and nothing that leads elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musicapi_provider.files import local_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


@dataclass(frozen=True, slots=True)
class StoredFile:
    """
    A file as it was found.

    :param version: Changes when the file does; says nothing else about it.
    :param read: Returns the bytes from a position up to, not including, another.
    """

    size: int
    version: str
    read: Callable[[int, int], bytes]


def stored_file(folder: ObjectStoragePath, name: str) -> StoredFile:
    """
    Find a file of a folder.

    :raises FileNotFoundError: there is none of this name, or it is no regular file.
    :raises Exception: whatever the backend raises when it does not answer.
    """
    if name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        raise FileNotFoundError(name)  # callers give names of their own making: a second lock
    if (local := local_path(folder)) is not None:
        return _local_file(local / name)
    path, fs = (folder / name).path, folder.fs
    fs.invalidate_cache(folder.path)  # s3fs remembers listings, and other processes write
    info = fs.info(path)
    if info["type"] != "file":
        raise FileNotFoundError(name)
    return StoredFile(
        int(info["size"]), _digest(info), lambda start, stop: bytes(fs.cat_file(path, start=start, end=stop))
    )


def _local_file(path: Path) -> StoredFile:
    found = _open_regular(path)
    try:
        status = os.fstat(found)
    finally:
        os.close(found)

    def read(start: int, stop: int) -> bytes:
        # Opened anew for each piece: nothing stays open when a browser goes away.
        descriptor = _open_regular(path)
        try:
            return os.pread(descriptor, stop - start, start)
        finally:
            os.close(descriptor)

    return StoredFile(status.st_size, _digest([status.st_ino, status.st_mtime_ns, status.st_size]), read)


def _open_regular(path: Path) -> int:
    """Open without following a link, and without waiting for the other end of a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise FileNotFoundError(path.name) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path.name)
    return descriptor


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
