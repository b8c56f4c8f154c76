"""Range requests: the rest of a file for a client whose download broke off (RFC 9110, section 14)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from include.musicapi_simulator.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``bytes=FIRST-``, ``bytes=FIRST-LAST`` or ``bytes=-LENGTH``; anything else is ignored, as the RFC allows.
RANGE = re.compile(r"bytes=(?:(\d{1,15})-(\d{1,15})?|-(\d{1,15}))")


def file(content: bytes, kind: str) -> Reply:
    """
    Return the answer with a whole file, of which parts can be asked for.

    :param kind: Content type.
    """
    tag = hashlib.sha256(content).hexdigest()[:16]
    return Reply(200, content, {"content-type": kind, "accept-ranges": "bytes", "etag": f'"{tag}"'})


def part_of(whole: Reply, asked: Mapping[str, str]) -> Reply:
    """
    Return the part that the headers of a request ask for, 416 beyond the end, or else the whole.

    An answer without ``Accept-Ranges`` stays whole. What is wrong with its wire stays wrong.

    :param asked: The request's headers.
    """
    wanted = RANGE.fullmatch(asked.get("range", ""))
    changed = asked.get("if-range", whole.headers.get("etag")) != whole.headers.get("etag")
    if wanted is None or changed or "accept-ranges" not in whole.headers:
        return whole
    first, last, length = (None if text is None else int(text) for text in wanted.groups())
    size = len(whole.body)
    start = max(0, size - (length or 0)) if first is None else first
    end = size if last is None else min(size, last + 1)
    if start >= size:
        return Reply(416, "", {"content-range": f"bytes */{size}"})
    if start >= end:
        return whole  # the last byte before the first: not a range
    headers = {**whole.headers, "content-range": f"bytes {start}-{end - 1}/{size}"}
    return replace(whole, status=206, body=whole.body[start:end], headers=headers)
