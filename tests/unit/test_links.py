"""The extra link: a button that plays, or no button."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk.types import TaskInstanceKey

from musicapi_provider.links import MusicAPIListenLink, first_audio_url
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

URL = "https://cdn.example/a.mp3"


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        pytest.param([{"audio_url": URL}], URL, id="track"),
        pytest.param([{"audio_url": None}, {"audio_url": URL}], URL, id="first that has one"),
        pytest.param([{"audio_url": "http://127.0.0.1/a.mp3"}], "http://127.0.0.1/a.mp3", id="simulator"),
        pytest.param([{"audio_url": "javascript:alert(1)"}], "", id="script"),
        pytest.param([{"audio_url": "data:text/html,x"}, {"audio_url": "file:///x"}], "", id="other schemes"),
        pytest.param([{"audio_url": "https://[broken"}, {"audio_url": URL}], URL, id="unreadable URL"),
        pytest.param([{}], "", id="no URL"),
        pytest.param([], "", id="no track"),
        pytest.param(None, "", id="nothing"),
        pytest.param("some-id", "", id="an id"),
        pytest.param(["some-id", 5, None], "", id="no tracks"),
    ],
)
def test_first_audio_url(tracks: Any, expected: str) -> None:
    """The first web address, or nothing; other schemes never become a link."""
    assert expected == first_audio_url(tracks)


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(lambda: MusicAPICreateOperator(task_id="a", prompt="p"), id="create"),
        pytest.param(lambda: MusicAPITaskSensor(task_id="b", music_task_id="m"), id="sensor"),
    ],
)
def test_link_while_there_is_no_track(operator: Any) -> None:
    """Airflow asks at every phase, also when deferring: then there is no link."""
    link = MusicAPIListenLink()
    url = link.get_link(operator(), ti_key=MagicMock(spec=TaskInstanceKey))

    assert url == ""
    assert [link] == list(operator().operator_extra_links)
    assert link.name == "Listen"


@pytest.mark.usefixtures("connection")
def test_link_of_a_finished_sensor(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """It plays what the task returned."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id=job.task_id, deferrable=True)
    tracks = sensor.execute(context)
    url = MusicAPIListenLink().get_link(sensor, ti_key=MagicMock(spec=TaskInstanceKey))

    assert tracks[0]["audio_url"] == url
