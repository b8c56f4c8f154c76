"""
What the tracks page shows: the tracks of the folders that a user may see, filtered, newest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from musicapi_provider.links import pages

if TYPE_CHECKING:
    from musicapi_provider.ui.library import Library, ListedTrack

#: Folders that are looked at for one list, the latest used ones: each is a request to its storage.
MOST_FOLDERS = 100


class Filters(NamedTuple):
    """
    Which tracks are wanted; empty texts filter nothing.

    :param text: Part of title, prompt or ``prompt_id``, in any case.
    """

    dag_id: str = ""
    run_id: str = ""
    text: str = ""


def list_tracks(
    library: Library, folders: Mapping[str, set[str]], filters: Filters, *, limit: int, offset: int
) -> dict[str, Any]:
    """
    Return a page of tracks.

    :param folders: URI of each folder, the latest used first, with the DAGs that have stored there and that
        the user may read; rows of other DAGs are left out.
    :return: ``tracks``, ``total_entries``, ``dag_ids`` to filter by, ``unread_folders`` (number of those
        that did not answer) and ``older_folders`` (of those that were not looked at).
    """
    wanted = {uri: ids for uri, ids in folders.items() if not filters.dag_id or filters.dag_id in ids}
    looked_at = dict(list(wanted.items())[:MOST_FOLDERS])
    indexes = library.indexes(looked_at)
    found = [
        (track.stored_at, track.clip_id, uri, track)
        for uri, index in indexes.items()
        for track in _matches(index.tracks.values(), looked_at[uri], filters)
    ]
    found.sort(key=lambda match: match[:2], reverse=True)
    return {
        "tracks": [_entry(uri, track) for _, _, uri, track in found[offset : offset + limit]],
        "total_entries": len(found),
        "dag_ids": sorted(set().union(*folders.values())),
        "unread_folders": len(looked_at) - len(indexes),
        "older_folders": len(wanted) - len(looked_at),
    }


def _matches(tracks: Iterable[ListedTrack], dag_ids: set[str], filters: Filters) -> Iterator[ListedTrack]:
    dag_ids = {filters.dag_id} if filters.dag_id else dag_ids
    run_id, text = filters.run_id, filters.text.casefold()
    for track in tracks:
        if track.dag_id in dag_ids and run_id in ("", track.run_id) and (not text or track.has(text)):
            yield track


def _entry(uri: str, track: ListedTrack) -> dict[str, Any]:
    """Return a track without its folder, which is nobody's business, but with where its files are served."""
    hidden = ("file", "cover")
    facts = {name: value for name, value in track._asdict().items() if name not in hidden}
    paths = {
        "audio": pages.media_path(uri, track.clip_id, "audio"),
        "cover": pages.media_path(uri, track.clip_id, "cover") if track.cover else None,
    }
    return facts | {name: path and path.lstrip("/") for name, path in paths.items()}
