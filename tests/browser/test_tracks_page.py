"""The page MusicAPI Tracks: who sees it, what it shows, and that it plays."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import expect

from tests.browser.place import API_KEY, SINGLE, TABLE
from tests.browser.songs import LYRICS, TITLE

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.songs import Songs
    from tests.browser.ui import UI

PAGE = "/plugin/musicapi-tracks"
#: Would say so in the window's title if a page took it for HTML.
HTML = "<img src=x onerror=document.title='OWNED'>"


@pytest.fixture
def all_songs(songs: Songs, finished: Callable[[str, str], str]) -> Songs:
    """Return the runs when all that need nobody's answer have succeeded."""
    finished(SINGLE, songs.form)
    finished(TABLE, songs.table)
    return songs


@pytest.fixture(scope="package")
def stored(place: Place, login: Path, songs: Songs, finished: Callable[[str, str], str]) -> list[str]:
    """Return the parts of a stored track's address: prefix, folder, clip, kind."""
    finished(SINGLE, songs.form)
    answer = json.loads(_get(place, login, f"/musicapi/tracks?dag_id={SINGLE}")[1])
    return str(answer["tracks"][0]["audio"]).rsplit("/", 3)


def test_without_tracks_it_says_how_to_make_the_first(empty_page: str) -> None:
    """Which DAG, and what to press."""
    assert "No tracks yet" in empty_page
    assert SINGLE in empty_page
    assert "Trigger" in empty_page


def test_the_navigation_leads_there(ui: UI, all_songs: Songs, picture: Callable[[Page, str], Path]) -> None:
    """People find it under Browse."""
    ui.page.goto("/")
    ui.page.get_by_role("button", name="Browse").click()
    ui.page.get_by_role("menuitem", name="MusicAPI Tracks").click()
    expect(ui.tracks()).not_to_have_count(0)
    ui.wait_for_covers()
    picture(ui.page, "tracks_page")

    assert ui.page.url.endswith(PAGE)
    assert API_KEY not in ui.page.content()


def test_dark_looks_right(dark_ui: UI, all_songs: Songs, picture: Callable[[Page, str], Path]) -> None:
    """The page takes Airflow's colours: light words on a dark ground."""
    dark_ui.open_tracks()
    dark_ui.wait_for_covers()
    with Image.open(picture(dark_ui.page, "tracks_page_dark")) as image:
        (brightness,) = ImageStat.Stat(image.convert("L")).mean

    assert brightness < 80


def test_a_track_tells_what_it_is(ui: UI, all_songs: Songs) -> None:
    """Title, words, length, cost, cover, and a link to its run."""
    ui.open_tracks(run_id=all_songs.form)
    expect(ui.tracks()).to_have_count(2)
    track = ui.tracks().first

    expect(track.get_by_role("heading")).to_have_text(TITLE)
    expect(track).to_contain_text(LYRICS.splitlines()[1])
    expect(track).to_contain_text("15 credits")
    expect(track).to_contain_text("0:")
    ui.wait_for_covers()
    track.locator("a[href*='/runs/']").click()
    expect(ui.page.get_by_test_id("header-card")).to_contain_text(all_songs.form)


def test_the_newest_track_is_first(ui: UI, place: Place, all_songs: Songs) -> None:
    """As they were stored."""
    ui.open_tracks()
    times = [time.get_attribute("datetime") or "" for time in ui.page.locator("li time").all()]

    assert times == sorted(times, reverse=True)
    assert len(times) >= 2 * (len(all_songs.rows) + 1)


def test_the_music_plays(ui: UI, all_songs: Songs) -> None:
    """A click on the player plays; a click on another one pauses the first."""
    ui.open_tracks(run_id=all_songs.form)
    expect(ui.tracks()).to_have_count(2)
    first, second = ui.page.locator("audio").all()
    for player in (first, second):
        player.click(position={"x": 20, "y": 20})  # where chromium has its play button
        ui.until(player, "a => a.duration > 5 && a.currentTime > 0.3 && !a.paused && !a.error")
    ui.until(first, "a => a.paused")


