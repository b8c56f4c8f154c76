"""The plan: what became of each row, and what a later run buys, collects or leaves alone."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach

from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIConfigurationError,
    MusicAPIError,
    MusicAPINotSentError,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.prompt_table import PromptRow, Row
from musicapi_provider.prompt_table.budget import credits_of_run
from musicapi_provider.prompt_table.plan import complete_plan, plan_rows, rows_to_do
from musicapi_provider.prompt_table.row import WHY, Resubmit
from musicapi_provider.prompt_table.stored import STORED_KEY
from musicapi_provider.purchases import (
    PURCHASES,
    Asker,
    FolderStore,
    Order,
    Policy,
    UnknownOutcome,
    adopt,
    buy,
    fingerprint_of,
)
from musicapi_provider.purchases.claims import Claim
from musicapi_provider.purchases.folder import record_name
from musicapi_provider.storage import StoredTrack
from tests.conftest import QUICK
from tests.states import FAILED, NOT_SUBMITTED, POSTPONED, RESUBMIT, STORED, SUBMITTED, UNKNOWN
from tests.unit.purchases.test_folder import UnreliableFileSystem

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log

pytestmark = pytest.mark.usefixtures("connection", "quick")

POST = "POST /sonic/create"
Plan = list[Row]


def row_of(name: str, words: str | None = None, **fields: Any) -> PromptRow:
    """Return a row whose song is about its name, or of other words."""
    body = {"task_type": "create_music", "custom_mode": True, "mv": "sonic-v5"}
    return PromptRow(name, {**body, "prompt": words or f"about {name}", **fields}, 2)


ROWS = [row_of(name) for name in "abcd"]
#: A row of 2 credits instead of 15.
CHEAP = PromptRow("cheap", {"task_type": "concat_music", "continue_clip_id": "c1"}, 9)


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStoragePath:
    """Return an empty folder as object storage."""
    return ObjectStoragePath(tmp_path.as_uri())


@pytest.fixture
def hook(connection: str) -> MusicAPIHook:
    """Return a hook for the simulator."""
    return MusicAPIHook(connection, retries=QUICK)


class Table:
    """A folder, a hook and the simulator: what the DAG does with them, without Airflow."""

    def __init__(self, folder: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer) -> None:
        self.folder = folder
        self.hook = hook
        self.state = simulator.state

    @property
    def sent(self) -> int:
        """Number of creates that the API has seen."""
        return self.state.requests[POST]

    def plan(self, rows: list[PromptRow], run_id: str = "run", **options: Any) -> Plan:
        """Plan a run."""
        return plan_rows(rows, self.folder, self.hook.client, self.hook.account, run_id=run_id, **options)

    def work(self, plan: Plan, run_id: str = "run") -> dict[str, str]:
        """Do what the create tasks of a run do; return the ids by row, without those of rows that failed."""
        ids = {}
        for todo in rows_to_do(plan):
            with suppress(MusicAPIError):
                ids[todo["prompt_id"]] = self.create(run_id=run_id, **todo)
        return ids

    def create(
        self,
        prompt_id: str,
        body: dict[str, Any],
        adopt_music_task_id: str | None = None,
        on_unknown_outcome: str = "fail",
        run_id: str = "run",
    ) -> str:
        """Do what the create operator does."""
        fingerprint = fingerprint_of(body, account=self.hook.account)
        records = FolderStore(self.folder, prompt_id, fingerprint)
        order = Order(body, fingerprint, f"{run_id}#0")
        if adopt_music_task_id is not None:
            return adopt(records, adopt_music_task_id, order).music_task_id
        policy = UnknownOutcome(on_unknown_outcome)
        return buy(self.hook.client, order, records, Policy(policy)).music_task_id

    def buy(self, row: PromptRow, run_id: str = "first") -> str:
        """Buy a row."""
        return self.create(row.prompt_id, row.body, run_id=run_id)

    def lose(self, row: PromptRow, run_id: str = "first") -> str:
        """Buy a row and lose the answer; return the id that nobody has seen."""
        before = set(self.state.jobs)
        self.state.scenario("drop-after-booking", match=row.body["prompt"])
        with pytest.raises(MusicAPIAmbiguousSubmitError):
            self.buy(row, run_id)
        (lost,) = set(self.state.jobs) - before
        return lost

    def fail(self, row: PromptRow, run_id: str = "first") -> str:
        """Buy a row whose music task fails and is refunded."""
        self.state.scenario("failed", match=row.body["prompt"], times=1)
        music_task_id = self.buy(row, run_id)
        self.state.finish(music_task_id)
        return music_task_id

    def store(self, row: PromptRow, run_id: str = "first") -> str:
        """Buy a row and write down that its track is stored."""
        music_task_id = self.buy(row, run_id)
        (Path(self.folder.path) / "c1.mp3").touch()
        self.complete(self.plan([row], run_id), **{row.prompt_id: [track_of(music_task_id)]})
        return music_task_id

    def complete(self, plan: Plan, **tracks: list[dict[str, Any]]) -> Plan:
        """Complete a plan."""
        return complete_plan(plan, tracks, self.folder, self.hook.client)

    def path_of(self, row: PromptRow) -> Path:
        """Return the file of a row's record."""
        fingerprint = fingerprint_of(row.body, account=self.hook.account)
        return Path(self.folder.path) / PURCHASES / record_name(row.prompt_id, fingerprint)


@pytest.fixture
def table(folder: ObjectStoragePath, hook: MusicAPIHook, simulator: SimulatorServer) -> Table:
    """Return a table's folder, in which nothing has happened."""
    return Table(folder, hook, simulator)


