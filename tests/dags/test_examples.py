"""Each example DAG, run by Airflow against the simulator, real deferrals included."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mutagen
import pytest
from airflow.configuration import conf

from musicapi_provider.prompt_table import parse_prompt_table
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

    from include.musicapi_simulator import SimulatorServer

pytestmark = pytest.mark.dags

EXAMPLES = sorted(path.stem for path in (PROJECT / "dags").glob("*.py"))
TABLE = PROJECT / "include" / "prompts" / "evening_radio.csv"
FIRST_TABLE = ("prompt_id,gpt_description_prompt", "kept,a calm harp", "edited,a loud harp")


def states(run: DagRun) -> dict[tuple[str, int], str]:
    """Return the state of each task instance by task id and map index."""
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}


def write_table(folder: Path, *lines: str) -> str:
    """Write a prompt table and return its URI."""
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return f"file://{table}"


def manifest_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the manifest that a summary names."""
    lines = Path(summary["manifest"].removeprefix("file://")).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_example_parses_with_docs_and_tags(dag_bag: DagBag) -> None:
    """Every DAG file gives one DAG of its own name, with a page of documentation and tags."""
    assert dag_bag.import_errors == {}
    assert sorted(dag_bag.dags) == EXAMPLES
    for dag in dag_bag.dags.values():
        assert dag.doc_md.strip().startswith("# ")
        assert {"musicapi", "example"} <= set(dag.tags)


#: Where a DAG of anybody's may import from.
PUBLIC = re.compile(
    r"musicapi_provider\.(api\.bodies|forms|hooks\.musicapi|operators(\.\w+)?|sensors\.musicapi|storage(\.playlists)?"
    r"|prompt_table\.results|links\.takes|retry_policy|webhooks\.assets)"
)


