"""
Stream tracks to object storage and check them on the way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import requests
import tenacity

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.verdict import is_usable_url

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.settings import ClientSettings

log = logging.getLogger(__name__)

#: Bytes read and written at a time: constant memory whatever the size.
CHUNK = 256 * 1024
#: Tries of one download, and seconds before the second one, doubled each time.
ATTEMPTS = 4
FIRST_WAIT = 0.5
#: Share of the duration that the API states which a file may lack before it counts as cut short.
SHORT_BY = 0.1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: the first part of its content type, and first bytes with the suffix they stand for."""

    name: str
    magic: tuple[tuple[re.Pattern[bytes], str], ...]


AUDIO = Kind(
    "audio",
    (
        (re.compile(rb"ID3|\xff[\xe2-\xff]"), ".mp3"),
        (re.compile(rb"RIFF....WAVE", re.DOTALL), ".wav"),
        (re.compile(rb"....ftyp", re.DOTALL), ".m4a"),
    ),
)
IMAGE = Kind(
    "image",
    (
        (re.compile(rb"\xff\xd8\xff"), ".jpeg"),
        (re.compile(rb"\x89PNG"), ".png"),
        (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    ),
)
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class TrackStore:
    """
    A folder of tracks in object storage. Use it as a context manager.

    The sidecar ``{clip_id}.json`` is written last: where it stands, the track is complete.

    :param folder: Where the files go; created when missing.
    :param settings: Proxies, certificates and time-out for the download. The key is not used.
    :param max_bytes: Largest body that is accepted.
    :param store_cover: Also store the cover image.
    """

    def __init__(
        self,
        folder: ObjectStoragePath,
        settings: ClientSettings,
        *,
        max_bytes: int,
        store_cover: bool = False,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.max_bytes = max_bytes
        self.store_cover = store_cover
        self._session = _media_session(settings)

    def __enter__(self) -> TrackStore:
        """Create the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._session.close()

    def store_all(
        self, tracks: Iterable[Mapping[str, Any]], *, extra: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """
        Store every track that can be stored, then fail if one could not.

        :raises MusicAPIStorageError: names every track that is missing, and why.
        """
        records, errors = [], []
        for track in tracks:
            try:
                records.append(self.store(track, extra=extra))
            except MusicAPIStorageError as error:
                log.error("Clip %s is not stored: %s", track.get("clip_id"), error.message)  # noqa: TRY400
                errors.append(error.message)
        if errors:
            raise MusicAPIStorageError(
                f"{len(errors)} tracks could not be stored, {len(records)} are: {' '.join(errors)}"
            )
        return records

    def store(self, track: Mapping[str, Any], *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Store one track unless it is there, and return its record.

        :param track: A track dict as the sensor returns it.
        :param extra: Further entries of the returned record, such as ``prompt_id``.
        :raises MusicAPIStorageError: unusable id or URL, or an answer that is not the audio it should be.
        """
        clip_id = track.get("clip_id")
        if not isinstance(clip_id, str) or not _SAFE_ID.fullmatch(clip_id):
            raise MusicAPIStorageError(f"clip_id {clip_id!r} cannot name a file.")
        record = self._stored(clip_id)
        if record is not None:
            log.info("Clip %s is stored already: %s", clip_id, record["uri"])
        else:
            names = ("clip_id", "music_task_id", "title", "audio_url")
            audio = self._download(track.get("audio_url"), clip_id, AUDIO, seconds=track.get("duration"))
            record = {**{name: track.get(name) for name in names}, **audio}
            self._write_sidecar(clip_id, record, track)
            log.info("Stored clip %s: %s (%d bytes)", clip_id, record["uri"], record["bytes"])
        if self.store_cover and track.get("image_url") and "cover_uri" not in record:
            record |= self._cover(clip_id, track["image_url"])
            self._write_sidecar(clip_id, record, track)
        return {**record, **(extra or {})}

    def _cover(self, clip_id: str, url: Any) -> dict[str, str]:
        """Store the cover; the track is what was paid for, so a missing picture only warns."""
        try:
            return {"cover_uri": self._download(url, clip_id, IMAGE)["uri"]}
        except MusicAPIStorageError as error:
            log.warning("Clip %s has no cover: %s", clip_id, error.message)
            return {}

    def _write_sidecar(self, clip_id: str, record: Mapping[str, Any], track: Mapping[str, Any]) -> None:
        sidecar = json.dumps({**record, "track": dict(track)}, indent=1)
        (self.folder / f"{clip_id}.json").write_text(sidecar, encoding="utf-8")

    def _usable(self, url: Any) -> str:
        if not isinstance(url, str) or not is_usable_url(url, allow_http=self.settings.allow_http_audio):
            raise MusicAPIStorageError(f"{url!r} is no final https URL.")
        return url

    def _stored(self, clip_id: str) -> dict[str, Any] | None:
        """Return the record of a complete track: sidecar readable, file there, size right."""
        sidecar = self.folder / f"{clip_id}.json"
        try:
            record: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
            record.pop("track", None)
            path = self.folder / record["uri"].rsplit("/", 1)[-1]
            complete = path.stat().st_size == record["bytes"]
        except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return {**record, "uri": str(path)} if complete else None

    def _download(self, url: Any, clip_id: str, kind: Kind, *, seconds: Any = None) -> dict[str, Any]:
        """Download to a temporary name, check, move to the final name; repeat what can be repeated."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT, max=8.0)
            + tenacity.wait_random(0, FIRST_WAIT),
            retry=tenacity.retry_if_exception_type(_BrokenDownloadError),
            reraise=True,
        )
        try:
            return retrying(self._download_once, self._usable(url), clip_id, kind, seconds)
        except _BrokenDownloadError as error:
            raise MusicAPIStorageError(f"{url} broke off {ATTEMPTS} times: {error}.") from error

    def _download_once(self, url: str, clip_id: str, kind: Kind, seconds: Any) -> dict[str, Any]:
        temporary = self.folder / f".{clip_id}.{uuid4().hex[:8]}.part"
        try:
            with self._get(url, kind.name) as response:
                written, digest, head = self._write(response, temporary, url)
                content_type = response.headers.get("Content-Type", "")
            suffix = _suffix(head, kind, url)
            facts = {"duration": _audio_seconds(temporary, url, seconds)} if kind is AUDIO else {}
            final = self.folder / f"{clip_id}{suffix}"
            temporary.fs.mv(temporary.path, final.path)
        except BaseException:
            _remove(temporary)
            raise
        return {
            "uri": str(final),
            "bytes": written,
            "sha256": digest,
            "content_type": content_type.partition(";")[0],
            **facts,
        }

    def _get(self, url: str, kind: str) -> requests.Response:
        try:
            response = self._session.get(
                url,
                stream=True,
                timeout=self.settings.timeout,
                proxies=dict(self.settings.proxies),  # here and not in the session: above the environment's
                verify=self.settings.verify,
            )
        except requests.RequestException as error:
            raise _BrokenDownloadError(f"no answer ({type(error).__name__})") from error
        if response.status_code >= 500 or response.status_code == 429:
            response.close()
            raise _BrokenDownloadError(f"HTTP {response.status_code}")
        content_type = response.headers.get("Content-Type", "").lower()
        problem = None
        if response.status_code != 200:
            problem = f"answered HTTP {response.status_code} (clear the waiting task for a fresh URL)"
        elif not is_usable_url(response.url, allow_http=self.settings.allow_http_audio):
            problem = f"redirected to {urlsplit(response.url).scheme}, which is not https"
        elif not content_type.startswith((f"{kind}/", "application/octet-stream", "binary/")):
            problem = f"answered {content_type or 'no content type'} instead of {kind}"
        if problem:
            response.close()
            raise MusicAPIStorageError(f"{url} {problem}.", status_code=response.status_code)
        return response

    def _write(
        self, response: requests.Response, path: ObjectStoragePath, url: str
    ) -> tuple[int, str, bytes]:
        digest, written, head = hashlib.sha256(), 0, b""
        with path.open("wb") as file:  # type: ignore[no-untyped-call]
            for chunk in _chunks(response):
                head = (head + chunk)[:16] if len(head) < 16 else head
                written += len(chunk)
                if written > self.max_bytes:
                    raise MusicAPIStorageError(f"{url} is larger than {self.max_bytes} bytes (max_bytes).")
                digest.update(chunk)
                file.write(chunk)
        promised = response.headers.get("Content-Length")
        encoded = response.headers.get("Content-Encoding")  # then the length is not the body's
        if promised and not encoded and written != int(promised):
            raise _BrokenDownloadError(f"{written} of {promised} bytes came")
        if not written:
            raise _BrokenDownloadError("the body is empty")
        return written, digest.hexdigest(), head


class _BrokenDownloadError(Exception):
    """A download that may work at the next try."""


def _media_session(settings: ClientSettings) -> requests.Session:
    """Return a session with the connection's way to the network; its key, headers and cert stay at home."""
    session = requests.Session()
    session.trust_env = settings.trust_env
    session.max_redirects = 5
    return session


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK)
    except (requests.RequestException, OSError) as error:
        raise _BrokenDownloadError(f"the connection broke ({type(error).__name__})") from error


def _suffix(head: bytes, kind: Kind, url: str) -> str:
    for pattern, suffix in kind.magic:
        if pattern.match(head):
            return suffix
    raise MusicAPIStorageError(f"{url} does not begin like the file it should be: {head[:8]!r}.")


def _audio_seconds(path: ObjectStoragePath, url: str, stated: Any) -> float:
    """Return the duration as read from the file; without one it is no audio, much shorter it is cut."""
    import mutagen

    try:
        with path.open("rb") as file:  # type: ignore[no-untyped-call]
            audio = mutagen.File(file)
    except mutagen.MutagenError as error:
        raise MusicAPIStorageError(f"{url} is not readable as audio: {error}.") from error
    if audio is None or not audio.info.length > 0:
        raise MusicAPIStorageError(f"{url} is not readable as audio.")
    seconds = round(float(audio.info.length), 2)
    if isinstance(stated, (int, float)) and seconds < stated * (1 - SHORT_BY) - 1:
        raise _BrokenDownloadError(f"the file lasts {seconds:g} of {stated:g} s")
    return seconds


def _remove(path: ObjectStoragePath) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except Exception:  # a cleaning-up must not hide the error that made it necessary
        log.warning("Could not remove the temporary file %s", path, exc_info=True)