def track_of(music_task_id: str, clip_id: str = "c1") -> dict[str, Any]:
    """Return the record of a stored track."""
    return {"clip_id": clip_id, "music_task_id": music_task_id, "uri": f"file:///music/{clip_id}.mp3"}


def stored_track(music_task_id: str, clip_id: str = "c1") -> StoredTrack:
    """Return the same as a row has it."""
    return StoredTrack.from_json(track_of(music_task_id, clip_id))


def states_of(plan: Plan) -> list[str]:
    """Return the states in the table's order."""
    return [entry.state for entry in plan]


def to_do(plan: Plan) -> list[str]:
    """Return the rows that a run works on."""
    return [todo["prompt_id"] for todo in rows_to_do(plan)]


# -- planning -----------------------------------------------------------------------------------------------


def test_first_run_buys_everything(table: Table) -> None:
    """Nothing is known of any row; planning itself buys nothing and asks nobody."""
    plan = table.plan(ROWS)

    assert plan == [
        Row(row.prompt_id, row.body, fingerprint_of(row.body, account=table.hook.account), tracks=[])
        for row in ROWS
    ]
    assert states_of(plan) == [NOT_SUBMITTED] * len(ROWS)
    assert rows_to_do(plan) == [
        {
            **{"prompt_id": row.prompt_id, "body": row.body},
            **{"adopt_music_task_id": None, "on_unknown_outcome": "fail"},
        }
        for row in ROWS
    ]
    assert table.state.requests.total() == 0
    assert list(table.folder.iterdir()) == []


def test_plan_survives_xcom(table: Table) -> None:
    """It is passed between tasks as JSON."""
    table.store(ROWS[0])
    table.lose(ROWS[1])
    plan = table.plan(ROWS, settle={"b": RESUBMIT}, max_credits=20)

    assert [Row.from_json(json.loads(json.dumps(row.as_json()))) for row in plan] == plan
    assert json.loads(json.dumps(rows_to_do(plan))) == rows_to_do(plan)


def test_later_run_knows_each_row(table: Table, logged: Log) -> None:
    """Stored is done, bought is collected, unknown is left alone, and the rest is bought."""
    stored = table.store(ROWS[0])
    bought = table.buy(ROWS[1])
    table.lose(ROWS[2])
    plan = table.plan(ROWS, "second")
    ids = table.work(plan, "second")

    assert states_of(plan) == [
        STORED,
        SUBMITTED,
        UNKNOWN,
        NOT_SUBMITTED,
    ]
    assert [entry.music_task_id for entry in plan] == [stored, bought, None, None]
    assert [entry.tracks for entry in plan] == [[stored_track(stored)], [], [], []]
    assert [entry.credits for entry in plan] == [15, 15, None, 0]
    assert [entry.lost_credits for entry in plan] == [0, 0, 15, 0]
    assert to_do(plan) == ["b", "d"]
    assert ids["b"] == bought
    assert table.sent == 4
    assert "known from earlier: {'stored': 1, 'submitted': 1, 'unknown outcome': 1}" in logged.text


def test_run_that_is_repeated_buys_nothing(table: Table) -> None:
    """Clear everything: what was bought is collected."""
    first = table.work(table.plan(ROWS))
    again = table.work(table.plan(ROWS))

    assert first == again
    assert table.sent == len(ROWS)


@pytest.mark.parametrize(
    "order",
    [pytest.param(order, id="".join("abcd"[n] for n in order)) for order in [(3, 1, 0), (2, 3, 1, 0)]],
)
def test_purchase_is_found_whatever_became_of_its_run(table: Table, order: tuple[int, ...]) -> None:
    """No manifest was written, rows went and moved, so map indexes shifted: each row keeps its own."""
    ids = table.work(table.plan(ROWS, "killed"), "killed")
    rows = [ROWS[n] for n in order]
    plan = table.plan(rows, "next")

    assert states_of(plan) == [SUBMITTED] * len(rows)
    assert [entry.music_task_id for entry in plan] == [ids[row.prompt_id] for row in rows]
    assert table.work(plan, "next") == {row.prompt_id: ids[row.prompt_id] for row in rows}
    assert table.sent == len(ROWS)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row_of("a", "about z"), id="edited"),
        pytest.param(row_of("a", title="Mine"), id="another-column"),
        pytest.param(row_of("z", "about a"), id="renamed"),
        pytest.param(row_of("A", "about a"), id="renamed-in-case"),
        pytest.param(row_of("a ", "about a"), id="renamed-by-a-blank"),
    ],
)
@pytest.mark.parametrize("known", ["store", "buy", "lose", "fail"])
def test_changed_row_is_another_purchase(table: Table, row: PromptRow, known: str) -> None:
    """Row and body together are what was bought; whatever became of the old one."""
    getattr(table, known)(ROWS[0])
    sent = table.sent
    (entry,) = plan = table.plan([row])
    table.work(plan)

    assert (entry.state, entry.music_task_id, entry.tracks) == (
        NOT_SUBMITTED,
        None,
        [],
    )
    assert (entry.credits, entry.lost_credits) == (0, 0)
    assert table.sent == sent + 1


def test_other_account_is_another_purchase(
    table: Table, simulator: SimulatorServer, connect: Callable[..., None]
) -> None:
    """A music task of one key cannot be collected with another."""
    table.store(ROWS[0])
    table.buy(ROWS[1])
    table.lose(ROWS[2])
    connect(simulator.base_url, simulator.api_key, conn_id="other", poll_interval=0.01)
    other = Table(table.folder, MusicAPIHook("other", retries=QUICK), simulator)

    assert states_of(other.plan(ROWS)) == [NOT_SUBMITTED] * 4
    assert states_of(table.plan(ROWS)) == [
        STORED,
        SUBMITTED,
        UNKNOWN,
        NOT_SUBMITTED,
    ]


