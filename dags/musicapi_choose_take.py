"""
# Two takes, and you choose

Each song comes in two takes, and which one is better only a person can hear. Here Airflow asks: **create**
buys a song, **store** keeps both takes at once, so that nothing is lost while nobody has time to listen,
**choose** waits for you, **keep** writes down whose choice it was.

**Answer** when *choose* waits for input: **Required Actions** on the home page, on this DAG or on the task.
There are links to listen to both takes, and a button for each.

**Look at** the *MusicAPI Tracks* page: the take that was picked bears the name of who picked it. So do its
sidecar and `index.csv`.

**Expect** the question after about ten seconds with the simulator. With the real API: one to three minutes
and 15 credits for both takes. Listening, choosing and waiting cost nothing, and hold neither a worker nor the
triggerer.

**How long it waits**: for ever. Give *choose* a `response_timeout`, and it fails when nobody has answered in
time; both takes stay, and clearing it asks again. With `defaults` as well it takes that option by itself.

**Safe to repeat**: clear *choose* to be asked again; the later choice counts. A take that was deleted does
not come back by that: clear *store*, which is free, as well.

Previous: [musicapi_single_track](/dags/musicapi_single_track).
Next: [musicapi_prompt_table](/dags/musicapi_prompt_table).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import ObjectStoragePath, Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.api.bodies import DEFAULT_MV, MAX_DESCRIPTION, MAX_TITLE, MODELS
from musicapi_provider.links.extra_links import on_api_server
from musicapi_provider.links.pages import media_path
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.storage import pick_track, remove_track

TAKES = ["Take 1", "Take 2"]


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"retry_delay": timedelta(seconds=10)},
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "description": Param(
            "A slow waltz for two old friends, with accordion",
            type="string",
            pattern=r"\S",
            maxLength=MAX_DESCRIPTION,
            title="Description",
            description=f"What the song is about and how it sounds, in {MAX_DESCRIPTION} characters. It "
            "costs 15 credits and comes in two takes.",
        ),
        "title": Param(
            None,
            type=["null", "string"],
            maxLength=MAX_TITLE,
            title="Title",
            description=f"Optional, {MAX_TITLE} characters.",
        ),
        "tags": Param(
            None,
            type=["null", "string"],
            maxLength=MODELS[DEFAULT_MV][1],
            title="Styles",
            description="Optional, comma separated: genres, moods, instruments, tempo.",
            examples=["waltz, accordion, tender", "chanson, smoky, double bass", "folk, whistling, sunny"],
        ),
        "other_take": Param(
            "keep",
            type="string",
            enum=["keep", "drop"],
            values_display={"keep": "Keep it, too", "drop": "Delete it"},
            title="The take that you do not pick",
        ),
        "destination": Param(
            f"file://{Path(__file__).parents[1]}/music",
            type="string",
            minLength=1,
            title="Destination",
            description="Folder for the tracks, local or in object storage (s3://conn_id@bucket/...).",
            section="Storage",
        ),
    },
)
def musicapi_choose_take() -> None:
    @task
    def open_folder(params: dict | None = None) -> None:
        """Fail before anything is paid if there is no place for the takes."""
        ObjectStoragePath(params["destination"]).mkdir(parents=True, exist_ok=True)

    create = MusicAPICreateOperator(
        task_id="create",
        custom_mode=False,
        gpt_description_prompt="{{ params.description }}",
        title="{{ params.title }}",
        tags="{{ params.tags }}",
        wait_for_completion=True,
        deferrable=True,
        retries=2,  # safe: a retry collects what was bought and never pays twice
    )
    store = MusicAPIStoreTracksOperator(
        task_id="store",
        tracks=create.output,
        submission=create.output["submission"],
        destination="{{ params.destination }}",
        store_cover=True,
        retries=2,  # downloading is free
    )

    @task
    def present(takes: list[dict], params: dict | None = None) -> str:
        """Write what the person who chooses gets to read."""
        lines = [
            _present(name, take, params["destination"]) for name, take in zip(TAKES, takes, strict=False)
        ]
        if len(takes) < len(TAKES):
            lines.append(f"Only one take of this song succeeded: choose {TAKES[0]}.")
        return "\n\n".join(lines)

    choose = HITLOperator(
        task_id="choose",
        subject='Which take of "{{ (params.title or params.description) | truncate(60) }}"?',
        body=present(store.output),
        options=TAKES,
        doc_md="Listen to both takes, then press a button on the tab *Required Action*, while it waits.",
    )

    @task(retries=2, multiple_outputs=False)
    def keep(takes: list[dict], answer: dict, params: dict | None = None) -> dict:
        """Write down the choice, then keep or delete the other take; return the record of the picked one."""
        (option,) = answer["chosen_options"]
        if (index := TAKES.index(option)) >= len(takes):
            raise AirflowFailException(
                f"There is no {option}: only one take of this song succeeded, and it is stored. Nothing is "
                f"lost: clear choose and answer {TAKES[0]}."
            )
        folder, picked = ObjectStoragePath(params["destination"]), takes.pop(index)
        others = [take["clip_id"] for take in takes]
        who = answer["responded_by_user"]  # nobody, if choose has a timeout and a default
        name = who["name"] if who else "nobody in time"
        record = pick_track(folder, picked["clip_id"], picked_by=name, instead_of=others)
        for clip_id in others if params["other_take"] == "drop" else []:
            remove_track(folder, clip_id)
        return record

    open_folder() >> create
    keep(store.output, choose.output)


def _present(name: str, take: dict, destination: str) -> str:
    minutes, seconds = divmod(round(take["duration"]), 60)
    listen = on_api_server(media_path(destination, take["clip_id"], "audio"))
    return (
        f"**{name}**: {_plain(take['title'] or 'no title')}, {minutes}:{seconds:02} min, [listen]({listen})"
    )


def _plain(text: str) -> str:
    """Return text as it stands in Markdown: a title is anybody's words, and must not become a link."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


musicapi_choose_take()
