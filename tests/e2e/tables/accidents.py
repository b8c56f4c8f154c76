"""
What strikes a run of a table, at which moment, and what was seen of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.e2e.tables.run import Destination, Run, World, kill

#: Seconds for which the API stays away.
OUTAGE = 3.0


@dataclass
class Strike:
    """
    A kill in the middle of a table.

    :param at: Epoch seconds.
    :param sold: Rows that were bought by then.
    :param tracks: Tracks that were stored by then.
    :param parts: Incomplete files that it left.
    :param seconds: Until something was bought or stored again; after a triggerer: looked at.
    :param unknown: Rows whose answers it has lost.
    """

    name: str
    at: float
    sold: int
    tracks: int
    parts: int = 0
    seconds: float = 0.0
    unknown: list[str] = field(default_factory=list)


class Accidents:
    """
    What happens to a run.

    :param run: Works on the table.
    :param destination: Where its tracks go.
    """

    def __init__(self, world: World, run: Run, destination: Destination) -> None:
        self.world = world
        self.run = run
        self.destination = destination
        self.strikes: list[Strike] = []

    # -- the moments -----------------------------------------------------------------------------------------

    def until_booked(self, prompt: str) -> None:
        """Wait until a row is booked."""
        self.world.until(f"{prompt!r} is booked", lambda: self.world.shop.sold(prompt))

    def until_storing(self) -> None:
        """Wait until some tracks have come, and another one is on its way."""
        destination, before = self.destination, self.destination.tracks()
        self.world.until(
            "a file is being written",
            lambda: destination.parts() and destination.tracks() >= before + 6,
            pause=0.001,
        )

    def until_waiting(self) -> None:
        """Wait until the triggerer looks at what the task has left to it."""
        self.world.until("the triggerer waits", self._is_waited_for, pause=0.1)

    def _is_waited_for(self) -> bool:
        self.world.until("the task is deferred", lambda: self.run.is_deferred, pause=0.1)
        before = self.world.shop.looks()
        self.world.until(
            "a look", lambda: self.world.shop.looks() > before or not self.run.is_deferred, pause=0.1
        )
        return self.run.is_deferred

    def until_create_arrives(self) -> None:
        """Hold all answers up, and wait for a create that has arrived and is not booked."""
        self.world.shop.set(latency=0.5)  # it comes before the booking
        self.world.until("a create arrives", lambda: self.world.shop.unbooked() > 0)

    # -- the kills -------------------------------------------------------------------------------------------

    def kill_task(self, name: str) -> None:
        """Kill the process that works on the table."""
        process = self.run.process(self.run.starts())
        self._strike(name, lambda: kill(process))

    def kill_triggerer(self, name: str) -> None:
        """Kill the triggerer and start another one."""

        def restart() -> None:
            self.world.stack.start_part("triggerer")

        self._strike(
            name, lambda: self.world.stack.kill("triggerer"), restart, progress=self.world.shop.looks
        )

    def kill_simulator(self, name: str) -> None:
        """Kill the API, and start it again after a while."""

        def restart() -> None:
            time.sleep(OUTAGE)
            self.world.shop.open()

        # Tracks that have been downloaded may still be put in place: only a purchase needs the API.
        self._strike(name, self.world.shop.kill, restart, progress=self._sold)

    def _strike(
        self,
        name: str,
        strike: Callable[[], None],
        restart: Callable[[], None] = lambda: None,
        *,
        progress: Callable[[], int] | None = None,
    ) -> None:
        """Strike, restart, and wait until the run gets on."""
        progress = progress or (lambda: self._sold() + self.destination.tracks())
        seen = Strike(name, time.time(), self._sold(), self.destination.tracks())
        strike()
        seen.parts, before = self.destination.parts(), progress()
        restart()
        self.world.until(f"the run goes on after: {name}", lambda: progress() > before)
        seen.seconds = time.time() - seen.at
        self.strikes.append(seen)

    def _sold(self) -> int:
        return len(self.world.shop.sales())

    # -- what was seen ---------------------------------------------------------------------------------------

    def blame(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Say of rows with an unknown outcome what has lost their answers: what struck next."""
        for entry in entries:
            sent = datetime.fromisoformat(entry["submitted_at"]).timestamp()
            later = [strike for strike in self.strikes if strike.at >= sent]
            assert later, f"nothing struck after {entry['prompt_id']} was sent"
            later[0].unknown.append(entry["prompt_id"])

    def table(self) -> str:
        """Return what was seen, a line for each strike."""
        lines = [("killed", "rows sold", "tracks", "parts", "goes on after", "unknown outcome")]
        for seen in self.strikes:
            figures = (str(seen.sold), str(seen.tracks), str(seen.parts), f"{seen.seconds:.1f} s")
            lines.append((seen.name, *figures, ", ".join(seen.unknown) or "-"))
        return "\n".join("{:<48} {:>9} {:>6} {:>5} {:>13}  {}".format(*line) for line in lines)
