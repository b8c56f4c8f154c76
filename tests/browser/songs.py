"""
The runs that the tests look at.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.place import CHOOSE, LARGE, SINGLE, TABLE
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.ui import UI

LYRICS = """[Verse]
First light falls on the kitchen tiles
Steam is drawing little smiles

[Chorus]
One more cup, and the day may come in"""
TITLE = "First Coffee"
TAGS = "acoustic folk, warm, fingerpicked guitar"
WALTZ = "A slow waltz for two old friends, with accordion"


@dataclass(frozen=True)
class Songs:
    """
    Run ids.

    :param form: Of the single track, all of whose form was filled in.
    :param table: Of a prompt table with a mapped task for each of :attr:`rows`.
    :param large: Of the same table in one task, to a folder of its own.
    :param drop: Of a song whose take that is not picked goes.
    :param rows: The table's prompt ids.
    """

    form: str
    table: str
    large: str
    drop: str
    rows: list[str]


def start_songs(ui: UI, place: Place, picture: Callable[[Page, str], Path]) -> Songs:
    """Start all runs, the one of the form first: a person waits for it."""
    form = _by_form(ui, place, picture)
    trigger, here = place.api.trigger, {"destination": place.music}
    table, rows = _table(place)
    return Songs(
        form=form,
        drop=trigger(CHOOSE, {"description": WALTZ, "title": "Old Friends", "other_take": "drop", **here}),
        table=trigger(TABLE, {"prompt_table": table, **here}),
        large=trigger(LARGE, {"prompt_table": table, "destination": f"{place.music}/large"}),
        rows=rows,
    )


def _by_form(ui: UI, place: Place, picture: Callable[[Page, str], Path]) -> str:
    """Fill in every section."""
    form = ui.open_trigger_form(SINGLE)
    form.choose("mode", "Sing my lyrics")
    form.fill(lyrics=LYRICS, title=TITLE)
    ui.page.set_viewport_size({"width": 1280, "height": 1360})
    picture(ui.page, "trigger_form")
    form.open_section("Sound")
    form.fill(tags=TAGS, negative_tags="autotune")
    form.choose("vocal_gender", "Female")
    form.open_section("Fine tuning")
    form.choose("mv", "Sonic 4.5 (")
    form.fill(style_weight="0.7", weirdness_constraint="0.25")
    form.open_section("Storage")
    form.fill(destination=place.music)
    return form.trigger()


def _table(place: Place) -> tuple[str, list[str]]:
    """Write the first rows of the example table; return the file's URI and the prompt ids."""
    with (PROJECT / "include" / "prompts" / "evening_radio.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row, _ in zip(reader, range(4), strict=False)]
    file = place.folder / "table.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows(rows)
    return f"file://{file}", [row["prompt_id"] for row in rows]
