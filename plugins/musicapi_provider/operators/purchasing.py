"""
Buying, as an operator does it: from rendered arguments to an order, its ledger, and a music task.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from musicapi_provider.api.bodies import FIELDS, MODELS, complete_body, refuse, require_valid, typed_fields
from musicapi_provider.exceptions import MusicAPIAmbiguousSubmitError, MusicAPIInvalidRequestError
from musicapi_provider.ledgers.assets import with_purchases
from musicapi_provider.ledgers.choice import asker_of, folder_ledger, folder_of_records, run_ledger
from musicapi_provider.links import xcoms
from musicapi_provider.operators.arguments import policy_of
from musicapi_provider.operators.control_flow import WaitsForTracks
from musicapi_provider.purchases import (
    Bought,
    Order,
    Policy,
    PurchaseStatus,
    adopt,
    awaited_callback,
    buy,
    fingerprint_of,
    generation_of,
)
from musicapi_provider.text import clean_json
from musicapi_provider.triggers.events import FIRST_POLL_OF_TRIGGER
from musicapi_provider.waiting.ids import checked_ids

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from musicapi_provider.purchases import LedgerStore

#: Operator argument -> field of the request body. One differs: Airflow owns ``task_type``.
API_FIELDS = {"music_task_type" if name == "task_type" else name: name for name in FIELDS}


class BuysMusic(WaitsForTracks):
    """
    The purchase of a create operator; the arguments are documented there.

    The fields of the API are attributes of the operator as well, named by :data:`API_FIELDS`.
    """

    body: Any
    extra_body: Mapping[str, Any] | None
    adopt_music_task_id: Any
    on_unknown_outcome: str
    records: str | Literal[False] | None
    prompt_id: str | None
    force_new: bool
    credit_check: bool
    deferrable: bool
    buys = True

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Prepare mapped tasks, which Airflow makes without calling ``__init__``."""
        prepared: OperatorPartial = super().partial(**kwargs)
        if not prepared.kwargs.get("records"):
            prepared.kwargs["inlets"] = with_purchases(prepared.kwargs.get("inlets"))
        return prepared

    #: Of the try under way: the ledger's store, and what was ordered.
    _records: LedgerStore | None = None
    _fingerprint: str | None = None
    _ordered: dict[str, Any] | None = None
    #: As this process has pushed it to XCom.
    submission: dict[str, Any] | None = None

    def request_body(self) -> dict[str, Any]:
        """
        Return the checked body that would be sent, without ``extra_body``.

        :raises MusicAPIInvalidRequestError: names every wrong field.
        """
        completed = self._completed_body()
        require_valid(completed)
        if (mv := completed.get("mv")) is not None and mv not in MODELS:
            self.log.warning("mv %r is unknown to this version of the provider; sent as it is.", mv)
        return completed

    def _completed_body(self) -> dict[str, Any]:
        given = {name: getattr(self, argument) for argument, name in API_FIELDS.items()}
        # A template makes the text "None" of an empty param.
        fields = {name: value for name, value in given.items() if value is not None and value != "None"}
        body = _mapping("body", self.body)
        if twice := fields.keys() & {name for name, value in body.items() if value is not None}:
            raise MusicAPIInvalidRequestError(
                f"Given both in body and as an argument; nothing was sent: {', '.join(sorted(twice))}."
            )
        typed, problems = typed_fields({**body, **fields})
        refuse(problems)
        return complete_body(typed)

    def push_submission(self, context: Context, known: PurchaseStatus) -> None:
        """Leave in XCom what is known of the purchase."""
        if known.music_task_id:
            context["ti"].xcom_push(key=xcoms.MUSIC_TASK_ID, value=known.music_task_id)
        about = {
            "state": known.state,
            "music_task_id": known.music_task_id,
            "credits": known.credits,
            "lost_credits": known.lost_credits,
            "prompt_id": self.prompt_id,
            "body": self._ordered,
        }
        context["ti"].xcom_push(key=xcoms.SUBMISSION, value=about)
        self.submission = about

    def submit_or_wait(self, context: Context) -> Bought:
        """Submit; where an answer was lost and the API will call about it, wait for that first."""
        while True:
            try:
                return self._submit(context)
            except MusicAPIAmbiguousSubmitError as error:
                awaited = awaited_callback(self._records) if self._records else None
                if awaited is None:
                    raise
                token, since = awaited
                until = since + self.notices.patience(self.timeout)
                if time.time() >= until:
                    raise
                self.log.warning("%s", error)
                self.log.warning(
                    "The API would call about it: waiting for that, %.0f s at most.", until - time.time()
                )
                self._wait_for_name(context, token, until)

    def _wait_for_name(self, context: Context, token: str, until: float) -> None:
        """Return when the purchase is named or time is over; or hand that to the triggerer, which raises."""
        if self.deferrable:
            trigger = self.notices.naming_trigger(token, until, time.time() + FIRST_POLL_OF_TRIGGER)
            self.defer(trigger=trigger, method_name="execute_complete")
        self.notices.await_name(context, token, until)

    def _submit(self, context: Context) -> Bought:
        policy = policy_of(self.on_unknown_outcome)
        adopted = self.adopt_music_task_id is not None
        ordered = self._completed_body() if adopted else self.request_body()
        body = ordered | _mapping("extra_body", self.extra_body)
        store = self._ledger_of(context, body)
        self._ordered = clean_json(ordered)  # an XCom
        assert self._fingerprint is not None  # noqa: S101 - just set
        order = Order(body, self._fingerprint, generation_of(context["ti"].run_id, context["ti"].max_tries))
        if adopted:
            music_task_id = _one_id(self.adopt_music_task_id)
            self.log.info("Nothing is bought: music task %s is adopted.", music_task_id)
            return adopt(store, music_task_id, order)
        return buy(
            self.hook.client,
            order,
            store,
            Policy(policy, self.force_new, self.credit_check, self.notices.patience(self.timeout)),
            callbacks=self.notices.callbacks(context),
        )

    def _ledger_of(self, context: Context, body: Mapping[str, Any]) -> LedgerStore:
        """Find the ledger that has, or gets, what is ordered."""
        folder = folder_of_records(self.records)
        if folder is not None:
            # A folder may serve several APIs over the years. Within a dag run, though, whoever corrects the
            # connection's host must not pay again for that.
            self._fingerprint = fingerprint_of(body, account=self.hook.account)
            asker = asker_of(context, self.retries or 0, with_dag=True)
            self._records = folder_ledger(folder, self.prompt_id, self._fingerprint, asker)
        else:
            plain = fingerprint_of(body, account=self.musicapi_conn_id)
            self._fingerprint = fingerprint_of(body, account=self.musicapi_conn_id, prompt_id=self.prompt_id)
            self._records = run_ledger(
                context, asker_of(context, self.retries or 0), {plain: self._fingerprint}
            )
        return self._records


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """Return an argument that must be a mapping once rendered."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MusicAPIInvalidRequestError(
            f"{name}: must be a mapping of fields; got {type(value).__name__} {str(value)[:60]!r}.",
            next_step=f"pass {name}=task.output (a template makes text of a dict).",
        )
    return dict(value)


def _one_id(value: Any) -> str:
    ids = checked_ids(value)
    if len(ids) != 1:
        raise MusicAPIInvalidRequestError(f"adopt_music_task_id: must be one id; got {value!r}.")
    return ids[0]
