"""The DAG that asks a person: what is asked, what an answer does, what goes wrong without a loss."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.links.pages import media_path
from musicapi_provider.storage.index import read_index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

    from include.musicapi_simulator import SimulatorServer

pytestmark = pytest.mark.dags

DAG_ID = "musicapi_choose_take"
TAKES = ["Take 1", "Take 2"]


def picks(folder: Path) -> dict[str, str]:
    """Return who has picked which clip, by the index."""
    rows = read_index((folder / "index.csv").read_bytes())
    return {row.clip_id: row.picked_by for row in rows}


def audio(folder: Path) -> set[str]:
    """Return the clips whose audio is there."""
    return {file.stem for file in folder.glob("*.mp3")}


@pytest.mark.parametrize(("option", "other_take"), [("Take 1", "keep"), ("Take 2", "drop")])
def test_take_that_a_person_picks_bears_their_name(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    answer: Callable[..., list[dict[str, Any]]],
    simulator: SimulatorServer,
    tmp_path: Path,
    option: str,
    other_take: str,
) -> None:
    """Both takes are stored before the question; the other one stays or goes as the form says."""
    asked = answer("ada", option)
    form = {"description": "a calm harp", "destination": f"file://{tmp_path}", "other_take": other_take}

    run = run_dag(DAG_ID, **form)

    assert run.state == "success"
    (question,) = asked
    takes = [take["clip_id"] for take in xcom(run, "store")]
    picked, other = takes if option == "Take 1" else takes[::-1]
    assert question["subject"] == 'Which take of "a calm harp"?'
    assert question["options"] == TAKES
    listen = re.findall(r"\*\*(Take \d)\*\*: .+, \d:\d\d min, \[listen\]\((.+)\)", question["body"])
    assert listen == [
        (name, media_path(form["destination"], clip_id, "audio"))
        for name, clip_id in zip(TAKES, takes, strict=True)
    ]
    assert xcom(run, "keep")["clip_id"] == picked
    assert picks(tmp_path) == {picked: "ada"} | ({other: ""} if other_take == "keep" else {})
    assert audio(tmp_path) == ({picked, other} if other_take == "keep" else {picked})
    assert sum(simulator.state.creates_booked.values()) == 1


def test_later_choice_counts(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    answer: Callable[..., list[dict[str, Any]]],
    dag_bag: DagBag,
    tmp_path: Path,
) -> None:
    """Clearing keep does nothing twice; another answer takes the first one back."""
    answer("ada", "Take 1")
    run = run_dag(DAG_ID, destination=f"file://{tmp_path}")
    takes, first = xcom(run, "store"), xcom(run, "choose")
    keep = dag_bag.dags[DAG_ID].task_dict["keep"].python_callable
    params = {"destination": f"file://{tmp_path}", "other_take": "keep"}
    before = picks(tmp_path)

    again = keep(list(takes), first, params)
    after_again = picks(tmp_path)
    second = {**first, "chosen_options": ["Take 2"], "responded_by_user": {"id": "2", "name": "bob"}}
    keep(list(takes), second, params)
    after_second = picks(tmp_path)
    keep(list(takes), {**second, "responded_by_user": None}, params)

    one, two = (take["clip_id"] for take in takes)
    assert before == after_again == {one: "ada", two: ""}
    assert again == xcom(run, "keep")
    assert after_second == {one: "", two: "bob"}
    assert picks(tmp_path) == {one: "", two: "nobody in time"}


def test_only_take_is_presented_as_such_and_the_other_cannot_be_picked(
    run_dag: Callable[..., DagRun],
    xcom: Callable[..., Any],
    answer: Callable[..., list[dict[str, Any]]],
    logs: Callable[[], str],
    simulator: SimulatorServer,
    tmp_path: Path,
) -> None:
    """When one take failed, the question says so; who picks it all the same loses nothing."""
    asked = answer("ada", "Take 2")
    form = {"destination": f"file://{tmp_path}", "other_take": "drop"}

    run = run_dag(DAG_ID, description="simulate:partial", **form)

    assert run.state == "failed"
    assert asked[0]["body"].count("[listen]") == 1
    assert asked[0]["body"].endswith("Only one take of this song succeeded: choose Take 1.")
    assert "There is no Take 2: only one take succeeded, and it is stored." in logs()
    (take,) = xcom(run, "store")
    assert audio(tmp_path) == {take["clip_id"]}
    assert picks(tmp_path) == {take["clip_id"]: ""}


def test_template_in_the_form_is_sung_as_it_stands(
    run_dag: Callable[..., DagRun],
    answer: Callable[..., list[dict[str, Any]]],
    simulator: SimulatorServer,
    tmp_path: Path,
) -> None:
    """Text of the form is data: sent, and asked about, as it was typed."""
    asked = answer("ada", "Take 1")
    text = "{{ 7 * 7 }} {{ conn.musicapi_default.password }}"

    run = run_dag(DAG_ID, description=text, title=text, tags="harp", destination=f"file://{tmp_path}")

    assert run.state == "success"
    (job,) = simulator.state.jobs.values()
    sent = {"custom_mode": False, "gpt_description_prompt": text, "title": text, "tags": "harp"}
    assert job.body == {"task_type": "create_music", "mv": "sonic-v5", **sent}
    assert asked[0]["subject"] == f'Which take of "{text}"?'


def test_no_place_for_the_takes_is_found_out_before_paying(
    run_dag: Callable[..., DagRun], simulator: SimulatorServer
) -> None:
    """A destination that does not exist fails the first task."""
    run = run_dag(DAG_ID, destination="nowhere://music")

    assert run.state == "failed"
    assert simulator.state.requests["POST /sonic/create"] == 0
