"""
# Store what has arrived

The other end of [musicapi_order](/dags/musicapi_order): whenever the API has called about a song that is
done, Airflow updates the asset `musicapi_completed_tracks`, and this DAG stores its tracks.

**Look at** the events of the asset (Assets > musicapi_completed_tracks): the music task, its tracks, and the
task that bought it.

**Several songs**, before this DAG gets to run, become one run with several events: each counts.

**Expect** the tracks in `music/`, and on the *MusicAPI Tracks* page. It costs nothing.

**Safe to repeat**: what is stored is not stored again.

Previous: [musicapi_order](/dags/musicapi_order).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.webhooks.assets import COMPLETED_TRACKS

PROJECT = Path(__file__).parents[1]


@dag(
    schedule=[COMPLETED_TRACKS],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,  # two runs would write the same index
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "destination": Param(
            f"file://{PROJECT}/music",
            type="string",
            title="Destination",
            description="Folder for tracks, as a URI, local or in object storage (s3://conn_id@bucket/...).",
        ),
    },
)
def musicapi_on_arrival() -> None:
    @task
    def find_tracks() -> list[dict[str, Any]]:
        """Return the tracks of all songs that have arrived since the last run."""
        events = get_current_context()["triggering_asset_events"].get(COMPLETED_TRACKS, ())
        tracks = [track for event in events for track in event.extra["tracks"]]
        if not tracks:
            raise AirflowSkipException("Nothing has arrived: trigger musicapi_order first.")
        return tracks

    MusicAPIStoreTracksOperator(
        task_id="store",
        tracks=find_tracks(),
        destination="{{ params.destination }}",
    )


musicapi_on_arrival()
