"""
Kinds of media, by what a host says they are and by what their first bytes are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import MusicAPIStorageError

if TYPE_CHECKING:
    import requests

_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml|error)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: the first part of its content type, and first bytes with the suffix they stand for."""

    name: str
    magic: tuple[tuple[re.Pattern[bytes], str], ...]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """All suffixes that files of this kind have."""
        return tuple(suffix for _, suffix in self.magic)

    def suffix_of(self, head: bytes) -> str | None:
        """Return the suffix that the first 16 bytes stand for."""
        return next((suffix for pattern, suffix in self.magic if pattern.match(head)), None)


AUDIO = Kind(
    "audio",
    (
        (re.compile(rb"ID3|\xff[\xe2-\xff]"), ".mp3"),
        (re.compile(rb"RIFF....WAVE", re.DOTALL), ".wav"),
        (re.compile(rb"....ftyp", re.DOTALL), ".m4a"),
    ),
)
IMAGE = Kind(
    "image",
    (
        (re.compile(rb"\xff\xd8\xff"), ".jpeg"),
        (re.compile(rb"\x89PNG"), ".png"),
        (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    ),
)


def check_content_type(url: str, response: requests.Response, kind: Kind) -> None:
    """
    Refuse another kind of answer by what it says it is.

    :raises MusicAPIStorageError: it is one.
    """
    found = response.headers.get("Content-Type", "").lower()
    if found.startswith(("text/html", "application/xhtml")):
        raise MusicAPIStorageError(
            f"{url} answered an HTML page ({found}) instead of {kind.name}: an error page, or a network that "
            "wants a sign-in."
        )
    if not found.startswith((f"{kind.name}/", "application/octet-stream", "binary/")):
        raise MusicAPIStorageError(f"{url} answered {found or 'no content type'} instead of {kind.name}.")


def check_magic(url: str, kind: Kind, head: bytes) -> bool:
    """
    Refuse another kind of file by its first 16 bytes.

    :raises MusicAPIStorageError: it is one.
    """
    if kind.suffix_of(head):
        return True
    if _PAGE.match(head):
        raise MusicAPIStorageError(f"{url} sent an HTML or XML page under the content type of {kind.name}.")
    raise MusicAPIStorageError(f"{url} does not begin like the {kind.name} file it should be: {head[:8]!r}.")
