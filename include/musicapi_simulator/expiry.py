"""Media URLs that expire: a time and a token in the query, as the signed URLs of a CDN have them."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Signs the URLs. Always the same, so that URLs outlive a restart of the simulator.
SIGNING_KEY = b"musicapi-simulator"


def link(root: str, path: str, seconds: float) -> str:
    """
    Return the URL of a file.

    :param root: Scheme and host.
    :param seconds: Seconds from now until the URL expires, 0 for never.
    """
    if not seconds:
        return root + path
    expires = f"{time.time() + seconds:.3f}"
    return f"{root}{path}?expires={expires}&token={_token(path, expires)}"


def is_valid(path: str, query: Mapping[str, str]) -> bool:
    """Say whether a query lets its bearer have the file of this path now."""
    expires = query.get("expires", "")
    # The token first: only what was signed here is sure to be a number.
    return hmac.compare_digest(
        query.get("token", "").encode(), _token(path, expires).encode()
    ) and time.time() < float(expires)


def _token(path: str, expires: str) -> str:
    return hmac.new(SIGNING_KEY, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()[:32]
