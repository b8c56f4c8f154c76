"""
Read prompt tables that have types, Parquet and the rows of a query, into the same cells as text.

The rows are counted from 1. See ``text_sources.py`` for text; heavy imports happen where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus
from uuid import UUID

from musicapi_provider.api.bodies import FIELDS
from musicapi_provider.exceptions import MusicAPIPromptTableError
from musicapi_provider.prompt_table.text_sources import (
    PIECE,
    Problems,
    RawRow,
    check_columns,
    is_whole,
    one_number,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Connection

#: Rows of a Parquet file that become Python objects at once.
BATCH = 100
#: How pandas names an index without a name when it writes Parquet: nobody asked for that column.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
#: Extras of a connection that are secrets, such as ``private_key_passphrase``.
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
#: Digits of a Decimal; with more it is neither a name nor a number that the API takes.
_MAX_DIGITS = 100


# -- Parquet ------------------------------------------------------------------------------------------------


def parquet_rows(file: IO[bytes], problems: Problems) -> Iterator[RawRow]:
    """Read Parquet, a batch of rows at a time."""
    import pyarrow as pa

    try:
        table = _open_parquet(file)
        columns = [name for name in table.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name)]
        check_columns(columns, problems)
        count = 0
        for batch in table.iter_batches(BATCH, columns=columns, use_threads=False):
            values = [_python_values(batch.column(name)) for name in columns]
            yield from _typed_rows(columns, zip(*values, strict=True), after=count)
            count += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the storage's own, such as a broken network: not the file's fault
        raise problems.unreadable(
            f"{problems.name}: is no readable Parquet: {error}",
            "write the file again, or give it the ending of what it is (.csv, .jsonl).",
        ) from None


def _open_parquet(file: IO[bytes]) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The reader stays with the pool that it is made with; Arrow's own takes 20 MB more for the same rows.
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        # Buffered ahead, a row group is in memory as a whole, and most writers make but one of a file.
        return pq.ParquetFile(file, buffer_size=PIECE, pre_buffer=False)
    finally:
        pa.set_memory_pool(usual)


def _python_values(column: pa.Array) -> list[object]:
    """Make Python objects of a column, whatever it holds."""
    import pyarrow as pa

    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError):  # text that is no UTF-8, nanoseconds, dates after the year 9999
        return [_python_value(cell) for cell in column]
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        # 0.7 in four bytes is 0.699999988: it would be another purchase than the 0.7 of a CSV.
        return [value if value is None else float(f"{value:.7g}") for value in values]
    return values


def _python_value(cell: pa.Scalar) -> object:
    """Return a value or, where Python has none, something that the check refuses and can show."""
    import pyarrow as pa

    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.cast(pa.binary()).as_py()
    except (ValueError, OverflowError):
        return cell.type


# -- SQL ----------------------------------------------------------------------------------------------------


def query_rows(
    sql: str,
    conn_id: str,
    parameters: Iterable[object] | Mapping[str, object] | None,
    problems: Problems,
) -> Iterator[RawRow]:
    """
    Run a query by an Airflow connection and read its rows.

    All rows are fetched before the first is read, so that no database waits for the checks: drivers such as
    psycopg hold the whole answer anyway, and the text in it is what the rows are made of.
    """
    connection, hook = _hook_of(conn_id)
    columns: list[str] = []
    rows: list[Iterable[object]] = []

    def keep(cursor: Any) -> None:  # returns nothing: some hooks rebuild what a handler returns
        description = getattr(cursor, "description", None)
        if description is None:
            raise MusicAPIPromptTableError(
                f"The {problems.name} answers with no table; nothing was bought.", next_step="pass a SELECT."
            )
        columns[:] = _as_written(str(column[0]) for column in description)
        check_columns(columns, problems, hint="rename columns with AS and select no others; ")
        rows[:] = cursor.fetchall()

    try:
        hook.run(sql, parameters=parameters, handler=keep)
    except MusicAPIPromptTableError:
        raise
    except Exception as error:  # noqa: BLE001 - each driver has a tree of its own, under Exception
        raise _query_failed(error, connection) from None
    return _typed_rows(columns, (row.values() if isinstance(row, Mapping) else row for row in rows))


def _hook_of(conn_id: str) -> tuple[Connection, DbApiHook]:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise MusicAPIPromptTableError(
            f"There is no Airflow connection {conn_id!r} to query prompts by; nothing was bought.",
            next_step=f"create it (Admin > Connections, AIRFLOW_CONN_{conn_id.upper()}), or correct the id.",
        ) from None
    try:
        hook = connection.get_hook()  # type: ignore[no-untyped-call]
    except (AirflowException, ImportError) as error:
        raise MusicAPIPromptTableError(
            f"The Airflow connection {conn_id!r} of type {connection.conn_type!r} cannot be used here: "
            f"{_words(error, connection)}; nothing was bought.",
            next_step=f"install that database's provider (pip install apache-airflow-providers-"
            f"{connection.conn_type or 'postgres'}) where tasks run, or correct the connection's type.",
        ) from None
    if not isinstance(hook, DbApiHook):
        raise MusicAPIPromptTableError(
            f"The Airflow connection {conn_id!r} of type {connection.conn_type!r} is no SQL database "
            f"({type(hook).__name__} is no DbApiHook); nothing was bought.",
            next_step="give the id of a connection to a database: postgres, mysql, snowflake, sqlite, ...",
        )
    return connection, hook


def _as_written(names: Iterable[str]) -> list[str]:
    """
    Return the names of columns as a query has them.

    Oracle, Snowflake, Db2 and others answer in capitals what was written without quotes. A name with
    anything but capitals was meant so, and its spelling counts as in a CSV.
    """
    return [name.lower() if name.isupper() else name for name in names]


def _query_failed(error: Exception, connection: Connection) -> MusicAPIPromptTableError:
    # PEP 249: these two are the database's trouble, such as a lost connection. A retry may cure it, for free.
    passing = any(base.__name__ in ("OperationalError", "InterfaceError") for base in type(error).__mro__)
    return MusicAPIPromptTableError(
        f"The query on {connection.conn_id} failed: {_words(error, connection)}; nothing was bought.",
        next_step=f"correct the query, or the connection {connection.conn_id!r} (Admin > Connections).",
        retryable=passing,
    )


def _words(error: Exception, connection: Connection) -> str:
    """Return what the database said, in one line and without a secret of the connection."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    extra = connection.extra_dejson
    secrets = [connection.password, *(extra[name] for name in extra if _SECRET.search(name))]
    for secret in secrets:
        for spelling in {str(secret), quote(str(secret), safe=""), quote_plus(str(secret))} if secret else ():
            text = text.replace(spelling, "***")
    return text


