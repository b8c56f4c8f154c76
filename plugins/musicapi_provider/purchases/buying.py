"""
Buy what was ordered, without ever paying twice in silence.

The intent to buy is on record *before* the request leaves, and the id the moment it is known. If the process
dies:

* before the intent is written: nothing was sent; the next try buys.
* between intent and answer, or between answer and record: the next try finds an intent without an id, an
  unknown outcome. It is never sent again unless the policy says so.
* after the record: the next try collects.

With a webhook the API calls back with the id, by a token that is on record as well: what was lost is then
found (:class:`Callbacks`). The balance is read before the intent, which is free: should the answer be lost,
it is the evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import tenacity

from musicapi_provider.api.bodies import name_of
from musicapi_provider.api.verdict import State, judge
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPICreditsError,
    MusicAPIError,
    MusicAPIUnknownTaskError,
    Spent,
)
from musicapi_provider.purchases.decide import Action, Decision, Policy, Why, decide
from musicapi_provider.purchases.ledger import Ledger
from musicapi_provider.purchases.purchase import Asked, Bought, Order, Purchase
from musicapi_provider.text import clean

if TYPE_CHECKING:
    from musicapi_provider.api.client import MusicAPIClient
    from musicapi_provider.purchases.ledger import LedgerStore

log = logging.getLogger(__name__)

#: What to do about a lost answer.
WAYS_ON = (
    "look into the account's history at the vendor. If the music task is there, set adopt_music_task_id to "
    'its id; if it is not, set on_unknown_outcome="resubmit". Without a change of the DAG, the task\'s '
    'button "Music task" does either, or "airflow musicapi settle". Then clear the task.'
)
#: Seconds between tries to write to the store after a purchase.
STORE_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Expected:
    """
    A callback that will come.

    :param token: Tells whose it is.
    :param fields: What the create must say for it, the webhook's secret among it.
    """

    token: str
    fields: Mapping[str, str] = field(repr=False)


class Callbacks(Protocol):
    """How the API names purchases without being asked."""

    def expect(self) -> Expected | None:
        """Write down, before the create leaves, that it will be called about; ``None``: it will not."""

    def music_task_of(self, token: str) -> str | None:
        """Return the music task that a callback has named."""


def buy(
    client: MusicAPIClient,
    order: Order,
    store: LedgerStore,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    callbacks: Callbacks | None = None,
) -> Bought:
    """
    Buy the music task, or collect what an earlier try bought; :func:`.decide.decide` says which.

    :param callbacks: How the API names purchases; ``None``: it does not.
    :raises MusicAPIAmbiguousSubmitError: now or earlier, a create was sent and its answer lost.
    :raises MusicAPIError: a certain refusal; the intent is withdrawn, nothing was spent.
    """
    with store.claim():
        store.find(order.fingerprint)
        return _buy(client, order, store, policy, callbacks)


def _buy(
    client: MusicAPIClient,
    order: Order,
    store: LedgerStore,
    policy: Policy,
    callbacks: Callbacks | None,
) -> Bought:
    """Decide and do it; the order is claimed."""
    ledger = Ledger(store)
    named_now = _take_names(ledger, callbacks) if callbacks else set()
    known, others = ledger.get(order.fingerprint), ledger.others(order.fingerprint)
    decision = decide(
        known,
        _status(client, known, order, policy),
        policy,
        generation=order.generation,
        others=others.values(),
        named_now=order.fingerprint in named_now,
    )
    if decision.action in (Action.REFUSE, Action.AWAIT):
        raise _refusal(client, decision, order, others, policy)
    if known is not None and decision.action is Action.COLLECT:
        log.info(
            "Nothing is bought: music task %s was submitted at %s for the same body and is collected.",
            *(known.music_task_id, known.at),
        )
        return Bought.of(known, is_new=False)
    _log_why(client, decision.why, known, order, others)
    price = client.settings.expected_credits(order.body)
    intent = Purchase.intent(known, order.generation, refunded=decision.why is Why.REFUNDED)
    intent = replace(intent, ordered=clean(name_of(order.body)), asked=_asked(store, known))
    try:
        # From here to _send nothing is paid: a process that dies here leaves no trace, or an expected call.
        intent = replace(intent, credits=price, balance=_balance(client, price, check=policy.credit_check))
        expected = callbacks.expect() if callbacks and "webhook_url" not in order.body else None
        intent = replace(intent, token=expected.token if expected else None)
        body = {**order.body, **(expected.fields if expected else {})}
        return Bought.of(_send(client, body, order, ledger, intent, policy), is_new=True)
    except MusicAPIError as error:
        if known is None or not known.is_intent or error.spent is Spent.UNKNOWN:
            raise
        evidence = _evidence(client, known, order.fingerprint)
        raise error.but(
            spent=Spent.UNKNOWN,
            message=f"{error.message} An earlier create may have been booked all the same. {evidence}",
        ) from error


def adopt(store: LedgerStore, music_task_id: str, order: Order) -> Bought:
    """Record a music task that exists already as this purchase; buys nothing, ends an unknown outcome."""
    with store.claim():
        store.find(order.fingerprint)
        ledger = Ledger(store)
        before = ledger.get(order.fingerprint)
        if before is None:
            before = replace(
                Purchase.intent(None, order.generation),
                bought_in="",
                ordered=clean(name_of(order.body)),
                asked=_asked(store, None),
            )
        adopted = before.adopting(music_task_id, order.generation)
        ledger.put(order.fingerprint, adopted)
    return Bought.of(adopted, is_new=False)


def _asked(store: LedgerStore, known: Purchase | None) -> Asked | None:
    """Return that this process asks now; ``None`` where nobody tells two equal orders apart."""
    return store.asker.asks(known.asked if known else None) if store.asker else None


def _take_names(ledger: Ledger, callbacks: Callbacks) -> set[str]:
    """Complete the intents whose callbacks have come, and return which: what seemed lost is found."""
    named = set()
    for fingerprint, intent in ledger.intents().items():
        if intent.token and (music_task_id := callbacks.music_task_of(intent.token)):
            ledger.put(fingerprint, intent.named(music_task_id, by_callback=True))
            named.add(fingerprint)
            log.info(
                "The create of %s, whose answer was lost, is music task %s: the API has called about it.",
                *(intent.at, music_task_id),
            )
    return named


def _status(client: MusicAPIClient, known: Purchase | None, order: Order, policy: Policy) -> State | None:
    """Return where the music task on record stands; ``None``: there is none, or the API does not know it."""
    if known is None or known.music_task_id is None:
        return None
    try:
        task = client.get_task(known.music_task_id)
    except MusicAPIUnknownTaskError:
        return None
    forced = policy.force_new and known.generation != order.generation
    verdict = judge(task, allow_http=client.settings.allow_http_audio, confirmed=forced)
    if verdict.state is State.FAILED:
        log.info("Music task %s failed: %s.", known.music_task_id, verdict.reason)
    return verdict.state


def _log_why(
    client: MusicAPIClient, why: Why, known: Purchase | None, order: Order, others: Mapping[str, Purchase]
) -> None:
    """Log why something is bought, where that is not plain."""
    lost = {order.fingerprint: known} if known is not None and why is Why.LOST else {}
    for fingerprint, other in others.items():
        if other.is_intent and other.generation == order.generation:
            lost[fingerprint] = other
        elif known is None:
            bought = f"music task {other.music_task_id}" if other.music_task_id else "with unknown outcome"
            log.warning("The body has changed since %s (%s): this is a new purchase.", other.at, bought)
    for fingerprint, intent in lost.items():
        log.warning(
            "The answer to an earlier create was lost; %s, so it is sent again. If the first one was booked, "
            "this pays twice. %s",
            "somebody has decided so" if intent.resend else "on_unknown_outcome is 'resubmit'",
            _evidence(client, intent, fingerprint),
        )
    if known is not None and why is Why.REFUNDED:
        log.info("Music task %s is bought anew.", known.music_task_id)
    elif known is not None and why is Why.FORCED:
        log.info("force_new: bought again beside music task %s.", known.music_task_id)


def _balance(client: MusicAPIClient, price: float, *, check: bool) -> float | None:
    """
    Return the credits on the account; ``None`` where they cannot be read and need not be.

    :raises MusicAPICreditsError: checked, and they do not cover the price.
    :raises MusicAPIError: checked and unreadable, or the key is refused; nothing was sent.
    """
    try:
        balance = client.get_credits(retry=check).total
    except MusicAPIAuthError:
        raise  # the create would be refused as well
    except MusicAPIError as error:
        if check:
            raise
        log.warning("The balance is not known: %s", error)
        return None
    if check and balance < price:
        raise MusicAPICreditsError(
            f"The balance of {balance:g} credits does not cover this purchase (about {price:g} credits); "
            "nothing was sent.",
            next_step="top up the account, then clear the task. If the price is out of date, correct "
            f"prices in the extra of connection {client.settings.name!r}.",
        )
    return balance


def _send(
    client: MusicAPIClient,
    body: Mapping[str, object],
    order: Order,
    ledger: Ledger,
    intent: Purchase,
    policy: Policy,
) -> Purchase:
    """Write the intent, send the create once, write the id."""
    before = ledger.get(order.fingerprint)
    ledger.put(order.fingerprint, intent)  # dies after this: an unknown outcome
    kind = ", ".join(str(body[name]) for name in ("task_type", "mv") if body.get(name))
    log.info(
        "Submitting %s (%s), balance %s, to %s",
        *(name_of(body), kind, _credits(intent.balance), client.settings.base_url),
    )
    try:
        music_task_id = client.create(body)
    except MusicAPIError as error:
        if error.spent is Spent.NOT_SPENT:
            _persistently(lambda: ledger.put(order.fingerprint, before), "The withdrawal of the intent")
            raise
        raise _lost(client, error, intent, order, policy) from error  # the intent stays: it is the evidence
    # On record here first: a line in the log cannot fail.
    log.info("Music task %s is bought (about %g credits).", music_task_id, intent.credits)
    bought = intent.named(music_task_id)
    _persistently(lambda: ledger.put(order.fingerprint, bought), f"The record of music task {music_task_id}")
    return bought


def _persistently(write: Callable[[], None], what: str) -> None:
    """
    Write what must be written and never hide what made it necessary.

    If the store stays away, the intent remains: a retry then asks a human instead of paying.
    """
    try:
        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(STORE_PAUSE), reraise=True
        )(write)
    except Exception:
        log.exception("%s could not be written; a retry will ask what became of this purchase.", what)


# -- errors --------------------------------------------------------------------------------------------------


def _lost(
    client: MusicAPIClient, error: MusicAPIError, intent: Purchase, order: Order, policy: Policy
) -> MusicAPIError:
    """Return the error of a create whose answer is lost, with the evidence."""
    error = error.but(
        message=f"{error.message} {_evidence(client, intent, order.fingerprint)}", next_step=WAYS_ON
    )
    if not policy.resubmits:
        return error
    return error.but(
        retryable=True,
        next_step='the task\'s next retry sends it again, as on_unknown_outcome="resubmit" says (if none is '
        "left, clear the task); if the first one was booked, that pays twice.",
    )


def _refusal(
    client: MusicAPIClient, decision: Decision, order: Order, others: Mapping[str, Purchase], policy: Policy
) -> MusicAPIError:
    """Return the error that leaves the decision to a human, or to a callback."""
    purchase = decision.about
    assert purchase is not None  # noqa: S101 - decide() refuses something
    if decision.why is Why.UNPROVEN:
        # That the create in question was refunded is not proven; and one try must not buy again and again.
        again = policy.resubmits
        return MusicAPIAmbiguousSubmitError(
            f"The answer to the create of {purchase.at} was lost. The API has called that it is music task "
            f"{purchase.music_task_id}, which has failed and should be refunded; nothing else proves that "
            "it is this one.",
            retryable=again,
            next_step="the task's next retry buys it anew; if none is left, clear the task."
            if again
            else 'look into the account. If it was refunded, set on_unknown_outcome="resubmit" and clear the '
            "task: it is bought anew.",
        )
    fingerprint = next((other for other, one in others.items() if one is purchase), order.fingerprint)
    return MusicAPIAmbiguousSubmitError(
        "An earlier try was about to send a create, and its answer was never recorded: it may have been "
        f"booked. {_evidence(client, purchase, fingerprint)}",
        next_step=WAYS_ON,
    )


def _evidence(client: MusicAPIClient, purchase: Purchase, fingerprint: str) -> str:
    """Say what is known of a create whose answer was lost, and what it would mean."""
    try:
        balance = client.get_credits(retry=False).total
    except MusicAPIError:
        balance = None
    facts = [
        f"it was on record at {purchase.at}, just before it was to be sent (fingerprint {fingerprint})",
        f"the balance was {_credits(purchase.balance)} then and is {_credits(balance)} now, "
        f"{purchase.age:.0f} s later",
        f"the price is about {_credits(purchase.credits)}",
    ]
    if purchase.lost_at:
        facts.append(f"other creates without an answer: {', '.join(purchase.lost_at)}")
    if purchase.earlier:
        facts.append(f"earlier music tasks of this body: {', '.join(purchase.earlier)}")
    return (
        f"Evidence: {'; '.join(facts)}. A balance that fell by the price means that it was booked. One that "
        "is still unchanged after some minutes means that it was not, or that it failed and was refunded. "
        "Either holds only if nothing else was paid from or into the account."
    )


def _credits(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:g} credits"
