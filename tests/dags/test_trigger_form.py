"""The trigger form of the single track: what it sends, and what it refuses before anything is paid."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

    from include.musicapi_simulator import SimulatorServer

pytestmark = pytest.mark.dags

DAG_ID = "musicapi_single_track"
FOLK = {"title": "La", "tags": "folk", "negative_tags": "metal", "vocal_gender": "f"}
WEIGHTS = {"style_weight": 0, "weirdness_constraint": 0.3}


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        pytest.param(
            {},
            {
                "custom_mode": False,
                "gpt_description_prompt": "A warm acoustic song about the first coffee of the day",
                "make_instrumental": False,
            },
            id="as it stands",
        ),
        pytest.param(
            {"lyrics": "[Verse]\nLa la", "mode": "lyrics", **FOLK, **WEIGHTS},
            {"custom_mode": True, "prompt": "[Verse]\nLa la", "make_instrumental": False, **FOLK, **WEIGHTS},
            id="lyrics",
        ),
        pytest.param(
            {"mode": "brief", "description": "a song about {{ ds }}", "mv": "sonic-v5-5", "lyrics": " "},
            {
                **{"custom_mode": True, "auto_lyrics": True, "prompt": "a song about {{ ds }}"},
                **{"make_instrumental": False, "mv": "sonic-v5-5"},
            },
            id="brief",
        ),
        pytest.param(
            {"mode": "lyrics", "make_instrumental": True, "tags": "harp"},
            {"custom_mode": True, "make_instrumental": True, "tags": "harp"},
            id="instrumental without lyrics",
        ),
    ],
)
def test_form_becomes_the_body_that_the_api_wants(
    run_dag: Callable[..., DagRun],
    simulator: SimulatorServer,
    tmp_path: Path,
    form: dict[str, Any],
    sent: dict[str, Any],
) -> None:
    """What is empty is not sent; zero is no emptiness. Two takes with covers, which know what they cost."""
    run = run_dag(DAG_ID, destination=f"file://{tmp_path}", **form)

    assert run.state == "success"
    (job,) = simulator.state.jobs.values()
    assert job.body == {"task_type": "create_music", "mv": "sonic-v5", **sent}
    assert len(list(tmp_path.glob("*.mp3"))) == len(list(tmp_path.glob("*.jpeg"))) == 2
    about = [json.loads(sidecar.read_text())["about"] for sidecar in tmp_path.glob("*.json")]
    assert [(one["credits"], one["body"]) for one in about] == [(15, job.body)] * 2


@pytest.mark.parametrize(
    ("form", "told"),
    [
        pytest.param(
            {"mode": "lyrics"},
            ['Lyrics: is required in the mode "Sing my lyrics": the lyrics (or set Instrumental)'],
            id="no lyrics",
        ),
        pytest.param(
            {"mode": "lyrics", "lyrics": " \n "},
            ['Lyrics: is required in the mode "Sing my lyrics": the lyrics (or set Instrumental)'],
            id="blank lyrics",
        ),
        pytest.param(
            {"mode": "describe", "description": " "},
            ['Description or brief: is required when Mode is "Describe the song in a sentence"'],
            id="blank description",
        ),
        pytest.param(
            {"mode": "brief", "description": "\t"},
            [
                'Description or brief: is required in the mode "Write lyrics from my brief": '
                "the brief to write lyrics from"
            ],
            id="blank brief",
        ),
        pytest.param(
            {"description": "x" * 400 + "🎵"},
            ["Description or brief: may have 400 characters at most (it has 402)"],
            id="long description",
        ),
        pytest.param(
            {"mode": "brief", "description": "x" * 5001},
            ["Description or brief: may have 5000 characters at most (it has 5001)"],
            id="long brief",
        ),
        pytest.param(
            {"mode": "lyrics", "lyrics": "x" * 5001},
            ["Lyrics: may have 5000 characters at most (it has 5001)"],
            id="long lyrics",
        ),
        pytest.param(
            {"lyrics": "La la"},
            ['Lyrics: are only sung in the mode "Sing my lyrics"; choose it, or empty the field'],
            id="lyrics in another mode",
        ),
        pytest.param(
            {"mode": "lyrics", "lyrics": "La la", "make_instrumental": True},
            ["Lyrics: are not sung when Instrumental is on; switch it off, or empty the field"],
            id="instrumental with lyrics",
        ),
        pytest.param(
            {"mode": "brief", "make_instrumental": True},
            [
                "Instrumental: has no lyrics to write; switch it off, or choose "
                '"Describe the song in a sentence"'
            ],
            id="instrumental with a brief",
        ),
        pytest.param({"style_wieght": 1}, ["style_wieght: is no field of this form"], id="unknown field"),
        pytest.param(
            {"destination": "nowhere://music"}, ["Destination: cannot be written to: .+"], id="no such place"
        ),
        pytest.param(
            {
                **{"mode": "lyrics", "mv": "sonic-v4", "lyrics": "x" * 3001, "vocal_gender": "f"},
                **{"tags": "x" * 201, "negative_tags": "y" * 300},
            },
            [
                "Voice: is unknown to Sonic 4; use Sonic 4.5 or later",
                "Lyrics: may have 3000 characters at most (it has 3001)",
                "Styles: may have 200 characters at most (it has 201)",
                "Styles to avoid: may have 200 characters at most (it has 300)",
            ],
            id="all at once",
        ),
    ],
)
def test_wrong_form_is_explained_in_its_own_words_and_costs_nothing(
    run_dag: Callable[..., DagRun],
    logs: Callable[[], str],
    simulator: SimulatorServer,
    tmp_path: Path,
    form: dict[str, Any],
    told: list[str],
) -> None:
    """Every problem is told at once, by the labels that the musician sees; nothing is sent or retried."""
    run = run_dag(DAG_ID, **{"destination": f"file://{tmp_path}", **form})

    assert run.state == "failed"
    assert simulator.state.requests["POST /sonic/create"] == 0
    message = re.search(r"Not yet a song, and nothing was bought:\n((?:  .+\n)+)", logs())
    assert message is not None
    lines = [line.strip() for line in message[1].splitlines()]
    assert len(lines) == len(told)
    for line, expected in zip(lines, told, strict=True):
        assert line == expected or re.fullmatch(expected, line)
    (form_task,) = (ti for ti in run.get_task_instances() if ti.task_id == "read_form")
    assert (form_task.state, form_task.try_number) == ("failed", 1)


def test_form_says_what_is_optional_and_names_every_model(dag_bag: DagBag) -> None:
    """Two things are required and have a default; models bear names, and the limits that go with them."""
    params = dag_bag.dags[DAG_ID].params
    schemas = {name: params.get_param(name).schema for name in params}

    optional = {name for name, schema in schemas.items() if "null" in schema["type"]}
    assert schemas.keys() - optional == {"mode", "description", "make_instrumental", "mv", "destination"}
    assert all(params[name] is None for name in optional)
    assert all(params[name] is not None for name in schemas.keys() - optional)
    shown = schemas["mv"]["values_display"]
    assert shown["sonic-v4-5-plus"] == "Sonic 4.5 Plus (lyrics up to 5,000 characters, styles up to 1,000)"
    assert shown["sonic-v3-5"].endswith("3,000 characters, styles up to 200, no choice of voice)")
    sections = {schema.get("section") for schema in schemas.values()}
    assert sections == {None, "Sound", "Fine tuning", "Storage"}
