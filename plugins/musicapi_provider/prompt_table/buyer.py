"""
Buy the rows of a table, one after the other, at a pace.

Whether a create leaves is decided by ``purchases`` and the row's record, whatever the plan says. Here is
decided in which order rows are bought, how fast, and when nothing more is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIConfigurationError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPIRetiredError,
    MusicAPITransientError,
    Spent,
)
from musicapi_provider.files import patiently
from musicapi_provider.prompt_table.budget import Budget, in_turn, postpone
from musicapi_provider.prompt_table.row import Adopt, Resubmit, Row, RowState
from musicapi_provider.purchases import (
    KEY,
    FolderStore,
    Policy,
    PurchaseState,
    UnknownOutcome,
    adopt,
    buy,
    run_of,
    status_of,
)
from musicapi_provider.storage.records import About
from musicapi_provider.waiting.pace import Pace, asks_for_a_pause

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.purchases import Asker

log = logging.getLogger(__name__)

#: Answers lost in a row after which nothing more is sent: something is wrong, and each may be paid for.
LOST_IN_A_ROW = 3
#: Creates in a row that could not be sent, or were throttled, after which a later try goes on. Each has been
#: repeated by the client already, and pauses in between double up to a minute.
REFUSED_IN_A_ROW = 8
#: Refusals that concern one row's body and no other.
OF_THE_ROW = (MusicAPIInvalidRequestError, MusicAPIModerationError, MusicAPIRetiredError)
#: Share of the full pace that an accepted create brings back after a refusal.
RECOVERY = 0.25


@dataclass(frozen=True, slots=True)
class TableSettings:
    """
    How a table is worked off.

    :param folder: The destination: records, tracks.
    :param generation: See :func:`.purchases.generation_of`.
    :param asker: Who asks: the dag run, the task.
    :param started: Epoch seconds at which this try began.
    :param timeout: Seconds that a music task may take, from its purchase or from the beginning of this try.
    :param create_interval: Seconds between two creates.
    :param max_in_flight: Music tasks that are bought and not stored, at most.
    :param max_credits: What the dag run may spend in all; ``None``: no limit.
    :param about: Facts for the sidecar of each track, such as the dag run.
    :param require_claims: See :class:`.purchases.claims.Claim`.
    """

    folder: ObjectStoragePath
    generation: str
    asker: Asker
    started: float
    timeout: float
    create_interval: float
    max_in_flight: int
    max_credits: float | None = None
    poll_interval: float | None = None
    fail_on_partial: bool = False
    on_unknown_outcome: UnknownOutcome = UnknownOutcome.FAIL
    about: About = About()  # noqa: RUF009 - frozen
    require_claims: bool = True

    def file_of(self, row: Row) -> FolderStore:
        """Return a row's file, for who buys and stores."""
        return row.file_in(self.folder, self.asker, require_claims=self.require_claims)


