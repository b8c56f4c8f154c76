"""
# One song from the trigger form

Press **Trigger**, fill in the form, and a song is made: **read_form** turns the form into a request body,
**create** buys it and waits in the triggerer, **store** downloads the tracks.

**Look at** the XCom of *create*: the tracks with their URLs; *Listen* on the task instance opens the first.

**Expect** two takes after about ten seconds with the simulator. With the real API: one to three minutes and
15 credits. What the API would refuse is refused before anything is paid.

**Safe to repeat**: clearing *create* with the same form collects what was bought.

Next: [musicapi_prompt_table](/dags/musicapi_prompt_table).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import ObjectStoragePath, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.bodies import MAX_DESCRIPTION, MAX_TITLE, MODELS
from musicapi_provider.operators.musicapi import MusicAPICreateOperator, MusicAPIStoreTracksOperator

DESCRIBE, LYRICS, BRIEF = "describe", "lyrics", "brief"
#: What the text of the form becomes in the request body, by mode.
MODES = {
    DESCRIBE: lambda text: {"custom_mode": False, "gpt_description_prompt": text},
    LYRICS: lambda text: {"custom_mode": True, "prompt": text},
    BRIEF: lambda text: {"custom_mode": True, "auto_lyrics": True, "prompt": text},
}


@dag(
    schedule=None,
    default_args={"retry_delay": timedelta(seconds=10)},
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["musicapi", "example"],
    doc_md=__doc__,
    params={
        "mode": Param(
            DESCRIBE,
            type="string",
            title="Mode",
            enum=[DESCRIBE, LYRICS, BRIEF],
            values_display={
                DESCRIBE: "Describe the song in a sentence",
                LYRICS: "Sing my lyrics",
                BRIEF: "Write lyrics from my brief",
            },
        ),
        "text": Param(
            "A warm acoustic song about the first coffee of the day",
            type="string",
            format="multiline",
            minLength=1,
            maxLength=5000,
            title="Description, lyrics or brief",
            description=f"A description may have {MAX_DESCRIPTION} characters, lyrics and briefs 5,000 "
            "(3,000 with sonic-v3-5 and sonic-v4). Lyrics may have lines such as [Verse] and [Chorus].",
        ),
        "make_instrumental": Param(
            False,
            type="boolean",
            title="Instrumental",
            description="No singing; with lyrics they are ignored.",
        ),
        "title": Param(None, type=["null", "string"], maxLength=MAX_TITLE, title="Title"),
        "tags": Param(
            None,
            type=["null", "string"],
            maxLength=1000,
            title="Styles",
            description="Comma separated, such as: synthwave, dreamy, 100 bpm.",
        ),
        "vocal_gender": Param(
            None,
            type=["null", "string"],
            enum=[None, "f", "m"],
            values_display={"f": "female", "m": "male"},
            title="Voice",
            description="For sonic-v4-5 and later.",
        ),
        "mv": Param("sonic-v5", type="string", enum=list(MODELS), title="Model"),
        "destination": Param(
            f"file://{Path(__file__).parents[1]}/music",
            type="string",
            title="Destination",
            description="Folder for the tracks, local or in object storage (s3://conn_id@bucket/...).",
        ),
    },
)
def musicapi_single_track() -> None:
    @task(multiple_outputs=False)
    def read_form(params: dict | None = None) -> dict:
        """Make a request body of the form; empty fields are not sent. What is wrong is said before paying."""
        if unknown := params.keys() - get_current_context()["dag"].params.keys():
            raise AirflowFailException(
                f"Unknown form fields, nothing was bought: {', '.join(sorted(unknown))}"
            )
        ObjectStoragePath(params["destination"]).mkdir(parents=True, exist_ok=True)
        fields = ("make_instrumental", "title", "tags", "vocal_gender", "mv")
        body = {**MODES[params["mode"]](params["text"]), **{name: params[name] for name in fields}}
        return {name: value for name, value in body.items() if value not in (None, "")}

    create = MusicAPICreateOperator(
        task_id="create",
        body=read_form(),
        wait_for_completion=True,
        deferrable=True,
        retries=2,  # safe: a retry collects what was bought and never pays twice
    )
    MusicAPIStoreTracksOperator(
        task_id="store",
        tracks=create.output,
        destination="{{ params.destination }}",
        store_cover=True,
        retries=2,  # downloading is free
    )


musicapi_single_track()