def test_order_of_fields_does_not_matter(table: Table) -> None:
    """Columns may change places."""
    table.store(row_of("a"))
    table.buy(row_of("b"))
    moved = [PromptRow(row.prompt_id, dict(reversed(row.body.items())), 9) for row in ROWS[:2]]

    assert states_of(table.plan(moved)) == [STORED, SUBMITTED]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("a", "b"), id="plain"),
        pytest.param(("é", "è"), id="cleaned-alike"),
        pytest.param(("a/b", "a b"), id="punctuation"),
        pytest.param(("x" * 99 + "1", "x" * 99 + "2"), id="cut-alike"),
        pytest.param(("é", "e\u0301"), id="composed-and-not"),
    ],
)
def test_rows_with_the_same_body_are_two_purchases(table: Table, names: tuple[str, str]) -> None:
    """Two songs of the same words were ordered, and each is collected as its own."""
    rows = [row_of(name, "the same words") for name in names]
    ids = table.work(table.plan(rows))
    plan = table.plan(rows[::-1])

    assert set(ids) == set(names)
    assert list(ids.values()) == list(table.state.jobs)
    assert [entry.music_task_id for entry in plan] == [ids[name] for name in names[::-1]]


@pytest.mark.parametrize("scenario", ["failed", "all-failed", "forbidden", "timeout", "api-error"])
def test_failed_row_is_bought_anew(table: Table, scenario: str) -> None:
    """A failed music task is refunded; its id is kept for the reader and never adopted."""
    table.state.scenario(scenario, times=1)
    failed = table.buy(ROWS[0])
    table.state.finish(failed)
    (entry,) = plan = table.plan(ROWS[:1])
    (todo,) = rows_to_do(plan)
    ids = table.work(plan)

    assert (entry.state, entry.music_task_id) == (FAILED, failed)
    assert todo["adopt_music_task_id"] is None
    assert ids["a"] != failed
    assert states_of(table.plan(ROWS[:1])) == [SUBMITTED]


@pytest.mark.parametrize(
    ("scenario", "finished"),
    [
        pytest.param(None, True, id="succeeded-but-not-stored"),
        pytest.param(None, False, id="running"),
        pytest.param("partial", True, id="partial"),
        pytest.param("no-audio-url", True, id="without-url"),
        pytest.param("unknown-type", True, id="odd-answer"),
        pytest.param("unknown-404", True, id="unknown-id"),
        pytest.param("read-500", True, id="api-is-away"),
        pytest.param("read-unauthorized", True, id="revoked-key"),
    ],
)
def test_bought_row_is_collected_unless_it_failed(table: Table, scenario: str | None, finished: bool) -> None:
    """A refund is proven by the API alone; whatever else it says, nothing is bought anew."""
    if scenario and not scenario.startswith("read"):
        table.state.scenario(scenario, times=None)
    id_ = table.buy(ROWS[0])
    if finished:
        table.state.finish(id_)
    if scenario and scenario.startswith("read"):
        table.state.scenario(scenario, times=None)
    plan = table.plan(ROWS[:1])
    (completed,) = table.complete(plan)

    assert [(SUBMITTED, id_)] == [(entry.state, entry.music_task_id) for entry in plan]
    assert (completed.state, completed.music_task_id, completed.credits) == (
        SUBMITTED,
        id_,
        15,
    )
    assert table.sent == 1


@pytest.mark.parametrize("content", [b"", b'{"half', b"\xff", b'{"musicapi_submissions": 7}'])
def test_unreadable_record_is_an_unknown_outcome(table: Table, content: bytes) -> None:
    """It may have been a purchase: the row is left alone, the others are not."""
    table.buy(ROWS[0])
    table.path_of(ROWS[0]).write_bytes(content)
    plan = table.plan(ROWS[:2])
    table.work(plan)

    assert states_of(plan) == [UNKNOWN, NOT_SUBMITTED]
    assert plan[0].credits is None
    assert to_do(plan) == ["b"]
    assert states_of(table.complete(plan)) == [UNKNOWN, SUBMITTED]
    assert list(table.state.creates_booked) == ["about a", "about b"]


@pytest.mark.parametrize("decision", ["its-id", RESUBMIT])
def test_decision_about_an_unreadable_record_sends_nothing(table: Table, decision: str) -> None:
    """Neither buys nor overwrites what a human must look at."""
    id_ = table.buy(ROWS[0])
    table.path_of(ROWS[0]).write_bytes(b'{"half')
    decision = id_ if decision == "its-id" else decision
    ids = table.work(table.plan(ROWS[:1], settle={"a": decision}))

    assert ids == {}
    assert table.sent == 1
    assert table.path_of(ROWS[0]).read_bytes() == b'{"half'


def test_refused_row_is_not_submitted(table: Table) -> None:
    """A certain refusal costs nothing and leaves nothing behind."""
    table.state.scenario("moderated", match="about a")
    plan = table.plan(ROWS[:2])
    ids = table.work(plan)

    assert list(ids) == ["b"]
    assert states_of(table.complete(plan)) == states_of(table.plan(ROWS[:2])) == [NOT_SUBMITTED, SUBMITTED]


def test_plan_of_an_empty_table_is_empty(table: Table) -> None:
    """No rows, no entries, whatever the limit."""
    assert table.plan([]) == table.plan([], max_credits=0) == rows_to_do([]) == table.complete([]) == []
    assert credits_of_run([], "run") == (0, 0)


