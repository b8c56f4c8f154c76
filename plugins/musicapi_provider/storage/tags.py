"""
Look into audio files and write tags into them, with mutagen.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.text import clean

if TYPE_CHECKING:
    from mutagen import FileType
    from mutagen.id3 import ID3

    from musicapi_provider.api.models import Track
    from musicapi_provider.storage.partial import PartFile
    from musicapi_provider.storage.records import About

log = logging.getLogger(__name__)

#: Content types of the covers that all players show.
_COVER_TYPES = {".jpeg": "image/jpeg", ".png": "image/png"}
#: Bytes copied at a time.
_CHUNK = 1024 * 1024


class TagError(Exception):
    """Tags could not be written; the untagged file is as good as before."""


@dataclass(frozen=True, slots=True)
class Tags:
    """
    What goes into an audio file; the API names no artist, so none is made up.

    :param genre: The track's style words.
    :param comment: The ids, so that a file that has lost its name can still be traced.
    :param cover: Bytes of a JPEG or PNG with its suffix.
    """

    title: str | None = None
    genre: str | None = None
    comment: str | None = None
    lyrics: str | None = None
    cover: tuple[bytes, str] | None = None

    @classmethod
    def of(cls, track: Track, about: About, cover: tuple[bytes, str] | None = None) -> Tags:
        """Take the tags out of a track and what else is known of it."""
        ids = {"music_task_id": track.music_task_id, "clip_id": track.clip_id}
        return cls(
            title=_text(track.title),
            genre=_text(track.tags),
            comment=", ".join(f"{name}: {id_}" for name, id_ in ids.items() if id_),
            lyrics=_text(track.lyrics) or lyrics_of(about.body),
            cover=cover if cover and cover[1] in _COVER_TYPES else None,
        )


def lyrics_of(body: object) -> str | None:
    """Return the lyrics that a request body ordered: its ``prompt`` in custom mode, unless it is a brief."""
    if not isinstance(body, Mapping) or body.get("make_instrumental"):
        return None
    is_lyrics = body.get("custom_mode") and not body.get("auto_lyrics")
    return (_text(body.get("prompt")) if is_lyrics else None) or _text(body.get("lyrics"))


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return clean(value, nul=True).strip() or None


def seconds_of(part: PartFile, url: str) -> float:
    """
    Return the duration in seconds as read from the file.

    :raises MusicAPIStorageError: it is not readable as audio.
    """
    import mutagen

    try:
        with part.open() as file:
            audio = mutagen.File(file)
        seconds = float(audio.info.length) if audio is not None else 0.0
    except OSError:  # the storage's
        raise
    except Exception as error:  # a file from elsewhere may stumble mutagen in any way
        raise MusicAPIStorageError(f"{url} is not readable as audio: {error}.") from error
    if not 0 < seconds < math.inf:
        raise MusicAPIStorageError(f"{url} is not readable as audio.")
    return round(seconds, 2)


def tag(part: PartFile, tagged: PartFile, suffix: str, tags: Tags) -> PartFile:
    """
    Return a tagged copy in place of a finished part file, or the file itself if that takes no tags.

    :param tagged: Becomes the copy; the other one is discarded.
    """
    try:
        _write_tagged(part, tagged, suffix, tags)
        seconds_of(tagged, "The tagged file")
    except (TagError, MusicAPIStorageError) as error:
        tagged.discard()
        log.warning("%s stays without tags: %s", part.path.name, error)
        return part
    except BaseException:
        tagged.discard()
        raise
    part.discard()
    return tagged


def _write_tagged(source: PartFile, target: PartFile, suffix: str, tags: Tags) -> None:
    """Write a tagged copy, by way of a local temporary file, since tags are written back and forth."""
    with tempfile.TemporaryFile() as local:
        with source.open() as file:
            shutil.copyfileobj(file, local, _CHUNK)
        try:
            local.seek(0)
            audio = _TAGGED[suffix](local, tags)
            local.seek(0)
            audio.save(local)
        except Exception as error:
            raise TagError(f"{type(error).__name__}: {error}") from error
        local.seek(0)
        target.restart()
        while chunk := local.read(_CHUNK):
            target.write(chunk)
        target.close()


def _mp3(file: IO[bytes], tags: Tags) -> ID3:
    from mutagen.id3 import ID3, ID3NoHeaderError

    try:
        id3 = ID3(file)
    except ID3NoHeaderError:
        id3 = ID3()
    _fill_id3(id3, tags)
    return id3


def _wav(file: IO[bytes], tags: Tags) -> FileType:
    from mutagen.wave import WAVE

    wave = WAVE(file)
    if wave.tags is None:
        wave.add_tags()
    _fill_id3(wave.tags, tags)
    return wave


def _fill_id3(id3: ID3, tags: Tags) -> None:
    from mutagen import id3 as frames

    utf8 = 3
    for frame, text in ((frames.TIT2, tags.title), (frames.TCON, tags.genre)):
        if text:
            id3.add(frame(encoding=utf8, text=text))
    if tags.comment:
        id3.add(frames.COMM(encoding=utf8, lang="XXX", desc="", text=tags.comment))
    if tags.lyrics:
        id3.add(frames.USLT(encoding=utf8, lang="XXX", desc="", text=tags.lyrics))
    if tags.cover:
        content, suffix = tags.cover
        front = 3
        mime = _COVER_TYPES[suffix]
        id3.add(frames.APIC(encoding=utf8, mime=mime, type=front, desc="Cover", data=content))


def _m4a(file: IO[bytes], tags: Tags) -> FileType:
    from mutagen.mp4 import MP4, MP4Cover

    mp4 = MP4(file)
    if mp4.tags is None:
        mp4.add_tags()
    texts = {"\xa9nam": tags.title, "\xa9gen": tags.genre, "\xa9cmt": tags.comment, "\xa9lyr": tags.lyrics}
    for name, text in texts.items():
        if text:
            mp4.tags[name] = [text]
    if tags.cover:
        content, suffix = tags.cover
        form = MP4Cover.FORMAT_PNG if suffix == ".png" else MP4Cover.FORMAT_JPEG
        mp4.tags["covr"] = [MP4Cover(content, imageformat=form)]
    return mp4


#: Read an audio file, and give it its tags; to be saved.
_TAGGED = {".mp3": _mp3, ".wav": _wav, ".m4a": _m4a}
