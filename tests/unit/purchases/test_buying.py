"""Never pay twice in silence: what the store holds and what was booked, for every outcome of a create."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPICreditsError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIRetiredError,
    MusicAPIThrottledError,
    MusicAPITransientError,
    Spent,
)
from musicapi_provider.purchases import (
    KEY,
    Bought,
    Ledger,
    LedgerStore,
    Order,
    Policy,
    Purchase,
    PurchaseStatus,
    UnknownOutcome,
    adopt,
    buying,
    fingerprint_of,
    status_of,
)
from tests.conftest import QUICK
from tests.states import NOT_SUBMITTED, SUBMITTED, UNKNOWN

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.models import MusicTask
    from musicapi_provider.api.settings import ClientSettings

BODY = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": "[Verse] La la"}
FINGERPRINT = fingerprint_of(BODY, account="test")
CREATE = "POST /sonic/create"
RESUBMIT = UnknownOutcome.RESUBMIT
#: Generations: all tries of a task, and all after somebody has cleared it.
FIRST, CLEARED = "0", "1"
OTHER = {"prompt": "[Verse] Lo lo"}


class ProcessDiedError(BaseException):
    """The worker is gone: nothing catches this."""


class Store(LedgerStore):
    """
    A store over a dict of JSON texts, as a database would keep them.

    :param fails: What to raise, by the number of the call (from 1) or by the method's name.
    :param late: Raise after the call has had its effect.
    """

    def __init__(
        self,
        kept: dict[str, str],
        fails: Mapping[int | str, BaseException] | None = None,
        *,
        late: bool = False,
    ) -> None:
        self.kept = kept
        self.fails = dict(fails or {})
        self.late = late
        self.calls: list[str] = []

    place = f"task state {KEY!r}"

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        return self._call("get", lambda: json.loads(self.kept.get(key, "null")))

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write or overwrite the value."""
        self._call("set", lambda: self.kept.update({key: json.dumps(value)}))

    def delete(self, key: str) -> None:
        """Remove the value."""
        self._call("delete", lambda: self.kept.pop(key, None))

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """All records by fingerprint."""
        return dict(json.loads(self.kept.get(KEY, "{}")))

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of the usual purchase."""
        return self.records.get(FINGERPRINT)

    def _call(self, method: str, effect: Callable[[], Any]) -> Any:
        self.calls.append(method)
        error = self.fails.get(len(self.calls)) or self.fails.get(method)
        if error and not self.late:
            raise error
        result = effect()
        if error:
            raise error
        return result


@pytest.fixture
def store() -> Store:
    """Return a sound, empty store."""
    return Store({})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store be tried again at once."""
    monkeypatch.setattr(buying, "STORE_PAUSE", 0)


def buy(
    client: MusicAPIClient,
    store: Store,
    policy: UnknownOutcome = UnknownOutcome.FAIL,
    *,
    generation: str = FIRST,
    force_new: bool = False,
    credit_check: bool = False,
    **changes: Any,
) -> Bought:
    """Submit the usual body, or a changed one."""
    body = BODY | changes
    order = Order(body, fingerprint_of(body, account="test"), generation)
    return buying.buy(client, order, store, Policy(policy, force_new, credit_check))


def adopt_it(store: Store, music_task_id: str, generation: str = FIRST) -> Bought:
    """Adopt a music task as the usual purchase."""
    return adopt(store, music_task_id, Order(BODY, FINGERPRINT, generation))


def booked(simulator: SimulatorServer) -> int:
    """Return the number of purchases."""
    return sum(simulator.state.creates_booked.values())


def sent(simulator: SimulatorServer) -> int:
    """Return the number of create requests."""
    return simulator.state.requests[CREATE]


def is_intent(record: dict[str, Any] | None) -> bool:
    """Tell whether this is an intent: no id, but a time and a generation."""
    return (
        record is not None
        and record["music_task_id"] is None
        and bool(record["at"])
        and record["generation"] in (FIRST, CLEARED)
    )


# -- one create ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario", [None, "nested-task-id", "create-code-200", "throttled", "throttled-date"]
)
def test_success_is_booked_once_and_recorded(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, scenario: str | None
) -> None:
    """However the success looks: one purchase, its id on record."""
    if scenario:
        simulator.state.scenario(scenario)
    submitted = buy(client, store)

    assert booked(simulator) == 1
    assert {submitted.music_task_id} == set(simulator.state.jobs)
    assert submitted.is_new
    assert store.record == {
        "at": store.record["at"],
        "generation": FIRST,
        "music_task_id": submitted.music_task_id,
        "earlier": [],
        "lost_at": [],
        "balance": 1000,
        "credits": 15,
        "spent": 0,
        "lost": 0,
        "bought_in": FIRST,
        "token": None,
        "told": False,
        "resend": False,
        "ordered": "[Verse] La la",
        "entry": store.record["entry"],
        "asked": None,
    }


def test_intent_is_recorded_before_the_request_leaves(
    settings: ClientSettings, simulator: SimulatorServer, store: Store
) -> None:
    """The store is written before, not after, the money can go."""
    seen: list[tuple[int, bool]] = []

    class Watched(MusicAPIClient):
        def create(self, body: Mapping[str, Any]) -> str:
            seen.append((booked(simulator), is_intent(store.record)))
            return super().create(body)

    buy(Watched(settings, retries=QUICK), store)

    assert seen == [(0, True)]
    assert store.calls == ["get", "set", "set"]


REFUSALS = [
    pytest.param("invalid", MusicAPIInvalidRequestError, id="invalid"),
    pytest.param("no-credits", MusicAPICreditsError, id="no-credits"),
    pytest.param("no-credits-402", MusicAPICreditsError, id="no-credits-402"),
    pytest.param("no-subscription", MusicAPICreditsError, id="no-subscription"),
    pytest.param("moderated", MusicAPIModerationError, id="moderated"),
    pytest.param("unauthorized", MusicAPIAuthError, id="unauthorized"),
    pytest.param("retired", MusicAPIRetiredError, id="retired"),
    pytest.param("throttled", MusicAPIThrottledError, id="throttled"),
]


