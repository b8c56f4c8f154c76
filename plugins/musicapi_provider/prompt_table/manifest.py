"""
The manifest of a run: a line for every row of the table, as JSON Lines and as Parquet.

It says what became of each row, for people and for later tasks. What a later run buys is decided by the
files of the rows (:mod:`musicapi_provider.prompt_table.plan`), never by a manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from musicapi_provider.exceptions import MusicAPIIncompleteTableError, MusicAPIStorageError, Spent
from musicapi_provider.files import put_whole
from musicapi_provider.prompt_table.budget import credits_of_run
from musicapi_provider.prompt_table.row import Row, RowState
from musicapi_provider.storage.records import StoredTrack
from musicapi_provider.text import clean_json

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.sdk import ObjectStoragePath

#: Subfolder of a table's destination that holds the manifests.
MANIFESTS = "manifests"
#: Rows that are turned into Parquet at a time: memory stays flat.
ROWS_AT_A_TIME = 1000
#: Rows without tracks that an error names; the manifest has them all.
NAMES = 20


class Counts(TypedDict):
    """
    What became of a run's rows in numbers: what asset events and summaries tell.

    ``credits`` (spent) and ``lost_credits`` (perhaps spent beside that) are this dag run's alone, at expected
    prices.
    """

    rows: int
    stored: int
    tracks: int
    without_tracks: int
    unknown: int
    postponed: int
    credits: float
    lost_credits: float


def manifest_name(run_id: str, *whose: str) -> str:
    """
    Return the name of a run's manifest: readable, safe, the same for all tries of the run.

    :param whose: What else tells it apart at a shared destination: DAG, task.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:150]  # run ids are free text, file names are not
    digest = hashlib.sha256(json.dumps([run_id, *whose]).encode()).hexdigest()[:8]
    return f"{readable}-{digest}"


def write_manifest_file(
    folder: ObjectStoragePath, name: str, rows: Sequence[Row], *, final: bool = True
) -> str:
    """
    Write ``manifests/{name}.jsonl`` and ``.parquet`` below a folder, each whole.

    In Parquet ``body`` is its JSON as text and ``tracks`` a list of structs. Each row gets ``written_at``.

    :param final: Off while a run goes on: the JSON Lines, alone, then say how far it is and what is decided.
    :return: The URI of the JSON Lines.
    """
    path = folder / MANIFESTS / f"{name}.jsonl"
    now = datetime.now(UTC)
    written = {"written_at": now.isoformat()}
    put_whole(path, (f"{json.dumps({**row.as_json(final=final), **written})}\n".encode() for row in rows))
    if final:
        put_whole(folder / MANIFESTS / f"{name}.parquet", _parquet(rows, now))
    return str(path)


def read_manifest_file(path: ObjectStoragePath, *, unfinished: bool = False) -> list[Row]:
    """
    Read a manifest's JSON Lines.

    :param unfinished: Take only that of a run that goes on.
    :raises MusicAPIStorageError: it is not there, a line is no row (the text names it), or it is final.
    """
    rows: list[Row] = []
    try:
        with path.open("rb") as file:  # type: ignore[no-untyped-call]
            for number, line in enumerate(file, 1):
                value = json.loads(line)
                try:
                    rows.append(Row.from_json(value))
                except ValueError as error:
                    raise MusicAPIStorageError(f"{path}:{number} {error}.", next_step="") from None
                if unfinished and "decision" not in value:
                    raise MusicAPIStorageError(f"The manifest {path} is final.", next_step="")
    except FileNotFoundError:
        raise MusicAPIStorageError(f"There is no manifest at {path}.", next_step="") from None
    except ValueError as error:
        raise MusicAPIStorageError(f"{path}:{len(rows) + 1} is no JSON: {error}", next_step="") from error
    return rows


def counts_of(rows: Sequence[Row], run_id: str) -> Counts:
    """Return what became of a run's rows in numbers."""
    states = Counter(row.state for row in rows)
    spent, perhaps_spent = credits_of_run(rows, run_id)
    return {
        "rows": len(rows),
        "stored": states[RowState.STORED],
        "tracks": sum(len(row.tracks) for row in rows),
        "without_tracks": sum(row.is_missing for row in rows),
        "unknown": states[RowState.UNKNOWN],
        "postponed": states[RowState.POSTPONED],
        "credits": spent,
        "lost_credits": perhaps_spent,
    }


def check_complete(
    rows: Sequence[Row], counts: Counts, *, min_success: float = 1.0, manifest: str | None = None
) -> None:
    """
    Fail when too few rows have their tracks.

    :param min_success: Share of the rows, postponed ones aside, that must have them, 0 to 1.
    :param manifest: Its URI, for the error's text.
    :raises MusicAPIIncompleteTableError: names the rows without; retryable when a later try can cure one.
    """
    due = counts["rows"] - counts["postponed"]
    if counts["stored"] >= math.ceil(min_success * due - 1e-9):  # 0.7 * 10 is a little more than 7
        return
    missing = [row for row in rows if row.is_missing]
    names = ", ".join(f"{row.prompt_id} ({row.state})" for row in missing[:NAMES])
    more = f" and {len(missing) - NAMES} more" if len(missing) > NAMES else ""
    settle = (
        " Rows with an unknown outcome wait for a decision: run with settle." if counts["unknown"] else ""
    )
    perhaps = Spent.UNKNOWN if counts["lost_credits"] else Spent.NOT_SPENT
    raise MusicAPIIncompleteTableError(
        f"{counts['stored']} of {due} rows have their tracks (min_success is {min_success:g}). "
        f"Without: {names}{more}." + (f" Manifest: {manifest}." if manifest else ""),
        spent=Spent.SPENT if counts["credits"] else perhaps,
        next_step=MusicAPIIncompleteTableError.default_next_step + settle,
        retryable=any(row.retryable for row in missing),
    )


def _parquet(rows: Sequence[Row], now: datetime) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            values = [
                {**clean_json(row.as_json(final=True)), "body": json.dumps(dict(row.body)), "written_at": now}
                for row in rows[start : start + ROWS_AT_A_TIME]
            ]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))
    yield sink.getvalue().to_pybytes()


def _schema() -> pa.Schema:
    import pyarrow as pa

    track = {
        **dict.fromkeys(("clip_id", "music_task_id", "title", "audio_url", "uri", "cover_uri"), pa.string()),
        **{"bytes": pa.int64(), "sha256": pa.string(), "duration": pa.float64(), "content_type": pa.string()},
    }
    columns = {
        **dict.fromkeys(("prompt_id", "state", "error", "music_task_id", "submitted_at"), pa.string()),
        **dict.fromkeys(("credits", "lost_credits", "price"), pa.float64()),
        **dict.fromkeys(("paid_by", "fingerprint", "body"), pa.string()),
        "tracks": pa.list_(pa.struct(list(track.items()))),
        "written_at": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(list(columns.items()))


def tracks_of(rows: Iterable[Row]) -> list[StoredTrack]:
    """
    Return all stored tracks of a manifest, each with its row's ``prompt_id``: rows for a database.

    Databases refuse texts with halves of surrogate pairs, and Postgres such with NUL: both are replaced.
    """
    return [
        StoredTrack.from_json(clean_json({**track.as_json(), "prompt_id": row.prompt_id}, nul=True))
        for row in rows
        for track in row.tracks
    ]