# -- max_credits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_credits", "states"),
    [
        pytest.param(None, [NOT_SUBMITTED] * 4, id="no-limit"),
        pytest.param(float("inf"), [NOT_SUBMITTED] * 4, id="endless"),
        pytest.param(60, [NOT_SUBMITTED] * 4, id="exactly-enough"),
        pytest.param(59, [NOT_SUBMITTED] * 3 + [POSTPONED], id="one-short"),
        pytest.param(15, [NOT_SUBMITTED] + [POSTPONED] * 3, id="one-row"),
    ],
)
def test_run_spends_no_more_than_it_may(
    table: Table, max_credits: float | None, states: list[str], logged: Log
) -> None:
    """Rows are bought in the table's order until the credits are used up."""
    plan = table.plan(ROWS, max_credits=max_credits)
    table.work(plan)

    assert states_of(plan) == states
    assert table.sent == states.count(NOT_SUBMITTED)
    assert ("left for a later run" in logged.text) is (POSTPONED in states)


@pytest.mark.parametrize("max_credits", [-1, float("nan"), 0, 14, 14.99])
def test_limit_that_covers_no_row_is_refused(table: Table, max_credits: float) -> None:
    """A limit that is none must not pass as one, nor one under which a row never has its turn."""
    with pytest.raises(MusicAPIConfigurationError, match=r"max_credits must cover.*up to 15\. Nothing was"):
        table.plan([CHEAP, ROWS[0]], max_credits=max_credits)

    assert table.sent == 0


@pytest.mark.parametrize("max_credits", [-1, float("nan")])
def test_impossible_limit_is_refused_even_where_nothing_is_to_be_bought(
    table: Table, max_credits: float
) -> None:
    """A slip is told at once, not on the day it matters."""
    table.buy(ROWS[0])
    with pytest.raises(MusicAPIConfigurationError, match="max_credits"):
        table.plan(ROWS[:1], max_credits=max_credits)


def test_rows_that_cost_nothing_need_no_limit(table: Table) -> None:
    """What is stored, bought, undecided or adopted is paid for; 0 is a fine limit then."""
    table.store(ROWS[0])
    table.buy(ROWS[1])
    table.lose(ROWS[2])
    lost = table.lose(ROWS[3])
    plan = table.plan(ROWS, "second", max_credits=0, settle={"d": lost})

    assert states_of(plan) == [STORED, SUBMITTED, UNKNOWN, UNKNOWN]
    assert to_do(plan) == ["b", "d"]


def test_limit_goes_by_the_prices_of_the_connection(
    table: Table, simulator: SimulatorServer, connect: Callable[..., None]
) -> None:
    """Prices change; a connection may correct them."""
    connect(simulator.base_url, simulator.api_key, prices={"create_music": 7})
    dear = Table(table.folder, MusicAPIHook(retries=QUICK), simulator)

    assert states_of(dear.plan(ROWS, max_credits=14)) == [NOT_SUBMITTED] * 2 + [POSTPONED] * 2


def test_failed_rows_come_last(table: Table) -> None:
    """Rows that keep failing must not keep the others from their turn."""
    table.fail(ROWS[0])
    table.fail(ROWS[2])

    assert states_of(table.plan(ROWS, max_credits=30)) == [
        *(POSTPONED, NOT_SUBMITTED),
        *(POSTPONED, NOT_SUBMITTED),
    ]
    assert states_of(table.plan(ROWS, max_credits=45)) == [
        FAILED,
        NOT_SUBMITTED,
        POSTPONED,
        NOT_SUBMITTED,
    ]


def test_no_row_overtakes_a_postponed_one(table: Table) -> None:
    """A cheap row does not get what a dearer one before it could not pay, lest that one waits for ever."""
    assert states_of(table.plan([ROWS[0], ROWS[1], CHEAP], max_credits=20)) == [
        *(NOT_SUBMITTED, POSTPONED),
        POSTPONED,
    ]
    assert states_of(table.plan([ROWS[0], CHEAP, ROWS[1]], max_credits=20)) == [
        *(NOT_SUBMITTED, NOT_SUBMITTED),
        POSTPONED,
    ]


def test_postponed_rows_are_bought_by_later_runs(table: Table) -> None:
    """One row a day: after four days all are bought, once."""
    seen = []
    for day in range(5):
        plan = table.plan(ROWS, f"day {day}", max_credits=15)
        table.work(plan, f"day {day}")
        manifest = table.complete(plan)
        seen.append(states_of(manifest))

    assert seen == [[SUBMITTED] * min(day, 4) + [POSTPONED] * (4 - day) for day in range(1, 6)]
    assert list(table.state.creates_booked.values()) == [1] * 4


def test_what_a_run_has_spent_counts_when_it_is_planned_again(table: Table) -> None:
    """Clearing the whole run must not double what it may spend."""
    for _ in range(3):
        table.work(table.plan(ROWS, max_credits=30))

    assert table.sent == 2
    assert states_of(table.plan(ROWS, max_credits=30)) == [SUBMITTED] * 2 + [POSTPONED] * 2
    assert credits_of_run(table.plan(ROWS), "run") == (30, 0)


def test_what_is_stored_counts_as_spent_by_its_run(table: Table) -> None:
    """Done rows are spending, too."""
    table.store(ROWS[0], "run")

    assert states_of(table.plan(ROWS[:2], "run", max_credits=15)) == [STORED, POSTPONED]
    assert states_of(table.plan(ROWS[:2], "next", max_credits=15)) == [STORED, NOT_SUBMITTED]


def test_clears_of_a_run_spend_from_the_same_credits(table: Table) -> None:
    """A cleared task has another generation of the same run, even if the run's id has a # in it."""
    fingerprint = fingerprint_of(ROWS[0].body, account=table.hook.account)
    records = FolderStore(table.folder, "a", fingerprint)
    buy(table.hook.client, Order(ROWS[0].body, fingerprint, "run #1#7"), records)
    plan = table.plan(ROWS[:1])

    assert credits_of_run(plan, "run #1") == (15, 0)
    assert credits_of_run(plan, "run ") == credits_of_run(plan, "run") == (0, 0)


