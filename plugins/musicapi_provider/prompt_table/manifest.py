"""
The manifest of a run: a line for every row of the table, as JSON Lines and as Parquet.

It says what became of each row, for people and for later tasks. What a later run buys is decided by the
records (:mod:`musicapi_provider.prompt_table.plan`), never by a manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from musicapi_provider.exceptions import MusicAPIStorageError
from musicapi_provider.files import put_whole

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.sdk import ObjectStoragePath

#: Subfolder of a table's destination that holds the manifests.
MANIFESTS = "manifests"
#: Rows that are turned into Parquet at a time: memory stays flat.
ROWS_AT_A_TIME = 1000


def manifest_name(run_id: str, *whose: str) -> str:
    """
    Return the name of a run's manifest: readable, safe, the same for all tries of the run.

    :param whose: What else tells it apart at a shared destination: DAG, task.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:150]  # run ids are free text, file names are not
    digest = hashlib.sha256(json.dumps([run_id, *whose]).encode()).hexdigest()[:8]
    return f"{readable}-{digest}"


def write_manifest_file(
    folder: ObjectStoragePath, name: str, manifest: Sequence[Mapping[str, Any]], *, parquet: bool = True
) -> str:
    """
    Write ``manifests/{name}.jsonl`` and ``.parquet`` below a folder, each whole.

    In Parquet ``body`` is its JSON as text and ``tracks`` a list of structs.

    :param manifest: Entries as of :mod:`musicapi_provider.prompt_table.plan`; each gets ``written_at``.
    :param parquet: Off while a run goes on: the JSON Lines then say how far it is.
    :return: The URI of the JSON Lines.
    """
    path = folder / MANIFESTS / f"{name}.jsonl"
    now = datetime.now(UTC)
    put_whole(
        path, (f"{json.dumps({**entry, 'written_at': now.isoformat()})}\n".encode() for entry in manifest)
    )
    if parquet:
        put_whole(folder / MANIFESTS / f"{name}.parquet", _parquet(manifest, now))
    return str(path)


def read_manifest_file(path: ObjectStoragePath) -> list[dict[str, Any]]:
    """
    Read a manifest's JSON Lines.

    :raises MusicAPIStorageError: it is not there, or a line is no entry; the text names it.
    """
    entries: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:  # type: ignore[no-untyped-call]
            for number, line in enumerate(file, 1):
                entry = json.loads(line)
                if not isinstance(entry, dict) or not {"prompt_id", "state", "tracks"} <= entry.keys():
                    raise MusicAPIStorageError(f"{path}:{number} is no entry of a manifest.", next_step="")
                entries.append(entry)
    except FileNotFoundError:
        raise MusicAPIStorageError(f"There is no manifest at {path}.", next_step="") from None
    except ValueError as error:
        raise MusicAPIStorageError(f"{path}:{len(entries) + 1} is no JSON: {error}", next_step="") from error
    return entries


def _parquet(manifest: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for start in range(0, len(manifest), ROWS_AT_A_TIME):
            entries = manifest[start : start + ROWS_AT_A_TIME]
            rows = [
                {**_clean(entry), "body": json.dumps(entry["body"]), "written_at": now} for entry in entries
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    yield sink.getvalue().to_pybytes()


def _clean(value: Any) -> Any:
    """Replace halves of surrogate pairs, which Parquet cannot hold: no text may break a manifest."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _clean(item) for name, item in value.items()}
    return value


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


def tracks_of(manifest: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return all stored tracks of a manifest, each with its row's ``prompt_id``: rows for a database.

    Databases refuse texts with halves of surrogate pairs, and Postgres such with NUL: both are replaced.
    """
    return [
        {name: _storable(value) for name, value in {**track, "prompt_id": entry["prompt_id"]}.items()}
        for entry in manifest
        for track in entry["tracks"]
    ]


def _storable(value: Any) -> Any:
    return _clean(value).replace("\0", "\ufffd") if isinstance(value, str) else value
