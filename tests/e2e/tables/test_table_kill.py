"""
Nothing that dies in the middle of a table costs a song or a credit: task, triggerer, simulator.

A real Airflow works off 200 rows while one after the other is killed. Two rows say ``simulate:slow-create``:
they are booked and their answers held, so that a kill there is sure to lose an answer. ``pytest -s`` shows a
table of what was seen.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from include.local.stack import IN_A_HURRY, SIMULATOR_KEY, Stack, connection_json, free_port
from musicapi_provider.storage.partial import INCOMPLETE
from tests import s3
from tests.e2e.tables.accidents import Accidents
from tests.e2e.tables.contents import Contents, as_in_parquet, check_tracks
from tests.e2e.tables.run import DAG_ID, Destination, Run, World
from tests.e2e.tables.shop import Shop
from tests.s3 import S3Bucket, s3_bucket

pytestmark = pytest.mark.e2e
__all__ = ["s3_bucket"]

HERE = Path(__file__).parent
ROWS, PRICE = 200, 15
#: Rows whose answers are held: for a kill of the task, and for one of the simulator.
HELD_FOR_TASK, HELD_FOR_SIMULATOR = 30, 130


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start Airflow and the simulator, every part a process."""
    folder = tmp_path_factory.mktemp("tables")
    processes = folder / "processes"
    processes.mkdir()
    port = free_port()
    settings = {
        **IN_A_HURRY,
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW_CONN_MUSICAPI_DEFAULT": connection_json(
            f"http://127.0.0.1:{port}", SIMULATOR_KEY, poll_interval=1, polls_per_second=50
        ),
        f"AIRFLOW_CONN_{s3.CONN_ID.upper()}": s3.connection_json(s3.endpoint()),
        "E2E_PROCESSES": str(processes),
    }
    with Stack(home=folder / "airflow", settings=settings) as stack:
        shop = Shop(stack, folder / "sales.jsonl", port)
        shop.open()
        yield World(stack, stack.start_with([DAG_ID]), shop, processes)
        stack.kill("triggerer")  # it would take ten seconds to say goodbye


