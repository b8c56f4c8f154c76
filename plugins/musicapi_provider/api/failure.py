"""
Ask the API whether a music task has failed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from musicapi_provider.api.verdict import State, judge
from musicapi_provider.exceptions import MusicAPIError

if TYPE_CHECKING:
    from musicapi_provider.api.client import MusicAPIClient

log = logging.getLogger(__name__)


def failure_of(client: MusicAPIClient, music_task_id: str) -> str | None:
    """
    Return why a music task is known to have failed, and is hence refunded (facts 3.3); free.

    :return: The API's reason; ``None`` while it runs, when it succeeded, and when nobody can say.
    """
    try:
        task = client.get_task(music_task_id)
    except MusicAPIError as error:
        log.warning("Cannot poll music task %s: %s", music_task_id, error)
        return None
    verdict = judge(task, allow_http=client.settings.allow_http_audio)
    return "; ".join(verdict.failures) if verdict.state is State.FAILED else None
