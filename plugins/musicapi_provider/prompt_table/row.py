"""
A row of a prompt table on its way from plan to manifest. What changes a row changes it in here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from musicapi_provider.prompt_table.stored import stored_tracks
from musicapi_provider.purchases import (
    FolderStore,
    Order,
    PurchaseState,
    UnknownOutcome,
    fingerprint_of,
    run_of,
    status_of,
)
from musicapi_provider.storage.records import StoredTrack

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.exceptions import MusicAPIError
    from musicapi_provider.prompt_table.reading import PromptRow
    from musicapi_provider.purchases import Asker, Bought

log = logging.getLogger(__name__)


class RowState(StrEnum):
    """What has become of a row."""

    #: Its tracks are stored.
    STORED = "stored"
    #: Bought, and to be collected.
    SUBMITTED = str(PurchaseState.SUBMITTED)
    #: Its music task failed and was refunded.
    FAILED = "failed"
    #: It may be paid: the answer to its create was lost.
    UNKNOWN = str(PurchaseState.UNKNOWN)
    #: Nothing is paid.
    NOT_SUBMITTED = str(PurchaseState.NOT_SUBMITTED)
    #: The run's credits were spent before this row's turn came: a later run buys it.
    POSTPONED = "postponed"


#: Why a row has no tracks, where nothing more is known.
WHY: Mapping[RowState, str] = {
    RowState.SUBMITTED: "bought, but not stored yet: a later run collects it, nothing is bought by that",
    RowState.UNKNOWN: "the answer to its create was lost, so it may be paid: decide with settle",
    RowState.NOT_SUBMITTED: "not bought: the log of its create says why",
    RowState.FAILED: "its music task failed and was refunded: a later run buys it anew",
}


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take the music task that was found at the vendor; nothing is bought."""

    music_task_id: str

    def __str__(self) -> str:
        return self.music_task_id


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Send the create again, though the one whose answer was lost may be paid."""

    def __str__(self) -> str:
        return str(UnknownOutcome.RESUBMIT)


#: What ``settle`` says of a row; ``None``: nothing.
Decision: TypeAlias = Adopt | Resubmit | None
#: Keys of a row's JSON that only the run needs that works on it.
OF_THE_RUN = ("decision", "retryable")


@dataclass(slots=True)
class Row:
    """
    A row: what it orders, where that stands, what it cost.

    :param submitted_at: ISO time (UTC) of its last create.
    :param error: Why it has no tracks; while a run goes on: it had its turn in this try.
    :param credits: What was spent for it, at expected prices; ``None`` where nobody knows.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    :param price: Expected price of its last create.
    :param paid_by: The dag run that sent it.
    :param tracks: What is stored of it.
    :param decision: What ``settle`` says of it, until it is carried out.
    :param retryable: Whether a later try can cure what keeps it from being stored.
    """

    prompt_id: str
    body: Mapping[str, object] = field(default_factory=dict)
    fingerprint: str = ""
    state: RowState = RowState.NOT_SUBMITTED
    error: str | None = None
    music_task_id: str | None = None
    submitted_at: str | None = None
    credits: float | None = 0.0
    lost_credits: float = 0.0
    price: float = 0.0
    paid_by: str = ""
    tracks: Sequence[StoredTrack] = ()
    decision: Decision = None
    retryable: bool = False

    # -- JSON ------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, row: PromptRow, *, account: str) -> Row:
        """Return a row of which nothing is known but what it orders."""
        return cls(row.prompt_id, row.body, fingerprint_of(row.body, account=account))

    @classmethod
    def from_json(cls, value: object) -> Row:
        """
        Read what :meth:`as_json` wrote, such as a line of a manifest; other keys are passed over.

        :raises ValueError: it is no row.
        """
        if (
            not isinstance(value, Mapping)
            or not {"prompt_id", "state"} <= value.keys()
            or not isinstance(value.get("tracks"), list)
        ):
            raise ValueError("is no entry of a manifest")
        known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
        decision = value.get("decision")
        known["state"] = RowState(value["state"])
        known["tracks"] = [StoredTrack.from_json(track) for track in value["tracks"]]
        known["decision"] = None if decision is None else decision_from(str(decision))
        return cls(**known)

    def as_json(self, *, final: bool = False) -> dict[str, object]:
        """
        Return the row as JSON.

        :param final: As a run's last manifest has it: without ``decision`` and ``retryable``.
        """
        value = {each.name: getattr(self, each.name) for each in fields(self)}
        value |= {
            "body": dict(self.body),
            "state": str(self.state),
            "tracks": [track.as_json() for track in self.tracks],
            "decision": None if self.decision is None else str(self.decision),
        }
        return {name: one for name, one in value.items() if not (final and name in OF_THE_RUN)}

    # -- what is to be done about it -------------------------------------------------------------------------

    def is_due(self, policy: UnknownOutcome = UnknownOutcome.FAIL) -> bool:
        """
        Tell whether something is to be sent or adopted for it now.

        :param policy: What becomes of unknown outcomes that nobody has decided about.
        """
        if self.state is RowState.UNKNOWN:
            return self.decision is not None or policy is UnknownOutcome.RESUBMIT
        if self.state is RowState.SUBMITTED:
            return self.decision is not None
        return self.state in (RowState.NOT_SUBMITTED, RowState.FAILED)

    @property
    def is_in_flight(self) -> bool:
        """Whether it is bought and may still become tracks in this try."""
        return self.state is RowState.SUBMITTED and self.decision is None and not self.error

    @property
    def is_missing(self) -> bool:
        """Whether it should have its tracks by now, and has none."""
        return self.state not in (RowState.STORED, RowState.POSTPONED)

    @property
    def submitted_time(self) -> float:
        """Epoch seconds of its last create, a whole number; 0 without one."""
        return datetime.fromisoformat(self.submitted_at).timestamp() if self.submitted_at else 0.0

    def order(self, generation: str) -> Order:
        """Return what it orders."""
        return Order(self.body, self.fingerprint, generation)

    def file_in(
        self, folder: ObjectStoragePath, asker: Asker | None = None, *, require_claims: bool = True
    ) -> FolderStore:
        """
        Return its file below the destination, as it is now.

        :param asker: Who buys; ``None``: somebody who only reads, or writes what is stored.
        """
        return FolderStore(folder, self.prompt_id, self.fingerprint, asker, require_claims=require_claims)

    # -- what becomes of it ----------------------------------------------------------------------------------

    def learn(self, file: FolderStore) -> None:
        """Take what its file says: where its purchase stands, and what is stored."""
        status = status_of(file, self.fingerprint)
        bought = status.state is PurchaseState.SUBMITTED
        self.tracks = stored_tracks(file, status.music_task_id) if bought else []
        self.state = RowState.STORED if self.tracks else RowState(str(status.state))
        self.music_task_id, self.submitted_at = status.music_task_id, status.at
        self.credits, self.lost_credits = status.credits, status.lost_credits
        self.price, self.paid_by = status.price, run_of(status.bought_in)
        self.error = None
        if status.resend and self.decision is None:
            self.decision = Resubmit()

    def set_bought(self, bought: Bought) -> None:
        """Take over what was bought when its file does not say so, as the storage is away."""
        self.state, self.music_task_id = RowState.SUBMITTED, bought.music_task_id
        self.credits, self.lost_credits = bought.credits, bought.lost_credits

    def set_stored(self, tracks: Sequence[StoredTrack]) -> None:
        """Its tracks are stored."""
        self.state, self.tracks = RowState.STORED, tracks
        self.error, self.retryable = None, False

    def collect_again(self) -> None:
        """Its files are gone: what is paid is stored anew, which is free."""
        self.state, self.tracks = RowState.SUBMITTED, []

    def refund(self, reason: str, *, retryable: bool = False) -> None:
        """Its music task failed: the API has refunded the last purchase (facts 3.3)."""
        self.state, self.error, self.retryable = RowState.FAILED, reason, retryable
        if self.credits is not None:
            self.credits -= self.price

    def buy_anew(self) -> None:
        """Let it have another turn in this try."""
        self.error, self.retryable = None, False

    def postpone(self) -> None:
        """Leave it for a later run; an unknown outcome stays one."""
        if self.decision is not None:
            log.warning("settle: %s is not carried out: it is postponed.", self.prompt_id)
        self.decision = None
        if self.state is not RowState.UNKNOWN:
            self.state = RowState.POSTPONED

    def give_up(self, error: MusicAPIError, *, retryable: bool | None = None) -> None:
        """Note why it has no tracks in this try."""
        self.error = str(error)
        self.retryable = error.retryable if retryable is None else retryable
        log.warning("%s has no tracks: %s", self.prompt_id, error)

    def pass_over(self, reason: MusicAPIError) -> None:
        """Note why it was not bought: nothing is bought any more."""
        self.error, self.retryable = f"not bought: {reason}", reason.retryable

    def explain(self) -> None:
        """Say why it has no tracks, where nothing has said so yet."""
        self.error = self.error or WHY.get(self.state)


def decision_from(text: str) -> Adopt | Resubmit:
    """Return the decision that a person, or a row's JSON, gives as text."""
    return Resubmit() if text == UnknownOutcome.RESUBMIT else Adopt(text)
