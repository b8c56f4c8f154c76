"""A file that remembers the paid jobs, so that a simulator that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import time
from dataclasses import astuple
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from include.musicapi_simulator.jobs import Job, JobRule
from include.musicapi_simulator.scenario import Armed
from include.musicapi_simulator.scenarios import find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Event = Literal["booked", "finished", "refunded", "told", "cleared"]


class Journal:
    """
    JSON Lines: bookings, refunds, early finishes, cleared scenarios; each on the disk before anybody knows.

    The end of a job's webhooks is a line, too: who was told is not told again. Reads are not remembered:
    under ``reads:N`` an unfinished job counts anew after a restart.

    .. note:: The file holds whole create bodies, ``webhook_secret`` included: what is sent after a restart
        must be signed as well.

    :param path: The file; made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, event: Event, job: Job | None, balance: tuple[int, int]) -> None:
        """
        Append a line and return when it is on the disk.

        :param balance: Subscription and extra credits after the event.
        """
        about = {} if job is None else _entry_of(job) if event == "booked" else {"task_id": job.task_id}
        line = json.dumps({"event": event, "balance": balance, **about}) + "\n"
        # Opened each time: cheap beside the fsync, and nobody has to close it.
        with self._path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def replay(self) -> Iterator[dict[str, Any]]:
        """
        Return all events in their order, and cut off a last line that a kill has torn.

        :raises ValueError: If the file is not a journal.
        """
        self._path.touch()
        whole, newline, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:  # its create was never answered; the next line must not be glued to it
            os.truncate(self._path, len(whole + newline))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield json.loads(line)
            except ValueError as err:
                raise ValueError(f"{self._path}, line {number}, is not of a simulator's journal") from err

    def clear(self) -> None:
        """Forget everything."""
        self._path.write_bytes(b"")


def _entry_of(job: Job) -> dict[str, Any]:
    return {
        "task_id": job.task_id,
        "clip_ids": job.clip_ids,
        "created_at": job.created_at.isoformat(),
        "rule": astuple(job.rule),
        "seconds": job.seconds,
        "paid": job.paid,
        "scenarios": [(item.scenario.name, item.left) for item in job.scenarios],
        "root": job.root,
        "body": job.body,
    }


def job_of(entry: dict[str, Any]) -> Job:
    """Return the job of a booking; the time that has passed since then counts."""
    created_at = datetime.fromisoformat(entry["created_at"])
    return Job(
        body=entry["body"],
        rule=JobRule(*entry["rule"]),
        seconds=entry["seconds"],
        paid=tuple(entry["paid"]),
        scenarios=[Armed(find(name), left) for name, left in entry["scenarios"]],
        root=entry.get("root", ""),  # older journals have none
        task_id=entry["task_id"],
        clip_ids=tuple(entry["clip_ids"]),
        created_at=created_at,
        started=time.monotonic() - (datetime.now(UTC) - created_at).total_seconds(),
    )
