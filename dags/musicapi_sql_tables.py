"""
# From SQL to SQL: prompts in, tracks out

Prompts are rows of a database, and so are the tracks: **create_tables** makes a missing table of
prompts, with three samples, **make_songs** buys what is new, **upsert_tracks** writes a row per track.

**Any database** with an Airflow connection will do: after `make up`, `musicapi_sql` is a SQLite file. Change
a prompt and the row is new; delete it and its tracks stay. Text is data: it is neither SQL nor a template.

**Look at** the tracks table: `SELECT title, duration, uri FROM musicapi_tracks`.

**Expect** with the simulator: six tracks of three prompts after about half a minute. With the real API: one
to three minutes and about 15 credits a prompt. A second run buys nothing and leaves the same rows.

Previous: [musicapi_large_table](/dags/musicapi_large_table).
Next: [musicapi_new_tracks](/dags/musicapi_new_tracks).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, Param, TriggerRule, dag, task

from include.sql.prompts import create_prompts_table
from musicapi_provider.forms import table_form
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from musicapi_provider.prompt_table.results import TABLE_NAME, upsert_tracks

NAME = {"type": "string", "pattern": TABLE_NAME}


@dag(
    schedule=None,  # yours: prompts come when they come
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,  # a second run must see what the first has bought
    # Safe: a retry collects what was bought. Needed: Airflow itself may drop a deferred task.
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "sql_conn_id": Param("musicapi_sql", type="string", title="Connection of the database"),
        "prompts_table": Param("musicapi_prompts", **NAME, title="Table of prompts"),
        "tracks_table": Param("musicapi_tracks", **NAME, title="Table of tracks"),
        **table_form(destination=f"file://{Path(__file__).parents[1]}/music/sql", max_credits=300),
    },
)
def musicapi_sql_tables() -> None:
    @task
    def create_tables(params: dict | None = None) -> None:
        create_prompts_table(params["sql_conn_id"], params["prompts_table"])

    make_songs = MusicAPIPromptTableOperator(
        task_id="make_songs",
        # Columns are the API's field names: rename yours with AS. NULL is not sent.
        sql="SELECT prompt_id, gpt_description_prompt, make_instrumental, title, mv "
        "FROM {{ params.prompts_table }} ORDER BY prompt_id",
        sql_conn_id="{{ params.sql_conn_id }}",
        destination="{{ params.destination }}",
        skip_invalid="{{ params.skip_invalid }}",
        max_credits="{{ params.max_credits }}",
        settle="{{ params.settle | tojson }}",
        deferrable=True,
        outlets=[Asset("musicapi_tracks")],
    )

    # Failed rows must not hide what was paid for, so this runs whatever became of them.
    @task(task_id="upsert_tracks", trigger_rule=TriggerRule.ALL_DONE)
    def upsert(params: dict | None = None, ti=None) -> int:
        summary = ti.xcom_pull(task_ids="make_songs") or ti.xcom_pull(task_ids="make_songs", key="summary")
        if not summary:
            raise ValueError("There is no manifest to read: see make_songs.")
        return upsert_tracks(summary["manifest"], params["sql_conn_id"], params["tracks_table"])

    # The run is as good as its last tasks: without this one a run with failed rows would be green.
    all_done = EmptyOperator(task_id="all_done")
    create_tables() >> make_songs >> [upsert(), all_done]


musicapi_sql_tables()
