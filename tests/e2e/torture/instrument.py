"""
What runs in the task processes of the torture beside the operator under test: says who runs which try.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import requests

from tests.e2e.torture.plan import RETRIES
from tests.e2e.torture.purchases import BASE_URL, CONNECTIONS, GATE, named_in, purchase_name

if TYPE_CHECKING:
    from airflow.sdk import Context


def reports_begin(way: str) -> Callable[[Context], None]:
    """
    Return a ``pre_execute`` that reports way, purchase, try and process before ``execute`` runs.

    Airflow calls it in the process that runs ``execute`` (LocalExecutor's worker only supervises that), and
    again when a deferred task resumes.
    """

    def report(context: Context) -> None:
        ti = context["ti"]
        # Ours may have moved, so its rendered prompt says which it is.
        purchase = named_in(context["task"].prompt)[1] if way == "ours" else purchase_name(ti.map_index or 0)
        since_clear = ti.try_number - (ti.max_tries - RETRIES)
        who = {"way": way, "purchase": purchase, "try_number": since_clear}
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the environment is not for this machine
            answer = session.post(os.environ[GATE], json={**who, "pid": os.getpid()}, timeout=60)
        answer.raise_for_status()
        if answer.json()["unreachable"]:
            _take_the_api_away()

    return report


def _take_the_api_away() -> None:
    """Point this process, and no other, to a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}/api/v1"
    os.environ[BASE_URL] = nowhere
    for name in CONNECTIONS:
        os.environ[name] = json.dumps({**json.loads(os.environ[name]), "host": nowhere})