# -- types --------------------------------------------------------------------------------------------------


def _typed_rows(
    columns: Sequence[str], rows: Iterable[Iterable[object]], *, after: int = 0
) -> Iterator[RawRow]:
    kinds = [_reading(name) for name in columns]
    for count, row in enumerate(rows, after + 1):
        yield RawRow.of(count, columns, [kind(value) for kind, value in zip(kinds, row, strict=True)])


def _reading(name: str) -> Callable[[object], object]:
    """
    Return how a column's values become what its field wants; what cannot is left to the check.

    The type of a column is often only its writer's guess: SQLite's booleans are 0 and 1, a whole number may
    be a Decimal, and pandas makes floats of whole numbers, and ``NaN`` of nothing, where one cell is missing.
    """
    kind = FIELDS.get(name, str)

    def read(value: object) -> object:
        if value is None or isinstance(value, (str, bool)):
            return value
        if isinstance(value, UUID):
            return str(value)
        number = _plain(value) if isinstance(value, Decimal) else value
        if not isinstance(number, (int, float)):
            return value
        if number != number:  # NaN
            return None
        if kind is bool:
            return bool(number) if number in (0, 1) else number
        if kind is str:
            return str(int(number)) if is_whole(number) else number
        return one_number(name, number)

    return read


def _plain(value: Decimal) -> int | float:
    """Return a Decimal as a number of Python's; a whole one stays exact."""
    if value.is_nan():
        return float("nan")
    if value.is_finite() and value.adjusted() < _MAX_DIGITS and value == value.to_integral_value():
        return int(value)
    return float(value)
