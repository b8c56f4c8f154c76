"""Request bodies: every rule that saves a wasted create, at its exact limit."""

from __future__ import annotations

import math
from typing import Any

import pytest

from include.musicapi_simulator.checks import refusal_of
from musicapi_provider.api.bodies import (
    FIELDS,
    MODELS,
    TASK_TYPES,
    Problem,
    check_body,
    complete_body,
    length,
    name_of,
    parse_value,
    prompt_of,
    refuse,
    require_valid,
    typed_fields,
)
from musicapi_provider.exceptions import MusicAPIInvalidRequestError, Spent

SONG = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
DESCRIBED = {
    "task_type": "create_music",
    "custom_mode": False,
    "mv": "sonic-v5",
    "gpt_description_prompt": "a waltz",
}
#: A sound body of every task type.
SOUND: dict[str, dict[str, Any]] = {
    "create_music": SONG,
    "extend_music": SONG | {"continue_clip_id": "c", "continue_at": 30},
    "cover_music": SONG | {"continue_clip_id": "c"},
    "concat_music": {"continue_clip_id": "c"},
    "persona_music": SONG | {"persona_id": "p"},
    "extend_upload_music": SONG | {"continue_clip_id": "c", "continue_at": 0.1},
    "cover_upload_music": SONG | {"continue_clip_id": "c"},
    "remaster": {"continue_clip_id": "c", "mv": "sonic-v5"},
    "add_instrumental": {"continue_clip_id": "c", "mv": "sonic-v5"},
    "add_vocals": {"continue_clip_id": "c", "mv": "sonic-v5", "prompt": "la"},
}
SOUND = {name: body | {"task_type": name} for name, body in SOUND.items()}
REMASTER = SOUND["remaster"]
VOCALS = SOUND["add_vocals"]


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the body without some fields."""
    return {name: value for name, value in body.items() if name not in names}


def fields_of(body: dict[str, Any]) -> list[str]:
    """Return the fields that a check objects to."""
    return [problem.field for problem in check_body(body)]


def test_sound_bodies_cover_every_task_type() -> None:
    """The table above has no hole."""
    assert SOUND.keys() == TASK_TYPES.keys()


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in SOUND.items()])
def test_sound_body_of_each_task_type_is_accepted(body: dict[str, Any]) -> None:
    """What the reference asks for is enough, here and at the simulator."""
    require_valid(body)

    assert check_body(body) == []
    assert refusal_of(body) is None


@pytest.mark.parametrize(
    ("task_type", "name"),
    [pytest.param(kind, name, id=f"{kind}-{name}") for kind, names in TASK_TYPES.items() for name in names],
)
def test_missing_field_is_named(task_type: str, name: str) -> None:
    """Each required field of each task type is missed."""
    problems = check_body(without(SOUND[task_type], name))

    assert any(problem.field == name for problem in problems)
    assert f"{name}: is required by task_type {task_type}" in map(str, problems)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        # text fields
        pytest.param(SONG | {"title": 7}, ["title"], id="number-as-title"),
        pytest.param(SONG | {"tags": ["folk", "waltz"]}, ["tags"], id="list-as-tags"),
        pytest.param(SONG | {"negative_tags": ["drums"]}, ["negative_tags"], id="list-as-negative-tags"),
        pytest.param(SONG | {"prompt": True}, ["prompt"], id="boolean-as-prompt"),
        pytest.param(SONG | {"task_type": 7}, ["task_type"], id="number-as-task-type"),
        pytest.param(SONG | {"mv": 5}, ["mv"], id="number-as-model"),
        # booleans
        pytest.param(SONG | {"custom_mode": "true"}, ["custom_mode"], id="text-as-boolean"),
        pytest.param(SONG | {"custom_mode": 1}, ["custom_mode"], id="number-as-boolean"),
        pytest.param(SONG | {"make_instrumental": True}, [], id="instrumental"),
        pytest.param(SONG | {"make_instrumental": 0}, ["make_instrumental"], id="zero-as-boolean"),
        pytest.param(SONG | {"auto_lyrics": "no"}, ["auto_lyrics"], id="word-as-boolean"),
        pytest.param(SONG | {"use_suno_cdn": False}, [], id="cdn"),
        pytest.param(SONG | {"use_suno_cdn": "false"}, ["use_suno_cdn"], id="text-as-cdn"),
        # weights
        *(
            pytest.param(SONG | {name: value}, refused and [name], id=f"{name}-{value!r:.20}")
            for name in ("style_weight", "weirdness_constraint", "audio_weight")
            for value, refused in [
                *((0, []), (0.0, []), (0.5, []), (1, []), (1.0, [])),
                *((-0.01, True), (1.01, True), (math.nan, True), (math.inf, True), (-math.inf, True)),
                *((True, True), (False, True), ("0.5", True), (10**400, True)),
            ]
        ),
        # seconds
        *(
            pytest.param(VOCALS | {name: value}, refused and [name], id=f"{name}-{value!r:.20}")
            for name in ("continue_at", "overpainting_start_s")
            for value, refused in [
                *((0, []), (0.1, []), (61.5, [])),
                *((-0.1, True), (math.nan, True), (math.inf, True), (True, True), ("7", True)),
            ]
        ),
        # the overpainting window
        pytest.param(VOCALS | {"overpainting_start_s": 5, "overpainting_end_s": 5.1}, [], id="window"),
        pytest.param(VOCALS | {"overpainting_end_s": 0.1}, [], id="window-from-the-start"),
        pytest.param(VOCALS | {"overpainting_start_s": 5}, [], id="window-to-the-end"),
        pytest.param(
            VOCALS | {"overpainting_start_s": 5, "overpainting_end_s": 5},
            ["overpainting_end_s"],
            id="window-of-nothing",
        ),
        pytest.param(
            VOCALS | {"overpainting_start_s": 5, "overpainting_end_s": 4},
            ["overpainting_end_s"],
            id="window-backwards",
        ),
        pytest.param(VOCALS | {"overpainting_end_s": 0}, ["overpainting_end_s"], id="window-ends-at-zero"),
        pytest.param(VOCALS | {"overpainting_end_s": math.nan}, ["overpainting_end_s"], id="window-ends-nan"),
        # duration
        pytest.param(SONG | {"duration": 9}, ["duration"], id="duration-9"),
        pytest.param(SONG | {"duration": 10}, [], id="duration-10"),
        pytest.param(SONG | {"duration": 10.0}, [], id="duration-10.0"),
        pytest.param(SONG | {"duration": 360}, [], id="duration-360"),
        pytest.param(SONG | {"duration": 361}, ["duration"], id="duration-361"),
        pytest.param(SONG | {"duration": 10.5}, ["duration"], id="duration-fraction"),
        pytest.param(SONG | {"duration": math.nan}, ["duration"], id="duration-nan"),
        pytest.param(SONG | {"duration": math.inf}, ["duration"], id="duration-infinite"),
        pytest.param(SONG | {"duration": True}, ["duration"], id="duration-boolean"),
        pytest.param(SONG | {"duration": "60"}, ["duration"], id="duration-text"),
        pytest.param(SONG | {"duration": 10**400}, ["duration"], id="duration-beyond-float"),
        # choices
        pytest.param(SONG | {"task_type": "create-music"}, ["task_type"], id="unknown-task-type"),
        pytest.param(SONG | {"vocal_gender": "f"}, [], id="gender-f"),
        pytest.param(SONG | {"vocal_gender": "m", "mv": "sonic-v4-5"}, [], id="gender-from-v4-5"),
        pytest.param(SONG | {"vocal_gender": "female"}, ["vocal_gender"], id="gender-word"),
        pytest.param(SONG | {"vocal_gender": "F"}, ["vocal_gender"], id="gender-capital"),
        pytest.param(SONG | {"vocal_gender": "f", "mv": "sonic-v4"}, ["vocal_gender"], id="gender-on-v4"),
        pytest.param(SONG | {"vocal_gender": "f", "mv": "sonic-v3-5"}, ["vocal_gender"], id="gender-on-v3-5"),
        pytest.param(REMASTER | {"variation_category": "subtle"}, [], id="variation"),
        pytest.param(REMASTER | {"variation_category": "low"}, ["variation_category"], id="odd-variation"),
        pytest.param(SONG | {"variation_category": "high"}, ["variation_category"], id="variation-of-a-song"),
        pytest.param(SONG | {"mv": "sonic-v9"}, [], id="model-of-the-future"),
        # modes
        pytest.param(without(SONG, "prompt"), ["prompt"], id="custom-without-lyrics"),
        pytest.param(SONG | {"prompt": " \n"}, ["prompt"], id="custom-with-blank-lyrics"),
        pytest.param(without(SONG, "prompt") | {"lyrics": "la"}, [], id="lyrics-instead"),
        pytest.param(without(SONG, "prompt") | {"lyrics": " "}, ["prompt"], id="blank-lyrics-instead"),
        pytest.param(without(SONG, "prompt") | {"make_instrumental": True}, [], id="instrumental-no-lyrics"),
        pytest.param(
            without(SONG, "prompt") | {"make_instrumental": False}, ["prompt"], id="not-instrumental"
        ),
        pytest.param(SONG | {"auto_lyrics": True}, [], id="brief"),
        pytest.param(
            without(SONG, "prompt") | {"auto_lyrics": True, "lyrics": "la"}, ["prompt"], id="brief-missing"
        ),
        pytest.param(
            without(SONG, "prompt") | {"auto_lyrics": True, "make_instrumental": True},
            ["prompt"],
            id="brief-missing-instrumental",
        ),
        pytest.param(
            DESCRIBED | {"auto_lyrics": True, "prompt": "la"}, ["auto_lyrics"], id="brief-in-description-mode"
        ),
        pytest.param(
            DESCRIBED | {"auto_lyrics": True}, ["auto_lyrics", "prompt"], id="brief-missing-described"
        ),
        pytest.param(DESCRIBED | {"auto_lyrics": False}, [], id="no-brief-in-description-mode"),
        pytest.param(DESCRIBED, [], id="described"),
        pytest.param(
            without(DESCRIBED, "gpt_description_prompt"), ["gpt_description_prompt"], id="nothing-described"
        ),
        pytest.param(
            DESCRIBED | {"gpt_description_prompt": " "}, ["gpt_description_prompt"], id="blank-description"
        ),
        pytest.param(
            without(DESCRIBED, "gpt_description_prompt") | {"prompt": "la"},
            ["gpt_description_prompt"],
            id="lyrics-in-description-mode",
        ),
        # unknown fields
        pytest.param(SONG | {"seed": 1}, ["seed"], id="unknown-field"),
        pytest.param(SONG | {"webhook_url": "https://x"}, ["webhook_url"], id="webhook"),
    ],
)
def test_rule(body: dict[str, Any], refused: list[str]) -> None:
    """Each rule refuses its own field and no other."""
    assert refused == fields_of(body)


def limits() -> list[Any]:
    """Return every limit as body, field and longest length."""
    by_model = [
        (SONG | {"mv": model}, name, limit)
        for model, (prompt, tags) in [*MODELS.items(), ("sonic-v9", (5000, 1000))]
        for name, limit in [
            ("prompt", prompt),
            ("lyrics", prompt),
            ("tags", tags),
            ("negative_tags", tags),
        ]
    ]
    fixed = [(SONG, "title", 80), (DESCRIBED, "gpt_description_prompt", 400)]
    return [
        pytest.param(body, name, limit, id=f"{body['mv']}-{name}") for body, name, limit in by_model + fixed
    ]


@pytest.mark.parametrize(("body", "name", "limit"), limits())
@pytest.mark.parametrize(
    ("character", "units"),
    [pytest.param("x", 1, id="ascii"), pytest.param("é", 1, id="accent"), pytest.param("🎵", 2, id="emoji")],
)
def test_length_is_refused_one_unit_above_the_limit(
    body: dict[str, Any], name: str, limit: int, character: str, units: int
) -> None:
    """The exact maximum passes and one more does not; emoji count twice, as in UTF-16."""
    longest = character * (limit // units)

    assert fields_of(body | {name: longest}) == []
    assert fields_of(body | {name: longest + "x"}) == [name]
    assert f"{limit} characters" in str(check_body(body | {name: longest + "x"})[0])


def test_model_limits_are_those_of_the_facts() -> None:
    """The old models take less (facts 2.3)."""
    old, new = (3000, 200), (5000, 1000)

    assert {
        **{"sonic-v3-5": old, "sonic-v4": old, "sonic-v4-5": new, "sonic-v4-5-plus": new},
        **{"sonic-v5": new, "sonic-v5-5": new},
    } == MODELS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("abc", 3, id="ascii"),
        pytest.param("é", 1, id="accent"),
        pytest.param("音楽", 2, id="kanji"),
        pytest.param("🎵", 2, id="emoji"),
        pytest.param("👨‍👩‍👧", 8, id="family"),
        pytest.param("\ud800", 1, id="half-a-pair"),
    ],
)
def test_length_counts_utf16_units(text: str, expected: int) -> None:
    """The strictest usual reading of a character."""
    assert expected == length(text)


def test_all_problems_are_reported_at_once() -> None:
    """Nobody corrects a body one field at a time."""
    body = SONG | {"title": "x" * 81, "style_weight": 2, "vocal_gender": "x", "prompt": ""}

    assert {"title", "style_weight", "vocal_gender", "prompt"} == set(fields_of(body))


def test_wrong_kinds_are_reported_before_the_rules_that_need_them() -> None:
    """Every wrong kind and every unknown field is named, and no rule stumbles over them."""
    body = {name: object() for name in FIELDS} | {"titel": "x"}

    assert set(FIELDS) | {"titel"} == set(fields_of(body))


def test_unknown_field_suggests_the_right_one() -> None:
    """A typo costs a glance, not a search."""
    close, far = check_body(SONG | {"titel": "x", "zzzz": 1})

    assert str(close) == (
        "titel: unknown field, did you mean 'title'? (extra_body sends it unchecked); got 'x'"
    )
    assert str(far) == "zzzz: unknown field (extra_body sends it unchecked); got 1"


def test_require_valid_names_every_problem_and_spends_nothing() -> None:
    """The error holds field, value and rule of each problem."""
    with pytest.raises(MusicAPIInvalidRequestError) as raised:
        require_valid(SONG | {"title": "x" * 81, "audio_weight": 1.5})
    text = str(raised.value)

    assert "title: may have 80 characters at most; got 'xxx" in text
    assert "audio_weight: must be from 0 to 1; got 1.5" in text
    assert "nothing was sent" in text
    assert raised.value.spent is Spent.NOT_SPENT


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        pytest.param(Problem("mv", None, "is required"), "mv: is required", id="no-value"),
        pytest.param(Problem("mv", "", "is odd"), "mv: is odd; got ''", id="empty-value"),
        pytest.param(Problem("mv", "x" * 58, "is odd"), f"mv: is odd; got '{'x' * 58}'", id="longest-whole"),
        pytest.param(
            Problem("mv", "🎵" * 59, "is odd"),
            f"mv: is odd; got '{'🎵' * 44}... (118 characters)",
            id="shortened",
        ),
    ],
)
def test_problem_text_shortens_long_values(problem: Problem, expected: str) -> None:
    """Lyrics of 5,000 characters do not fill the log."""
    assert expected == str(problem)


# -- values from templates and cells ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *(pytest.param("custom_mode", text, True, id=text) for text in ("true", "TRUE", "Yes", "1", " on ")),
        *(pytest.param("custom_mode", text, False, id=text) for text in ("false", "False", "no", "0", "OFF")),
        pytest.param("custom_mode", "", None, id="empty-boolean"),
        pytest.param("custom_mode", "None", None, id="none-from-a-template"),
        pytest.param("custom_mode", True, True, id="boolean"),
        pytest.param("custom_mode", None, None, id="none"),
        pytest.param("style_weight", "0.7", 0.7, id="number"),
        pytest.param("style_weight", " 1 ", 1.0, id="number-with-blanks"),
        pytest.param("style_weight", "", None, id="empty-number"),
        pytest.param("style_weight", " ", None, id="blank-number"),
        pytest.param("style_weight", 0.7, 0.7, id="number-already"),
        pytest.param("duration", "60", 60, id="whole-number"),
        pytest.param("duration", "60.0", 60, id="whole-number-with-point"),
        pytest.param("duration", "60.5", 60.5, id="fraction-is-left-to-the-check"),
        pytest.param("duration", "inf", math.inf, id="infinity-is-left-to-the-check"),
        pytest.param("title", "Paper Boats", "Paper Boats", id="text"),
        pytest.param("title", " Paper Boats ", " Paper Boats ", id="text-is-untouched"),
        pytest.param("title", "", None, id="empty-text"),
        pytest.param("title", " \n", None, id="blank-text"),
        pytest.param("title", "{{ ds }}", "{{ ds }}", id="template-text"),
        pytest.param("title", "None", "None", id="the-word-none"),
        pytest.param("title", 7, 7, id="no-text-is-left-to-the-check"),
        pytest.param("unheard_of", "7", "7", id="unknown-field"),
        pytest.param("unheard_of", "", None, id="unknown-empty-field"),
    ],
)
def test_parse_value(field: str, value: Any, expected: Any) -> None:
    """Text gets the field's kind; blank text means: do not send."""
    parsed = parse_value(field, value)

    assert expected == parsed
    assert type(expected) is type(parsed)


