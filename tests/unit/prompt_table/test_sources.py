"""Prompt tables from every source: the same rows, the same bodies, the same errors, in little memory."""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import errno
import io
import json
import math
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec.implementations.local
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach

from musicapi_provider.exceptions import MusicAPIPromptTableError, Spent
from musicapi_provider.prompt_table import (
    PromptRow,
    parse_prompt_table,
    query_prompt_table,
    read_prompt_table,
)
from musicapi_provider.prompt_table.text_sources import LONGEST_CELL, Problems
from musicapi_provider.prompt_table.typed_sources import parquet_rows
from tests.conftest import PROJECT
from tests.postgres import Postgres, sqlite_connection_json

pytest_plugins = ["tests.postgres"]

#: What a table may hold, each with what is sent of it.
SONGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": "la la", "custom_mode": True, "style_weight": 0.7}, {}),
    ({"prompt": "Größe 音楽 🎵🏴‍☠️ e\u0301", "title": "🎵", "tags": "ドリームポップ, chanson"}, {}),
    ({"prompt": 'one\r\ntwo\n\n"three", and;\tfour\r', "title": " blanks around "}, {}),
    ({"prompt": "{{ conn.musicapi_default.password }} {% raw %} {{ ds }}", "title": "${HOME} `id` =1+1"}, {}),
    ({"prompt": "词" * 5000}, {}),
    ({"make_instrumental": True, "style_weight": 1.0, "duration": 60, "title": "1999"}, {}),
    ({"prompt": "None", "make_instrumental": False, "style_weight": 0.0, "tags": "null, NaN"}, {}),
    ({"gpt_description_prompt": "a waltz", "title": ""}, {"title": None, "custom_mode": False}),
]
#: The columns that the songs use and how Postgres and SQLite type them, SQLite's as a hint only.
TYPES = {
    **{"prompt_id": "text", "prompt": "text", "gpt_description_prompt": "text", "title": "text"},
    **{"tags": "text", "custom_mode": "boolean", "make_instrumental": "boolean"},
    **{"style_weight": "numeric", "duration": "bigint"},
}
ROWS = [[{"prompt_id": f"song {n}", **song}.get(name) for name in TYPES] for n, (song, _) in enumerate(SONGS)]


def sent(song: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a song."""
    body = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, **song, **changes}
    return {name: value for name, value in body.items() if value is not None}


BODIES = [sent(*song) for song in SONGS]


def canonical(bodies: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what bodies are fingerprinted as: 1 and 1.0 are two purchases."""
    return [json.dumps(body, sort_keys=True) for body in bodies]


# -- the same rows in every source ---------------------------------------------------------------------------

Write = Callable[[Path, pytest.FixtureRequest], list[PromptRow]]


def stored(path: Path, content: bytes) -> list[PromptRow]:
    """Read bytes as a file."""
    path.write_bytes(content)
    return read_prompt_table(ObjectStoragePath(path.as_uri()))


def as_csv(rows: Iterable[Iterable[Any]] = ROWS) -> bytes:
    """Return CSV as Python's own writer makes it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([TYPES, *rows])
    return text.getvalue().encode()


def as_json_lines() -> bytes:
    """Return JSON Lines, every field typed."""
    lines = [json.dumps(dict(zip(TYPES, row, strict=True)), ensure_ascii=False) for row in ROWS]
    return "\n".join(lines).encode()


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    """Return Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def songs_table() -> pa.Table:
    """Return the songs as a typed table."""
    return pa.table({name: list(values) for name, values in zip(TYPES, zip(*ROWS, strict=True), strict=True)})


def pandas_table() -> pa.Table:
    """Return the songs as pandas writes them: NaN for nothing, categories, floats, an index."""
    table = songs_table()
    for name in ("style_weight", "duration", "make_instrumental", "custom_mode"):
        values = [math.nan if value is None else float(value) for value in table[name].to_pylist()]
        kind = pa.float32() if name == "style_weight" else pa.float64()
        table = table.set_column(table.column_names.index(name), name, pa.array(values, kind))
    for name in ("prompt", "tags", "prompt_id"):
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].combine_chunks().dictionary_encode())
    return table.append_column("__index_level_0__", pa.array(range(5, 5 + len(ROWS))))


def in_object_store(_path: Path, request: pytest.FixtureRequest) -> list[PromptRow]:
    """Read Parquet from an object store that is no local disk."""
    store = attach("memory", fs=fsspec.filesystem("memory"))
    request.addfinalizer(store.fs.store.clear)
    path = ObjectStoragePath("memory://prompts/table.parquet")
    with path.open("wb") as file:
        file.write(as_parquet(songs_table()))
    return read_prompt_table(path)


