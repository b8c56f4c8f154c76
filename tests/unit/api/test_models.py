"""The parser: documented shapes come out right, and nothing makes it raise."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from musicapi_provider.api.models import Credits, MusicTask, Track, error_text, music_task_id_of
from tests import samples

ID = samples.TASK_ID
#: Values of every JSON type, and some that only a hostile or broken server would send.
NASTY = [
    *(None, True, False, 0, -1, 200, 10**400, 1.5, math.nan, math.inf, -math.inf),
    *("", " ", "x", "nan", "-inf", "1e999", "\ud800", "\x00", "https://[", "9" * 5000),
    *([], [[]], [None], [1, "x"], {}, {"": None}, {"data": {"data": []}}, {"error": {"message": {"x": 1}}}),
]


def track_of(**changes: Any) -> Track:
    """Parse the documented clip with changes."""
    return Track.from_clip(samples.SUCCEEDED | changes, ID)


def test_clip_is_read_field_by_field() -> None:
    """Every field of the documented clip that we use arrives."""
    expected = Track(
        music_task_id=ID,
        clip_id=samples.FIRST,
        state="succeeded",
        title="Paper Boats",
        audio_url=f"https://cdn1.suno.ai/{samples.FIRST}.mp3",
        image_url=f"https://cdn2.suno.ai/image_{samples.FIRST}.jpeg",
        video_url=None,
        duration=129.84,
        tags="indie folk, acoustic guitar",
        lyrics="[Verse]\nPaper boats along the river",
        mv="sonic-v5-5",
        created_at="2026-07-15T09:30:00.000Z",
        error_message=None,
    )

    assert expected == track_of()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param("129.84", 129.84, id="text"),
        pytest.param(" 129 ", 129.0, id="text-with-blanks"),
        pytest.param(129.84, 129.84, id="number"),
        pytest.param(129, 129.0, id="integer"),
        pytest.param(0, 0.0, id="zero"),
        pytest.param(None, None, id="null"),
        pytest.param("", None, id="empty"),
        pytest.param("2:09", None, id="clock"),
        pytest.param(-1, None, id="negative"),
        pytest.param(True, None, id="boolean"),
        pytest.param(math.nan, None, id="nan"),
        pytest.param("inf", None, id="infinite-text"),
        pytest.param(10**400, None, id="beyond-float"),
        pytest.param([129], None, id="list"),
    ],
)
def test_duration_is_seconds_or_nothing(sent: Any, expected: float | None) -> None:
    """Text and numbers become seconds, anything else becomes nothing."""
    assert expected == track_of(duration=sent).duration


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(" Paper Boats ", "Paper Boats", id="trimmed"),
        pytest.param("", None, id="empty"),
        pytest.param("  ", None, id="blank"),
        pytest.param(7, None, id="number"),
        pytest.param({"en": "Paper Boats"}, None, id="object"),
    ],
)
def test_text_is_trimmed_text_or_nothing(sent: Any, expected: str | None) -> None:
    """A field of the wrong type is as good as absent."""
    assert expected == track_of(title=sent).title


def test_track_as_dict_has_the_promised_keys() -> None:
    """XCom gets exactly the documented keys; lyrics only when asked."""
    keys = [
        *("music_task_id", "clip_id", "title", "audio_url", "image_url", "video_url"),
        *("duration", "tags", "mv", "created_at"),
    ]

    assert keys == list(track_of().as_dict())
    assert [*keys, "lyrics"] == list(track_of().as_dict(include_lyrics=True))
    assert json.dumps(track_of().as_dict())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param([samples.SUCCEEDED, samples.FAILED_TOO], ["succeeded", "failed"], id="list"),
        pytest.param(samples.SUCCEEDED, ["succeeded"], id="object"),
        pytest.param([samples.SUCCEEDED, None, "x", 1, []], ["succeeded"], id="list-with-rubbish"),
        pytest.param([{"extended": samples.SUCCEEDED, "full": None}], ["succeeded"], id="joining"),
        pytest.param(
            [{"extended": samples.SUCCEEDED, "full": samples.RUNNING_TOO}],
            ["succeeded", "running"],
            id="extended-pair",
        ),
        pytest.param(
            [{"replaced": samples.SUCCEEDED, "full": samples.SUCCEEDED_TOO}],
            ["succeeded", "succeeded"],
            id="replaced-pair",
        ),
        pytest.param([{"extended": "x", "full": samples.SUCCEEDED}], [None], id="pair-of-rubbish"),
        pytest.param([], [], id="empty"),
        pytest.param(None, [], id="null"),
        pytest.param("x", [], id="text"),
    ],
)
def test_clips_are_found_wherever_data_holds_them(data: Any, expected: list[str | None]) -> None:
    """Lists, single objects and pairs all give tracks in order."""
    task = MusicTask.from_answer(ID, 200, {"data": data})

    assert expected == [track.state for track in task.tracks]
    assert {ID} >= {track.music_task_id for track in task.tracks}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param({"extended": samples.SUCCEEDED, "full": None}, [True], id="full-is-null"),
        pytest.param({"extended": samples.FAILED, "full": None}, [False], id="part-failed"),
        pytest.param({"replaced": samples.SUCCEEDED}, [True], id="full-is-absent"),
        pytest.param(
            {"replaced": samples.SUCCEEDED, "full": samples.RUNNING_TOO}, [False, False], id="full-is-there"
        ),
    ],
)
def test_pair_is_joining_until_its_full_clip_is_there(item: Any, expected: list[bool]) -> None:
    """Only a part that can still be joined makes its item unfinished."""
    task = MusicTask.from_answer(ID, 200, {"data": [item]})

    assert expected == [track.joining for track in task.tracks]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"type": "not_ready", "error": "later"}, ("not_ready", None, "later"), id="type"),
        pytest.param({"code": 102, "message": "processing"}, (None, 102, "processing"), id="code"),
        pytest.param({"code": "102"}, (None, 102, None), id="code-as-text"),
        pytest.param({"code": "success", "type": 7}, (None, None, None), id="odd-types"),
        pytest.param("Accepted", (None, None, None), id="text"),
        pytest.param([samples.SUCCEEDED], (None, None, None), id="bare-list"),
    ],
)
def test_envelope_is_read(body: Any, expected: tuple[str | None, int | None, str | None]) -> None:
    """Type, code and words of an answer without clips arrive."""
    task = MusicTask.from_answer(ID, 200, body)

    assert expected == (task.type, task.code, task.text)
    assert (task.music_task_id, task.status_code, task.tracks, task.has_data) == (ID, 200, (), False)


@pytest.mark.parametrize("sample", [pytest.param(s, id=s.name) for s in samples.TASK_ANSWERS])
def test_every_documented_task_answer_is_parsed(sample: samples.Sample) -> None:
    """Each clip of a documented answer keeps its id and state."""
    task = MusicTask.from_answer(ID, sample.status, sample.body)
    items = sample.body.get("data", []) if isinstance(sample.body, dict) else []
    plain = [item for item in items if "clip_id" in item]

    assert [(c["clip_id"], c["state"]) for c in plain] == [(t.clip_id, t.state) for t in task.tracks][
        : len(plain)
    ]
    assert bool(items) is task.has_data


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"error": "a", "message": "b", "detail": "c"}, "a", id="error-first"),
        pytest.param({"message": "b", "detail": "c"}, "b", id="then-message"),
        pytest.param({"detail": " c "}, "c", id="then-detail"),
        pytest.param({"error": " ", "message": "b"}, "b", id="blank-is-passed-over"),
        pytest.param({"error": {"message": "b"}}, "b", id="nested"),
        pytest.param({"error": {"code": 1}, "message": "b"}, "b", id="nested-without-words"),
        pytest.param({"error": 7}, None, id="number"),
        pytest.param({}, None, id="empty-object"),
        pytest.param(" plain text ", "plain text", id="text"),
        pytest.param(" ", None, id="blank-text"),
        pytest.param(None, None, id="null"),
        pytest.param(["a"], None, id="list"),
    ],
)
def test_error_text_finds_the_words_of_every_envelope(body: Any, expected: str | None) -> None:
    """The envelopes of facts 6.1 all give their words."""
    assert expected == error_text(body)


@pytest.mark.parametrize("sample", [pytest.param(s, id=s.name) for s in samples.ERROR_ANSWERS])
def test_every_documented_error_has_words(sample: samples.Sample) -> None:
    """No documented error loses its text."""
    words = error_text(sample.body)

    assert words
    assert words in str(sample.body)


@pytest.mark.parametrize("sample", [pytest.param(s, id=s.name) for s in samples.SUBMIT_ANSWERS])
def test_every_documented_submit_answer_gives_its_id(sample: samples.Sample) -> None:
    """An id comes out exactly where the answer holds one."""
    expected = ID if sample.meaning == "submitted" else None

    assert expected == music_task_id_of(sample.body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"task_id": " a "}, "a", id="trimmed"),
        pytest.param({"task_id": "", "data": {"task_id": "b"}}, "b", id="nested-when-blank"),
        pytest.param({"task_id": "a", "data": {"task_id": "b"}}, "a", id="top-level-wins"),
        pytest.param({"task_id": 7}, None, id="number"),
        pytest.param({"task_id": None}, None, id="null"),
        pytest.param({"data": ["a"]}, None, id="list-of-data"),
        pytest.param("a", None, id="text"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_music_task_id_is_text_or_nothing(body: Any, expected: str | None) -> None:
    """Anything but a non-blank text is no id."""
    assert expected == music_task_id_of(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        *(
            pytest.param(s.body, Credits(s.body["credits"], s.body["extra_credits"]), id=s.name)
            for s in samples.CREDITS_ANSWERS
        ),
        pytest.param({"credits": 30}, Credits(30.0, 0.0), id="without-extra"),
        pytest.param({"credits": "30", "extra_credits": "x"}, Credits(30.0, 0.0), id="text"),
        pytest.param({"credits": 0, "extra_credits": 0}, Credits(0.0, 0.0), id="empty-account"),
        pytest.param({"credits": None}, None, id="null"),
        pytest.param({"credits": True}, None, id="boolean"),
        pytest.param({"message": "hello"}, None, id="another-answer"),
        pytest.param("<html>", None, id="page"),
    ],
)
def test_credits_are_read_or_refused(body: Any, expected: Credits | None) -> None:
    """Only an answer that holds a balance is one."""
    assert expected == Credits.from_answer(body)


def test_total_is_the_sum() -> None:
    """Both kinds of credits can be spent."""
    assert Credits(10, 5).total == 15


@pytest.mark.parametrize("value", NASTY, ids=lambda value: repr(value)[:30])
@pytest.mark.parametrize("key", ["", "data", "type", "code", "error", "task_id", "credits"])
def test_parsing_never_raises(key: str, value: Any) -> None:
    """Whatever the server sends, parsing gives objects or nothing."""
    body = {key: value} if key else value
    MusicTask.from_answer(ID, 200, body)
    MusicTask.from_answer(ID, 200, [body])
    Track.from_clip(dict.fromkeys([*samples.SUCCEEDED, "error_message"], value), ID)
    Track.from_dict(dict.fromkeys([*samples.SUCCEEDED, "music_task_id"], value))

    assert isinstance(error_text(body), (str, type(None)))
    assert isinstance(music_task_id_of(body), (str, type(None)))
    assert isinstance(Credits.from_answer(body), (Credits, type(None)))


def test_deeply_nested_error_is_no_trap() -> None:
    """A hostile nesting ends in no words, not in a RecursionError."""
    body: dict[str, Any] = {}
    for _ in range(5000):
        body = {"error": body}
    task = MusicTask.from_answer(ID, 200, body)

    assert task.text is None


@pytest.mark.parametrize("include_lyrics", [True, False])
def test_track_is_read_back_from_its_dict(include_lyrics: bool) -> None:
    """What an operator puts into XCom is the same track at the next task."""
    track = Track.from_clip(samples.SUCCEEDED, ID)
    written = json.loads(json.dumps(track.as_dict(include_lyrics=include_lyrics)))

    assert Track.from_dict(written).as_dict(include_lyrics=include_lyrics) == written


def test_track_of_an_empty_dict_knows_nothing() -> None:
    """A dict of another version may lack anything."""
    assert Track.from_dict({}) == Track("", None, None)
