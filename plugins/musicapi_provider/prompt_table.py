"""
Read a prompt table and check all of it before anything is paid.

Columns are the API's field names plus a unique ``prompt_id``; an empty cell is not sent. Text is data:
nothing in here or later renders it as a template.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musicapi_provider.bodies import FIELDS, check_body, complete_body, typed_fields
from musicapi_provider.exceptions import MusicAPIPromptTableError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

#: The column that names a row.
KEY = "prompt_id"
COLUMNS = (KEY, *FIELDS)
#: Characters of a prompt_id: it becomes a label in the UI and part of records.
MAX_KEY = 100


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row: its name, the complete request body, and the line it begins on."""

    prompt_id: str
    body: dict[str, Any]
    line: int

    def as_dict(self) -> dict[str, Any]:
        """Return what goes to XCom."""
        return {"prompt_id": self.prompt_id, "body": self.body}


@dataclass(frozen=True, slots=True)
class _Cell:
    """A value with its place; ``column`` counts from 1, 0 where the format has no columns."""

    value: Any
    column: int


@dataclass(frozen=True, slots=True)
class _RawRow:
    line: int
    cells: Mapping[str, _Cell]


class _Problems:
    """Collect what is wrong, with its place, so that everything is said at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.bad_rows: set[int] = set()

    def add(self, line: int, column: int, text: str) -> None:
        """Note a problem: ``file:line:column: text``, as compilers do."""
        place = f"{self.name}:{line}" + (f":{column}" if column else "")
        self.lines.append(f"{place}: {text}")
        self.bad_rows.add(line)


def read_prompt_table(path: ObjectStoragePath, *, skip_invalid: bool = False) -> list[PromptRow]:
    """
    Read a table from any object storage; CSV, or JSON Lines when the name ends in ``.jsonl``.

    :param skip_invalid: Leave bad rows out, each with a warning in the log, instead of refusing the whole
        table. What is wrong with the table itself (missing, unreadable, no ``prompt_id`` column, unknown CSV
        columns, no good row) always refuses it.
    :return: The rows in order; their bodies may be sent as they are.
    :raises MusicAPIPromptTableError: every problem with file, line and column.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise MusicAPIPromptTableError(
            f"There is no prompt table at {path}.", next_step="correct the path (param prompt_table)."
        ) from None
    return parse_prompt_table(content, name=str(path), skip_invalid=skip_invalid)


def parse_prompt_table(content: bytes, *, name: str, skip_invalid: bool = False) -> list[PromptRow]:
    """
    Check a table's bytes; see :func:`read_prompt_table`.

    :param name: What to call the table in errors; its ending chooses the format.
    """
    text = _decode(content, name)
    raw_rows = _json_lines if name.lower().endswith((".jsonl", ".ndjson")) else _csv_rows
    problems = _Problems(name)
    rows = list(_rows(raw_rows(text, name, problems.add), problems))
    if problems.lines and not skip_invalid:
        raise MusicAPIPromptTableError(
            f"The prompt table has {len(problems.lines)} problem(s); nothing was bought:",
            problems=tuple(problems.lines),
        )
    for line in problems.lines:
        log.warning("Left out: %s", line)
    if not rows:
        what = "has no usable row" if problems.lines else "has no rows"
        raise MusicAPIPromptTableError(f"The prompt table {name} {what}.", next_step="add a row.")
    return rows


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # its own bytes: without the BOM
        raise MusicAPIPromptTableError(
            f"{name}:{line}: byte {error.object[error.start]:#04x} is no UTF-8.",
            next_step="save the table as UTF-8 (with or without BOM).",
        ) from None


