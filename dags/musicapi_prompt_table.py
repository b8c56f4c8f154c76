"""
# From a prompt table to stored tracks

Each row of a prompt table becomes a song: **create** buys it, **wait** waits for it in the triggerer without
a worker slot, **store** downloads and checks its tracks. A row that fails stops nobody else's row. At the end
stands a manifest (JSON Lines and Parquet) with every row's state, URLs and files, and the asset
`musicapi_tracks` is updated.

**Daily, and cheap**: rows whose tracks are stored at the destination are done, rows that an earlier run has
bought are collected. A new or edited row is bought. What is bought is on record at the destination
(`purchases/`), so it is known whatever becomes of the run: killed, cleared, deleted.

**Look at** the mapped tasks in the grid: each carries its row's `prompt_id`. The URLs are in the XCom of
*wait* and *store*, the whole result in the XCom of *write_manifest*.

**Expect** with the simulator: two tracks a row after about ten seconds. With the real API: one to three
minutes and about 15 credits a row.

**Never more than `max_credits`** a run: rows beyond it are left for the next one.

**Answers that were lost** leave a row as *unknown outcome*: perhaps paid, never sent again by itself. Look
into your account, then trigger a run with `settle`: `{"row": "music task id"}` collects what was bought,
`{"row": "resubmit"}` buys it.

**Safe to repeat**: clearing any task, or the whole run, collects what was bought.

Previous: [musicapi_choose_take](/dags/musicapi_choose_take).
Next: [musicapi_large_table](/dags/musicapi_large_table).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import (
    Asset,
    ObjectStoragePath,
    Param,
    TriggerRule,
    dag,
    get_current_context,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.exceptions import MusicAPIIncompleteTableError
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.prompt_table import Row, read_prompt_table
from musicapi_provider.prompt_table.manifest import (
    check_complete,
    counts_of,
    manifest_name,
    write_manifest_file,
)
from musicapi_provider.prompt_table.plan import complete_plan, plan_rows, rows_to_do
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

PROJECT = Path(__file__).parents[1]
TRACKS = Asset("musicapi_tracks")


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retry_delay": timedelta(seconds=10)},
    max_active_runs=1,  # a second run must see what the first has bought
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "prompt_table": Param(
            f"file://{PROJECT}/include/prompts/evening_radio.csv",
            type="string",
            title="Prompt table",
            description="URI of a CSV, JSON Lines or Parquet file, local or in object storage "
            "(s3://conn_id@bucket/...).",
        ),
        "destination": Param(
            f"file://{PROJECT}/music",
            type="string",
            title="Destination",
            description="Folder for tracks and manifests, as a URI. What is done is known from here: another "
            "folder buys the whole table again.",
        ),
        "skip_invalid": Param(
            False,
            type="boolean",
            title="Skip bad rows",
            description="Off: one bad row stops the run before anything is paid.",
        ),
        "max_credits": Param(
            1000,
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
def musicapi_prompt_table() -> None:
    @task
    def read_table(params: dict | None = None) -> list[dict]:
        """Check the whole table before anything is paid; find out what is done already."""
        from musicapi_provider.hooks.musicapi import MusicAPIHook  # heavy: not at parse time

        rows = read_prompt_table(
            ObjectStoragePath(params["prompt_table"]), skip_invalid=params["skip_invalid"]
        )
        hook = MusicAPIHook()
        plan = plan_rows(
            rows,
            ObjectStoragePath(params["destination"]),
            hook.client,
            hook.account,
            run_id=get_current_context()["run_id"],
            max_credits=params["max_credits"],
            settle=params["settle"],
        )
        return [row.as_json() for row in plan]

    @task
    def new_rows(plan: list[dict]) -> list[dict]:
        """Leave out what is done."""
        return rows_to_do(map(Row.from_json, plan))

    @task_group
    def song(prompt_id: str, body: dict, adopt_music_task_id: str | None, on_unknown_outcome: str) -> None:
        """Make one row's song; rows do not wait for each other."""
        create = MusicAPICreateOperator(
            task_id="create",
            body=body,
            adopt_music_task_id=adopt_music_task_id,
            on_unknown_outcome=on_unknown_outcome,
            prompt_id=prompt_id,
            records="{{ params.destination }}",
            retries=2,  # safe: a retry collects what was bought and never pays twice
            map_index_template="{{ task.prompt_id }}",
        )
        wait = MusicAPITaskSensor(
            task_id="wait",
            music_task_id=create.output,
            prompt_id=prompt_id,
            deferrable=True,
            retries=3,  # waiting is free, and Airflow itself may drop a deferred task
            map_index_template="{{ task.prompt_id }}",
        )
        MusicAPIStoreTracksOperator(
            task_id="store",
            tracks=wait.output,
            submission=create.output["submission"],
            destination="{{ params.destination }}",
            prompt_id=prompt_id,
            store_cover=True,
            retries=2,  # downloading is free, too
            map_index_template="{{ task.prompt_id }}",
        )

    # Failed rows must not hide what was paid for, so this runs whatever became of the rows.
    @task(outlets=[TRACKS], trigger_rule=TriggerRule.ALL_DONE, retries=5)
    def write_manifest(plan: list[dict], rows: list[dict], params: dict | None = None) -> list[dict]:
        """Join plan and results; write them down; tell the asset."""
        from musicapi_provider.hooks.musicapi import MusicAPIHook  # heavy: not at parse time

        if plan is None:
            raise AirflowFailException("There is no table to report on: see read_table.")
        context = get_current_context()
        folder = ObjectStoragePath(params["destination"])
        stored = {
            row["prompt_id"]: context["ti"].xcom_pull(task_ids="song.store", map_indexes=index)
            for index, row in enumerate(rows)
        }
        manifest = complete_plan(map(Row.from_json, plan), stored, folder, MusicAPIHook().client)
        uri = write_manifest_file(folder, manifest_name(context["run_id"], context["dag"].dag_id), manifest)
        summary = {"manifest": uri, **counts_of(manifest, context["run_id"])}
        print(", ".join(f"{name} {value}" for name, value in summary.items()))
        context["outlet_events"][TRACKS].extra = {**summary, "destination": params["destination"]}
        return [row.as_json(final=True) for row in manifest]

    @task
    def check_all_rows(manifest: list[dict]) -> None:
        """Turn the run red when a row has no tracks: after the manifest, so that nothing is hidden."""
        rows = [Row.from_json(row) for row in manifest]
        try:
            check_complete(rows, counts_of(rows, get_current_context()["run_id"]))
        except MusicAPIIncompleteTableError as error:
            raise AirflowFailException(str(error)) from error

    plan = read_table()
    rows = new_rows(plan)
    manifest = write_manifest(plan, rows)
    song.expand_kwargs(rows) >> manifest
    check_all_rows(manifest)


musicapi_prompt_table()