def test_lost_answers_count_as_spent(table: Table) -> None:
    """Perhaps paid is paid, as far as a limit goes."""
    table.lose(ROWS[0], "run")
    plan = table.plan(ROWS, "run", max_credits=30)

    assert states_of(plan) == [UNKNOWN, NOT_SUBMITTED, POSTPONED, POSTPONED]
    assert credits_of_run(plan, "run") == (0, 15)
    assert states_of(table.plan(ROWS, "next", max_credits=30)) == [
        *(UNKNOWN, NOT_SUBMITTED),
        *(NOT_SUBMITTED, POSTPONED),
    ]


def test_refunded_row_is_not_spending(table: Table) -> None:
    """What came back was not spent: not in the manifest, not of the run, not of its limit."""
    table.fail(ROWS[0], "run")
    plan = table.plan(ROWS[:1], "run")
    (entry,) = manifest = table.complete(plan)

    assert (entry.state, entry.credits) == (FAILED, 0)
    assert credits_of_run(manifest, "run") == (0, 0)
    assert states_of(table.plan(ROWS[:1], "run", max_credits=15)) == [FAILED]


def test_settling_by_id_is_not_spending_of_the_settling_run(table: Table) -> None:
    """The first run has paid; the one in which somebody says so pays nothing and has its whole limit."""
    lost = table.lose(ROWS[0], "first")
    plan = table.plan(ROWS[:2], "second", settle={"a": lost}, max_credits=15)
    table.create("a", ROWS[0].body, adopt_music_task_id=lost, run_id="second")
    again = table.plan(ROWS[:2], "second", settle={"a": lost}, max_credits=15)

    assert credits_of_run(plan, "second") == (0, 0)
    assert states_of(again) == [SUBMITTED, NOT_SUBMITTED]


def test_answer_that_another_run_lost_is_not_spending_of_this_one(table: Table) -> None:
    """The second run has paid its own create and nothing else."""
    table.lose(ROWS[0], "first")
    plan = table.plan(ROWS[:2], "second", settle={"a": RESUBMIT}, max_credits=30)
    table.create("a", ROWS[0].body, on_unknown_outcome=RESUBMIT, run_id="second")
    again = table.plan(ROWS[:2], "second", max_credits=30)

    assert [(entry.state, entry.decision) for entry in plan] == [
        *((UNKNOWN, Resubmit()), (NOT_SUBMITTED, None))
    ]
    assert credits_of_run(again, "second") == (15, 0)
    assert states_of(again) == [SUBMITTED, NOT_SUBMITTED]


# -- decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "state"), [("other", SUBMITTED), ("own", UNKNOWN)])
def test_what_another_run_buys_just_now_is_waited_for(
    table: Table, monkeypatch: pytest.MonkeyPatch, owner: str, state: str
) -> None:
    """Its answer is not lost, it only has not come yet; a claim that this task left itself tells nothing."""
    lost = table.lose(ROWS[0])
    path = ObjectStoragePath(f"file://{table.path_of(ROWS[0])}")
    claim = Claim(path, {"other": "d/other d.t", "own": "d/run d.t"}[owner])

    def end(_seconds: float) -> None:
        table.work(table.plan(ROWS[:1], "other", settle={"a": lost}, asker=Asker("d/other", "d.t")), "other")
        claim.__exit__()

    claim.__enter__()
    monkeypatch.setattr("musicapi_provider.purchases.claims.time.sleep", end)
    plan = table.plan(ROWS[:1], asker=Asker("d/run", "d.t"))

    assert states_of(plan) == [state]
    assert table.sent == 1


def test_unknown_outcome_is_collected_by_its_id(table: Table) -> None:
    """A human has found the music task in the account; nothing is bought."""
    lost = table.lose(ROWS[0])
    plan = table.plan(ROWS[:1], "second", settle={"a": f" {lost}\n"})
    (todo,) = rows_to_do(plan)
    ids = table.work(plan, "second")

    assert states_of(plan) == [UNKNOWN]
    assert (todo["adopt_music_task_id"], todo["on_unknown_outcome"]) == (lost, "fail")
    assert ids == {"a": lost}
    assert [(entry.state, entry.credits) for entry in table.plan(ROWS[:1])] == [(SUBMITTED, 15)]
    assert table.sent == 1


def test_unknown_outcome_is_sent_again_on_demand(table: Table) -> None:
    """The decision becomes the create task's policy; what was lost is remembered."""
    table.lose(ROWS[0])
    plan = table.plan(ROWS[:1], "second", settle={"a": "resubmit"})
    (todo,) = rows_to_do(plan)
    ids = table.work(plan, "second")
    (entry,) = table.complete(plan)

    assert (todo["adopt_music_task_id"], todo["on_unknown_outcome"]) == (None, "resubmit")
    assert (entry.state, entry.music_task_id) == (SUBMITTED, ids["a"])
    assert (entry.credits, entry.lost_credits) == (15, 15)
    assert table.sent == 2


def test_decision_about_one_row_leaves_the_others_alone(table: Table) -> None:
    """The other unknown outcome stays, the other purchase is not the policy's business."""
    for row in ROWS[:2]:
        table.lose(row)
    plan = table.plan(ROWS[:3], settle={"a": RESUBMIT})

    assert [(todo["prompt_id"], todo["on_unknown_outcome"]) for todo in rows_to_do(plan)] == [
        ("a", "resubmit"),
        ("c", "fail"),
    ]


