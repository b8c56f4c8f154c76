"""
The catalogue of misbehaviour: one line a scenario, each turning the answer that was due into another.

A scenario is chosen in three ways: the control route, ``state.scenario(name)`` in the same process, or the
text ``simulate:NAME`` in a text field of a create body (``simulate:NAME*3``: three times).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from include.musicapi_simulator.answers import (
    EXPIRED,
    NO_CREDITS,
    RETIRED,
    THROTTLED,
    UNAUTHORIZED,
    UNKNOWN_TASK,
    data,
    error,
    failed,
)
from include.musicapi_simulator.reply import Reply
from include.musicapi_simulator.scenario import (
    Armed,
    Effect,
    Manner,
    Scenario,
    Stage,
)

#: ``simulate:NAME`` or ``simulate:NAME*TIMES`` among the words of a create body.
MARKER = re.compile(r"simulate:([a-z0-9-]+)(?:\*(\d+))?")


def named_in(text: str) -> list[Armed]:
    """
    Return the scenarios that a text asks for.

    :raises ValueError: If a name is not in the catalogue; a typo must not pass as a success.
    """
    found = []
    for name, times in MARKER.findall(text):
        scenario = find(name)
        found.append(Armed(scenario, int(times) if times else scenario.times))
    return found


def find(name: str) -> Scenario:
    """
    Return the scenario of this name.

    :raises ValueError: If there is none; the text lists all names.
    """
    if name not in CATALOGUE:
        raise ValueError(f"unknown simulator scenario {name!r}; known: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def _webhook(name: str, description: str, manner: Manner) -> Scenario:
    return Scenario(name, Stage.WEBHOOK, description, _as_due, manner=manner)


def _say(status: int, text: str, kind: str | None = None) -> Effect:
    return lambda _due: error(status, text, kind)


def _send(reply: Reply) -> Effect:
    return lambda _due: reply


def _as_due(due: Reply) -> Reply:
    return due


def _drop(due: Reply) -> Reply:
    return replace(due, wire="drop")


def _slow(due: Reply) -> Reply:
    return replace(due, slow=True)


def _cut_json(due: Reply) -> Reply:
    # Content-Length agrees with the half that is sent: only parsing reveals the loss.
    text = json.dumps(due.body)
    return replace(due, body=text[: len(text) // 2], headers={"content-type": "application/json"})


def _html(due: Reply) -> Reply:
    page = "<!doctype html><title>Welcome</title><p>Please sign in to the Wi-Fi."
    return Reply(200, page, {"content-type": "text/html"})


def _without_id(due: Reply) -> Reply:
    return due.with_body({"message": "success"})


def _nested_id(due: Reply) -> Reply:
    return due.with_body({"message": "success", "data": {"task_id": due.body["task_id"]}})


def _extra_keys(due: Reply) -> Reply:
    return due.with_body({"code": 200, **due.body, "warning": None, "platform": "suno"})


def _each_clip(**changes: Any) -> Effect:
    return lambda due: data([clip | changes for clip in due.clips])


def _all_failed(due: Reply) -> Reply:
    return data([failed(clip) for clip in due.clips])


def _partial(due: Reply) -> Reply:
    first, second = due.clips
    return data([first, failed(second)])


def _numeric_duration(due: Reply) -> Reply:
    return data([clip | {"duration": float(clip["duration"])} for clip in due.clips])


def _pairs(due: Reply) -> Reply:
    return data([{"extended": clip, "full": clip} for clip in due.clips])


def _moved(origin: str = "") -> Effect:
    """
    Redirect to the same path.

    :param origin: Scheme and host with places for the host and port that were asked; empty for the same.
    """

    def effect(due: Reply) -> Reply:
        url = urlsplit(due.url)
        place = origin.format(host=url.hostname, port=url.port or 80) + url.path
        query = "&".join(filter(None, (url.query, "redirected=1")))  # the signature goes along
        return Reply(302, "", {"location": f"{place}?{query}"})

    return effect


def _short(due: Reply) -> Reply:
    return replace(due, wire="cut")


def _empty(due: Reply) -> Reply:
    return Reply(200, b"", {"content-type": due.headers["content-type"]})


def _no_range(due: Reply) -> Reply:
    return replace(due, headers={k: v for k, v in due.headers.items() if k != "accept-ranges"})


def preview(due: Reply) -> Reply:
    """Return the first half of a track as a stream: no length, no ranges."""
    half = due.body[: len(due.body) // 2]
    return Reply(200, half, {"content-type": due.headers["content-type"]}, "trickle")


def _picture(_due: Reply) -> Reply:
    from include.musicapi_simulator.cover import draw_cover  # Pillow costs start-up time

    return Reply(200, draw_cover("", "", 0), {"content-type": "audio/mp3"})


_INVALID = error(400, "mv must be one of the supported models")
_GATEWAY = Reply(504, "Gateway Timeout", {"content-type": "text/plain"})
_UPSTREAM = Reply(502, "<html><body>502 Bad Gateway</body></html>", {"content-type": "text/html"})
_INTERNAL = error(500, "Internal server error", "api_error")
_BY_SECONDS = replace(THROTTLED, retry_after="seconds")
_BY_DATE = replace(THROTTLED, retry_after="date")
_WEIRD = Reply(200, {"type": "weird", "error": "Something new happened"})
_REFUNDED_TIMEOUT = error(504, "Task timed out, your credits have been refunded")

S = Stage
_ALL = (
    Scenario("invalid", S.CREATE, "400, as a failed check", _send(_INVALID)),
    Scenario("no-credits", S.CREATE, "403 about remaining credits", _send(NO_CREDITS)),
    Scenario("no-credits-402", S.CREATE, "402", _say(402, "Insufficient credits")),
    Scenario("no-subscription", S.CREATE, "403, no subscription", _say(403, "No active subscription found")),
    Scenario("moderated", S.CREATE, "403 about content", _say(403, "Lyrics contain copyrighted content")),
    Scenario("unauthorized", S.CREATE, "401", _send(UNAUTHORIZED)),
    Scenario("retired", S.CREATE, "410", _send(RETIRED)),
    Scenario("throttled", S.CREATE, "429 with Retry-After in seconds", _send(_BY_SECONDS), 1),
    Scenario("throttled-date", S.CREATE, "429 with Retry-After as a date", _send(_BY_DATE), 1),
    Scenario("throttled-bare", S.CREATE, "429 without Retry-After", _send(THROTTLED), 1),
    Scenario("create-500", S.CREATE, "500, nothing booked", _send(_INTERNAL), 1),
    Scenario("drop-before-booking", S.CREATE, "connection closed, nothing booked", _drop, 1),
    Scenario("create-502-after-booking", S.BOOKED, "502, but booked and debited", _send(_UPSTREAM), 1),
    Scenario("drop-after-booking", S.BOOKED, "connection closed, but booked and debited", _drop, 1),
    Scenario("slow-create", S.BOOKED, "booked at once, answered after slow_seconds", _slow, 1),
    Scenario("truncated-create", S.BOOKED, "booked, half the JSON", _cut_json, 1),
    Scenario("html-create", S.BOOKED, "booked, 200 with an HTML page", _html, 1),
    Scenario("no-task-id", S.BOOKED, "booked, success without task_id", _without_id, 1),
    Scenario("nested-task-id", S.BOOKED, "booked, the id in data.task_id", _nested_id),
    Scenario("create-code-200", S.BOOKED, "booked, code and other extra keys", _extra_keys),
    Scenario("not-found-at-first", S.OPENING, "404 right after submit", _send(UNKNOWN_TASK), 2),
    Scenario("running", S.OPENING, "runs for ever", _as_due),
    Scenario(
        "not-ready-200",
        S.OPENING,
        "not_ready with status 200",
        _send(Reply(200, {"type": "not_ready", "error": "Task is not ready yet"})),
        2,
    ),
    Scenario(
        "code-102",
        S.OPENING,
        "body code 102, no data",
        _send(Reply(200, {"code": 102, "message": "processing"})),
        2,
    ),
    Scenario("empty-data", S.OPENING, "code 200 with empty data", _send(data([])), 2),
    Scenario("streaming-state", S.OPENING, "clips in state streaming", _each_clip(state="streaming"), 2),
    Scenario("unknown-state", S.OPENING, "clips in an unheard-of state", _each_clip(state="polishing"), 2),
    Scenario("partial", S.ENDING, "one clip succeeded, one failed; no refund", _partial),
    Scenario("all-failed", S.ENDING, "both clips failed, refunded", _all_failed, refunds=True),
    Scenario(
        "failed",
        S.ENDING,
        "type failed, refunded",
        _say(200, "Generation failed, credits refunded", "failed"),
        refunds=True,
    ),
    Scenario(
        "timeout",
        S.ENDING,
        "type timeout, refunded",
        _say(200, "Generation timed out, credits refunded", "timeout"),
        refunds=True,
    ),
    Scenario(
        "api-error",
        S.ENDING,
        "type api_error, refunded",
        _send(Reply(200, {"type": "api_error", "message": "Upstream error, credits refunded"})),
        refunds=True,
    ),
    Scenario(
        "forbidden",
        S.ENDING,
        "type forbidden (moderation), refunded",
        _say(200, "Inappropriate content detected", "forbidden"),
        refunds=True,
    ),
    Scenario(
        "gateway-timeout-refunded",
        S.ENDING,
        "504 that says refunded: terminal",
        _send(_REFUNDED_TIMEOUT),
        refunds=True,
    ),
    Scenario("unknown-type", S.ENDING, "type weird with error text; no refund", _send(_WEIRD)),
    Scenario("no-audio-url", S.ENDING, "succeeded without audio_url", _each_clip(audio_url=None)),
    Scenario("numeric-duration", S.ENDING, "duration as a number", _numeric_duration),
    Scenario("one-clip", S.ENDING, "one clip instead of two", lambda due: data(due.clips[:1])),
    Scenario("extended-pairs", S.ENDING, "items {extended, full}", _pairs),
    Scenario("unknown-404", S.POLL, "404, task not found", _send(UNKNOWN_TASK)),
    Scenario("unknown-400", S.POLL, "400, task not found", _say(400, "Task not found")),
    Scenario("read-500", S.READ, "500", _send(_INTERNAL), 2),
    Scenario("read-502", S.READ, "502 with an HTML page", _send(_UPSTREAM), 2),
    Scenario("read-504", S.READ, "504 without a word of refund: transient", _send(_GATEWAY), 2),
    Scenario("read-429", S.READ, "429 with Retry-After in seconds", _send(_BY_SECONDS), 2),
    Scenario("read-429-date", S.READ, "429 with Retry-After as a date", _send(_BY_DATE), 2),
    Scenario("read-truncated", S.READ, "half the JSON", _cut_json, 2),
    Scenario("read-html", S.READ, "200 with an HTML page", _html, 2),
    Scenario("read-drop", S.READ, "connection closed without an answer", _drop, 2),
    Scenario("read-slow", S.READ, "answered after slow_seconds", _slow, 2),
    Scenario("read-unauthorized", S.READ, "401, as if the key was revoked", _send(UNAUTHORIZED)),
    Scenario("media-404", S.MEDIA, "404", _say(404, "Not found")),
    Scenario("media-html", S.MEDIA, "200 with an HTML page", _html),
    Scenario("media-truncated", S.MEDIA, "announces all bytes, sends half, closes", _short, 1),
    Scenario("media-empty", S.MEDIA, "200 with no bytes", _empty),
    Scenario("media-drop-once", S.MEDIA, "connection closed, once", _drop, 1),
    Scenario("media-redirect", S.MEDIA, "302 to the same file under another URL", _moved()),
    Scenario(
        "media-redirect-private",
        S.MEDIA,
        "302 to another address of this machine, 127.0.0.2",
        _moved("http://127.0.0.2:{port}"),
    ),
    Scenario("media-redirect-scheme", S.MEDIA, "302 to ftp", _moved("ftp://{host}:{port}")),
    Scenario("media-preview", S.MEDIA, "the first half, streamed without a length", preview),
    Scenario("media-expired", S.MEDIA, "403, as if the URL had expired", _send(EXPIRED)),
    Scenario("media-image", S.MEDIA, "a picture that says it is audio/mp3", _picture),
    Scenario("media-no-range", S.MEDIA, "200 with the whole file, whatever Range asks", _no_range),
    _webhook("webhook-lost", "never sent", Manner(copies=0)),
    _webhook("webhook-twice", "each event sent twice, under one id", Manner(copies=2)),
    _webhook("webhook-early", "the last event sent before the streaming one", Manner(reverse=True)),
    _webhook("webhook-late", "the last event sent after slow_seconds", Manner(late=True)),
    _webhook("webhook-wrong-secret", "signed with another secret", Manner(signature="wrong")),
    _webhook("webhook-unsigned", "no signature", Manner(signature="none")),
    _webhook("webhook-body-only", "X-Signature of the body alone (facts 7.3)", Manner(signature="body")),
    _webhook("webhook-old", "signed an hour ago", Manner(age=3_600)),
)

#: All scenarios by name.
CATALOGUE = {scenario.name: scenario for scenario in _ALL}
