"""
Fetch one URL of a media host into a file: checked, never beyond its size, resumed where it broke off.

The host is not the API and not trusted: it gets no key, header, cookie or certificate of the connection.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from musicapi_provider.api.answers import parse_retry_after
from musicapi_provider.api.network import network_of
from musicapi_provider.api.urls import STREAM_HOSTS, is_usable_url
from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.storage.addresses import AddressGuard, GuardedAdapter, PrivateAddressError
from musicapi_provider.storage.kinds import Kind, check_content_type, check_magic

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings
    from musicapi_provider.storage.partial import PartFile

log = logging.getLogger(__name__)

#: Bytes read at a time, at most: constant memory whatever the size.
CHUNK = 256 * 1024
#: Redirects that are followed; a CDN needs one or two.
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Answers that a fresh URL may cure: a signature that has expired, a file that has moved.
_EXPIRED = frozenset({403, 404, 410})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class BrokenDownloadError(Exception):
    """A download that may work at the next try."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ExpiredURLError(MusicAPIStorageError):
    """The media host does not give this URL (any more); the music task may have a fresh one."""


class _Session(requests.Session):
    """A session that leaves redirects alone: requests would read their whole body, however long."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See none."""


class MediaClient:
    """
    A session for media hosts, with the connection's way to the network.

    :param settings: Proxies, certificates and time-out; key, headers and client certificate are not used.
    :param max_bytes: Largest body that is accepted.
    :param connections: Downloads at a time.
    """

    def __init__(self, settings: ClientSettings, *, max_bytes: int, connections: int) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._guard = AddressGuard(settings.base_url, allow_private=settings.allow_private_media)
        self._session = _Session()
        self._session.trust_env = False  # what the environment says is in the network
        self._session.auth = _no_auth
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, GuardedAdapter(self._guard, connections=connections))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def fetch(self, url: str | None, kind: Kind, part: PartFile, stopped: threading.Event) -> None:
        """
        Write the body into a part file: what it lacks, if the server lets us go on, else all of it.

        :param stopped: Set when the task is being ended: then nothing more is downloaded.
        :raises BrokenDownloadError: try again; what came stays in ``part``, to be resumed.
        :raises ExpiredURLError: 403, 404 or 410.
        :raises MusicAPIStorageError: the answer is not what it should be, and will not be.
        """
        url = self._usable(url)
        _check_stopped(url, stopped)
        resumes = part.is_resumable and part.url == url
        headers = {"Range": f"bytes={part.written}-", "If-Range": part.validator or ""} if resumes else {}
        try:
            response = self._answer(url, kind, headers)
            try:
                if response.status_code == 206:
                    _check_range(response, part)
                    log.info("Going on with %s at byte %d", url, part.written)
                else:
                    self._begin(url, response, part)
                self._copy(url, response, kind, part, stopped)
            finally:
                response.close()
        except _NotResumedError:
            part.discard()
            raise

    # -- the answer ----------------------------------------------------------------------------------------

    def _answer(self, url: str, kind: Kind, headers: dict[str, str]) -> requests.Response:
        """Follow redirects by hand, each hop checked, to an answer with a body of this kind."""
        hop = url
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = self._get(hop, headers)
            except PrivateAddressError as error:
                raise error.but(message=f"{url} is refused: {error.message}") from error
            location = response.headers.get("Location") if response.status_code in _REDIRECTS else None
            if location is None:
                break
            response.close()
            hop = self._redirected(url, hop, location)
        else:
            raise MusicAPIStorageError(f"{url} was redirected more than {MAX_REDIRECTS} times.")
        try:
            self._check_status(url, response, asked_for_rest=bool(headers))
            check_content_type(url, response, kind)
        except BaseException:
            response.close()
            raise
        return response

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        self._guard.check_url(url)
        network = network_of(self._settings, url)
        try:
            return self._session.get(
                url,
                stream=True,
                allow_redirects=False,
                headers={"Accept-Encoding": "identity", **headers},  # lengths and ranges of the file itself
                timeout=self._settings.timeout,
                proxies=network.proxies,
                verify=network.verify,
            )
        except (requests.RequestException, HTTPError) as error:
            raise BrokenDownloadError(f"no answer ({type(error).__name__})") from error

    def _usable(self, url: str | None) -> str:
        if isinstance(url, str) and is_usable_url(url, allow_http=self._settings.allow_http_audio):
            return url
        stream = isinstance(url, str) and _host(url) in STREAM_HOSTS
        raise MusicAPIStorageError(
            f"{url!r} is no final https URL{': it is a streaming preview' if stream else ''}."
        )

    def _redirected(self, url: str, hop: str, location: str) -> str:
        try:
            target = urljoin(hop, location)
            old, new = urlsplit(hop).scheme, urlsplit(target).scheme
        except ValueError as error:
            raise MusicAPIStorageError(f"{url} redirected to something that is no URL.") from error
        if _host(target) in STREAM_HOSTS:
            raise MusicAPIStorageError(f"{url} redirected to a streaming preview ({_host(target)}).")
        if new != "https" and not (new == old == "http"):
            raise MusicAPIStorageError(f"{url} redirected to {new}, which is not https.")
        if not is_usable_url(target, allow_http=self._settings.allow_http_audio):
            raise MusicAPIStorageError(f"{url} redirected to {target[:200]!r}, which is no usable URL.")
        return target

    def _check_status(self, url: str, response: requests.Response, *, asked_for_rest: bool) -> None:
        status = response.status_code
        if status >= 500 or status == 429:
            retry_after = parse_retry_after(response.headers.get("Retry-After"))
            raise BrokenDownloadError(f"HTTP {status}", retry_after=retry_after)
        if status == 416 and asked_for_rest:
            raise _NotResumedError("the server does not have the rest (HTTP 416)")
        if status in _EXPIRED:
            raise ExpiredURLError(f"{url} answered HTTP {status}.", status_code=status)
        if status != 200 and not (status == 206 and asked_for_rest):
            raise MusicAPIStorageError(f"{url} answered HTTP {status}.", status_code=status)

    # -- the body ------------------------------------------------------------------------------------------

    def _begin(self, url: str, response: requests.Response, part: PartFile) -> None:
        """Begin with an empty file, unless the announced size is too large already."""
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise MusicAPIStorageError(
                f"{url} is larger than {self._max_bytes} bytes (max_bytes): {announced} are announced; "
                "nothing was downloaded."
            )
        part.restart()
        part.url = url
        _note(response, part)

    def _copy(
        self, url: str, response: requests.Response, kind: Kind, part: PartFile, stopped: threading.Event
    ) -> None:
        known = False
        for chunk in _chunks(response):
            part.write(chunk)
            _check_stopped(url, stopped)
            if part.written > self._max_bytes:
                raise MusicAPIStorageError(
                    f"{url} is larger than {self._max_bytes} bytes (max_bytes); the download was stopped."
                )
            if not known and part.written >= 16:
                known = check_magic(url, kind, part.head)
        if not part.written:
            raise BrokenDownloadError("the body is empty")
        if part.total is not None and part.written != part.total:
            raise BrokenDownloadError(f"{part.written} of {part.total} bytes came")
        check_magic(url, kind, part.head)


