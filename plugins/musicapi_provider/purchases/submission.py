"""
Submit a music task without ever paying twice in silence.

The API knows no idempotency key (facts 5), so the memory is ours: a record in a small key-value store,
written *before* the request leaves and completed the moment the id is known. If the process dies:

* before the intent is written: nothing was sent; the next try buys.
* between intent and answer, or between answer and record: the next try finds an intent without an id, an
  unknown outcome. It is never resent unless the policy says so.
* after the record: the next try collects.

With a webhook the API calls back with the id, by a token that is on record as well: what was lost is then
found (:class:`Callbacks`).

The balance is read before the intent, which is free: should the answer be lost, it is the evidence.

In Airflow the store is the task state store, which survives kills, retries and clears (``airflow-notes.md``).
No Airflow in here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import tenacity

from musicapi_provider.api.bodies import name_of
from musicapi_provider.api.verdict import State, judge
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPICreditsError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIUnknownTaskError,
    Spent,
)

if TYPE_CHECKING:
    from musicapi_provider.api.client import MusicAPIClient


log = logging.getLogger(__name__)

#: The one key of the store that is used.
KEY = "musicapi_submissions"
#: How a purchase stands: the id is known; it may be paid, since the answer was lost; nothing is paid.
SUBMITTED, UNKNOWN, NOT_SUBMITTED = "submitted", "unknown outcome", "not submitted"
#: What to do about a lost answer.
WAYS_ON = (
    "look into the account's history at the vendor. If the music task is there, set adopt_music_task_id to "
    'its id; if it is not, set on_unknown_outcome="resubmit". Then clear the task.'
)
#: Seconds between tries to write to the store after a purchase.
STORE_PAUSE = 1.0


class SubmissionStore(Protocol):
    """Where records live: anything with these three that survives the death of the process."""

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write or overwrite the value."""

    def delete(self, key: str) -> None:
        """Remove the value."""


@dataclass(frozen=True, slots=True)
class Expected:
    """
    A callback that will come.

    :param token: Tells whose it is.
    :param fields: What the create must say for it, the webhook's secret among it.
    """

    token: str
    fields: Mapping[str, Any] = field(repr=False)


class Callbacks(Protocol):
    """How the API tells of purchases without being asked."""

    def expect(self) -> Expected | None:
        """Write down, before the create leaves, that it will be called about; ``None``: it will not."""

    def told(self, token: str) -> str | None:
        """Return the music task that a callback has told of."""


class UnknownOutcome(StrEnum):
    """What to do about a create whose answer was lost."""

    FAIL = "fail"
    RESUBMIT = "resubmit"


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is known of the purchases of one body by one Airflow task.

    :param at: ISO time (UTC) at which the last request was about to leave.
    :param generation: Dag run and clear; the same for all retries in between.
    :param music_task_id: The last purchase; ``None`` while it is only an intent.
    :param earlier: Ids of earlier purchases that the last one replaced; never forgotten.
    :param lost_at: Times of creates whose answers were lost and that were sent again by policy.
    :param balance: Credits on the account just before the last request; ``None``: not known.
    :param credits: What the last request was expected to cost; 0 for what was adopted.
    :param spent: What earlier purchases that were not refunded were expected to cost.
    :param lost: What creates whose answers were lost, and that were sent again, may have cost.
    :param bought_in: The generation in which the last request was about to leave; adopting keeps it.
    :param token: By which the API calls back about the last request; ``None``: it does not.
    :param told: The id is known from a callback alone.
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

    @property
    def is_intent(self) -> bool:
        """Whether a request was about to leave and nothing is known of its answer."""
        return self.music_task_id is None

    @property
    def paid(self) -> float:
        """Expected price of all that is known to be paid and not refunded, the last purchase included."""
        return self.spent + self.credits

    @classmethod
    def after(cls, before: Record | None, generation: str, *, refunded: bool = False) -> Record:
        """
        Return a new intent that remembers everything about the purchases before it.

        :param refunded: The purchase before it has failed and was refunded.
        """
        intent = cls(_now(), generation, bought_in=generation)
        if before is None:
            return intent
        intent = replace(
            intent, earlier=before.earlier, lost_at=before.lost_at, spent=before.spent, lost=before.lost
        )
        if before.music_task_id is None:
            return replace(intent, lost_at=(*before.lost_at, before.at), lost=before.lost + before.credits)
        earlier = (*before.earlier, before.music_task_id)
        return replace(intent, earlier=earlier, spent=before.spent + (0.0 if refunded else before.credits))

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Read what :meth:`as_json` wrote; raises ``TypeError`` for anything else."""
        if not isinstance(value, Mapping):
            raise TypeError("a record must be an object")
        lists = {name: value.get(name) for name in ("earlier", "lost_at")}
        if not all(isinstance(items, list) for items in lists.values()):
            raise TypeError("earlier and lost_at must be lists")
        record = cls(**{**value, **{name: tuple(items or ()) for name, items in lists.items()}})
        numbers = [record.credits, record.spent, record.lost]
        numbers += [record.balance] if record.balance is not None else []
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError("balance and credits must be numbers")
        texts = [record.at, *record.earlier, *record.lost_at]
        texts += [text for text in (record.music_task_id, record.token) if text is not None]
        labels = (record.generation, record.bought_in)
        if not all(isinstance(text, str) and text for text in texts):
            raise TypeError("ids and times must be texts")
        if not all(isinstance(label, str) for label in labels):
            raise TypeError("generations must be texts")
        return record

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON: about 300 bytes."""
        return {**asdict(self), "earlier": list(self.earlier), "lost_at": list(self.lost_at)}


