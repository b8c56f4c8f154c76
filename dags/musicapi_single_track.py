"""
# One song from the trigger form

Press **Trigger**, describe a song or paste your lyrics, and it is made: **read_form** turns the form into a
request body, **create** buys it and waits in the triggerer, **store** downloads the tracks.

**Fill in** as little as you like: the form makes a song as it stands. What is not marked as required may stay
empty; the sections *Sound*, *Fine tuning* and *Storage* are for those who want more.

**Look at** *Listen* on *create* and *store*, and at the *MusicAPI Tracks* page. The XCom of *create* has the
tracks with their URLs.

**Expect** two takes after about ten seconds with the simulator. With the real API: one to three minutes and
15 credits. What the API would refuse is refused before anything is paid: what a single field cannot be by the
form itself, all else by *read_form*, whose log names everything at once.

**Safe to repeat**: clearing *create* with the same form collects what was bought.

Next: [musicapi_choose_take](/dags/musicapi_choose_take).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, dag, task
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
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator

DESCRIBE, LYRICS, BRIEF = "describe", "lyrics", "brief"
MODES = {
    DESCRIBE: "Describe the song in a sentence",
    LYRICS: "Sing my lyrics",
    BRIEF: "Write lyrics from my brief",
}
#: Names for people, such as "Sonic 4.5 Plus", newest first.
MODEL_NAMES = {
    mv: mv.replace("sonic-v", "Sonic ").replace("-plus", " Plus").replace("-", ".") for mv in reversed(MODELS)
}
#: Words in the API's rules, and what the form calls them; longer ones first.
WORDS = {
    "custom_mode is false": f'Mode is "{MODES[DESCRIBE]}"',
    "custom mode": f'the mode "{MODES[LYRICS]}"',
    "with auto_lyrics": f'in the mode "{MODES[BRIEF]}"',
    "make_instrumental": "Instrumental",
    **{mv: MODEL_NAMES[mv] for mv in sorted(MODELS, key=len, reverse=True)},
}
#: Fields of the form that bear the API's names.
SENT_AS_THEY_ARE = (
    *("title", "tags", "negative_tags", "vocal_gender"),
    *("make_instrumental", "mv", "style_weight", "weirdness_constraint"),
)
LONGEST_TAGS = max(tags for _, tags in MODELS.values())
OPTIONAL_TEXT = {"type": ["null", "string"]}
OPTIONAL_SHARE = {"type": ["null", "number"], "minimum": 0, "maximum": 1, "section": "Fine tuning"}

# No maxLength for texts of several lines: the form does not stop at it, and Airflow's message would be the
# whole text. read_form says it better.
FORM = {
    "mode": Param(
        DESCRIBE,
        type="string",
        title="Mode",
        description="Each song costs 15 credits and comes in two takes.",
        enum=list(MODES),
        values_display=MODES,
    ),
    "description": Param(
        "A warm acoustic song about the first coffee of the day",
        type="string",
        format="multiline",
        minLength=1,
        title="Description or brief",
        description=f"What it is about and how it sounds. A description may have {MAX_DESCRIPTION} "
        "characters, a brief as many as lyrics. Not used when your own lyrics are sung.",
    ),
    "lyrics": Param(
        None,
        **OPTIONAL_TEXT,
        format="multiline",
        title="Lyrics",
        description=f'For the mode "{MODES[LYRICS]}", else leave it empty. Lines such as [Verse] and '
        "[Chorus] shape the song. Up to 5,000 characters, with Sonic 4 and 3.5 up to 3,000.",
    ),
    "title": Param(
        None,
        **OPTIONAL_TEXT,
        maxLength=MAX_TITLE,
        title="Title",
        description=f"Optional, {MAX_TITLE} characters. A title is found for you if there is none.",
    ),
    "tags": Param(
        None,
        **OPTIONAL_TEXT,
        maxLength=LONGEST_TAGS,
        title="Styles",
        description="Optional, comma separated: genres, moods, instruments, tempo.",
        examples=[
            "acoustic folk, warm, fingerpicked guitar",
            "synthwave, dreamy, 100 bpm",
            "jazz trio, brushed drums, late night",
            "orchestral, cinematic, rising",
            "punk rock, fast, shouted choir",
        ],
        section="Sound",
    ),
    "negative_tags": Param(
        None,
        **OPTIONAL_TEXT,
        maxLength=LONGEST_TAGS,
        title="Styles to avoid",
        description="Optional, comma separated, such as: autotune, heavy metal.",
        section="Sound",
    ),
    "vocal_gender": Param(
        None,
        **OPTIONAL_TEXT,
        enum=[None, "f", "m"],
        values_display={"null": "Any", "f": "Female", "m": "Male"},
        title="Voice",
        description="Optional, for Sonic 4.5 and later.",
        section="Sound",
    ),
    "make_instrumental": Param(
        False,
        type="boolean",
        title="Instrumental",
        description="No singing: leave the lyrics empty.",
        section="Sound",
    ),
    "mv": Param(
        DEFAULT_MV,
        type="string",
        enum=list(MODEL_NAMES),
        values_display={
            mv: f"{name} (lyrics up to {MODELS[mv][0]:,} characters, styles up to {MODELS[mv][1]:,}"
            f"{', no choice of voice' if mv in MODELS_WITHOUT_GENDER else ''})"
            for mv, name in MODEL_NAMES.items()
        },
        title="Model",
        description="The newest is not always the one that you like best. All cost the same.",
        section="Fine tuning",
    ),
    "style_weight": Param(
        None,
        **OPTIONAL_SHARE,
        title="Style influence",
        description="Optional, from 0 (a hint) to 1 (as told). Empty: the model decides.",
    ),
    "weirdness_constraint": Param(
        None,
        **OPTIONAL_SHARE,
        title="Weirdness",
        description="Optional, from 0 (as usual) to 1 (unheard of). Empty: the model decides.",
    ),
    "destination": Param(
        f"file://{Path(__file__).parents[1]}/music",
        type="string",
        minLength=1,
        title="Destination",
        description="Folder for the tracks, local or in object storage (s3://conn_id@bucket/...).",
        section="Storage",
    ),
}


@dag(
    schedule=None,
    default_args={"retry_delay": timedelta(seconds=10)},
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params=FORM,
)
def musicapi_single_track() -> None:
    @task(multiple_outputs=False)
    def read_form(params: dict | None = None) -> dict:
        """Make a request body of the form; empty fields are not sent. What is wrong is said before paying."""
        text = "lyrics" if params["mode"] == LYRICS else "description"
        fields, problems = typed_fields(
            {
                "custom_mode": params["mode"] != DESCRIBE,
                "auto_lyrics": True if params["mode"] == BRIEF else None,
                "gpt_description_prompt" if params["mode"] == DESCRIBE else "prompt": params[text],
                **{name: params[name] for name in SENT_AS_THEY_ARE},
            }
        )
        body = complete_body(fields)
        labels = {name: param.schema["title"] for name, param in FORM.items()}
        labels |= dict.fromkeys(["gpt_description_prompt", "prompt"], labels[text])
        wrong = [_tell(problem, labels) for problem in [*problems, *check_body(body)]]
        wrong += [f"{name}: is no field of this form" for name in sorted(params.keys() - FORM.keys())]
        wrong += [*_contradictions(params), *_unusable(params["destination"])]
        if wrong:
            raise AirflowFailException("\n  ".join(["Not yet a song, and nothing was bought:", *wrong]))
        return body

    create = MusicAPICreateOperator(
        task_id="create",
        body=read_form(),
        wait_for_completion=True,
        deferrable=True,
        retries=2,  # safe: a retry collects what was bought and never pays twice
    )
    MusicAPIStoreTracksOperator(
        task_id="store",
        tracks=create.output,
        submission=create.output["submission"],
        destination="{{ params.destination }}",
        store_cover=True,
        retries=2,  # downloading is free
    )


def _tell(problem: Problem, labels: Mapping[str, str]) -> str:
    """Say what the API would say, in the form's words."""
    rule = problem.rule
    for word, name in WORDS.items():
        rule = rule.replace(word, name)
    has = f" (it has {length(problem.value)})" if "characters" in rule else ""
    return f"{labels.get(problem.field, problem.field)}: {rule}{has}"


def _contradictions(form: Mapping[str, Any]) -> Iterator[str]:
    """Say what would be paid for and never be heard: the API has nothing against it."""
    has_lyrics, instrumental = bool((form["lyrics"] or "").strip()), form["make_instrumental"]
    if has_lyrics and form["mode"] != LYRICS:
        yield f'Lyrics: are only sung in the mode "{MODES[LYRICS]}"; choose it, or empty the field'
    if has_lyrics and instrumental:
        yield "Lyrics: are not sung when Instrumental is on; switch it off, or empty the field"
    if instrumental and form["mode"] == BRIEF:
        yield f'Instrumental: has no lyrics to write; switch it off, or choose "{MODES[DESCRIBE]}"'


def _unusable(destination: str) -> list[str]:
    try:
        ObjectStoragePath(destination).mkdir(parents=True, exist_ok=True)
    except Exception as error:  # noqa: BLE001 - each storage has its own; a song needs a place before it is paid
        return [f"Destination: cannot be written to: {error}"]
    return []


musicapi_single_track()
