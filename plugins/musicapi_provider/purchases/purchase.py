"""
An order, and what is on record about its purchases. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import uuid4


class PurchaseState(StrEnum):
    """Where a purchase stands."""

    #: The music task's id is known.
    SUBMITTED = "submitted"
    #: It may be paid: the answer to its create was lost.
    UNKNOWN = "unknown outcome"
    #: Nothing is paid.
    NOT_SUBMITTED = "not submitted"


@dataclass(frozen=True, slots=True)
class Order:
    """
    What shall be bought.

    :param body: A complete, valid request body.
    :param fingerprint: What is bought, see :func:`.ledger.fingerprint_of`.
    :param generation: Who asks: the same for all retries, another one after each clear of the Airflow task.
    """

    body: Mapping[str, object]
    fingerprint: str
    generation: str


@dataclass(frozen=True, slots=True)
class Asked:
    """
    That somebody has asked for a purchase.

    :param run: DAG and dag run.
    :param slot: Task and map index; with the DAG where several DAGs may share a ledger.
    :param clear_number: How often something of the dag run had been cleared.
    :param at: ISO time (UTC), to the microsecond.
    :param after: When the purchase was asked for before that, by whomever.
    :param taking: It was about to take the purchase over; another slot may have been, too.
    """

    run: str = ""
    slot: str = ""
    clear_number: int = 0
    at: str = ""
    after: str = ""
    taking: bool = False

    @classmethod
    def from_json(cls, value: object) -> Asked:
        """Read what was written; raises ``TypeError`` for anything else."""
        if not isinstance(value, Mapping):
            raise TypeError("asked must be an object")
        asked = cls(**value)
        if not all(isinstance(text, str) for text in (asked.run, asked.slot, asked.at, asked.after)):
            raise TypeError("run, slot and times must be texts")
        try:
            times = [datetime.fromisoformat(text) for text in (asked.at, asked.after) if text]
        except ValueError as error:
            raise TypeError("times must be ISO times") from error
        if not all(time.tzinfo for time in times):
            raise TypeError("times must have a time zone")
        if type(asked.clear_number) is not int:
            raise TypeError("clear_number must be a number")
        if type(asked.taking) is not bool:
            raise TypeError("taking must be true or false")
        return asked


@dataclass(frozen=True, slots=True)
class Asker:
    """
    Who asks for an order: a slot of Airflow, in one of its tries.

    :param run: As in :class:`Asked`, as are ``slot`` and ``clear_number``.
    :param since: ISO time (UTC) since when this slot is as it is now: made, or cleared; empty: not known.
    :param started: ISO time (UTC) at which the dag run started; empty: not known. There may have been one of
        the same name, and another Airflow may have one.
    """

    run: str
    slot: str
    clear_number: int = 0
    since: str = ""
    started: str = ""

    @property
    def owner(self) -> str:
        """Who claims an order: the same for all tries, which follow one another."""
        return " ".join(filter(None, (self.run, self.slot, self.started)))

    def asks(self, before: Asked | None = None) -> Asked:
        """
        Return what is written down now.

        :param before: Who has asked for the same purchase last.
        """
        after = before.at if before else ""
        at = datetime.now(UTC)
        if after:  # by whatever clock: who asks later is later
            at = max(at, datetime.fromisoformat(after) + timedelta(microseconds=1))
        return Asked(self.run, self.slot, self.clear_number, at.isoformat(timespec="microseconds"), after)


@dataclass(frozen=True, slots=True)
class Purchase:
    """
    What is on record about an order.

    :param at: ISO time (UTC) at which the last request was about to leave.
    :param generation: Dag run and clear; the same for all retries in between.
    :param music_task_id: The last purchase; ``None`` while only the intent to buy is on record.
    :param earlier: Ids of earlier purchases that the last one replaced; never forgotten.
    :param lost_at: Times of creates whose answers were lost and that were sent again by policy.
    :param balance: Credits on the account just before the last request; ``None``: not known.
    :param credits: What the last request was expected to cost; 0 for what was adopted.
    :param spent: What earlier purchases that were not refunded were expected to cost.
    :param lost: What creates whose answers were lost, and that were sent again, may have cost.
    :param bought_in: The generation in which the last request was about to leave; adopting keeps it.
    :param token: By which the API calls back about the last request; ``None``: it does not.
    :param told: The id is known from a callback alone.
    :param resend: Somebody has decided that the create whose answer was lost is sent again, once.
    :param ordered: What was ordered, in a few words for people.
    :param entry: Tells this purchase from others of the same order, whoever asks for it.
    :param asked: Who asked last, as far as it matters; ``None``: in a ledger of version 0.1.
    """

    at: str
    generation: str
    music_task_id: str | None = None
    earlier: tuple[str, ...] = ()
    lost_at: tuple[str, ...] = ()
    balance: float | None = None
    credits: float = 0.0
    spent: float = 0.0
    lost: float = 0.0
    bought_in: str = ""
    token: str | None = None
    told: bool = False
    resend: bool = False
    ordered: str = ""
    entry: str = ""
    asked: Asked | None = None

    @property
    def identity(self) -> str:
        """Tells this purchase from others of the same order; who has no number has an id or a time."""
        return self.entry or self.music_task_id or self.at

    @property
    def state(self) -> PurchaseState:
        """Submitted, or of unknown outcome: what is on record was about to be sent at least."""
        return PurchaseState.UNKNOWN if self.music_task_id is None else PurchaseState.SUBMITTED

    @property
    def is_intent(self) -> bool:
        """Whether a request was about to leave and nothing is known of its answer."""
        return self.music_task_id is None

    @property
    def paid(self) -> float:
        """Expected price of all that is known to be paid and not refunded, the last purchase included."""
        return self.spent + self.credits

    @property
    def age(self) -> float:
        """Seconds since the last request was about to leave."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds()

    @classmethod
    def intent(cls, before: Purchase | None, generation: str, *, refunded: bool = False) -> Purchase:
        """
        Return the intent to buy; it remembers everything about the purchases before it.

        :param refunded: The purchase before it has failed and was refunded.
        """
        intent = cls(now(), generation, bought_in=generation)
        if before is None:
            return replace(intent, entry=uuid4().hex[:12])
        intent = replace(
            intent,
            earlier=before.earlier,
            lost_at=before.lost_at,
            spent=before.spent,
            lost=before.lost,
            ordered=before.ordered,
            entry=before.identity,
            asked=before.asked,
        )
        if before.music_task_id is None:
            return replace(intent, lost_at=(*before.lost_at, before.at), lost=before.lost + before.credits)
        earlier = (*before.earlier, before.music_task_id)
        return replace(intent, earlier=earlier, spent=before.spent + (0.0 if refunded else before.credits))

    def named(self, music_task_id: str, *, by_callback: bool = False) -> Purchase:
        """Return the purchase with the id that its create was answered with, or that a callback named."""
        return replace(self, music_task_id=music_task_id, told=by_callback, resend=False)

    def taken_by(self, asker: Asker, *, taking: bool = False) -> Purchase:
        """
        Return the purchase after somebody has asked for it; it keeps its identity.

        :param taking: See :class:`Asked`.
        """
        return replace(self, entry=self.identity, asked=replace(asker.asks(self.asked), taking=taking))

    def adopting(self, music_task_id: str, generation: str) -> Purchase:
        """Return the purchase after somebody has said that an existing music task is what was ordered."""
        if self.music_task_id in (None, music_task_id):
            # What settles a lost answer, or was on record already, was paid for here.
            adopted = replace(self, at=now(), generation=generation, balance=None)
        else:
            adopted = replace(Purchase.intent(self, generation), bought_in="")
        return replace(adopted, earlier=tuple(one for one in adopted.earlier if one != music_task_id)).named(
            music_task_id
        )

    @classmethod
    def from_json(cls, value: object) -> Purchase:
        """Read what :meth:`as_json` wrote; raises ``TypeError`` for anything else."""
        if not isinstance(value, Mapping):
            raise TypeError("a record must be an object")
        lists = {name: value.get(name) for name in ("earlier", "lost_at")}
        if not all(isinstance(items, list) for items in lists.values()):
            raise TypeError("earlier and lost_at must be lists")
        asked = value.get("asked")
        purchase = cls(
            **{
                **value,
                **{name: tuple(items or ()) for name, items in lists.items()},
                "asked": None if asked is None else Asked.from_json(asked),
            }
        )
        numbers = [purchase.credits, purchase.spent, purchase.lost]
        numbers += [purchase.balance] if purchase.balance is not None else []
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError("balance and credits must be numbers")
        texts = [purchase.at, *purchase.earlier, *purchase.lost_at]
        texts += [text for text in (purchase.music_task_id, purchase.token) if text is not None]
        labels = (purchase.generation, purchase.bought_in, purchase.ordered, purchase.entry)
        if not all(isinstance(text, str) and text for text in texts):
            raise TypeError("ids and times must be texts")
        if not all(isinstance(label, str) for label in labels):
            raise TypeError("generations must be texts")
        return purchase

    def as_json(self) -> dict[str, object]:
        """Return the record as JSON: about 500 bytes."""
        return {**asdict(self), "earlier": list(self.earlier), "lost_at": list(self.lost_at)}


