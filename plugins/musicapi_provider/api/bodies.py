"""
Request bodies of ``POST /sonic/create``: their fields, limits and rules, checked before credits are spent.

The API answers a bad body with a 400 that names one field; here all problems are found at once, offline
(facts 2.2 to 2.5). One table of fields serves the operator, the prompt table and the documentation.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from musicapi_provider.exceptions import MusicAPIInvalidRequestError

#: A request body, whose kinds are known once :func:`check_body` has seen it.
Body: TypeAlias = Mapping[str, Any]

#: The model of the vendor's own samples (facts 2.3).
DEFAULT_MV = "sonic-v5"
DEFAULT_TASK_TYPE = "create_music"

#: Longest ``title`` and ``gpt_description_prompt``: 81 and 401 were refused live (facts 2.2).
MAX_TITLE = 80
MAX_DESCRIPTION = 400

#: Characters of ``prompt`` and of ``tags`` by model (facts 2.3). Unknown models get the larger limits.
MODELS: Mapping[str, tuple[int, int]] = {
    "sonic-v3-5": (3000, 200),
    "sonic-v4": (3000, 200),
    "sonic-v4-5": (5000, 1000),
    "sonic-v4-5-plus": (5000, 1000),
    "sonic-v5": (5000, 1000),
    "sonic-v5-5": (5000, 1000),
}
#: Models that do not know ``vocal_gender`` (facts 2.3).
MODELS_WITHOUT_GENDER = frozenset({"sonic-v3-5", "sonic-v4"})

_PROMPTED = ("custom_mode", "mv")
_SOURCED = ("continue_clip_id", "custom_mode", "mv")
_EXTENDED = ("continue_clip_id", "continue_at", "custom_mode", "mv")
#: Required fields by ``task_type``, as the reference lists them (facts 2.1).
TASK_TYPES: Mapping[str, tuple[str, ...]] = {
    "create_music": _PROMPTED,
    "extend_music": _EXTENDED,
    "cover_music": _SOURCED,
    "concat_music": ("continue_clip_id",),
    "persona_music": ("persona_id", *_PROMPTED),
    "extend_upload_music": _EXTENDED,
    "cover_upload_music": _SOURCED,
    "remaster": ("continue_clip_id", "mv"),
    "add_instrumental": ("continue_clip_id", "mv"),
    "add_vocals": ("continue_clip_id", "mv", "prompt"),
}

#: Kind of each field that a body may have (facts 2.2). Anything else goes through ``extra_body``.
FIELDS: Mapping[str, type] = {
    "task_type": str,
    "custom_mode": bool,
    "mv": str,
    "prompt": str,
    "lyrics": str,
    "gpt_description_prompt": str,
    "title": str,
    "tags": str,
    "negative_tags": str,
    "make_instrumental": bool,
    "auto_lyrics": bool,
    "vocal_gender": str,
    "style_weight": float,
    "weirdness_constraint": float,
    "audio_weight": float,
    "continue_clip_id": str,
    "continue_at": float,
    "persona_id": str,
    "variation_category": str,
    "overpainting_start_s": float,
    "overpainting_end_s": float,
    "use_suno_cdn": bool,
    "duration": int,
}
_WEIGHTS = ("style_weight", "weirdness_constraint", "audio_weight")
_SECONDS = ("continue_at", "overpainting_start_s", "overpainting_end_s")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "task_type": tuple(TASK_TYPES),
    "vocal_gender": ("f", "m"),
    "variation_category": ("subtle", "normal", "high"),
}
_TRUE = frozenset({"true", "yes", "1", "on"})
_FALSE = frozenset({"false", "no", "0", "off"})
#: Fields that say what was ordered; the first given one counts.
_PROMPTS = ("prompt", "gpt_description_prompt", "lyrics", "title")
#: Characters of a name in a log line.
_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a body: the field, its value (shortened) and the rule it breaks."""

    field: str
    value: object
    rule: str

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 60:
            shown = f"{shown[:45]}... ({length(str(self.value))} characters)"
        return f"{self.field}: {self.rule}" + ("" if self.value is None else f"; got {shown}")


