"""
Extra links: buttons on a task instance in the Airflow UI.

Airflow asks for them at the end of every phase, also when a task defers or fails, and keeps the answers in
XCom. The operator at hand knows its facts (:mod:`.shown`); asking XCom would log an error while there are
none. No fact, no link; and only http and https become one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from airflow.sdk import BaseOperatorLink, conf

from musicapi_provider.api.urls import is_usable_url
from musicapi_provider.links import pages
from musicapi_provider.links.place import Place
from musicapi_provider.links.shown import facts_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from musicapi_provider.links.place import HasPlace


class _MediaLink(BaseOperatorLink):
    """The first audio file, or picture, of what the task returned: as stored, else at the vendor's host."""

    kind: ClassVar[Literal["audio", "cover"]]
    #: Key of the URL in a track dict, and of the file in a stored record.
    track_key: ClassVar[str]
    record_key: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or nothing while there is none."""
        facts = facts_of(operator)
        for record in facts.stored_records or []:
            if record.get(self.record_key):
                path = pages.media_path(str(facts.destination), str(record["clip_id"]), self.kind)
                return on_api_server(path)
        return first_url(facts.collected_tracks, self.track_key)


class MusicAPIListenLink(_MediaLink):
    """Listen to the first track that the task collected or stored."""

    name = "Listen"
    kind = "audio"
    track_key = "audio_url"
    record_key = "uri"


class MusicAPICoverLink(_MediaLink):
    """See the first cover that the task collected or stored."""

    name = "Cover"
    kind = "cover"
    track_key = "image_url"
    record_key = "cover_uri"


class MusicAPIMusicTaskLink(BaseOperatorLink):
    """
    Ask the API what it says now about the music tasks; there as soon as their ids are.

    Where the answer to a create was lost: the page on which a person decides.
    """

    name = "Music task"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the address of the API server's look at them.

        The vendor has no page for a music task, and its API wants the key.
        """
        facts = facts_of(operator)
        ids = facts.music_task_ids
        if not ids and facts.answer_is_lost:
            return on_api_server(pages.lost_answers_page_path(*Place.of(ti_key)))
        return music_tasks_url(ti_key, facts.musicapi_conn_id, ids) if ids else ""


class MusicAPITracksLink(BaseOperatorLink):
    """See the stored tracks of the task's dag run on the tracks page."""

    name = "Tracks"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page, or nothing before something is stored."""
        facts = facts_of(operator)
        if not (facts.stored_records or facts.manifest_uri):
            return ""
        return on_api_server(pages.tracks_page_path(dag_id=ti_key.dag_id, run_id=ti_key.run_id))


class MusicAPIManifestLink(BaseOperatorLink):
    """Read the manifest of a prompt table's run: a line of JSON for each row."""

    name = "Manifest"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return its address, or nothing before it is written."""
        if not facts_of(operator).manifest_uri:
            return ""
        return on_api_server(pages.manifest_path(*Place.of(ti_key)))


def music_tasks_url(ti: HasPlace, conn_id: str, music_task_ids: Sequence[str]) -> str:
    """Return what :class:`MusicAPIMusicTaskLink` opens for a task instance."""
    path = pages.music_tasks_path(*Place.of(ti), conn_id=conn_id, music_task_ids=music_task_ids)
    return on_api_server(path)


def on_api_server(path: str) -> str:
    """Return a path of Airflow's API server as a URL; where ``[api] base_url`` is unset, the path itself."""
    base_url = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base_url}{path}" if is_usable_url(base_url, allow_http=True) else path


def media_links(tracks: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Return what *Listen* and *Cover* are for a result, by XCom key: for a task that no worker ends."""
    links = MusicAPIListenLink(), MusicAPICoverLink()
    return {link.xcom_key: first_url(list(tracks), link.track_key) for link in links}


def first_url(tracks: object, key: str) -> str:
    """Return the first http(s) URL under a key of track dicts; other schemes never become a link."""
    for track in tracks if isinstance(tracks, list) else []:
        url = track.get(key) if isinstance(track, Mapping) else None
        if isinstance(url, str) and is_usable_url(url, allow_http=True):
            return url
    return ""