@dataclass(frozen=True, slots=True)
class PurchaseStatus:
    """
    Where a purchase stands by the record.

    :param credits: What was spent for it, at expected prices; ``None`` where nobody knows.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    :param price: Expected price of the last request, paid or perhaps paid.
    :param bought_in: The generation that sent it.
    :param at: ISO time (UTC) at which it was about to leave, or was adopted.
    :param resend: Somebody has decided that it is sent again.
    """

    state: PurchaseState
    music_task_id: str | None = None
    credits: float | None = None
    lost_credits: float = 0.0
    price: float = 0.0
    bought_in: str = ""
    at: str | None = None
    resend: bool = False

    @classmethod
    def of(cls, purchase: Purchase) -> PurchaseStatus:
        """Return what a record says."""
        status = cls(
            purchase.state,
            purchase.music_task_id,
            credits=purchase.paid,
            lost_credits=purchase.lost,
            price=purchase.credits,
            bought_in=purchase.bought_in,
            at=purchase.at,
            resend=purchase.resend,
        )
        if purchase.is_intent:
            return replace(status, credits=None, lost_credits=purchase.lost + purchase.credits)
        return status


@dataclass(frozen=True, slots=True)
class Bought:
    """
    The music task to wait for.

    :param is_new: Whether this very call bought it.
    :param credits: Expected price of all that is on record as spent for it.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    """

    music_task_id: str
    is_new: bool
    credits: float = 0.0
    lost_credits: float = 0.0

    @classmethod
    def of(cls, purchase: Purchase, *, is_new: bool) -> Bought:
        """Return what a record with an id says."""
        return cls(str(purchase.music_task_id), is_new, credits=purchase.paid, lost_credits=purchase.lost)


def generation_of(run_id: str, max_tries: int) -> str:
    """
    Return what all tries of a task share and a clear changes; :func:`run_of` reads it.

    Airflow raises ``max_tries`` with each clear and leaves it alone for the retries in between.
    """
    return f"{run_id}#{max_tries}"


def run_of(generation: str) -> str:
    """Return the dag run of a generation."""
    return generation.rpartition("#")[0]


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
