"""
Answers that hold a file: whole or a range of it, in small pieces, and harmless in a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from starlette.requests import Request

    from musicapi_provider.ui.stored_files import StoredFile

#: Content type by suffix; what a file says of itself counts for nothing.
CONTENT_TYPES = {
    **{".mp3": "audio/mpeg", ".wav": "audio/wav", ".m4a": "audio/mp4"},
    **{".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"},
    ".jsonl": "text/plain; charset=utf-8",  # browsers show it instead of saving it
}
#: Nothing that is stored may act as a page of Airflow, whatever a browser makes of it. What is let through is
#: what browsers wrap around an audio file or a picture that is opened by itself.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; "
    "style-src 'unsafe-inline'; sandbox allow-same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A browser keeps it, but asks each time: it is there only for who may see it now.
    "Cache-Control": "private, no-cache",
}
#: Bytes read at a time.
PIECE = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def file_response(request: Request, file: StoredFile, name: str) -> Response:
    """
    Answer a request for a file: 200, 206 for one range, 304 for what the browser has, 416.

    Several ranges at once, and what is no range, get the whole file, as HTTP allows.

    :param name: Under which the browser saves it; letters, digits, ``._-``.
    """
    etag = f'"{file.version}"'
    headers = {
        **SAFE,
        "Content-Type": CONTENT_TYPES["." + name.rpartition(".")[2]],
        "Content-Disposition": f'inline; filename="{name}"',
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    span = None
    if request.headers.get("if-range", etag) == etag:
        span = _span(request.headers.get("range", ""), file.size)
    start, stop = span or (0, file.size)
    if span is not None:
        if start >= stop:
            headers["Content-Range"] = f"bytes */{file.size}"
            return Response(status_code=416, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    pieces = () if request.method == "HEAD" else _pieces(file, start, stop)
    return StreamingResponse(pieces, status_code=200 if span is None else 206, headers=headers)


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """Return where a range begins and ends, the end not included; ``None`` where none is wanted."""
    found = _RANGE.fullmatch(wanted)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _pieces(file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
    while start < stop:
        piece = file.read(start, min(stop, start + PIECE))
        if not piece:
            return  # it has become shorter: the server breaks off, and the browser notices
        yield piece
        start += len(piece)
