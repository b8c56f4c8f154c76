"""Tags in audio files: written into each format, never at the cost of the file."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mutagen
import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.models import Track
from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.storage import About
from musicapi_provider.storage.partial import PartFile
from musicapi_provider.storage.tags import Tags, lyrics_of, seconds_of, tag
from tests.media import frames

if TYPE_CHECKING:
    from tests.unit.conftest import Log

TRACK = Track.from_dict(
    {
        "music_task_id": "task-1",
        "clip_id": "clip-1",
        "title": "Grüße aus 東京",
        "tags": "city pop, 110 bpm",
        "lyrics": "La la\nla",
    }
)
COVER = (b"\xff\xd8\xff a picture", ".jpeg")
COMMENT = "music_task_id: task-1, clip_id: clip-1"


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(32_000))
    return file.getvalue()


def _atom(name: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + name + content


def _m4a() -> bytes:
    """Return the least that mutagen takes for two seconds of AAC."""
    mdhd = _atom(b"mdhd", bytes(12) + (8000).to_bytes(4, "big") + (16_000).to_bytes(4, "big") + bytes(4))
    hdlr = _atom(b"hdlr", bytes(8) + b"soun" + bytes(13))
    stsd = _atom(b"stsd", bytes(8))
    trak = _atom(b"trak", _atom(b"mdia", mdhd + hdlr + _atom(b"minf", _atom(b"stbl", stsd))))
    mvhd = _atom(b"mvhd", bytes(12) + (1000).to_bytes(4, "big") + (2000).to_bytes(4, "big") + bytes(80))
    return _atom(b"ftyp", b"M4A \0\0\0\0M4A mp42") + _atom(b"moov", mvhd + trak) + _atom(b"mdat", bytes(1000))


MP3 = frames(417 * 80)
FILES = {".mp3": MP3, ".wav": _wav(), ".m4a": _m4a()}


@pytest.fixture
def new_part(tmp_path: Path) -> Callable[..., PartFile]:
    """Return a function that makes a part file, with content or not yet."""

    def make(content: bytes | None = None) -> PartFile:
        part = PartFile(ObjectStoragePath(f"file://{tmp_path}"), "clip-1")
        if content is not None:
            part.restart()
            part.write(content)
            part.close()
        return part

    return make


def _read(part: PartFile) -> dict[str, Any]:
    audio = mutagen.File(part.path.path)
    if type(audio).__name__ == "MP4":
        names = {"title": "\xa9nam", "genre": "\xa9gen", "comment": "\xa9cmt", "lyrics": "\xa9lyr"}
        return {**{name: audio[key][0] for name, key in names.items()}, "cover": bytes(audio["covr"][0])}
    frame = {key: audio.tags.getall(key)[0] for key in ("TIT2", "TCON", "COMM", "USLT", "APIC")}
    return {
        "title": str(frame["TIT2"]),
        "genre": str(frame["TCON"]),
        "comment": str(frame["COMM"]),
        "lyrics": frame["USLT"].text,
        "cover": frame["APIC"].data,
    }


@pytest.mark.parametrize("suffix", FILES)
def test_tags_are_written_into_each_format(suffix: str, new_part: Callable[..., PartFile]) -> None:
    """A player shows title, genre, lyrics and cover; the comment leads back to the API."""
    part = new_part(FILES[suffix])
    before = seconds_of(part, "file")
    tagged = tag(part, new_part(), suffix, Tags.of(TRACK, About(), COVER))

    assert _read(tagged) == {
        "title": "Grüße aus 東京",
        "genre": "city pop, 110 bpm",
        "comment": COMMENT,
        "lyrics": "La la\nla",
        "cover": COVER[0],
    }
    assert before == pytest.approx(seconds_of(tagged, "file"), abs=0.03)
    assert not Path(part.path.path).exists()
    assert tagged.written == Path(tagged.path.path).stat().st_size


@pytest.mark.parametrize("suffix", FILES)
def test_what_is_not_known_is_left_out(suffix: str, new_part: Callable[..., PartFile]) -> None:
    """No empty tags, no made-up artist."""
    tagged = tag(new_part(FILES[suffix]), new_part(), suffix, Tags.of(Track("", "clip-1", None), About()))
    audio = mutagen.File(tagged.path.path)

    assert len(audio.tags) == 1  # the comment


def test_audio_itself_is_untouched(new_part: Callable[..., PartFile]) -> None:
    """Tags stand before the music."""
    tagged = tag(new_part(MP3), new_part(), ".mp3", Tags.of(TRACK, About()))

    assert Path(tagged.path.path).read_bytes().endswith(MP3)


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        pytest.param(MP3, ".ogg", id="unknown format"),
        pytest.param(b"RIFF\0\0\0\0WAVEjunk", ".wav", id="broken file"),
        pytest.param(MP3, ".m4a", id="another format"),
    ],
)
def test_file_that_takes_no_tags_stays_as_it_is(
    content: bytes, suffix: str, new_part: Callable[..., PartFile], logged: Log
) -> None:
    """The music is what was paid for."""
    part, copy = new_part(content), new_part()

    assert tag(part, copy, suffix, Tags.of(TRACK, About())) is part
    assert Path(part.path.path).read_bytes() == content
    assert not Path(copy.path.path).exists()
    assert "stays without tags" in logged.text


def test_odd_text_is_no_obstacle(new_part: Callable[..., PartFile]) -> None:
    """Half of a surrogate pair and a zero byte come from a server, too."""
    tagged = tag(
        new_part(MP3),
        new_part(),
        ".mp3",
        Tags.of(Track.from_dict({"title": "a\ud83c\0b", "tags": 5}), About()),
    )

    assert str(mutagen.File(tagged.path.path).tags["TIT2"]) == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"custom_mode": True, "prompt": "La la"}, "La la", id="prompt in custom mode"),
        pytest.param({"custom_mode": True, "auto_lyrics": True, "prompt": "a brief"}, None, id="brief"),
        pytest.param({"custom_mode": False, "gpt_description_prompt": "a song"}, None, id="description"),
        pytest.param(
            {"custom_mode": True, "make_instrumental": True, "prompt": "x"}, None, id="instrumental"
        ),
        pytest.param({"custom_mode": True, "lyrics": "La"}, "La", id="lyrics"),
        pytest.param(None, None, id="no body"),
        pytest.param("text", None, id="no object"),
    ],
)
def test_lyrics_of_a_body(body: Any, expected: str | None) -> None:
    """What was ordered to be sung, and nothing else."""
    assert lyrics_of(body) == expected
    assert Tags.of(Track("", None, None), About.from_json({"body": body})).lyrics == expected


@pytest.mark.parametrize("content", [b"no music", b"", b"ID3\4\0\0\0\0\0\0", b"RIFF\0\0\0\0WAVE"], ids=repr)
def test_unreadable_audio_has_no_duration(content: bytes, new_part: Callable[..., PartFile]) -> None:
    """The error names where it came from."""
    with pytest.raises(MusicAPIStorageError, match=r"https://a\.example/b\.mp3 is not readable as audio"):
        seconds_of(new_part(content), "https://a.example/b.mp3")
