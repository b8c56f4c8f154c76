"""
What to do about an order: collect, buy, wait for a callback, or refuse. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from musicapi_provider.api.verdict import State

if TYPE_CHECKING:
    from musicapi_provider.purchases.purchase import Purchase


class UnknownOutcome(StrEnum):
    """What to do about a create whose answer was lost."""

    FAIL = "fail"
    RESUBMIT = "resubmit"


@dataclass(frozen=True, slots=True)
class Policy:
    """
    What is wanted where more than one thing could be done.

    :param on_unknown_outcome: ``FAIL``: a lost answer, now or earlier, ends it. ``RESUBMIT``: a lost answer
        is an error that a retry cures: it sends again, and may pay twice.
    :param force_new: Pay again on purpose, once per generation, when what was bought before is finished.
    :param credit_check: Send only what the balance covers; it must be readable then.
    :param callback_patience: Seconds for which a callback about a lost answer may still come: until then
        nothing is sent again, whatever the policy.
    """

    on_unknown_outcome: UnknownOutcome = UnknownOutcome.FAIL
    force_new: bool = False
    credit_check: bool = False
    callback_patience: float = 0.0

    @property
    def resubmits(self) -> bool:
        """Whether a lost answer is a reason to send again."""
        return self.on_unknown_outcome is UnknownOutcome.RESUBMIT


class Action(StrEnum):
    """What to do about an order."""

    COLLECT = "collect what is on record"
    BUY = "send a create"
    AWAIT = "wait for the API to call back"
    REFUSE = "leave the decision to a human"


class Why(StrEnum):
    """The reason of a decision."""

    FIRST = "nothing is on record"
    LOST = "an answer was lost"
    REFUNDED = "the last one failed and was refunded"
    UNPROVEN = "only a callback names the music task that failed"
    FORCED = "another one is wanted beside the last"
    ON_RECORD = "it is on record"


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What to do about an order, and why.

    :param about: The purchase whose answer was lost or is unproven, of this body or another of the same task.
    """

    action: Action
    why: Why
    about: Purchase | None = None


def decide(
    known: Purchase | None,
    status: State | None,
    policy: Policy,
    *,
    generation: str,
    others: Iterable[Purchase] = (),
    named_now: bool = False,
) -> Decision:
    """
    Decide what to do about an order.

    ============================ ================= ==================== =========================
    on record                    the API says      policy               decision
    ============================ ================= ==================== =========================
    nothing                                                             buy: first
    an intent, callback expected                                        await: lost
    an intent                                      fail                 refuse: lost
    an intent                                      resubmit             buy: lost
    an intent, decided                                                  buy: lost
    an id                        running                                collect
    an id                        done, or unknown                       collect
    an id, of another generation done, or unknown  force_new            buy: forced
    an id                        failed                                 buy: refunded
    an id by callback alone      failed            fail, or named now   refuse: unproven
    an id by callback alone      failed            resubmit, later      buy: refunded
    ============================ ================= ==================== =========================

    Before anything is bought, an intent of the same generation for *another* body counts as one for this
    body: then the body itself changes from try to try. An intent is decided when somebody has said of it that
    it is sent again (``airflow musicapi settle``).

    :param known: What is on record about this body.
    :param status: Where the music task on record stands; ``None``: the API does not know it (too young, or
        expired: no proof of a refund), or there is none.
    :param generation: The order's.
    :param others: What is on record about other bodies of the same task.
    :param named_now: A callback has named the music task within this very try.
    """
    if known is None:
        why = Why.FIRST
    elif known.is_intent:
        if (decision := _about_lost(known, policy)).action is not Action.BUY:
            return decision
        why = Why.LOST
    elif status is State.FAILED:
        if known.told and (named_now or not policy.resubmits):
            return Decision(Action.REFUSE, Why.UNPROVEN, known)
        why = Why.REFUNDED
    elif policy.force_new and known.generation != generation and status is not State.RUNNING:
        why = Why.FORCED
    else:
        return Decision(Action.COLLECT, Why.ON_RECORD, known)
    for other in others:
        if other.is_intent and other.generation == generation:
            decision = _about_lost(other, policy)
            if decision.action is not Action.BUY:
                return decision
    return Decision(Action.BUY, why, known)


def _about_lost(intent: Purchase, policy: Policy) -> Decision:
    """Decide about a create whose answer was lost."""
    if intent.resend:
        return Decision(Action.BUY, Why.LOST, intent)
    if intent.token is not None and intent.age < policy.callback_patience:
        return Decision(Action.AWAIT, Why.LOST, intent)
    return Decision(Action.BUY if policy.resubmits else Action.REFUSE, Why.LOST, intent)
