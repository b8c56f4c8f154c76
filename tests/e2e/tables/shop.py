"""
The simulator as a process that can be killed and started again, and what it has sold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from include.local.stack import Stack

#: Seconds for which the answer to a held create stays away: longer than any client waits.
HELD = 300.0


@dataclass(frozen=True, slots=True)
class Sale:
    """One booked create."""

    prompt: str
    music_task_id: str
    clip_ids: Sequence[str]


@dataclass
class Shop:
    """
    The simulator, a process with a journal, on the same port each time.

    :param jobs: How long music tasks take after a start.
    """

    stack: Stack
    journal: Path
    port: int
    jobs: str = "seconds:6"
    _sold_before: int = 0

    def open(self) -> None:
        """Start it, for the first time or after a kill; it knows what it has sold."""
        options = ("--journal", str(self.journal), "--credits", "100000", "--song-seconds", "1", "--one-song")
        self.stack.start_simulator(port=self.port, jobs=self.jobs, options=options)
        self._sold_before = len(self.sales())
        self.set(slow_seconds=HELD)

    def kill(self) -> None:
        """End it as a crash does."""
        self.stack.kill("simulator")

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    # -- what it has sold: from the file, so that a dead one tells, too ------------------------------------

    def sales(self) -> list[Sale]:
        """Return all booked creates, in their order."""
        whole, _, _torn = self.journal.read_bytes().rpartition(b"\n")
        events = [json.loads(line) for line in whole.splitlines()]
        return [
            Sale(event["body"]["gpt_description_prompt"], event["task_id"], event["clip_ids"])
            for event in events
            if event["event"] == "booked"
        ]

    def sold(self, prompt: str) -> list[Sale]:
        """Return what was booked for a prompt."""
        return [sale for sale in self.sales() if sale.prompt == prompt]

    # -- what only a living one tells ----------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return its counters."""
        state: dict[str, Any] = self._call("GET", "state")
        return state

    def looks(self) -> int:
        """Return how often it was asked for a music task since its start."""
        return int(self.state()["requests"].get("GET /sonic/task/{task_id}", 0))

    def unbooked(self) -> int:
        """Return how many creates have arrived, and were neither booked nor refused yet."""
        state = self.state()
        booked = sum(state["creates_booked"].values()) - self._sold_before
        refused = sum(state["creates_refused"].values())
        return int(state["requests"].get("POST /sonic/create", 0) - booked - refused)

    def set(self, **settings: Any) -> None:
        """Change settings until the next start."""
        self._call("POST", "settings", settings)

    def hold(self) -> None:
        """Let the music tasks that are bought from now on run until :meth:`release`."""
        self._call("POST", "scenarios", {"name": "running", "times": None})

    def release(self) -> None:
        """Let all music tasks end that are due."""
        self._call("DELETE", "scenarios")

    @property
    def _control(self) -> str:
        return f"http://127.0.0.1:{self.port}/_control"

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self._control}/{path}"
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the environment is not for this machine
            answer = session.request(method, url, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()
