"""The checks of a create body: each refusal names its field and costs nothing."""

from __future__ import annotations

import pytest

BRIEF = {"custom_mode": False, "prompt": None}
CLIP = {"continue_clip_id": "some-clip"}


def _bad(field, **changes):
    return pytest.param(field, changes, id=f"{field}-{'-'.join(str(v)[:12] for v in changes.values())}")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        _bad("task_type", task_type="sing"),
        _bad("task_type", task_type=["create_music"]),
        _bad("mv", mv=None),
        _bad("mv", mv="sonic-v4-5-all"),
        _bad("mv", mv=["sonic-v5"]),
        _bad("custom_mode", custom_mode=None),
        _bad("custom_mode", custom_mode="true"),
        _bad("make_instrumental", make_instrumental="yes"),
        _bad("auto_lyrics", auto_lyrics=1),
        _bad("use_suno_cdn", use_suno_cdn="true"),
        _bad("prompt", prompt=None),
        _bad("prompt", prompt="   "),
        _bad("prompt", prompt=None, auto_lyrics=True),
        _bad("prompt", prompt="x" * 5001),
        _bad("prompt", prompt="x" * 3001, mv="sonic-v4"),
        _bad("prompt", prompt="\N{MUSICAL SYMBOL G CLEF}" * 2501),
        _bad("gpt_description_prompt", **BRIEF),
        _bad("gpt_description_prompt", **BRIEF, gpt_description_prompt="x" * 401),
        _bad("auto_lyrics", **BRIEF, gpt_description_prompt="x", auto_lyrics=True),
        _bad("title", title="x" * 81),
        _bad("title", title=5),
        _bad("tags", tags=["folk"]),
        _bad("tags", tags="x" * 1001),
        _bad("tags", tags="x" * 201, mv="sonic-v3-5"),
        _bad("negative_tags", negative_tags=["drums"]),
        _bad("style_weight", style_weight=1.01),
        _bad("style_weight", style_weight=True),
        _bad("weirdness_constraint", weirdness_constraint=-0.01),
        _bad("audio_weight", audio_weight="0.5"),
        _bad("vocal_gender", vocal_gender="x"),
        _bad("vocal_gender", vocal_gender="f", mv="sonic-v4"),
        _bad("continue_clip_id", task_type="cover_music"),
        _bad("continue_clip_id", task_type="concat_music", mv=None),
        _bad("persona_id", task_type="persona_music"),
        _bad("continue_at", task_type="extend_music", **CLIP),
        _bad("continue_at", task_type="extend_music", **CLIP, continue_at=-1),
        _bad("continue_at", task_type="extend_upload_music", **CLIP, continue_at="10"),
        _bad("prompt", task_type="add_vocals", **CLIP, prompt=None),
        _bad(
            "overpainting_end_s", task_type="add_vocals", **CLIP, overpainting_start_s=9, overpainting_end_s=3
        ),
        _bad("variation_category", task_type="remaster", **CLIP, variation_category="wild"),
        _bad("webhook_url", webhook_url="http://example.org"),
        _bad("webhook_url", webhook_url="https://example.org/" + "x" * 1024),
    ],
)
def test_bad_field_is_named_and_costs_nothing(caller, state, field, changes):
    """A refused create is 400, its text names the field, and nothing is booked or debited."""
    answer = caller.create(**changes)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(field)
    assert (state.credits, state.jobs, state.creates_refused) == (1000, {}, {400: 1})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"task_type": None}, id="task-type-omitted"),
        pytest.param({"prompt": None, "lyrics": "la la"}, id="lyrics-instead-of-prompt"),
        pytest.param({"prompt": None, "make_instrumental": True}, id="instrumental-without-prompt"),
        pytest.param({"prompt": "a brief", "auto_lyrics": True, "title": None}, id="auto-lyrics"),
        pytest.param({**BRIEF, "gpt_description_prompt": "x" * 400}, id="longest-description"),
        pytest.param({"prompt": "x" * 5000, "tags": "x" * 1000, "title": "x" * 80}, id="longest-everything"),
        pytest.param({"style_weight": 0, "weirdness_constraint": 1, "vocal_gender": "m"}, id="weights"),
        pytest.param({"task_type": "concat_music", "mv": None, "custom_mode": None, **CLIP}, id="concat"),
        pytest.param({"task_type": "extend_music", "continue_at": 0.1, **CLIP}, id="extend"),
        pytest.param({"task_type": "add_instrumental", "custom_mode": None, **CLIP}, id="add-instrumental"),
        pytest.param({"task_type": "persona_music", "persona_id": "p"}, id="persona"),
        pytest.param({"mood": "blue", "seed": 7}, id="unknown-fields"),
        pytest.param({"webhook_url": "https://127.0.0.1:1/hook"}, id="webhook"),
    ],
)
def test_sound_body_is_accepted(caller, changes):
    """What the sheet allows is accepted, up to the exact maximum, unknown fields included."""
    assert caller.create(**changes).status_code == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_body_that_is_no_object_is_400(caller, raw):
    """Broken JSON and JSON that is no object are refused."""
    assert caller.call("POST", "/sonic/create", data=raw).status_code == 400


def test_misspelt_scenario_is_refused(caller, state):
    """A scenario that does not exist must not pass as a success."""
    answer = caller.create(prompt="simulate:partail")

    assert answer.status_code == 400
    assert "partail" in answer.json()["error"]
    assert state.jobs == {}
