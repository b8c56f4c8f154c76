"""
Buy the rows of a table, one after the other, at a pace.

Whether a create leaves is decided by ``purchases`` and the row's record, whatever the
plan says. Here is decided in which order rows are bought, how fast, and when nothing more is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
from musicapi_provider.prompt_table.plan import FAILED, POSTPONED, RESUBMIT, facts_of, refund
from musicapi_provider.purchases import (
    KEY,
    Bought,
    FolderStore,
    Order,
    Policy,
    PurchaseState,
    UnknownOutcome,
    adopt,
    buy,
    run_of,
    status_of,
)
from musicapi_provider.waiting.pace import Pace, asks_for_a_pause

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.api.client import MusicAPIClient

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
    :param started: Epoch seconds at which this try began.
    :param timeout: Seconds that a music task may take, from its purchase or from the beginning of this try.
    :param create_interval: Seconds between two creates.
    :param max_in_flight: Music tasks that are bought and not stored, at most.
    :param max_credits: What may still be spent; ``None``: no limit.
    :param about: Facts for the sidecar of each track, such as the dag run.
    """

    folder: ObjectStoragePath
    generation: str
    started: float
    timeout: float
    create_interval: float
    max_in_flight: int
    max_credits: float | None = None
    poll_interval: float | None = None
    fail_on_partial: bool = False
    on_unknown_outcome: UnknownOutcome = UnknownOutcome.FAIL
    about: Mapping[str, Any] | None = None


