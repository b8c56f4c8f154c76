"""
Compare what was booked with what Airflow knows: row by row, then the whole run. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tests.e2e.torture.plan import BETWEEN_ROUNDS, KILLS, Fault
from tests.states import NOT_SUBMITTED, UNKNOWN

#: Purchases from which on every planned kind of fault must have struck at least once.
EVERY_KIND_FROM = 50
#: Purchases from which on there must be some kill and some fault of the API.
ANY_FROM = 20


@dataclass(frozen=True, slots=True)
class Row:
    """
    One purchase.

    :param booked: Ids of the music tasks that the simulator booked for it.
    :param state: Of the Airflow task; ``None`` when there is none.
    :param collected: Ids that Airflow has in XCom.
    :param submission: What the operator says of the purchase; other ways say nothing.
    :param resent: A create arrived after one that was perhaps, or surely, booked.
    """

    purchase: str
    booked: tuple[str, ...]
    state: str | None
    collected: frozenset[str] = frozenset()
    submission: str | None = None
    resent: bool = False

    @property
    def lost(self) -> int:
        """How many booked ids Airflow does not have."""
        return len(set(self.booked) - self.collected)


class Verdict(StrEnum):
    """What became of a purchase; the second group is what must not be."""

    COLLECTED = "bought once and collected"
    UNKNOWN_BOOKED = "flagged as unknown, in truth booked"
    UNKNOWN_NOT_BOOKED = "flagged as unknown, in truth not booked"
    NOT_BOUGHT = "certainly not bought, and said so"

    DUPLICATE = "PAID MORE THAN ONCE"
    RESENT = "SENT AGAIN AFTER AN UNKNOWN OUTCOME"
    LOST = "PAID, NOT COLLECTED, NOT FLAGGED"
    UNFOUNDED = "COLLECTED, THOUGH NEVER BOOKED"
    SILENT = "NOT BOUGHT, AND NOT A WORD OF IT"
    UNFINISHED = "NOT FINISHED"


GOOD = frozenset({Verdict.COLLECTED, Verdict.UNKNOWN_BOOKED, Verdict.UNKNOWN_NOT_BOOKED, Verdict.NOT_BOUGHT})


def judge(row: Row) -> Verdict:
    """Say what became of a purchase; what costs money goes first."""
    if len(row.booked) > 1:
        return Verdict.DUPLICATE
    if row.state not in ("success", "failed"):
        return Verdict.UNFINISHED
    if row.resent:
        return Verdict.RESENT
    if row.collected - set(row.booked):
        return Verdict.UNFOUNDED
    if row.collected:
        return Verdict.COLLECTED
    if row.state == "failed" and row.submission == UNKNOWN:
        return Verdict.UNKNOWN_BOOKED if row.booked else Verdict.UNKNOWN_NOT_BOOKED
    if row.booked:
        return Verdict.LOST
    return Verdict.NOT_BOUGHT if row.submission == NOT_SUBMITTED else Verdict.SILENT


def objections(
    rows: Iterable[Row], struck: Mapping[Fault, int], planned: set[Fault], triggerer_kills: int, waiting: int
) -> list[str]:
    """
    Say why a run does not pass; nothing to say means that it does.

    :param struck: How often each fault took place.
    :param planned: The faults that first tries had to meet.
    :param waiting: Every which purchase waits in the triggerer; 0: none.
    """
    rows = list(rows)
    counts = Counter(judge(row) for row in rows)
    said = [f"{verdict}: {counts[verdict]}" for verdict in Verdict if verdict not in GOOD and counts[verdict]]
    return said + _too_easy(len(rows), struck, planned, triggerer_kills, waiting)


def _too_easy(
    purchases: int, struck: Mapping[Fault, int], planned: set[Fault], triggerer_kills: int, waiting: int
) -> list[str]:
    """Say why a run proves nothing, however well it went."""
    if purchases < ANY_FROM:
        return []
    said = []
    if not any(struck.get(fault) for fault in KILLS):
        said.append("not one task process was killed")
    if not any(struck.get(fault) for fault in set(Fault) - KILLS - set(BETWEEN_ROUNDS)):
        said.append("not one fault of the API took place")
    if waiting and not triggerer_kills:
        said.append("the triggerer was never killed")
    if purchases >= EVERY_KIND_FROM:
        said += [
            f"planned, but never took place: {fault}" for fault in Fault if fault in planned - struck.keys()
        ]
    return said
