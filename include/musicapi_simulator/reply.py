"""One answer of the API before it becomes bytes; scenarios turn one into another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Clip = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """
    One answer, before it becomes bytes on a socket; scenarios turn one Reply into another.

    :param body: JSON value, or text or bytes that are sent as they are.
    :param wire: ``whole``; ``drop``: close the connection instead of answering; ``cut``: announce the full
        length, send half, close; ``trickle``: announce no length, send in pieces.
    :param slow: Wait ``slow_seconds`` first.
    :param retry_after: Add ``Retry-After`` in this form.
    :param url: Of the file that was asked for; redirects are made of it.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wire: Literal["whole", "drop", "cut", "trickle"] = "whole"
    slow: bool = False
    retry_after: Literal["seconds", "date"] | None = None
    url: str = ""

    def with_body(self, body: Any) -> Reply:
        """Return this answer with another body."""
        return replace(self, body=body)

    @property
    def clips(self) -> list[Clip]:
        """The clips of a task answer."""
        return list(self.body["data"])