@pytest.mark.parametrize(
    ("settle", "reason"),
    [
        pytest.param({"z": "resubmit"}, "rows of the table: a, b, c, d", id="no-such-row"),
        pytest.param({"a ": "resubmit"}, "rows of the table: a, b, c, d", id="slip-in-a-name"),
        pytest.param({"a": " "}, "rows of the table", id="blank"),
        pytest.param({"a": ""}, "rows of the table", id="empty"),
        pytest.param({"a": None}, "rows of the table", id="null"),
        pytest.param({"a": 7}, "rows of the table", id="number"),
        pytest.param({"a": "00000000-0000-4000-8000-000000000000"}, "", id="no-such-music-task"),
        pytest.param({"a": "Resubmit"}, "", id="slip-in-the-word"),
        pytest.param({"c": "resubmit", "z": "resubmit"}, "rows of the table", id="one-of-two"),
    ],
)
def test_decision_that_cannot_be_carried_out_is_refused(
    table: Table, settle: dict[str, Any], reason: str
) -> None:
    """A slip must not buy what is there, nor pass as settled; nothing is bought at all."""
    table.lose(ROWS[0])
    with pytest.raises(MusicAPIConfigurationError, match=f"settle: .*{reason}.*nothing was bought"):
        table.plan(ROWS, settle=settle)

    assert table.sent == 1


@pytest.mark.parametrize("owner", ["buy", "store", "fail"])
def test_music_task_of_another_row_is_refused(table: Table, owner: str) -> None:
    """One music task is one row's, whether its tracks are stored or not."""
    taken = getattr(table, owner)(ROWS[1])
    table.lose(ROWS[0])
    with pytest.raises(MusicAPIConfigurationError, match="that is the music task of 'b'"):
        table.plan(ROWS, settle={"a": taken})


def test_one_music_task_cannot_settle_two_rows(table: Table) -> None:
    """Two answers were lost and one music task was found."""
    lost = [table.lose(row) for row in ROWS[:2]]
    with pytest.raises(MusicAPIConfigurationError, match="that is the music task of 'a'"):
        table.plan(ROWS, settle={"a": lost[0], "b": lost[0]})

    assert to_do(table.plan(ROWS[:2], settle={"a": lost[1], "b": lost[0]})) == ["a", "b"]


def test_look_that_fails_settles_nothing(table: Table) -> None:
    """While the API is away nobody knows whether the id exists: an error that a retry cures."""
    lost = table.lose(ROWS[0])
    table.state.scenario("read-500", times=None)
    with pytest.raises(MusicAPIError) as caught:
        table.plan(ROWS[:1], settle={"a": lost})

    assert caught.value.retryable


@pytest.mark.parametrize(
    ("known", "decision", "state"),
    [
        pytest.param("store", "resubmit", STORED, id="stored"),
        pytest.param("store", "whatever", STORED, id="stored-with-an-id"),
        pytest.param("buy", "resubmit", SUBMITTED, id="bought"),
        pytest.param("fail", "resubmit", FAILED, id="failed"),
        pytest.param(None, "resubmit", NOT_SUBMITTED, id="not-bought"),
    ],
)
def test_decision_that_is_not_needed_is_a_warning(
    table: Table, known: str | None, decision: str, state: str, logged: Log
) -> None:
    """A run with settle may be cleared or triggered again: the row goes its usual way."""
    if known:
        getattr(table, known)(ROWS[0])
    plan = table.plan(ROWS[:1], settle={"a": decision})

    assert [(state, None)] == [(entry.state, entry.decision) for entry in plan]
    assert [todo["on_unknown_outcome"] for todo in rows_to_do(plan)] == (["fail"] if state != STORED else [])
    assert f"settle: a needs no decision, it is {state}" in logged.text


@pytest.mark.parametrize("decision", ["its-id", RESUBMIT])
def test_repeated_decision_changes_nothing(table: Table, decision: str) -> None:
    """Clear the settling run, trigger it again, before and after its tracks are stored."""
    lost = table.lose(ROWS[0])
    settle = {"a": lost if decision == "its-id" else decision}
    ids = [table.work(table.plan(ROWS[:1], run_id, settle=settle), run_id) for run_id in ("2", "2", "3")]
    (Path(table.folder.path) / "c1.mp3").touch()
    table.complete(table.plan(ROWS[:1], settle=settle), a=[track_of(ids[0]["a"])])
    plan = table.plan(ROWS[:1], settle=settle)

    assert ids == [ids[0]] * 3
    assert states_of(plan) == [STORED]
    assert rows_to_do(plan) == []
    assert table.sent == (1 if decision == "its-id" else 2)


def test_wrong_decision_is_corrected_by_a_later_one(table: Table) -> None:
    """The id was that of something else in the account; the right one takes its place."""
    something_else = table.hook.create(row_of("x").body)
    lost = table.lose(ROWS[0])
    table.work(table.plan(ROWS[:1], "2", settle={"a": something_else}), "2")
    wrong = table.plan(ROWS[:1])
    ids = table.work(table.plan(ROWS[:1], "3", settle={"a": lost}), "3")

    assert [entry.music_task_id for entry in wrong] == [something_else]
    assert ids == {"a": lost}
    assert [entry.music_task_id for entry in table.plan(ROWS[:1])] == [lost]
    assert table.sent == 2


def test_decision_may_name_the_music_task_of_a_row_that_was_never_sent(table: Table) -> None:
    """Bought elsewhere, by hand: it is collected, and costs this run nothing."""
    elsewhere = table.hook.create(ROWS[0].body)
    plan = table.plan(ROWS[:2], settle={"a": elsewhere}, max_credits=15)
    ids = table.work(plan)

    assert states_of(plan) == [NOT_SUBMITTED] * 2
    assert ids["a"] == elsewhere
    assert table.sent == 2
    assert credits_of_run(table.complete(plan), "run") == (15, 0)