class Buyer:
    """
    The rows of a plan that are to be bought; they are updated in place.

    :param client: Sends creates, in a thread of its own.
    """

    def __init__(self, plan: Sequence[Row], settings: TableSettings, client: MusicAPIClient) -> None:
        self.settings = settings
        self.client = client
        #: Why nothing more is bought.
        self.stopped: MusicAPIError | None = None
        rate = 1 / settings.create_interval if settings.create_interval > 0 else math.inf
        self.pace = Pace(rate, "creates", recovery=RECOVERY)
        # A row with an error had its turn in this try.
        self._todo = deque(row for row in in_turn(plan, settings.on_unknown_outcome) if not row.error)
        self._budget = Budget(settings.max_credits, plan, run_of(settings.generation), client.settings)
        self._lost_in_a_row = self._refused_in_a_row = 0
        #: Rows that were bought anew once: an API that changes its mind must not make a circle of it.
        self._anew: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="musicapi-buyer")

    @property
    def to_buy(self) -> int:
        """How many rows are still to be bought in this try."""
        return 0 if self.stopped else len(self._todo)

    @property
    def seconds_to_turn(self) -> float:
        """Seconds until the pace lets the next create leave."""
        return self.pace.next_at - _now()

    async def buy_next(self) -> tuple[Row, bool] | None:
        """
        Buy the next row, or collect what is on record for it.

        :return: The row and whether it was bought just now; ``None``: not this time, as the row says.
        """
        row = self._todo.popleft()
        if not self._budget.covers(row):
            self._todo = deque(postpone([row, *self._todo]))
            return None
        price = self._budget.price_of(row)
        loop = asyncio.get_running_loop()
        try:
            is_new = await loop.run_in_executor(self._thread, self._buy, row)
        except MusicAPIError as error:
            self.pace.take(_now())
            self._not_bought(row, error)
            return None
        # From the answer on: counted from here, requests of uneven length would come too close at the API.
        self.pace.take(_now())
        self.pace.heed(None, _now())
        self._budget.spend(price if is_new else 0.0)
        self._lost_in_a_row = self._refused_in_a_row = 0
        return row, is_new

    def close(self) -> None:
        """Wait for a create that is under way: what it finds out is on record."""
        self._thread.shutdown()

    def _buy(self, row: Row) -> bool:
        """Buy or adopt, and take what is on record then into the row; tell whether it was bought now."""
        settings = self.settings
        file = settings.file_of(row)
        with file.claim():  # nothing beyond this if the storage is away: the row stays as it is
            file.get(KEY)
            return self._buy_claimed(row, file)

    def _buy_claimed(self, row: Row, file: FolderStore) -> bool:
        settings, decision = self.settings, row.decision
        order, policy = row.order(settings.generation), settings.on_unknown_outcome
        if isinstance(decision, Resubmit):
            self._check_that_it_is_new(file, row)
            policy = UnknownOutcome.RESUBMIT
        try:
            if isinstance(decision, Adopt):
                bought = adopt(file, decision.music_task_id, order)
            else:
                bought = buy(self.client, order, file, Policy(policy))
        finally:
            row.learn(file)
        row.decision = None
        if row.music_task_id != bought.music_task_id:
            row.set_bought(bought)
            try:
                patiently(lambda: see_to_record(file, row, settings.generation))
            except MusicAPIError as error:  # storing its tracks writes it again
                log.error("The record of music task %s is missing: %s", bought.music_task_id, error)  # noqa: TRY400
        return bought.is_new

    def _check_that_it_is_new(self, file: FolderStore, row: Row) -> None:
        """Refuse to carry out twice the decision to send again: a retry of the task brings it along."""
        known = status_of(file, row.fingerprint)
        if known.state == PurchaseState.UNKNOWN and known.bought_in == self.settings.generation:
            raise MusicAPIConfigurationError(
                f"settle: {row.prompt_id!r} was sent again in this run, and that answer was lost, too; "
                "a decision is about an earlier one.",
                spent=Spent.UNKNOWN,
                next_step="look into the account's history at the vendor, decide, then clear the task.",
            )

    def _not_bought(self, row: Row, error: MusicAPIError) -> None:
        if isinstance(error, MusicAPIAmbiguousSubmitError):
            row.give_up(error)
            self._budget.spend(row.price)  # perhaps paid is paid, as far as a limit goes
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= LOST_IN_A_ROW:
                self.stop(error)
        elif isinstance(error, OF_THE_ROW) or (
            isinstance(error, MusicAPIConfigurationError)
            and row.state is RowState.UNKNOWN  # unreadable record
        ):
            row.give_up(error)
        elif asks_for_a_pause(error) or isinstance(error, MusicAPITransientError):
            self._todo.appendleft(row)
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= REFUSED_IN_A_ROW:
                self.stop(error)
            else:
                self.pace.heed(error, _now())
        else:  # the account's: the next create would be refused as well
            self._todo.appendleft(row)
            self.stop(error)

    def stop(self, error: MusicAPIError) -> None:
        """Buy nothing more in this try; what is bought is still stored."""
        if self.stopped is None:
            log.error("Nothing more is bought in this try (%d rows are left): %s", len(self._todo), error)
            self.stopped = error

    def leave_the_rest(self) -> None:
        """Say in the rows why they were not bought, once nothing more is."""
        if self.stopped is None:
            return
        for row in self._todo:
            row.pass_over(self.stopped)
        self._todo.clear()

    def refunded(self, row: Row, error: MusicAPIError) -> None:
        """Buy anew what an earlier try bought; what this try bought is left to the next one."""
        content = isinstance(error, MusicAPIModerationError)
        row.refund(str(error), retryable=not content)
        self._budget.give_back(row)
        is_earlier = row.submitted_time < math.floor(self.settings.started)  # records know whole seconds
        if is_earlier and not content and row.prompt_id not in self._anew:
            self._anew.add(row.prompt_id)
            row.buy_anew()
            self._todo.append(row)
            log.info("%s: %s It is bought anew.", row.prompt_id, error.message)
        else:
            log.warning("%s has no tracks: %s", row.prompt_id, error)


def see_to_record(file: FolderStore, row: Row, generation: str) -> None:
    """See to it that a row's music task is on record."""
    if status_of(file, row.fingerprint).music_task_id is None:
        adopt(file, str(row.music_task_id), row.order(generation))


def _now() -> float:
    return asyncio.get_running_loop().time()
