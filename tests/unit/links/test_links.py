"""The extra links: a button for each fact, no button without one, and no other scheme than http(s)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.types import TaskInstanceKey

from musicapi_provider.links import pages
from musicapi_provider.links.extra_links import (
    MusicAPICoverLink,
    MusicAPIListenLink,
    MusicAPIManifestLink,
    MusicAPIMusicTaskLink,
    MusicAPITracksLink,
    first_url,
    on_api_server,
)
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import BaseOperatorLink

    from include.musicapi_simulator import SimulatorServer

URL = "https://cdn.example/a.mp3"
CREATE, WAIT = MusicAPICreateOperator, MusicAPITaskSensor
STORE, TABLE = MusicAPIStoreTracksOperator, MusicAPIPromptTableOperator


@pytest.fixture
def place() -> Any:
    """Return what tells Airflow which task instance it is."""
    place = MagicMock(spec=TaskInstanceKey)
    place.dag_id, place.run_id, place.task_id, place.map_index = "songs/x", "manual__1+2", "wait", 3
    return place


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
def test_first_url(tracks: Any, expected: str) -> None:
    """The first web address, or nothing; other schemes never become a link."""
    assert expected == first_url(tracks, "audio_url")


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(CREATE(task_id="a", prompt="p"), id="create"),
        pytest.param(WAIT(task_id="b", music_task_id="m"), id="sensor"),
        pytest.param(STORE(task_id="c", tracks=[], destination="file:///music"), id="store"),
        pytest.param(TABLE(task_id="d", prompt_table="t.csv", destination="file:///music"), id="table"),
    ],
)
def test_no_fact_no_link(operator: Any, place: Any) -> None:
    """Airflow asks at every phase and of every task; before there is something to show there is no button."""
    links: list[BaseOperatorLink] = list(operator.operator_extra_links)

    assert links
    assert {""} == {link.get_link(operator, ti_key=place) for link in links}


def test_other_operators_have_nothing_to_show(place: Any) -> None:
    """A link on an operator that declares no facts is no button, and no error."""
    other: Any = BaseOperator(task_id="other")
    other.music_task_ids = ["a"]

    assert MusicAPIMusicTaskLink().get_link(other, ti_key=place) == ""
    assert MusicAPIListenLink().get_link(other, ti_key=place) == ""


@pytest.mark.usefixtures("connection")
def test_a_finished_sensor_has_its_links(
    simulator: SimulatorServer, context: dict[str, Any], place: Any
) -> None:
    """They open what the task returned, and the API's own word."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id=job.task_id, deferrable=True)
    tracks = sensor.execute(context)

    assert MusicAPIListenLink().get_link(sensor, ti_key=place) == tracks[0]["audio_url"]
    assert MusicAPICoverLink().get_link(sensor, ti_key=place) == tracks[0]["image_url"]
    assert MusicAPIMusicTaskLink().get_link(sensor, ti_key=place).endswith(f"music_task_id={job.task_id}")


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("waits", [True, False], ids=["create that waits", "sensor"])
def test_the_music_task_has_its_link_while_it_runs(
    waits: bool, simulator: SimulatorServer, context: dict[str, Any], place: Any
) -> None:
    """A task that defers shows where its music task is, not only one that has ended."""
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    operator: Any = (
        CREATE(task_id="make", prompt="La la", wait_for_completion=True, deferrable=True)
        if waits
        else WAIT(task_id="wait", music_task_id=job.task_id, deferrable=True)
    )
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    link = MusicAPIMusicTaskLink().get_link(operator, ti_key=place)

    assert f"music_task_id={operator.music_task_ids[0]}" in link
    assert "/musicapi/dags/songs%2Fx/runs/manual__1%2B2/tasks/wait/music_tasks?map_index=3&" in link
    assert MusicAPIListenLink().get_link(operator, ti_key=place) == ""


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("waits", [True, False], ids=["create that waits", "sensor"])
def test_a_worker_that_waits_shows_the_link_before_it_waits(
    waits: bool, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Airflow would ask for links only when the worker is done waiting."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    operator: Any = (
        CREATE(task_id="make", prompt="La la", wait_for_completion=True)
        if waits
        else WAIT(task_id="wait", music_task_id=job.task_id)
    )
    operator.execute(context)
    pushed = {call.kwargs["key"]: call.kwargs["value"] for call in context["ti"].xcom_push.call_args_list}

    assert "/runs/manual__1/tasks/task/music_tasks?map_index=-1&" in pushed[MusicAPIMusicTaskLink().xcom_key]


@pytest.mark.usefixtures("connection")
def test_a_task_whose_link_cannot_be_shown_goes_on(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """A button is not what a paid song fails by."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    context["ti"].xcom_push.side_effect = ConnectionError("no API server")

    assert len(WAIT(task_id="wait", music_task_id=job.task_id).execute(context)) == 2


@pytest.mark.usefixtures("connection")
def test_stored_tracks_are_heard_from_the_api_server(
    simulator: SimulatorServer, context: dict[str, Any], place: Any, tmp_path: Path
) -> None:
    """The vendor's URLs may expire; what is stored is served behind Airflow's login."""
    simulator.state.job_rule = "at-once"
    job = simulator.state.book({"prompt": "La la"})
    assert job is not None
    tracks = WAIT(task_id="wait", music_task_id=job.task_id, deferrable=True).execute(context)
    folder = f"file://{tmp_path}/music"
    store = STORE(task_id="store", tracks=tracks, destination=folder, store_cover=True)
    first = store.execute(context)[0]

    assert MusicAPIListenLink().get_link(store, ti_key=place) == on_api_server(
        pages.media_path(folder, first["clip_id"], "audio")
    )
    assert MusicAPICoverLink().get_link(store, ti_key=place).endswith(f"{first['clip_id']}/cover")
    assert MusicAPITracksLink().get_link(store, ti_key=place) == on_api_server(
        "/plugin/musicapi-tracks?dag_id=songs%2Fx&run_id=manual__1%2B2"
    )


def test_the_manifest_has_its_link_once_it_is_written(place: Any) -> None:
    """It leads to the API server, which serves it where the storage is."""
    table: Any = TABLE(task_id="table", prompt_table="t.csv", destination="file:///music")
    table.manifest_uri = "file:///music/manifests/x.jsonl"

    assert (
        MusicAPIManifestLink()
        .get_link(table, ti_key=place)
        .endswith("/musicapi/dags/songs%2Fx/runs/manual__1%2B2/tasks/wait/manifest?map_index=3")
    )


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        pytest.param("https://airflow.example/prod/", "https://airflow.example/prod/x", id="below a path"),
        pytest.param("", "/x", id="not configured"),
        pytest.param("javascript:alert(1)//", "/x", id="script"),
    ],
)
def test_links_are_below_airflows_base_url(
    base_url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a web address is used; without one the browser knows where it is."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)

    assert expected == on_api_server("/x")
