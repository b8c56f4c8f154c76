"""
Run the torture: simulator and gate in this process, Airflow as real processes, a triggerer that dies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.local.stack import AIRFLOW_HOME, PROJECT, Stack, connection_json
from include.musicapi_simulator import Settings, SimulatorServer
from tests.e2e.torture.gate import Gate, Torture, Way
from tests.e2e.torture.plan import RETRIES
from tests.e2e.torture.purchases import (
    BASE_URL,
    BEGAN,
    DAG_IDS,
    GATE,
    KEY,
    PURCHASES,
    REQUEST_TIMEOUT,
    WAITING,
    WAYS,
)
from tests.e2e.torture.records import read_rows, task_states

if TYPE_CHECKING:
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
        _buy(stack, options.ways)
        outcome.triggerer_kills = _watch(stack, options, say)
        outcome.seconds = time.monotonic() - started
        database = stack.home / "airflow.db"
        outcome.rows = {way: read_rows(database, torture, way, options.purchases) for way in options.ways}
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
    }


def _buy(stack: Stack, ways: Sequence[str]) -> None:
    api = stack.api()
    for way in ways:
        stack.wait_for_dag(api, DAG_IDS[way])
    for way in ways:
        api.trigger(DAG_IDS[way], {})


def _watch(stack: Stack, options: Options, say: Callable[[str], None]) -> int:
    """Wait until all purchases have ended; kill the triggerer meanwhile. Return how often it died."""
    total = options.purchases * len(options.ways)
    deadline = time.monotonic() + 120 + PATIENCE * total
    deaths, said = 0, -1
    while time.monotonic() < deadline:
        stack.check_alive()
        states = [task_states(stack.home / "airflow.db", way) for way in options.ways]
        ended = sum(counts[state] for counts in states for state in ENDED)
        waiting = sum(counts["deferred"] for counts in states)
        if ended * 20 // total != said:
            said = ended * 20 // total
            say(f"{ended}/{total} ended, {waiting} waiting in the triggerer")
        if ended >= total:
            break
        if waiting and deaths < len(TRIGGERER_DIES_AT) and ended >= TRIGGERER_DIES_AT[deaths] * total:
            stack.kill("triggerer")
            stack.start_part("triggerer")
            deaths += 1
            say(f"The triggerer is killed with {waiting} waiting in it, and started again")
        time.sleep(0.5)
    return deaths