class Ledger:
    """
    All purchases of one Airflow task: a record per body, under one key of the store.

    :raises MusicAPIConfigurationError: when what is stored is no ledger; nothing was sent.
    """

    def __init__(self, store: SubmissionStore) -> None:
        self._store = store
        value = store.get(KEY)
        try:
            self._records = {} if value is None else _records(value)
        except TypeError as error:
            place = getattr(store, "place", f"task state {KEY!r}")
            raise MusicAPIConfigurationError(
                f"The submission record in the {place} is unreadable ({error}); nothing was sent.",
                next_step="delete it if you are sure that nothing was bought.",
            ) from error

    def get(self, fingerprint: str) -> Record | None:
        """Return the record of a body."""
        return self._records.get(fingerprint)

    def others(self, fingerprint: str) -> dict[str, Record]:
        """Return the records of other bodies, by fingerprint."""
        return {print_: record for print_, record in self._records.items() if print_ != fingerprint}

    def intents(self) -> dict[str, Record]:
        """Return the records of creates whose answers were lost, by fingerprint."""
        return {print_: record for print_, record in self._records.items() if record.is_intent}

    def put(self, fingerprint: str, record: Record | None) -> None:
        """Write a record, or take it out."""
        records = {**self._records, fingerprint: record}
        self._records = {print_: kept for print_, kept in records.items() if kept is not None}
        if self._records:
            self._store.set(KEY, {print_: kept.as_json() for print_, kept in self._records.items()})
        else:
            self._store.delete(KEY)


def _records(value: Any) -> dict[str, Record]:
    if not isinstance(value, Mapping):
        raise TypeError("a ledger must be an object")
    return {str(fingerprint): Record.from_json(item) for fingerprint, item in value.items()}


@dataclass(frozen=True, slots=True)
class Submitted:
    """
    The music task to wait for.

    :param bought: Whether this very call bought it.
    :param credits: Expected price of all that is on record as spent for it.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    """

    music_task_id: str
    bought: bool
    credits: float = 0.0
    lost_credits: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """
    How a purchase stands by the record.

    :param state: :data:`SUBMITTED`, :data:`UNKNOWN` or :data:`NOT_SUBMITTED`.
    :param credits: What was spent for it, at expected prices; ``None`` where nobody knows.
    :param lost_credits: What creates whose answers were lost may have cost beside that.
    :param price: Expected price of the last request, paid or perhaps paid.
    :param bought_in: The generation that sent it.
    :param at: ISO time (UTC) at which it was about to leave, or was adopted.
    """

    state: str
    music_task_id: str | None = None
    credits: float | None = None
    lost_credits: float = 0.0
    price: float = 0.0
    bought_in: str = ""
    at: str | None = None


def generation_of(run_id: str, max_tries: int) -> str:
    """
    Return what all tries of a task share and a clear changes; :func:`run_of` reads it.

    Airflow raises ``max_tries`` with each clear and leaves it alone for the retries in between.
    """
    return f"{run_id}#{max_tries}"


def run_of(generation: str) -> str:
    """Return the dag run of a generation."""
    return generation.rpartition("#")[0]


