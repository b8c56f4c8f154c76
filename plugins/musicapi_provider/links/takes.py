"""What a person reads who is to choose between takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from musicapi_provider.links.extra_links import on_api_server
from musicapi_provider.links.pages import media_path
from musicapi_provider.storage.records import StoredTrack


def describe_takes(takes: Sequence[Mapping[str, object]], destination: str, names: Sequence[str]) -> str:
    """
    Return Markdown with each take's name, title, length and a link to listen, for a question to a person.

    :param takes: Records of stored tracks, as a store task returns them.
    :param destination: URI of the folder that they are stored in.
    :param names: What the takes are called, such as ``["Take 1", "Take 2"]``. With fewer takes than names the
        text says so.
    """
    tracks = [StoredTrack.from_json(take) for take in takes]
    lines = [_line(name, track, destination) for name, track in zip(names, tracks, strict=False)]
    if len(takes) < len(names):
        lines.append(f"Only one take of this song succeeded: choose {names[0]}.")
    return "\n\n".join(lines)


def _line(name: str, track: StoredTrack, destination: str) -> str:
    minutes, seconds = divmod(round(track.duration or 0), 60)
    listen = on_api_server(media_path(destination, track.clip_id, "audio"))
    return f"**{name}**: {_plain(track.title or 'no title')}, {minutes}:{seconds:02} min, [listen]({listen})"


def _plain(text: str) -> str:
    """Return text as it stands in Markdown: a title is anybody's words, and must not become a link."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))
