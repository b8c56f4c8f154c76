"""
The server-side checks of a create body (facts 2.1-2.3 and 2.5): a refusal names the field.

Each check returns the error text, or None when it has nothing to object to. Unknown fields are ignored, as
the real server ignores them.
"""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.musicapi_simulator.settings import COSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Body = dict[str, Any]

#: Longest prompt and tags by model, in UTF-16 units (facts 2.3).
MODELS = {
    "sonic-v3-5": (3_000, 200),
    "sonic-v4": (3_000, 200),
    "sonic-v4-5": (5_000, 1_000),
    "sonic-v4-5-plus": (5_000, 1_000),
    "sonic-v5": (5_000, 1_000),
    "sonic-v5-5": (5_000, 1_000),
}
#: Longest title and description in UTF-16 units, on every model (facts 2.2).
MAX_TITLE, MAX_DESCRIPTION = 80, 400
#: Longest webhook URL in characters (facts 7.1).
MAX_WEBHOOK_URL = 1_024

STRINGS = (
    "task_type",
    "mv",
    "prompt",
    "lyrics",
    "gpt_description_prompt",
    "title",
    "tags",
    "negative_tags",
    "continue_clip_id",
    "persona_id",
    "webhook_url",
    "webhook_secret",
)
BOOLEANS = ("custom_mode", "make_instrumental", "auto_lyrics", "use_suno_cdn")
WEIGHTS = ("style_weight", "weirdness_constraint", "audio_weight")
SECONDS = ("continue_at", "overpainting_start_s", "overpainting_end_s")

#: Task types that take custom_mode, and with it a prompt or a description (facts 2.1).
WITH_MODE = {
    "create_music",
    "extend_music",
    "cover_music",
    "persona_music",
    "extend_upload_music",
    "cover_upload_music",
}
EXTENDING = {"extend_music", "extend_upload_music"}
WITH_SOURCE_CLIP = set(COSTS) - {"create_music", "persona_music"}


def refusal_of(body: object, webhooks_over_http: bool = False) -> str | None:
    """
    Return why a create body is refused, or None if it is sound.

    :param body: The parsed JSON of the request, of any type.
    :param webhooks_over_http: Allow also http for a webhook, to this machine.
    :return: One sentence that starts with the name of the offending field.
    """
    if not isinstance(body, dict):
        return "body must be a JSON object"
    found = next((text for check in CHECKS if (text := check(body))), None)
    return found or _check_webhook(body, webhooks_over_http)


def _task_type(body: Body) -> str:
    # Omitted means create_music, observed live (facts 2).
    return str(body.get("task_type", "create_music"))


def _blank(body: Body, name: str) -> bool:
    return not (isinstance(value := body.get(name), str) and value.strip())


def _number(value: object) -> bool:
    # JSON booleans are no numbers, though Python's are ints.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _first(names: Iterable[str], wrong: Callable[[str], bool], text: str) -> str | None:
    return next((f"{name} {text}" for name in names if wrong(name)), None)


def _set(body: Body, name: str) -> bool:
    return body.get(name) is not None


def _check_task_type(body: Body) -> str | None:
    return None if _task_type(body) in COSTS else f"task_type must be one of {', '.join(COSTS)}"


def _check_strings(body: Body) -> str | None:
    return _first(STRINGS, lambda n: _set(body, n) and not isinstance(body[n], str), "must be a string")


def _check_booleans(body: Body) -> str | None:
    return _first(BOOLEANS, lambda n: _set(body, n) and not isinstance(body[n], bool), "must be a boolean")


def _check_model(body: Body) -> str | None:
    if _task_type(body) == "concat_music" and not _set(body, "mv"):
        return None
    return None if body.get("mv") in MODELS else f"mv must be one of {', '.join(MODELS)}"


def _check_mode(body: Body) -> str | None:
    if _task_type(body) not in WITH_MODE:
        return None
    if not _set(body, "custom_mode"):
        return "custom_mode is required and must be a boolean"
    if body["custom_mode"]:
        return _check_custom(body)
    if body.get("auto_lyrics"):
        return "auto_lyrics needs custom_mode true"
    missing = _blank(body, "gpt_description_prompt")
    return "gpt_description_prompt is required when custom_mode is false" if missing else None


