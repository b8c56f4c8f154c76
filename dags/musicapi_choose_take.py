"""
# Two takes, and you choose

Each song comes in two takes: **create** buys a song, **store** keeps both takes, **choose** asks you,
**keep** writes down whose choice it was.

**Answer** when *choose* waits: **Required Actions** on the home page, on this DAG or on the task. Then see
the *MusicAPI Tracks* page: the take that was picked bears the name of who picked it.

**Expect** the question after about ten seconds with the simulator. With the real API: one to three minutes
and 15 credits for both takes. Choosing costs nothing and may take for ever.
**Safe to repeat**: clear *choose* to be asked again; clear *store* as well if a take was deleted.

Previous: [musicapi_single_track](/dags/musicapi_single_track).
Next: [musicapi_prompt_table](/dags/musicapi_prompt_table).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import ObjectStoragePath, Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.forms import read_song_form, song_form
from musicapi_provider.links.takes import describe_takes
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.storage import keep_take

TAKES, FORM = ["Take 1", "Take 2"], ["description", "title", "tags", "destination"]


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},  # safe: nothing is paid twice
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params=song_form(f"file://{Path(__file__).parents[1]}/music", only=FORM)
    | {"other_take": Param("keep", type="string", enum=["keep", "drop"], title="The other take")},
)
def musicapi_choose_take() -> None:
    create = MusicAPICreateOperator(
        task_id="create", body=read_song_form(), wait_for_completion=True, deferrable=True
    )
    store = MusicAPIStoreTracksOperator(
        task_id="store",
        tracks=create.output,
        destination="{{ params.destination }}",
        submission=create.output["submission"],
        store_cover=True,
    )

    @task
    def present(takes: list[dict], params: dict | None = None) -> str:
        return describe_takes(takes, params["destination"], TAKES)

    choose = HITLOperator(
        task_id="choose",
        subject='Which take of "{{ (params.title or params.description) | truncate(60) }}"?',
        body=present(store.output),
        options=TAKES,
        retries=0,
    )

    @task(multiple_outputs=False)
    def keep(takes: list[dict], answer: dict, params: dict | None = None) -> dict:
        (option,), who = answer["chosen_options"], answer["responded_by_user"]  # nobody, at a timeout
        clips = [take["clip_id"] for take in takes]
        if (index := TAKES.index(option)) >= len(clips):
            raise AirflowFailException(f"There is no {option}: only one take succeeded, and it is stored.")
        folder, drop = ObjectStoragePath(params["destination"]), params["other_take"] == "drop"
        name = who["name"] if who else "nobody in time"
        return keep_take(folder, clips, clips[index], picked_by=name, drop_others=drop).as_json()

    keep(store.output, choose.output)


musicapi_choose_take()
