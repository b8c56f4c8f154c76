"""
What a destination must hold in the end, wherever it is: checked against what the simulator has sold.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from musicapi_provider.prompt_table.manifest import MANIFESTS
from musicapi_provider.prompt_table.stored import STORED_KEY
from musicapi_provider.purchases import PURCHASES

if TYPE_CHECKING:
    from tests.e2e.tables.shop import Sale

#: Endings of what tells of the tracks; anything else was to be temporary.
_WHOLE = (".json", ".jsonl", ".parquet", ".csv")
#: What Parquet holds of a track.
_TRACK_COLUMNS = (
    *("clip_id", "music_task_id", "title", "audio_url", "uri", "cover_uri"),
    *("bytes", "sha256", "duration", "content_type"),
)


@dataclass(frozen=True)
class Contents:
    """
    All files of a destination.

    :param files: Contents by path within it.
    """

    files: Mapping[str, bytes]

    def manifest(self, uri: str) -> list[dict[str, Any]]:
        """Return the entries of a manifest."""
        return [json.loads(line) for line in self.files[_manifest_file(uri)].splitlines()]

    def parquet(self, uri: str) -> list[dict[str, Any]]:
        """Return the entries of a manifest's Parquet, as its JSON Lines should have them."""
        name = _manifest_file(uri).removesuffix(".jsonl") + ".parquet"
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(self.files[name])).to_pylist()
        return [
            {**row, "body": json.loads(row["body"]), "written_at": row["written_at"].isoformat()}
            for row in rows
        ]

    def index(self) -> list[dict[str, str]]:
        """Return the lines of the index."""
        text = self.files["index.csv"].decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def other_than(self, clip_ids: Sequence[str]) -> list[str]:
        """Return the files that are neither these tracks nor what tells of them."""
        wanted = {f"{clip_id}.{ending}" for clip_id in clip_ids for ending in ("mp3", "json")}
        places = (f"{PURCHASES}/", f"{MANIFESTS}/", "index.csv")
        telling = {name for name in self.files if name.startswith(places) and name.endswith(_WHOLE)}
        return sorted(self.files.keys() - wanted - telling)

    def records(self) -> list[dict[str, Any]]:
        """Return what is on record of each row."""
        return [
            json.loads(content) for name, content in self.files.items() if name.startswith(f"{PURCHASES}/")
        ]


def as_in_parquet(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a manifest's entries with the columns that its Parquet has."""
    return [
        {**entry, "tracks": [{name: track.get(name) for name in _TRACK_COLUMNS} for track in entry["tracks"]]}
        for entry in entries
    ]


def check_tracks(contents: Contents, entries: Sequence[Mapping[str, Any]], sales: Sequence[Sale]) -> None:
    """Check that every row was sold once, and has its tracks once, in all that tells of them."""
    sold = {sale.prompt: sale for sale in sales}
    assert len(sold) == len(sales) == len(entries)
    recorded = {record[STORED_KEY]["music_task_id"]: record[STORED_KEY] for record in contents.records()}
    assert len(recorded) == len(contents.records()) == len(entries)
    for entry in entries:
        sale = sold[entry["body"]["gpt_description_prompt"]]
        assert entry["state"] == "stored", entry
        assert entry["music_task_id"] == sale.music_task_id
        assert sorted(track["clip_id"] for track in entry["tracks"]) == sorted(sale.clip_ids)
        assert entry["tracks"] == recorded[sale.music_task_id]["tracks"]
        for track in entry["tracks"]:
            check_track(contents, track, entry)
    clip_ids = [clip_id for sale in sales for clip_id in sale.clip_ids]
    uris = {track.get("cover_uri") for entry in entries for track in entry["tracks"]} - {None}
    assert contents.other_than(clip_ids) == sorted(str(uri).rpartition("/")[2] for uri in uris)
    assert sorted(line["clip_id"] for line in contents.index()) == sorted(clip_ids)


def check_track(contents: Contents, track: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Check one track: the file is as its record and its sidecar say, and it is this row's."""
    audio = contents.files[f"{track['clip_id']}.mp3"]
    sidecar = json.loads(contents.files[f"{track['clip_id']}.json"])
    assert track["sha256"] == hashlib.sha256(audio).hexdigest()
    assert track["bytes"] == len(audio)
    assert track.items() <= sidecar.items()
    assert sidecar["prompt_id"] == entry["prompt_id"]
    assert sidecar["about"]["body"] == entry["body"]


def _manifest_file(uri: str) -> str:
    return f"{MANIFESTS}/{uri.rpartition('/')[2]}"
