"""
What strikes a run of a table, at which moment, and what became of the rows that were under way.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.place import Folder, Run, World

#: Seconds for which something stays away.
OUTAGE = 20.0


@dataclass
class Fault:
    """
    One fault in the middle of a table.

    :param at: Epoch seconds.
    :param sold: Songs that were sold by then.
    :param probe: Seconds until a new task has run.
    :param table: Seconds until the table went on: something bought, stored or, while it waits, looked at.
    :param unknown: Rows whose answers it has lost.
    :param lost: Rows without tracks.
    :param duplicated: Rows that were sold twice.
    """

    name: str
    at: float
    sold: int
    probe: float = 0.0
    table: float = 0.0
    unknown: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)


class Faults:
    """
    The faults of a run, one after another.

    :param run: Works on the table.
    :param folder: Where its tracks go.
    """

    def __init__(self, world: World, run: Run, folder: Folder) -> None:
        self.world = world
        self.run = run
        self.folder = folder
        self.seen: list[Fault] = []

    # -- the moments -----------------------------------------------------------------------------------------

    def until_sold(self, more: int) -> None:
        """Wait until some more songs are sold, all others being on their way."""
        goal = self._sold() + more
        self.world.until(f"{goal} songs are sold", lambda: self._sold() >= goal)

    def until_waiting(self) -> None:
        """Wait until a triggerer looks at what the task has left to it: nothing may end by itself."""
        self.run.until_waited_for()

    # -- the faults ------------------------------------------------------------------------------------------

    def kill_worker(self) -> None:
        """Kill the worker that has the task; it comes back when the other has taken over."""
        name = str(self.run.instance()["hostname"])
        self._strike(name, "killed, with its task", after=lambda: self._start(name))

    def kill_triggerer(self) -> None:
        """Kill the triggerer that has the task's trigger, for good; the other one takes over."""
        killed = self.run.triggerer()
        (other,) = {"triggerer-1", "triggerer-2"} - {killed}

        def is_taken_over() -> bool:
            return self.run.triggerer() == other

        self._strike(
            killed,
            "killed, not restarted",
            progress=self.world.shop.looks,
            after=lambda: self.world.until(f"{other} has the table", is_taken_over),
        )

    def restart(self, name: str) -> None:
        """Kill a service and start it at once."""
        self._strike(name, "restarted", lambda: self._start(name))

    def take_away(self, name: str) -> None:
        """Kill a service and start it after a while; it knows what it knew."""

        def bring_back() -> None:
            time.sleep(OUTAGE)
            self._start(name)

        # Without the store nothing can be counted there, and without its records nothing is sold.
        self._strike(name, f"away for {OUTAGE:g} s", bring_back, progress=self._sold)

    def _kill(self, name: str) -> None:
        self.world.cluster.processes[name].kill()

    def _start(self, name: str) -> None:
        if name == "simulator":
            self.world.shop.open()
        else:
            self.world.cluster.start(name)

    def _strike(
        self,
        service: str,
        what: str,
        restore: Callable[[], None] = lambda: None,
        *,
        progress: Callable[[], int] | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Kill a service, and wait until the table goes on and a new task has run."""
        progress = progress or self._progress
        fault = Fault(f"{service} {what}", time.time(), self._sold())
        self.seen.append(fault)
        self._kill(service)
        before = progress()
        restore()
        self.world.until(f"the table goes on: {fault.name}", lambda: progress() > before)
        fault.table = time.time() - fault.at
        assert Run(self.world, "cluster_probe").until_over() == "success"
        fault.probe = time.time() - fault.at
        after()
        sys.stdout.write(f"{fault.name}: {fault.table:.0f} s, new task {fault.probe:.0f} s\n")

    def _progress(self) -> int:
        return self._sold() + self.folder.tracks()

    def _sold(self) -> int:
        return len(self.world.shop.sales())

    # -- what became of it -----------------------------------------------------------------------------------

    def judge(self, prompts: Mapping[str, str], manifest: Sequence[Mapping[str, Any]], since: int) -> None:
        """
        Blame each row without tracks, or sold twice, on the last fault before its (second) sale.

        :param prompts: Prompts by row.
        :param since: Songs that were sold before this table.
        """
        places: dict[str, list[int]] = {}
        for number, sale in enumerate(self.world.shop.sales()[since:], since):
            places.setdefault(sale.prompt, []).append(number)
        for entry in manifest:
            sold_at = places.get(prompts[entry["prompt_id"]], [])
            if entry["state"] == "unknown outcome":
                self._fault_of(sold_at[0] if sold_at else None).unknown.append(entry["prompt_id"])
            elif not entry["tracks"]:
                self._fault_of(sold_at[0] if sold_at else None).lost.append(entry["prompt_id"])
            if len(sold_at) > 1:
                self._fault_of(sold_at[1]).duplicated.append(entry["prompt_id"])

    def _fault_of(self, place: int | None) -> Fault:
        """Return the fault during which a song was sold: the first that had seen it sold, else the last."""
        return next((one for one in self.seen if place is not None and one.sold > place), self.seen[-1])

    def table(self) -> str:
        """Return what was seen, a line for each fault."""
        lines = [("fault", "lost", "duplicated", "table goes on", "new task ran", "unknown outcome")]
        for one in self.seen:
            counts = (str(len(one.lost)), str(len(one.duplicated)))
            seconds = (f"{one.table:.0f} s", f"{one.probe:.0f} s")
            lines.append((one.name, *counts, *seconds, ", ".join(one.unknown) or "-"))
        return "\n".join("{:<34} {:>4} {:>10} {:>13} {:>12}  {}".format(*line) for line in lines)


def states(manifest: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Count the rows of a manifest by their states."""
    return Counter(str(entry["state"]) for entry in manifest)