def _check_custom(body: Body) -> str | None:
    if body.get("auto_lyrics") and _blank(body, "prompt"):
        return "prompt is required when auto_lyrics is true"
    # Instrumentals with only title and tags pass: used in the field, not documented (facts 2.5, 4).
    if _blank(body, "prompt") and _blank(body, "lyrics") and not body.get("make_instrumental"):
        return "prompt is required when custom_mode is true"
    return None


def _check_lengths(body: Body) -> str | None:
    prompt_max, tags_max = MODELS.get(body.get("mv", ""), (5_000, 1_000))
    limits = {
        "prompt": prompt_max,
        "lyrics": prompt_max,
        "tags": tags_max,
        "negative_tags": tags_max,
        "title": MAX_TITLE,
        "gpt_description_prompt": MAX_DESCRIPTION,
    }
    over = (
        f"{name} must be less than {limit} characters"
        for name, limit in limits.items()
        if _set(body, name) and _utf16_units(body[name]) > limit
    )
    return next(over, None)


def _utf16_units(text: str) -> int:
    # The real counting unit is unknown; this is the strictest usual one (facts 2.5, 7).
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _check_weights(body: Body) -> str | None:
    def wrong(name: str) -> bool:
        return _set(body, name) and not (_number(body[name]) and 0 <= body[name] <= 1)

    return _first(WEIGHTS, wrong, "must be a number between 0 and 1")


def _check_vocal_gender(body: Body) -> str | None:
    if not _set(body, "vocal_gender"):
        return None
    if body["vocal_gender"] not in ("f", "m"):
        return "vocal_gender must be f or m"
    old = body.get("mv") in ("sonic-v3-5", "sonic-v4")
    return "vocal_gender needs model sonic-v4-5 or later" if old else None


def _check_source(body: Body) -> str | None:
    if _task_type(body) in WITH_SOURCE_CLIP and _blank(body, "continue_clip_id"):
        return f"continue_clip_id is required for {_task_type(body)}"
    if _task_type(body) == "persona_music" and _blank(body, "persona_id"):
        return "persona_id is required for persona_music"
    return None


def _check_seconds(body: Body) -> str | None:
    if _task_type(body) in EXTENDING and not _set(body, "continue_at"):
        return f"continue_at is required for {_task_type(body)}"

    def wrong(name: str) -> bool:
        return _set(body, name) and not (_number(body[name]) and body[name] >= 0)

    return _first(SECONDS, wrong, "must be a number of seconds, 0 or more")


def _check_overpainting(body: Body) -> str | None:
    start, end = body.get("overpainting_start_s"), body.get("overpainting_end_s")
    if end is None or end > (start or 0):
        return None
    return "overpainting_end_s must be greater than overpainting_start_s"


def _check_task_extras(body: Body) -> str | None:
    if _task_type(body) == "add_vocals" and _blank(body, "prompt"):
        return "prompt is required for add_vocals"
    if _set(body, "variation_category") and body["variation_category"] not in ("subtle", "normal", "high"):
        return "variation_category must be subtle, normal or high"
    return None


def _check_webhook(body: Body, over_http: bool) -> str | None:
    if not _set(body, "webhook_url"):
        return None
    url = body["webhook_url"]
    sound = url.startswith("https://") or (over_http and _is_http_to_this_machine(url))
    if sound and len(url) <= MAX_WEBHOOK_URL:
        return None
    return f"webhook_url must be https and at most {MAX_WEBHOOK_URL} characters"


def _is_http_to_this_machine(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


#: In this order: types first, so that later checks need not look again.
CHECKS: tuple[Callable[[Body], str | None], ...] = (
    _check_strings,
    _check_task_type,
    _check_booleans,
    _check_model,
    _check_mode,
    _check_source,
    _check_lengths,
    _check_weights,
    _check_vocal_gender,
    _check_seconds,
    _check_overpainting,
    _check_task_extras,
)