def test_failed_row_may_be_settled_by_an_id(table: Table) -> None:
    """Somebody has bought it by hand meanwhile."""
    table.fail(ROWS[0])
    by_hand = table.hook.create(ROWS[0].body)
    table.work(table.plan(ROWS[:1], settle={"a": by_hand}))

    assert [(entry.state, entry.music_task_id) for entry in table.plan(ROWS[:1])] == [(SUBMITTED, by_hand)]


def test_resubmit_beyond_the_limit_leaves_the_row_unknown(table: Table, logged: Log) -> None:
    """Sending again costs, too; the row must not be written down as waiting for its first purchase."""
    table.lose(ROWS[1], "first")
    plan = table.plan(ROWS[:2], "second", settle={"b": RESUBMIT}, max_credits=15)
    table.work(plan, "second")

    assert states_of(plan) == [NOT_SUBMITTED, UNKNOWN]
    assert plan[1].decision is None
    assert to_do(plan) == ["a"]
    assert states_of(table.complete(plan)) == [SUBMITTED, UNKNOWN]
    assert "settle: b is not carried out: it is postponed" in logged.text
    assert table.sent == 2


def test_resubmit_within_the_limit_is_paid_from_it(table: Table) -> None:
    """It takes its turn in the table's order."""
    table.lose(ROWS[0], "first")
    plan = table.plan(ROWS[:2], "second", settle={"a": RESUBMIT}, max_credits=15)

    assert states_of(plan) == [UNKNOWN, POSTPONED]
    assert to_do(plan) == ["a"]


# -- results ------------------------------------------------------------------------------------------------


def test_manifest_says_what_became_of_each_row(table: Table) -> None:
    """Stored, submitted, failed, unknown, not submitted and postponed are told apart, by the records."""
    rows = [row_of(name) for name in "abcdefg"]
    done = table.store(rows[6])
    plan = table.plan(rows, max_credits=75)
    stored, bought, failed = table.buy(rows[0], "run"), table.buy(rows[1], "run"), table.fail(rows[2], "run")
    table.lose(rows[3], "run")
    before = copy.deepcopy(plan)
    manifest = table.complete(plan, a=[track_of(stored, "c1"), track_of(stored, "c2")])

    assert states_of(manifest) == [
        STORED,
        SUBMITTED,
        FAILED,
        UNKNOWN,
        NOT_SUBMITTED,
        POSTPONED,
        STORED,
    ]
    assert [entry.music_task_id for entry in manifest] == [
        *(stored, bought, failed),
        *(None, None, None, done),
    ]
    assert [len(entry.tracks) for entry in manifest] == [2, 0, 0, 0, 0, 0, 1]
    assert [entry.credits for entry in manifest if entry.state != FAILED] == [15, 15, None, 0, 0, 15]
    assert [entry.lost_credits for entry in manifest] == [0, 0, 0, 15, 0, 0, 0]
    assert {frozenset(entry.as_json(final=True)) for entry in manifest} == {
        frozenset(
            {
                *("prompt_id", "body", "fingerprint", "state", "music_task_id", "submitted_at"),
                *("tracks", "error", "credits", "lost_credits", "price", "paid_by"),
            }
        )
    }
    assert [entry.error for entry in manifest] == [
        *(
            None,
            WHY[SUBMITTED],
            manifest[2].error,
            WHY[UNKNOWN],
            WHY[NOT_SUBMITTED],
        ),
        *(None, None),
    ]
    assert "ended with 'failed': Generation failed, credits refunded" in manifest[2].error
    assert before == plan, "the plan is an XCom of another task"


@pytest.mark.parametrize(
    "tracks",
    [
        pytest.param(lambda _id: None, id="no-xcom"),
        pytest.param(lambda _id: [], id="no-tracks"),
        pytest.param(lambda _id: [track_of("t9")], id="of-another-music-task"),
        pytest.param(lambda _id: [{"clip_id": "c1"}], id="of-nobody-knows-which"),
    ],
)
@pytest.mark.parametrize(
    ("known", "state"),
    [
        ("buy", SUBMITTED),
        ("fail", FAILED),
        ("lose", UNKNOWN),
        (None, NOT_SUBMITTED),
    ],
)
def test_row_without_tracks_of_its_own_is_not_stored(
    table: Table, tracks: Callable[[str], Any], known: str | None, state: str
) -> None:
    """The map index may have been another row's, or another purchase's, when its XCom was written."""
    plan = table.plan(ROWS[:1])
    id_ = getattr(table, known)(ROWS[0]) if known else ""
    (entry,) = complete_plan(plan, {"a": tracks(id_), "b": [track_of(id_)]}, table.folder, table.hook.client)

    assert (entry.state, entry.tracks) == (state, [])


def test_tracks_of_another_music_task_are_passed_over(table: Table) -> None:
    """Of a mixture the row's own are kept."""
    plan = table.plan(ROWS[:1])
    id_ = table.buy(ROWS[0])
    (entry,) = table.complete(plan, a=[track_of("t9", "c9"), track_of(id_, "c1")])

    assert (entry.state, entry.tracks) == (STORED, [stored_track(id_, "c1")])


def test_stored_row_needs_no_api(table: Table) -> None:
    """Tracks are proof enough: the API may be away when the manifest is written."""
    plan = table.plan(ROWS[:1])
    id_ = table.buy(ROWS[0])
    requests = table.state.requests.total()

    assert states_of(table.complete(plan, a=[track_of(id_)])) == [STORED]
    assert table.state.requests.total() == requests


def test_row_that_an_earlier_run_bought_becomes_stored(table: Table) -> None:
    """The second run's tracks belong to the first run's purchase, and so do its credits."""
    id_ = table.buy(ROWS[0], "first")
    plan = table.plan(ROWS[:1], "second")
    table.work(plan, "second")
    manifest = table.complete(plan, a=[track_of(id_)])

    assert [(entry.state, entry.credits) for entry in manifest] == [(STORED, 15)]
    assert credits_of_run(manifest, "first") == (15, 0)
    assert credits_of_run(manifest, "second") == (0, 0)


