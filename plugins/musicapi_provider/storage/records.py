"""
What is known of a stored track: as tasks hand it on, and in its sidecar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrack:
    """
    A track that is stored, as tasks hand it on. What an old record does not say is empty.

    The fields are in the order in which people read a record.

    :param uri: Of the audio file.
    :param bytes: Its size; 0: not known.
    :param duration: Seconds, measured.
    :param prompt_id: Row of the prompt table that ordered it.
    """

    clip_id: str
    music_task_id: str | None = None
    title: str | None = None
    audio_url: str | None = None
    uri: str
    bytes: int = 0
    sha256: str | None = None
    duration: float | None = None
    content_type: str | None = None
    prompt_id: str | None = None
    cover_uri: str | None = None

    @property
    def file_name(self) -> str:
        """The name of the audio file in its folder."""
        return self.uri.rpartition("/")[2]

    @classmethod
    def from_json(cls, value: object) -> StoredTrack:
        """
        Read what :meth:`as_json` wrote, such as an XCom or a sidecar; other keys are passed over.

        :raises ValueError: it names no clip or no file.
        """
        if not isinstance(value, Mapping):
            raise ValueError("is no record of a stored track")  # noqa: TRY004 - of JSON, not of an argument
        texts = {name: _text(value.get(name)) for name in _TEXTS}
        clip_id, uri = texts.pop("clip_id"), texts.pop("uri")
        if not clip_id or not uri:
            raise ValueError("is no record of a stored track")
        size = _number(value.get("bytes"))
        duration = _number(value.get("duration"))
        return cls(clip_id=clip_id, uri=uri, bytes=int(size or 0), duration=duration, **texts)

    def as_json(self) -> dict[str, object]:
        """Return the record as JSON; ``prompt_id`` and ``cover_uri`` only where there is one."""
        record = asdict(self)
        return {name: value for name, value in record.items() if value or name not in _OPTIONAL}


_TEXTS = tuple(each.name for each in fields(StoredTrack) if each.name not in ("bytes", "duration"))
_OPTIONAL = frozenset({"prompt_id", "cover_uri"})


@dataclass(frozen=True, slots=True)
class About:
    """
    What a sidecar tells beside the track: who stored it, what was ordered, what it cost.

    :param prompt: What was ordered in words, where the body does not say it.
    :param submitted_at: ISO time (UTC) of the create.
    :param credits: Expected ones of the whole music task, all its takes together.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    :param picked_by: The person who chose this take, at ``picked_at``.
    :param more: Further facts, any JSON; what is none becomes text.
    """

    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None
    prompt_id: str | None = None
    prompt: str | None = None
    body: Mapping[str, object] | None = None
    fingerprint: str | None = None
    submitted_at: str | None = None
    credits: float | None = None
    lost_credits: float | None = None
    picked_by: str | None = None
    picked_at: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: object) -> About:
        """Read what :meth:`as_json` wrote; what is not as expected is kept in ``more``."""
        facts = value if isinstance(value, Mapping) else {}
        known = {name: fact for name, fact in facts.items() if _is_known(name, fact)}
        return cls(**known, more={name: fact for name, fact in facts.items() if name not in known})

    def as_json(self) -> dict[str, object]:
        """Return the facts that are known."""
        known = {name: getattr(self, name) for name in _FACTS}
        return {**self.more, **{name: fact for name, fact in known.items() if fact is not None}}


_FACTS = tuple(each.name for each in fields(About) if each.name != "more")
_NUMBERS = frozenset({"map_index", "try_number", "credits", "lost_credits"})


def _is_known(name: str, fact: object) -> bool:
    if name == "body":
        return isinstance(fact, Mapping)
    return name in _FACTS and isinstance(fact, (int, float) if name in _NUMBERS else str)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    All that is known of a stored track: ``{clip_id}.json`` beside it.

    :param track: The track as the sensor told it.
    :param stored_at: ISO time (UTC).
    """

    stored: StoredTrack
    track: Mapping[str, object]
    about: About
    stored_at: str

    @classmethod
    def from_bytes(cls, content: bytes) -> Sidecar:
        """
        Read a sidecar's content.

        :raises ValueError: it is none, or damaged.
        """
        value = json.loads(content)
        stored = StoredTrack.from_json(value)
        track = value.get("track")
        return cls(
            stored,
            track if isinstance(track, Mapping) else {},
            About.from_json(value.get("about")),
            _text(value.get("stored_at")) or "",
        )

    def as_bytes(self) -> bytes:
        """Return it as a file's content."""
        value = {
            **self.stored.as_json(),
            **{"stored_at": self.stored_at, "track": dict(self.track), "about": self.about.as_json()},
        }
        # ASCII, since a title may hold half of a surrogate pair; str, since whatever people put into `about`
        # must not be what a paid track fails by.
        return json.dumps(value, indent=1, default=str).encode("ascii")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) else None
