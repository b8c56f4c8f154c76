"""
# What is new? A playlist at each update

The other end of the asset `musicapi_tracks`: whenever a prompt-table DAG has updated it, this one reads the
manifest that the event names and writes two playlists beside the tracks: `new_tracks.m3u8`, what this update
brought, and `all_tracks.m3u8`, what is known so far. Open one in any player. A newsletter or a radio's
scheduler would begin in the same way.

**Look at** the events of the asset (Assets > musicapi_tracks): manifest, destination, counts, credits.

**Several updates**, before this DAG gets to run, become one run with several events: each counts.

**Triggered by hand** it takes the last update. So do it after `make up`, where nothing runs by schedule.

**Expect** the titles of the last run of [musicapi_prompt_table](/dags/musicapi_prompt_table),
[musicapi_large_table](/dags/musicapi_large_table) or [musicapi_sql_tables](/dags/musicapi_sql_tables). It
costs nothing.

**Safe to repeat**: when nothing is new, the playlists stay as they are.

Previous: [musicapi_sql_tables](/dags/musicapi_sql_tables).
Next: [musicapi_order](/dags/musicapi_order).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, ObjectStoragePath, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from musicapi_provider.files import bytes_of, put_whole
from musicapi_provider.prompt_table.manifest import read_manifest_file, tracks_of

TRACKS = Asset("musicapi_tracks")
NEW, ALL = "new_tracks.m3u8", "all_tracks.m3u8"
HEADER = "#EXTM3U\n"


@dag(
    schedule=[TRACKS],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,  # two runs would write the same playlists
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["musicapi", "example"],
    doc_md=__doc__,
)
def musicapi_new_tracks() -> None:
    @task(inlets=[TRACKS], multiple_outputs=False)
    def find_manifests() -> dict[str, list[str]]:
        """Return the manifests' URIs of this run's updates by destination, oldest first."""
        context = get_current_context()
        events = list(context["triggering_asset_events"].get(TRACKS, ()))
        if not events:  # triggered by hand
            events = list(context["inlet_events"][TRACKS].ascending(False).limit(1))
        found = defaultdict(list)
        for event in sorted(events, key=lambda event: event.timestamp):
            extra = event.extra or {}
            if "manifest" in extra and "destination" in extra:
                found[extra["destination"]].append(extra["manifest"])
            else:
                print(f"The event of {event.timestamp} names no manifest: {extra}")
        if not found:
            raise AirflowSkipException("No update names a manifest: run one of the prompt-table DAGs first.")
        return dict(found)

    @task(multiple_outputs=False)
    def write_playlists(found: dict[str, list[str]]) -> dict[str, int]:
        """Write the playlists; return the number of new tracks by destination."""
        return {folder: _write(ObjectStoragePath(folder), uris) for folder, uris in found.items()}

    write_playlists(find_manifests())


def _write(folder: ObjectStoragePath, manifests: Iterable[str]) -> int:
    tracks = {
        track["clip_id"]: track
        for uri in manifests
        for track in tracks_of(read_manifest_file(ObjectStoragePath(uri)))
    }
    # Not by what a run has paid: it may have stored what an earlier one, killed or failed, has bought.
    listed = (bytes_of(folder / ALL) or HEADER.encode()).decode()
    known = set(listed.splitlines())
    new = [track for track in tracks.values() if _file(track) not in known]
    entries = "".join(map(_entry, new))
    print(f"{len(new)} new tracks in {folder}\n{entries}")
    if new:
        put_whole(folder / NEW, [f"{HEADER}{entries}".encode()])
        put_whole(folder / ALL, [f"{listed}{entries}".encode()])  # last: until then the new ones are new
    return len(new)


def _file(track: Mapping[str, Any]) -> str:
    return str(track["uri"]).rpartition("/")[2]  # beside the playlist


def _entry(track: Mapping[str, Any]) -> str:
    """Return a track's lines. Its title is anybody's text: a line break in it would be a line of the list."""
    title = " ".join(str(track["title"] or track["prompt_id"]).split()).encode(errors="replace").decode()
    return f"#EXTINF:{track['duration'] or -1:.0f},{title}\n{_file(track)}\n"


musicapi_new_tracks()
