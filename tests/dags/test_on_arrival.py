"""Ordered here, stored there: the asset's events become tracks in a folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from musicapi_provider.waiting.wait import wait_for_tracks
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.client import MusicAPIClient

pytestmark = pytest.mark.dags

Deliver = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def arrive(dag_bag: DagBag, client: MusicAPIClient) -> Callable[[str], int]:
    """Return a function that makes a song and tells the asset of it, as the receiver does; the event's id."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    from musicapi_provider.webhooks import airflow_tables as tables

    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(dag_bag, "dags", None)

    def tell(prompt: str) -> int:
        body = {"task_type": "create_music", "custom_mode": False, "mv": "sonic-v5"}
        music_task_id = client.create({**body, "gpt_description_prompt": prompt})
        tracks = wait_for_tracks(client, [music_task_id], timeout=30, poll_interval=0.01)
        extra = {"music_task_id": music_task_id, "tracks": [track.as_dict() for track in tracks]}
        with create_session() as session:
            assert tables.is_followed(session, COMPLETED_TRACKS)
            tables.update_asset(session, COMPLETED_TRACKS, extra)
        with create_session() as session:
            return int(session.scalar(sqlalchemy.select(sqlalchemy.func.max(AssetEvent.id))))

    return tell


def test_what_has_arrived_is_stored(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    deliver: Deliver,
    arrive: Callable[[str], int],
    tmp_path: Path,
) -> None:
    """Two songs in one run; the same run again stores nothing twice."""
    events = [arrive("a waltz"), arrive("a polka")]
    with deliver("musicapi_on_arrival", *events):
        runs = [run_dag("musicapi_on_arrival", destination=f"file://{tmp_path}") for _ in range(2)]

    assert [run.state for run in runs] == ["success", "success"]
    assert len(xcom(runs[0], "store")) == 4
    assert len(list(tmp_path.glob("*.mp3"))) == 4


def test_by_hand_there_is_nothing_to_store(run_dag: Callable[..., DagRun]) -> None:
    """It says so, and skips."""
    run = run_dag("musicapi_on_arrival")

    assert {ti.task_id: str(ti.state) for ti in run.get_task_instances()} == {
        "find_tracks": "skipped",
        "store": "skipped",
    }


def test_order_without_webhooks_is_refused_unpaid(
    run_dag: Callable[..., DagRun], simulator: SimulatorServer
) -> None:
    """The connection of these tests has none."""
    assert run_dag("musicapi_order").state == "failed"
    assert simulator.state.jobs == {}


def test_order_buys_and_says_where_to_call(
    run_dag: Callable[..., DagRun], simulator: SimulatorServer, connect: Callable[..., None]
) -> None:
    """One song, and no waiting."""
    webhooks = {"webhook_base_url": "https://127.0.0.1:1", "webhook_secret": "0123456789abcdef"}
    connect(simulator.base_url, simulator.api_key, **webhooks)
    assert run_dag("musicapi_order", description="a reel").state == "success"

    (job,) = simulator.state.jobs.values()
    assert job.body["webhook_url"].startswith("https://127.0.0.1:1/musicapi-webhooks/musicapi_default/")
    assert job.reads == 0