def test_tracks_are_filtered_by_dag_and_text(ui: UI, all_songs: Songs) -> None:
    """Each filter alone and both together; the address keeps them."""
    ui.open_tracks()
    dag = ui.page.locator("select")
    search = ui.page.get_by_role("searchbox")
    dag.select_option(TABLE)
    expect(ui.tracks()).to_contain_text([TABLE] * 2 * len(all_songs.rows))
    search.fill(all_songs.rows[0])
    expect(ui.tracks()).to_contain_text([all_songs.rows[0]] * 2)
    dag.select_option("")
    search.fill(TITLE.lower())
    expect(ui.tracks()).to_contain_text([TITLE] * 2)
    ui.page.reload()
    expect(ui.tracks()).to_contain_text([TITLE] * 2)
    search.fill("nothing is called this")
    expect(ui.page.get_by_text(re.compile("^No track"))).to_be_visible()


def test_html_in_a_title_stays_text(ui: UI, place: Place, songs: Songs) -> None:
    """A title is anybody's words: it is shown as it was written, and nothing of it is run."""
    form = {"title": HTML, "description": f"A song about {HTML}", "destination": place.music}
    run_id = place.api.trigger(SINGLE, form)
    ui.wait_for_run(SINGLE, run_id)
    ui.open_task(SINGLE, run_id, "store")
    expect(ui.page.get_by_test_id("virtual-scroll-container")).to_contain_text("2 tracks")
    ui.open_tracks(run_id=run_id)

    expect(ui.tracks().first.get_by_role("heading")).to_have_text(HTML)
    expect(ui.tracks().first).to_contain_text(f"A song about {HTML}")
    assert ui.page.locator("img[src=x]").count() == 0
    assert ui.page.title() != "OWNED"


def test_without_a_login_nothing_is_served(ui: UI, stranger: Page, all_songs: Songs) -> None:
    """The page asks to log in; data, music and covers answer 401."""
    ui.open_tracks(run_id=all_songs.form)
    media = [item.get_attribute("src") for item in ui.tracks().locator("audio, img").all()]
    addresses = ["/musicapi/tracks", "/musicapi/tracks_page.js", *map(str, media)]
    stranger.goto(PAGE)

    expect(stranger.locator("input[name=password]")).to_be_visible()
    assert [200] * len(addresses) == [ui.page.request.get(address).status for address in addresses]
    assert [401] * len(addresses) == [stranger.request.get(address).status for address in addresses]
    assert len(media) == 4


@pytest.mark.parametrize(
    "trick",
    [
        "/musicapi/media/../../../passwords.json",
        "/musicapi/media/%2e%2e/%2e%2e/passwords.json",
        "/musicapi/media/{folder}/../passwords.json/audio",
        "/musicapi/media/{folder}/..%2fpasswords.json/audio",
        "/musicapi/media/{folder}/..%2fpasswords/audio",
        "/musicapi/media/{folder}/%2e%2e%5cpasswords.json/audio",
        "/musicapi/media/{folder}/{clip}%00/audio",
        "/musicapi/media/{folder}/{clip}%2f..%2f..%2fpasswords.json/audio",
        "/musicapi/media/{folder}/{clip}/../../../passwords.json",
        "/musicapi/media/..%2f{folder}/{clip}/audio",
        "/musicapi/media/{folder}/index/audio",
        "/musicapi/media/{folder}/%2fetc%2fpasswd/audio",
        "/musicapi/media/{folder}/file:%2f%2f%2fetc%2fpasswd/audio",
    ],
)
def test_path_tricks_are_refused(place: Place, login: Path, stored: list[str], trick: str) -> None:
    """Only stored tracks are served, whatever the path says."""
    prefix, folder, clip, kind = stored
    status, body = _get(place, login, trick.format(folder=folder, clip=clip))

    assert 400 <= status < 500, (status, body[:200])
    assert place.stack.password not in body
    assert "root:" not in body
    assert _get(place, login, f"/{prefix}/{folder}/{clip}/{kind}")[0] == 200


def _get(place: Place, login: Path, path: str) -> tuple[int, str]:
    """Ask for a path as somebody who has logged in; it is sent as it is, while browsers tidy paths."""
    cookies = json.loads(login.read_text())["cookies"]
    headers = {"Cookie": "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)}
    with closing(http.client.HTTPConnection("127.0.0.1", place.stack.port, timeout=30)) as server:
        server.request("GET", path, headers=headers)
        answer = server.getresponse()
        return answer.status, answer.read().decode(errors="replace")
