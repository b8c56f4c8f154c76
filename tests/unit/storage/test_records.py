"""What is known of a stored track, as JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from musicapi_provider.storage import About, Sidecar, StoredTrack

RECORD = {
    **{"clip_id": "c1", "music_task_id": "t1", "title": "Rain", "audio_url": "https://a.example/c1.mp3"},
    **{
        "uri": "s3://b/music/c1.mp3",
        "bytes": 5,
        "sha256": "ab",
        "duration": 61.5,
        "content_type": "audio/mpeg",
    },
}


@pytest.mark.parametrize("more", [{}, {"prompt_id": "a", "cover_uri": "s3://b/music/c1.jpeg"}])
def test_a_record_comes_back_as_it_was(more: dict[str, str]) -> None:
    """Tasks hand it on as JSON, with exactly the keys that are promised."""
    track = StoredTrack.from_json({**RECORD, **more})

    assert track.as_json() == {**RECORD, **more}
    assert track.file_name == "c1.mp3"


@pytest.mark.parametrize("value", [None, 7, [], {}, {"clip_id": "c1"}, {"clip_id": 5, "uri": "x"}], ids=repr)
def test_what_names_no_file_is_no_record(value: Any) -> None:
    """Everything else may be missing."""
    with pytest.raises(ValueError, match="no record of a stored track"):
        StoredTrack.from_json(value)


def test_a_sidecar_keeps_what_it_does_not_know() -> None:
    """Facts of another version, or of somebody's own store, outlive a rewriting."""
    about = {"dag_id": "songs", "credits": "fifteen", "body": ["odd"], "mood": {"of": "the day"}}
    value = {**RECORD, "stored_at": "2026", "track": {"lyrics": "La"}, "about": about}
    sidecar = Sidecar.from_bytes(json.dumps(value).encode())

    assert (sidecar.about.dag_id, sidecar.about.credits, sidecar.about.body) == ("songs", None, None)
    assert json.loads(sidecar.as_bytes()) == value


@pytest.mark.parametrize("value", [None, "text", [1]], ids=repr)
def test_what_is_no_object_says_nothing(value: Any) -> None:
    """A sidecar is read all the same."""
    assert About.from_json(value) == About()
