"""Never pay twice, for any story: hypothesis makes up servers, deaths, retries, clears, edits, policies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import ONCE
from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.purchases import (
    KEY,
    Asker,
    FolderStore,
    Ledger,
    LedgerStore,
    Order,
    Policy,
    PurchaseStatus,
    RunLedger,
    UnknownOutcome,
    adopt,
    buy,
    buying,
    claims,
    fingerprint_of,
    run_ledger,
    status_of,
)
from tests.states import NOT_SUBMITTED

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from musicapi_provider.api.settings import ClientSettings

#: What the server does with the next create: booked and answered, booked and lost, not booked.
ANSWERED = (None, "nested-task-id", "create-code-200")
BOOKED_AND_LOST = (
    "drop-after-booking",
    "create-502-after-booking",
    "truncated-create",
    "no-task-id",
    "html-create",
)
NOT_BOOKED = (
    "drop-before-booking",
    "create-500",
    "throttled",
    "no-credits",
    "moderated",
    "invalid",
    "unauthorized",
)
#: How a music task ends.
ENDINGS = (None, "all-failed", "partial", "failed")
PROMPTS = ("one", "two")


class ProcessDiedError(BaseException):
    """The worker is gone: nothing catches this."""


@dataclass
class Life:
    """
    One process: it may die at any instant around a store call or a request.

    :param instants: Instants left before it dies; ``None``: it lives on.
    :param watch: Called at every instant.
    """

    instants: int | None
    watch: Callable[[], None]

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Do something between two instants."""
        self._instant()
        result = call()
        self._instant()
        return result

    def _instant(self) -> None:
        self.watch()
        if self.instants == 0:
            raise ProcessDiedError
        if self.instants is not None:
            self.instants -= 1


@dataclass
class Store(LedgerStore):
    """A store that outlives processes; every call is an instant."""

    place = "task state"

    kept: dict[str, str]
    life: Life

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        return self.life(lambda: json.loads(self.kept.get(key, "null")))

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Write or overwrite the value."""
        self.life(lambda: self.kept.update({key: json.dumps(value)}))

    def delete(self, key: str) -> None:
        """Remove the value."""
        self.life(lambda: self.kept.pop(key, None))


class MortalClient(MusicAPIClient):
    """A client whose process may die around each create."""

    life: Life

    def create(self, body: Any) -> str:
        """Send, unless dead."""
        return str(self.life(lambda: super(MortalClient, self).create(body)))


@dataclass
class Truth:
    """What really happened, by fingerprint: kept beside the code under test."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    allowed: Counter[str] = field(default_factory=Counter)
    forced: set[tuple[str, str]] = field(default_factory=set)


