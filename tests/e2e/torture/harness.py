"""
Run the torture: simulator and gate in this process, Airflow as real processes, a triggerer that dies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from include.local.stack import AIRFLOW_HOME, PROJECT, Stack, connection_json
from include.musicapi_simulator import Settings, SimulatorServer
from tests.e2e.torture.gate import Gate, Torture, Way
from tests.e2e.torture.plan import RETRIES, Fault, is_cleared, new_purchases
from tests.e2e.torture.purchases import (
    BASE_URL,
    BEGAN,
    DAG_IDS,
    GATE,
    KEY,
    ORDER,
    PURCHASES,
    REQUEST_TIMEOUT,
    TASK_ID,
    WAITING,
    WAYS,
    purchase_name,
)
from tests.e2e.torture.records import discard_task_state, read_rows, task_states

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI
    from tests.e2e.torture.judge import Row

#: Task processes at once; SQLite has one writer, so more only wait for each other.
PARALLELISM = 6
#: Seconds for each purchase before the run is given up; one takes two or three.
PATIENCE = 20.0
#: Shares of finished purchases at which the triggerer is killed, if something waits in it.
TRIGGERER_DIES_AT = (0.15, 0.55)
ENDED = ("success", "failed", "upstream_failed", "removed")


@dataclass(frozen=True, slots=True)
class Options:
    """
    What to run.

    :param purchases: Of each way.
    :param waiting: Every which purchase of ours waits for its tracks in the triggerer; 0: none.
    """

    purchases: int
    seed: int
    ways: tuple[str, ...]
    waiting: int


@dataclass
class Outcome:
    """What came out; by way."""

    options: Options
    rows: dict[str, list[Row]] = field(default_factory=dict)
    seen: dict[str, Way] = field(default_factory=dict)
    triggerer_kills: int = 0
    seconds: float = 0.0


def run(options: Options, say: Callable[[str], None]) -> Outcome:
    """Buy everything in every way under faults and kills, and return what came out."""
    outcome = Outcome(options)
    credits = 15 * options.purchases * len(options.ways) * (RETRIES + 1) * 4  # never the reason of a refusal
    simulated = Settings(api_key=KEY, credits=credits, job_rule="seconds:15", song_seconds=1, retry_after=0.5)
    simulated.slow_seconds = REQUEST_TIMEOUT + 1.5
    server = SimulatorServer(simulated)
    torture = Torture(server.state, options.seed)
    server.app.add_middleware(Gate, torture=torture)
    with (
        server,
        Stack(home=AIRFLOW_HOME / "torture", fresh=True, settings=_settings(server, options)) as stack,
    ):
        stack.migrate()
        say("Starting Airflow ...")
        stack.start_airflow()
        started = time.monotonic()
        order = [purchase_name(index) for index in range(options.purchases)]
        orders = dict.fromkeys(options.ways, order)
        _order(stack, order)
        runs = _buy(stack, options.ways)
        outcome.triggerer_kills = _watch(stack, options, say)
        if options.ways == ("ours",):  # beside other ways only what all of them can stand
            orders["ours"] = _clear_and_move(stack, torture, options, runs["ours"], say)
        outcome.seconds = time.monotonic() - started
        database = stack.home / "airflow.db"
        outcome.rows = {way: read_rows(database, torture, way, orders[way]) for way in options.ways}
        outcome.seen = {way: torture.ways[way] for way in options.ways}
    return outcome


def _settings(server: SimulatorServer, options: Options) -> dict[str, str]:
    base_url = server.base_url
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "tests" / "e2e" / "torture" / "dags"),
        "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(PARALLELISM),
        # A dead triggerer's triggers go to the next one after this; usually half a minute.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        "AIRFLOW_CONN_MUSICAPI_DEFAULT": connection_json(
            base_url, KEY, timeout=REQUEST_TIMEOUT, poll_interval=2
        ),
        "AIRFLOW_CONN_TORTURE_HTTP": json.dumps({"conn_type": "http", "host": base_url}),
        BASE_URL: base_url,
        GATE: base_url.removesuffix("/api/v1") + BEGAN,
        WAYS: " ".join(options.ways),
        PURCHASES: str(options.purchases),
        WAITING: str(options.waiting),
        ORDER: str(AIRFLOW_HOME / "torture-order.json"),
    }


def _order(stack: Stack, order: Sequence[str]) -> None:
    """Say which purchases our rows are."""
    Path(stack.environment[ORDER]).write_text(json.dumps(order))


def _buy(stack: Stack, ways: Sequence[str]) -> dict[str, str]:
    """Begin to buy in each way, and return the dag runs."""
    api = stack.api()
    for way in ways:
        stack.wait_for_dag(api, DAG_IDS[way])
    return {way: api.trigger(DAG_IDS[way], {}) for way in ways}


def _clear_and_move(
    stack: Stack, torture: Torture, options: Options, run_id: str, say: Callable[[str], None]
) -> list[str]:
    """
    Clear purchases that have ended, then order new ones in front of all; Airflow forgets the tasks' states.

    :return: The purchases by map index, at the end.
    """
    api, dag_id, struck = stack.api(), DAG_IDS["ours"], torture.ways["ours"].struck
    database = stack.home / "airflow.db"
    order = [purchase_name(index) for index in range(options.purchases)]
    _until_over(stack, api, run_id)
    torture.round = 1
    cleared = [index for index, name in enumerate(order) if is_cleared(options.seed, name)]
    say(f"{len(cleared)} purchases are cleared, their task state is discarded")
    struck[Fault.CLEARED] += [order[index] for index in cleared]
    discard_task_state(database, "ours", cleared)
    api.clear(dag_id, run_id, TASK_ID, cleared)
    _watch(stack, options, say, ways=("ours",), triggerer_dies=False)
    _until_over(stack, api, run_id)
    torture.round = 2
    new = new_purchases(options.purchases)
    say(f"All rows move behind {len(new)} new ones, their task state is discarded")
    struck[Fault.MOVED] += order
    discard_task_state(database, "ours", range(len(order)))
    order = [*new, *order]
    _order(stack, order)
    api.clear(dag_id, run_id, "order", downstream=True)
    more = replace(options, purchases=len(order))
    _watch(stack, more, say, ways=("ours",), triggerer_dies=False)
    _until_over(stack, api, run_id)
    return order


def _until_over(stack: Stack, api: AirflowAPI, run_id: str) -> None:
    """Wait until our run has ended: a clear before that may be lost."""
    deadline = time.monotonic() + 120
    while api.run_state(DAG_IDS["ours"], run_id) not in ("success", "failed") and time.monotonic() < deadline:
        stack.check_alive()
        time.sleep(0.5)


def _watch(
    stack: Stack,
    options: Options,
    say: Callable[[str], None],
    *,
    ways: Sequence[str] | None = None,
    triggerer_dies: bool = True,
) -> int:
    """Wait until all purchases have ended; kill the triggerer meanwhile. Return how often it died."""
    ways = ways or options.ways
    total = options.purchases * len(ways)
    deadline = time.monotonic() + 120 + PATIENCE * total
    deaths, said = 0, -1
    while time.monotonic() < deadline:
        stack.check_alive()
        states = [task_states(stack.home / "airflow.db", way) for way in ways]
        ended = sum(counts[state] for counts in states for state in ENDED)
        waiting = sum(counts["deferred"] for counts in states)
        if ended * 20 // total != said:
            said = ended * 20 // total
            say(f"{ended}/{total} ended, {waiting} waiting in the triggerer")
        if ended >= total:
            break
        if (
            triggerer_dies
            and waiting
            and deaths < len(TRIGGERER_DIES_AT)
            and ended >= TRIGGERER_DIES_AT[deaths] * total
        ):
            stack.kill("triggerer")
            stack.start_part("triggerer")
            deaths += 1
            say(f"The triggerer is killed with {waiting} waiting in it, and started again")
        time.sleep(0.5)
    return deaths
