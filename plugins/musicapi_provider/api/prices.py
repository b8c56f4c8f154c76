"""
What a purchase is expected to cost, in credits. Pure.

Prices change without notice (facts 8), so they are expectations: a connection may correct them, and only
whoever asks for it (``credit_check``, ``max_credits``) is stopped by them.
"""

from __future__ import annotations

from collections.abc import Mapping

from musicapi_provider.api.bodies import DEFAULT_TASK_TYPE

#: Credits by ``task_type`` (facts 8). Where sources disagree (``remaster``, ``add_*``), the dearer reading.
CREDITS: Mapping[str, float] = {
    "create_music": 15,
    "extend_music": 15,
    "cover_music": 15,
    "concat_music": 2,
    "persona_music": 15,
    "extend_upload_music": 15,
    "cover_upload_music": 15,
    "remaster": 15,
    "add_instrumental": 15,
    "add_vocals": 15,
}
#: Credits for what the table does not know: that of a song.
UNLISTED = CREDITS[DEFAULT_TASK_TYPE]


def expected_credits(body: Mapping[str, object], prices: Mapping[str, float]) -> float:
    """
    Return the credits that a request body will probably cost.

    :param prices: Credits by ``task_type`` that override :data:`CREDITS`, as the connection states them.
    """
    task_type = str(body.get("task_type") or DEFAULT_TASK_TYPE)
    return prices.get(task_type, CREDITS.get(task_type, UNLISTED))
