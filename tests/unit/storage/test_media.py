"""Fetching one URL: what is refused, what is repeated, what is resumed."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.settings import MAX_RETRY_AFTER, ClientSettings
from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.storage.downloads import ATTEMPTS, Downloads, _wait
from musicapi_provider.storage.kinds import AUDIO
from musicapi_provider.storage.media import MAX_REDIRECTS, BrokenDownloadError, MediaClient
from musicapi_provider.storage.partial import PartFile
from tests.media import MediaServer, frames, media_server

if TYPE_CHECKING:
    from tests.unit.conftest import OddAnswer, OddServer

__all__ = ["media_server"]
pytestmark = pytest.mark.usefixtures("quick")

BODY = frames(300_000)
AUDIO_TYPE = {"content-type": "audio/mpeg"}
LOCAL = ClientSettings(api_key="sk-secret", base_url="http://127.0.0.1:9/api/v1", timeout=5)
SECURE = replace(LOCAL, base_url="https://api.musicapi.ai/api/v1", allow_private_media=True)


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartFile]:
    """Return a file to download into; nothing of it may stay when it is discarded."""
    part = PartFile(ObjectStoragePath(f"file://{tmp_path}/music"), "clip")
    yield part
    part.discard()

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture
def download(part: PartFile) -> Iterator[Callable[..., float]]:
    """Return a function that downloads a URL into the part file, patiently."""
    opened: list[Downloads] = []

    def get(
        url: str, settings: ClientSettings = LOCAL, *, max_bytes: int = 10**7, stated: Any = None
    ) -> float:
        opened.append(Downloads(settings, max_bytes=max_bytes, connections=2))
        return opened[-1].audio(url, part, stated)

    yield get
    for one in opened:
        one.close()


def content_of(part: PartFile) -> bytes:
    """Return what was written."""
    return Path(part.path.path).read_bytes()


# -- what is refused -----------------------------------------------------------------------------------------


def _answers(status: int, headers: dict[str, str], body: str) -> Callable[..., OddAnswer]:
    return lambda _: (status, headers, body)


@pytest.mark.parametrize(
    ("answer", "words", "requests"),
    [
        pytest.param(_answers(503, {}, ""), "HTTP 503", ATTEMPTS, id="away"),
        pytest.param(_answers(429, {}, ""), "HTTP 429", ATTEMPTS, id="throttled"),
        pytest.param(_answers(400, {}, ""), "HTTP 400", 1, id="bad request"),
        pytest.param(_answers(403, {}, "expired"), "HTTP 403", 1, id="expired"),
        pytest.param(_answers(410, {}, "gone"), "HTTP 410", 1, id="gone"),
        pytest.param(_answers(206, AUDIO_TYPE, "x" * 20), "HTTP 206", 1, id="a part that nobody asked for"),
        pytest.param(_answers(304, {}, ""), "HTTP 304", 1, id="not modified"),
        pytest.param(_answers(302, {}, ""), "HTTP 302", 1, id="redirect to nowhere"),
        pytest.param(_answers(200, AUDIO_TYPE, ""), "the body is empty", ATTEMPTS, id="empty"),
        pytest.param(
            _answers(200, AUDIO_TYPE, "this is no music"), "does not begin like", 1, id="magic bytes"
        ),
        pytest.param(_answers(200, AUDIO_TYPE, "ID3"), "not readable", 1, id="three bytes"),
        pytest.param(
            _answers(200, AUDIO_TYPE, "ID3 but no frames at all"), "not readable", 1, id="no frames"
        ),
        pytest.param(_answers(200, AUDIO_TYPE, "\n<!DOCTYPE html>..."), "HTML or XML page", 1, id="page"),
        pytest.param(
            _answers(200, AUDIO_TYPE, "<Error><Code>Access"), "HTML or XML page", 1, id="S3's error"
        ),
        pytest.param(
            _answers(200, {"content-type": "text/html"}, "x"), r"HTML page \(text/html\)", 1, id="HTML"
        ),
        pytest.param(_answers(200, {"content-type": "video/mp4"}, "x"), "video/mp4 instead", 1, id="video"),
        pytest.param(_answers(200, {}, "x"), "no content type instead", 1, id="no content type"),
        pytest.param(
            _answers(302, {"location": "/loop"}, ""), "more than 5 times", MAX_REDIRECTS + 1, id="endless"
        ),
        pytest.param(_answers(302, {"location": "ftp://a/b.mp3"}, ""), "redirected to ftp", 1, id="scheme"),
        pytest.param(
            _answers(301, {"location": "file:///etc/passwd"}, ""), "redirected to file", 1, id="file"
        ),
        pytest.param(_answers(302, {"location": "http://[::1"}, ""), "no URL", 1, id="redirect to no URL"),
        pytest.param(_answers(302, {"location": "https://"}, ""), "no usable URL", 1, id="to no host"),
        pytest.param(
            _answers(307, {"location": "https://audiopipe.suno.ai/?item_id=x"}, ""),
            r"streaming preview \(audiopipe",
            1,
            id="redirect to a stream",
        ),
        pytest.param(
            _answers(302, {"location": "http://169.254.169.254/latest/meta-data"}, ""),
            r"private address 169\.254\.169\.254",
            1,
            id="redirect to a cloud's metadata",
        ),
        pytest.param(
            _answers(302, {"location": "http://2130706434/"}, ""),
            r"private address 127\.0\.0\.2",
            1,
            id="redirect to a number",
        ),
    ],
)
def test_answer_that_is_no_audio_is_refused(
    answer: Callable[[BaseHTTPRequestHandler], OddAnswer],
    words: str,
    requests: int,
    download: Callable[..., float],
    odd_server: Callable[..., OddServer],
) -> None:
    """The error names the URL and what came instead."""
    server = odd_server(answer)
    url = f"{server.base_url}/song.mp3"
    with pytest.raises(MusicAPIStorageError, match=words) as caught:
        download(url)

    assert url in str(caught.value)
    assert requests == len(server.requests)


def test_body_of_a_redirect_is_not_read(
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    part: PartFile,
    stopwatch: Callable[[], float],
) -> None:
    """It may be endless."""
    endless = {"location": "/other.mp3", "content-length": str(10**9)}
    answers = [(302, endless, b"")]
    server = media_server(
        BODY, breaks=[0], stalls=True, answer_with=lambda _: answers.pop() if answers else None
    )
    download(server.url())

    assert content_of(part) == BODY
    assert stopwatch() < 60


def test_private_address_in_the_url_is_refused(download: Callable[..., float]) -> None:
    """Without any connection; the message says what to do where it is wanted."""
    with pytest.raises(MusicAPIStorageError, match=r"10\.0\.0\.1.*allow_private_media"):
        download("http://10.0.0.1/song.mp3")


def test_body_beyond_max_bytes_is_refused_before_it_is_downloaded(
    download: Callable[..., float], media_server: Callable[..., MediaServer], part: PartFile
) -> None:
    """By its announced length."""
    server = media_server(BODY)
    with pytest.raises(MusicAPIStorageError, match=r"larger than 1000 bytes.*nothing was downloaded"):
        download(server.url(), max_bytes=1000)

    assert part.written == 0
    assert len(server.asked) == 1


def test_unannounced_body_beyond_max_bytes_is_stopped(
    download: Callable[..., float], media_server: Callable[..., MediaServer]
) -> None:
    """In the middle, and not repeated."""
    server = media_server(BODY, headers={"content-length": ""})
    with pytest.raises(MusicAPIStorageError, match=r"larger than 1000 bytes.*was stopped"):
        download(server.url(), max_bytes=1000)

    assert len(server.asked) == 1


def test_packed_body_counts_unpacked(
    download: Callable[..., float], media_server: Callable[..., MediaServer]
) -> None:
    """Few bytes on the wire may be many on the disk; we ask for none such, but hosts may not listen."""
    server = media_server(gzip.compress(BODY), headers={"content-encoding": "gzip"})
    with pytest.raises(MusicAPIStorageError, match="was stopped"):
        download(server.url(), max_bytes=100_000)

    assert server.asked[0]["accept-encoding"] == "identity"


def test_packed_body_is_unpacked(
    download: Callable[..., float], media_server: Callable[..., MediaServer], part: PartFile
) -> None:
    """Its length on the wire is not that of the file."""
    server = media_server(gzip.compress(BODY), headers={"content-encoding": "gzip", "etag": '"v1"'})
    download(server.url())

    assert content_of(part) == BODY


# -- what is resumed -----------------------------------------------------------------------------------------

ETAG = {"etag": '"v1"'}
DATE = {"last-modified": "Mon, 01 Jun 2026 00:00:00 GMT"}


@pytest.mark.parametrize("headers", [ETAG, DATE], ids=["ETag", "Last-Modified"])
def test_broken_download_goes_on_where_it_broke(
    headers: dict[str, str],
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    part: PartFile,
) -> None:
    """Only what is missing is asked for, and only of the same file; the hash is that of the whole."""
    server = media_server(BODY, headers=headers, breaks=[100_000, 50_000])
    seconds = download(server.url())
    ranges = [(asked.get("range"), asked.get("if-range")) for asked in server.asked]

    assert content_of(part) == BODY
    assert part.sha256 == hashlib.sha256(BODY).hexdigest()
    assert seconds == pytest.approx(len(BODY) * 8 / 128_000, rel=0.01)
    (known,) = headers.values()
    assert ranges == [(None, None), ("bytes=100000-", known), ("bytes=150000-", known)]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"ranges": False}, id="host without ranges"),
        pytest.param({"headers": {"etag": 'W/"v1"'}}, id="weak ETag"),
        pytest.param({"headers": {}}, id="nothing to know it by"),
        pytest.param({"headers": {**ETAG, "accept-ranges": "none"}}, id="ranges refused"),
    ],
)
def test_broken_download_that_cannot_go_on_is_repeated(
    arguments: dict[str, Any],
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    part: PartFile,
) -> None:
    """From the start; the hash is right all the same."""
    server = media_server(BODY, breaks=[100_000], **arguments)
    download(server.url())

    assert content_of(part) == BODY
    assert part.sha256 == hashlib.sha256(BODY).hexdigest()
    assert len(server.asked) == 2


def test_file_that_changed_meanwhile_is_downloaded_anew(
    download: Callable[..., float], media_server: Callable[..., MediaServer], part: PartFile
) -> None:
    """Two halves of two files would be a file that nobody made."""
    server = media_server(BODY, breaks=[100_000])
    changed = frames(417 * 400)

    def change(asked: dict[str, str]) -> None:
        if asked.get("range"):
            server.body, server.headers = changed, {"etag": '"v2"'}

    server.answer_with = change
    download(server.url())

    assert content_of(part) == changed
    assert part.sha256 == hashlib.sha256(changed).hexdigest()


@pytest.mark.parametrize(
    ("status", "content_range"),
    [
        pytest.param(206, "bytes 0-299999/300000", id="from another place"),
        pytest.param(206, "bytes 100000-299999/400000", id="of another size"),
        pytest.param(206, "", id="without a range"),
        pytest.param(206, "lines 1-2/3", id="in another unit"),
        pytest.param(416, "", id="refused"),
    ],
)
def test_rest_that_does_not_fit_is_not_appended(
    status: int,
    content_range: str,
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    part: PartFile,
) -> None:
    """The next try begins anew."""

    def misfit(asked: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        if "range" not in asked:
            return None
        return status, {**AUDIO_TYPE, **ETAG, "content-range": content_range}, BODY

    server = media_server(BODY, breaks=[100_000], answer_with=misfit)
    download(server.url())

    assert content_of(part) == BODY
    assert [asked.get("range") for asked in server.asked] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_host_that_asks_to_wait_is_given_its_time(
    status: int,
    as_date: bool,
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    stopwatch: Callable[[], float],
) -> None:
    """As ``Retry-After`` says, in either form."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
    answers = [(status, {"retry-after": later}, b"")]
    server = media_server(BODY, answer_with=lambda _: answers.pop() if answers else None)
    download(server.url())

    assert stopwatch() > 0.9
    assert len(server.asked) == 2