class Buyer:
    """
    The rows of a plan that are to be bought; the entries are updated in place.

    :param client: Sends creates, in a thread of its own.
    """

    def __init__(
        self, plan: Sequence[dict[str, Any]], settings: TableSettings, client: MusicAPIClient
    ) -> None:
        self.settings = settings
        self.client = client
        #: Why nothing more is bought.
        self.stopped: MusicAPIError | None = None
        self.pace = Pace(
            1 / settings.create_interval if settings.create_interval > 0 else math.inf,
            "creates",
            recovery=RECOVERY,
        )
        due = [entry for entry in plan if self._is_due(entry)]
        # Rows that keep failing must not keep the others from their turn.
        self._todo = deque(sorted(due, key=lambda entry: bool(entry["state"] == FAILED)))
        self._credits_left = math.inf if settings.max_credits is None else settings.max_credits
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

    async def buy_next(self) -> tuple[dict[str, Any], bool] | None:
        """
        Buy the next row, or collect what its record says.

        :return: Its entry and whether it was bought just now; ``None``: not this time, as the entry says.
        """
        entry = self._todo.popleft()
        adopted = entry["decision"] not in (None, RESUBMIT)
        price = 0.0 if adopted else self.client.settings.expected_credits(entry["body"])
        if price > self._credits_left:
            self._postpone(entry)
            return None
        loop = asyncio.get_running_loop()
        try:
            bought = await loop.run_in_executor(self._thread, self._submit, entry)
        except MusicAPIError as error:
            self.pace.take(_now())
            self._not_bought(entry, error)
            return None
        # From the answer on: counted from here, requests of uneven length would come too close at the API.
        self.pace.take(_now())
        self.pace.heed(None, _now())
        self._credits_left -= price if bought else 0.0
        self._lost_in_a_row = self._refused_in_a_row = 0
        return entry, bought

    def close(self) -> None:
        """Wait for a create that is under way: what it finds out is on record."""
        self._thread.shutdown()

    def _is_due(self, entry: Mapping[str, Any]) -> bool:
        resubmit = self.settings.on_unknown_outcome is UnknownOutcome.RESUBMIT
        if entry.get("error"):  # it had its turn in this try
            return False
        if entry["state"] == PurchaseState.UNKNOWN:
            return bool(entry["decision"]) or resubmit
        return entry["state"] in (PurchaseState.NOT_SUBMITTED, FAILED) or (
            entry["state"] == PurchaseState.SUBMITTED and bool(entry["decision"])
        )

    def _submit(self, entry: dict[str, Any]) -> bool:
        """Buy or adopt, and take what is on record then into the entry; tell whether it was bought now."""
        settings, decision = self.settings, entry["decision"]
        records = record_of(settings.folder, entry)
        records.get(KEY)  # a storage that is away says nothing: the entry stays as it is
        order = Order(entry["body"], entry["fingerprint"], settings.generation)
        policy = UnknownOutcome.RESUBMIT if decision == RESUBMIT else settings.on_unknown_outcome
        if decision == RESUBMIT:
            self._check_that_it_is_new(records, entry)
        try:
            if decision not in (None, RESUBMIT):
                submitted = adopt(records, decision, order)
            else:
                submitted = buy(self.client, order, records, Policy(policy))
        finally:
            entry.update(facts_of(records, entry["fingerprint"]))
        entry["decision"] = None
        if entry["music_task_id"] != submitted.music_task_id:
            self._hold(entry, submitted, records)
        return submitted.is_new

    def _check_that_it_is_new(self, records: FolderStore, entry: Mapping[str, Any]) -> None:
        """Refuse to carry out twice the decision to send again: a retry of the task brings it along."""
        known = status_of(records, entry["fingerprint"])
        if known.state == PurchaseState.UNKNOWN and known.bought_in == self.settings.generation:
            raise MusicAPIConfigurationError(
                f"settle: {entry['prompt_id']!r} was sent again in this run, and that answer was lost, too; "
                "a decision is about an earlier one.",
                spent=Spent.UNKNOWN,
                next_step="look into the account's history at the vendor, decide, then clear the task.",
            )

    def _hold(self, entry: dict[str, Any], submitted: Bought, records: FolderStore) -> None:
        """Hold on to what is bought while the storage does not take its record; storing writes it again."""
        entry.update(
            state=PurchaseState.SUBMITTED,
            music_task_id=submitted.music_task_id,
            credits=submitted.credits,
            lost_credits=submitted.lost_credits,
        )
        try:
            patiently(lambda: see_to_record(records, entry, self.settings.generation))
        except MusicAPIError as error:
            log.error("The record of music task %s is missing: %s", submitted.music_task_id, error)  # noqa: TRY400

    def _not_bought(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        if isinstance(error, MusicAPIAmbiguousSubmitError):
            give_up(entry, error)
            self._credits_left -= entry["price"]  # perhaps paid is paid, as far as a limit goes
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= LOST_IN_A_ROW:
                self.stop(error)
        elif isinstance(error, OF_THE_ROW) or (
            isinstance(error, MusicAPIConfigurationError)
            and entry["state"] == PurchaseState.UNKNOWN  # unreadable record
        ):
            give_up(entry, error)
        elif asks_for_a_pause(error) or isinstance(error, MusicAPITransientError):
            self._todo.appendleft(entry)
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= REFUSED_IN_A_ROW:
                self.stop(error)
            else:
                self.pace.heed(error, _now())
        else:  # the account's: the next create would be refused as well
            self._todo.appendleft(entry)
            self.stop(error)

    def stop(self, error: MusicAPIError) -> None:
        """Buy nothing more in this try; what is bought is still stored."""
        if self.stopped is None:
            log.error("Nothing more is bought in this try (%d rows are left): %s", len(self._todo), error)
            self.stopped = error

    def _postpone(self, entry: dict[str, Any]) -> None:
        """Leave this row and all after it that cost for a later run: nobody overtakes."""
        left = [entry, *(one for one in self._todo if one["decision"] in (None, RESUBMIT))]
        self._todo = deque(one for one in self._todo if one["decision"] not in (None, RESUBMIT))
        for one in left:
            one["decision"] = None
            if one["state"] != PurchaseState.UNKNOWN:
                one["state"] = POSTPONED
        log.warning("%d rows are left for a later run: max_credits does not cover them.", len(left))

    def leave_the_rest(self) -> None:
        """Say in the entries why they were not bought, once nothing more is."""
        reason = self.stopped
        if reason is None:
            return
        for entry in self._todo:
            entry.update(error=f"not bought: {reason}", retryable=reason.retryable)
        self._todo.clear()

    def refunded(self, entry: dict[str, Any], error: MusicAPIError) -> None:
        """Buy anew what an earlier try bought; what this try bought is left to the next one."""
        since = datetime.fromisoformat(entry["submitted_at"]).timestamp()
        refund(entry, str(error))
        content = isinstance(error, MusicAPIModerationError)
        if entry["paid_by"] == run_of(self.settings.generation):
            self._credits_left += entry["price"]
        is_earlier = since < math.floor(self.settings.started)  # records know whole seconds
        if is_earlier and not content and entry["prompt_id"] not in self._anew:
            self._anew.add(entry["prompt_id"])
            entry["error"] = None
            self._todo.append(entry)
            log.info("%s: %s It is bought anew.", entry["prompt_id"], error.message)
            return
        entry["retryable"] = not content
        log.warning("%s has no tracks: %s", entry["prompt_id"], error)


def record_of(folder: ObjectStoragePath, entry: Mapping[str, Any]) -> FolderStore:
    """Return the record of an entry's row, as it is now."""
    return FolderStore(folder, entry["prompt_id"], entry["fingerprint"])


def see_to_record(records: FolderStore, entry: Mapping[str, Any], generation: str) -> None:
    """See to it that an entry's music task is on record."""
    fingerprint = entry["fingerprint"]
    if status_of(records, fingerprint).music_task_id is None:
        adopt(records, entry["music_task_id"], Order(entry["body"], fingerprint, generation))


def give_up(entry: dict[str, Any], error: MusicAPIError) -> None:
    """Note why a row has no tracks in this try."""
    entry.update(error=str(error), retryable=error.retryable)
    log.warning("%s has no tracks: %s", entry["prompt_id"], error)


def _now() -> float:
    return asyncio.get_running_loop().time()
