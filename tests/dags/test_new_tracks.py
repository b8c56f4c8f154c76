"""The DAG behind the asset: what its events say becomes playlists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

Deliver = Callable[..., AbstractContextManager[None]]
AssetEvents = Callable[[], dict[int, dict[str, Any]]]


def make(run_dag: Callable[..., DagRun], folder: Path, **titles: str) -> None:
    """Make songs of these titles with the large table's DAG, which tells the asset."""
    lines = [
        json.dumps({"prompt_id": id_, "gpt_description_prompt": f"a harp for {id_}", "title": title})
        for id_, title in titles.items()
    ]
    table = folder / "table.jsonl"
    table.write_text("\n".join(lines))
    form = {"prompt_table": f"file://{table}", "destination": f"file://{folder}"}
    assert run_dag("musicapi_large_table", **form).state == "success"


def titles_in(playlist: Path) -> list[str]:
    """Return the titles of a playlist whose entries are all complete."""
    header, *lines = playlist.read_text().split("\n")[:-1]
    assert header == "#EXTM3U"
    for info, name in zip(lines[::2], lines[1::2], strict=True):
        assert re.match(r"#EXTINF:[1-9]\d*,", info)
        assert (playlist.parent / name).stat().st_size > 0
    return [line.partition(",")[2] for line in lines[::2]]


def test_update_becomes_a_playlist_of_what_is_new(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    deliver: Deliver,
    asset_events: AssetEvents,
    tmp_path: Path,
) -> None:
    """Two updates in one run, then one more: each track is new once, and no title breaks the list."""
    new, every = tmp_path / "new_tracks.m3u8", tmp_path / "all_tracks.m3u8"
    make(run_dag, tmp_path, one="One", two="Two\n#EXTINF:9,Injected\u2028x.mp3")
    make(run_dag, tmp_path, one="One", two="Two\n#EXTINF:9,Injected\u2028x.mp3", three="Três, 音楽")
    first, second = list(asset_events())[-2:]
    with deliver("musicapi_new_tracks", first, second):
        both = run_dag("musicapi_new_tracks")
    after_both = titles_in(new)
    make(run_dag, tmp_path, four="Four")
    with deliver("musicapi_new_tracks", list(asset_events())[-1]):
        last = run_dag("musicapi_new_tracks")
        again = run_dag("musicapi_new_tracks")  # as a clear does

    assert [run.state for run in (both, last, again)] == ["success"] * 3
    two = "Two #EXTINF:9,Injected x.mp3"
    assert after_both == ["One", "One", two, two, "Três, 音楽", "Três, 音楽"]
    assert titles_in(new) == ["Four", "Four"]
    assert titles_in(every) == [*after_both, "Four", "Four"]
    assert [xcom(run, "write_playlists") for run in (both, last, again)] == [
        {f"file://{tmp_path}": count} for count in (6, 2, 0)
    ]


def test_by_hand_takes_the_last_update(
    run_dag: Callable[..., DagRun], xcom: Callable[..., Any], tmp_path: Path
) -> None:
    """Nobody has triggered it, so it looks for the asset's last event itself."""
    make(run_dag, tmp_path, one="One")

    run = run_dag("musicapi_new_tracks")

    assert run.state == "success"
    assert xcom(run, "write_playlists") == {f"file://{tmp_path}": 2}


def test_update_that_names_no_manifest_is_told(
    run_dag: Callable[..., DagRun],
    deliver: Deliver,
    asset_events: AssetEvents,
    logs: Callable[[], str],
    tmp_path: Path,
) -> None:
    """An event made by hand is passed over; without another one the run is skipped, and says so."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    make(run_dag, tmp_path, one="One")
    (*_, with_manifest) = asset_events()
    with create_session() as session:
        asset_id = session.scalar(
            sqlalchemy.select(AssetModel.id).where(AssetModel.name == "musicapi_tracks")
        )
        session.add(AssetEvent(asset_id=asset_id, extra={"from_rest_api": True}))
    (*_, by_hand) = asset_events()

    with deliver("musicapi_new_tracks", by_hand):
        alone = run_dag("musicapi_new_tracks")
    with deliver("musicapi_new_tracks", by_hand, with_manifest):
        beside = run_dag("musicapi_new_tracks")

    assert {str(ti.state) for ti in alone.get_task_instances()} == {"skipped"}
    assert "No update names a manifest: run one of the prompt-table DAGs first." in logs()
    assert beside.state == "success"
    assert titles_in(tmp_path / "new_tracks.m3u8") == ["One", "One"]
