"""
The trigger form of a song, and the task that makes a request body of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.sdk import BaseOperator, ObjectStoragePath, Param
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.api.bodies import (
    DEFAULT_MV,
    MAX_DESCRIPTION,
    MAX_TITLE,
    MODELS,
    MODELS_WITHOUT_GENDER,
    Problem,
    check_body,
    complete_body,
    length,
    typed_fields,
)
from musicapi_provider.files import put_whole, remove
from musicapi_provider.forms.fields import Field, chosen, destination_field

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

DESCRIBE, LYRICS, BRIEF = "describe", "lyrics", "brief"
MODES = {
    DESCRIBE: "Describe the song in a sentence",
    LYRICS: "Sing my lyrics",
    BRIEF: "Write lyrics from my brief",
}
#: Names for people, such as "Sonic 4.5 Plus", newest first.
MODEL_NAMES = {
    mv: mv.replace("sonic-v", "Sonic ").replace("-plus", " Plus").replace("-", ".")
    for mv in reversed(list(MODELS))
}
#: Words in the API's rules, and what the form calls them; longer ones first.
_WORDS = {
    "custom_mode is false": f'Mode is "{MODES[DESCRIBE]}"',
    "custom mode": f'the mode "{MODES[LYRICS]}"',
    "with auto_lyrics": f'in the mode "{MODES[BRIEF]}"',
    "make_instrumental": "Instrumental",
    **{mv: MODEL_NAMES[mv] for mv in sorted(MODELS, key=len, reverse=True)},
}
#: Fields of the form that bear the API's names.
_SENT_AS_THEY_ARE = (
    *("title", "tags", "negative_tags", "vocal_gender"),
    *("make_instrumental", "mv", "style_weight", "weirdness_constraint"),
)
_LONGEST_TAGS = max(tags for _, tags in MODELS.values())
_OPTIONAL_TEXT = {"default": None, "type": ["null", "string"]}
_OPTIONAL_SHARE = {"default": None, "type": ["null", "number"], "minimum": 0, "maximum": 1}

# No maxLength for texts of several lines: the form does not stop at it, and Airflow's message would be the
# whole text. The task that reads the form says it better.
_FIELDS: dict[str, Field] = {
    "mode": {
        "default": DESCRIBE,
        "type": "string",
        "title": "Mode",
        "description": "Each song costs 15 credits and comes in two takes.",
        "enum": list(MODES),
        "values_display": MODES,
    },
    "description": {
        "default": "A warm acoustic song about the first coffee of the day",
        "type": "string",
        "format": "multiline",
        "minLength": 1,
        "title": "Description or brief",
        "description": f"What it is about and how it sounds. A description may have {MAX_DESCRIPTION} "
        "characters, a brief as many as lyrics. Not used when your own lyrics are sung.",
    },
    "lyrics": {
        **_OPTIONAL_TEXT,
        "format": "multiline",
        "title": "Lyrics",
        "description": f'For the mode "{MODES[LYRICS]}", else leave it empty. Lines such as [Verse] and '
        "[Chorus] shape the song. Up to 5,000 characters, with Sonic 4 and 3.5 up to 3,000.",
    },
    "title": {
        **_OPTIONAL_TEXT,
        "maxLength": MAX_TITLE,
        "title": "Title",
        "description": f"Optional, {MAX_TITLE} characters. A title is found for you if there is none.",
    },
    "tags": {
        **_OPTIONAL_TEXT,
        "maxLength": _LONGEST_TAGS,
        "title": "Styles",
        "description": "Optional, comma separated: genres, moods, instruments, tempo.",
        "examples": [
            "acoustic folk, warm, fingerpicked guitar",
            "synthwave, dreamy, 100 bpm",
            "jazz trio, brushed drums, late night",
            "orchestral, cinematic, rising",
            "punk rock, fast, shouted choir",
        ],
        "section": "Sound",
    },
    "negative_tags": {
        **_OPTIONAL_TEXT,
        "maxLength": _LONGEST_TAGS,
        "title": "Styles to avoid",
        "description": "Optional, comma separated, such as: autotune, heavy metal.",
        "section": "Sound",
    },
    "vocal_gender": {
        **_OPTIONAL_TEXT,
        "enum": [None, "f", "m"],
        "values_display": {"null": "Any", "f": "Female", "m": "Male"},
        "title": "Voice",
        "description": "Optional, for Sonic 4.5 and later.",
        "section": "Sound",
    },
    "make_instrumental": {
        "default": False,
        "type": "boolean",
        "title": "Instrumental",
        "description": "No singing: leave the lyrics empty.",
        "section": "Sound",
    },
    "mv": {
        "default": DEFAULT_MV,
        "type": "string",
        "enum": list(MODEL_NAMES),
        "values_display": {
            mv: f"{name} (lyrics up to {MODELS[mv][0]:,} characters, styles up to {MODELS[mv][1]:,}"
            f"{', no choice of voice' if mv in MODELS_WITHOUT_GENDER else ''})"
            for mv, name in MODEL_NAMES.items()
        },
        "title": "Model",
        "description": "The newest is not always the one that you like best. All cost the same.",
        "section": "Fine tuning",
    },
    "style_weight": {
        **_OPTIONAL_SHARE,
        "title": "Style influence",
        "description": "Optional, from 0 (a hint) to 1 (as told). Empty: the model decides.",
        "section": "Fine tuning",
    },
    "weirdness_constraint": {
        **_OPTIONAL_SHARE,
        "title": "Weirdness",
        "description": "Optional, from 0 (as usual) to 1 (unheard of). Empty: the model decides.",
        "section": "Fine tuning",
    },
    "destination": {
        **destination_field("Folder for the tracks, local or in object storage (s3://conn_id@bucket/...)."),
        "section": "Storage",
    },
}

#: The field *Description* where no mode can be chosen.
_DESCRIPTION_ALONE = {
    "title": "Description",
    "description": f"What the song is about and how it sounds, in {MAX_DESCRIPTION} characters. It costs 15 "
    "credits and comes in two takes.",
}


def song_form(
    destination: str | None = None, *, only: Collection[str] | None = None, **defaults: object
) -> dict[str, Param]:
    """
    Return the params of a DAG that makes one song; :func:`read_song_form` makes a request body of them.

    The fields: ``mode, description, lyrics, title``, in the section *Sound* ``tags, negative_tags,
    vocal_gender, make_instrumental``, in *Fine tuning* ``mv, style_weight, weirdness_constraint``, in
    *Storage* ``destination``. Add your own beside them: ``params=song_form(...) | {"mine": Param(...)}``.

    :param destination: Default of the folder's URI; ``None``: no such field.
    :param only: Fields to show. Default: all. Without ``mode`` a song is described, without
        ``description`` as well lyrics are sung; what else is left out is not sent.
    :param defaults: Other defaults, by field.
    :raises ValueError: a name that is no field; said when the DAG is parsed.
    """
    fields = _FIELDS
    if only is not None and "mode" not in only:
        fields = fields | {"description": fields["description"] | _DESCRIPTION_ALONE}
    return chosen(fields, only=only, defaults={"destination": destination, **defaults})


def read_song_form(*, task_id: str = "read_form", **kwargs: Any) -> XComArg:
    """
    Add the task that checks the form of :func:`song_form`; return the request body that it makes.

    Pass that on: ``MusicAPICreateOperator(body=read_song_form(), ...)``. Costs nothing. Whatever is wrong is
    said at once, in the form's words, before anything is paid: what the API would refuse, what would be paid
    for and never be heard, a destination that cannot be written to, and names that are no param of the DAG.

    :param kwargs: Arguments for any operator.
    :return: For XCom: the body's fields by the API's names; empty ones are left out.
    :raises AirflowFailException: at run time, with every problem.
    """
    return ReadSongFormOperator(task_id=task_id, **kwargs).output


class ReadSongFormOperator(BaseOperator):
    """Make a request body of the dag run's params; :func:`read_song_form` adds it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: What the DAG declares. A run's params hold whatever its conf does, misspelt names as well.
        self.declared = frozenset(self.params)

    def execute(self, context: Context) -> dict[str, object]:
        """Return the body."""
        form = context["params"]
        body, wrong = _read(form)
        wrong += [f"{name}: is no field of this form" for name in sorted(form.keys() - self.declared)]
        wrong += [*_contradictions(form), *_unusable(form.get("destination"))]
        if wrong:
            raise AirflowFailException("\n  ".join(["Not yet a song, and nothing was bought:", *wrong]))
        return body


