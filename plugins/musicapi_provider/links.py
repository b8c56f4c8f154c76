"""
Extra links: buttons on a task instance in the Airflow UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from musicapi_provider.verdict import is_usable_url

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class MusicAPIListenLink(BaseOperatorLink):
    """Listen to the first track that the task returned."""

    name = "Listen"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the first track's audio URL, or nothing while there is none.

        Airflow asks at the end of every phase, also when deferring, and keeps the answer in XCom. The
        operator at hand knows its tracks; asking XCom would log an error while there are none.
        """
        return first_audio_url(getattr(operator, "collected_tracks", None))


def first_audio_url(tracks: Any) -> str:
    """Return the first http(s) audio URL; other schemes never become a link."""
    for track in tracks if isinstance(tracks, list) else []:
        url = track.get("audio_url") if isinstance(track, dict) else None
        if isinstance(url, str) and is_usable_url(url, allow_http=True):
            return url
    return ""
