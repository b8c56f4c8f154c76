"""
Documented answers of MusicAPI, one list for the parser tests and the simulator tests.

Shapes come from ``musicapi-facts.md``; where the sheet gives no literal text, the text here is ours and no
test may depend on it. ``meaning`` uses the words of the sheet, not of any parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Clip = dict[str, Any]

TASK_ID = "7f1b3c52-0d5e-4b1a-9a54-3a1f5e0c2d11"
FIRST, SECOND = "1c9d5a34-7a0a-4c43-8c7e-0a7f3c6b9e01", "2d8e6b45-8b1b-4d54-9d8f-1b804d7caf02"

SUCCEEDED: Clip = {
    "clip_id": FIRST,
    "state": "succeeded",
    "title": "Paper Boats",
    "tags": "indie folk, acoustic guitar",
    "lyrics": "[Verse]\nPaper boats along the river",
    "image_url": f"https://cdn2.suno.ai/image_{FIRST}.jpeg",
    "audio_url": f"https://cdn1.suno.ai/{FIRST}.mp3",
    "video_url": None,
    "created_at": "2026-07-15T09:30:00.000Z",
    "gpt_description_prompt": None,
    "duration": "129.84",
    "negative_tags": None,
    "style_weight": 0.6,
    "weirdness_constraint": None,
    "mv": "sonic-v5-5",
}
SUCCEEDED_TOO: Clip = SUCCEEDED | {
    "clip_id": SECOND,
    "image_url": f"https://cdn2.suno.ai/image_{SECOND}.jpeg",
    "audio_url": f"https://cdn1.suno.ai/{SECOND}.mp3",
    "duration": "121.00",
}
RUNNING: Clip = SUCCEEDED | {
    "state": "running",
    "image_url": None,
    "audio_url": f"https://audiopipe.suno.ai/?item_id={FIRST}",
    "duration": None,
}
RUNNING_TOO: Clip = RUNNING | {
    "clip_id": SECOND,
    "audio_url": f"https://audiopipe.suno.ai/?item_id={SECOND}",
}
FAILED: Clip = RUNNING | {"state": "failed", "audio_url": None, "error_message": "Generation failed"}
FAILED_TOO: Clip = FAILED | {"clip_id": SECOND}


@dataclass(frozen=True)
class Sample:
    """
    One documented answer.

    :param name: Unique, kebab-case.
    :param source: Section of the sheet and its source tags.
    :param body: JSON value, or text for answers that are not JSON.
    :param meaning: What the sheet says it means.
    :param scenario: Simulator scenario that produces this shape, if one is needed.
    """

    name: str
    source: str
    status: int
    body: Any
    meaning: str
    scenario: str | None = None


def _data(*items: Any, code: int = 200) -> dict[str, Any]:
    return {"code": code, "data": list(items), "message": "success"}


#: Answers of ``GET /sonic/task/{task_id}``.
TASK_ANSWERS = [
    Sample("not-ready-202", "3.1 [seed][sdk]", 202, {"type": "not_ready", "error": "not ready"}, "running"),
    Sample(
        "not-ready-200",
        "3.1 [client-code live first poll]",
        200,
        {"type": "not_ready", "error": "not ready"},
        "running",
        "not-ready-200",
    ),
    Sample("accepted-any-body", "3.1 [seed][sdk]", 202, {}, "running"),
    Sample("accepted-text", "3.1 [seed][sdk]", 202, "Accepted", "running"),
    Sample(
        "code-102",
        "3.1 [docs quickstart]",
        200,
        {"code": 102, "message": "processing"},
        "running",
        "code-102",
    ),
    Sample("status-102-like", "9", 200, {"code": 102, "data": [], "message": "processing"}, "running"),
    Sample("empty-data", "9", 200, _data(), "running", "empty-data"),
    Sample("two-running", "3.1 [client-code live]", 200, _data(RUNNING, RUNNING_TOO), "running"),
    Sample("one-of-two", "1.1 [client-code live]", 200, _data(SUCCEEDED, RUNNING_TOO), "running"),
    Sample(
        "pending",
        "1.1 [docs][sdk]",
        200,
        _data(RUNNING | {"state": "pending", "audio_url": None}, RUNNING_TOO),
        "running",
    ),
    Sample(
        "streaming-state",
        "1.1 [docs webhook]",
        200,
        _data(RUNNING | {"state": "streaming"}, RUNNING_TOO | {"state": "streaming"}),
        "running",
        "streaming-state",
    ),
    Sample(
        "unknown-state",
        "3.2, 9",
        200,
        _data(RUNNING | {"state": "polishing"}, RUNNING_TOO | {"state": "polishing"}),
        "running",
        "unknown-state",
    ),
    Sample("both-succeeded", "3.1 all sources", 200, _data(SUCCEEDED, SUCCEEDED_TOO), "succeeded"),
    Sample("code-other-than-200", "9", 200, _data(SUCCEEDED, SUCCEEDED_TOO, code=201), "succeeded"),
    Sample(
        "without-code",
        "10.6 [inference]",
        200,
        {"data": [SUCCEEDED, SUCCEEDED_TOO], "message": "success"},
        "succeeded",
    ),
    Sample(
        "numeric-duration",
        "3.2 [sdk][docs]",
        200,
        _data(SUCCEEDED | {"duration": 129.84}, SUCCEEDED_TOO | {"duration": 121.0}),
        "succeeded",
        "numeric-duration",
    ),
    Sample("integer-duration", "3.2 [docs old]", 200, _data(SUCCEEDED | {"duration": 129}), "succeeded"),
    Sample("one-clip", "9", 200, _data(SUCCEEDED), "succeeded", "one-clip"),
    Sample("chirp-model", "2.3 [docs webhook]", 200, _data(SUCCEEDED | {"mv": "chirp-v5"}), "succeeded"),
    Sample(
        "unknown-keys",
        "1 versioning",
        200,
        _data(SUCCEEDED | {"bpm": 92, "model": {"name": "v9"}}) | {"platform": "suno"},
        "succeeded",
    ),
    Sample(
        "extended-pairs",
        "3.1 [sister][client-code]",
        200,
        _data({"extended": SUCCEEDED, "full": SUCCEEDED}, {"extended": SUCCEEDED_TOO, "full": SUCCEEDED_TOO}),
        "succeeded",
        "extended-pairs",
    ),
    Sample(
        "extended-joining",
        "3.1 [sister][client-code]",
        200,
        _data({"extended": SUCCEEDED, "full": None}),
        "running",
    ),
    Sample(
        "replaced-pairs",
        "3.1 [sister][client-code]",
        200,
        _data({"replaced": SUCCEEDED, "full": SUCCEEDED_TOO}),
        "succeeded",
    ),
    Sample(
        "no-audio-url",
        "9",
        200,
        _data(SUCCEEDED | {"audio_url": None}, SUCCEEDED_TOO | {"audio_url": None}),
        "succeeded without audio",
        "no-audio-url",
    ),
    Sample("empty-audio-url", "1.1", 200, _data(SUCCEEDED | {"audio_url": ""}), "succeeded without audio"),
    Sample("one-failed", "3.1 nothing documents it", 200, _data(SUCCEEDED, FAILED_TOO), "partial", "partial"),
    Sample("one-failed-one-running", "3.1 [inference]", 200, _data(FAILED, RUNNING_TOO), "running"),
    Sample("all-failed", "3.1 [client-code]", 200, _data(FAILED, FAILED_TOO), "failed", "all-failed"),
    Sample(
        "all-failed-no-text",
        "3.1 [client-code]",
        200,
        _data({key: value for key, value in FAILED.items() if key != "error_message"}),
        "failed",
    ),
    Sample("type-failed", "3.1 [sdk]", 200, {"type": "failed", "error": "refunded"}, "failed", "failed"),
    Sample("type-timeout", "3.1 [sdk]", 200, {"type": "timeout", "error": "refunded"}, "failed", "timeout"),
    Sample(
        "type-api-error",
        "3.1 [sdk]",
        200,
        {"type": "api_error", "message": "refunded"},
        "failed",
        "api-error",
    ),
    Sample(
        "type-forbidden",
        "3.1 [sdk], 6.4",
        200,
        {"type": "forbidden", "error": "inappropriate content"},
        "moderated",
        "forbidden",
    ),
    Sample(
        "gateway-timeout-refunded",
        "3.1 [sister]",
        504,
        {"type": "timeout", "error": "The task timed out, credits have been refunded"},
        "failed",
    ),
    Sample(
        "gateway-timeout-refunded-bare",
        "3.1 [sister], 6.1",
        504,
        {"error": "The task timed out, credits have been refunded"},
        "failed",
        "gateway-timeout-refunded",
    ),
    Sample("unknown-type", "9", 200, {"type": "weird", "error": "new"}, "unknown answer", "unknown-type"),
    Sample(
        "unknown-404", "3.1 [sdk]", 404, {"type": "not_found", "error": "gone"}, "unknown task", "unknown-404"
    ),
    Sample(
        "unknown-400", "3.1 [docs][sister]", 400, {"error": "Task not found"}, "unknown task", "unknown-400"
    ),
    Sample("missing-id", "3.1 [docs][sister]", 400, {"error": "Missing task id"}, "missing task id"),
    Sample(
        "internal-error",
        "3.1 [sister]",
        500,
        {"type": "api_error", "error": "Internal server error"},
        "transient",
        "read-500",
    ),
    Sample("gateway-timeout", "6.2", 504, "Gateway Timeout", "transient", "read-504"),
    Sample("bad-gateway", "6.2", 502, "<html><body>502 Bad Gateway</body></html>", "transient", "read-502"),
    Sample("throttled", "6.2 [sdk]", 429, {"message": "Too many requests"}, "throttled", "read-429"),
    Sample("retired", "3.1 [sister]", 410, {"error": "Gone"}, "retired"),
]

#: Answers of ``POST /sonic/create`` with a 2xx status.
SUBMIT_ANSWERS = [
    Sample("submitted", "2.4 [sdk][live]", 200, {"message": "success", "task_id": TASK_ID}, "submitted"),
    Sample(
        "submitted-with-code",
        "2.4 [docs schema][sister]",
        200,
        {"code": 200, "message": "success", "task_id": TASK_ID, "warning": None, "platform": "suno"},
        "submitted",
        "create-code-200",
    ),
    Sample(
        "submitted-nested",
        "2.4 [client-code]",
        200,
        {"message": "success", "data": {"task_id": TASK_ID}},
        "submitted",
        "nested-task-id",
    ),
    Sample("no-task-id", "2.4", 200, {"message": "success"}, "ambiguous submit", "no-task-id"),
]

#: Answers of ``GET /get-credits``.
CREDITS_ANSWERS = [
    Sample("balance", "4.5 [sdk][docs]", 200, {"credits": 985, "extra_credits": 0}, "balance"),
]

#: Error envelopes (6.1) with the statuses of 6.2, as answers to a create.
ERROR_ANSWERS = [
    Sample("invalid", "6.2 [docs]", 400, {"error": "mv must be one of ..."}, "invalid request", "invalid"),
    Sample(
        "unauthorized",
        "6.2 [docs][sdk]",
        401,
        {"type": "unauthorized", "error": "Invalid API key"},
        "auth",
        "unauthorized",
    ),
    Sample(
        "no-credits-402", "6.2 [sdk]", 402, {"error": "Insufficient credits"}, "credits", "no-credits-402"
    ),
    Sample(
        "no-credits-403",
        "6.2 [docs]",
        403,
        {"error": "Your remaining credits are not enough"},
        "credits",
        "no-credits",
    ),
    Sample(
        "no-subscription",
        "6.2 [docs]",
        403,
        {"error": "No active subscription found"},
        "credits",
        "no-subscription",
    ),
    Sample("moderated", "6.2 [docs]", 403, {"error": "Copyrighted content: ..."}, "moderation", "moderated"),
    Sample("retired", "6.2 [sdk][docs]", 410, {"error": "No longer available"}, "retired", "retired"),
    Sample("throttled", "6.2 [sdk]", 429, {"message": "Too many requests"}, "throttled", "throttled-bare"),
    Sample(
        "internal-error",
        "6.2 [docs Nuro][sister]",
        500,
        {"type": "api_error", "error": "Internal server error"},
        "ambiguous submit",
        "create-500",
    ),
    Sample("envelope-message", "6.1 [sdk]", 400, {"message": "mv is invalid"}, "invalid request"),
    Sample("envelope-code", "6.1 [sdk]", 400, {"code": 400, "message": "mv is invalid"}, "invalid request"),
    Sample("envelope-text", "6.1 [sdk]", 400, "mv is invalid", "invalid request"),
    Sample("envelope-detail", "6.1 [sister]", 400, {"detail": "mv is invalid"}, "invalid request"),
    Sample(
        "envelope-retriable",
        "6.1 [client-code]",
        400,
        {"message": "mv is invalid", "retriable": False},
        "invalid request",
    ),
]
