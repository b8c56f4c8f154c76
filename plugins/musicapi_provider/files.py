"""
Small files in object storage: listed, read and put whole.

No answer is never taken for "nothing there": whoever decides about money by a file must know the difference.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import tenacity

from musicapi_provider.exceptions import MusicAPIError, MusicAPINotSentError, MusicAPIStorageError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from fsspec import AbstractFileSystem

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Protocols of storages that show an object when it is complete and know no folders: making a "folder" there
#: could make a bucket of a slip.
OBJECT_STORES = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "wasb", "oci", "r2"}
)
#: Seconds after which a half-written file is somebody's who has died.
DEAD_AFTER = 1.0
#: Tries while the storage is away, and seconds before the second, doubled each time: half a minute in all.
STORAGE_ATTEMPTS, STORAGE_PAUSE = 5, 2.0


def local_path(path: ObjectStoragePath) -> Path | None:
    """Return a path of this machine as such; ``None`` for another storage."""
    return Path(path.path) if path.protocol in ("", "file", "local") else None


def file_system(path: ObjectStoragePath) -> AbstractFileSystem:
    """
    Return fsspec's file system of a path.

    At the first ``path.fs`` Airflow imports the file systems of all providers, boto3 and all: 0.06 s of CPU
    in each worker process, also where it only has files to write here.
    """
    if local_path(path) is None or getattr(path, "conn_id", None):  # a connection's own file system
        return path.fs
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()  # fsspec keeps one


def is_object_store(path: ObjectStoragePath) -> bool:
    """Tell whether a path lies in an object store, where objects appear when they are complete."""
    return path.protocol in OBJECT_STORES


def make_folder(folder: ObjectStoragePath) -> None:
    """Make a folder where there are such things; buckets are never made."""
    if not is_object_store(folder):
        (local_path(folder) or folder).mkdir(parents=True, exist_ok=True)


def list_names(folder: ObjectStoragePath) -> dict[str, int | None]:
    """
    Return the names of a folder's files with their sizes in bytes; none when there is no folder.

    :raises Exception: whatever the backend raises when it does not answer.
    """
    if (local := local_path(folder)) is not None:
        return _local_names(local)
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
    local = local_path(path)
    if local is None:  # s3fs asks a listing that it remembers, and other processes write
        path.fs.invalidate_cache(path.parent.path)
    try:  # not open(): it fails when the file changes while it is read
        return bytes(local.read_bytes() if local is not None else path.fs.cat_file(path.path))
    except FileNotFoundError:
        return None


def remove(path: ObjectStoragePath) -> None:
    """Remove a file; one that is not there is fine."""
    if (local := local_path(path)) is not None:
        local.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # not exists(), which asks that listing, too
        path.fs.rm_file(path.path)


def contents_of(folder: ObjectStoragePath, names: Iterable[str]) -> dict[str, bytes]:
    """
    Return the contents of a folder's files by name, without those that are not there.

    Object storages read many at a time.

    :raises Exception: whatever the backend raises when it does not answer.
    """
    if (local := local_path(folder)) is not None:
        return dict(_local_contents(local, names))
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
    Write a file so that a process that dies meanwhile, or a power cut, leaves the old one or the new one.

    :param content: Pieces. A disk gets them at once, since they may have to be written again.
    """
    if (local := local_path(path)) is not None:
        _put_here(local, content)
        return
    make_folder(path.parent)
    with path.fs.open(path.path, "wb") as file:
        file.writelines(content)


def create_whole(path: ObjectStoragePath, content: bytes) -> bool:
    """
    Create a small file unless there is one; of all who ask at the same time, one does.

    :return: Whether it was created.
    :raises NotImplementedError: the storage has no such thing.
    """
    if (local := local_path(path)) is not None:
        return _create_here(local, content)
    if not _creates_exclusively(type(path.fs)):
        raise NotImplementedError(f"{path.protocol} cannot create exclusively")
    make_folder(path.parent)
    try:
        path.fs.pipe_file(path.path, content, mode="create")
    except OSError as error:
        if isinstance(error, FileExistsError) or _is_refused(error):
            return False
        raise
    return True


def _is_refused(error: OSError) -> bool:
    """
    Tell whether a store has refused a condition, or is just deciding about another request with it.

    s3fs knows that of AWS alone, by a word that look-alikes leave out.
    """
    response = getattr(error.__cause__, "response", None)
    about = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
    return isinstance(about, Mapping) and about.get("HTTPStatusCode") in (409, 412)


def _create_here(path: Path, content: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{uuid4().hex[:12]}")
    new.write_bytes(content)
    try:
        os.link(new, path)  # the name appears with its content, for one of all who ask
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise NotImplementedError("this disk has no hard links") from error
        raise
    finally:
        new.unlink(missing_ok=True)
    return True


def _creates_exclusively(kind: type) -> bool:
    """
    Tell whether a kind of fsspec's file systems has an exclusive create of its own.

    fsspec's general one asks whether there is a file, then writes one: another process comes in between.
    """
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    for name, general in (("_pipe_file", AsyncFileSystem), ("pipe_file", AbstractFileSystem)):
        own, inherited = getattr(kind, name, None), getattr(general, name, None)
        if own not in (None, inherited) and "mode" in inspect.signature(own).parameters:
            return True
    return False


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _put_here(path: Path, content: Iterable[bytes]) -> None:
    pieces = list(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    try:
        _write(new, pieces)
        new.replace(path)
    except (FileExistsError, FileNotFoundError):
        # Another dag run writes the same, or somebody died with it; each then has a name of its own.
        own = path.with_name(f"{path.stem}.{uuid4().hex[:12]}.new")
        _write(own, pieces)
        own.replace(path)
        with suppress(FileNotFoundError):
            if time.time() - new.stat().st_mtime > DEAD_AFTER:
                new.unlink()
    folder = os.open(path.parent, os.O_RDONLY)  # the new name, too, must outlive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _local_contents(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        with suppress(FileNotFoundError):
            yield name, (folder / name).read_bytes()


def _local_names(folder: Path) -> dict[str, int | None]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}


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
