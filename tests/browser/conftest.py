"""One Airflow, one simulator and one browser for all tests here; each test has a window of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.local.stack import AIRFLOW_HOME, ENDING_SIGNALS, IN_A_HURRY, Stack
from include.local.up import WITHOUT_SCHEDULES
from include.musicapi_simulator import Settings, SimulatorServer
from tests.browser.chromium import MISSING, Windows, find_chromium, started, take_picture
from tests.browser.place import API_KEY, CONN_ID, DAGS, SINGLE, Place
from tests.browser.songs import Songs, start_songs
from tests.browser.ui import UI
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: Begins empty; kept at the end.
FOLDER = AIRFLOW_HOME / "browser"
_windows = pytest.StashKey[Windows]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, which ``make test`` leaves out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what a failing test saw."""
    report = yield
    windows = item.config.stash.get(_windows, None)
    if report.failed and report.when != "teardown" and windows:
        folder = FOLDER / "failed" / re.sub(r"[^\w-]+", "_", item.name)
        windows.keep(folder)
        report.sections.append(("What the browser showed", str(folder)))
    return report


@pytest.fixture(scope="package")
def chromium() -> str:
    """Return the browser's path; without one nothing here can run."""
    program = find_chromium()
    if program is None:
        pytest.exit(MISSING, returncode=1)
    return program


@pytest.fixture(scope="package")
def place(chromium: str) -> Iterator[Place]:
    """Start Airflow as ``make up`` does, with nothing in it, and a simulator with short jobs."""
    for number in ENDING_SIGNALS:  # whatever ends the tests ends the processes, too
        signal.signal(number, signal.default_int_handler)
    settings = Settings(api_key=API_KEY, job_rule="seconds:3")
    environment = {**WITHOUT_SCHEDULES, **IN_A_HURRY}
    with (
        SimulatorServer(settings) as simulator,
        Stack(home=FOLDER / "airflow", fresh=True, settings=environment) as stack,
    ):
        for left in ("failed", "pictures"):  # not before: somebody else may run these tests here
            shutil.rmtree(FOLDER / left, ignore_errors=True)
        yield Place(stack, stack.start_with(DAGS), simulator, FOLDER)
        stack.kill("triggerer")  # it would take ten seconds to say goodbye


@pytest.fixture(scope="package")
def windows(chromium: str, place: Place, request: pytest.FixtureRequest) -> Iterator[Windows]:
    """Start the browser."""
    with started(chromium) as browser:
        request.config.stash[_windows] = Windows(browser, place.stack.url)
        yield request.config.stash[_windows]
        del request.config.stash[_windows]


@pytest.fixture(scope="package")
def login(windows: Windows, place: Place) -> Path:
    """Log in by the form once; return the file with the cookies."""
    page = windows.open()
    UI(page).log_in("admin", place.stack.password)
    cookies = place.folder / "cookies.json"
    page.context.storage_state(path=cookies)
    windows.close(page)
    return cookies


@pytest.fixture
def ui(windows: Windows, login: Path) -> Iterator[UI]:
    """Open a window of somebody who has logged in."""
    page = windows.open(state=login)
    yield UI(page)
    windows.close(page)


@pytest.fixture
def dark_ui(windows: Windows, login: Path) -> Iterator[UI]:
    """Open the window of somebody whose computer prefers dark."""
    page = windows.open(state=login, dark=True)
    yield UI(page)
    windows.close(page)


@pytest.fixture
def stranger(windows: Windows) -> Iterator[Page]:
    """Open a window of somebody who has not logged in."""
    page = windows.open()
    yield page
    windows.close(page)


@pytest.fixture(scope="package")
def picture(place: Place) -> Callable[[Page, str], Path]:
    """
    Return a function that takes a picture and returns its file.

    With ``SCREENSHOTS=1`` the pictures that the documentation shows are replaced.
    """
    pages = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    shown = set(re.findall(r"images/(\w+\.png)", "".join(page.read_text() for page in pages)))

    def take(page: Page, name: str) -> Path:
        file = take_picture(page, place.folder / "pictures" / f"{name}.png")
        if os.environ.get("SCREENSHOTS") and file.name in shown:
            shutil.copy(file, PROJECT / "docs" / "images")
        return file

    return take


@pytest.fixture(scope="package")
def connection(windows: Windows, login: Path, place: Place) -> None:
    """Make the default connection as a person does, by the form."""
    page = windows.open(state=login)
    form = UI(page).open_new_connection(CONN_ID)
    form.field("host").fill(place.simulator.base_url)
    form.field("password").fill(API_KEY)
    form.open_section("Extra Fields")
    form.field("element_poll_interval").fill("1")
    form.save()
    windows.close(page)


@pytest.fixture(scope="package")
def empty_page(windows: Windows, login: Path, place: Place, picture: Callable[[Page, str], Path]) -> str:
    """Return what the tracks page says before there is a track."""
    page = windows.open(state=login)
    UI(page).open_tracks()
    picture(page, "tracks_page_empty")
    text = page.locator("body").inner_text()
    windows.close(page)
    return text


@pytest.fixture(scope="package")
def songs(
    windows: Windows,
    login: Path,
    place: Place,
    connection: None,
    empty_page: str,
    picture: Callable[[Page, str], Path],
) -> Songs:
    """Start the runs that the tests look at, one of them by the form; they go on while tests run."""
    page = windows.open(state=login)
    songs = start_songs(UI(page), place, picture)
    windows.close(page)
    return songs


@pytest.fixture(scope="package", autouse=True)
def _early(request: pytest.FixtureRequest) -> None:
    """Start the runs before the first test, if any test needs them: there is something to do meanwhile."""
    if any("songs" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("songs")


@pytest.fixture(scope="package")
def finished(windows: Windows, login: Path) -> Callable[[str, str], str]:
    """Return a function that watches a run in the UI until it has succeeded, once, and returns its id."""
    watched: set[str] = set()

    def watch(dag_id: str, run_id: str) -> str:
        if run_id not in watched:
            page = windows.open(state=login)
            UI(page).wait_for_run(dag_id, run_id)
            windows.close(page)
            watched.add(run_id)
        return run_id

    return watch


@pytest.fixture
def song(songs: Songs, finished: Callable[[str, str], str]) -> str:
    """Return the run that the form started, when it has succeeded."""
    return finished(SINGLE, songs.form)
