"""
# Order a song, and do not wait

Buys a song and ends at once. When the song is done, the API calls Airflow (a *webhook*), and Airflow updates
the asset `musicapi_completed_tracks`: [musicapi_on_arrival](/dags/musicapi_on_arrival) runs on it and stores
the tracks. Nobody polls, no task waits.

**Needs** a connection with webhooks: the API must reach your API server (docs/webhooks.md). Without that,
*create* says so before anything is paid. After `make up` the simulator calls.

**Unpause** musicapi_on_arrival first; then trigger this one, as often as you like.

**Expect** tracks in `music/` a second or two after a song is done, and 15 credits for each order.

**Safe to repeat**: a cleared *create* collects what was bought.

Previous: [musicapi_new_tracks](/dags/musicapi_new_tracks).
Next: [musicapi_on_arrival](/dags/musicapi_on_arrival).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag

from musicapi_provider.api.bodies import MAX_DESCRIPTION
from musicapi_provider.operators.musicapi import MusicAPICreateOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "description": Param(
            "A gentle waltz for the first snow of the year",
            type="string",
            minLength=1,
            maxLength=MAX_DESCRIPTION,
            title="What the song shall be",
        )
    },
)
def musicapi_order() -> None:
    MusicAPICreateOperator(
        task_id="create",
        gpt_description_prompt="{{ params.description }}",
        webhook=True,
    )


musicapi_order()
