"""
# From a prompt table to stored tracks

Each row becomes a song: **create** buys it, **wait** waits in the triggerer, **store** downloads its tracks.
A row that fails stops no other. At the end stand a manifest and an update of the asset `musicapi_tracks`.

**Daily, and cheap**: only new and edited rows are bought, within `max_credits`. Clear whatever you like: what
is bought is collected. A lost answer may be paid, so its row waits: look into your account, then trigger a
run with `settle`: `{"row": "music task id"}`, or `{"row": "resubmit"}`.
**Look at** the mapped tasks, each with its `prompt_id`, and at *Manifest* on *write_manifest*. **Expect** two
takes a row after ten seconds with the simulator; with the real API after 1-3 minutes, for 15 credits.
Previous: [musicapi_choose_take](/dags/musicapi_choose_take).
Next: [musicapi_large_table](/dags/musicapi_large_table).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, dag, task, task_group

from musicapi_provider.forms import table_arguments, table_form
from musicapi_provider.operators import prompt_table_steps as steps
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

PROJECT, FOLDER = f"file://{Path(__file__).parents[1]}", "{{ params.destination }}"
TABLE = f"{PROJECT}/include/prompts/evening_radio.csv"


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},  # safe: nothing is paid twice
    max_active_runs=1,  # a second run must see what the first has bought
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params=table_form(prompt_table=TABLE, destination=f"{PROJECT}/music"),
)
def musicapi_prompt_table() -> None:
    read = steps.MusicAPIReadPromptTableOperator(task_id="read_table", **table_arguments())

    @task_group(default_args={"map_index_template": "{{ task.prompt_id }}", "deferrable": True})
    def song(prompt_id, body, adopt_music_task_id, on_unknown_outcome):
        create = MusicAPICreateOperator(
            task_id="create",
            body=body,
            adopt_music_task_id=adopt_music_task_id,
            on_unknown_outcome=on_unknown_outcome,
            prompt_id=prompt_id,
            records=FOLDER,
        )
        wait = MusicAPITaskSensor(task_id="wait", music_task_id=create.output, prompt_id=prompt_id)
        return MusicAPIStoreTracksOperator(
            task_id="store",
            tracks=wait.output,
            submission=create.output["submission"],
            destination=FOLDER,
            prompt_id=prompt_id,
            store_cover=True,
        ).output

    manifest = steps.MusicAPIWriteManifestOperator(
        task_id="write_manifest",
        plan=read.output["plan"],
        tracks=song.expand_kwargs(read.output),
        destination=FOLDER,
        min_success=0,  # the asset is told of the other rows; then comes the check
        outlets=[Asset("musicapi_tracks")],
    )

    @task(retries=0)
    def check_all_rows(summary: dict) -> None:
        if missing := summary["without_tracks"]:
            raise ValueError(f"{missing} rows have no tracks: see {summary['manifest']}")

    check_all_rows(manifest.output)


musicapi_prompt_table()
