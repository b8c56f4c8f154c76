"""
Small files in object storage: listed, read and put whole.

No answer is never taken for "nothing there": whoever decides about money by a file must know the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


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