def write_table(path: Path, prompts: Sequence[str]) -> str:
    """Write a prompt table and return its URI."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt_id", "custom_mode", "gpt_description_prompt", "mv"])
        writer.writerows([f"row-{i:03}", "false", prompt, "sonic-v5"] for i, prompt in enumerate(prompts))
    return f"file://{path}"


def test_table_of_200_rows_survives_every_kill(world: World, tmp_path: Path) -> None:
    """At the end every row was bought once and has its tracks once; nothing is left over, or asked again."""
    held = {HELD_FOR_TASK, HELD_FOR_SIMULATOR}
    prompts = [f"a song about {i}{' simulate:slow-create' * (i in held)}" for i in range(ROWS)]
    conf = {"prompt_table": write_table(tmp_path / "table.csv", prompts)}
    destination = Destination(tmp_path / "music")
    conf["destination"] = destination.uri
    shop = world.shop

    run = Run(world, **conf)
    accidents = strike_in_sequence(world, run, destination, prompts)
    assert run.until_over() == "failed"
    summary = run.summary()
    before = Contents(destination.contents()).manifest(summary["manifest"])
    unknown = [entry for entry in before if entry["state"] == "unknown outcome"]
    found = {entry["prompt_id"]: shop.sold(entry["body"]["gpt_description_prompt"]) for entry in unknown}
    accidents.blame(unknown)
    booked = {row: "booked" if sales else "not booked" for row, sales in found.items()}
    sys.stdout.write(f"\n{accidents.table()}\n{booked}, {run.instance()['try_number']} tries\n")

    # All others are stored; an unknown outcome is one for the simulator's records to explain.
    assert Counter(entry["state"] for entry in before) == {
        "stored": ROWS - len(unknown),
        "unknown outcome": len(unknown),
    }
    assert (summary["stored"], summary["unknown"]) == (ROWS - len(unknown), len(unknown))
    assert {f"row-{i:03}" for i in held} <= {entry["prompt_id"] for entry in unknown}
    assert [strike.name for strike in accidents.strikes if len(strike.unknown) > 1] == []
    assert max(len(sales) for sales in found.values()) == 1

    shop.set(job_rule="at-once")
    settle = {row: sales[0].music_task_id if sales else "resubmit" for row, sales in found.items()}
    settled = Run(world, **conf, settle=settle)
    assert settled.until_over() == "success", settled.log()
    contents = Contents(destination.contents())
    manifest = contents.manifest(settled.summary()["manifest"])

    assert settled.summary()["stored"] == ROWS
    assert Counter(prompts) == Counter(sale.prompt for sale in shop.sales())
    assert shop.state()["creates_booked"] == dict.fromkeys(prompts, 1)
    assert shop.state()["credits"] == 100000 - ROWS * PRICE
    assert sum(entry["credits"] for entry in manifest) == ROWS * PRICE
    check_tracks(contents, manifest, shop.sales())
    assert not (destination.folder / INCOMPLETE).exists()
    assert as_in_parquet(manifest) == contents.parquet(settled.summary()["manifest"])

    asked = shop.state()["requests"]
    again = Run(world, **conf)

    assert again.until_over() == "success", again.log()
    assert again.summary()["credits"] == 0
    assert shop.state()["requests"] == asked


def strike_in_sequence(world: World, run: Run, destination: Destination, prompts: Sequence[str]) -> Accidents:
    """Kill one after the other while rows are bought and stored; return what was seen."""
    accidents = Accidents(world, run, destination)
    accidents.until_booked(prompts[HELD_FOR_TASK])
    accidents.kill_task("task, a create booked and not answered")
    accidents.until_storing()
    accidents.kill_task("task, while it stores")
    # From here on music tasks end only when they are looked at: the task has to leave them to the triggerer.
    world.shop.set(job_rule="reads:20")
    accidents.until_waiting()
    accidents.kill_triggerer("triggerer, while it waits")
    world.shop.set(job_rule=world.shop.jobs)
    accidents.until_storing()
    accidents.kill_task("task, resumed, while it stores")
    accidents.until_booked(prompts[HELD_FOR_SIMULATOR])
    accidents.kill_simulator("simulator, a create booked and not answered")
    accidents.until_create_arrives()
    accidents.kill_simulator("simulator, a create arrived and not booked")
    return accidents


def test_table_on_s3_is_complete_and_bought_once(world: World, s3_bucket: S3Bucket, tmp_path: Path) -> None:
    """The same over S3: bought, left to the triggerer, collected; every row once, and no upload left open."""
    prompts = [f"a song in the cloud about {i}" for i in range(40)]
    write_table(tmp_path / "table.csv", prompts)
    s3_bucket.client.upload_file(str(tmp_path / "table.csv"), s3_bucket.name, "table.csv")
    table = f"s3://{s3.CONN_ID}@{s3_bucket.name}/table.csv"
    world.shop.set(job_rule="reads:30")  # looks, one a second: longer than it takes to buy and to linger
    before = len(world.shop.sales())

    run = Run(world, prompt_table=table, destination=s3_bucket.uri)
    assert run.until_over() == "success", run.log()
    contents = Contents(contents_of(s3_bucket))
    manifest = contents.manifest(run.summary()["manifest"])

    assert run.starts() > 1  # it was deferred
    check_tracks(contents, manifest, world.shop.sales()[before:])
    assert as_in_parquet(manifest) == contents.parquet(run.summary()["manifest"])
    assert s3_bucket.unfinished_uploads() == []


def contents_of(bucket: S3Bucket) -> dict[str, bytes]:
    """Return all objects in the folder of a bucket, by their paths in it."""
    keys = [key for key in bucket.sizes() if key.startswith("music/")]
    read = {key: bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read() for key in keys}
    return {key.removeprefix("music/"): content for key, content in read.items()}