class _NotResumedError(BrokenDownloadError):
    """The rest cannot be had: begin anew."""


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials, also none that a ``.netrc`` has for the host."""
    return request


def _check_stopped(url: str, stopped: threading.Event) -> None:
    if stopped.is_set():
        raise MusicAPIStorageError(f"{url} is not downloaded: the task is being ended.")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _note(response: requests.Response, part: PartFile) -> None:
    """Note how large the whole is and what it can be resumed by: a strong ETag, else its date."""
    headers = response.headers
    part.content_type = headers.get("Content-Type", "").partition(";")[0].strip()
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        return  # then lengths and ranges are not those of the file
    length = headers.get("Content-Length", "")
    part.total = int(length) if length.isdecimal() else None
    if headers.get("Accept-Ranges", "").lower() != "none":
        etag = headers.get("ETag", "")
        part.validator = etag if etag.startswith('"') else headers.get("Last-Modified")


def _check_range(response: requests.Response, part: PartFile) -> None:
    """Make sure that the server sends exactly what is missing."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = int(found[3]) if found and found[3] != "*" else None
    if not found or int(found[1]) != part.written or part.total not in (None, total):
        raise _NotResumedError(
            f"the rest does not fit (Content-Range {response.headers.get('Content-Range')!r})"
        )
    part.total = total if total is not None else int(found[2]) + 1


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Give what has arrived as it arrives: what came before a break is kept."""
    while True:
        try:
            chunk = response.raw.read1(CHUNK, decode_content=True)
        except (HTTPError, requests.RequestException, OSError) as error:
            raise BrokenDownloadError(f"the connection broke ({type(error).__name__})") from error
        if not chunk:
            return
        yield chunk
