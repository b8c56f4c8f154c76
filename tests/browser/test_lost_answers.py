"""The answer to a create is lost: what a person sees, decides, and gets, without a change of the DAG."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.place import API_KEY, SINGLE, TABLE

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.ui import UI

#: Booked, but nobody is told.
LOST = "simulate:drop-after-booking"


def booked(place: Place, words: str) -> list[str]:
    """Return the ids of the music tasks that the API has booked for a description."""
    jobs = place.simulator.state.jobs.items()
    return [id_ for id_, job in jobs if words in str(job.body.get("gpt_description_prompt"))]


def on_record(place: Place, *where: str) -> dict[str, str]:
    """Return what the command line lists: states by name."""
    command = [sys.executable, "-m", "airflow", "musicapi", "purchases", *where, "--output", "json"]
    done = subprocess.run(command, env=place.stack.environment, capture_output=True, text=True, check=True)
    return {entry["order"]: entry["state"] for entry in json.loads(done.stdout)}


@pytest.fixture
def lose(ui: UI, place: Place, connection: None) -> Callable[[str], str]:
    """Return a function that orders a single track, whose answer is lost; its dag run has the record."""

    def run(description: str) -> str:
        form = {"description": f"{description}, {LOST}", "title": "Dead Letter", "destination": place.music}
        run_id = place.api.trigger(SINGLE, form)
        ui.wait_for_run(SINGLE, run_id, "Failed")
        return run_id

    return run


@pytest.fixture
def lost_row(ui: UI, place: Place, connection: None) -> str:
    """Return a run of a table, one of whose rows has failed by a lost answer; a folder has the records."""
    file = place.folder / "lost.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["prompt_id", "gpt_description_prompt", "title"])
        writer.writerow(["kept", "Two rows in one boat, the first", "Kept"])
        writer.writerow(["adrift", f"Two rows in one boat, the second, {LOST}", "Adrift"])
    form = {"prompt_table": f"file://{file}", "destination": f"{place.music}/lost"}
    run_id = place.api.trigger(TABLE, form)
    ui.wait_for_run(TABLE, run_id, "Failed")
    return run_id


def test_a_lost_answer_is_adopted_by_a_click(
    ui: UI, place: Place, lose: Callable[[str], str], picture: Callable[[Page, str], Path]
) -> None:
    """From the failed task's button to the stored song; booked once."""
    run_id = lose("Letters that never arrive")
    (music_task_id,) = booked(place, "Letters that never arrive")
    ui.open_task(SINGLE, run_id, "create", "details")
    assert set(ui.extra_links()) == {"Music task"}
    page = ui.open_extra_link("Music task")
    expect(page.get_by_role("heading", name="Dead Letter")).to_be_visible()
    expect(page.locator("dl")).to_contain_text("about 15 credits")
    ((name, state),) = on_record(place, "--run", SINGLE, run_id).items()
    expect(page.locator("dl")).to_contain_text(name)
    page.get_by_role("textbox").fill(music_task_id)
    page.set_viewport_size({"width": 1280, "height": 800})
    picture(page, "lost_answer")
    page.get_by_role("button", name="Adopt it").click()

    expect(page.get_by_role("status")).to_contain_text("Decided, and the task is cleared")
    assert API_KEY not in page.content()
    assert state == "unknown outcome"
    assert on_record(place, "--run", SINGLE, run_id) == {name: "submitted"}
    ui.wait_for_run(SINGLE, run_id)
    assert booked(place, "Letters that never arrive") == [music_task_id]


def test_a_lost_row_of_a_mapped_create_is_adopted_by_a_click(ui: UI, place: Place, lost_row: str) -> None:
    """Its neighbour is left alone; the table is complete then, and each row booked once."""
    (music_task_id,) = booked(place, "the second")
    (index,) = [
        one["map_index"]
        for one in place.api.task_instances(TABLE, lost_row)
        if one["task_id"] == "song.create" and one["state"] == "failed"
    ]
    ui.open_task(TABLE, lost_row, "song.create", "details", map_index=index)
    page = ui.open_extra_link("Music task")
    expect(page.locator("dl")).to_contain_text("adrift")
    page.get_by_role("textbox").fill(music_task_id)
    page.get_by_role("button", name="Adopt it").click()
    expect(page.get_by_role("status")).to_contain_text("Decided, and the task is cleared")
    ui.wait_for_run(TABLE, lost_row)

    assert len(booked(place, "Two rows in one boat")) == 2
    assert [*on_record(place, "--folder", f"{place.music}/lost").values()] == ["submitted"] * 2
    assert "adrift" in Path(f"{place.stack.home}/music/lost/index.csv").read_text()


def test_a_lost_answer_is_sent_again_only_by_who_is_sure(
    ui: UI, place: Place, lose: Callable[[str], str]
) -> None:
    """A box has to be ticked: this one was booked, and is paid twice."""
    run_id = lose("Return to sender")
    ui.open_task(SINGLE, run_id, "create", "details")
    page = ui.open_extra_link("Music task")
    send = page.get_by_role("button", name="Send it again")
    expect(send).to_be_disabled()
    page.get_by_role("checkbox").check()
    send.click()
    expect(page.get_by_role("status")).to_contain_text("Decided, and the task is cleared")
    ui.wait_for_run(SINGLE, run_id)

    assert len(booked(place, "Return to sender")) == 2