def in_sqlite(path: Path, request: pytest.FixtureRequest) -> list[PromptRow]:
    """Write a SQLite table, booleans as 0 and 1, and query it by an Airflow connection."""
    file = path / "songs.db"
    with sqlite3.connect(file) as database:
        database.execute(
            f"CREATE TABLE songs ({', '.join(f'{name} {kind}' for name, kind in TYPES.items())})"
        )
        database.executemany(f"INSERT INTO songs VALUES ({', '.join('?' * len(TYPES))})", ROWS)  # noqa: S608
    database.close()
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_SONGS", sqlite_connection_json(file))
    return query_prompt_table("SELECT * FROM songs ORDER BY prompt_id", "songs")


def in_postgres(_path: Path, request: pytest.FixtureRequest) -> list[PromptRow]:
    """Write a Postgres table and query it by an Airflow connection."""
    postgres: Postgres = request.getfixturevalue("postgres")
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    postgres.execute(
        "DROP TABLE IF EXISTS songs",
        f"CREATE TABLE songs ({columns})",
        f"INSERT INTO songs VALUES ({', '.join(['%s'] * len(TYPES))})",  # noqa: S608
        rows=ROWS,
    )
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_SONGS", postgres.connection_json())
    return query_prompt_table("SELECT * FROM songs ORDER BY prompt_id", "songs")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda path, _: stored(path / "songs.csv", as_csv()), id="csv"),
        pytest.param(lambda path, _: stored(path / "songs.csv", codecs.BOM_UTF8 + as_csv()), id="csv-bom"),
        pytest.param(lambda path, _: stored(path / "songs.jsonl", as_json_lines()), id="json-lines"),
        pytest.param(lambda path, _: stored(path / "SONGS.Parquet", as_parquet(songs_table())), id="parquet"),
        pytest.param(
            lambda path, _: stored(path / "songs.pq", as_parquet(pandas_table(), row_group_size=3)),
            id="parquet-of-pandas",
        ),
        pytest.param(in_object_store, id="object-store"),
        pytest.param(in_sqlite, id="sqlite"),
        pytest.param(in_postgres, id="postgres"),
    ],
)
def test_every_source_gives_the_same_rows(
    source: Write, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Moving a table elsewhere buys nothing again: the same ids and bodies, to the byte."""
    rows = source(tmp_path, request)

    assert [f"song {n}" for n in range(len(SONGS))] == [row.prompt_id for row in rows]
    assert canonical(BODIES) == canonical(row.body for row in rows)


# -- typed columns ------------------------------------------------------------------------------------------


def parquet(**columns: Any) -> bytes:
    """Return Parquet of columns; a missing prompt_id or prompt is made up."""
    count = len(next(iter(columns.values())))
    made_up = {"prompt_id": [f"song {n}" for n in range(count)], "prompt": ["la"] * count}
    return as_parquet(pa.table(made_up | columns))


def problems_of(content: bytes, name: str = "songs.parquet") -> tuple[str, ...]:
    """Return what a refused table is told."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse_prompt_table(content, name=name)
    return raised.value.problems


DECIMAL = pa.decimal128(38, 2)


@pytest.mark.parametrize(
    ("field", "cells", "expected"),
    [
        pytest.param("make_instrumental", pa.array([1]), True, id="boolean-as-1"),
        pytest.param("make_instrumental", pa.array([0], pa.int8()), False, id="boolean-as-0"),
        pytest.param("make_instrumental", pa.array([1.0]), True, id="boolean-as-1.0"),
        pytest.param(
            "make_instrumental", pa.array([decimal.Decimal(1)], DECIMAL), True, id="boolean-as-decimal"
        ),
        pytest.param("make_instrumental", pa.array(["yes"]), True, id="boolean-as-text"),
        pytest.param("style_weight", pa.array([1]), 1.0, id="whole-weight"),
        pytest.param("style_weight", pa.array([decimal.Decimal("0.70")], DECIMAL), 0.7, id="decimal-weight"),
        pytest.param("style_weight", pa.array([0.7], pa.float32()), 0.7, id="weight-in-four-bytes"),
        pytest.param("style_weight", pa.array(["0.7"]), 0.7, id="weight-as-text"),
        pytest.param("style_weight", pa.array([math.nan]), None, id="nan"),
        pytest.param("style_weight", pa.array([None], pa.null()), None, id="column-of-nothing"),
        pytest.param("duration", pa.array([60.0]), 60, id="seconds-as-float"),
        pytest.param("duration", pa.array([decimal.Decimal(60)], DECIMAL), 60, id="seconds-as-decimal"),
        pytest.param("duration", pa.array(["60"]), 60, id="seconds-as-text"),
        pytest.param("continue_clip_id", pa.array([7]), "7", id="text-that-looks-like-a-number"),
        pytest.param("title", pa.array([1999.0]), "1999", id="text-that-looks-like-a-float"),
        pytest.param("title", pa.array(["x"]).dictionary_encode(), "x", id="dictionary"),
        pytest.param("title", pa.array(["x"], pa.large_string()), "x", id="large-text"),
        pytest.param("title", pa.array([" "]), None, id="blank"),
        pytest.param("title", pa.array([None], pa.list_(pa.string())), None, id="null-of-any-type"),
    ],
)
def test_typed_cell_becomes_what_its_field_wants(field: str, cells: pa.Array, expected: Any) -> None:
    """A column's type is its writer's guess; the body is the one that text in a CSV gives."""
    (row,) = parse_prompt_table(parquet(**{field: cells}), name="songs.parquet")

    assert expected == row.body.get(field)
    assert type(expected) is type(row.body.get(field))


@pytest.mark.parametrize(
    ("field", "cells", "said"),
    [
        pytest.param("make_instrumental", pa.array([2]), "must be true or false; got 2", id="two-as-boolean"),
        pytest.param("style_weight", pa.array([True]), "must be a number; got True", id="boolean-as-number"),
        pytest.param("style_weight", pa.array([math.inf]), "must be from 0 to 1; got inf", id="infinity"),
        pytest.param("duration", pa.array([60.5]), "must be a whole number; got 60.5", id="half-a-second"),
        pytest.param("title", pa.array([True]), "must be text; got True", id="boolean-as-text"),
        pytest.param("title", pa.array([0.5]), "must be text; got 0.5", id="fraction-as-text"),
        pytest.param(
            "title",
            pa.array([datetime.date(2026, 1, 2)]),
            "must be text; got datetime.date(2026, 1, 2)",
            id="date",
        ),
        pytest.param(
            "title", pa.array([1], pa.timestamp("ns")), "must be text; got TimestampType", id="nanoseconds"
        ),
        pytest.param("title", pa.array([{"a": 1}]), "must be text; got {'a': 1}", id="struct"),
        pytest.param(
            "tags", pa.array([["x"]]), "must be text, comma separated; got ['x']", id="list-of-tags"
        ),
        pytest.param("title", pa.array([b"x"]), "must be text; got b'x'", id="bytes"),
        pytest.param(
            "title",
            pa.array([b"caf\xe9"]).cast(pa.string(), safe=False),
            r"must be text; got b'caf\xe9'",
            id="text-that-is-no-utf-8",
        ),
        pytest.param(
            "title", pa.array(["x" * 200_000]), "may have 80 characters at most; got", id="very-long-text"
        ),
    ],
)
def test_typed_cell_that_fits_nothing_is_named(field: str, cells: pa.Array, said: str) -> None:
    """Dates, lists, bytes and what Python cannot hold are problems of a row and a column, never a crash."""
    (problem,) = problems_of(parquet(**{field: cells}))

    assert problem.startswith(f"songs.parquet:1:3: {field}: {said}")


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        pytest.param(pa.array([3]), "3", id="whole"),
        pytest.param(pa.array([3.0]), "3", id="float-of-pandas"),
        pytest.param(pa.array([decimal.Decimal("3.00")], DECIMAL), "3", id="decimal"),
        pytest.param(
            pa.array([decimal.Decimal(12345678901234567890)], pa.decimal128(20, 0)),
            "12345678901234567890",
            id="more-digits-than-a-float-has",
        ),
        pytest.param(pa.array([" a "]), "a", id="text"),
        pytest.param(pa.array(["3.0"]), "3.0", id="text-is-as-it-stands"),
    ],
)
def test_number_as_prompt_id_is_its_text(cells: pa.Array, name: str) -> None:
    """3 and 3.0 name the same row: pandas changes one into the other when some id is missing."""
    (row,) = parse_prompt_table(parquet(prompt_id=cells), name="songs.parquet")

    assert name == row.prompt_id


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        pytest.param(pa.array([3.5]), "3.5", id="fraction"),
        pytest.param(pa.array([2.0**53]), "9007199254740992.0", id="float-that-lost-digits"),
        pytest.param(pa.array([True]), "True", id="boolean"),
        pytest.param(pa.array([datetime.date(2026, 1, 2)]), "datetime.date(2026, 1, 2)", id="date"),
        pytest.param(pa.array([b"a"]), "b'a'", id="bytes"),
    ],
)
def test_prompt_id_that_is_no_name_is_refused(cells: pa.Array, shown: str) -> None:
    """A name that could change with the writer's settings would buy everything again."""
    assert problems_of(parquet(prompt_id=cells)) == (
        f"songs.parquet:1:1: prompt_id: must be text or a whole number; got {shown}",
    )