def _read(form: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return the body that a form means, and what the API would refuse."""
    mode = _mode_of(form)
    text = "lyrics" if mode == LYRICS else "description"
    fields, problems = typed_fields(
        {
            "custom_mode": mode != DESCRIBE,
            "auto_lyrics": True if mode == BRIEF else None,
            "gpt_description_prompt" if mode == DESCRIBE else "prompt": form.get(text),
            **{name: form.get(name) for name in _SENT_AS_THEY_ARE},
        }
    )
    body = complete_body(fields)
    labels = {name: field["title"] for name, field in _FIELDS.items()}
    if "mode" not in form:
        labels["description"] = "Description"
    labels |= dict.fromkeys(["gpt_description_prompt", "prompt"], labels[text])
    return body, [_in_words_of_form(problem, labels) for problem in [*problems, *check_body(body)]]


def _mode_of(form: Mapping[str, object]) -> str:
    return str(form.get("mode") or (DESCRIBE if "description" in form else LYRICS))


def _in_words_of_form(problem: Problem, labels: Mapping[str, str]) -> str:
    rule = problem.rule
    for word, name in _WORDS.items():
        rule = rule.replace(word, name)
    has = f" (it has {length(str(problem.value))})" if "characters" in rule else ""
    return f"{labels.get(problem.field, problem.field)}: {rule}{has}"


def _contradictions(form: Mapping[str, object]) -> Iterator[str]:
    """Say what would be paid for and never be heard: the API has nothing against it."""
    mode, instrumental = _mode_of(form), form.get("make_instrumental")
    has_lyrics = bool(str(form.get("lyrics") or "").strip())
    if has_lyrics and mode != LYRICS:
        yield f'Lyrics: are only sung in the mode "{MODES[LYRICS]}"; choose it, or empty the field'
    if has_lyrics and instrumental:
        yield "Lyrics: are not sung when Instrumental is on; switch it off, or empty the field"
    if instrumental and mode == BRIEF:
        yield f'Instrumental: has no lyrics to write; switch it off, or choose "{MODES[DESCRIBE]}"'


def _unusable(destination: str | None) -> list[str]:
    if destination is None:
        return []
    try:  # not mkdir(): it would make a bucket of a slip
        probe = ObjectStoragePath(destination) / f".probe-{uuid4().hex[:12]}"
        put_whole(probe, [])
        remove(probe)
    except Exception as error:  # noqa: BLE001 - each storage has its own; a song needs a place before it is paid
        return [f"Destination: cannot be written to: {error}"]
    return []
