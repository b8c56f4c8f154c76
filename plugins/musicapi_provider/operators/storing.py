"""
Storing tracks, as the store operator does, and a create with a destination.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.links import xcoms
from musicapi_provider.operators.arguments import folder_of
from musicapi_provider.storage import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES, TrackStore
from musicapi_provider.storage.records import About

if TYPE_CHECKING:
    from airflow.sdk import Context

    from musicapi_provider.api.models import Track
    from musicapi_provider.hooks.base import MusicAPIBaseHook

log = logging.getLogger(__name__)


class StoresTracks(Protocol):
    """What storing needs to know of an operator."""

    destination: Any
    store_cover: bool
    embed_tags: bool
    prompt_id: str | None
    outlets: Any

    @property
    def hook(self) -> MusicAPIBaseHook:
        """Its connection."""


def store_tracks(
    operator: StoresTracks,
    context: Context,
    tracks: Sequence[Track],
    orders: Mapping[str, About],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> list[dict[str, object]]:
    """
    Store what is not stored yet, tell the operator's outlets, and return a record per track. Costs nothing.

    :param orders: What is known of each music task's order, by its id: see :func:`orders_of`.
    :raises MusicAPIStorageError: names every track that is missing, once all others are stored.
    """
    about = replace(_about(context), prompt_id=operator.prompt_id or None)
    about_tasks = {
        id_: replace(about, body=order.body, credits=order.credits, lost_credits=order.lost_credits)
        for id_, order in orders.items()
    }
    folder = folder_of("destination", operator.destination)
    context["ti"].xcom_push(key=xcoms.DESTINATION, value=operator.destination.rstrip("/"))
    hook = operator.hook
    # The client is made here: threads, which may ask for fresh tracks, cannot ask Airflow.
    with TrackStore(
        folder,
        hook.client.settings,
        max_bytes=max_bytes,
        store_cover=operator.store_cover,
        embed_tags=operator.embed_tags,
        fresh_tracks=hook.fresh_tracks,
        concurrency=concurrency,
    ) as store:
        stored = store.store_all(tracks, about, about_tasks=about_tasks)
        store.write_index()
    log.info("%d tracks are in %s", len(stored), operator.destination)
    counts = {"tracks": len(stored), "bytes": sum(track.bytes for track in stored)}
    outlets: Collection[Any] = operator.outlets
    for outlet in outlets:
        context["outlet_events"][outlet].extra.update({**counts, "destination": operator.destination})
    return [track.as_json() for track in stored]


def orders_of(submission: object) -> dict[str, About]:
    """
    Return what is known of each music task's order, by its id: body and cost.

    :param submission: What creates have left in XCom under ``submission``: one, or several.
    :raises MusicAPIInvalidRequestError: it is something else.
    """
    found = [] if submission is None else [submission] if isinstance(submission, Mapping) else submission
    if isinstance(found, str) or not isinstance(found, Iterable):
        found = [found]
    orders = {}
    for one in found:
        if not isinstance(one, Mapping):
            raise MusicAPIInvalidRequestError(
                f"submission: must be what a create knows of its purchase; got {str(one)[:60]!r}. "
                "Nothing was stored yet.",
                next_step='pass submission=create.output["submission"] (a template makes text of a mapping).',
            )
        orders[str(one.get("music_task_id"))] = About.from_json(one)
    return orders


def _about(context: Context) -> About:
    """Return what a sidecar tells of the task that has stored its track."""
    names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    known = {name: getattr(context["ti"], name, None) for name in names}
    return replace(About.from_json(known), more={})