def length(text: str) -> int:
    """Count UTF-16 units: the conservative reading, as the API's counting unit is unknown (facts 9)."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def parse_value(field: str, value: object) -> object:
    """
    Give a field's value its type; text from a template or a table cell becomes a boolean or a number.

    :return: The typed value, or ``None`` for blank text, which means "do not send".
    :raises ValueError: text that is no boolean or number where one is due; the message is the rule.
    """
    if isinstance(value, str) and FIELDS.get(field, str) is not str:
        return _parse_text(FIELDS[field], value.strip())
    if isinstance(value, str) and not value.strip():
        return None
    return value


def typed_fields(fields: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
    """Give every field its type; see :func:`parse_value`. What has none is a problem and left out."""
    typed, problems = {}, []
    for name, value in fields.items():
        try:
            typed[name] = parse_value(name, value)
        except ValueError as error:
            problems.append(Problem(name, value, str(error)))
    return typed, problems


def _parse_text(kind: type, text: str) -> bool | float | int | None:
    if text in ("", "None"):  # "None" is what a template makes of an empty param
        return None
    if kind is bool:
        return parse_flag(text)
    if "_" in text:  # Python reads 1_0 as 10; in a cell it is a slip
        raise ValueError("must be a number")
    try:
        number = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    return int(number) if kind is int and number.is_integer() else number


def parse_flag(text: str) -> bool:
    """
    Read a boolean as people write it.

    :raises ValueError: it is none; the message is the rule.
    """
    if text.strip().lower() not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return text.strip().lower() in _TRUE


def complete_body(fields: Mapping[str, object]) -> dict[str, object]:
    """
    Leave out what is ``None`` and add what a user need not write.

    ``task_type`` becomes ``create_music``; ``mv`` becomes :data:`DEFAULT_MV` unless for ``concat_music``;
    ``custom_mode``, where the task type wants it, becomes true unless there is only a
    ``gpt_description_prompt``.
    """
    body = {name: value for name, value in fields.items() if value is not None}
    body = {"task_type": DEFAULT_TASK_TYPE, **body}
    required = TASK_TYPES.get(str(body["task_type"]), ())
    if "mv" in required:
        body.setdefault("mv", DEFAULT_MV)
    if "custom_mode" in required:
        described = "gpt_description_prompt" in body and not {"prompt", "lyrics"} & body.keys()
        body.setdefault("custom_mode", not described)
    return body


def check_body(body: Body) -> list[Problem]:
    """Return everything wrong with a completed body; an empty list when it may be sent."""
    problems = [*_unknown_fields(body), *_wrong_kinds(body)]
    if problems:  # the rules below rely on the kinds
        return problems
    return [
        *_wrong_choices(body),
        *_missing_fields(body),
        *_broken_modes(body),
        *_too_long(body),
        *_wrong_numbers(body),
    ]


def require_valid(body: Body) -> None:
    """
    Refuse a body that the API would refuse.

    :raises MusicAPIInvalidRequestError: names every field, value and rule; nothing was sent.
    """
    refuse(check_body(body))


def refuse(problems: list[Problem]) -> None:
    """Raise :class:`MusicAPIInvalidRequestError` if there are problems."""
    if problems:
        listed = "\n  ".join(str(problem) for problem in problems)
        raise MusicAPIInvalidRequestError(f"The request body is not valid; nothing was sent:\n  {listed}\n")


def _unknown_fields(body: Body) -> Iterator[Problem]:
    for name in body:
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            yield Problem(str(name), body[name], f"unknown field{hint} (extra_body sends it unchecked)")


def _wrong_kinds(body: Body) -> Iterator[Problem]:
    for name, kind in FIELDS.items():
        value = body.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is str and not isinstance(value, str):
            yield Problem(name, value, "must be text" + (", comma separated" if "tags" in name else ""))
        elif kind is bool and not isinstance(value, bool):
            yield Problem(name, value, "must be true or false")
        elif kind is float and not number:
            yield Problem(name, value, "must be a number")
        elif kind is int and not (number and (isinstance(value, int) or value.is_integer())):
            yield Problem(name, value, "must be a whole number")


def _wrong_choices(body: Body) -> Iterator[Problem]:
    for name, allowed in _CHOICES.items():
        if name in body and body[name] not in allowed:
            yield Problem(name, body[name], f"must be one of {', '.join(allowed)}")
    if "vocal_gender" in body and body.get("mv") in MODELS_WITHOUT_GENDER:
        yield Problem(
            "vocal_gender", body["vocal_gender"], f"is unknown to {body['mv']}; use sonic-v4-5 or later"
        )
    if "variation_category" in body and body["task_type"] != "remaster":
        yield Problem("variation_category", body["variation_category"], "only goes with task_type remaster")


def _missing_fields(body: Body) -> Iterator[Problem]:
    for name in TASK_TYPES.get(body["task_type"], ()):
        if _is_blank(body.get(name)):
            yield Problem(name, None, f"is required by task_type {body['task_type']}")


def _broken_modes(body: Body) -> Iterator[Problem]:
    """Check the three ways to say what to sing: lyrics, a brief (auto_lyrics), a description."""
    if "custom_mode" not in TASK_TYPES.get(body["task_type"], ()):
        return
    words = not (_is_blank(body.get("prompt")) and _is_blank(body.get("lyrics")))
    if body.get("auto_lyrics") and not body.get("custom_mode"):
        yield Problem("auto_lyrics", True, "needs custom_mode true")
    if body.get("auto_lyrics") and _is_blank(body.get("prompt")):
        yield Problem("prompt", None, "is required with auto_lyrics: the brief to write lyrics from")
    elif body.get("custom_mode") and not words and not body.get("make_instrumental"):
        yield Problem("prompt", None, "is required in custom mode: the lyrics (or set make_instrumental)")
    if body.get("custom_mode") is False and _is_blank(body.get("gpt_description_prompt")):
        yield Problem("gpt_description_prompt", None, "is required when custom_mode is false")


def _too_long(body: Body) -> Iterator[Problem]:
    prompt, tags = MODELS.get(body.get("mv", ""), MODELS[DEFAULT_MV])
    limits = {
        **{"prompt": prompt, "lyrics": prompt, "tags": tags, "negative_tags": tags},
        **{"title": MAX_TITLE, "gpt_description_prompt": MAX_DESCRIPTION},
    }
    for name, limit in limits.items():
        if length(body.get(name, "")) > limit:
            yield Problem(name, body[name], f"may have {limit} characters at most")


def _wrong_numbers(body: Body) -> Iterator[Problem]:
    for name in _WEIGHTS:
        if name in body and not 0 <= body[name] <= 1:  # also refuses NaN
            yield Problem(name, body[name], "must be from 0 to 1")
    for name in _SECONDS:
        if name in body and not (0 <= body[name] < math.inf):
            yield Problem(name, body[name], "must be seconds, 0 or more")
    if "overpainting_end_s" in body and body["overpainting_end_s"] <= body.get("overpainting_start_s", 0):
        yield Problem("overpainting_end_s", body["overpainting_end_s"], "must be after overpainting_start_s")
    if "duration" in body and not 10 <= body["duration"] <= 360:
        yield Problem("duration", body["duration"], "must be from 10 to 360 seconds")


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def prompt_of(body: object) -> str | None:
    """Return the words that a request body orders music with; the title counts where there are no others."""
    if not isinstance(body, Mapping):
        return None
    return next((str(body[name]) for name in _PROMPTS if body.get(name)), None)


def name_of(body: Body) -> str:
    """Return a short name for a log line, on one line: title, else the first words, else the operation."""
    return shortened(str(body.get("title") or prompt_of(body) or body.get("task_type")))


def shortened(text: str) -> str:
    """Return a text as a log line shows it: one line, and not much of it."""
    words = " ".join(text.split())
    return words if len(words) <= _NAME_LENGTH else f"{words[:_NAME_LENGTH].rstrip()} ..."
