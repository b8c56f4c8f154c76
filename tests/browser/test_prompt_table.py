"""The DAGs of prompt tables: rows by their names, and what became of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.place import API_KEY, LARGE, TABLE

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.songs import Songs
    from tests.browser.ui import UI


@pytest.fixture
def table(songs: Songs, finished: Callable[[str, str], str]) -> str:
    """Return the run of the mapped DAG, when it has succeeded."""
    return finished(TABLE, songs.table)


@pytest.mark.parametrize("task_id", ["song.create", "song.wait", "song.store"])
def test_mapped_tasks_bear_their_rows_names(ui: UI, songs: Songs, table: str, task_id: str) -> None:
    """A number would tell nobody which song it is."""
    ui.open_task(TABLE, table, task_id, "mapped")
    names = ui.page.get_by_test_id("table-cell-rendered_map_index")
    expect(names).to_have_count(len(songs.rows))

    assert set(songs.rows) == {name.inner_text() for name in names.all()}


def test_the_run_at_a_glance(ui: UI, table: str, picture: Callable[[Page, str], Path]) -> None:
    """The grid with the group unfolded."""
    ui.open_run(TABLE, table)
    ui.page.get_by_role("button", name="Expand all task groups").click()
    expect(ui.page.locator("a[href$='/tasks/song.store']")).to_be_visible()
    picture(ui.page, "run_grid")

    assert API_KEY not in ui.page.content()


def test_the_manifest_is_a_click_away(ui: UI, songs: Songs, finished: Callable[[str, str], str]) -> None:
    """A line for each row, as soon as it is written."""
    ui.open_task(LARGE, finished(LARGE, songs.large), "make_songs", "details")
    page = ui.open_extra_link("Manifest")

    for row in songs.rows:
        expect(page.locator("body")).to_contain_text(row)


def test_the_sensor_links_to_its_row(ui: UI, table: str) -> None:
    """Each mapped task has the links of its own song."""
    ui.open_task(TABLE, table, "song.wait", "details", map_index=1)

    assert {"Listen", "Cover", "Music task"} <= set(ui.extra_links())
