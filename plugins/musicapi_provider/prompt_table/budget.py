"""
Whose turn it is, and what a dag run may spend: the same for mapped tasks and for one task a table.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.prompt_table.row import Adopt, Row, RowState
from musicapi_provider.purchases import UnknownOutcome

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings

log = logging.getLogger(__name__)


def in_turn(rows: Iterable[Row], policy: UnknownOutcome = UnknownOutcome.FAIL) -> list[Row]:
    """Return the rows that are due, in their order; those that keep failing wait for the others."""
    due = [row for row in rows if row.is_due(policy)]
    return sorted(due, key=lambda row: row.state is RowState.FAILED)


def postpone(rows: Sequence[Row]) -> list[Row]:
    """Leave rows for a later run, none overtakes another; return those that cost nothing and hence go on."""
    dear = [row for row in rows if not isinstance(row.decision, Adopt)]
    for row in dear:
        row.postpone()
    log.warning("%d rows are left for a later run: max_credits does not cover them.", len(dear))
    return [row for row in rows if isinstance(row.decision, Adopt)]


def credits_of_run(rows: Iterable[Row], run_id: str) -> tuple[float, float]:
    """
    Return what a dag run has spent, and what it may have spent beside that, at expected prices.

    Counts the last request for each row; what was refunded, or paid by another run, is not this run's.
    """
    own = [row for row in rows if row.paid_by == run_id]
    spent = sum(row.price for row in own if row.state in (RowState.SUBMITTED, RowState.STORED))
    return spent, sum(row.price for row in own if row.state is RowState.UNKNOWN)


class Budget:
    """
    What a dag run may still spend, at expected prices; what it perhaps spent counts as spent.

    :param max_credits: What it may spend in all; ``None``: no limit.
    :param rows: All rows of the table: what the run has paid for already counts.
    :param settings: Has the prices.
    """

    def __init__(
        self, max_credits: float | None, rows: Iterable[Row], run_id: str, settings: ClientSettings
    ) -> None:
        self._settings = settings
        self._run_id = run_id
        self._max = math.inf if max_credits is None else max_credits
        self._left = self._max - sum(credits_of_run(rows, run_id))

    def check(self, rows: Iterable[Row]) -> None:
        """
        Refuse a limit that no run could keep and yet get on.

        :raises MusicAPIConfigurationError: it does not cover the dearest of the rows; nothing was bought.
        """
        dearest = max([0.0, *map(self.price_of, rows)])
        if not self._max >= dearest:  # also refuses NaN
            raise MusicAPIConfigurationError(
                f"max_credits must cover at least one row; got {self._max!r}, and a row costs up to "
                f"{dearest:g}. Nothing was bought.",
                next_step="give the credits that one run may spend.",
            )

    def price_of(self, row: Row) -> float:
        """Return what a row that is due costs; adopting is free."""
        if isinstance(row.decision, Adopt):
            return 0.0
        return self._settings.expected_credits(row.body)

    def covers(self, row: Row) -> bool:
        """Tell whether a row's turn may come."""
        return isinstance(row.decision, Adopt) or self.price_of(row) <= self._left

    def spend(self, price: float) -> None:
        """Count what is spent, or perhaps spent."""
        self._left -= price

    def give_back(self, row: Row) -> None:
        """Count a refund, where this run has paid."""
        if row.paid_by == self._run_id:
            self._left += row.price
