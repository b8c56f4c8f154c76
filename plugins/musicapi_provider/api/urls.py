"""
URLs of the API: the path of a music task, and which URL of an answer can be final audio. Pure.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

#: Hosts that only stream unfinished clips; their URLs are never final (facts 1.1).
STREAM_HOSTS = frozenset({"audiopipe.suno.ai"})
_HOST = re.compile(r"\S+")


def is_usable_url(url: str | None, *, allow_http: bool) -> bool:
    """
    Tell whether a URL can be final audio: https, a host, and not a streaming host.

    :param allow_http: Also accept http; only where the connection's own base URL is http (the simulator).
    """
    if not url:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    schemes = {"https", "http"} if allow_http else {"https"}
    return (
        parts.scheme in schemes
        and host is not None
        and _HOST.fullmatch(host) is not None
        and host not in STREAM_HOSTS
    )


def task_path(music_task_id: str) -> str:
    """Return the path of a music task; the id is quoted, whatever it holds (facts 1)."""
    return f"/sonic/task/{quote(music_task_id, safe='')}"
