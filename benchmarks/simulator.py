"""A simulator in a process of its own: for benchmarks that must not pay for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.runner import KEY

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class OwnSimulator:
    """
    A running simulator.

    :param base_url: Of its API; the key is :data:`benchmarks.runner.KEY`.
    """

    base_url: str

    def state(self) -> dict[str, Any]:
        """Return its counters and balance."""
        return dict(self._control("GET", "state"))

    def reset(self) -> None:
        """Forget all jobs and counters; the next jobs take as long as the first ones did."""
        self._control("POST", "reset")

    def _control(self, method: str, path: str) -> Any:
        root = self.base_url.removesuffix("/api/v1")
        answer = requests.request(method, f"{root}/_control/{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def own_simulator(*arguments: str) -> Iterator[OwnSimulator]:
    """Run a simulator with these arguments of its command line."""
    command = [sys.executable, "-m", "include.musicapi_simulator", "--api-key", KEY, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert process.stdout is not None
        yield OwnSimulator(process.stdout.readline().split()[3])
    finally:
        process.terminate()
        process.wait()
