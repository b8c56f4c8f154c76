"""
Read prompt tables that are text, CSV and JSON Lines, piece by piece into rows of cells with their place.

``typed_sources.py`` does the same for Parquet and SQL; ``reading.py`` checks what the cells say.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from musicapi_provider.api.bodies import FIELDS
from musicapi_provider.exceptions import MusicAPIPromptTableError

#: The column that names a row.
KEY = "prompt_id"
COLUMNS = (KEY, *FIELDS)
#: Bytes that are read at once: some twenty requests to an object store for 40 MB, and little memory.
PIECE = 2**20
#: Characters of a CSV cell, so that an unclosed quote does not swallow a file of any size. Cells up to here
#: get the ordinary "may have N characters at most"; Python's own 131,072 would end the whole table instead.
LONGEST_CELL = 2**24
#: Whole numbers from here on may have lost digits when they became floats.
EXACT_FLOATS = 2**53


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its place; ``column`` counts from 1, 0 where the format has no columns."""

    value: object
    column: int


@dataclass(frozen=True, slots=True)
class RawRow:
    """The cells of a row by column name, and the line it begins on (Parquet, SQL: its number from 1)."""

    line: int
    cells: Mapping[str, Cell]

    @classmethod
    def of(cls, line: int, columns: Iterable[str], values: Iterable[object]) -> RawRow:
        """Put values under their columns, which count from 1."""
        cells = zip(columns, values, strict=True)
        return cls(line, {name: Cell(value, at) for at, (name, value) in enumerate(cells, 1)})


@dataclass(slots=True)
class Problems:
    """
    Collect what is wrong, with its place, so that everything is said at once.

    :param name: What the table is called: a path, or ``query on CONN_ID``.
    :param unit: What rows are counted in: ``line`` or ``row``.
    """

    name: str
    unit: str = "line"
    lines: list[str] = field(default_factory=list)
    bad_rows: set[int] = field(default_factory=set)

    def add(self, line: int, column: int, text: str) -> None:
        """
        Note a problem: ``file:line:column: text``, as compilers do.

        :param line: 0: of the table as a whole, and no column is named.
        """
        place = [self.name, *(str(number) for number in (line, line and column) if number)]
        self.lines.append(f"{':'.join(place)}: {text}")
        self.bad_rows.add(line)

    def refusal(self, next_step: str | None = None) -> MusicAPIPromptTableError:
        """Return the error that says all of them."""
        return MusicAPIPromptTableError(
            f"The prompt table has {len(self.lines)} problem(s); nothing was bought:",
            problems=tuple(self.lines),
            next_step=next_step,
        )

    def unreadable(self, text: str, next_step: str) -> MusicAPIPromptTableError:
        """Return the error for what ends the table: nothing after it can be read."""
        return MusicAPIPromptTableError(
            "The prompt table cannot be read; nothing was bought:",
            problems=(*self.lines, text),
            next_step=next_step,
        )


def check_columns(columns: Sequence[str], problems: Problems, *, line: int = 0, hint: str = "") -> None:
    """
    Refuse columns that would make cells go nowhere, or nowhere certain.

    :param line: The header's line; 0: there is none.
    :param hint: What else may help, before the list of columns.
    :raises MusicAPIPromptTableError: all that is wrong with them.
    """
    for number, name in enumerate(columns, 1):
        if name not in COLUMNS:
            problems.add(line, number, _unknown(name))
    for name in sorted({name for name in columns if name in COLUMNS and columns.count(name) > 1}):
        problems.add(line, columns.index(name) + 1, f"column {name!r} stands there twice")
    if KEY not in columns:
        problems.add(line, 0, f"has no column {KEY!r}, which names each row")
    if problems.lines:
        raise problems.refusal(f"{hint}columns may be: {', '.join(COLUMNS)}.")


def _unknown(column: str) -> str:
    close = difflib.get_close_matches(column, COLUMNS, n=1)
    return f"unknown column {column!r}" + (f", did you mean {close[0]!r}?" if close else "")


