"""
# Thousands of songs in one task

The same prompt table as [musicapi_prompt_table](/dags/musicapi_prompt_table), worked off by one operator:
**make_songs** buys what is new, one create every three seconds, stores tracks as they finish, and holds no
worker slot while all that is left is waiting. Mapped tasks show each row in the grid and are fine for tens of
rows; each costs Airflow a second or so, which thousands of rows cannot afford.

**Shared with the mapped DAG**: destination and records. What one of them has bought, the other finds done. Do
not run both at once on one destination: object storage has no locks.

**Look at** the log of *make_songs*: its progress, and about how long the rest takes. Its XCom, and the event
of the asset `musicapi_tracks`, have the counts and the manifest's URI (JSON Lines; Parquet lies beside it).

**Expect** with the simulator: about a minute for nine rows, as the creates are paced. With the real API:
1,200 rows an hour at the documented pace of the standard tier, about 15 credits each.

**Safe to repeat**: a retry, a clear or the next run goes on where the last one stopped. Whatever killed it,
no row is bought twice in silence; answers that were lost wait for *settle*, as in the mapped DAG.

Previous: [musicapi_prompt_table](/dags/musicapi_prompt_table).
Next: [musicapi_sql_tables](/dags/musicapi_sql_tables).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, dag

from musicapi_provider.forms import table_form
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator

PROJECT = Path(__file__).parents[1]
TRACKS = Asset("musicapi_tracks")


@dag(
    schedule=None,  # the mapped DAG is daily, and both on one destination would meet; schedule one of them
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,  # a second run must see what the first has bought
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params=table_form(
        prompt_table=f"file://{PROJECT}/include/prompts/evening_radio.csv",
        destination=f"file://{PROJECT}/music",
    ),
)
def musicapi_large_table() -> None:
    MusicAPIPromptTableOperator(
        task_id="make_songs",
        prompt_table="{{ params.prompt_table }}",
        destination="{{ params.destination }}",
        skip_invalid="{{ params.skip_invalid }}",
        max_credits="{{ params.max_credits }}",
        settle="{{ params.settle | tojson }}",
        # Of a thousand rows some fail: fewer than 5 % keep neither the run from being green nor the asset
        # from being updated. The counts and the manifest tell of them, and the next run tries them again.
        min_success=0.95,
        store_cover=True,
        deferrable=True,
        # Safe: a retry buys only what was certainly not paid for, or was refunded, and collects the rest.
        retries=3,  # Airflow itself may drop a deferred task
        retry_delay=timedelta(seconds=10),
        outlets=[TRACKS],
    )


musicapi_large_table()