@pytest.mark.parametrize(
    ("field", "text", "rule"),
    [
        pytest.param("custom_mode", "perhaps", "must be true or false", id="word-as-boolean"),
        pytest.param("custom_mode", "2", "must be true or false", id="number-as-boolean"),
        pytest.param("style_weight", "0,7", "must be a number", id="comma"),
        pytest.param("style_weight", "high", "must be a number", id="word-as-number"),
        pytest.param("duration", "1:30", "must be a number", id="clock"),
        pytest.param("duration", "1_0", "must be a number", id="underscore-in-a-whole-number"),
        pytest.param("style_weight", "0_1.5", "must be a number", id="underscore-in-a-fraction"),
    ],
)
def test_parse_value_refuses_unreadable_text(field: str, text: str, rule: str) -> None:
    """The message is the rule, for the reader of a table."""
    with pytest.raises(ValueError, match=f"^{rule}$"):
        parse_value(field, text)


def test_typed_fields_gives_kinds_and_collects_every_problem() -> None:
    """What has a kind is typed, what has none is told and left out, and blank text becomes nothing."""
    typed, problems = typed_fields(
        {"custom_mode": "yes", "duration": "long", "title": " ", "style_weight": "1_0", "prompt": "1_0"}
    )

    assert typed == {"custom_mode": True, "title": None, "prompt": "1_0"}
    assert problems == [
        Problem("duration", "long", "must be a number"),
        Problem("style_weight", "1_0", "must be a number"),
    ]


