"""
Where a callback goes, and the names under which callbacks are kept. Pure.

A URL holds the connection and a token: ``{base URL}/musicapi-webhooks/{connection}/{token}``. The token is
one purchase's: the id of the task instance that pays, which finds it in one step, and 128 random bits.
"""

from __future__ import annotations

import re
import secrets
from uuid import UUID

#: What the receiver is mounted at, on the API server: the one route that the internet has to reach.
PREFIX = "/musicapi-webhooks"
#: Longest URL that the API takes (facts 7.1).
MAX_URL = 1024
#: Versions of Airflow whose tables are known, by their first two numbers; on others all is polled.
KNOWN_AIRFLOW = ("3.3",)
#: Music tasks that one wait expects callbacks for; with more it polls: each costs an XCom.
MOST_EXPECTED = 20

_TOKEN = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")


def new_token(task_instance_id: UUID | str) -> str:
    """Return the token of a purchase by a task instance; nobody can guess another's."""
    return f"{UUID(str(task_instance_id)).hex}-{secrets.token_hex(16)}"


def payer_of(token: str) -> UUID | None:
    """Return the id of the task instance that a token was made by, ``None`` for what is no token."""
    return UUID(token[:32]) if _TOKEN.fullmatch(token) else None


def callback_url(base_url: str, conn_id: str, token: str) -> str:
    """Return the URL that goes with a create."""
    return f"{base_url}{PREFIX}/{conn_id}/{token}"


def is_known_airflow(version: str) -> bool:
    """Tell whether this version of Airflow has been tried with webhooks."""
    return ".".join(version.split(".")[:2]) in KNOWN_AIRFLOW


def callback_key(token: str) -> str:
    """Return the task state key of a purchase's callback: there since before it was paid, filled by it."""
    return f"musicapi_callback:{token}"


def waits_for_key(music_task_id: str) -> str:
    """Return the XCom key by which a task says that it waits for a music task."""
    return f"musicapi_waits_for:{music_task_id}"


def called_key(music_task_id: str) -> str:
    """Return the XCom key by which a task is told that a music task is done, before it can be woken."""
    return f"musicapi_called:{music_task_id}"
