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

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from airflow.sdk import Asset, ObjectStoragePath, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from musicapi_provider.prompt_table.results import read_tracks
from musicapi_provider.storage.playlists import write_playlists

TRACKS = Asset("musicapi_tracks")


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

    @task(task_id="write_playlists", multiple_outputs=False)
    def write(found: dict[str, list[str]]) -> dict[str, int]:
        """Write the playlists; return the number of new tracks by destination."""
        return {
            folder: write_playlists(
                ObjectStoragePath(folder), [track for uri in uris for track in read_tracks(uri)]
            )
            for folder, uris in found.items()
        }

    write(find_manifests())


musicapi_new_tracks()