class Story(RuleBasedStateMachine):
    """One Airflow task, its tries and clears, and the people around it."""

    def __init__(self, simulator: SimulatorServer, client_settings: ClientSettings) -> None:
        super().__init__()
        self.simulator = simulator
        self.client_settings = client_settings

    @initialize()
    def begin(self) -> None:
        """Start with an empty store and a rich account."""
        self.simulator.reset()
        self.simulator.state.configure(credits=10_000)
        self.kept: dict[str, str] = {}
        self.truth = Truth()
        self.generation = 0

    # -- what happens --------------------------------------------------------------------------------------

    @rule(
        prompt=st.sampled_from(PROMPTS),
        scenario=st.one_of(
            st.sampled_from(ANSWERED),
            st.sampled_from(ANSWERED),
            st.sampled_from(BOOKED_AND_LOST),
            st.sampled_from(NOT_BOOKED),
        ),
        ending=st.sampled_from(ENDINGS),
        policy=st.sampled_from(UnknownOutcome),
        force_new=st.booleans(),
        credit_check=st.booleans(),
        dies_after=st.one_of(st.none(), st.none(), st.integers(0, 8)),
        finishes=st.booleans(),
    )
    def run_a_try(
        self,
        prompt: str,
        scenario: str | None,
        ending: str | None,
        policy: UnknownOutcome,
        force_new: bool,
        credit_check: bool,
        dies_after: int | None,
        finishes: bool,
    ) -> None:
        """Airflow runs the task, with this body and policy, on a worker that may die."""
        body = self._body(prompt)
        print_ = self._fingerprint(prompt)
        may_send = self._may_send(print_, policy, force_new=force_new)
        if may_send and (record := self._records().get(print_)) and record["music_task_id"] is None:
            self.truth.allowed[print_] += 1  # the policy says so, once for each time
        for name in (scenario, ending):
            if name:
                self.simulator.state.scenario(name, times=1)
        before = self._sent()
        life = Life(dies_after, self.nothing_is_lost)
        client = MortalClient(self.client_settings, retries=ONCE)
        client.life = life
        with suppress(MusicAPIError, ProcessDiedError):
            submitted = buy(
                client,
                Order(body, print_, str(self.generation)),
                Store(self.kept, life),
                Policy(policy, force_new, credit_check),
            )
            assert self._records()[print_]["music_task_id"] == submitted.music_task_id, "not on record"
        client.close()
        self.simulator.state.armed.clear()

        for id_ in self._booked(prompt) if finishes else ():
            self.simulator.state.finish(id_)
        self.simulator.state.settle()
        assert self._sent() - before <= (1 if may_send else 0), "a create was sent that nothing allowed"

    @rule()
    def clear(self) -> None:
        """Somebody clears the Airflow task."""
        self.generation += 1

    @rule(prompt=st.sampled_from(PROMPTS), dies_after=st.one_of(st.none(), st.integers(0, 4)))
    def adopt_what_was_lost(self, prompt: str, dies_after: int | None) -> None:
        """Somebody finds the lost music task at the vendor and names it."""
        print_ = self._fingerprint(prompt)
        lost = [id_ for id_ in self._booked(prompt) if id_ not in self._ids_on_record(print_)]
        record = self._records().get(print_)
        if lost and record is not None and record["music_task_id"] is None:
            with suppress(ProcessDiedError):
                store = Store(self.kept, Life(dies_after, self.nothing_is_lost))
                adopt(store, lost[-1], Order({}, print_, str(self.generation)))

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """No id is forgotten; no payment is without a trace."""
        for prompt in PROMPTS:
            print_ = self._fingerprint(prompt)
            known = self._ids_on_record(print_)
            record = self._records().get(print_)
            traces = len(known) + (
                len(record["lost_at"]) + (record["music_task_id"] is None) if record else 0
            )

            assert self.truth.ids.get(print_, set()) <= known, "an id was forgotten"
            assert len(self._booked(prompt)) <= traces, "a payment left no trace"
            self.truth.ids[print_] = known

    @invariant()
    def nobody_pays_more_than_the_policies_allow(self) -> None:
        """One purchase a body, plus refunds, plus what was asked for on purpose."""
        for prompt in PROMPTS:
            print_ = self._fingerprint(prompt)
            refunded = sum(self.simulator.state.jobs[id_].refunded for id_ in self._booked(prompt))
            forced = sum(print_ == forced for forced, _ in self.truth.forced)

            assert len(self._booked(prompt)) <= 1 + refunded + forced + self.truth.allowed[print_]

    @invariant()
    def status_is_honest(self) -> None:
        """What is reported as not submitted has not been paid, or was refunded."""
        for prompt in PROMPTS:
            known = status_of(Store(self.kept, Life(None, lambda: None)), self._fingerprint(prompt))
            if known == PurchaseStatus(NOT_SUBMITTED, credits=0.0):
                assert not self._booked(prompt)

    # -- helpers -------------------------------------------------------------------------------------------

    def _may_send(self, print_: str, policy: UnknownOutcome, *, force_new: bool) -> bool:
        """Say from the truth, not from the code, whether a try with this body may send a create."""
        records = self._records()
        generation = str(self.generation)
        others = [record for name, record in records.items() if name != print_]
        open_now = any(r["music_task_id"] is None and r["generation"] == generation for r in others)
        record = records.get(print_)
        if record is None:
            return not open_now or policy is UnknownOutcome.RESUBMIT
        if record["music_task_id"] is None:
            return policy is UnknownOutcome.RESUBMIT
        job = self.simulator.state.jobs[record["music_task_id"]]
        if open_now and policy is UnknownOutcome.FAIL:
            return False
        if self.simulator.state.phase_of(job) == "done" and self._ends_in_refund(job):
            return True
        if force_new and record["generation"] != generation and self.simulator.state.phase_of(job) == "done":
            self.truth.forced.add((print_, generation))
            return True
        return False

    def _ends_in_refund(self, job: Any) -> bool:
        ending = self.simulator.state.ending_of(job)
        return bool(ending and ending.refunds)

    def _body(self, prompt: str) -> dict[str, Any]:
        return {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5", "prompt": prompt}

    def _fingerprint(self, prompt: str) -> str:
        return fingerprint_of(self._body(prompt), account="test")

    def _records(self) -> dict[str, Any]:
        return dict(json.loads(self.kept.get(KEY, "{}")))

    def _ids_on_record(self, print_: str) -> set[str]:
        record = self._records().get(print_)
        return {id_ for id_ in (record["music_task_id"], *record["earlier"]) if id_} if record else set()

    def _booked(self, prompt: str) -> list[str]:
        return [id_ for id_, job in self.simulator.state.jobs.items() if job.body["prompt"] == prompt]

    def _sent(self) -> int:
        return self.simulator.state.requests["POST /sonic/create"]


@dataclass
class Values:
    """What Airflow keeps for a dag run; every call is an instant."""

    place = "state of an asset"

    kept: dict[str, str] = field(default_factory=dict)
    life: Life = field(default_factory=lambda: Life(None, lambda: None))

    def get(self, key: str) -> Any:
        """Return the value, or ``None``."""
        return self.life(lambda: json.loads(self.kept.get(key, "null")))

    def set(self, key: str, value: Any) -> None:
        """Write the value."""
        self.life(lambda: self.kept.update({key: json.dumps(value)}))

    def delete(self, key: str) -> None:
        """Remove the value."""
        self.life(lambda: self.kept.pop(key, None))


class Files(MemoryFileSystem):  # type: ignore[misc]
    """A storage of one's own; every read and write is an instant."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.life = Life(None, lambda: None)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Read."""
        return self.life(lambda: super(Files, self).cat_file(path, *args, **kwargs))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        self.life(lambda: None)  # a file in memory is empty until it is closed, which object storages are not
        return super()._open(path, mode, **kwargs)


class InterruptedClient(MortalClient):
    """A client before whose create something else may happen."""

    booked = 0
    meanwhile: Callable[[], None] | None = None
    count: Callable[[], int]

    def create(self, body: Any) -> str:
        """Let the other one do its part, then send."""
        if self.meanwhile is not None:
            self.meanwhile()
        before = self.count()
        try:
            return super().create(body)
        finally:
            self.booked += self.count() - before


class Runs(RuleBasedStateMachine):
    """
    Two dag runs whose lists change, over one kind of store: rows move, come twice, go, and come back.

    The truth is a count: no more may be booked of a body than stood in one list, plus what was refunded
    and what somebody has allowed to be sent again.
    """

    #: DAG runs; the second one is of another DAG.
    RUNS = ("a/run", "b/run")

    def __init__(self, simulator: SimulatorServer, client_settings: ClientSettings) -> None:
        super().__init__()
        self.simulator = simulator
        self.client_settings = client_settings

    @initialize(in_folder=st.booleans())
    def begin(self, in_folder: bool) -> None:
        """Start with an empty store, of one kind or the other, and a rich account."""
        self.simulator.reset()
        self.simulator.state.configure(credits=100_000)
        self.in_folder = in_folder
        self.values = Values()
        self.copies: dict[tuple[str, int], Values] = {}
        self.files = Files()
        alias = f"machine{uuid4().hex}"
        attach("memory", alias, fs=self.files)
        self.folder = ObjectStoragePath(f"memory://{alias}@{alias}/music")
        self.clears = dict.fromkeys(self.RUNS, 0)
        self.lists: dict[str, list[str]] = {run: ["A"] for run in self.RUNS}
        self.most: Counter[str] = Counter()
        self.allowed: Counter[str] = Counter()
        self.ids: set[str] = set()
        for run in self.RUNS:
            self._count(run)

    # -- what happens --------------------------------------------------------------------------------------

    @rule(run=st.sampled_from(RUNS), bodies=st.lists(st.sampled_from("ABA"), min_size=1, max_size=4))
    def expand(self, run: str, bodies: list[str]) -> None:
        """The upstream list has changed, and the run is cleared."""
        self.lists[run] = bodies
        self.clears[run] += 1
        self._count(run)

    @rule(run=st.sampled_from(RUNS))
    def clear(self, run: str) -> None:
        """Something of the run is cleared."""
        self.clears[run] += 1

    @rule(run=st.sampled_from(RUNS), index=st.integers(0, 3))
    def discard_task_state(self, run: str, index: int) -> None:
        """Airflow forgets what belongs to a task instance."""
        self.copies.pop((run, index), None)

    @rule(
        run=st.sampled_from(RUNS),
        index=st.integers(0, 3),
        scenario=st.one_of(st.none(), st.none(), st.sampled_from(BOOKED_AND_LOST + NOT_BOOKED)),
        ending=st.sampled_from((None, None, "all-failed")),
        resubmits=st.sampled_from((False, False, True)),
        dies_after=st.one_of(st.none(), st.none(), st.integers(0, 12)),
        meanwhile=st.one_of(st.none(), st.tuples(st.sampled_from(RUNS), st.integers(0, 3))),
        finishes=st.booleans(),
    )
    def run_a_try(
        self,
        run: str,
        index: int,
        scenario: str | None,
        ending: str | None,
        resubmits: bool,
        dies_after: int | None,
        meanwhile: tuple[str, int] | None,
        finishes: bool,
    ) -> None:
        """A slot asks for its body, on a worker that may die; another one may come between."""
        for name in (scenario, ending):
            if name:
                self.simulator.state.scenario(name, times=1)
        if meanwhile == (run, index):
            meanwhile = None  # one try of a slot at a time
        self._try(run, index, resubmits=resubmits, dies_after=dies_after, meanwhile=meanwhile)
        self.simulator.state.armed.clear()
        for id_ in list(self.simulator.state.jobs) if finishes else ():
            self.simulator.state.finish(id_)
        self.simulator.state.settle()

    @rule(run=st.sampled_from(RUNS))
    def run_all(self, run: str) -> None:
        """All slots ask, one after the other; each gets a purchase of its own if the run is alone."""
        for index in range(len(self.lists[run])):
            self._try(run, index)

    @rule()
    def leases_end(self) -> None:
        """Time passes: who died with a claim has lost it."""
        for path, file in list(self.files.store.items()):
            if ".claim" in path:
                self.files.pipe_file(path, json.dumps({**json.loads(file.getvalue()), "until": 0}).encode())

    @rule(run=st.sampled_from(RUNS), index=st.integers(0, 3), names_it=st.booleans())
    def decide_about_what_was_lost(self, run: str, index: int, names_it: bool) -> None:
        """Somebody looks into the account: it is there, or it is to be sent again, once."""
        if index >= len(self.lists[run]):
            return
        body, store = self._body(run, index), self._store(run, index)
        print_ = fingerprint_of(body, account="test")
        with suppress(MusicAPIError), store.claim():  # somebody may have died with the claim
            store.find(print_)
            ledger = Ledger(store)
            known = ledger.get(print_)
            if known is None or not known.is_intent:
                return
            text = self._text()
            lost = [id_ for id_ in self._booked(body["prompt"]) if id_ not in text]
            if names_it and lost:
                ledger.put(print_, known.adopting(lost[0], known.generation))
                self.ids.add(lost[0])
            elif not names_it:
                ledger.put(print_, replace(known, resend=True))

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def no_order_is_bought_more_often_than_it_stood_in_a_list(self) -> None:
        """Wherever its rows have been, and whoever has asked."""
        for prompt in {job.body["prompt"] for job in self.simulator.state.jobs.values()}:
            booked = self._booked(prompt)
            refunded = sum(self.simulator.state.jobs[id_].refunded for id_ in booked)

            assert len(booked) <= self.most[prompt] + refunded + self.allowed[prompt], prompt

    @invariant()
    def no_id_is_lost(self) -> None:
        """What was on record once stays there."""
        text = self._text()
        assert all(id_ in text for id_ in self.ids)

    # -- helpers -------------------------------------------------------------------------------------------

    def _try(
        self,
        run: str,
        index: int,
        *,
        resubmits: bool = False,
        dies_after: int | None = None,
        meanwhile: tuple[str, int] | None = None,
    ) -> None:
        if index >= len(self.lists[run]):
            return
        body = self._body(run, index)
        may_resend = self._may_resend(fingerprint_of(body, account="test"), resubmits=resubmits)
        client = InterruptedClient(self.client_settings, retries=ONCE)
        client.life = Life(dies_after, self.no_id_is_lost)
        client.count = lambda: len(self._booked(body["prompt"]))
        if meanwhile is not None:
            client.meanwhile = lambda: self._try(*meanwhile)
        order = Order(body, fingerprint_of(body, account="test"), f"{run}#{self.clears[run]}")
        policy = Policy(UnknownOutcome.RESUBMIT if resubmits else UnknownOutcome.FAIL)
        outer, self.files.life = self.files.life, client.life
        with suppress(MusicAPIError, ProcessDiedError):
            self.ids.add(buy(client, order, self._store(run, index, client.life), policy).music_task_id)
        self.files.life = outer
        client.close()
        if may_resend:
            self.allowed[body["prompt"]] += client.booked

    def _may_resend(self, print_: str, *, resubmits: bool) -> bool:
        """Tell whether an answer was lost, and a policy or somebody allows to send again."""
        ledgers = [json.loads(text) for text in self._text().splitlines()]  # and lists, and claims
        ledgers = [ledger.get(KEY, ledger) for ledger in ledgers]
        records = [ledger[print_] for ledger in ledgers if print_ in ledger]
        return any(one["music_task_id"] is None and (resubmits or one["resend"]) for one in records)

    def _store(self, run: str, index: int, life: Life | None = None) -> LedgerStore:
        life = life or Life(None, lambda: None)
        task = f"{run[0]}.create" if self.in_folder else "create"
        asker = Asker(run, f"{task}[{index}]", self.clears[run])
        if self.in_folder:
            print_ = fingerprint_of(self._body(run, index), account="test")
            return FolderStore(self.folder, "", print_, asker)
        copy = self.copies.setdefault((run, index), Values())
        return RunLedger(replace(self.values, life=life), asker, copy=copy)

    def _body(self, run: str, index: int) -> dict[str, Any]:
        return {
            "task_type": "create_music",
            "custom_mode": True,
            "mv": "sonic-v5",
            "prompt": self._prompt(run, self.lists[run][index]),
        }

    def _prompt(self, run: str, body: str) -> str:
        return body if self.in_folder else f"{run} {body}"

    def _count(self, run: str) -> None:
        for body, times in Counter(self.lists[run]).items():
            prompt = self._prompt(run, body)
            self.most[prompt] = max(self.most[prompt], times)

    def _booked(self, prompt: str) -> list[str]:
        return [id_ for id_, job in self.simulator.state.jobs.items() if job.body["prompt"] == prompt]

    def _text(self) -> str:
        files = [file.getvalue().decode() for file in self.files.store.values()]
        return "\n".join([*self.values.kept.values(), *files])


@pytest.mark.parametrize(("machine", "examples", "steps"), [(Story, 150, 25), (Runs, 150, 25)])
def test_no_story_pays_twice_or_loses_anything(
    simulator: SimulatorServer,
    settings_of_client: ClientSettings,
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[SimulatorServer, ClientSettings], RuleBasedStateMachine],
    examples: int,
    steps: int,
) -> None:
    """For any interleaving, purchases stay within the policies, and evidence stays on record."""
    monkeypatch.setattr(buying, "STORE_PAUSE", 0)
    monkeypatch.setattr(run_ledger, "LISTING_PAUSE", 0)
    monkeypatch.setattr(claims, "PATIENCE", 0)
    run_state_machine_as_test(
        lambda: machine(simulator, settings_of_client),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,  # real sockets
            suppress_health_check=list(HealthCheck),
            derandomize=True,  # a suite that fails by chance teaches people to run it again
            database=None,
        ),
    )


@pytest.fixture
def settings_of_client(settings: ClientSettings) -> ClientSettings:
    """Return the client's settings under a name that hypothesis does not use."""
    return settings
