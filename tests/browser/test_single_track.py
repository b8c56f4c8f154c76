"""The DAG musicapi_single_track: its form, and what a person sees while a song is made and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.place import API_KEY, SINGLE
from tests.browser.songs import LYRICS, TAGS, TITLE

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.ui import UI


def test_the_form_arrives_at_the_api(place: Place, song: str) -> None:
    """Every section's fields, with the lines of the lyrics as they were typed."""
    jobs = list(place.simulator.state.jobs.values())
    (body,) = [job.body for job in jobs if job.body.get("title") == TITLE]

    assert body == {
        "task_type": "create_music",
        "custom_mode": True,
        "prompt": LYRICS,
        "title": TITLE,
        "tags": TAGS,
        "negative_tags": "autotune",
        "vocal_gender": "f",
        "make_instrumental": False,
        "mv": "sonic-v4-5",
        "style_weight": 0.7,
        "weirdness_constraint": 0.25,
    }


@pytest.mark.parametrize(
    ("task_id", "story"),
    [
        pytest.param("create", ["Submitting", "is bought", "2 tracks"], id="create"),
        pytest.param("store", ["Stored", "2 tracks are in"], id="store"),
    ],
)
def test_the_log_tells_the_story(
    ui: UI, song: str, picture: Callable[[Page, str], Path], task_id: str, story: list[str]
) -> None:
    """What was bought for how much, and where it is; never the key."""
    ui.open_task(SINGLE, song, task_id)
    expect(ui.page.get_by_test_id("virtual-scroll-container")).to_contain_text(story[-1])
    log = ui.page.get_by_test_id("virtual-scroll-container").inner_text()
    picture(ui.page, "task_log" if task_id == "create" else "store_log")

    assert [line for line in story if line not in log] == []
    assert API_KEY not in ui.page.content()


def test_rendered_fields_are_readable(ui: UI, song: str, picture: Callable[[Page, str], Path]) -> None:
    """The body as JSON, field by field, without the key."""
    ui.open_task(SINGLE, song, "create", "rendered_templates")
    expect(ui.page.get_by_test_id("main-content")).to_contain_text("style_weight")
    picture(ui.page, "rendered_fields")

    assert TITLE in ui.main_text()
    assert API_KEY not in ui.page.content()


def test_xcom_holds_id_and_tracks(ui: UI, song: str) -> None:
    """What other tasks and people need."""
    ui.open_task(SINGLE, song, "create", "xcom")

    for key in ("music_task_id", "submission", "return_value"):
        expect(ui.page.get_by_role("cell", name=key, exact=True)).to_be_visible()
    assert API_KEY not in ui.page.content()


@pytest.mark.parametrize(
    ("task_id", "names"),
    [
        pytest.param("create", {"Listen", "Cover", "Music task"}, id="create"),
        pytest.param("store", {"Listen", "Cover", "Tracks"}, id="store"),
    ],
)
def test_links_lead_to_the_music(ui: UI, song: str, task_id: str, names: set[str]) -> None:
    """One click away, at the vendor's host, and stored through Airflow's own server; http or https only."""
    ui.open_task(SINGLE, song, task_id, "details")
    links = ui.extra_links()
    player = ui.open_extra_link("Listen")
    ui.until(player.locator("video, audio"), "a => a.duration > 5")
    ui.open_task(SINGLE, song, task_id, "details")
    cover = ui.open_extra_link("Cover")
    ui.until(cover.locator("img"), "image => image.naturalWidth > 0")

    assert names <= set(links)
    assert {urlsplit(url).scheme for url in links.values()} <= {"http", "https"}


def test_a_link_is_there_as_soon_as_the_music_task_is(ui: UI, place: Place, connection: None) -> None:
    """While it runs: what the API says of it, and nothing to listen to yet."""
    form = {"description": "A song without an end, simulate:running", "destination": place.music}
    run_id = place.api.trigger(SINGLE, form)
    ui.wait_for_task(SINGLE, run_id, "create", "Deferred")
    ui.open_task(SINGLE, run_id, "create", "details")

    assert set(ui.extra_links()) == {"Music task"}
    expect(ui.open_extra_link("Music task").locator("body")).to_contain_text("running")


def test_music_task_shows_what_the_api_says(ui: UI, place: Place, song: str) -> None:
    """The vendor has no page for it, so Airflow's server asks."""
    ui.open_task(SINGLE, song, "create", "details")
    page = ui.open_extra_link("Music task")

    expect(page.locator("body")).to_contain_text(place.api.xcom(SINGLE, song, "create", key="music_task_id"))
    expect(page.locator("body")).to_contain_text("succeeded")
    assert API_KEY not in page.content()


def test_tracks_shows_the_runs_tracks(ui: UI, song: str) -> None:
    """The tracks page, showing this run only."""
    ui.open_task(SINGLE, song, "store", "details")
    page = ui.open_extra_link("Tracks")

    expect(page.locator("audio")).to_have_count(2)
    assert TITLE in page.locator("body").inner_text()


def test_the_form_refuses_what_no_field_can_be(ui: UI) -> None:
    """Missing text, a title that is too long, a weight beyond its bounds."""
    form = ui.open_trigger_form(SINGLE)
    form.fill(description="", title="x" * 81)

    expect(form.dialog).to_contain_text("This field is required")
    expect(form.submit).to_be_disabled()
    expect(form.field("title")).to_have_value("x" * 80)
    form.open_section("Fine tuning")
    form.fill(style_weight="7")
    form.field("style_weight").blur()
    expect(form.field("style_weight")).to_have_value("1")


def test_what_does_not_fit_together_is_refused_before_it_is_paid(
    ui: UI, place: Place, connection: None, picture: Callable[[Page, str], Path]
) -> None:
    """The run fails in its first task, whose log says in the form's words what to change."""
    form = ui.open_trigger_form(SINGLE)
    form.choose("mode", "Sing my lyrics")
    form.fill(title="Never Bought")
    form.open_section("Sound")
    form.choose("vocal_gender", "Female")
    form.open_section("Fine tuning")
    form.choose("mv", "Sonic 4 (")
    form.open_section("Storage")
    form.fill(destination=place.music)
    run_id = form.trigger()
    ui.wait_for_run(SINGLE, run_id, "Failed")
    ui.open_task(SINGLE, run_id, "read_form")
    log = ui.page.get_by_test_id("virtual-scroll-container")
    expect(log).to_contain_text("Not yet a song, and nothing was bought:")
    picture(ui.page, "refused_form")

    expect(log).to_contain_text('Lyrics: is required in the mode "Sing my lyrics"')
    expect(log).to_contain_text("Voice: is unknown to Sonic 4")
    bought = list(place.simulator.state.jobs.values())
    assert "Never Bought" not in [job.body.get("title") for job in bought]
    assert not place.simulator.state.creates_refused


def test_airflow_has_written_the_key_nowhere(place: Place, song: str) -> None:
    """Neither into its logs nor readable into its database."""
    files = [file for file in place.stack.home.rglob("*") if file.is_file()]

    assert [file for file in files if API_KEY.encode() in file.read_bytes()] == []
    assert any("task_id=create" in str(file) for file in files)