def test_credits_of_a_run_are_its_own(table: Table) -> None:
    """Spent and perhaps spent are told apart, by the run that sent."""
    for row, run_id in zip(ROWS, ("first", "second", "second", "first"), strict=True):
        (table.lose if row.prompt_id in "cd" else table.buy)(row, run_id)
    manifest = table.complete(table.plan(ROWS))

    assert credits_of_run(manifest, "first") == (15, 15)
    assert credits_of_run(manifest, "second") == (15, 15)
    assert credits_of_run(manifest, "third") == (0, 0)
    assert credits_of_run(manifest[:1], "first") == (15, 0)


# -- stored rows --------------------------------------------------------------------------------------------


def test_what_is_stored_stays_stored(table: Table) -> None:
    """Planning, working and completing again changes nothing, and asks the API nothing."""
    id_ = table.store(ROWS[0])
    requests = table.state.requests.total()
    (entry,) = plan = table.plan(ROWS[:1], "second")
    table.complete(plan)

    assert (entry.state, entry.music_task_id, entry.tracks) == (STORED, id_, [stored_track(id_)])
    assert states_of(table.plan(ROWS[:1], "third")) == [STORED]
    assert rows_to_do(plan) == []
    assert table.state.requests.total() == requests


def test_row_whose_files_are_gone_is_collected_and_not_bought(table: Table, logged: Log) -> None:
    """Somebody has emptied the folder: the song is paid for, so its music task is looked at again."""
    id_ = table.store(ROWS[0])
    (Path(table.folder.path) / "c1.mp3").unlink()
    plan = table.plan(ROWS[:1], "second")

    assert [(entry.state, entry.music_task_id, entry.tracks) for entry in plan] == [(SUBMITTED, id_, [])]
    assert table.work(plan, "second") == {"a": id_}
    assert table.sent == 1
    assert "a: the files of c1 are gone from" in logged.text


def test_row_whose_file_is_cut_is_collected_again(table: Table) -> None:
    """A file of another size is not what was stored."""
    id_ = table.buy(ROWS[0])
    table.complete(table.plan(ROWS[:1]), a=[{**track_of(id_), "bytes": 9}])
    file = Path(table.folder.path) / "c1.mp3"
    file.write_bytes(b"whole one")
    whole = states_of(table.plan(ROWS[:1]))
    file.write_bytes(b"cut")

    assert whole == [STORED]
    assert states_of(table.plan(ROWS[:1])) == [SUBMITTED]


def test_tracks_of_an_earlier_purchase_are_not_those_of_a_later_one(table: Table) -> None:
    """Somebody has settled the row with another music task: what is stored is not its song."""
    table.store(ROWS[0])
    other = table.buy(row_of("z"))
    table.create("a", ROWS[0].body, adopt_music_task_id=other)
    (entry,) = table.plan(ROWS[:1])

    assert (entry.state, entry.music_task_id, entry.tracks) == (SUBMITTED, other, [])


@pytest.mark.parametrize(
    "stored", [None, 7, [], {}, {"music_task_id": "its"}, {"music_task_id": "its", "tracks": [7]}]
)
def test_odd_word_about_what_is_stored_is_not_believed(table: Table, stored: Any) -> None:
    """The row is collected again; the purchase stays known."""
    id_ = table.store(ROWS[0])
    content = json.loads(table.path_of(ROWS[0]).read_text())
    text = json.dumps({**content, STORED_KEY: stored}).replace('"its"', f'"{id_}"')
    table.path_of(ROWS[0]).write_text(text)

    assert states_of(table.plan(ROWS[:1])) == [SUBMITTED]


@pytest.mark.parametrize("method", ["ls", "read"])
def test_storage_that_does_not_answer_is_an_error(
    hook: MusicAPIHook, simulator: SimulatorServer, method: str
) -> None:
    """It must not pass for an empty folder: everything would be bought again."""
    storage = UnreliableFileSystem()
    attach("memory", f"away-{method}", fs=storage)
    table = Table(ObjectStoragePath(f"memory://away-{method}@away/{method}"), hook, simulator)
    table.buy(ROWS[0])
    storage.away.add(method)

    with pytest.raises(MusicAPINotSentError, match="Slow Down"):
        table.plan(ROWS)
    assert states_of(table.plan(ROWS)) == [SUBMITTED, *[NOT_SUBMITTED] * 3]


def test_thousands_of_rows_are_planned_with_one_listing(
    hook: MusicAPIHook, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New rows cost no request each, neither at the storage nor at the API."""
    storage = UnreliableFileSystem()
    attach("memory", "counted", fs=storage)
    table = Table(ObjectStoragePath("memory://counted@counted/music"), hook, simulator)
    table.buy(ROWS[0])
    calls = Counter[str]()
    monkeypatch.setattr(storage, "_check", lambda method: calls.update([method]))
    plan = table.plan([*ROWS, *(row_of(f"row-{number}") for number in range(2000))], ahead=False)

    assert len(plan) == 2004
    assert calls == {"ls": 1, "read": 1}


@pytest.mark.parametrize("text", ["Größe 音楽 🎵", "line\nbreak\u2028and \x00", "{{ ds }}", "%s {0}"])
def test_row_with_any_text_is_collected(table: Table, text: str) -> None:
    """Text is data, in the row's name as in its words."""
    row = row_of(text, text)
    ids = table.work(table.plan([row]))

    assert table.work(table.plan([row], "second"), "second") == ids
    assert table.sent == 1