def test_too_long_a_retry_after_is_capped() -> None:
    """Longer waits are for Airflow's retries."""
    error = BrokenDownloadError("HTTP 503", retry_after=86400)
    state = SimpleNamespace(outcome=SimpleNamespace(exception=lambda: error))

    assert _wait(state) == MAX_RETRY_AFTER  # type: ignore[arg-type]


def test_stopped_download_ends_at_once(
    media_server: Callable[..., MediaServer], part: PartFile, stopwatch: Callable[[], float]
) -> None:
    """A task that is being ended does not wait for the host."""
    server = media_server(BODY, answer_with=lambda _: (503, {"retry-after": "60"}, b""))
    downloads = Downloads(LOCAL, max_bytes=10**7, connections=1)
    threading.Timer(0.2, downloads.stop).start()
    with pytest.raises(MusicAPIStorageError, match="is being ended"):
        downloads.audio(server.url(), part, None)
    downloads.close()

    assert stopwatch() < 10


# -- what a host is told -------------------------------------------------------------------------------------


def test_host_gets_no_key_header_cookie_or_netrc(
    media_server: Callable[..., MediaServer],
    download: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are the API's; a host that sets a cookie does not get it back either."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = media_server(BODY, headers={"etag": '"v1"', "set-cookie": "who=me"}, breaks=[1000])
    settings = replace(LOCAL, headers={"X-Team": "music"}, cert="/no/such.pem")
    download(server.url(), settings)
    netrc.unlink()
    told = {name for asked in server.asked for name in asked}

    assert len(server.asked) == 2
    assert told <= {"host", "user-agent", "accept", "accept-encoding", "connection", "range", "if-range"}


def test_proxy_of_the_connection_is_used(
    media_server: Callable[..., MediaServer], download: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stand on a private address; the media host's own address is the proxy's business."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    proxy = media_server(BODY)
    settings = replace(LOCAL, base_url="http://api.example/api/v1", proxies={"http": proxy.origin})
    download("http://cdn.example/song.mp3", settings)

    assert proxy.asked[0]["host"] == "cdn.example"


@pytest.mark.parametrize("host", ["10.0.0.1", "127.1", "localhost", "[::1]"])
def test_private_address_in_the_url_is_refused_behind_a_proxy_too(
    host: str, media_server: Callable[..., MediaServer], download: Callable[..., float]
) -> None:
    """To a proxy, localhost is the proxy itself."""
    proxy = media_server(BODY)
    settings = replace(LOCAL, base_url="http://api.example/api/v1", proxies={"http": proxy.origin})
    with pytest.raises(MusicAPIStorageError, match="private address"):
        download(f"http://{host}/song.mp3", settings)

    assert not proxy.asked


# -- https ---------------------------------------------------------------------------------------------------


def test_http_url_is_refused_where_the_api_is_https(
    media_server: Callable[..., MediaServer], download: Callable[..., float]
) -> None:
    """Http is for the simulator alone."""
    server = media_server(BODY)
    with pytest.raises(MusicAPIStorageError, match="no final https URL"):
        download(server.url(), SECURE)

    assert not server.asked


@pytest.mark.parametrize("settings", [LOCAL, SECURE], ids=["API on http", "API on https"])
def test_redirect_from_https_to_http_is_refused(
    settings: ClientSettings,
    download: Callable[..., float],
    media_server: Callable[..., MediaServer],
    odd_server: Callable[..., OddServer],
    certificate: Path,
) -> None:
    """A redirect cannot talk us out of https, wherever the API is."""
    plain = media_server(BODY)
    secure = odd_server(lambda _: (302, {"location": plain.url()}, ""), tls=certificate)
    with pytest.raises(MusicAPIStorageError, match="redirected to http, which is not https"):
        download(f"{secure.base_url}/song.mp3", replace(settings, verify=str(certificate)))

    assert not plain.asked


def test_verify_of_the_connection_beats_the_environment(
    download: Callable[..., float],
    odd_server: Callable[..., OddServer],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its certificates serve the download where ``REQUESTS_CA_BUNDLE`` is set, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    secure = odd_server(lambda _: (404, {}, ""), tls=certificate)
    with pytest.raises(MusicAPIStorageError, match="answered HTTP 404"):
        download(f"{secure.base_url}/song.mp3", replace(SECURE, verify=str(certificate)))

    assert len(secure.requests) == 1


def test_certificate_that_nobody_vouches_for_is_refused(
    download: Callable[..., float], odd_server: Callable[..., OddServer], certificate: Path
) -> None:
    """After the tries that any failed connection gets."""
    secure = odd_server(lambda _: (404, {}, ""), tls=certificate)
    with pytest.raises(MusicAPIStorageError, match="SSLError"):
        download(f"{secure.base_url}/song.mp3", SECURE)

    assert not secure.requests


def test_fetch_again_of_another_url_begins_anew(
    media_server: Callable[..., MediaServer], part: PartFile
) -> None:
    """What came from one URL says nothing about another, even with the same ETag."""
    server = media_server(BODY, breaks=[1000])
    client = MediaClient(LOCAL, max_bytes=10**7, connections=1)
    with pytest.raises(BrokenDownloadError, match=r"IncompleteRead|ProtocolError"):
        client.fetch(server.url("a.mp3"), AUDIO, part, threading.Event())
    client.fetch(server.url("b.mp3"), AUDIO, part, threading.Event())
    part.close()
    client.close()

    assert content_of(part) == BODY
    assert not [asked for asked in server.asked if "range" in asked]
