"""The prompt-table DAGs, on Celery and an object store, give what they give on one machine."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cluster.place import Run, World
from tests.cluster.search import decrypted
from tests.e2e.tables.contents import Contents, as_in_parquet, check_tracks

pytestmark = pytest.mark.cluster
PROMPTS = [f"a song of many machines {i}" for i in range(8)]


def test_mapped_tasks_make_the_table(world: World) -> None:
    """Rows are spread over both workers; each is bought once and has its tracks."""
    folder, before = world.folder("mapped"), len(world.shop.sales())
    table = world.put_table("mapped.csv", [f"{prompt}, mapped" for prompt in PROMPTS])
    run = Run(world, "musicapi_prompt_table", prompt_table=table, destination=folder.uri)
    state = run.until_over()
    hosts = Counter(one["hostname"] for one in run.instances())
    contents = Contents(folder.contents())
    (name,) = [name for name in contents.files if name.startswith("manifests/") and name.endswith(".jsonl")]
    manifest = contents.manifest(f"{folder.uri}/{name}")

    assert state == "success", run.logs()
    assert hosts.keys() >= {"worker-1", "worker-2"}
    check_tracks(contents, manifest, world.shop.sales()[before:])
    assert run.xcom("write_manifest")["tracks"] == sum(len(entry["tracks"]) for entry in manifest)
    assert world.unfinished_uploads() == []


def test_operator_makes_the_table(world: World, key: str) -> None:
    """One task buys, leaves the rest to a triggerer, and collects; a second run buys nothing."""
    folder, before = world.folder("operator"), len(world.shop.sales())
    table = world.put_table("operator.csv", [f"{prompt}, in one task" for prompt in PROMPTS])
    conf = {"prompt_table": table, "destination": folder.uri}
    world.shop.hold()
    run = Run(world, "musicapi_large_table", **conf)
    run.until_waited_for()
    triggers = b"".join(content for _, content in decrypted(world, "trigger"))
    world.shop.release()
    state = run.until_over()
    contents = Contents(folder.contents())
    manifest = contents.manifest(run.summary()["manifest"])
    sales = world.shop.sales()[before:]

    assert state == "success", run.logs()
    check_tracks(contents, manifest, sales)
    assert [sale for sale in sales if sale.music_task_id.encode() not in triggers] == []
    assert key.encode() not in triggers
    assert as_in_parquet(manifest) == contents.parquet(run.summary()["manifest"])
    assert world.unfinished_uploads() == []

    again = Run(world, "musicapi_large_table", **conf)

    assert again.until_over() == "success", again.logs()
    assert world.shop.sales()[before:] == sales
