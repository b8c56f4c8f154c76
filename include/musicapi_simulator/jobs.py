"""One music task of the simulated account: its two clips, and how far along it is."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from include.musicapi_simulator.scenario import Armed

Phase = Literal["not_ready", "running", "half", "done"]

#: Fractions of a job's life at which it shows running clips, and then one finished clip (facts 1.1:
#: not_ready, two running, one of two, both). With ``reads:3`` each shape is seen exactly once.
RUNNING_FROM, HALF_FROM = 0.3, 0.65

#: Spread of job lengths under ``seconds:`` (sigma of the log-normal): 2 of 3 jobs within 0.7-1.4 medians.
SPREAD = 0.35

#: Where the words of a create body are: read for scenario names, melody and cover.
TEXT_FIELDS = ("prompt", "gpt_description_prompt", "lyrics", "tags", "title")


def text_of(body: dict[str, Any]) -> str:
    """Return all words of a create body, one field a line."""
    return "\n".join(value for name in TEXT_FIELDS if isinstance(value := body.get(name), str))


@dataclass(frozen=True)
class JobRule:
    """
    How jobs advance.

    :param kind: ``at-once``, ``reads`` or ``seconds``.
    :param amount: Reads that are answered before the final one, or the median length in seconds.
    """

    kind: Literal["at-once", "reads", "seconds"]
    amount: float = 0.0

    @classmethod
    def parse(cls, text: str) -> JobRule:
        """
        Read ``at-once``, ``reads:N`` or ``seconds:MEDIAN``.

        :raises ValueError: If it is none of these.
        """
        kind, _, amount = text.partition(":")
        try:
            if kind == "at-once" and not amount:
                return cls("at-once")
            if kind == "reads":
                return cls("reads", int(amount))
            if kind == "seconds":
                return cls("seconds", float(amount))
        except ValueError:
            pass
        raise ValueError(f"job rule {text!r} is not at-once, reads:N or seconds:MEDIAN")


@dataclass
class Job:
    """
    A booked music task.

    :param body: The create body that was accepted.
    :param rule: How this job advances; later changes of the setting leave it alone.
    :param seconds: Length of its life under ``seconds:``.
    :param paid: Subscription and extra credits that were debited.
    :param scenarios: Scenarios that belong to this job alone.
    :param root: Scheme and host that the create came to; the media URLs of webhooks start with it.
    :param told: Its last webhook was accepted or given up.
    """

    body: dict[str, Any]
    rule: JobRule
    seconds: float
    paid: tuple[int, int]
    scenarios: list[Armed] = field(default_factory=list)
    root: str = ""
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    clip_ids: tuple[str, str] = field(default_factory=lambda: (str(uuid.uuid4()), str(uuid.uuid4())))
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    reads: int = 0
    finished: bool = False
    refunded: bool = False
    told: bool = False

    @property
    def text(self) -> str:
        """All words of the create body."""
        return text_of(self.body)

    def phase(self) -> Phase:
        """Return which of the four shapes of facts 3.1 the next read sees."""
        progress = self._progress()
        if progress >= 1:
            return "done"
        if progress >= HALF_FROM:
            return "half"
        return "running" if progress >= RUNNING_FROM else "not_ready"

    def seconds_until(self, share: float) -> float | None:
        """Return the seconds until this share of its life is over; None if it is, or if no clock decides."""
        left = (share - self._progress()) * self.seconds
        return left if self.rule.kind == "seconds" and left > 0 else None

    def done_at(self) -> float:
        """Return the epoch seconds at which it was done; ask at once, for only a clock tells it later."""
        by_clock = self.rule.kind == "seconds" and not self.finished
        return self.created_at.timestamp() + self.seconds if by_clock else time.time()

    def _progress(self) -> float:
        if self.finished or self.rule.kind == "at-once":
            return 1.0
        spent = float(self.reads) if self.rule.kind == "reads" else time.monotonic() - self.started
        whole = self.rule.amount if self.rule.kind == "reads" else self.seconds
        return spent / whole if whole > 0 else 1.0


def length_of(rule: JobRule, seed: int, number: int) -> float:
    """
    Return the seconds that job ``number`` of this simulator takes: the same for the same seed.

    Log-normal, as the real service's times are: most near the median, a tail of slow ones.
    """
    if rule.kind != "seconds":
        return 0.0
    return rule.amount * random.Random(f"{seed}/{number}").lognormvariate(0.0, SPREAD)
