"""A callback is the API's, of now, and says what it says; everything else is refused, whatever it is."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicapi_provider.webhooks.signature import WINDOW, Callback, Reason, RefusedError, signature, verified

SECRET, OLD_SECRET = "a secret of the API and us", "the secret of last month, still active"
NOW = 1_780_000_000.0
BODY = json.dumps({"event": "song.completed", "task_id": "music-1", "code": 200, "data": []}).encode()


def headers(
    body: bytes = BODY, secret: str = SECRET, at: float = NOW, **changes: str | None
) -> dict[str, str]:
    """Return the headers of a callback as the API sends them."""
    found: dict[str, str | None] = {
        "x-webhook-id": "evt-1",
        "x-webhook-event": "song.completed",
        "x-webhook-timestamp": str(int(at)),
        "x-webhook-signature": signature(secret, str(int(at)), body),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def test_signature_is_what_the_vendor_documents() -> None:
    """Facts 7.3, computed by hand: hex HMAC-SHA256 of timestamp, dot and body under the secret."""
    digest = hmac.new(SECRET.encode(), b"1780000000." + BODY, hashlib.sha256).hexdigest()

    assert signature(SECRET, "1780000000", BODY) == f"sha256={digest}"


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
@pytest.mark.parametrize("late", [0, WINDOW, -WINDOW])
def test_each_active_secret_within_the_window_counts(secret: str, late: float) -> None:
    """Two secrets are active while one is replaced."""
    told = verified(headers(secret=secret, at=NOW + late), BODY, [SECRET, OLD_SECRET], NOW)

    assert told == Callback("evt-1", "song.completed", "music-1")
    assert told.is_final


@pytest.mark.parametrize(
    ("event", "final"),
    [("song.completed", True), ("song.failed", True), ("song.streaming", False), ("song.new_kind", False)],
)
def test_only_the_ends_are_final(event: str, final: bool) -> None:
    """A streaming event never counts as final, nor does one that is not known."""
    body = json.dumps({"event": event, "task_id": "music-1"}).encode()

    assert verified(headers(body), body, [SECRET], NOW).is_final is final


_SIGNED = headers()["x-webhook-signature"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_webhook_signature": None}, Reason.NO_SIGNATURE),
        ({"x_webhook_signature": ""}, Reason.NO_SIGNATURE),
        ({"x_webhook_signature": "sha256="}, Reason.NO_SIGNATURE),
        ({"x_webhook_signature": _SIGNED.removeprefix("sha256=")}, Reason.NO_SIGNATURE),
        ({"x_webhook_signature": _SIGNED.replace("sha256", "sha1")}, Reason.NO_SIGNATURE),
        ({"x_webhook_timestamp": None}, Reason.NO_SIGNATURE),
        ({"x_webhook_timestamp": "now"}, Reason.NO_SIGNATURE),
        ({"x_webhook_timestamp": "1780000000.0"}, Reason.NO_SIGNATURE),
        ({"x_webhook_timestamp": "-1780000000"}, Reason.NO_SIGNATURE),
        ({"x_webhook_timestamp": "\u0661"}, Reason.NO_SIGNATURE),  # a digit, but none of ASCII's
        ({"x_webhook_timestamp": str(int(NOW) + 1)}, Reason.WRONG_SIGNATURE),
        ({"x_webhook_signature": _SIGNED[:-1]}, Reason.WRONG_SIGNATURE),
        ({"x_webhook_signature": _SIGNED.upper().replace("SHA256", "sha256")}, Reason.WRONG_SIGNATURE),
        ({"x_webhook_signature": "sha256=\xff"}, Reason.WRONG_SIGNATURE),
        ({"x_webhook_signature": "sha256=" + "0" * 64}, Reason.WRONG_SIGNATURE),
    ],
)
def test_what_is_not_signed_as_it_should_is_refused(changes: dict[str, str | None], reason: Reason) -> None:
    """Each for its own reason, which only counters learn."""
    with pytest.raises(RefusedError) as refused:
        verified(headers(**changes), BODY, [SECRET], NOW)

    assert refused.value.reason == reason


def test_sister_form_is_refused() -> None:
    """HMAC over the body alone, under its own header or under ours."""
    alone = "sha256=" + hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()

    for changes in (
        {"x_webhook_signature": None, "x_signature": alone},
        {"x_webhook_signature": alone},
    ):
        with pytest.raises(RefusedError):
            verified(headers(**changes), BODY, [SECRET], NOW)


@pytest.mark.parametrize("late", [WINDOW + 1, -WINDOW - 1, -NOW])
def test_old_and_future_are_refused(late: float) -> None:
    """Rightly signed, but not of now: a replay, or a clock that somebody has set."""
    with pytest.raises(RefusedError, match=Reason.OLD):
        verified(headers(at=NOW + late), BODY, [SECRET], NOW)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"\xff\xfe", b'"song.completed"', b"{}", b"{" * 2000, b"[" * 100_000),
        b'{"event": "song.completed"}',
        b'{"event": "song.completed", "task_id": 5}',
        b'{"event": "song.completed", "task_id": ""}',
        b'{"event": "song.completed", "task_id": "a b"}',
        b'{"event": ["song.completed"], "task_id": "music-1"}',
    ],
)
def test_signed_nonsense_is_no_event(body: bytes) -> None:
    """Also what the API itself might send one day."""
    with pytest.raises(RefusedError, match=Reason.NOT_AN_EVENT):
        verified(headers(body), body, [SECRET], NOW)


def test_signed_body_counts_not_the_unsigned_header() -> None:
    """Headers but timestamp and signature are not signed: a streaming event cannot be made a final one."""
    body = json.dumps({"event": "song.streaming", "task_id": "music-1"}).encode()

    assert not verified(headers(body, x_webhook_event="song.completed"), body, [SECRET], NOW).is_final


def test_without_secrets_nothing_is_verified() -> None:
    """Fails closed, even for a signature under the empty secret."""
    with pytest.raises(RefusedError):
        verified(headers(secret=""), BODY, [], NOW)


@given(place=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_each_bit_of_the_body_counts(place: int, bit: int) -> None:
    """The exact bytes are signed."""
    changed = bytearray(BODY)
    changed[place] ^= 1 << bit

    with pytest.raises(RefusedError, match=Reason.WRONG_SIGNATURE):
        verified(headers(), bytes(changed), [SECRET], NOW)


@given(
    body=st.binary(max_size=200),
    told=st.dictionaries(
        st.sampled_from(["x-webhook-id", "x-webhook-timestamp", "x-webhook-signature"]), st.text(max_size=80)
    ),
)
def test_nothing_else_than_refusal_comes_of_noise(body: bytes, told: dict[str, Any]) -> None:
    """No input makes another exception."""
    with pytest.raises(RefusedError):
        verified(told, body, [SECRET], NOW)
