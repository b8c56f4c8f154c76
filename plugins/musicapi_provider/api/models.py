"""
Parse the API's answers into small immutable objects.

Parsing never raises: unknown keys are ignored, odd types become ``None``, because fields and shapes changed
repeatedly without a new API version (facts 1, 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: Clip states that never change again (facts 1.1). Anything else counts as still running.
FINAL_STATES = frozenset({"succeeded", "failed"})

#: Fields of a clip that are text (facts 3.2).
_TEXTS = (
    *("clip_id", "state", "title", "audio_url", "image_url", "video_url"),
    *("tags", "lyrics", "mv", "created_at", "error_message"),
)


@dataclass(frozen=True, slots=True)
class Track:
    """
    One clip of a music task; most music tasks give two.

    :param duration: Seconds; the API sends a decimal string or a number (facts 3.2).
    :param state: ``succeeded``, ``failed``, or anything not final.
    :param joining: An auto-concat result whose joined clip is not there yet (facts 3.1).
    """

    music_task_id: str
    clip_id: str | None
    state: str | None
    title: str | None = None
    audio_url: str | None = None
    image_url: str | None = None
    video_url: str | None = None
    duration: float | None = None
    tags: str | None = None
    lyrics: str | None = None
    mv: str | None = None
    created_at: str | None = None
    error_message: str | None = None
    joining: bool = False

    @classmethod
    def from_clip(cls, clip: Mapping[str, object], music_task_id: str, *, joining: bool = False) -> Track:
        """Read a clip object of a task answer (facts 3.2)."""
        texts = {name: _text(clip.get(name)) for name in _TEXTS}
        return cls(
            music_task_id=music_task_id, duration=_seconds(clip.get("duration")), joining=joining, **texts
        )

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> Track:
        """Read what :meth:`as_dict` wrote, such as an XCom; like an answer, it may lack anything."""
        return cls.from_clip(mapping, _text(mapping.get("music_task_id")) or "")

    def as_dict(self, *, include_lyrics: bool = False) -> dict[str, object]:
        """
        Return the track as operators and sensors put it into XCom: about 600 bytes.

        :param include_lyrics: Lyrics are up to 5,000 characters, so they stay out unless asked for.
        """
        fields = (
            *("music_task_id", "clip_id", "title", "audio_url", "image_url", "video_url"),
            *("duration", "tags", "mv", "created_at"),
            *(("lyrics",) if include_lyrics else ()),
        )
        return {name: getattr(self, name) for name in fields}


@dataclass(frozen=True, slots=True)
class MusicTask:
    """
    One answer of ``GET /sonic/task/{id}``.

    :param status_code: HTTP status: 200, 202, or 504 with refund text (facts 3.1).
    :param type: Machine word of answers without clips: ``not_ready``, ``failed``, ``timeout``, ...
    :param code: Body code; 102 and 202 mean running.
    :param text: The server's words: ``error``, ``message`` or ``detail``.
    """

    music_task_id: str
    status_code: int
    tracks: tuple[Track, ...] = ()
    type: str | None = None
    code: int | None = None
    text: str | None = None
    has_data: bool = False

    @classmethod
    def from_answer(cls, music_task_id: str, status_code: int, body: object) -> MusicTask:
        """Read a task answer of any documented shape; a body that is no object has no clips."""
        answer: Mapping[str, object] = body if isinstance(body, Mapping) else {}
        data, code = answer.get("data"), _number(answer.get("code"))
        return cls(
            music_task_id=music_task_id,
            status_code=status_code,
            tracks=tuple(_tracks(data, music_task_id)),
            type=_text(answer.get("type")),
            code=None if code is None else int(code),
            text=error_text(answer),
            has_data=bool(data),
        )


@dataclass(frozen=True, slots=True)
class Credits:
    """The account's balance; whether ``credits`` includes ``extra_credits`` is not stated (facts 8)."""

    credits: float
    extra_credits: float = 0.0

    @property
    def total(self) -> float:
        """The sum: the usual reading of the two numbers."""
        return self.credits + self.extra_credits

    @classmethod
    def from_answer(cls, body: object) -> Credits | None:
        """Read ``GET /get-credits``; ``None`` when it is not a credits answer."""
        if not isinstance(body, Mapping) or (credits := _number(body.get("credits"))) is None:
            return None
        return cls(credits, _number(body.get("extra_credits")) or 0.0)


def error_text(body: object) -> str | None:
    """Return the server's words from any of the error envelopes (facts 6.1)."""
    if isinstance(body, str):
        return body.strip() or None
    if not isinstance(body, Mapping):
        return None
    for name in ("error", "message", "detail"):
        value = body.get(name)
        if isinstance(value, Mapping):  # one level deep: seen nowhere deeper, and a hostile depth would raise
            value = next(
                (v for n in ("error", "message", "detail") if isinstance(v := value.get(n), str)), None
            )
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def music_task_id_of(body: object) -> str | None:
    """Return the id in a submit answer; ``data.task_id`` is tolerated, never expected (facts 2.4)."""
    if not isinstance(body, Mapping):
        return None
    nested = body.get("data")
    candidates = (body.get("task_id"), nested.get("task_id") if isinstance(nested, Mapping) else None)
    return next((id_.strip() for id_ in candidates if isinstance(id_, str) and id_.strip()), None)


def _tracks(data: object, music_task_id: str) -> list[Track]:
    items = data if isinstance(data, list) else [data] if isinstance(data, Mapping) else []
    return [track for item in items if isinstance(item, Mapping) for track in _item(item, music_task_id)]


def _item(item: Mapping[str, object], music_task_id: str) -> list[Track]:
    """Flatten ``{extended | replaced: clip, full: clip or null}``; while ``full`` is null it is joining."""
    part = item.get("extended") or item.get("replaced")
    if not isinstance(part, Mapping):
        return [Track.from_clip(item, music_task_id)]
    full = item.get("full")
    if not isinstance(full, Mapping):
        return [Track.from_clip(part, music_task_id, joining=part.get("state") != "failed")]
    return [Track.from_clip(part, music_task_id), Track.from_clip(full, music_task_id)]


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _seconds(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number >= 0 else None
