"""
The stored tracks of a manifest, for later tasks: as records, or as rows of a SQL table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, ObjectStoragePath

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.prompt_table.manifest import read_manifest_file, tracks_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from musicapi_provider.storage.records import StoredTrack

#: Columns of a table of tracks.
TRACK_COLUMNS = {
    "clip_id": "VARCHAR(128) PRIMARY KEY",
    "prompt_id": "VARCHAR(100) NOT NULL",
    "music_task_id": "VARCHAR(128)",
    "title": "TEXT",
    "uri": "TEXT NOT NULL",
    "audio_url": "TEXT",
    "duration": "DOUBLE PRECISION",
    "bytes": "BIGINT",
    "sha256": "CHAR(64)",
    "content_type": "VARCHAR(100)",
}
#: A table, perhaps with its schema. A name cannot be a parameter of a statement, so nothing else is taken: no
#: SQL. Small letters, since databases disagree about the others.
TABLE_NAME = r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$"


def read_tracks(manifest: str) -> list[StoredTrack]:
    """
    Return the stored tracks of a manifest, each with its row's ``prompt_id``.

    :param manifest: Its URI, as summaries and asset events name it.
    :raises MusicAPIStorageError: it is not there, or is no manifest.
    """
    return tracks_of(read_manifest_file(ObjectStoragePath(manifest)))


def upsert_tracks(manifest: str, sql_conn_id: str, table: str) -> int:
    """
    Write a row for each stored track of a manifest, by ``clip_id``; return how many they are.

    The table is made where it is missing, with :data:`TRACK_COLUMNS`. Safe to repeat. Text is data: it never
    becomes SQL.

    :param sql_conn_id: Airflow connection of any common-sql database.
    :param table: A plain name in small letters, perhaps with its schema.
    :raises MusicAPIConfigurationError: another name.
    """
    if not re.fullmatch(TABLE_NAME, table):
        raise MusicAPIConfigurationError(
            f"table: must be a name of small letters, digits and _, perhaps with a schema; got {table!r}."
        )
    tracks = read_tracks(manifest)
    hook: DbApiHook = BaseHook.get_hook(sql_conn_id)
    columns = ", ".join(f"{name} {kind}" for name, kind in TRACK_COLUMNS.items())
    hook.run(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    hook.insert_rows(
        table,
        [[getattr(track, name) for name in TRACK_COLUMNS] for track in tracks],
        target_fields=list(TRACK_COLUMNS),
        replace=True,  # the upsert of the connection's database
        replace_index="clip_id",
    )
    return len(tracks)