@pytest.mark.parametrize("value", ["3.5", "true", "[1]"])
def test_json_prompt_id_that_is_no_name_is_refused(value: str) -> None:
    """The same holds for JSON, which has types too."""
    (said,) = problems_of(f'{{"prompt_id": {value}, "prompt": "la"}}'.encode(), "songs.jsonl")

    assert said.startswith("songs.jsonl:1: prompt_id: must be text or a whole number; got ")


def test_json_numbers_are_those_of_a_csv() -> None:
    """1 in JSON and 1 in a CSV are one purchase, and 3.0 names the row that 3 names."""
    content = b'{"prompt_id": 3.0, "prompt": "la", "style_weight": 1, "duration": 60.0}'
    (row,) = parse_prompt_table(content, name="songs.jsonl")
    (same,) = parse_prompt_table(b"prompt_id,prompt,style_weight,duration\n3,la,1,60\n", name="songs.csv")

    assert canonical([same.as_dict()]) == canonical([row.as_dict()])


# -- Parquet: places and files ------------------------------------------------------------------------------


def test_parquet_rows_are_counted_from_one_across_batches() -> None:
    """A file of many batches and row groups has one count, and everything wrong is said at once."""
    weights = [0.5] * 2000
    weights[0] = weights[1234] = weights[1999] = 7.0
    ids = [f"song {n}" for n in range(1999)] + ["song 1234"]

    assert problems_of(parquet(prompt_id=ids, style_weight=weights)) == (
        "songs.parquet:1:3: style_weight: must be from 0 to 1; got 7.0",
        "songs.parquet:1235:3: style_weight: must be from 0 to 1; got 7.0",
        "songs.parquet:2000:1: prompt_id: 'song 1234' stands on row 1235 already",
    )


