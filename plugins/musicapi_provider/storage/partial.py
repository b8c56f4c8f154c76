"""
Files on their way into a folder: under a temporary name until they are whole.
"""

from __future__ import annotations

import hashlib
import logging
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from uuid import uuid4

import tenacity

from musicapi_provider.files import file_system, is_object_store, list_names, make_folder

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from fsspec import AbstractFileSystem

log = logging.getLogger(__name__)

#: Subfolder for what is not whole yet.
INCOMPLETE = ".incomplete"
#: Bytes that a storage buffers before it sends them; s3fs' own 50 MiB would be held by each download.
BLOCK = 8 * 1024 * 1024
#: Bytes read at a time to look into a file: it is short looks at its two ends.
READ_BLOCK = 256 * 1024
_S3 = frozenset({"s3", "s3a", "s3n"})
#: What others take away for a moment is there at the next try.
_again = tenacity.retry(
    retry=tenacity.retry_if_exception_type(FileNotFoundError),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


class PartFile:
    """
    A file that is being written, under a name of its own in ``.incomplete/``.

    :param folder: Where its final name will be.
    :param name: What it is for; leftovers are found by it.
    """

    def __init__(self, folder: ObjectStoragePath, name: str) -> None:
        self.path = folder / INCOMPLETE / f"{name}.{uuid4().hex[:12]}.part"
        self._file: IO[bytes] | None = None
        self._forget()

    def _forget(self) -> None:
        self.written = 0
        self.head = b""
        self.content_type = ""
        #: Whole size as announced, and what a server knows this content by: what it takes to resume.
        self.total: int | None = None
        self.validator: str | None = None
        self.url: str | None = None
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of what was written."""
        return self._digest.hexdigest()

    @property
    def is_resumable(self) -> bool:
        """Whether the rest can be appended to what is here."""
        return self._file is not None and self.written > 0 and self.validator is not None

    def restart(self) -> None:
        """Begin anew with an empty file."""
        self.discard()
        self._file = self._created()

    @_again  # another run may just have removed the empty subfolder
    def _created(self) -> IO[bytes]:
        make_folder(self.path.parent)
        created: IO[bytes] = file_system(self.path).open(self.path.path, "wb", block_size=BLOCK)
        return created

    def write(self, chunk: bytes) -> None:
        """Append a piece."""
        if self._file is None:
            raise ValueError("restart() comes before write()")
        if len(self.head) < 16:
            self.head = (self.head + chunk)[:16]
        self._digest.update(chunk)
        self._file.write(chunk)
        self.written += len(chunk)

    def close(self) -> None:
        """Finish writing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the finished file to look into it."""
        # With the size given, s3fs does not look it up, perhaps in a listing from before this file.
        known = {"size": self.written} if self.path.protocol in _S3 else {}
        with file_system(self.path).open(self.path.path, "rb", block_size=READ_BLOCK, **known) as file:
            yield file

    def move_to(self, final: ObjectStoragePath) -> None:
        """Take the final name, replacing what has it."""
        fs = file_system(self.path)
        if is_object_store(final):
            self._copy_to(final)
            _remove(fs, self.path.path)
        elif final.protocol in ("", "file", "local"):
            Path(self.path.path).replace(final.path)  # mv() would move into a folder of that name
        else:
            fs.mv(self.path.path, final.path)

    @_again  # s3fs looks the size up in listings, and another thread's may be from before this file
    def _copy_to(self, final: ObjectStoragePath) -> None:
        """Copy within an object store; mv() would list and look up more than once."""
        fs = file_system(self.path)
        fs.invalidate_cache(self.path.parent.path)
        fs.cp_file(self.path.path, final.path, **_content_type(final))

    def discard(self) -> None:
        """Leave nothing behind; a cleaning-up must not hide the error that made it necessary."""
        was_open = self._file is not None
        try:
            self.close()
        except Exception:
            log.debug("Could not close %s", self.path, exc_info=True)
        if was_open or self.written:
            _remove(file_system(self.path), self.path.path)
        self._forget()


def size_of(path: ObjectStoragePath) -> int:
    """Return a file's size as it is now: s3fs remembers listings, and other processes write."""
    fresh = {"refresh": True} if path.protocol in _S3 else {}
    file_system(path).invalidate_cache(path.parent.path)
    return int(file_system(path).info(path.path, **fresh)["size"])


def _content_type(final: ObjectStoragePath) -> dict[str, str]:
    """Tell S3 the type, so that a browser plays a link to the file and does not offer to save it."""
    known, _ = mimetypes.guess_type(final.name)
    if known is None or final.protocol not in _S3:
        return {}
    return {"ContentType": known, "MetadataDirective": "REPLACE"}


def put(path: ObjectStoragePath, content: bytes) -> None:
    """Write a small file that is never seen half-written."""
    if is_object_store(path):
        file_system(path).pipe_file(path.path, content)
        return
    part = PartFile(path.parent, path.name)
    try:
        part.restart()
        part.write(content)
        part.close()
        part.move_to(path)
    except BaseException:
        part.discard()
        raise


class _Upload(NamedTuple):
    """An upload to S3 in parts that was not completed."""

    bucket: str
    key: str
    upload_id: str


class Leftovers:
    """
    What killed processes left in ``.incomplete/`` of a folder, listed once, when first asked for.

    Also uploads in parts that were never completed: no listing shows them, and S3 bills them for ever.
    """

    def __init__(self, folder: ObjectStoragePath) -> None:
        self._folder = folder / INCOMPLETE
        self._lock = threading.Lock()
        self._names: list[str] | None = None
        self._uploads: list[_Upload] = []

    def remove(self, name: str | None = None) -> None:
        """Remove those whose name begins with this and a dot, such as a clip's id; ``None``: all."""
        with self._lock:
            if self._names is None:
                self._names = list(list_names(self._folder))
                self._uploads = self._unfinished_uploads()
            names = [one for one in self._names if name in (None, _purpose(one))]
            uploads = [one for one in self._uploads if name in (None, _purpose(one.key.rpartition("/")[2]))]
            self._names = [one for one in self._names if one not in names]
            self._uploads = [one for one in self._uploads if one not in uploads]
        for one in names:
            log.info("Removing %s, left by a process that died", one)
            _remove(file_system(self._folder), (self._folder / one).path)
        for upload in uploads:
            self._abort(upload)

    def remove_folder(self) -> None:
        """Remove the subfolder where it is a real one, and empty."""
        if not is_object_store(self._folder):
            with suppress(OSError, NotImplementedError):  # in use by another run, or not there
                file_system(self._folder).rmdir(self._folder.path)

    def _unfinished_uploads(self) -> list[_Upload]:
        fs = file_system(self._folder)
        if self._folder.protocol not in _S3 or not hasattr(fs, "call_s3"):
            return []
        bucket, key, _ = fs.split_path(self._folder.path)
        try:
            found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/")
        except Exception:  # a permission that many do not have; lifecycle rules do it for them
            log.debug("Cannot list unfinished uploads in %s", self._folder, exc_info=True)
            return []
        return [_Upload(bucket, one["Key"], one["UploadId"]) for one in found.get("Uploads") or []]

    def _abort(self, upload: _Upload) -> None:
        try:
            file_system(self._folder).abort_mpu(*upload)
        except Exception:
            log.debug("Cannot abort the unfinished upload of %s", upload.key, exc_info=True)


def _purpose(part_name: str) -> str:
    return part_name.partition(".")[0]


def _remove(fs: AbstractFileSystem, path: str) -> None:
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception:
        log.warning("Could not remove the temporary file %s", path, exc_info=True)
