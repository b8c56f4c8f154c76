"""The DAGs that make a whole table in one task, from files and from SQL, to files and to S3."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import ParamValidationError

from tests.conftest import PROJECT
from tests.s3 import S3Bucket, s3_bucket

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from include.musicapi_simulator import SimulatorServer
    from tests.postgres import Postgres

__all__ = ["s3_bucket"]
pytestmark = pytest.mark.dags
pytest_plugins = ["tests.postgres"]

TABLE = PROJECT / "include" / "prompts" / "evening_radio.csv"
ODD = "{{ 7 * 7 }} {% raw %} {{ conn.musicapi_default.password }}"
#: What lies at a destination after a run over two rows, by folder and ending.
FILES_OF_TWO_ROWS = {
    **{"mp3": 4, "jpeg": 4, "json": 4, "csv": 1},
    **{"purchases/json": 2, "manifests/jsonl": 1, "manifests/parquet": 1},
}


def booked(simulator: SimulatorServer) -> dict[str, int]:
    """Return how often each prompt was paid for."""
    return {prompt: count for prompt, count in simulator.state.creates_booked.items() if count}


def write_table(path: ObjectStoragePath, **prompts: str) -> str:
    """Write a prompt table in the format of the file's ending and return its URI."""
    rows = [{"prompt_id": id_, "gpt_description_prompt": text} for id_, text in prompts.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        else:
            file.write("\n".join(map(json.dumps, rows)).encode())
    return str(path)


def files_of(folder: ObjectStoragePath) -> dict[str, int]:
    """Count the files below a folder by subfolder and ending."""
    folder.fs.invalidate_cache()
    names = (str(name).removeprefix(folder.path).strip("/") for name in folder.fs.find(folder.path))
    parts = ((name.rpartition("/")[0], name.rpartition(".")[2]) for name in names)
    return dict(Counter("/".join(filter(None, part)) for part in parts))


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a folder's URI: on this machine, and on a real S3 server."""
    if request.param == "file":
        return f"file://{tmp_path}/music"
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return bucket.uri


# -- files and S3 --------------------------------------------------------------------------------------------


def test_large_table_becomes_tracks_in_one_task(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    asset_events: Callable[[], dict[int, dict[str, Any]]],
    logs: Callable[[], str],
    simulator: SimulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The shipped table, waited for in a real trigger: files, manifest, asset event and XCom agree."""
    monkeypatch.setattr(
        "musicapi_provider.prompt_table.run.LINGER", 0.2
    )  # jobs are short here, real ones are not
    simulator.state.configure(job_rule="seconds:1")
    form = {"destination": f"file://{tmp_path}/music", "max_credits": None, "skip_invalid": True}

    run = run_dag("musicapi_large_table", prompt_table=f"file://{TABLE}", **form)

    assert run.state == "success"
    assert "Pausing task as DEFERRED" in logs()
    summary = xcom(run, "make_songs")
    counts = {"rows": 9, "stored": 9, "tracks": 18, "without_tracks": 0, "unknown": 0, "postponed": 0}
    assert counts.items() <= summary.items()
    assert (summary["credits"], summary["lost_credits"]) == (135, 0)
    assert list(asset_events().values())[-1] == {**summary, "destination": form["destination"]}
    manifest = Path(summary["manifest"].removeprefix("file://"))
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [entry["state"] for entry in entries] == ["stored"] * 9
    assert pq.read_table(manifest.with_suffix(".parquet")).num_rows == 9
    assert all(Path(t["uri"].removeprefix("file://")).exists() for e in entries for t in e["tracks"])


@pytest.mark.parametrize(
    ("dag_id", "ending"), [("musicapi_prompt_table", "jsonl"), ("musicapi_large_table", "parquet")]
)
def test_table_dags_do_the_same_on_files_and_on_s3(
    run_dag: Callable[..., DagRun], simulator: SimulatorServer, dag_id: str, ending: str, place: str
) -> None:
    """A second run buys an edited row and nothing else; the files are the same everywhere."""
    folder = ObjectStoragePath(place)
    table = folder.parent / f"table.{ending}"
    prompts = {"odd": ODD, "edited": "a loud harp"}
    form = {"prompt_table": write_table(table, **prompts), "destination": place}

    first = run_dag(dag_id, **form)
    after_first = files_of(folder)
    after_first_booked = booked(simulator)
    write_table(table, **{**prompts, "edited": "a louder harp"})
    second = run_dag(dag_id, **form)

    assert (first.state, second.state) == ("success", "success")
    assert after_first == FILES_OF_TWO_ROWS
    assert after_first_booked == {ODD: 1, "a loud harp": 1}
    assert booked(simulator) == {ODD: 1, "a loud harp": 1, "a louder harp": 1}
    assert files_of(folder)["mp3"] == 6  # an edited row leaves its old tracks alone


def test_table_dags_share_what_is_bought(
    run_dag: Callable[..., DagRun],
    simulator: SimulatorServer,
    asset_events: Callable[[], dict[int, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    """What the large table has bought is done for the mapped DAG; both tell the asset with the same words."""
    table = write_table(ObjectStoragePath(f"file://{tmp_path}/t.jsonl"), one="a harp", two="a flute")
    form = {"prompt_table": table, "destination": f"file://{tmp_path}/music"}

    runs = [run_dag(dag_id, **form) for dag_id in ("musicapi_large_table", "musicapi_prompt_table")]

    assert [run.state for run in runs] == ["success", "success"]
    assert booked(simulator) == {"a harp": 1, "a flute": 1}
    large, mapped = list(asset_events().values())[-2:]
    assert large.keys() == mapped.keys()
    assert (large["credits"], mapped["credits"]) == (30, 0)
    assert (large["tracks"], mapped["tracks"]) == (4, 4)


def test_large_table_is_settled_by_the_form(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """A lost answer turns the run red and waits; a decision in the form collects what was bought."""
    lost = ObjectStoragePath(f"file://{tmp_path}/t.jsonl")
    form = {
        "prompt_table": write_table(lost, lost="it's simulate:drop-after-booking"),
        "destination": f"file://{tmp_path}/music",
    }
    red = run_dag("musicapi_large_table", **form)
    (found,) = simulator.state.jobs

    green = run_dag("musicapi_large_table", **form, settle={"lost": found})

    assert (red.state, green.state) == ("failed", "success")
    assert xcom(red, "make_songs", key="summary")["unknown"] == 1
    assert xcom(green, "make_songs")["stored"] == 1
    assert simulator.state.requests["POST /sonic/create"] == 1


# -- SQL -----------------------------------------------------------------------------------------------------


@dataclass
class Database:
    """
    A database with tables of its own names.

    :param execute: Runs a statement and returns its rows.
    """

    execute: Callable[..., list[tuple[Any, ...]]]
    prompts: str
    tracks: str

    @property
    def form(self) -> dict[str, str]:
        """What to fill in."""
        return {"prompts_table": self.prompts, "tracks_table": self.tracks}

    def all_tracks(self) -> list[tuple[Any, ...]]:
        """Return the table of tracks."""
        return self.execute(f"SELECT * FROM {self.tracks} ORDER BY clip_id")  # noqa: S608 - our own names


@pytest.fixture(params=["sqlite", "postgres", "postgres-schema"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Set the connection ``musicapi_sql`` to a SQLite file, and to a real Postgres."""
    unique = uuid4().hex[:8]
    if request.param == "sqlite":
        file = tmp_path / "songs.db"
        monkeypatch.setenv(
            "AIRFLOW_CONN_MUSICAPI_SQL", json.dumps({"conn_type": "sqlite", "host": str(file)})
        )

        def execute_sqlite(sql: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(file)) as connection, connection:
                return connection.execute(sql).fetchall()

        return Database(execute_sqlite, "musicapi_prompts", "musicapi_tracks")
    postgres: Postgres = request.getfixturevalue("postgres")
    monkeypatch.setenv("AIRFLOW_CONN_MUSICAPI_SQL", postgres.connection_json())

    def execute_postgres(sql: str) -> list[tuple[Any, ...]]:
        import psycopg2

        with closing(psycopg2.connect(postgres.uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    if request.param == "postgres":
        return Database(execute_postgres, f"prompts_{unique}", f"tracks_{unique}")
    execute_postgres(f"CREATE SCHEMA s_{unique}")
    return Database(execute_postgres, f"s_{unique}.prompts", f"s_{unique}.tracks")


def test_prompts_come_from_sql_and_tracks_go_there(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    simulator: SimulatorServer,
    database: Database,
    tmp_path: Path,
) -> None:
    """Samples at first; a second run changes nothing; new, edited and deleted rows are what they are."""
    form = {**database.form, "destination": f"file://{tmp_path}/music"}

    first = run_dag("musicapi_sql_tables", **form)
    tracks = database.all_tracks()
    second = run_dag("musicapi_sql_tables", **form)

    assert (first.state, second.state) == ("success", "success")
    assert xcom(first, "make_songs")["credits"] == 45
    assert xcom(second, "make_songs")["credits"] == 0
    assert len(tracks) == 6
    assert database.all_tracks() == tracks
    assert {track[1] for track in tracks} == {"harbour-dawn", "night-train", "ode-to-sql"}
    assert all(Path(track[4].removeprefix("file://")).stat().st_size == track[7] for track in tracks)

    odd = ODD.replace("'", "''")
    columns = "(prompt_id, gpt_description_prompt)"
    database.execute(f"INSERT INTO {database.prompts} {columns} VALUES ('o''dd', '{odd}')")  # noqa: S608
    database.execute(f"UPDATE {database.prompts} SET title = 'Dawn' WHERE prompt_id = 'harbour-dawn'")  # noqa: S608
    database.execute(f"DELETE FROM {database.prompts} WHERE prompt_id = 'night-train'")  # noqa: S608
    before = len(simulator.state.jobs)
    third = run_dag("musicapi_sql_tables", **form)

    assert third.state == "success"
    bought = list(simulator.state.jobs.values())[before:]
    assert {job.body.get("title") or job.body["gpt_description_prompt"] for job in bought} == {"Dawn", ODD}
    assert len(database.all_tracks()) == 10
    assert tracks == [track for track in database.all_tracks() if track in tracks]


def test_failed_rows_keep_no_track_from_its_table(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], database: Database, tmp_path: Path
) -> None:
    """The run is red, but what was paid for is in the table; an emptied table buys no samples."""
    form = {**database.form, "destination": f"file://{tmp_path}/music", "max_credits": None}
    run_dag("musicapi_sql_tables", **form)
    database.execute(f"DELETE FROM {database.prompts}")  # noqa: S608
    empty = run_dag("musicapi_sql_tables", **form)
    rows = "('good', 'a harp'), ('refused', 'simulate:moderated')"
    insert = f"INSERT INTO {database.prompts} (prompt_id, gpt_description_prompt) VALUES {rows}"  # noqa: S608
    database.execute(insert)

    run = run_dag("musicapi_sql_tables", **form)

    assert (empty.state, run.state) == ("failed", "failed")
    assert xcom(run, "upsert_tracks") == 2
    assert len(database.all_tracks()) == 8


@pytest.mark.parametrize(
    "name", ["prompts; DROP TABLE users", "prompts --", '"prompts"', "a.b.c", "Prompts", "prömpts", "", "1st"]
)
def test_form_takes_no_sql_for_a_table(run_dag: Callable[..., DagRun], name: str) -> None:
    """A name that is no plain identifier is refused before a run exists."""
    with pytest.raises(ParamValidationError):
        run_dag("musicapi_sql_tables", prompts_table=name)
