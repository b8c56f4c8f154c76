"""
Whether a callback is the API's: HMAC-SHA256 over timestamp, a dot and the exact bytes (facts 7.3). Pure.

The form of the sister site, over the body alone, is refused: it would let an old callback look new.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Seconds that a timestamp may differ from the clock here: what integrators enforce (facts 7.3).
WINDOW = 300.0
#: Events that end a music task. A streaming event never does.
FINAL_EVENTS = frozenset({"song.completed", "song.failed"})

#: Characters of an event's id that are kept.
MOST_OF_ID = 200
_ID = re.compile(r"[\x21-\x7e]{1,200}")
_TIMESTAMP = re.compile(r"[0-9]{1,15}")


class Reason(StrEnum):
    """Why a callback was refused; for counters and logs, never for whoever sent it."""

    NO_SIGNATURE = "no signature"
    WRONG_SIGNATURE = "wrong signature"
    OLD = "timestamp out of the window"
    NOT_AN_EVENT = "signed, but no event"
    NOT_ITS_TOKEN = "token of another purchase"  # noqa: S105 - words
    UNKNOWN_ROUTE = "unknown connection or token"
    TOO_LARGE = "too large"
    TOO_SLOW = "too slow"
    NOT_JSON = "not JSON by its content type"


class RefusedError(Exception):
    """A callback that is not to be believed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Callback:
    """
    A callback whose signature holds.

    :param id: ``X-Webhook-Id``: the same for each delivery of one event; not signed, and may be missing.
    :param event: ``song.streaming``, ``song.completed``, ``song.failed``, or one that is not known yet.
    """

    id: str
    event: str
    music_task_id: str

    @property
    def is_final(self) -> bool:
        """Whether the music task is said to be done. A hint: the truth is read from the API."""
        return self.event in FINAL_EVENTS


def check_headers(headers: Mapping[str, str], now: float) -> None:
    """
    Refuse what cannot be a callback of now, before its body is read.

    :param headers: By lower-case name.
    :param now: Epoch seconds.
    :raises RefusedError: no signature, or not of now.
    """
    timestamp, _ = _signed_by(headers)
    if abs(now - int(timestamp)) > WINDOW:
        raise RefusedError(Reason.OLD)


def verified(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float) -> Callback:
    """
    Return what a callback says.

    :param body: The bytes as they came.
    :param secrets: All that are active.
    :raises RefusedError: it is not the API's, or none of now.
    """
    check_headers(headers, now)
    timestamp, given = _signed_by(headers)
    message = timestamp.encode() + b"." + body
    # All are compared, in constant time: which one it was, or how far it got, is nobody's business.
    matches = [hmac.compare_digest(_digest(secret, message), given.encode()) for secret in secrets]
    if not any(matches):
        raise RefusedError(Reason.WRONG_SIGNATURE)
    return _callback(headers, body)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the header ``X-Webhook-Signature`` of a callback."""
    return f"sha256={_digest(secret, timestamp.encode() + b'.' + body).decode()}"


def _signed_by(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return timestamp and hex digest of the headers."""
    timestamp = headers.get("x-webhook-timestamp", "")
    scheme, _, given = headers.get("x-webhook-signature", "").partition("=")
    if scheme != "sha256" or not given or not _TIMESTAMP.fullmatch(timestamp):
        raise RefusedError(Reason.NO_SIGNATURE)
    return timestamp, given


def _digest(secret: str, message: bytes) -> bytes:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest().encode()


def _callback(headers: Mapping[str, str], body: bytes) -> Callback:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(Reason.NOT_AN_EVENT) from None
    told = told if isinstance(told, Mapping) else {}
    # Both are there and alike (facts 7.4); the signed one counts, since headers are not signed.
    event, music_task_id = told.get("event"), told.get("task_id")
    if not all(isinstance(text, str) and _ID.fullmatch(text) for text in (event, music_task_id)):
        raise RefusedError(Reason.NOT_AN_EVENT)
    return Callback(headers.get("x-webhook-id", "")[:MOST_OF_ID], str(event), str(music_task_id))
