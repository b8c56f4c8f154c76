"""
Read a prompt table and check all of it before anything is paid.

Columns are the API's field names plus a unique ``prompt_id``; an empty cell is not sent. Text is data:
nothing in here or later renders it as a template.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from musicapi_provider.api.bodies import Problem, check_body, complete_body, typed_fields
from musicapi_provider.exceptions import MusicAPIPromptTableError
from musicapi_provider.prompt_table.text_sources import (
    KEY,
    PIECE,
    Cell,
    Problems,
    RawRow,
    csv_rows,
    json_rows,
)
from musicapi_provider.prompt_table.typed_sources import parquet_rows, query_rows

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

#: Characters of a prompt_id: it becomes a label in the UI and part of records.
MAX_KEY = 100
#: How to read a file by its ending, and what its rows are counted in; anything else is CSV.
_READERS: Mapping[str, tuple[Callable[[IO[bytes], Problems], Iterator[RawRow]], str]] = {
    ".jsonl": (json_rows, "line"),
    ".ndjson": (json_rows, "line"),
    ".parquet": (parquet_rows, "row"),
    ".pq": (parquet_rows, "row"),
}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row: its name, the complete request body, and the line it begins on (Parquet, SQL: its number)."""

    prompt_id: str
    body: dict[str, object]
    line: int

    def as_dict(self) -> dict[str, object]:
        """Return what goes to XCom."""
        return {"prompt_id": self.prompt_id, "body": self.body}


def read_prompt_table(path: ObjectStoragePath, *, skip_invalid: bool = False) -> list[PromptRow]:
    """
    Read a table from any object storage, a piece at a time.

    The ending chooses the format: JSON Lines (``.jsonl``, ``.ndjson``), Parquet (``.parquet``, ``.pq``), or
    else CSV. A folder of Parquet parts is no table; name one file.

    :param skip_invalid: Leave bad rows out, each with a warning in the log, instead of refusing the whole
        table. What is wrong with the table itself (missing, unreadable, no ``prompt_id`` column, unknown
        columns, no good row) always refuses it.
    :return: The rows in order; their bodies may be sent as they are.
    :raises MusicAPIPromptTableError: every problem with file, line (Parquet: row) and column.
    """
    try:
        with path.open("rb", block_size=PIECE) as file:  # type: ignore[no-untyped-call]
            return _read(file, str(path), skip_invalid)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise MusicAPIPromptTableError(
            f"There is no prompt table at {path}.", next_step="correct the path (param prompt_table)."
        ) from None
    except PermissionError as error:
        raise MusicAPIPromptTableError(
            f"The prompt table {path} may not be read: {error}.",
            next_step="let the storage's connection (or the user that tasks run as) read it.",
        ) from None


def parse_prompt_table(content: bytes, *, name: str, skip_invalid: bool = False) -> list[PromptRow]:
    """
    Check a table's bytes; see :func:`read_prompt_table`.

    :param name: What to call the table in errors; its ending chooses the format.
    """
    return _read(io.BytesIO(content), name, skip_invalid)


def query_prompt_table(
    sql: str,
    conn_id: str,
    *,
    parameters: Iterable[object] | Mapping[str, object] | None = None,
    skip_invalid: bool = False,
) -> list[PromptRow]:
    """
    Read a table from the rows of a query, in any database that Airflow has a SQL connection to.

    Columns are named as in a file: ``SELECT id AS prompt_id, lyrics AS prompt FROM songs``. NULL and empty
    text are not sent. Names in capitals alone mean the same as in small letters, as some databases answer so.

    :param sql: One SELECT; give it an ORDER BY, since its rows are counted from 1 in errors.
    :param conn_id: The Airflow connection of the database.
    :param parameters: Values for the query's placeholders, in the spelling of the database's driver.
    :param skip_invalid: See :func:`read_prompt_table`.
    :return: The rows in order; their bodies may be sent as they are.
    :raises MusicAPIPromptTableError: every problem as ``query on CONN_ID:ROW:COLUMN``; or no such connection,
        no database, or what the database said (retryable when the trouble is its own).
    """
    problems = Problems(f"query on {conn_id}", "row")
    return _checked(query_rows(sql, conn_id, parameters, problems), problems, skip_invalid)


def _read(file: IO[bytes], name: str, skip_invalid: bool) -> list[PromptRow]:
    reader, unit = _READERS.get(PurePosixPath(name.lower()).suffix, (csv_rows, "line"))
    problems = Problems(name, unit)
    return _checked(reader(file, problems), problems, skip_invalid)


def _checked(raw_rows: Iterator[RawRow], problems: Problems, skip_invalid: bool) -> list[PromptRow]:
    rows = list(_rows(raw_rows, problems))
    if problems.lines and not skip_invalid:
        raise problems.refusal()
    for line in problems.lines:
        log.warning("Left out: %s", line)
    if not rows:
        what = "has no usable row" if problems.lines else "has no rows"
        raise MusicAPIPromptTableError(f"The prompt table {problems.name} {what}.", next_step="add a row.")
    return rows


def _rows(raw_rows: Iterable[RawRow], problems: Problems) -> Iterator[PromptRow]:
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


def _prompt_id(raw: RawRow, lines: dict[str, int], problems: Problems) -> str:
    cell = raw.cells.get(KEY, Cell("", 0))
    prompt_id = cell.value.strip() if isinstance(cell.value, str) else ""
    if not isinstance(cell.value, str | None):
        wrong = str(Problem(KEY, cell.value, "must be text or a whole number"))
    elif not prompt_id:
        wrong = f"{KEY}: is empty; each row needs a name of its own"
    elif len(prompt_id) > MAX_KEY or not prompt_id.isprintable():
        wrong = f"{KEY}: must be up to {MAX_KEY} printable characters"
    elif prompt_id in lines:
        wrong = f"{KEY}: {prompt_id!r} stands on {problems.unit} {lines[prompt_id]} already"
    else:
        lines[prompt_id] = raw.line
        return prompt_id
    problems.add(raw.line, cell.column, wrong)
    return prompt_id


def _typed(raw: RawRow, problems: Problems) -> dict[str, object]:
    fields, found = typed_fields({name: cell.value for name, cell in raw.cells.items() if name != KEY})
    for problem in found:
        problems.add(raw.line, raw.cells[problem.field].column, str(problem))
    return fields
