"""
# From SQL to SQL: prompts in, tracks out

Prompts are rows of a database, and so are the tracks: **create_tables** makes the two tables where they are
missing (a new prompt table gets three sample rows), **make_songs** reads the prompts with a query, buys what
is new and stores the audio, **upsert_tracks** writes a row per track, by `clip_id`.

**Any database** with an Airflow connection will do: after `make up`, `musicapi_sql` is a SQLite file; a
Postgres connection of that name works unchanged. Change a prompt there and the row is new; delete it and its
tracks stay. Text in the table is data: it never becomes SQL and is never rendered as a template.

**Look at** the tracks table: `SELECT title, duration, uri FROM musicapi_tracks`.

**Expect** with the simulator: six tracks of three prompts after about half a minute. With the real API: one
to three minutes and about 15 credits a prompt.

**Safe to repeat**: a second run buys nothing and leaves the same rows.

Previous: [musicapi_large_table](/dags/musicapi_large_table).
Next: [musicapi_new_tracks](/dags/musicapi_new_tracks).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, BaseHook, ObjectStoragePath, Param, TriggerRule, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from musicapi_provider.prompt_table.manifest import read_manifest_file, tracks_of

TRACKS = Asset("musicapi_tracks")
#: A table, perhaps with its schema. A name cannot be a parameter of a statement, so the form takes nothing
#: else: no SQL. Small letters, since databases disagree about the others.
TABLE_NAME = {"type": "string", "pattern": r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$"}
PROMPTS_TABLE = """
    prompt_id VARCHAR(100) PRIMARY KEY, gpt_description_prompt TEXT NOT NULL, make_instrumental BOOLEAN,
    title VARCHAR(80), mv VARCHAR(40)"""
TRACKS_TABLE = """
    clip_id VARCHAR(128) PRIMARY KEY, prompt_id VARCHAR(100) NOT NULL, music_task_id VARCHAR(128),
    title TEXT, uri TEXT NOT NULL, audio_url TEXT, duration DOUBLE PRECISION, bytes BIGINT,
    sha256 CHAR(64), content_type VARCHAR(100)"""
TRACK_COLUMNS = (
    *("clip_id", "prompt_id", "music_task_id", "title", "uri", "audio_url"),
    *("duration", "bytes", "sha256", "content_type"),
)
SAMPLES = [
    ("harbour-dawn", "A calm sea shanty for the first boat of the day", False, "Harbour Dawn", "sonic-v5"),
    ("night-train", "A driving instrumental with brushed drums and a lonely horn", True, None, "sonic-v5"),
    ("ode-to-sql", "A cheerful song about two tables that join at last", None, None, None),
]


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
        "prompts_table": Param("musicapi_prompts", **TABLE_NAME, title="Table of prompts"),
        "tracks_table": Param("musicapi_tracks", **TABLE_NAME, title="Table of tracks"),
        "destination": Param(
            f"file://{Path(__file__).parents[1]}/music/sql",
            type="string",
            title="Destination",
            description="Folder for audio, records and manifests, as a URI. DAGs that run at once must not "
            "share one. Another folder buys the whole table again.",
        ),
        "max_credits": Param(
            300,
            type=["null", "number"],
            minimum=0,
            title="Credits that this run may spend",
            description="About 15 a row. Rows beyond it are left for a later run; empty: no limit.",
        ),
        "settle": Param(
            {},
            type="object",
            additionalProperties={"type": "string"},
            title="Decisions about unknown outcomes",
            description='By prompt_id: the music task id found in your account, or "resubmit".',
        ),
    },
)
def musicapi_sql_tables() -> None:
    @task
    def create_tables(params: dict | None = None) -> None:
        """Make what is missing; only a new table gets samples: songs cost, and an empty one may be meant."""
        hook = BaseHook.get_hook(params["sql_conn_id"])
        *schema, table = params["prompts_table"].split(".")
        is_new = not hook.inspector.has_table(table, schema=schema[0] if schema else None)
        hook.run(f"CREATE TABLE IF NOT EXISTS {params['tracks_table']} ({TRACKS_TABLE})")
        hook.run(f"CREATE TABLE IF NOT EXISTS {params['prompts_table']} ({PROMPTS_TABLE})")
        if is_new:
            columns = ["prompt_id", "gpt_description_prompt", "make_instrumental", "title", "mv"]
            hook.insert_rows(params["prompts_table"], SAMPLES, target_fields=columns)

    make_songs = MusicAPIPromptTableOperator(
        task_id="make_songs",
        # Columns are the API's field names: rename yours with AS. NULL is not sent.
        sql="SELECT prompt_id, gpt_description_prompt, make_instrumental, title, mv "
        "FROM {{ params.prompts_table }} ORDER BY prompt_id",
        sql_conn_id="{{ params.sql_conn_id }}",
        destination="{{ params.destination }}",
        max_credits="{{ params.max_credits }}",
        settle="{{ params.settle | tojson }}",
        deferrable=True,
        outlets=[TRACKS],
    )

    # Failed rows must not hide what was paid for, so this runs whatever became of them.
    @task(trigger_rule=TriggerRule.ALL_DONE)
    def upsert_tracks(params: dict | None = None) -> int:
        """Write a row for each track that is stored, earlier runs' included; repeating changes nothing."""
        ti = get_current_context()["ti"]
        summary = ti.xcom_pull(task_ids="make_songs") or ti.xcom_pull(task_ids="make_songs", key="summary")
        if not summary:
            raise AirflowFailException("There is no manifest to read: see make_songs.")
        tracks = tracks_of(read_manifest_file(ObjectStoragePath(summary["manifest"])))
        BaseHook.get_hook(params["sql_conn_id"]).insert_rows(
            params["tracks_table"],
            [[track.get(name) for name in TRACK_COLUMNS] for track in tracks],
            target_fields=TRACK_COLUMNS,
            replace=True,  # the upsert of the connection's database
            replace_index="clip_id",
        )
        return len(tracks)

    # The run is as good as its last tasks: without this one a run with failed rows would be green.
    all_done = EmptyOperator(task_id="all_done")
    create_tables() >> make_songs >> [upsert_tracks(), all_done]


musicapi_sql_tables()