def test_skip_invalid_leaves_bad_parquet_rows_out() -> None:
    """The good rows keep their numbers."""
    content = parquet(style_weight=[0.5, 7.0, None])
    rows = parse_prompt_table(content, name="songs.parquet", skip_invalid=True)

    assert [(row.prompt_id, row.line) for row in rows] == [("song 0", 1), ("song 2", 3)]


@pytest.mark.parametrize(
    ("table", "problems"),
    [
        pytest.param(
            {"prompt": ["la"]},
            ["songs.parquet: has no column 'prompt_id', which names each row"],
            id="no-prompt-id",
        ),
        pytest.param(
            {"prompt_id": ["a"], "titel": ["x"], "zzzz": [1]},
            [
                "songs.parquet: unknown column 'titel', did you mean 'title'?",
                "songs.parquet: unknown column 'zzzz'",
            ],
            id="unknown-columns",
        ),
        pytest.param(
            {"Prompt_ID": ["a"]},
            [
                "songs.parquet: unknown column 'Prompt_ID', did you mean 'prompt_id'?",
                "songs.parquet: has no column 'prompt_id', which names each row",
            ],
            id="capitals",
        ),
    ],
)
def test_parquet_with_wrong_columns_is_refused(table: dict[str, Any], problems: list[str]) -> None:
    """Columns that would go nowhere refuse the table before a row is read."""
    said = problems_of(as_parquet(pa.table(table)))

    assert problems == list(said)


def test_parquet_with_a_column_twice_is_refused() -> None:
    """Nobody can know which of two cells counts."""
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["prompt_id", "prompt", "prompt"])

    assert problems_of(as_parquet(table)) == ("songs.parquet: column 'prompt' stands there twice",)