@pytest.mark.parametrize(("scenario", "error_class"), REFUSALS)
def test_certain_refusal_withdraws_the_intent(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    scenario: str,
    error_class: type[MusicAPIError],
) -> None:
    """Nothing booked, nothing on record, and once the cause is gone the next try buys."""
    simulator.state.scenario(scenario, times=None)
    with pytest.raises(error_class) as raised:
        buy(client, store)

    assert raised.value.spent is Spent.NOT_SPENT
    assert (booked(simulator), store.kept) == (0, {})
    simulator.state.clear_scenarios()
    assert buy(client, store).is_new
    assert booked(simulator) == 1


def test_unreachable_server_withdraws_the_intent(
    settings: ClientSettings, refusing_url: str, store: Store
) -> None:
    """A request that never left is a certain refusal."""
    client = MusicAPIClient(replace(settings, base_url=refusing_url), retries=QUICK)
    with pytest.raises(MusicAPINotSentError):
        buy(client, store)

    assert store.kept == {}


@pytest.mark.parametrize("value", [pytest.param(math.nan, id="not-a-number"), pytest.param({1, 2}, id="set")])
def test_body_that_is_no_json_is_a_certain_refusal(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, value: Any
) -> None:
    """What cannot be written as JSON never left, so nothing has to be settled by a human."""
    with pytest.raises(MusicAPIInvalidRequestError, match="is no JSON") as raised:
        buy(client, store, from_extra_body=value)

    assert raised.value.spent is Spent.NOT_SPENT
    assert (sent(simulator), store.kept) == (0, {})


AMBIGUOUS = [
    pytest.param("drop-before-booking", 0, id="drop-before-booking"),
    pytest.param("create-500", 0, id="create-500"),
    pytest.param("drop-after-booking", 1, id="drop-after-booking"),
    pytest.param("create-502-after-booking", 1, id="create-502-after-booking"),
    pytest.param("truncated-create", 1, id="truncated-create"),
    pytest.param("html-create", 1, id="html-create"),
    pytest.param("no-task-id", 1, id="no-task-id"),
    pytest.param("slow-create", 1, id="slow-create"),
]


@pytest.fixture
def hasty_client(settings: ClientSettings, simulator: SimulatorServer) -> Iterator[MusicAPIClient]:
    """Return a client that loses patience before a slow create is answered."""
    simulator.state.slow_seconds = 0.5
    client = MusicAPIClient(replace(settings, timeout=0.2), retries=QUICK)
    yield client
    client.close()


@pytest.mark.parametrize(("scenario", "paid"), AMBIGUOUS)
def test_lost_answer_keeps_the_intent_and_is_not_sent_again(
    hasty_client: MusicAPIClient, simulator: SimulatorServer, store: Store, scenario: str, paid: int
) -> None:
    """Nobody can know whether it was paid: the first try says so, and so does every later one."""
    simulator.state.scenario(scenario)
    for _ in range(3):
        with pytest.raises(MusicAPIAmbiguousSubmitError) as raised:
            buy(hasty_client, store)

        assert raised.value.spent is Spent.UNKNOWN
        assert "adopt_music_task_id" in raised.value.next_step
    assert (paid, 1) == (booked(simulator), sent(simulator))
    assert is_intent(store.record)
    assert store.record["at"] in str(raised.value)


@pytest.mark.parametrize(("scenario", "paid"), AMBIGUOUS)
def test_resubmit_policy_buys_again_and_remembers_the_loss(
    hasty_client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    scenario: str,
    paid: int,
) -> None:
    """The user has decided: one more purchase, said in the log, the lost one still on record."""
    simulator.state.scenario(scenario)
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(hasty_client, store, RESUBMIT)
    lost_at = store.record["at"]
    submitted = buy(hasty_client, store, RESUBMIT)

    assert booked(simulator) == paid + 1
    assert submitted.is_new
    assert ([lost_at], submitted.music_task_id) == (store.record["lost_at"], store.record["music_task_id"])
    assert "pays twice" in caplog.text


def test_error_that_may_have_cost_credits_keeps_the_intent(settings: ClientSettings, store: Store) -> None:
    """Whatever its class: only an error that says that nothing was spent withdraws the intent."""

    class Odd(MusicAPIClient):
        def create(self, body: Mapping[str, Any]) -> str:
            raise MusicAPITransientError("An answer nobody foresaw.", spent=Spent.UNKNOWN)

    with pytest.raises(MusicAPITransientError):
        buy(Odd(settings, retries=QUICK), store)

    assert is_intent(store.record)


def test_policy_to_resubmit_acts_on_the_next_try_only(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The try that loses the answer never sends twice by itself."""
    simulator.state.scenario("drop-before-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store, RESUBMIT)

    assert (sent(simulator), booked(simulator)) == (1, 0)


def test_two_losses_are_both_remembered(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Each resent create adds to the evidence."""
    simulator.state.scenario("drop-after-booking", times=2)
    for _ in range(2):
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(client, store, RESUBMIT)
    buy(client, store, RESUBMIT)

    assert booked(simulator) == 3
    assert len(store.record["lost_at"]) == 2


def test_refusal_of_a_resubmission_brings_the_old_intent_back(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A certain refusal settles its own create, not the one that was lost before it."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)
    before = store.record
    simulator.state.scenario("no-credits")
    with pytest.raises(MusicAPICreditsError):
        buy(client, store, RESUBMIT)

    assert before == store.record
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)


# -- the next try -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "finished"),
    [
        pytest.param(None, False, id="not-ready"),
        pytest.param("running", False, id="running"),
        pytest.param(None, True, id="succeeded"),
        pytest.param("partial", True, id="partial"),
        pytest.param("no-audio-url", True, id="succeeded-without-url"),
        pytest.param("unknown-type", True, id="odd-answer"),
        pytest.param("not-found-at-first", False, id="not-there-yet"),
        pytest.param("unknown-404", False, id="expired"),
    ],
)
@pytest.mark.parametrize("policy", UnknownOutcome)
def test_recorded_purchase_is_collected(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    scenario: str | None,
    finished: bool,
    policy: UnknownOutcome,
) -> None:
    """Unless it certainly failed and was refunded, what was bought is collected, not bought again."""
    if scenario:
        simulator.state.scenario(scenario)
    first = buy(client, store, policy)
    if finished:
        simulator.state.finish(first.music_task_id)
    record = store.record

    assert [replace(first, is_new=False)] * 3 == [buy(client, store, policy) for _ in range(3)]
    assert (booked(simulator), sent(simulator)) == (1, 1)
    assert record == store.record