def fingerprint_of(body: Mapping[str, Any], *, account: str) -> str:
    """
    Return a digest of what is bought: the same body on the same account is the same purchase.

    :param account: The connection id.
    :raises MusicAPIInvalidRequestError: the body is no JSON, so it cannot be sent either.
    """
    try:
        canonical = json.dumps([account, body], sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MusicAPIInvalidRequestError(
            f"The request body is no JSON ({error}); nothing was sent."
        ) from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def submit(
    client: MusicAPIClient,
    body: Mapping[str, Any],
    store: SubmissionStore,
    *,
    fingerprint: str,
    generation: str,
    on_unknown_outcome: UnknownOutcome = UnknownOutcome.FAIL,
    force_new: bool = False,
    credit_check: bool = False,
    callbacks: Callbacks | None = None,
    callback_patience: float = 0.0,
) -> Submitted:
    """
    Buy the music task, or collect what an earlier try bought.

    * recorded and still running: collected, always;
    * recorded and finished: collected, unless ``force_new`` asks for another one in this generation;
    * recorded and failed, hence refunded: bought anew;
    * an intent whose callback has come: collected as well;
    * any other intent without an id: ``on_unknown_outcome``. The intent of another body counts, too, if it
      comes from a retry: then the body itself changes from try to try.

    :param body: A complete, valid request body.
    :param fingerprint: See :func:`fingerprint_of`.
    :param generation: The same for all retries, another one after each clear of the Airflow task.
    :param on_unknown_outcome: ``FAIL``: a lost answer, now or earlier, ends it. ``RESUBMIT``: a lost answer
        is an error that a retry cures: it sends again, and may pay twice.
    :param force_new: Pay again on purpose, once per generation.
    :param credit_check: Send only what the balance covers; it must be readable then.
    :param callbacks: How the API tells of purchases; ``None``: it does not.
    :param callback_patience: Seconds for which a callback about a lost answer may still come: until then
        nothing is sent again, whatever the policy.
    :raises MusicAPIAmbiguousSubmitError: now or earlier, a create was sent and its answer lost.
    :raises MusicAPIError: a certain refusal; the intent is withdrawn, nothing was spent.
    """
    ledger = Ledger(store)
    told_now = _complete_told(ledger, callbacks) if callbacks else set()
    record = ledger.get(fingerprint)
    if record is not None and record.is_intent:
        _settle_intent(client, record, fingerprint, on_unknown_outcome, callback_patience)
    due = _due_again(client, record, generation, force_new=force_new)
    if record is not None and due is None:
        log.info(
            "Nothing is bought: music task %s was submitted at %s for the same body and is collected.",
            record.music_task_id,
            record.at,
        )
        return _submitted(record, bought=False)
    if record is not None and record.told and due is _Due.REFUNDED:
        _refuse_unproven(record, on_unknown_outcome, just_now=fingerprint in told_now)
    for print_, other in ledger.others(fingerprint).items():
        if other.is_intent and other.generation == generation:
            _settle_intent(client, other, print_, on_unknown_outcome, callback_patience)
        elif record is None:
            bought = f"music task {other.music_task_id}" if other.music_task_id else "with unknown outcome"
            log.warning("The body has changed since %s (%s): this is a new purchase.", other.at, bought)
    cost = client.settings.expected_credits(body)
    intent = replace(Record.after(record, generation, refunded=due is _Due.REFUNDED), credits=cost)
    try:
        intent = replace(intent, balance=_balance(client, cost, check=credit_check))
        if expected := callbacks.expect() if callbacks and "webhook_url" not in body else None:
            intent = replace(intent, token=expected.token)
        request = {**body, **(expected.fields if expected else {})}
        return _submitted(_buy(client, request, ledger, fingerprint, intent, on_unknown_outcome), bought=True)
    except MusicAPIError as error:
        if record is not None and record.is_intent and error.spent is not Spent.UNKNOWN:
            error.spent = Spent.UNKNOWN
            evidence = _evidence(client, record, fingerprint)
            error.message += f" An earlier create may have been booked all the same. {evidence}"
        raise


def adopt(store: SubmissionStore, music_task_id: str, *, fingerprint: str, generation: str) -> Submitted:
    """Record a music task that exists already as this purchase; buys nothing, settles a lost answer."""
    ledger = Ledger(store)
    before = ledger.get(fingerprint)
    record = Record.after(before, generation)
    if before is not None and before.music_task_id in (None, music_task_id):
        # What settles a lost answer, or was on record already, was paid for here.
        record = replace(before, at=record.at, generation=generation, balance=None)
    else:
        record = replace(record, bought_in="")
    earlier = tuple(id_ for id_ in record.earlier if id_ != music_task_id)
    # Whoever adopts knows the id from elsewhere.
    record = replace(record, music_task_id=music_task_id, earlier=earlier, told=False)
    ledger.put(fingerprint, record)
    return _submitted(record, bought=False)


def awaited_callback(store: SubmissionStore) -> tuple[str, float] | None:
    """
    Return the token by which the API may still tell of a create whose answer was lost, and when that was.

    :return: The latest one's, with epoch seconds; ``None``: there is none.
    """
    lost = [record for record in Ledger(store).intents().values() if record.token]
    if not lost:
        return None
    latest = max(lost, key=lambda record: datetime.fromisoformat(record.at))
    return str(latest.token), datetime.fromisoformat(latest.at).timestamp()


def standing(store: SubmissionStore, fingerprint: str | None) -> Standing:
    """
    Say how the purchase of a body stands by the record; never raises.

    A body without a record is unknown, too, while the answer about another body of this task is lost: a body
    that changes from try to try must not look unpaid.

    :param fingerprint: ``None`` where the body itself is not known: then any record makes it unknown.
    """
    try:
        ledger = Ledger(store)
    except MusicAPIError:
        return Standing(UNKNOWN)
    record = ledger.get(fingerprint) if fingerprint else None
    if record is None:
        others = ledger.others(fingerprint or "").values()
        undecided = others if not fingerprint else any(other.is_intent for other in others)
        return Standing(UNKNOWN) if undecided else Standing(NOT_SUBMITTED, credits=0.0)
    known = Standing(
        SUBMITTED,
        record.music_task_id,
        credits=record.paid,
        lost_credits=record.lost,
        price=record.credits,
        bought_in=record.bought_in,
        at=record.at,
    )
    if record.is_intent:
        return replace(known, state=UNKNOWN, credits=None, lost_credits=record.lost + record.credits)
    return known


def _submitted(record: Record, *, bought: bool) -> Submitted:
    return Submitted(str(record.music_task_id), bought, credits=record.paid, lost_credits=record.lost)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Due(StrEnum):
    """Why a purchase is due."""

    FIRST = "nothing is on record"
    LOST = "the policy sends again what was lost"
    REFUNDED = "the last one failed and was refunded"
    FORCED = "another one is wanted beside the last"


def _due_again(
    client: MusicAPIClient, record: Record | None, generation: str, *, force_new: bool
) -> _Due | None:
    """Say why a purchase is due; ``None``: collect what is on record."""
    if record is None or record.is_intent:
        return _Due.FIRST if record is None else _Due.LOST
    forced = _Due.FORCED if force_new and record.generation != generation else None
    try:
        task = client.get_task(str(record.music_task_id))
    except MusicAPIUnknownTaskError:
        return forced  # too young or expired: no proof of a refund
    verdict = judge(task, allow_http=client.settings.allow_http_audio, confirmed=forced is not None)
    if verdict.state is State.FAILED:
        log.info("Music task %s failed (%s); it is bought anew.", record.music_task_id, verdict.reason)
        return _Due.REFUNDED
    if forced and verdict.is_final:
        log.info("force_new: bought again beside music task %s.", record.music_task_id)
        return forced
    return None


def _balance(client: MusicAPIClient, cost: float, *, check: bool) -> float | None:
    """
    Return the credits on the account; ``None`` where they cannot be read and need not be.

    :raises MusicAPICreditsError: checked, and they do not cover the cost.
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
    if check and balance < cost:
        raise MusicAPICreditsError(
            f"The balance of {balance:g} credits does not cover this purchase (about {cost:g} credits); "
            "nothing was sent.",
            next_step="top up the account, then clear the task. If the price is out of date, correct "
            f"prices in the extra of connection {client.settings.name!r}.",
        )
    return balance


def _buy(
    client: MusicAPIClient,
    body: Mapping[str, Any],
    ledger: Ledger,
    fingerprint: str,
    intent: Record,
    policy: UnknownOutcome,
) -> Record:
    before = ledger.get(fingerprint)
    ledger.put(fingerprint, intent)
    kind = ", ".join(str(body[name]) for name in ("task_type", "mv") if body.get(name))
    log.info(
        "Submitting %s (%s), balance %s, to %s",
        *(name_of(body), kind, _credits(intent.balance), client.settings.base_url),
    )
    try:
        music_task_id = client.create(body)
    except MusicAPIError as error:
        if error.spent is Spent.NOT_SPENT:
            _stubbornly(lambda: ledger.put(fingerprint, before), "The withdrawal of the intent")
            raise
        # Otherwise the intent stays: it is the evidence.
        error.message = f"{error.message} {_evidence(client, intent, fingerprint)}"
        error.next_step = WAYS_ON
        if policy is UnknownOutcome.RESUBMIT:
            error.retryable = True
            error.next_step = (
                'the task\'s next retry sends it again, as on_unknown_outcome="resubmit" says (if none is '
                "left, clear the task); if the first one was booked, that pays twice."
            )
        raise
    # On record here first: this cannot fail.
    log.info("Music task %s is bought (about %g credits).", music_task_id, intent.credits)
    bought = replace(intent, music_task_id=music_task_id)
    _stubbornly(lambda: ledger.put(fingerprint, bought), f"The record of music task {music_task_id}")
    return bought


def _stubbornly(write: Callable[[], None], what: str) -> None:
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


def _complete_told(ledger: Ledger, callbacks: Callbacks) -> set[str]:
    """Complete the intents whose callbacks have come, and return which: what seemed lost is found."""
    told = set()
    for fingerprint, intent in ledger.intents().items():
        if intent.token and (music_task_id := callbacks.told(intent.token)):
            ledger.put(fingerprint, replace(intent, music_task_id=music_task_id, told=True))
            told.add(fingerprint)
            log.info(
                "The create of %s, whose answer was lost, is music task %s: the API has called about it.",
                *(intent.at, music_task_id),
            )
    return told


def _refuse_unproven(record: Record, policy: UnknownOutcome, *, just_now: bool) -> None:
    """
    Refuse to buy anew because a music task has failed that only a callback has named.

    That the create in question was refunded is not proven by it; and one try must not buy again and again.
    """
    if policy is UnknownOutcome.RESUBMIT and not just_now:
        return
    error = MusicAPIAmbiguousSubmitError(
        f"The answer to the create of {record.at} was lost. The API has called that it is music task "
        f"{record.music_task_id}, which has failed and should be refunded; nothing else proves that it is "
        "this one.",
        next_step='look into the account. If it was refunded, set on_unknown_outcome="resubmit" and clear '
        "the task: it is bought anew.",
    )
    if policy is UnknownOutcome.RESUBMIT:
        error.retryable = True
        error.next_step = "the task's next retry buys it anew; if none is left, clear the task."
    raise error


def _settle_intent(
    client: MusicAPIClient, record: Record, fingerprint: str, policy: UnknownOutcome, patience: float
) -> None:
    evidence = _evidence(client, record, fingerprint)
    awaited = record.token is not None and _age(record) < patience
    if policy is UnknownOutcome.RESUBMIT and not awaited:
        log.warning(
            "The answer to an earlier create was lost; on_unknown_outcome is 'resubmit', so it is sent "
            "again. If the first one was booked, this pays twice. %s",
            evidence,
        )
        return
    raise MusicAPIAmbiguousSubmitError(
        "An earlier try was about to send a create, and its answer was never recorded: it may have been "
        f"booked. {evidence}",
        next_step=WAYS_ON,
    )


def _evidence(client: MusicAPIClient, record: Record, fingerprint: str) -> str:
    """Say what is known of a create whose answer was lost, and what it would mean."""
    try:
        now = client.get_credits(retry=False).total
    except MusicAPIError:
        now = None
    age = _age(record)
    facts = [
        f"it was on record at {record.at}, just before it was to be sent (fingerprint {fingerprint})",
        f"the balance was {_credits(record.balance)} then and is {_credits(now)} now, {age:.0f} s later",
        f"the price is about {_credits(record.credits)}",
    ]
    if record.lost_at:
        facts.append(f"other creates without an answer: {', '.join(record.lost_at)}")
    if record.earlier:
        facts.append(f"earlier music tasks of this body: {', '.join(record.earlier)}")
    return (
        f"Evidence: {'; '.join(facts)}. A balance that fell by the price means that it was booked. One that "
        "is still unchanged after some minutes means that it was not, or that it failed and was refunded. "
        "Either holds only if nothing else was paid from or into the account."
    )


def _age(record: Record) -> float:
    """Return the seconds since the last request was about to leave."""
    return (datetime.now(UTC) - datetime.fromisoformat(record.at)).total_seconds()


def _credits(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:g} credits"