def damaged() -> bytes:
    """Return Parquet whose pages were overwritten."""
    content = bytearray(parquet(title=[f"title {n}" for n in range(100)]))
    content[4:200] = b"\xff" * 196
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="no-bytes"),
        pytest.param(b"prompt_id,prompt\na,la\n", id="csv"),
        pytest.param(parquet(title=["x"])[:-20], id="cut-off"),
        pytest.param(damaged(), id="damaged"),
    ],
)
def test_unreadable_parquet_is_named(content: bytes) -> None:
    """The error says which file, what the reader says, and what to do."""
    with pytest.raises(MusicAPIPromptTableError, match=r"songs\.parquet: is no readable Parquet: ") as raised:
        parse_prompt_table(content, name="songs.parquet", skip_invalid=True)

    assert "nothing was bought" in str(raised.value)
    assert "write the file again" in raised.value.next_step


def test_parquet_without_rows_is_refused() -> None:
    """Buying nothing without a word would hide a broken export."""
    with pytest.raises(MusicAPIPromptTableError, match=r"songs\.parquet has no rows"):
        parse_prompt_table(parquet(title=pa.array([], pa.string())), name="songs.parquet")


class BrokenNetwork(io.BytesIO):
    """A file whose storage goes away."""

    def read(self, size: int | None = -1) -> bytes:
        """Fail as sockets do."""
        raise OSError(errno.ECONNRESET, "Connection reset by peer")


def test_failure_of_the_storage_is_not_blamed_on_the_file() -> None:
    """A broken network stays what it is, so that Airflow's retries can cure it."""
    file = BrokenNetwork(parquet(title=["x"]))
    with pytest.raises(ConnectionResetError):
        list(parquet_rows(file, Problems("songs.parquet")))


@pytest.mark.parametrize("name", ["nowhere.parquet", "folder.parquet", "file.csv/songs.parquet"])
def test_missing_parquet_is_named(name: str, tmp_path: Path) -> None:
    """A folder of parts, a missing file and a path through a file are paths to correct."""
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file.csv").touch()
    with pytest.raises(MusicAPIPromptTableError, match=r"There is no prompt table at .*parquet"):
        read_prompt_table(ObjectStoragePath((tmp_path / name).as_uri()))


def test_forbidden_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not read a table learns whose right is missing."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    # The tests may run as root, whom no file refuses.
    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "_open", refuse)
    with pytest.raises(MusicAPIPromptTableError, match=r"songs\.csv may not be read: Access Denied"):
        read_prompt_table(ObjectStoragePath((tmp_path / "songs.csv").as_uri()))


# -- text, piece by piece -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name"),
    [
        pytest.param(f"prompt_id,prompt\na,{'x' * 200_000}\nb,la\n", "songs.csv", id="csv"),
        pytest.param(f'prompt_id,prompt\na,"{"x" * 200_000}"\nb,la\n', "songs.csv", id="quoted-csv"),
        pytest.param(
            json.dumps({"prompt_id": "a", "prompt": "x" * 200_000}) + '\n{"prompt_id": "b", "prompt": "la"}',
            "songs.jsonl",
            id="json-lines",
        ),
    ],
)
def test_very_long_cell_meets_the_ordinary_limit(content: str, name: str) -> None:
    """Beyond the csv module's own 131,072 characters a cell is still one bad cell, and can be skipped."""
    (said,) = problems_of(content.encode(), name)

    assert "prompt: may have 5000 characters at most; got 'xxx" in said
    assert "(200000 characters)" in said
    assert [row.prompt_id for row in parse_prompt_table(content.encode(), name=name, skip_invalid=True)] == [
        "b"
    ]