# -- text ---------------------------------------------------------------------------------------------------


class _Pieces(io.RawIOBase):
    """An open file in pieces; Airflow wraps it in a thing that :mod:`io` cannot read lines from."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _text_lines(file: IO[bytes], problems: Problems, *, returns: bool) -> Iterator[str]:
    r"""
    Decode a file line by line; each line keeps its end, as :mod:`csv` wants it.

    :param returns: Whether a lone ``\r`` ends a line too, as old Macs wrote it.
    """
    count = 0
    for raw in io.BufferedReader(_Pieces(file), PIECE):
        content = raw if count else raw.removeprefix(codecs.BOM_UTF8)
        try:
            text = content.decode()  # no character holds the byte of a newline, so lines can be decoded alone
        except UnicodeDecodeError as error:
            line = count + 1 + (content.count(b"\r", 0, error.start) if returns else 0)
            raise MusicAPIPromptTableError(
                f"{problems.name}:{line}: byte {content[error.start]:#04x} is no UTF-8.",
                problems=tuple(problems.lines),
                next_step="save the table as UTF-8 (with or without BOM).",
            ) from None
        lines = list(io.StringIO(text, newline="")) if returns and "\r" in text else [text]
        count += len(lines)
        yield from lines


def csv_rows(file: IO[bytes], problems: Problems) -> Iterator[RawRow]:
    """Read CSV with a header line; blank lines are passed over."""
    if csv.field_size_limit() < LONGEST_CELL:
        csv.field_size_limit(
            LONGEST_CELL
        )  # of the whole process: putting it back would race with other threads
    reader = csv.reader(_text_lines(file, problems, returns=True), strict=True)
    header: list[str] | None = None
    end = 0
    try:
        for values in reader:
            line, end = end + 1, reader.line_num  # a quoted cell may span lines; the row begins on the first
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = [value.strip() for value in values]
                check_columns(header, problems, line=line)
                continue
            if len(values) != len(header):
                problems.add(line, 0, f"has {len(values)} cells; the header has {len(header)} columns")
                continue
            yield RawRow.of(line, header, values)
    except csv.Error as error:
        raise problems.unreadable(
            f"{problems.name}:{end + 1}: is no readable CSV: {error}", "mend the quotes of that row."
        ) from None
    if header is None:
        raise MusicAPIPromptTableError(
            f"The prompt table {problems.name} is empty.",
            next_step=f"begin with a header line such as: {KEY},prompt,mv",
        )


def json_rows(file: IO[bytes], problems: Problems) -> Iterator[RawRow]:
    """Read one JSON object a line; blank lines are passed over, each line stands for itself."""
    for line, text in enumerate(_text_lines(file, problems, returns=False), 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text.removesuffix("\n"))
        except (ValueError, RecursionError) as error:
            problems.add(line, getattr(error, "colno", 0), f"is no JSON: {error}")
            continue
        if not isinstance(values, dict):
            problems.add(line, 0, "is no JSON object")
            continue
        unknown = [column for column in values if column not in COLUMNS]
        for column in unknown:
            problems.add(line, 0, _unknown(column))
        if not unknown:
            yield RawRow(line, {name: Cell(one_number(name, value), 0) for name, value in values.items()})


def one_number(name: str, value: object) -> object:
    """
    Give a number the one type that its field has in every source; leave the rest to the check.

    1 and 1.0 are sent differently, so that they would be two purchases. A ``prompt_id`` is text, 3.0 as 3:
    pandas makes a column of whole numbers 3.0 as soon as one is missing, and the row is still the same.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    kind = FIELDS.get(name)
    if name == KEY and is_whole(value):
        return str(int(value))
    if kind is float and abs(value) < EXACT_FLOATS:
        return float(value)
    return int(value) if kind is int and is_whole(value) else value


def is_whole(value: float) -> bool:
    """Say whether a number is whole and certainly the one that was written."""
    return isinstance(value, int) or (value.is_integer() and abs(value) < EXACT_FLOATS)