@pytest.mark.parametrize("path", sorted((PROJECT / "dags").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_screen_and_uses_public_names(path: Path) -> None:
    """Somebody reads it in a minute, and may copy every line of it."""
    source = path.read_text()
    imported = [
        (node.module or "", alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    ours = [(module, name) for module, name in imported if module.startswith("musicapi_provider")]

    assert source.count("\n") <= 80
    assert not [name for _, name in ours if name.startswith("_")]
    assert all(PUBLIC.fullmatch(module) for module, _ in ours)


def test_examples_lead_from_one_to_the_next(dag_bag: DagBag) -> None:
    """Whoever reads on gets to all of them, in the order of the tutorial, and back."""
    order = ["single_track", "choose_take", "prompt_table", "large_table", "sql_tables", "new_tracks"]
    order += ["order", "on_arrival"]
    names = [f"musicapi_{name}" for name in order]

    assert sorted(names) == EXAMPLES
    for before, after in pairwise(names):
        assert f"Next: [{after}](/dags/{after})." in dag_bag.dags[before].doc_md
        assert f"Previous: [{before}](/dags/{before})." in dag_bag.dags[after].doc_md


@pytest.mark.parametrize("name", EXAMPLES)
def test_importing_an_example_touches_no_network(name: str) -> None:
    """Parsing happens every few seconds, so it must neither connect nor look anything up."""
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network at import")
import airflow.sdk
socket.socket.connect = socket.getaddrinfo = refuse
sys.path.insert(0, {str(PROJECT / "dags")!r})
import {name}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_prompt_table_becomes_tracks(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    logs: Callable[..., str],
    simulator: SimulatorServer,
    tmp_path: Path,
) -> None:
    """Every shipped row ends as two playable files, URLs in XCom, a manifest and an asset event."""
    rows = parse_prompt_table(TABLE.read_bytes(), name=str(TABLE))

    run = run_dag("musicapi_prompt_table", prompt_table=f"file://{TABLE}", destination=f"file://{tmp_path}")

    assert run.state == "success", states(run)
    assert sum(simulator.state.creates_booked.values()) == len(rows) >= 8
    for index, row in enumerate(rows):
        tracks = xcom(run, "song.wait", map_index=index)
        assert [track["audio_url"].startswith("http") for track in tracks] == [True, True]
        for record in xcom(run, "song.store", map_index=index):
            file = tmp_path / f"{record['clip_id']}.mp3"
            assert mutagen.File(file).info.length > 0
            assert record["prompt_id"] == row.prompt_id
            sidecar = json.loads((tmp_path / f"{record['clip_id']}.json").read_text())
            assert sidecar["about"]["credits"] == 15
    (manifest,) = (tmp_path / "manifests").glob("*.jsonl")
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [entry["prompt_id"] for entry in entries] == [row.prompt_id for row in rows]
    assert {entry["state"] for entry in entries} == {"stored"}
    labels = {(ti.task_id, ti.map_index, ti.rendered_map_index) for ti in run.get_task_instances()}
    for task_id in ("song.create", "song.wait", "song.store"):
        assert {(task_id, index, row.prompt_id) for index, row in enumerate(rows)} <= labels
    assert "Pausing task as DEFERRED" in logs(), "no sensor deferred"
    with sqlite3.connect(database()) as db:
        extras = [json.loads(extra) for (extra,) in db.execute("select extra from asset_event")]
    assert extras[-1] == {
        **{"manifest": f"file://{manifest}", "destination": f"file://{tmp_path}"},
        **{"rows": len(rows), "stored": len(rows), "tracks": 2 * len(rows), "without_tracks": 0},
        **{"unknown": 0, "postponed": 0, "credits": 15.0 * len(rows), "lost_credits": 0.0},
    }


def test_failed_row_stops_nobody_else(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """A failed row turns the run red, after the others are stored and the manifest is written."""
    table = write_table(
        tmp_path,
        "prompt_id,gpt_description_prompt",
        "good,a calm harp",
        "refunded,simulate:all-failed",
        "refused,simulate:moderated",
    )

    run = run_dag("musicapi_prompt_table", prompt_table=table, destination=f"file://{tmp_path}")

    assert run.state == "failed"
    states_by_row = {entry["prompt_id"]: entry["state"] for entry in manifest_of(xcom(run, "write_manifest"))}
    assert states_by_row == {"good": "stored", "refunded": "failed", "refused": "not submitted"}
    assert states(run)["song.store", 0] == "success"
    assert len(list(tmp_path.glob("*.mp3"))) == 2


def test_second_run_buys_only_what_is_new(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Stored rows are done, bought ones are collected, edited and new ones are bought."""
    conf = {"prompt_table": write_table(tmp_path, *FIRST_TABLE), "destination": f"file://{tmp_path}"}
    simulator.state.scenario("media-404", times=100)
    assert run_dag("musicapi_prompt_table", **conf).state == "failed"  # bought, but nothing could be stored
    simulator.state.clear_scenarios()
    assert run_dag("musicapi_prompt_table", **conf).state == "success"  # collected
    write_table(tmp_path, *FIRST_TABLE[:2], "edited,a louder harp", "new,a harp duet")

    run = run_dag("musicapi_prompt_table", **conf)

    assert run.state == "success"
    booked = {prompt: count for prompt, count in simulator.state.creates_booked.items() if count}
    assert booked == {"a calm harp": 1, "a loud harp": 1, "a louder harp": 1, "a harp duet": 1}
    assert [entry["state"] for entry in manifest_of(xcom(run, "write_manifest"))] == ["stored"] * 3


def test_lost_answer_is_not_bought_again_by_the_next_run(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """A row that may have been paid for stays out of later runs until somebody has decided."""
    table = write_table(tmp_path, "prompt_id,gpt_description_prompt", "lost,simulate:drop-after-booking")
    conf = {"prompt_table": table, "destination": f"file://{tmp_path}"}

    runs = [run_dag("musicapi_prompt_table", **conf) for _ in range(2)]

    assert [run.state for run in runs] == ["failed", "failed"]
    assert [manifest_of(xcom(run, "write_manifest"))[0]["state"] for run in runs] == ["unknown outcome"] * 2
    assert simulator.state.requests["POST /sonic/create"] == 1


def test_lost_answer_is_settled_by_the_form(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Found at the vendor or to be bought again: two decisions, and every row is done."""
    lost = ("found,simulate:drop-after-booking", "again,a lost simulate:drop-before-booking")
    table = write_table(tmp_path, "prompt_id,gpt_description_prompt", *lost)
    conf = {"prompt_table": table, "destination": f"file://{tmp_path}"}
    run_dag("musicapi_prompt_table", **conf)
    (found,) = simulator.state.jobs

    run = run_dag("musicapi_prompt_table", **conf, settle={"found": found, "again": "resubmit"})

    assert run.state == "success"
    assert {entry["prompt_id"]: entry["state"] for entry in manifest_of(xcom(run, "write_manifest"))} == {
        "found": "stored",
        "again": "stored",
    }
    assert sum(simulator.state.creates_booked.values()) == 2


def test_run_spends_no_more_than_its_limit(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Two rows fit into 40 credits; the next run buys the third, and only that."""
    rows = ("one,a harp", "two,a flute", "three,a drum")
    table = write_table(tmp_path, "prompt_id,gpt_description_prompt", *rows)
    conf = {"prompt_table": table, "destination": f"file://{tmp_path}", "max_credits": 40}

    runs = [run_dag("musicapi_prompt_table", **conf) for _ in range(2)]

    assert [run.state for run in runs] == ["success", "success"]
    states = [[entry["state"] for entry in manifest_of(xcom(run, "write_manifest"))] for run in runs]
    assert states == [["stored", "stored", "postponed"], ["stored"] * 3]
    assert set(simulator.state.creates_booked.values()) == {1}


def test_bad_rows_stop_the_run_before_anything_is_paid(
    run_dag: Callable[..., DagRun], logs: Callable[..., str], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """All bad rows are named with line and column, and no create leaves."""
    table = write_table(
        tmp_path,
        "prompt_id,gpt_description_prompt,custom_mode",
        "one,fine,false",
        f"two,{'x' * 401},false",
        "one,again,perhaps",
    )

    run = run_dag("musicapi_prompt_table", prompt_table=table, destination=f"file://{tmp_path}")

    assert run.state == "failed"
    text = logs()
    assert "table.csv:3:2: gpt_description_prompt: may have 400 characters at most" in text
    assert "table.csv:4:1: prompt_id: 'one' stands on line 2 already" in text
    assert "table.csv:4:3: custom_mode: must be true or false" in text
    assert simulator.state.requests["POST /sonic/create"] == 0


def test_text_of_a_table_is_never_rendered(
    run_dag: Callable[..., DagRun], simulator: SimulatorServer, tmp_path: Path
) -> None:
    """What looks like a template in a cell is sent as it stands."""
    text = "{{ 7 * 7 }} {% raw %} {{ conn.musicapi_default.password }}"
    table = write_table(tmp_path, "prompt_id,gpt_description_prompt", f"odd,{text}")

    run = run_dag("musicapi_prompt_table", prompt_table=table, destination=f"file://{tmp_path}")

    assert run.state == "success"
    (job,) = simulator.state.jobs.values()
    assert job.body["gpt_description_prompt"] == text


def test_key_is_nowhere_in_airflow(
    run_dag: Callable[..., DagRun],
    logs: Callable[..., str],
    connect: Callable[..., None],
    simulator: SimulatorServer,
    tmp_path: Path,
) -> None:
    """After runs that succeed, defer and fail, the key is in no table and in no log."""
    key = "sk-secret-0123456789"
    simulator.state.configure(api_key=key)
    connect(simulator.base_url, key, poll_interval=0.01)

    good = run_dag("musicapi_single_track", destination=f"file://{tmp_path}", description="a calm harp")
    simulator.state.scenario("unauthorized")
    bad = run_dag("musicapi_single_track", destination=f"file://{tmp_path}", description="a loud harp")

    assert (good.state, bad.state) == ("success", "failed")
    with sqlite3.connect(database()) as db:
        assert not [line for line in db.iterdump() if key in line]
    assert "Submitting" in (text := logs())
    assert key not in text


def database() -> str:
    """Return the path of the test run's database."""
    return conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///")
