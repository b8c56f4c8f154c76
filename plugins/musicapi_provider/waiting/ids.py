"""
Music task ids as users give them: by hand, or from another task's XCom.
"""

from __future__ import annotations

from collections.abc import Sequence

from musicapi_provider.exceptions import MusicAPIInvalidRequestError


def checked_ids(value: object) -> list[str]:
    """
    Return the music task ids of an argument, each once, in order.

    :raises MusicAPIInvalidRequestError: an id that is no id, such as the text of a missing XCom.
    """
    given = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return list(dict.fromkeys(_checked(id_) for id_ in given))


def _checked(id_: object) -> str:
    if isinstance(id_, str) and id_.strip() not in ("", "None") and not id_.lstrip().startswith("["):
        return id_.strip()
    raise MusicAPIInvalidRequestError(
        f"music_task_id: must be an id or a list of ids; got {id_!r}.",
        next_step="pass create.output (a template makes text of a list).",
    )
