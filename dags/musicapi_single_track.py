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

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import dag

from musicapi_provider.forms import read_song_form, song_form
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator


@dag(
    schedule=None,
    default_args={"retry_delay": timedelta(seconds=10)},
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params=song_form(destination=f"file://{Path(__file__).parents[1]}/music"),
)
def musicapi_single_track() -> None:
    create = MusicAPICreateOperator(
        task_id="create",
        body=read_song_form(),
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


musicapi_single_track()
