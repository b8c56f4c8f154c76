"""
What an operator declares for its extra links.
"""

from __future__ import annotations


class ShowsFacts:
    """
    An operator's facts for its extra links, each once there is one; mix it in after ``BaseOperator``.

    The links of :mod:`.extra_links` show them, and nothing for an operator without.
    """

    musicapi_conn_id: str = ""
    #: The music tasks that it has bought, or waits for.
    music_task_ids: list[str] | None = None
    #: The answer to its create was lost, and a person has to decide.
    answer_is_lost: bool = False
    #: Track dicts, as it returns them.
    collected_tracks: list[dict[str, object]] | None = None
    #: Records of stored tracks, and the URI of the folder that they are in.
    stored_records: list[dict[str, object]] | None = None
    destination: str | None = None
    #: URI of the manifest that it has written.
    manifest_uri: str | None = None


def facts_of(operator: object) -> ShowsFacts:
    """Return what an operator has to show."""
    return operator if isinstance(operator, ShowsFacts) else ShowsFacts()
