"""The table of decisions, row by row, and that no combination is left out."""

from __future__ import annotations

import itertools

import pytest

from musicapi_provider.api.verdict import State
from musicapi_provider.purchases import Policy, Purchase, UnknownOutcome
from musicapi_provider.purchases.decide import Action, Decision, Why, decide
from musicapi_provider.purchases.purchase import now

HERE, BEFORE = "run#0", "run#1"
FAIL, RESUBMIT = Policy(), Policy(UnknownOutcome.RESUBMIT)
INTENT = Purchase(now(), HERE)
AWAITED = Purchase(now(), HERE, token="t")
BOUGHT = Purchase(now(), HERE, "id")
BOUGHT_BEFORE = Purchase(now(), BEFORE, "id")
NAMED = Purchase(now(), HERE, "id", told=True)
FORCE = Policy(force_new=True)
#: Longer than any run of the tests takes: the purchases above are made when they are collected.
DAY = 86_400.0
PATIENT = Policy(callback_patience=DAY)
PATIENT_RESUBMIT = Policy(UnknownOutcome.RESUBMIT, callback_patience=DAY)


@pytest.mark.parametrize(
    ("known", "status", "policy", "named_now", "action", "why"),
    [
        pytest.param(None, None, FAIL, False, Action.BUY, Why.FIRST, id="nothing on record"),
        pytest.param(None, None, FORCE, False, Action.BUY, Why.FIRST, id="nothing on record, forced"),
        pytest.param(AWAITED, None, PATIENT, False, Action.AWAIT, Why.LOST, id="callback may come"),
        pytest.param(AWAITED, None, PATIENT_RESUBMIT, False, Action.AWAIT, Why.LOST, id="await, then resend"),
        pytest.param(AWAITED, None, FAIL, False, Action.REFUSE, Why.LOST, id="callback did not come"),
        pytest.param(
            AWAITED, None, RESUBMIT, False, Action.BUY, Why.LOST, id="callback did not come, resend"
        ),
        pytest.param(INTENT, None, PATIENT, False, Action.REFUSE, Why.LOST, id="no callback is expected"),
        pytest.param(INTENT, None, FAIL, False, Action.REFUSE, Why.LOST, id="lost"),
        pytest.param(INTENT, None, FORCE, False, Action.REFUSE, Why.LOST, id="lost, forced"),
        pytest.param(INTENT, None, RESUBMIT, False, Action.BUY, Why.LOST, id="lost, resend"),
        pytest.param(BOUGHT, State.RUNNING, FAIL, False, Action.COLLECT, Why.ON_RECORD, id="running"),
        pytest.param(BOUGHT, State.SUCCEEDED, FAIL, False, Action.COLLECT, Why.ON_RECORD, id="done"),
        pytest.param(BOUGHT, State.PARTIAL, RESUBMIT, False, Action.COLLECT, Why.ON_RECORD, id="partial"),
        pytest.param(BOUGHT, None, FAIL, False, Action.COLLECT, Why.ON_RECORD, id="unknown to the API"),
        pytest.param(BOUGHT, State.SUCCEEDED, FORCE, False, Action.COLLECT, Why.ON_RECORD, id="forced once"),
        pytest.param(BOUGHT_BEFORE, State.RUNNING, FORCE, False, Action.COLLECT, Why.ON_RECORD, id="not yet"),
        pytest.param(BOUGHT_BEFORE, State.SUCCEEDED, FORCE, False, Action.BUY, Why.FORCED, id="forced"),
        pytest.param(
            BOUGHT_BEFORE, State.PARTIAL, FORCE, False, Action.BUY, Why.FORCED, id="forced, partial"
        ),
        pytest.param(BOUGHT_BEFORE, None, FORCE, False, Action.BUY, Why.FORCED, id="forced, unknown"),
        pytest.param(BOUGHT_BEFORE, None, FAIL, False, Action.COLLECT, Why.ON_RECORD, id="cleared"),
        pytest.param(BOUGHT, State.FAILED, FAIL, False, Action.BUY, Why.REFUNDED, id="refunded"),
        pytest.param(
            BOUGHT_BEFORE, State.FAILED, FORCE, False, Action.BUY, Why.REFUNDED, id="refunded, forced"
        ),
        pytest.param(NAMED, State.FAILED, FAIL, False, Action.REFUSE, Why.UNPROVEN, id="unproven"),
        pytest.param(NAMED, State.FAILED, FAIL, True, Action.REFUSE, Why.UNPROVEN, id="unproven, just named"),
        pytest.param(NAMED, State.FAILED, RESUBMIT, True, Action.REFUSE, Why.UNPROVEN, id="not in one try"),
        pytest.param(NAMED, State.FAILED, RESUBMIT, False, Action.BUY, Why.REFUNDED, id="by policy, later"),
        pytest.param(NAMED, State.SUCCEEDED, FAIL, True, Action.COLLECT, Why.ON_RECORD, id="named and done"),
    ],
)
def test_the_table(
    known: Purchase | None, status: State | None, policy: Policy, named_now: bool, action: Action, why: Why
) -> None:
    """Each row of the docstring's table."""
    decision = decide(known, status, policy, generation=HERE, named_now=named_now)

    assert decision == Decision(action, why, known)


@pytest.mark.parametrize(
    ("other", "policy", "action"),
    [
        pytest.param(INTENT, FAIL, Action.REFUSE, id="lost in this generation"),
        pytest.param(AWAITED, PATIENT, Action.AWAIT, id="callback may come"),
        pytest.param(INTENT, RESUBMIT, Action.BUY, id="resend"),
        pytest.param(Purchase(now(), BEFORE), FAIL, Action.BUY, id="lost before a clear"),
        pytest.param(BOUGHT, FAIL, Action.BUY, id="bought"),
    ],
)
@pytest.mark.parametrize("known", [None, BOUGHT], ids=["new", "refunded"])
def test_another_body_of_the_same_task_counts(
    known: Purchase | None, other: Purchase, policy: Policy, action: Action
) -> None:
    """A body that changes from try to try must not be paid in each of them."""
    decision = decide(known, State.FAILED, policy, generation=HERE, others=[BOUGHT, other])

    assert decision.action is action
    assert decision.about is (known if action is Action.BUY else other)


def test_what_is_collected_asks_for_no_other_body() -> None:
    """A lost answer of another body is no reason to leave a song that is paid for."""
    decision = decide(BOUGHT, State.RUNNING, FAIL, generation=HERE, others=[INTENT])

    assert decision.action is Action.COLLECT


@pytest.mark.parametrize(
    ("known", "status", "force_new", "resubmits", "named_now", "patience"),
    itertools.product(
        [None, INTENT, AWAITED, BOUGHT, BOUGHT_BEFORE, NAMED],
        [None, *State],
        *[[False, True]] * 3,
        [0, 600],
    ),
)
def test_nothing_is_bought_twice_in_silence(
    known: Purchase | None,
    status: State | None,
    force_new: bool,
    resubmits: bool,
    named_now: bool,
    patience: int,
) -> None:
    """Whatever stands on record: it is sent only if nothing is paid, or somebody wants to pay again."""
    outcome = UnknownOutcome.RESUBMIT if resubmits else UnknownOutcome.FAIL
    policy = Policy(outcome, force_new, callback_patience=patience)

    decision = decide(known, status, policy, generation=HERE, named_now=named_now)

    if decision.action is Action.BUY:
        refunded = known is not None and not known.is_intent and status is State.FAILED
        assert (
            known is None
            or refunded
            or (known.is_intent and resubmits)
            or (known is BOUGHT_BEFORE and force_new)
        )
