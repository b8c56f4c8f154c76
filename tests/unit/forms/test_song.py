"""The trigger form of a song in DAGs of one's own: which fields it has, and what the reading task makes."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowFailException

from musicapi_provider.api.bodies import DEFAULT_MV
from musicapi_provider.forms import read_song_form, song_form, table_form
from tests.s3 import s3_bucket as s3_bucket

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3 import S3Bucket

#: What every body has.
ALWAYS = {"task_type": "create_music", "mv": DEFAULT_MV}


def read(form: dict[str, Param], **conf: Any) -> dict[str, Any]:
    """Read a form as a task of a DAG does, with what somebody has typed."""
    with DAG("own", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params=form) as dag:
        read_song_form()
    params = {name: param.value for name, param in form.items()} | conf
    return dag.get_task("read_form").execute({"params": params})  # type: ignore[no-any-return]


def test_few_fields_are_enough_for_a_song(tmp_path: Path) -> None:
    """What is left out is not sent; without a mode a song is described."""
    form = song_form(f"file://{tmp_path}/music", only=["description", "tags", "destination"], tags="harp")

    body = read(form, description="a calm evening")

    assert body == {
        **ALWAYS,
        **{"custom_mode": False, "gpt_description_prompt": "a calm evening", "tags": "harp"},
    }
    assert (tmp_path / "music").is_dir()
    assert form["description"].schema["title"] == "Description"


def test_folder_in_a_bucket_is_tried_and_left_as_it_is(s3_bucket: S3Bucket) -> None:
    """Before anything is paid."""
    read(song_form(s3_bucket.uri, only=["description", "destination"]), description="rain")

    assert s3_bucket.sizes() == {}


def test_slip_in_the_name_of_a_bucket_makes_none(s3_bucket: S3Bucket) -> None:
    """The song would be paid for, and stored where nobody looks."""
    form = song_form(s3_bucket.uri.replace("music-", "musik-"), only=["description", "destination"])
    with pytest.raises(AirflowFailException, match="Destination: cannot be written to: "):
        read(form, description="rain")

    assert [one["Name"] for one in s3_bucket.client.list_buckets()["Buckets"]] == [s3_bucket.name]


def test_without_a_description_lyrics_are_sung() -> None:
    """A form of lyrics alone needs no mode either."""
    assert read(song_form(only=["lyrics"]), lyrics="La la") == {
        **ALWAYS,
        **{"custom_mode": True, "prompt": "La la"},
    }


def test_own_params_stand_beside_the_form() -> None:
    """What the DAG declares is known; a misspelt name of the conf is not."""
    form = song_form(only=["description"]) | {"mood": Param("calm", type="string")}

    assert read(form, mood="loud")["custom_mode"] is False
    with pytest.raises(AirflowFailException, match="modo: is no field of this form"):
        read(form, modo="loud")


@pytest.mark.parametrize("arguments", [{"only": ["titel"]}, {"titel": "x"}])
def test_a_field_that_is_none_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    """A slip in the DAG must not wait for its first run."""
    with pytest.raises(ValueError, match="No field of this form: titel"):
        song_form("file:///music", **arguments)


def test_forms_of_one_process_do_not_share_what_is_changed() -> None:
    """A DAG's form with few fields leaves another DAG's as it is."""
    song_form(only=["description"])

    assert song_form()["description"].schema["title"] == "Description or brief"


def test_a_table_from_sql_has_no_field_for_a_file() -> None:
    """The table's URI is asked for where there is a default; the rest bears the operator's names."""
    shared = ["destination", "skip_invalid", "max_credits", "settle"]

    assert list(table_form(destination="file:///music")) == shared
    assert list(table_form(destination="file:///music", prompt_table="file:///t.csv")) == [
        "prompt_table",
        *shared,
    ]
    assert table_form(destination="file:///music", max_credits=None)["max_credits"].value is None
    with pytest.raises(ValueError, match="No field of this form: sql"):
        table_form(destination="file:///music", only=["sql"])


def test_import_of_the_forms_is_cheap() -> None:
    """The DAG processor parses often: no HTTP client, no web server, no Parquet."""
    code = (
        "import airflow.sdk, sys; before = set(sys.modules); import musicapi_provider.forms; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert not roots & {"requests", "aiohttp", "fastapi", "pyarrow", "httpx", "pandas"}