@pytest.mark.parametrize(
    "scenario", ["all-failed", "failed", "timeout", "api-error", "forbidden", "gateway-timeout-refunded"]
)
def test_refunded_purchase_is_bought_anew_and_remembered(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, scenario: str
) -> None:
    """A failed music task has given its credits back; its id is not forgotten."""
    simulator.state.configure(credits=100)
    simulator.state.scenario(scenario, times=2)
    ids = []
    for _ in range(3):
        ids.append(buy(client, store).music_task_id)
        simulator.state.finish(ids[-1])
    collected = buy(client, store)

    assert (booked(simulator), len(set(ids))) == (3, 3)
    assert client.get_credits().total == 100 - 15
    assert Bought(ids[2], is_new=False, credits=15) == collected
    assert (ids[:2], ids[2], []) == (
        store.record["earlier"],
        store.record["music_task_id"],
        store.record["lost_at"],
    )


def test_lost_answer_after_a_refund_keeps_the_earlier_id(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The new intent guards the new purchase and still knows the old one."""
    simulator.state.scenario("failed", times=1)
    first = buy(client, store)
    simulator.state.finish(first.music_task_id)
    simulator.state.scenario("drop-after-booking")
    for _ in range(2):
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(client, store)

    assert booked(simulator) == 2
    assert is_intent(store.record)
    assert [first.music_task_id] == store.record["earlier"]


def test_refusal_after_a_refund_brings_the_old_record_back(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Withdrawing the new intent does not lose the old purchase."""
    simulator.state.scenario("failed", times=1)
    first = buy(client, store)
    simulator.state.finish(first.music_task_id)
    before = store.record
    simulator.state.scenario("no-credits")
    with pytest.raises(MusicAPICreditsError):
        buy(client, store)

    assert before == store.record
    assert before["music_task_id"] == first.music_task_id


@pytest.mark.parametrize(
    ("scenario", "error_class"),
    [
        pytest.param("read-500", MusicAPITransientError, id="500"),
        pytest.param("read-drop", MusicAPITransientError, id="drop"),
        pytest.param("read-429", MusicAPIThrottledError, id="429"),
        pytest.param("read-unauthorized", MusicAPIAuthError, id="revoked-key"),
    ],
)
def test_earlier_purchase_that_cannot_be_read_is_not_replaced(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    scenario: str,
    error_class: type[MusicAPIError],
) -> None:
    """Without an answer about the old music task nothing is bought and nothing forgotten."""
    buy(client, store)
    record = store.record
    simulator.state.scenario(scenario, times=None)
    with pytest.raises(error_class):
        buy(client, store)

    assert (1, record) == (booked(simulator), store.record)


def test_changed_body_is_a_new_purchase(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Another text is another song; both are on record, and both can be collected."""
    first, second = buy(client, store), buy(client, store, **OTHER)

    assert (booked(simulator), len(store.records), list(store.kept)) == (2, 2, [KEY])
    assert [first.music_task_id, second.music_task_id] == [
        buy(client, store).music_task_id,
        buy(client, store, **OTHER).music_task_id,
    ]
    assert booked(simulator) == 2


def test_changed_body_is_said_in_the_log(
    client: MusicAPIClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever edits a body and clears learns that this is another purchase, and beside which one."""
    first = buy(client, store)
    buy(client, store, generation=CLEARED, **OTHER)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert "this is a new purchase" in warning
    assert f"music task {first.music_task_id}" in warning


def test_lost_answer_of_one_body_holds_up_another_in_the_same_generation(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A body that changes from try to try, as with a time in it, is no way around the question."""
    simulator.state.scenario("drop-after-booking")
    for changes in ({}, OTHER, {"prompt": "[Verse] Lu lu"}):
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(client, store, **changes)

    assert (booked(simulator), sent(simulator)) == (1, 1)
    assert is_intent(store.record)
    assert len(store.records) == 1


def test_lost_answer_of_one_body_does_not_hold_up_another_after_a_clear(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """An edited body is bought although the old one is unsettled; the log says so."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)

    assert buy(client, store, generation=CLEARED, **OTHER).is_new
    assert is_intent(store.record)
    assert "with unknown outcome): this is a new purchase" in caplog.text


def test_policy_to_resubmit_counts_for_a_body_that_changes(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The user has decided for this task, whatever its body is by now; the loss stays on record."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store, RESUBMIT)

    assert buy(client, store, RESUBMIT, **OTHER).is_new
    assert is_intent(store.record)
    assert "pays twice" in caplog.text
    assert booked(simulator) == 2


@pytest.mark.parametrize("generation", [FIRST, CLEARED])
def test_lost_answer_is_asked_about_in_every_generation(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, generation: str
) -> None:
    """A clear of the same body settles nothing."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)

    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store, generation=generation, force_new=True)
    assert sent(simulator) == 1


def test_open_question_names_earlier_ids(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Whoever looks into the account must know which music tasks are accounted for."""
    simulator.state.scenario("failed", times=1)
    first = buy(client, store)
    simulator.state.finish(first.music_task_id)
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)

    with pytest.raises(MusicAPIAmbiguousSubmitError, match=f"this body: {first.music_task_id}"):
        buy(client, store)


# -- buying again on purpose --------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", [None, "partial", "no-audio-url", "unknown-type"])
def test_force_new_buys_a_finished_purchase_again_once_per_generation(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, scenario: str | None
) -> None:
    """A clear pays again, the retries after it collect, and no id is forgotten."""
    if scenario:
        simulator.state.scenario(scenario)
    ids = []
    for generation in (FIRST, CLEARED, "2"):
        for n in range(2):
            submitted = buy(client, store, generation=generation, force_new=True)
            simulator.state.finish(submitted.music_task_id)

            assert submitted.is_new is (n == 0)
        ids.append(submitted.music_task_id)

    assert booked(simulator) == 3
    assert [*store.record["earlier"], store.record["music_task_id"]] == ids


@pytest.mark.parametrize("generation", [FIRST, CLEARED])
@pytest.mark.parametrize("scenario", [None, "running"])
def test_force_new_collects_what_still_runs(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    scenario: str | None,
    generation: str,
) -> None:
    """Nobody wants two of what is not even there."""
    if scenario:
        simulator.state.scenario(scenario)
    first = buy(client, store)

    assert replace(first, is_new=False) == buy(client, store, generation=generation, force_new=True)
    assert booked(simulator) == 1


def test_without_force_new_a_clear_collects(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Clearing is free unless asked otherwise."""
    first = buy(client, store)
    simulator.state.finish(first.music_task_id)

    assert replace(first, is_new=False) == buy(client, store, generation=CLEARED)
    assert booked(simulator) == 1


def test_refusal_of_a_forced_purchase_is_tried_again_by_the_retry(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The old record comes back with its generation, so the new purchase is still due."""
    first = buy(client, store)
    simulator.state.finish(first.music_task_id)
    before = store.record
    simulator.state.scenario("no-credits", times=1)
    with pytest.raises(MusicAPICreditsError):
        buy(client, store, generation=CLEARED, force_new=True)

    assert before == store.record
    assert buy(client, store, generation=CLEARED, force_new=True).is_new
    assert [first.music_task_id] == store.record["earlier"]


# -- credits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "now"), [("drop-after-booking", 985), ("drop-before-booking", 1000), ("create-500", 1000)]
)
def test_lost_answer_names_the_evidence(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, scenario: str, now: int
) -> None:
    """Time, fingerprint, balance before and now, what it means, what to do: at once and on the next try."""
    simulator.state.scenario(scenario)
    for _ in range(2):
        with pytest.raises(MusicAPIAmbiguousSubmitError) as raised:
            buy(client, store)
        text = str(raised.value)

        assert f"on record at {store.record['at']}, just before it was to be sent" in text
        assert f"(fingerprint {FINGERPRINT})" in text
        assert f"the balance was 1000 credits then and is {now} credits now" in text
        assert "the price is about 15 credits" in text
        assert "fell by the price means that it was booked" in text
        assert "adopt_music_task_id" in text
        assert "resubmit" in text


def test_evidence_without_a_balance_says_so(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A balance that cannot be read stops nobody who did not ask for a check, and is not invented."""
    simulator.state.scenario("read-500", times=None)
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError, match="balance was unknown then and is unknown now"):
        buy(client, store)

    assert (booked(simulator), store.record["balance"]) == (1, None)


def test_resubmit_policy_makes_a_lost_answer_a_matter_of_retries(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Only under the policy may Airflow try again by itself, and then the message says what that does."""
    simulator.state.scenario("drop-after-booking", times=2)
    with pytest.raises(MusicAPIAmbiguousSubmitError) as failing:
        buy(client, store, prompt="another")
    with pytest.raises(MusicAPIAmbiguousSubmitError) as resubmitting:
        buy(client, store, RESUBMIT, generation=CLEARED)

    assert (failing.value.retryable, resubmitting.value.retryable) == (False, True)
    assert "pays twice" in resubmitting.value.next_step


@pytest.mark.parametrize(("balance", "extra", "enough"), [(15, 0, True), (10, 5, True), (14, 0, False)])
def test_credit_check_sends_only_what_the_balance_covers(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store, balance: int, extra: int, enough: bool
) -> None:
    """It costs one free read; what does not fit is refused without a trace."""
    simulator.state.configure(credits=balance, extra_credits=extra)
    if enough:
        assert buy(client, store, credit_check=True).is_new
        return
    with pytest.raises(MusicAPICreditsError, match=r"balance of 14 credits does not cover.*about 15 credits"):
        buy(client, store, credit_check=True)

    assert (sent(simulator), store.kept) == (0, {})


def test_credit_check_believes_the_prices_of_the_connection(
    settings: ClientSettings, simulator: SimulatorServer, store: Store
) -> None:
    """Prices change without notice: the connection corrects them."""
    simulator.state.configure(credits=15)
    dearer = MusicAPIClient(replace(settings, prices={"create_music": 16}), retries=QUICK)
    with pytest.raises(MusicAPICreditsError, match="prices in the extra of connection 'test'"):
        buy(dearer, store, credit_check=True)

    assert sent(simulator) == 0


def test_credit_check_that_cannot_read_sends_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Whoever asks for the check gets it, after the reads' usual patience."""
    simulator.state.scenario("read-500", times=QUICK.attempts)
    with pytest.raises(MusicAPITransientError):
        buy(client, store, credit_check=True)

    assert (sent(simulator), store.kept) == (0, {})
    assert buy(client, store, credit_check=True).is_new


def test_without_a_check_the_api_decides(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A table of prices never stops a purchase that nobody asked it to stop."""
    simulator.state.configure(credits=14)
    with pytest.raises(MusicAPICreditsError, match="HTTP 403"):
        buy(client, store)

    assert (sent(simulator), store.kept) == (1, {})


def test_refused_key_is_found_before_the_create(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The free read has told already that the create would be refused."""
    simulator.state.configure(api_key="another")
    with pytest.raises(MusicAPIAuthError):
        buy(client, store)

    assert (sent(simulator), store.kept) == (0, {})


def test_standing_says_what_was_spent(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Nothing before, unknown while the answer is lost, the price once the id is known."""
    before = status_of(store, FINGERPRINT)
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)
    lost = status_of(store, FINGERPRINT)
    (found,) = simulator.state.jobs
    adopt_it(store, found)
    after = status_of(store, FINGERPRINT)

    assert [before, lost, after] == [
        PurchaseStatus(NOT_SUBMITTED, credits=0),
        PurchaseStatus(UNKNOWN, lost_credits=15, price=15, bought_in=FIRST, at=lost.at),
        PurchaseStatus(SUBMITTED, found, credits=15, price=15, bought_in=FIRST, at=after.at),
    ]


def test_every_lost_create_is_in_the_evidence(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """What was sent again by policy may have been paid as well; the balance alone would hide it."""
    simulator.state.scenario("drop-after-booking", times=2)
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store, RESUBMIT)
    first = store.record["at"]
    with pytest.raises(
        MusicAPIAmbiguousSubmitError, match=re.escape(f"other creates without an answer: {first}")
    ):
        buy(client, store, RESUBMIT)
    known = status_of(store, FINGERPRINT)

    assert known == PurchaseStatus(UNKNOWN, lost_credits=30, price=15, bought_in=FIRST, at=known.at)


def test_refused_resubmission_does_not_hide_the_first_loss(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """That this one cost nothing does not mean that nothing was paid."""
    simulator.state.configure(credits=15)
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)
    for credit_check in (False, True):
        with pytest.raises(MusicAPICreditsError, match="An earlier create may have been booked") as raised:
            buy(client, store, RESUBMIT, credit_check=credit_check)

        assert raised.value.spent is Spent.UNKNOWN


@pytest.mark.parametrize(
    ("ending", "force_new", "spent"),
    [
        pytest.param(None, True, 30, id="forced: both are paid"),
        pytest.param("failed", False, 15, id="refunded: one is paid"),
    ],
)
def test_spent_credits_add_up(
    client: MusicAPIClient,
    simulator: SimulatorServer,
    store: Store,
    ending: str | None,
    force_new: bool,
    spent: float,
) -> None:
    """What was paid on purpose counts, what was refunded does not."""
    if ending:
        simulator.state.scenario(ending, times=1)
    simulator.state.finish(buy(client, store).music_task_id)
    again = buy(client, store, generation=CLEARED, force_new=force_new)

    assert (again.is_new, again.credits) == (True, spent)
    assert status_of(store, FINGERPRINT).credits == spent


def test_body_without_a_record_is_unknown_while_another_is_open(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A body that changes from try to try must not look unpaid."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)
    other = fingerprint_of(BODY | OTHER, account="test")

    assert status_of(store, other).state == UNKNOWN
    adopt_it(store, next(iter(simulator.state.jobs)))
    assert status_of(store, other).state == NOT_SUBMITTED


def test_what_was_bought_elsewhere_is_not_counted_here(client: MusicAPIClient, store: Store) -> None:
    """Adopting spends nothing, and does not claim to have."""
    assert adopt_it(store, client.create(BODY)).credits == 0


# -- adopting -----------------------------------------------------------------------------------------------


def test_adopting_settles_a_lost_answer(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The id that the user found at the vendor is collected from then on."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError):
        buy(client, store)
    (found,) = simulator.state.jobs

    assert Bought(found, is_new=False, credits=15) == adopt_it(store, found)
    assert Bought(found, is_new=False, credits=15) == buy(client, store)
    assert (booked(simulator), sent(simulator)) == (1, 1)


def test_adopting_without_any_record_buys_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """A music task bought elsewhere is collected."""
    elsewhere = client.create(BODY)
    adopt_it(store, elsewhere)

    assert Bought(elsewhere, is_new=False) == buy(client, store)
    assert booked(simulator) == 1


def test_adopting_another_task_remembers_the_first(client: MusicAPIClient, store: Store) -> None:
    """The id that is replaced stays on record."""
    first = buy(client, store)
    adopt_it(store, "other")

    assert ("other", [first.music_task_id]) == (store.record["music_task_id"], store.record["earlier"])


def test_adopting_twice_changes_nothing(client: MusicAPIClient, store: Store) -> None:
    """A retry of the adopting task does not make an id its own predecessor."""
    first = buy(client, store)
    for _ in range(2):
        adopt_it(store, first.music_task_id)

    assert (first.music_task_id, []) == (store.record["music_task_id"], store.record["earlier"])


def test_adopting_keeps_the_losses_before_the_last(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """The id settles one lost answer; those that were resent before it stay on record."""
    simulator.state.scenario("drop-after-booking", times=2)
    for _ in range(2):
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(client, store, RESUBMIT)
    lost_at = store.record["lost_at"]
    adopt_it(store, list(simulator.state.jobs)[-1])

    assert len(lost_at) == 1
    assert (lost_at, []) == (store.record["lost_at"], store.record["earlier"])


def test_adopted_music_task_can_be_forced_anew_after_a_clear(
    client: MusicAPIClient, simulator: SimulatorServer, store: Store
) -> None:
    """Adopting counts as this generation's purchase."""
    elsewhere = client.create(BODY)
    simulator.state.finish(elsewhere)
    adopt_it(store, elsewhere, CLEARED)

    assert not buy(client, store, generation=CLEARED, force_new=True).is_new
    assert buy(client, store, generation="2", force_new=True).is_new
    assert [elsewhere] == store.record["earlier"]


# -- death of the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dies_at", "late", "paid", "outcome"),
    [
        pytest.param(1, False, 0, "buys", id="before-reading"),
        pytest.param(1, True, 0, "buys", id="after-reading"),
        pytest.param(2, False, 0, "buys", id="before-the-intent"),
        pytest.param(2, True, 0, "asks", id="after-the-intent"),
        pytest.param(3, False, 1, "asks", id="before-the-record"),
        pytest.param(3, True, 1, "collects", id="after-the-record"),
    ],
)
def test_death_at_the_store_never_pays_twice(
    client: MusicAPIClient, simulator: SimulatorServer, dies_at: int, late: bool, paid: int, outcome: str
) -> None:
    """Wherever the process dies around a store call, later tries make it one purchase at most."""
    kept: dict[str, str] = {}
    with pytest.raises(ProcessDiedError):
        buy(client, Store(kept, {dies_at: ProcessDiedError()}, late=late))

    assert paid == booked(simulator)
    for n in range(3):
        if outcome == "asks":
            with pytest.raises(MusicAPIAmbiguousSubmitError):
                buy(client, Store(kept))
        else:
            assert buy(client, Store(kept)).is_new is (outcome == "buys" and n == 0)
    assert (paid if outcome == "asks" else 1) == booked(simulator)


@pytest.mark.parametrize("after", [pytest.param(False, id="before-sending"), pytest.param(True, id="after")])
def test_death_around_the_request_never_pays_twice(
    settings: ClientSettings, simulator: SimulatorServer, store: Store, after: bool
) -> None:
    """Between intent and record nobody knows, and every later try says so."""

    class Dying(MusicAPIClient):
        def create(self, body: Mapping[str, Any]) -> str:
            if after:
                super().create(body)
            raise ProcessDiedError

    with pytest.raises(ProcessDiedError):
        buy(Dying(settings, retries=QUICK), store)
    for _ in range(2):
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(MusicAPIClient(settings, retries=QUICK), store)

    assert int(after) == booked(simulator)
    assert is_intent(store.record)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_death_while_buying_anew_pays_for_one_replacement_at_most(
    client: MusicAPIClient, simulator: SimulatorServer, dies_at: int, late: bool
) -> None:
    """After a refund there may be one more purchase, and the refunded id is never lost."""
    kept: dict[str, str] = {}
    simulator.state.scenario("failed", times=1)
    first = buy(client, Store(kept))
    simulator.state.finish(first.music_task_id)
    with pytest.raises(ProcessDiedError):
        buy(client, Store(kept, {dies_at: ProcessDiedError()}, late=late))
    for _ in range(3):
        try:
            buy(client, Store(kept))
        except MusicAPIAmbiguousSubmitError:
            assert is_intent(Store(kept).record)

    assert booked(simulator) <= 2
    assert [first.music_task_id] == Store(kept).record["earlier"]


@pytest.mark.parametrize("late", [False, True])
def test_death_while_withdrawing_leaves_a_question_at_worst(
    client: MusicAPIClient, simulator: SimulatorServer, late: bool
) -> None:
    """A refusal whose withdrawal was cut off is asked about or bought; never twice."""
    kept: dict[str, str] = {}
    simulator.state.scenario("no-credits", times=1)
    with pytest.raises(ProcessDiedError):
        buy(client, Store(kept, {3: ProcessDiedError()}, late=late))

    assert is_intent(Store(kept).record) is not late
    assert booked(simulator) == 0


# -- a store that fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_failing_second_write_still_returns_the_id(
    client: MusicAPIClient, simulator: SimulatorServer, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    """What was paid for reaches the caller and the log; the intent guards against buying again."""
    caplog.set_level("INFO")
    kept: dict[str, str] = {}
    gone = dict.fromkeys((3, 4, 5), RuntimeError("the database is gone"))
    store = Store(kept, gone, late=late)
    submitted = buy(client, store)

    assert submitted.is_new
    assert {submitted.music_task_id} == set(simulator.state.jobs)
    assert submitted.music_task_id in caplog.text
    assert "could not be written" in caplog.text
    assert store.calls == ["get", "set", "set", "set", "set"]
    assert is_intent(Store(kept).record) is not late
    if not late:
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            buy(client, Store(kept))
    assert booked(simulator) == 1


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("scenario", [None, "no-credits"])
def test_write_after_the_request_is_tried_three_times(
    client: MusicAPIClient, simulator: SimulatorServer, scenario: str | None, failures: int
) -> None:
    """A store that is away for a moment loses neither the id nor the withdrawal."""
    if scenario:
        simulator.state.scenario(scenario, times=1)
    kept: dict[str, str] = {}
    store = Store(kept, dict.fromkeys(range(3, 3 + failures), RuntimeError("busy")))
    with suppress(MusicAPICreditsError):
        buy(client, store)

    assert len(store.calls) == 3 + failures
    assert len(Store(kept).records) == (0 if scenario else 1)
    assert not is_intent(Store(kept).record)


@pytest.mark.parametrize(
    ("call", "late"),
    [
        pytest.param(1, False, id="get"),
        pytest.param(2, False, id="set"),
        pytest.param(2, True, id="late-set"),
    ],
)
def test_store_that_fails_before_the_request_sends_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, call: int, late: bool
) -> None:
    """No record, no purchase."""
    with pytest.raises(RuntimeError, match="gone"):
        buy(client, Store({}, {call: RuntimeError("the database is gone")}, late=late))

    assert sent(simulator) == 0


def test_failing_withdrawal_does_not_hide_the_refusal(
    client: MusicAPIClient, simulator: SimulatorServer
) -> None:
    """The reader needs the reason of the refusal; the trouble with the store goes to the log."""
    kept: dict[str, str] = {}
    simulator.state.scenario("unauthorized", times=1)
    store = Store(kept, {"delete": RuntimeError("the database is gone")})
    with pytest.raises(MusicAPIAuthError):
        buy(client, store)

    assert booked(simulator) == 0
    assert store.calls.count("delete") == 3
    assert is_intent(store.record)


def as_record(**fields: Any) -> dict[str, Any]:
    """Return what a store holds of one sound purchase, changed."""
    record = {"at": "now", "generation": "0", "music_task_id": "t1", "earlier": [], "lost_at": []}
    return {FINGERPRINT: {**record, **fields}}


UNREADABLE = [
    pytest.param("a text", id="text"),
    pytest.param(["a", "list"], id="list"),
    pytest.param(7, id="number"),
    pytest.param(True, id="boolean"),
    pytest.param({FINGERPRINT: "t1"}, id="text-as-record"),
    pytest.param({FINGERPRINT: None}, id="null-as-record"),
    pytest.param({FINGERPRINT: {}}, id="empty-record"),
    pytest.param({FINGERPRINT: {"earlier": [], "lost_at": []}}, id="field-missing"),
    pytest.param(as_record(paid_by="x"), id="field-of-the-future"),
    pytest.param(as_record(at=""), id="no-time"),
    pytest.param(as_record(at=7), id="number-as-time"),
    pytest.param(as_record(generation=7), id="number-as-generation"),
    pytest.param(as_record(music_task_id=7), id="number-as-id"),
    pytest.param(as_record(music_task_id=""), id="empty-id"),
    pytest.param(as_record(earlier=None), id="no-list"),
    pytest.param(as_record(earlier=[7]), id="number-as-earlier-id"),
    pytest.param(as_record(lost_at="then"), id="text-as-list"),
    pytest.param(as_record(balance="much"), id="text-as-balance"),
    pytest.param(as_record(credits=True), id="boolean-as-credits"),
    pytest.param(as_record() | {"another body": "t2"}, id="another-body"),
]


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize("policy", UnknownOutcome)
def test_unreadable_record_sends_nothing(
    client: MusicAPIClient, simulator: SimulatorServer, value: Any, policy: UnknownOutcome
) -> None:
    """A record that says nothing certain is left alone, whatever the policy."""
    kept = {KEY: json.dumps(value)}
    before = dict(kept)
    with pytest.raises(MusicAPIConfigurationError, match="unreadable"):
        buy(client, Store(kept), policy, force_new=True)
    with pytest.raises(MusicAPIConfigurationError, match="unreadable"):
        adopt_it(Store(kept), "t1")

    assert (0, before) == (sent(simulator), kept)


# -- every instant of death ---------------------------------------------------------------------------------


@dataclass
class World:
    """
    What outlives a process, and the promises that hold at every instant.

    :param kept: The store's contents.
    :param seen: Every id that was ever on record.
    :param passed: Instants that the current process has lived through.
    :param dies_at: The instant at which it dies; 0: never.
    """

    settings: ClientSettings
    simulator: SimulatorServer
    kept: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    passed: int = 0
    dies_at: int = 0

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records of the store."""
        return list(Store(self.kept).records.values())

    @property
    def losses(self) -> int:
        """Creates that were resent by policy."""
        return sum(len(record["lost_at"]) for record in self.records)

    @property
    def is_open(self) -> bool:
        """Whether any outcome is unknown."""
        return any(record["music_task_id"] is None for record in self.records)

    def instant(self) -> None:
        """Check the promises; then die, if it is time."""
        ids = {id_ for record in self.records for id_ in (record["music_task_id"], *record["earlier"]) if id_}
        intents = sum(record["music_task_id"] is None for record in self.records)

        assert self.seen <= ids, "an id was forgotten"
        assert ids <= set(self.simulator.state.jobs), "an id is on record that nobody bought"
        assert booked(self.simulator) <= len(ids) + intents + self.losses, "a payment left no trace"
        self.seen |= ids
        self.passed += 1
        if self.passed == self.dies_at:
            raise ProcessDiedError

    def attempt(self, policy: UnknownOutcome, *, dies_at: int = 0, **options: Any) -> Bought | BaseException:
        """Be one process; return what it submitted or what it ended with."""
        self.passed, self.dies_at = 0, dies_at
        client = MortalClient(self.settings, self)
        try:
            return buy(client, MortalStore(self), policy, **options)
        except (MusicAPIError, ProcessDiedError) as error:
            return error
        finally:
            self.dies_at = 0
            self.instant()
            client.close()


class MortalStore(Store):
    """A store at which the process can die before and after each call."""

    def __init__(self, world: World) -> None:
        super().__init__(world.kept)
        self.world = world

    def _call(self, method: str, effect: Callable[[], Any]) -> Any:
        self.world.instant()
        result = super()._call(method, effect)
        self.world.instant()
        return result


class MortalClient(MusicAPIClient):
    """A client at which the process can die before and after each request, answered or not."""

    def __init__(self, settings: ClientSettings, world: World) -> None:
        super().__init__(settings, retries=QUICK)
        self.world = world

    def create(self, body: Mapping[str, Any]) -> str:
        """Buy."""
        return self._mortally(lambda: super(MortalClient, self).create(body))

    def get_task(self, music_task_id: str, *, retry: bool = True) -> MusicTask:
        """Look."""
        return self._mortally(lambda: super(MortalClient, self).get_task(music_task_id, retry=retry))

    def _mortally(self, request: Callable[[], Any]) -> Any:
        self.world.instant()
        try:
            return request()
        finally:
            self.world.instant()


#: What the server makes of the create of the dying try.
OUTCOMES = [
    pytest.param(None, id="success"),
    pytest.param("no-credits", id="refused"),
    pytest.param("throttled", id="throttled-first"),
    pytest.param("create-500", id="lost-unpaid"),
    pytest.param("drop-after-booking", id="lost-paid"),
    pytest.param("no-task-id", id="paid-without-id"),
]
#: What happened before, with the purchases that it made and that may not count against the task.
STARTS = [
    pytest.param("nothing", 0, id="new"),
    pytest.param("running", 0, id="running"),
    pytest.param("refunded", 1, id="refunded"),
    pytest.param("forced", 1, id="forced"),
    pytest.param("lost", 0, id="lost"),
]


def begin(world: World, start: str) -> dict[str, Any]:
    """Bring about a start; return the options of all tries after it."""
    if start == "nothing":
        return {}
    if start in ("refunded", "lost"):
        world.simulator.state.scenario("failed" if start == "refunded" else "drop-after-booking", times=1)
    first = world.attempt(UnknownOutcome.FAIL)
    if isinstance(first, Bought) and start != "running":
        world.simulator.state.finish(first.music_task_id)
    return {"generation": CLEARED, "force_new": True} if start == "forced" else {}


def finish_all(world: World, start: str) -> None:
    """Let time pass between two tries: only what is over could be bought again."""
    if start != "running":
        for id_ in world.simulator.state.jobs:
            world.simulator.state.finish(id_)


def check_the_end(world: World, policy: UnknownOutcome, last: list[Bought | BaseException]) -> None:
    """With a sound server, the last tries all collect one purchase or all ask; neither sends anything."""
    if policy is UnknownOutcome.FAIL and world.is_open:
        assert all(isinstance(end, MusicAPIAmbiguousSubmitError) for end in last)
        return
    assert all(isinstance(end, Bought) for end in last)
    assert len({end.music_task_id for end in last if isinstance(end, Bought)}) == 1
    assert not world.is_open


@pytest.mark.parametrize("policy", UnknownOutcome)
@pytest.mark.parametrize(("start", "before"), STARTS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_death_at_any_instant_never_pays_more_than_the_policy_allows(
    settings: ClientSettings,
    simulator: SimulatorServer,
    policy: UnknownOutcome,
    start: str,
    before: int,
    outcome: str | None,
) -> None:
    """One purchase, plus one per loss that the user let be resent; three tries at most get there."""
    for dies_at in itertools.count(1):
        simulator.reset()
        world = World(settings, simulator)
        options = begin(world, start)
        if outcome:
            simulator.state.scenario(outcome, times=1)
        died = world.attempt(policy, dies_at=dies_at, **options)
        simulator.state.clear_scenarios()
        finish_all(world, start)
        middle = world.attempt(policy, **options)
        finish_all(world, start)
        requests = sent(simulator)
        last = world.attempt(policy, **options)

        assert booked(simulator) <= before + 1 + world.losses
        assert policy is RESUBMIT or world.losses == 0
        assert requests == sent(simulator), "the last try sent something"
        check_the_end(world, policy, [middle, last])
        if not isinstance(died, ProcessDiedError):
            assert dies_at > 2
            return


@pytest.mark.parametrize("policy", UnknownOutcome)
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("dies_first", range(1, 10))
def test_two_deaths_never_pay_more_than_the_policy_allows(
    settings: ClientSettings,
    simulator: SimulatorServer,
    policy: UnknownOutcome,
    outcome: str | None,
    dies_first: int,
) -> None:
    """The second try dies, too, at any of its instants."""
    for dies_next in itertools.count(1):
        simulator.reset()
        world = World(settings, simulator)
        if outcome:
            simulator.state.scenario(outcome, times=1)
        world.attempt(policy, dies_at=dies_first)
        died = world.attempt(policy, dies_at=dies_next)
        simulator.state.clear_scenarios()
        last = [world.attempt(policy) for _ in range(2)]

        assert booked(simulator) <= 1 + world.losses
        assert policy is RESUBMIT or world.losses == 0
        check_the_end(world, policy, last)
        if not isinstance(died, ProcessDiedError):
            return


@pytest.mark.parametrize("policy", UnknownOutcome)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_death_before_the_body_changes_never_pays_in_silence(
    settings: ClientSettings, simulator: SimulatorServer, policy: UnknownOutcome, outcome: str | None
) -> None:
    """The next tries bring another body: an open question stays one, and nothing is bought around it."""
    for dies_at in itertools.count(1):
        simulator.reset()
        world = World(settings, simulator)
        if outcome:
            simulator.state.scenario(outcome, times=1)
        died = world.attempt(policy, dies_at=dies_at)
        simulator.state.clear_scenarios()
        asked, paid = world.is_open, booked(simulator)
        next_tries = [world.attempt(policy, **OTHER) for _ in range(2)]

        if asked and policy is UnknownOutcome.FAIL:
            assert all(isinstance(end, MusicAPIAmbiguousSubmitError) for end in next_tries)
            assert paid == booked(simulator)
        else:
            assert [end.is_new for end in next_tries if isinstance(end, Bought)] == [True, False]
            assert booked(simulator) == paid + 1
        assert asked is world.is_open
        if not isinstance(died, ProcessDiedError):
            return


@pytest.mark.parametrize("start", ["running", "refunded", "lost"])
def test_death_while_adopting_forgets_nothing(
    settings: ClientSettings, simulator: SimulatorServer, start: str
) -> None:
    """Adopting again after a death gives the same record as adopting once, and buys nothing."""
    for dies_at in itertools.count(1):
        simulator.reset()
        world = World(settings, simulator)
        begin(world, start)
        (found,) = simulator.state.jobs
        world.passed, world.dies_at = 0, dies_at
        died = False
        try:
            adopt_it(MortalStore(world), found)
        except ProcessDiedError:
            died = True
        world.dies_at = 0
        adopt_it(MortalStore(world), found)

        assert booked(simulator) == 1
        assert [found] == [record["music_task_id"] for record in world.records]
        assert [record["earlier"] for record in world.records] == [[]]
        if not died:
            return


# -- fingerprints, records and the ledger -------------------------------------------------------------------


def test_fingerprint_knows_body_and_account() -> None:
    """Either makes another purchase; the order of fields does not."""
    others = [fingerprint_of(BODY | {"title": "x"}, account="test"), fingerprint_of(BODY, account="other")]

    assert fingerprint_of(dict(reversed(BODY.items())), account="test") == FINGERPRINT
    assert len({FINGERPRINT, *others}) == 3


def test_fingerprint_stays_the_same_across_releases() -> None:
    """Another digest after an upgrade would buy everything in flight a second time."""
    assert FINGERPRINT == "cc9d67795d3740335387ed2df66f2eae"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(math.nan, id="nan"),
        pytest.param(math.inf, id="infinity"),
        pytest.param({1, 2}, id="set"),
        pytest.param(b"la", id="bytes"),
        pytest.param({1: "a", "b": "c"}, id="mixed-keys"),
    ],
)
def test_fingerprint_of_what_is_no_json_is_refused(value: Any) -> None:
    """A body that cannot be sent has no fingerprint."""
    with pytest.raises(MusicAPIInvalidRequestError, match="is no JSON") as raised:
        fingerprint_of({"extra": value}, account="test")

    assert raised.value.spent is Spent.NOT_SPENT


def test_fingerprint_takes_any_text() -> None:
    """Half a surrogate pair is text enough to be told apart."""
    prints = {fingerprint_of({"prompt": text}, account="test") for text in ("", "\ud83c", "🎵", "\x00")}

    assert len(prints) == 4


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(Purchase("now", "0"), id="intent"),
        pytest.param(Purchase("now", "", "t1"), id="purchase"),
        pytest.param(Purchase("now", "1", None, ("t1", "t2"), ("then",)), id="history"),
        pytest.param(Purchase("now", "1", "t1", balance=20.5, credits=15), id="money"),
    ],
)
def test_record_round_trip(record: Purchase) -> None:
    """A record comes back from JSON as it was."""
    assert Purchase.from_json(json.loads(json.dumps(record.as_json()))) == record
    assert record.is_intent is (record.music_task_id is None)


@pytest.mark.parametrize(
    ("before", "earlier", "lost_at"),
    [
        pytest.param(None, (), (), id="nothing"),
        pytest.param(Purchase("then", "0"), (), ("then",), id="intent"),
        pytest.param(Purchase("then", "0", "t1"), ("t1",), (), id="purchase"),
        pytest.param(Purchase("c", "0", None, ("t1",), ("a",)), ("t1",), ("a", "c"), id="intent-with-past"),
        pytest.param(
            Purchase("c", "0", "t2", ("t1",), ("a",)), ("t1", "t2"), ("a",), id="purchase-with-past"
        ),
    ],
)
def test_new_intent_remembers_what_was_before(
    before: Purchase | None, earlier: tuple[str, ...], lost_at: tuple[str, ...]
) -> None:
    """Ids move to the earlier ones, lost answers to the losses."""
    intent = Purchase.intent(before, "1")

    assert intent.is_intent
    assert ("1", earlier, lost_at) == (intent.generation, intent.earlier, intent.lost_at)
    assert intent.at.endswith("+00:00")


def test_ledger_keeps_other_bodies_when_one_is_taken_out(store: Store) -> None:
    """Withdrawing an intent touches no other record; the last one leaves an empty store."""
    ledger = Ledger(store)
    for name in ("a", "b"):
        ledger.put(name, Purchase("now", "0", name))
    ledger.put("a", None)
    kept = store.records
    again = Ledger(store)
    ledger.put("b", None)

    assert list(kept) == ["b"]
    assert (again.get("a"), again.get("b")) == (None, Purchase("now", "0", "b"))
    assert ({"b": Purchase("now", "0", "b")}, {}) == (again.others("a"), again.others("b"))
    assert store.kept == {}
