"""
Small files in object storage: listed, read and put whole.

No answer is never taken for "nothing there": whoever decides about money by a file must know the difference.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tenacity

from musicapi_provider.exceptions import MusicAPIError, MusicAPINotSentError, MusicAPIStorageError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Tries while the storage is away, and seconds before the second, doubled each time: half a minute in all.
STORAGE_ATTEMPTS, STORAGE_PAUSE = 5, 2.0


def list_names(folder: ObjectStoragePath) -> dict[str, int | None]:
    """
    Return the names of a folder's files with their sizes in bytes; none when there is no folder.

    :raises Exception: whatever the backend raises when it does not answer.
    """
    folder.fs.invalidate_cache(folder.path)  # s3fs remembers listings, and other processes write
    try:  # not exists() or glob(): they find nothing as well when the storage does not answer
        found = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        return {}
    return {str(one["name"]).rpartition("/")[2]: one.get("size") for one in found if one["type"] == "file"}


def bytes_of(path: ObjectStoragePath) -> bytes | None:
    """
    Return a file's content, ``None`` when there is no file.

    :raises Exception: whatever the backend raises when it does not answer.
    """
    try:
        return bytes(path.read_bytes())
    except FileNotFoundError:
        return None


def contents_of(folder: ObjectStoragePath, names: Iterable[str]) -> dict[str, bytes]:
    """
    Return the contents of a folder's files by name, without those that are not there.

    Object storages read many at a time.

    :raises Exception: whatever the backend raises when it does not answer.
    """
    paths = [(folder / name).path for name in names]
    if not paths:
        return {}
    found = folder.fs.cat(paths, recursive=False, on_error="return")
    if isinstance(found, bytes):  # fsspec unpacks a list of one in some versions
        found = {paths[0]: found}
    for content in found.values():
        if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
            raise content
    return {
        str(path).rpartition("/")[2]: content for path, content in found.items() if isinstance(content, bytes)
    }


def put_whole(path: ObjectStoragePath, content: Iterable[bytes]) -> None:
    """
    Write a file so that a process that dies meanwhile leaves the old one or the new one.

    :param content: Pieces, written as they come.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.protocol not in ("file", "local"):
        with path.fs.open(path.path, "wb") as file:
            file.writelines(content)  # object storages show an object when it is complete
        return
    final = Path(path.path)
    new = final.with_suffix(".new")
    with new.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(final)


def patiently(work: Callable[[], _Result]) -> _Result:
    """
    Do what needs the storage, again when that is away for a moment.

    :raises MusicAPIStorageError: it stays away; a later try collects.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(STORAGE_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=STORAGE_PAUSE, max=30.0),
        retry=tenacity.retry_if_exception(_is_of_the_storage),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        return retrying(work)
    except MusicAPIError:
        raise
    except Exception as error:  # whatever the backend raises
        raise MusicAPIStorageError(f"The storage failed ({type(error).__name__}: {error}).") from error


def _is_of_the_storage(error: BaseException) -> bool:
    """Tell what the storage did from what the API or a media host did; those have been repeated already."""
    if isinstance(error, MusicAPIStorageError):
        return isinstance(error.__cause__, OSError)  # of the store: it refuses
    return isinstance(error, Exception) and (
        not isinstance(error, MusicAPIError) or isinstance(error, MusicAPINotSentError)
    )
