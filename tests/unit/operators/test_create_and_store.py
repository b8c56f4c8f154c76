"""One task from prompt to file: the create operator with a destination."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from musicapi_provider.exceptions import MusicAPINotSentError, MusicAPIStorageError
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from tests.unit.operators.test_musicapi import create_for, run

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.operators.musicapi import MusicAPICreateOperator

pytestmark = pytest.mark.usefixtures("connection", "quick")
CREATE = "POST /sonic/create"


def make(folder: Path, **arguments: Any) -> MusicAPICreateOperator:
    """Return an operator that buys the usual song and stores it in a local folder."""
    given = {"wait_for_completion": True, "deferrable": False, "destination": f"file://{folder}"}
    return create_for(**given | arguments)


def path_of(uri: str) -> Path:
    """Return a local file."""
    return Path(uri.removeprefix("file://").removeprefix("file:"))


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_tracks_are_stored_and_their_records_returned(
    simulator: SimulatorServer, context: dict[str, Any], tmp_path: Path, deferrable: bool
) -> None:
    """As the store operator returns them, with body and price in the sidecars; bought once."""
    records = run(lambda: make(tmp_path, deferrable=deferrable, prompt_id="a", store_cover=True), context)
    again = MusicAPIStoreTracksOperator(
        task_id="store", tracks=records, destination=f"file://{tmp_path}", prompt_id="a"
    ).execute(context)
    sidecars = [json.loads(path_of(record["uri"]).with_suffix(".json").read_text()) for record in records]

    assert [record["clip_id"] for record in records] == [record["clip_id"] for record in again]
    assert all(path_of(record["uri"]).stat().st_size == record["bytes"] for record in records)
    assert all(path_of(record["cover_uri"]).exists() for record in records)
    assert {"a"} == {sidecar["prompt_id"] for sidecar in sidecars}
    assert simulator.state.requests[CREATE] == 1


def test_the_order_is_in_the_sidecar(
    simulator: SimulatorServer, context: dict[str, Any], tmp_path: Path
) -> None:
    """What was asked for, and what it cost."""
    simulator.state.job_rule = "at-once"
    (record, _) = make(tmp_path).execute(context)
    about = json.loads(path_of(record["uri"]).with_suffix(".json").read_text())["about"]

    assert about["credits"] == 15
    assert about["body"] == next(iter(simulator.state.jobs.values())).body


def test_a_deferred_one_ends_on_a_worker(
    simulator: SimulatorServer, context: dict[str, Any], tmp_path: Path, connect: Callable[..., None]
) -> None:
    """Triggerers store nothing, so a notice must not end the task either."""
    place = {"webhook_base_url": "https://airflow.example", "webhook_secret": "s" * 20}
    connect(simulator.base_url, simulator.api_key, **place)
    context["ti"].id = uuid4()
    with pytest.raises(TaskDeferred) as deferred:
        make(tmp_path, deferrable=True, webhook=True).execute(context)

    with pytest.raises(TaskDeferred) as plain:
        make(tmp_path, deferrable=True, webhook=True, destination=None, title="another").execute(context)

    assert (deferred.value.trigger.ends_here, plain.value.trigger.ends_here) == (False, True)


def test_a_retry_stores_what_is_missing_and_buys_nothing(
    simulator: SimulatorServer, context: dict[str, Any], tmp_path: Path
) -> None:
    """A media host that is away costs a retry, not a song."""
    simulator.state.job_rule = "at-once"
    simulator.state.scenario("media-404", times="always")
    with pytest.raises(MusicAPIStorageError):
        make(tmp_path).execute(context)
    simulator.state.armed.clear()
    records = make(tmp_path).execute(context)
    shutil.rmtree(tmp_path)
    after_a_clear = make(tmp_path).execute(context)

    assert 2 == len(records) == len(list(tmp_path.glob("*.mp3")))
    assert [one["clip_id"] for one in records] == [one["clip_id"] for one in after_a_clear]
    assert simulator.state.requests[CREATE] == 1


@pytest.mark.parametrize("destination", ["", "None", " "], ids=repr)
def test_no_place_no_purchase(simulator: SimulatorServer, context: dict[str, Any], destination: str) -> None:
    """The text of an empty param is found out before anything is paid."""
    with pytest.raises(AirflowFailException, match="destination"):
        make(Path(), destination=destination).execute(context)

    assert simulator.state.requests[CREATE] == 0


def test_a_place_that_cannot_be_written_to_costs_nothing(
    simulator: SimulatorServer, context: dict[str, Any], tmp_path: Path
) -> None:
    """A file stands where the folder should be; a later try may find it mended."""
    (tmp_path / "file").touch()
    with pytest.raises(MusicAPINotSentError, match="destination"):
        make(tmp_path / "file").execute(context)

    assert simulator.state.requests[CREATE] == 0


def test_a_destination_needs_the_tracks(tmp_path: Path) -> None:
    """Said when the DAG is parsed."""
    with pytest.raises(ValueError, match="wait_for_completion"):
        make(tmp_path, wait_for_completion=False)