def test_typed_fields_of_nothing_is_nothing() -> None:
    """No fields, no problems."""
    assert typed_fields({}) == ({}, [])


def test_refuse_raises_for_problems_only() -> None:
    """No problems, no error; each problem has a line of its own."""
    refuse([])
    with pytest.raises(MusicAPIInvalidRequestError, match="\n  mv: first\n  tags: second\n") as raised:
        refuse([Problem("mv", None, "first"), Problem("tags", None, "second")])

    assert raised.value.spent is Spent.NOT_SPENT


# -- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {"prompt": "la"},
            {"task_type": "create_music", "prompt": "la", "mv": "sonic-v5", "custom_mode": True},
            id="lyrics",
        ),
        pytest.param(
            {"gpt_description_prompt": "a waltz"},
            {
                **{"task_type": "create_music", "gpt_description_prompt": "a waltz"},
                **{"mv": "sonic-v5", "custom_mode": False},
            },
            id="description",
        ),
        pytest.param(
            {"gpt_description_prompt": "a waltz", "lyrics": "la"},
            {
                **{"task_type": "create_music", "gpt_description_prompt": "a waltz", "lyrics": "la"},
                **{"mv": "sonic-v5", "custom_mode": True},
            },
            id="description-and-lyrics",
        ),
        pytest.param(
            {"custom_mode": False, "prompt": "la", "mv": "sonic-v4", "task_type": "create_music"},
            {"custom_mode": False, "prompt": "la", "mv": "sonic-v4", "task_type": "create_music"},
            id="explicit-fields-stay",
        ),
        pytest.param(
            {"task_type": None, "mv": None, "custom_mode": None, "prompt": "la", "title": None},
            {"task_type": "create_music", "prompt": "la", "mv": "sonic-v5", "custom_mode": True},
            id="none-is-left-out",
        ),
        pytest.param(
            {"make_instrumental": False, "style_weight": 0, "prompt": "la"},
            {
                **{"task_type": "create_music", "make_instrumental": False, "style_weight": 0},
                **{"prompt": "la", "mv": "sonic-v5", "custom_mode": True},
            },
            id="false-and-zero-stay",
        ),
        pytest.param(
            {"task_type": "concat_music", "continue_clip_id": "c"},
            {"task_type": "concat_music", "continue_clip_id": "c"},
            id="concat-needs-nothing",
        ),
        pytest.param(
            {"task_type": "remaster", "continue_clip_id": "c"},
            {"task_type": "remaster", "continue_clip_id": "c", "mv": "sonic-v5"},
            id="remaster-has-no-mode",
        ),
        pytest.param({"task_type": "unheard"}, {"task_type": "unheard"}, id="unknown-task-type"),
        pytest.param({"task_type": ["x"]}, {"task_type": ["x"]}, id="odd-task-type"),
    ],
)
def test_complete_body(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """What a user need not write is added, what is None is left out, the rest stays."""
    given = dict(fields)

    assert expected == complete_body(fields)
    assert given == fields


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, math.nan, math.inf, 10**400, "", "\ud800", [], {}, object()],
    ids=lambda value: repr(value)[:10],
)
@pytest.mark.parametrize("name", [*FIELDS, "unheard_of"])
def test_no_value_makes_the_check_raise(name: str, value: Any) -> None:
    """Tables and templates hold anything; the check answers with problems."""
    for body in SOUND.values():
        completed = complete_body(body | {name: value})

        assert all(str(problem) for problem in check_body(completed))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "La", "title": "x"}, "La"),
        ({"gpt_description_prompt": "a song"}, "a song"),
        ({"lyrics": "La"}, "La"),
        ({"title": "Rain", "tags": "pop"}, "Rain"),
        ({}, None),
        (None, None),
    ],
)
def test_prompt_of_a_body(body: Any, expected: str | None) -> None:
    """The words that it orders music with."""
    assert prompt_of(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "La", "title": "Rain"}, "Rain"),
        ({"gpt_description_prompt": "a song\n about   rain"}, "a song about rain"),
        ({"prompt": "x" * 61}, "x" * 60 + " ..."),
        ({"task_type": "concat_music"}, "concat_music"),
    ],
)
def test_name_of_a_body_is_short_and_on_one_line(body: dict[str, Any], expected: str) -> None:
    """A log line is no place for lyrics."""
    assert name_of(body) == expected