def test_unclosed_quote_does_not_swallow_a_file_of_any_size() -> None:
    """Reading stops at some length, and the error names the row whose quote is open."""
    content = b'prompt_id,prompt\na,la\nb,"' + b"x" * 99 * (LONGEST_CELL // 98) + b"\n"

    assert (
        "songs.csv:3: is no readable CSV: field larger than field limit"
        in problems_of(content, "songs.csv")[0]
    )


def test_unreadable_end_does_not_hide_the_problems_before_it() -> None:
    """One round of corrections is enough."""
    said = problems_of(b'prompt_id,prompt,style_weight\na,la,7\nb,"la" x,\n', "songs.csv")
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse_prompt_table(b"prompt_id,prompt,style_weight\na,la,7\nb,caf\xe9,\n", name="songs.csv")

    assert [line.split(": ")[0] for line in said] == ["songs.csv:2:3", "songs.csv:3"]
    assert [line.split(": ")[0] for line in raised.value.problems] == ["songs.csv:2:3"]
    assert str(raised.value).startswith("songs.csv:3: byte 0xe9 is no UTF-8.")


@pytest.mark.parametrize(
    ("content", "name", "line"),
    [
        pytest.param(b"prompt_id,prompt\ra,la\rb,caf\xe9\r", "songs.csv", 3, id="old-mac"),
        pytest.param(b"prompt_id,prompt\r\na,la\r\nb,caf\xe9\r\n", "songs.csv", 3, id="windows"),
        pytest.param(
            b'prompt_id,prompt\na,"one\rtwo\r\n\nthree \xe9"\n', "songs.csv", 5, id="in-a-quoted-cell"
        ),
        pytest.param(
            b"prompt_id,prompt\n" + b"\n" * 3_000_000 + b"\xe9", "songs.csv", 3_000_002, id="far-behind"
        ),
        pytest.param("prompt_id,prompt\na,ü".encode()[:-1], "songs.csv", 2, id="half-a-character"),
        pytest.param(b'{"a": 1}\r\n{"a": "\r\xe9"}', "songs.jsonl", 2, id="json-lines"),
    ],
)
def test_line_of_a_foreign_byte_is_exact(content: bytes, name: str, line: int) -> None:
    """Lines are counted as the format counts them, also far into a file that is read in pieces."""
    with pytest.raises(MusicAPIPromptTableError, match=rf"songs\.\w+:{line}: byte 0x(e9|c3) is no UTF-8"):
        parse_prompt_table(content, name=name, skip_invalid=True)


def test_old_mac_line_ends_are_lines() -> None:
    """A lone carriage return ends a row, as spreadsheets of old Macs wrote it."""
    rows = parse_prompt_table(b'\xef\xbb\xbfprompt_id,prompt\ra,"one\rtwo"\r\rb,la\r', name="songs.csv")

    assert [(row.prompt_id, row.body["prompt"], row.line) for row in rows] == [
        ("a", "one\rtwo", 2),
        ("b", "la", 5),
    ]


# -- SQL ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the connection ``songs`` to an empty SQLite database; return a function that runs statements."""
    file = tmp_path / "songs.db"
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", sqlite_connection_json(file))

    def run(*statements: str) -> None:
        with sqlite3.connect(file) as database:
            for statement in statements:
                database.execute(statement)
        database.close()

    run()
    return run


@pytest.fixture
def in_pg(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """Set the connection ``songs`` to the Postgres server."""
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", postgres.connection_json())
    return postgres


def refusal_of(sql: str, conn_id: str = "songs", **options: Any) -> MusicAPIPromptTableError:
    """Return the error of a refused query."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        query_prompt_table(sql, conn_id, **options)
    assert raised.value.spent is Spent.NOT_SPENT
    return raised.value


@pytest.mark.usefixtures("sqlite")
def test_query_problems_have_row_and_column() -> None:
    """Everything wrong is said at once, rows counted from 1, columns as in the query."""
    sql = """
        SELECT 1 AS prompt_id, 'la' AS prompt, 7 AS style_weight UNION ALL SELECT 2, 'la', 0.5
        UNION ALL SELECT NULL, 'la', 1 UNION ALL SELECT 2, 'la', NULL UNION ALL SELECT 4, x'00', NULL
    """

    assert refusal_of(sql).problems == (
        "query on songs:1:3: style_weight: must be from 0 to 1; got 7.0",
        "query on songs:3:1: prompt_id: is empty; each row needs a name of its own",
        "query on songs:4:1: prompt_id: '2' stands on row 2 already",
        r"query on songs:5:2: prompt: must be text; got b'\x00'",
    )
    assert [row.line for row in query_prompt_table(sql, "songs", skip_invalid=True)] == [2]


def test_query_takes_parameters(sqlite: Callable[..., None]) -> None:
    """Values go to the driver, by place or by name, and never into the text of the query."""
    sqlite("CREATE TABLE songs (id, words)", "INSERT INTO songs VALUES (1, 'la'), (2, 'lo')")
    sql = "SELECT id AS prompt_id, words AS prompt FROM songs WHERE words = "
    rows = [
        *query_prompt_table(sql + "?", "songs", parameters=["lo"]),
        *query_prompt_table(sql + ":words", "songs", parameters={"words": "la"}),
    ]

    assert [row.prompt_id for row in rows] == ["2", "1"]


@pytest.mark.usefixtures("sqlite")
def test_columns_in_capitals_are_columns() -> None:
    """Oracle, Snowflake and Db2 answer so to whatever was written without quotes."""
    (row,) = query_prompt_table("SELECT 'a' AS PROMPT_ID, 'la' AS PROMPT", "songs")

    assert (row.prompt_id, row.body["prompt"]) == ("a", "la")


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    ("select", "problems"),
    [
        pytest.param("'a' AS prompt_id, 1 AS created_at", ["unknown column 'created_at'"], id="unknown"),
        pytest.param(
            "'a' AS prompt_id, 'x' AS Titel", ["unknown column 'Titel', did you mean 'title'?"], id="typo"
        ),
        pytest.param(
            "'a' AS prompt_id, 'x' AS PROMPT, 'y' AS prompt",
            ["column 'prompt' stands there twice"],
            id="twice",
        ),
        pytest.param(
            "'la' AS prompt", ["has no column 'prompt_id', which names each row"], id="no-prompt-id"
        ),
    ],
)
def test_query_with_wrong_columns_is_refused(select: str, problems: list[str]) -> None:
    """The same words as for a file, and how to mend a query."""
    error = refusal_of(f"SELECT {select}", skip_invalid=True)

    assert [f"query on songs: {problem}" for problem in problems] == list(error.problems)
    assert error.next_step.startswith("rename columns with AS")


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        pytest.param("SELECT 'a' AS prompt_id WHERE 0", "query on songs has no rows", id="no-rows"),
        pytest.param("CREATE TABLE t (x)", "query on songs answers with no table", id="no-select"),
        pytest.param("SELECT * FROM t", "OperationalError: no such table: t", id="no-table"),
        pytest.param("", "query on songs failed", id="no-query"),
    ],
)
def test_query_without_a_table_is_refused(sql: str, words: str) -> None:
    """The error names the connection and has the database's words."""
    error = refusal_of(sql)

    assert words in str(error)
    assert error.next_step


@pytest.mark.parametrize(
    ("connection", "words", "step"),
    [
        pytest.param(None, "There is no Airflow connection 'songs'", "AIRFLOW_CONN_SONGS", id="missing"),
        pytest.param(
            {"conn_type": "http", "host": "h"}, "HttpHook is no DbApiHook", "a database", id="no-database"
        ),
        pytest.param(
            {"conn_type": "nosuch", "host": "h"},
            'Unknown hook type "nosuch"',
            "pip install apache-airflow-providers-nosuch",
            id="provider-not-installed",
        ),
    ],
)
def test_unusable_connection_is_named(
    connection: dict[str, str] | None, words: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is wrong with the connection and what to do."""
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_SONGS", json.dumps(connection))
    error = refusal_of("SELECT 1")

    assert "'songs'" in str(error)
    assert words in str(error)
    assert step in error.next_step
    assert not error.retryable


def test_server_that_is_away_may_be_asked_again(in_pg: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection is the database's trouble and passes; a query that is wrong stays wrong."""
    wrong = refusal_of("SELECT nothing FROM nowhere")
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", in_pg.connection_json(port=1))
    away = refusal_of("SELECT 1")

    assert 'relation "nowhere" does not exist' in str(wrong)
    assert not wrong.retryable
    assert "Connection refused" in str(away)
    assert away.retryable


def test_no_password_is_in_an_error(in_pg: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the database repeats, secrets of the connection are left out."""
    extra = {"options": "-c statement_timeout=9s"}
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", in_pg.connection_json(extra=extra))
    repeated = str(refusal_of(f"SELECT CAST('{in_pg.password}' AS int)"))
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", in_pg.connection_json(password="wr0ng-secret"))
    wrong = str(refusal_of("SELECT 1"))

    assert 'invalid input syntax for type integer: "***"' in repeated
    assert in_pg.password not in repeated
    assert "password authentication failed" in wrong
    assert "wr0ng-secret" not in wrong


@pytest.mark.usefixtures("in_pg")
def test_types_of_postgres_become_what_fields_want() -> None:
    """Numeric, real, NaN, boolean, uuid and enumerations give the bodies of a CSV."""
    number = uuid.uuid4()
    sql = f"""
        SELECT '{number}'::uuid AS prompt_id, 'extend_music' AS task_type, 'la' AS prompt,
               '{number}'::uuid AS continue_clip_id, 30::numeric AS continue_at, 0.7::real AS style_weight,
               'NaN'::float8 AS audio_weight, 'NaN'::numeric AS weirdness_constraint, true AS custom_mode,
               60::numeric(9, 2) AS duration, '' AS title, NULL::jsonb AS tags
    """
    (row,) = query_prompt_table(sql, "songs")

    assert str(number) == row.prompt_id
    assert canonical([row.body]) == canonical(
        [
            {
                **{"task_type": "extend_music", "mv": "sonic-v5", "prompt": "la", "custom_mode": True},
                **{"continue_clip_id": str(number), "continue_at": 30.0, "style_weight": 0.7, "duration": 60},
            }
        ]
    )


@pytest.mark.usefixtures("in_pg")
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        pytest.param("DATE '2026-01-02'", "must be text; got datetime.date(2026, 1, 2)", id="date"),
        pytest.param("ARRAY['a', 'b']", "must be text; got ['a', 'b']", id="array"),
        pytest.param("'{\"a\": 1}'::jsonb", "must be text; got {'a': 1}", id="json"),
        pytest.param("'a'::bytea", "must be text; got ", id="bytes"),
        pytest.param("1.5::numeric", "must be text; got 1.5", id="fraction"),
        pytest.param("'1e200'::numeric", "must be text; got 1e+200", id="huge"),
        pytest.param("repeat('x', 200000)", "may have 80 characters at most; got", id="very-long-text"),
    ],
)
def test_type_of_postgres_that_fits_nothing_is_named(cell: str, said: str) -> None:
    """Dates, arrays, JSON and bytes are problems of a row and a column."""
    (problem,) = refusal_of(f"SELECT 'a' AS prompt_id, 'la' AS prompt, {cell} AS title").problems

    assert problem.startswith(f"query on songs:1:3: title: {said}")


def test_rows_that_are_dicts_are_rows(in_pg: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may choose a cursor that answers with dicts."""
    monkeypatch.setenv("AIRFLOW_CONN_SONGS", in_pg.connection_json(extra={"cursor": "dictcursor"}))
    (row,) = query_prompt_table("SELECT 'la' AS prompt, 1 AS prompt_id", "songs")

    assert (row.prompt_id, row.body["prompt"]) == ("1", "la")


# -- size ---------------------------------------------------------------------------------------------------

#: Reads a small table, so that everything is imported, then the large one; prints rows, MB more.
MEASURE = """
import json, sys
from pathlib import Path
from airflow.sdk import ObjectStoragePath
from musicapi_provider.prompt_table import query_prompt_table, read_prompt_table

def read(name):
    if name.endswith("sql"):
        return query_prompt_table(f"SELECT * FROM {name.removesuffix('.sql')}", "songs")
    return read_prompt_table(ObjectStoragePath(f"file://{sys.argv[1]}/{name}"))

def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

read(f"small.{sys.argv[2]}")
before = peak()
rows = read(f"large.{sys.argv[2]}")
print(json.dumps([len(rows), peak() - before]))
"""


def write_songs(folder: Path, name: str, kind: str, rows: list[dict[str, Any]]) -> None:
    """Write rows as a file, or as a table of the folder's SQLite database."""
    file = folder / f"{name}.{kind}"
    if kind == "csv":
        with file.open("w", newline="") as text:
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with sqlite3.connect(folder / "songs.db") as database:
            database.execute(f"CREATE TABLE {name} (prompt_id, prompt, style_weight)")
            database.executemany(f"INSERT INTO {name} VALUES (:prompt_id, :prompt, :style_weight)", rows)  # noqa: S608
        database.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize(
    ("characters", "megabytes"), [pytest.param(300, 50, id="briefs"), pytest.param(4000, 120, id="lyrics")]
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "sql"])
@pytest.mark.usefixtures("sqlite")
def test_ten_thousand_rows_are_read_in_little_memory(
    kind: str, characters: int, megabytes: float, tmp_path: Path
) -> None:
    """Little more than the text that they hold, 3 and 40 MB; ``benchmarks/prompt_tables.py`` has seconds."""
    prompt = "la " * (characters // 3)
    rows = [{"prompt_id": f"song {n}", "prompt": f"{n} {prompt}", "style_weight": 0.5} for n in range(10_000)]
    write_songs(tmp_path, "small", kind, rows[:10])
    write_songs(tmp_path, "large", kind, rows)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    count, more = json.loads(done.stdout.splitlines()[-1])

    assert count == 10_000
    assert more < megabytes


def test_importing_the_module_is_cheap() -> None:
    """DAG files import it at every parse: no Arrow, no SQL, not even Airflow."""
    code = (
        "import sys, musicapi_provider.prompt_table; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )

    assert {"pyarrow", "airflow", "sqlalchemy", "pandas"}.isdisjoint(done.stdout.split())
