"""
``index.csv`` beside the tracks: what a folder holds, for people with a spreadsheet.

It is a cache of the sidecars: one listing tells which rows to add or drop, and only new sidecars are read.
Two writers at once may lose each other's rows; the next run finds them missing.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from musicapi_provider.files import contents_of, is_object_store, list_names
from musicapi_provider.storage.partial import Leftovers, put

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

INDEX = "index.csv"
COLUMNS = (
    *("title", "prompt_id", "duration", "file", "cover"),
    *("music_task_id", "clip_id", "stored_at", "prompt"),
)
#: Fields of a request body that say what was ordered, the first given one counts.
_PROMPTS = ("prompt", "gpt_description_prompt", "lyrics", "title")
#: Sidecars read at a time: bounds memory, and lets object storages answer many at once.
_BATCH = 500
#: A spreadsheet takes no longer cells.
_LONGEST_CELL = 32_000
#: With these a cell is a formula to a spreadsheet, which may run commands and send data away.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = tuple[str, ...]


def update_index(folder: ObjectStoragePath, rewritten: Collection[str] = ()) -> ObjectStoragePath:
    """
    Bring the index up to date with the sidecars.

    :param rewritten: Clips whose sidecars this process has written, so that their rows may be old.
    """
    path = folder / INDEX
    names = list_names(folder)
    before = contents_of(folder, [INDEX]).get(INDEX, b"") if INDEX in names else b""
    rows = {row[6]: row for row in _rows_of(before) if _is_current(row, names) and row[6] not in rewritten}
    missing = [name for name in names if name.endswith(".json") and name[:-5] not in rows]
    for start in range(0, len(missing), _BATCH):
        for name, content in contents_of(folder, missing[start : start + _BATCH]).items():
            if (row := _row_of(name[:-5], content, names)) is not None:
                rows[row[6]] = row
    content = _csv(sorted(rows.values(), key=lambda row: (row[7], row[6])))
    if content != before:
        _put(path, content)
    return path


def _put(path: ObjectStoragePath, content: bytes) -> None:
    if not is_object_store(path):
        Leftovers(path.parent).remove(path.stem)
    try:
        put(path, content)
    except FileNotFoundError:  # another run cleans up, too
        put(path, content)


def _rows_of(content: bytes) -> list[Row]:
    """Read an index as written by this version; of another one, or a damaged one, nothing."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        if content:
            log.info("%s is not as this version writes it; made anew.", INDEX)
        return []
    return [tuple(row) for row in rows[1:]]


def _is_current(row: Row, names: Collection[str]) -> bool:
    """Tell whether a row still agrees with the listing; a cover that came later makes it old."""
    file, cover, clip_id = row[3], row[4], row[6]
    if f"{clip_id}.json" not in names or file not in names:
        return False
    return cover in names if cover else _cover_of(clip_id, names) is None


def _cover_of(clip_id: str, names: Collection[str]) -> str | None:
    return next((name for s in ("jpeg", "png", "webp") if (name := f"{clip_id}.{s}") in names), None)


def _row_of(clip_id: str, content: bytes, names: Collection[str]) -> Row | None:
    """Make the row of a sidecar; other JSON files have none."""
    try:
        sidecar = json.loads(content)
        file = sidecar["uri"].rsplit("/", 1)[-1]
        cover = str(sidecar.get("cover_uri") or "").rsplit("/", 1)[-1]
        about = sidecar.get("about") or {}
        if sidecar["clip_id"] != clip_id or file not in names:
            return None
        cells = {
            **{name: sidecar.get(name) for name in COLUMNS},
            "file": file,
            "cover": cover if cover in names else "",
            "prompt": about.get("prompt") or prompt_of(about.get("body")),
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return tuple(_cell(cells[name]) for name in COLUMNS)


def prompt_of(body: Any) -> str | None:
    """Return the words that a request body orders music with."""
    if not isinstance(body, Mapping):
        return None
    return next((str(body[name]) for name in _PROMPTS if body.get(name)), None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)[:_LONGEST_CELL]
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(rows: list[Row]) -> bytes:
    """Write the table; with the mark at its beginning that makes spreadsheets read it as UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig", errors="replace")
