"""What a scenario is: where it steps in, what it changes, and one that lies in wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from include.musicapi_simulator.reply import Reply

Effect = Callable[[Reply], Reply]


@dataclass(frozen=True)
class Manner:
    """
    How the webhooks of a job are sent: what the scenarios of stage WEBHOOK change.

    :param copies: Times that each event is sent.
    :param reverse: Send the streaming event after the last one.
    :param late: Send the last event ``slow_seconds`` later.
    :param signature: ``right``; ``wrong``: made with another secret; ``none``; ``body``: of the body alone,
        in another header, as on a sister site (facts 7.3).
    :param age: Seconds that the timestamp lies back.
    """

    copies: int = 1
    reverse: bool = False
    late: bool = False
    signature: Literal["right", "wrong", "none", "body"] = "right"
    age: float = 0.0


#: Of a job without such a scenario.
USUAL = Manner()


class Stage(StrEnum):
    """Where a scenario steps in."""

    CREATE = "create, before anything is booked"
    BOOKED = "create, after the job is booked and debited"
    OPENING = "first reads of the job"
    ENDING = "last answer of the job"
    POLL = "reads of a task"
    READ = "reads of a task or of the credits"
    MEDIA = "downloads"
    WEBHOOK = "webhooks of the job"


#: Stages of a create, whose scenarios a booked job is rid of.
AT_CREATE = (Stage.CREATE, Stage.BOOKED)
#: Stages whose scenarios are given to a job when it is booked.
OF_A_JOB = (Stage.OPENING, Stage.ENDING, Stage.WEBHOOK)


@dataclass(frozen=True)
class Scenario:
    """
    One way to misbehave.

    :param effect: Takes the answer that was due and returns the one to send. OPENING effects are given two
        running clips, ENDING effects two succeeded clips.
    :param times: Usual number of uses, None for every time. For OPENING scenarios: reads of each job.
    :param refunds: ENDING only: the job's credits go back (facts 3.3).
    :param manner: WEBHOOK only: how the events of the job are sent.
    """

    name: str
    stage: Stage
    description: str
    effect: Effect
    times: int | None = None
    refunds: bool = False
    manner: Manner = USUAL


@dataclass
class Armed:
    """
    A scenario lying in wait.

    :param left: Uses left, None for no end.
    :param match: Act only where this is among the words of the create body.
    """

    scenario: Scenario
    left: int | None = None
    match: str | None = None

    def fires(self, stage: Stage, text: str) -> bool:
        """Say whether it acts here, and use it up once if so."""
        if self.scenario.stage is not stage or self.left == 0 or (self.match or "") not in text:
            return False
        if self.left is not None:
            self.left -= 1
        return True
