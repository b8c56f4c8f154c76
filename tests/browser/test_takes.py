"""The DAG musicapi_choose_take: a person listens to both takes and picks one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.place import CHOOSE
from tests.browser.songs import WALTZ

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.songs import Songs
    from tests.browser.ui import UI


def test_a_person_picks_a_take_and_the_other_goes(
    ui: UI, place: Place, songs: Songs, picture: Callable[[Page, str], Path]
) -> None:
    """Both can be heard before, one is left after, and the tracks page says whose choice it was."""
    ui.wait_for_task(CHOOSE, songs.drop, "choose", "Awaiting Input")
    ui.open_required_action("Old Friends")
    listen = [link.get_attribute("href") for link in ui.page.get_by_role("link", name="listen").all()]
    heard = [ui.page.request.get(str(url)) for url in listen]
    picture(ui.page, "choose_take")
    ui.answer("Take 2")
    ui.wait_for_run(CHOOSE, songs.drop)
    takes = place.api.xcom(CHOOSE, songs.drop, "store")
    ui.open_tracks(dag_id=CHOOSE)
    expect(ui.tracks()).to_have_count(1)
    ui.wait_for_covers()
    picture(ui.page, "picked_take")

    assert [(answer.status, answer.headers["content-type"]) for answer in heard] == [(200, "audio/mpeg")] * 2
    assert [Path(take["uri"].removeprefix("file://")).exists() for take in takes] == [False, True]
    expect(ui.tracks()).to_contain_text("picked by admin", ignore_case=True)
    expect(ui.tracks()).to_contain_text(WALTZ)
