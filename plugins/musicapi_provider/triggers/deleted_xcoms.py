"""
Delete XComs from a triggerer: a door that is not public, opened here alone.

Triggers read and write XComs with ``XCom.aget_one`` and ``XCom.aset``. For deleting there is only
``XCom.delete``, which waits for the answer, and so would stop the event loop that all triggers share. What
speaks to the API server without that is ``SUPERVISOR_COMMS``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow.sdk.execution_time.comms import DeleteXCom

if TYPE_CHECKING:
    from musicapi_provider.links.place import Place


async def delete_xcoms(keys: Iterable[str], place: Place) -> None:
    """Delete what a task instance has left under these keys."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # there while a trigger runs

    for key in keys:
        await SUPERVISOR_COMMS.asend(DeleteXCom(key=key, **place._asdict()))
