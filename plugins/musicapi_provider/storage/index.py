"""
``index.csv`` beside the tracks: what a folder holds, for people with a spreadsheet and for the tracks page.

It is a cache of the sidecars: one listing tells which rows to add or drop, and only new sidecars are read.
Writers at once may overwrite each other's rows. So each looks again after it has written, until there is
nothing to write: whoever comes last has then seen what all others stored.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from musicapi_provider.api.bodies import prompt_of
from musicapi_provider.files import contents_of, is_object_store, list_names
from musicapi_provider.storage.partial import Leftovers, put
from musicapi_provider.storage.records import Sidecar
from musicapi_provider.text import clean

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

INDEX = "index.csv"
#: Sidecars read at a time: bounds memory, and lets object storages answer many at once.
_BATCH = 500
#: A spreadsheet takes no longer cells.
_LONGEST_CELL = 32_000
#: A cell that begins so is a formula to a spreadsheet, which may run commands and send data away. An
#: apostrophe before it makes it text; those that are there already count, so that ours can be told from them.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
#: Rounds of looking again after writing; under load two or three are needed.
_ROUNDS = 20


class IndexRow(NamedTuple):
    """
    A line of the index, a cell for each column, as text; what is not known is empty.

    :param duration: Seconds.
    :param credits: Expected ones of the whole music task, all its takes together.
    :param dag_id, run_id: Who stored it.
    :param picked_by: The person who chose this take.
    """

    title: str
    prompt_id: str
    duration: str
    credits: str
    file: str
    cover: str
    music_task_id: str
    clip_id: str
    stored_at: str
    dag_id: str
    run_id: str
    picked_by: str
    prompt: str


COLUMNS = IndexRow._fields


def update_index(folder: ObjectStoragePath, rewritten: Collection[str] = ()) -> ObjectStoragePath:
    """
    Bring the index up to date with the sidecars.

    :param rewritten: Clips whose sidecars this process has written, so that their rows may be old.
    """
    path = folder / INDEX
    rows: Collection[IndexRow] = ()
    for round_ in range(_ROUNDS):
        names = list_names(folder)
        before = contents_of(folder, [INDEX]).get(INDEX, b"") if INDEX in names else b""
        kept = [row for row in _rows_of(before) if row.clip_id not in rewritten or row in rows]
        rows = _rows_now(folder, names, kept)
        content = _csv(rows)
        if content == before:
            return path
        if round_ == 0 and not is_object_store(path):
            Leftovers(folder).remove(path.stem)  # of killed writers
        with suppress(FileNotFoundError):  # another writer has cleaned up meanwhile: look again
            put(path, content)
    log.warning("Others keep writing %s; the next task that stores here completes it.", path)
    return path


def read_index(content: bytes) -> list[IndexRow]:
    """Return an index's rows; none of one that is damaged, or that another version has written."""
    return [IndexRow(*map(_text_of, row)) for row in _rows_of(content)]


def _rows_now(folder: ObjectStoragePath, names: Collection[str], kept: Iterable[IndexRow]) -> list[IndexRow]:
    """Return the rows that a listing asks for, in order; reads the sidecars that no kept row stands for."""
    rows = {row.clip_id: row for row in kept if _is_current(row, names)}
    missing = [name for name in names if name.endswith(".json") and name[:-5] not in rows]
    for start in range(0, len(missing), _BATCH):
        for name, content in contents_of(folder, missing[start : start + _BATCH]).items():
            if (row := _row_of(name[:-5], content, names)) is not None:
                rows[row.clip_id] = row
    return sorted(rows.values(), key=lambda row: (row.stored_at, row.clip_id))


def _rows_of(content: bytes) -> list[IndexRow]:
    """Read an index as written by this version; of another one, or a damaged one, nothing."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        if content:
            log.info("%s is not as this version writes it; who stores next makes it anew.", INDEX)
        return []
    return [IndexRow(*row) for row in rows[1:]]


def _is_current(row: IndexRow, names: Collection[str]) -> bool:
    """Tell whether a row still agrees with the listing; a cover that came later makes it old."""
    file, cover, clip_id = row.file, row.cover, row.clip_id
    if f"{clip_id}.json" not in names or file not in names:
        return False
    return cover in names if cover else _cover_of(clip_id, names) is None


def _cover_of(clip_id: str, names: Collection[str]) -> str | None:
    return next((name for s in ("jpeg", "png", "webp") if (name := f"{clip_id}.{s}") in names), None)


def _row_of(clip_id: str, content: bytes, names: Collection[str]) -> IndexRow | None:
    """Make the row of a sidecar; other JSON files have none."""
    try:
        sidecar = Sidecar.from_bytes(content)
    except ValueError:
        return None
    stored, about = sidecar.stored, sidecar.about
    if stored.clip_id != clip_id or stored.file_name not in names:
        return None
    cover = (stored.cover_uri or "").rpartition("/")[2]
    facts = {
        **asdict(about),
        **asdict(stored),
        "file": stored.file_name,
        "cover": cover if cover in names else None,
        "stored_at": sidecar.stored_at,
        "prompt": about.prompt or prompt_of(about.body),
    }
    return IndexRow(*(_cell(facts[column]) for column in COLUMNS))


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    text = clean(value[:_LONGEST_CELL])
    return f"'{text}" if _FORMULA.match(text) else text


def _text_of(cell: str) -> str:
    return cell[1:] if _ESCAPED.match(cell) else cell


def _csv(rows: list[IndexRow]) -> bytes:
    """Write the table; with the mark at its beginning that makes spreadsheets read it as UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")