def _csv_rows(text: str, name: str, problem: Callable[[int, int, str], None]) -> Iterator[_RawRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    end = 0
    try:
        for values in reader:
            line, end = end + 1, reader.line_num  # a quoted cell may span lines; the row begins on the first
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = _checked_header([value.strip() for value in values], f"{name}:{line}")
                continue
            if len(values) != len(header):
                problem(line, 0, f"has {len(values)} cells; the header has {len(header)} columns")
                continue
            cells = {
                column: _Cell(value, at)
                for at, (column, value) in enumerate(zip(header, values, strict=True), 1)
            }
            yield _RawRow(line, cells)
    except csv.Error as error:
        raise MusicAPIPromptTableError(  # nothing after it can be read: not a bad row, a bad table
            "The prompt table cannot be read; nothing was bought:",
            problems=(f"{name}:{end + 1}: is no readable CSV: {error}",),
            next_step="mend the quotes of that row.",
        ) from None
    if header is None:
        raise MusicAPIPromptTableError(
            f"The prompt table {name} is empty.",
            next_step=f"begin with a header line such as: {KEY},prompt,mv",
        )


def _checked_header(header: list[str], place: str) -> list[str]:
    """Refuse a header that would make cells go nowhere, or nowhere certain."""
    problems = [
        f"{place}:{at}: {_unknown(column)}" for at, column in enumerate(header, 1) if column not in COLUMNS
    ]
    twice = sorted({column for column in header if column in COLUMNS and header.count(column) > 1})
    problems += [
        f"{place}:{header.index(column) + 1}: column {column!r} stands there twice" for column in twice
    ]
    if KEY not in header:
        problems.append(f"{place}: has no column {KEY!r}, which names each row")
    if problems:
        raise MusicAPIPromptTableError(
            f"The prompt table has {len(problems)} problem(s); nothing was bought:",
            problems=tuple(problems),
            next_step=f"columns may be: {', '.join(COLUMNS)}.",
        )
    return header


def _unknown(column: str) -> str:
    close = difflib.get_close_matches(column, COLUMNS, n=1)
    return f"unknown column {column!r}" + (f", did you mean {close[0]!r}?" if close else "")


def _json_lines(text: str, name: str, problem: Callable[[int, int, str], None]) -> Iterator[_RawRow]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            problem(line, getattr(error, "colno", 0), f"is no JSON: {error}")
            continue
        if not isinstance(values, dict):
            problem(line, 0, "is no JSON object")
            continue
        unknown = [column for column in values if column not in COLUMNS]
        for column in unknown:
            problem(line, 0, _unknown(column))
        if not unknown:
            yield _RawRow(line, {column: _Cell(value, 0) for column, value in values.items()})


def _rows(raw_rows: Iterable[_RawRow], problems: _Problems) -> Iterator[PromptRow]:
    lines: dict[str, int] = {}
    for raw in raw_rows:
        prompt_id = _prompt_id(raw, lines, problems)
        body = complete_body(_typed(raw, problems))
        if raw.line not in problems.bad_rows:
            for found in check_body(body):
                cell = raw.cells.get(found.field)
                problems.add(raw.line, cell.column if cell else 0, str(found))
        if raw.line not in problems.bad_rows:
            yield PromptRow(prompt_id, body, raw.line)


def _prompt_id(raw: _RawRow, lines: dict[str, int], problems: _Problems) -> str:
    cell = raw.cells.get(KEY, _Cell("", 0))
    prompt_id = str("" if cell.value is None else cell.value).strip()
    if not prompt_id:
        problems.add(raw.line, cell.column, f"{KEY}: is empty; each row needs a name of its own")
    elif len(prompt_id) > MAX_KEY or not prompt_id.isprintable():
        problems.add(raw.line, cell.column, f"{KEY}: must be up to {MAX_KEY} printable characters")
    elif prompt_id in lines:
        problems.add(raw.line, cell.column, f"{KEY}: {prompt_id!r} stands on line {lines[prompt_id]} already")
    else:
        lines[prompt_id] = raw.line
    return prompt_id


def _typed(raw: _RawRow, problems: _Problems) -> dict[str, Any]:
    fields, found = typed_fields({name: cell.value for name, cell in raw.cells.items() if name != KEY})
    for problem in found:
        problems.add(raw.line, raw.cells[problem.field].column, str(problem))
    return fields
