"""
A table of 100 rows while everything that a distributed Airflow consists of is struck, one after another.

``make test-cluster ARGS=-s`` prints what was seen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.cluster.faults import Faults, states
from tests.cluster.place import Run, World
from tests.e2e.tables.contents import Contents, as_in_parquet, check_tracks

pytestmark = pytest.mark.cluster
ROWS, PRICE = 100, 15


def test_no_fault_costs_a_song_or_a_credit(world: World) -> None:
    """At the end every row was bought once and has its tracks once; no part of a file is left."""
    prompts = {f"row-{i:03}": f"a song that survives, number {i}" for i in range(ROWS)}
    folder, since = world.folder("faults"), len(world.shop.sales())
    balance = world.shop.state()["credits"]
    conf = {"prompt_table": world.put_table("faults.csv", list(prompts.values())), "destination": folder.uri}

    run = Run(world, "cluster_table", **conf)
    faults = strike_in_sequence(Faults(world, run, folder))
    run.until_over()
    before = Contents(folder.contents()).manifest(run.summary()["manifest"])
    faults.judge(prompts, before, since)
    tries = run.instance()["try_number"]
    sys.stdout.write(f"\n{faults.table()}\n{dict(states(before))}, {tries} tries\n")

    assert states(before).keys() <= {"stored", "unknown outcome"}
    assert [one for one in faults.seen if one.lost or one.duplicated or len(one.unknown) > 1] == []

    settled = Run(world, "cluster_table", **conf, settle=decisions(world, before, since))
    assert settled.until_over() == "success", settled.logs()
    contents = Contents(folder.contents())
    manifest = contents.manifest(settled.summary()["manifest"])
    sales = world.shop.sales()[since:]

    assert states(manifest) == {"stored": ROWS}
    assert Counter(sale.prompt for sale in sales) == Counter(prompts.values())
    assert world.shop.state()["credits"] == balance - ROWS * PRICE
    check_tracks(contents, manifest, sales)  # temporary objects would be among what is too much
    assert as_in_parquet(manifest) == contents.parquet(settled.summary()["manifest"])
    assert world.unfinished_uploads() == []


def strike_in_sequence(faults: Faults) -> Faults:
    """Strike one after the other while rows are bought, stored and waited for."""
    faults.until_sold(8)
    faults.kill_worker()
    for name in ("redis", "postgres", "scheduler"):
        faults.until_sold(4)
        faults.restart(name)
    for name in ("s3", "simulator"):
        faults.until_sold(4)
        faults.take_away(name)
    # Nothing ends: as soon as no more may be in flight, the task leaves them to a triggerer.
    faults.world.shop.hold()
    faults.until_waiting()
    faults.kill_triggerer()
    faults.world.shop.release()
    return faults


def decisions(world: World, manifest: Sequence[dict[str, object]], since: int) -> dict[str, str]:
    """Return what somebody decides who looks into the account: each song is there, or it is not."""
    sold = {sale.prompt: sale.music_task_id for sale in world.shop.sales()[since:]}
    unknown = [entry for entry in manifest if entry["state"] == "unknown outcome"]
    return {
        str(entry["prompt_id"]): sold.get(entry["body"]["gpt_description_prompt"], "resubmit")  # type: ignore[index]
        for entry in unknown
    }
