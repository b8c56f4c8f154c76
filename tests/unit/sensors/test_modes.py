"""One meaning: what happens to a music task has the same end in every mode of the sensor."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import TaskSuccessEvent

from include.musicapi_simulator.scenario import Armed, Stage
from include.musicapi_simulator.scenarios import find
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor
from musicapi_provider.waiting import pace, poller
from musicapi_provider.waiting import wait as waiting
from tests.conftest import QUICK
from tests.unit.conftest import MemoryStateStore

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log, TriggererXComs

pytestmark = pytest.mark.usefixtures("quick")

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "tags": "folk"}
#: Poke is the reference; the others must end as it does.
MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "deferrable": False},
    "reschedule": {"mode": "reschedule", "deferrable": False},
    "deferrable": {"deferrable": True},
    "worker_free": {"worker_free": True},
}
#: Music tasks, clips, requests.
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=request id )[\w-]+")
#: What differs between two purchases of the same.
VOLATILE = {"music_task_id", "clip_id", "created_at", "audio_url", "image_url", "video_url"}
READY = "{} tracks of {} music tasks are ready"


@dataclass(frozen=True)
class Case:
    """
    A situation and its end.

    :param prompts: A music task each; what the simulator makes of it is in the words.
    :param tracks: How many tracks the sensor returns; ``None``: it fails.
    :param strict_tracks: The same with ``fail_on_partial``.
    :param error: What it raises where it fails.
    :param words: What the error says.
    :param log: What the log says on the way to tracks.
    :param setting: Further preparation of the simulator.
    :param changes: Arguments of the sensor.
    """

    prompts: tuple[str, ...] = ("a harp",)
    tracks: int | None = None
    strict_tracks: int | None = None
    error: type[Exception] = AirflowFailException
    words: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    setting: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)


def succeeds(*prompts: str, tracks: int = 2, setting: str | None = None) -> Case:
    """Return a case that ends well."""
    log = (READY.format(tracks, len(prompts)),)
    return Case(prompts, tracks, tracks, log=log, setting=setting)


CASES = {
    "success": succeeds("a harp"),
    "success of several": succeeds("a harp", "a lute", tracks=4),
    "partial": Case(
        ("simulate:partial",),
        tracks=1,
        words=("1 of 2 clips succeeded", "Generation failed upstream", "fail_on_partial=False"),
        log=("Not among the results: clip ID failed: Generation failed upstream", READY.format(1, 1)),
    ),
    "one of two failed": Case(
        ("a harp", "simulate:failed"),
        tracks=2,
        words=("2 clips succeeded and some did not", "ended with 'failed'"),
        log=("Not among the results: music task ID ended with 'failed'", READY.format(2, 2)),
    ),
    "failed": Case(("simulate:failed",), words=("ended with 'failed'", "refunded")),
    "all clips failed": Case(("simulate:all-failed",), words=("No clip of the music task succeeded",)),
    "all failed": Case(("simulate:failed", "simulate:all-failed"), words=("None of 2 music tasks",)),
    "moderated": Case(("simulate:forbidden",), words=("forbidden", "Inappropriate content detected")),
    "unknown id": Case((), words=("does not know music task 'nobody-knows'",)),
    "no id": Case((), words=("must be an id or a list of ids",), changes={"music_task_id": "None"}),
    "deadline": Case(
        ("simulate:running",),
        error=AirflowSensorTimeout,
        words=("After 0.12 s still running: ID", "2 of 2 clips are running", "nothing is bought"),
        changes={"timeout": 0.12},
    ),
    "deadline of one": Case(
        ("a harp", "simulate:running"),
        error=AirflowSensorTimeout,
        words=("After 0.3 s still running: ID (last poll: 2 of 2 clips are running)",),
        changes={"timeout": 0.3},
    ),
    "transient errors": succeeds("a harp", setting="read-500 read-429 read-drop"),
    "transient errors for ever": Case(
        error=AirflowSensorTimeout,
        words=("After 0.12 s still running: ID",),
        setting="read-502*",
        changes={"timeout": 0.12},
    ),
    "streaming first": succeeds("simulate:streaming-state"),
    "malformed answers": succeeds("a harp", setting="read-html read-truncated"),
    "malformed answers for ever": Case(
        error=AirflowSensorTimeout,
        words=("After 0.12 s still running: ID",),
        setting="read-html*",
        changes={"timeout": 0.12},
    ),
    "unknown answer": Case(("simulate:unknown-type",), words=("ended with the unknown type 'weird'",)),
    "no audio URL": Case(("simulate:no-audio-url",), words=("without a usable audio URL",)),
    "key revoked": Case(words=("does not accept the key",), setting="revoked"),
}
FLAGS: dict[str, dict[str, Any]] = {
    "": {},
    "soft_fail": {"soft_fail": True},
    "never_fail": {"never_fail": True},
}


@dataclass
class RevokedKey(Armed):
    """Refuse the key from the second poll on."""

    let_pass: int = 1

    def fires(self, stage: Stage, text: str) -> bool:
        """Say whether this poll is refused."""
        if stage is not self.scenario.stage:
            return False
        self.let_pass -= 1
        return self.let_pass < 0


@dataclass
class End:
    """How a sensor ended; ids are replaced, so that two runs can be compared."""

    state: str
    error: str | None
    text: str
    tracks: list[dict[str, Any]] | None
    log: list[str]


@dataclass
class Bench:
    """Run one sensor in one mode as Airflow does."""

    simulator: SimulatorServer
    xcoms: TriggererXComs
    logged: Log

    def end_of(self, case: Case, mode: str, **changes: Any) -> End:
        """Prepare the situation, wait, and tell the end."""
        ids = self.prepare(case)
        arguments = {"music_task_id": ids, "poke_interval": 0.01, "timeout": 8.0, **MODES[mode]}
        run = Run(lambda: self.sensor({**arguments, **case.changes, **changes}), self.xcoms)
        self.logged.clear()
        try:
            state, error, result = "success", None, run.result()
        except (AirflowFailException, AirflowSensorTimeout) as caught:
            state, error, result = "failed", caught, None
        except AirflowSkipException as caught:
            state, error, result = "skipped", caught, None
        log = [line for line in self.logged.lines if re.match("Not among|Skipping: |.* are ready", line)]
        return End(
            state,
            error and type(error).__name__,
            ID.sub("ID", str(error)),
            result and [{key: track[key] for key in track if key not in VOLATILE} for track in result],
            sorted({re.sub(r" after \d+ s", "", ID.sub("ID", line)) for line in log}),
        )

    def prepare(self, case: Case) -> list[str]:
        self.simulator.reset()
        ids = []
        for prompt in case.prompts:
            job = self.simulator.state.book({**BODY, "prompt": prompt})
            assert job is not None
            ids.append(job.task_id)
        for name in (case.setting or "").split():
            if name == "revoked":
                self.simulator.state.armed.append(RevokedKey(find("read-unauthorized")))
            elif name.endswith("*"):
                self.simulator.state.scenario(name[:-1], times=10_000)
            else:
                self.simulator.state.scenario(name)
        return ids or ["nobody-knows"]

    @staticmethod
    def sensor(arguments: dict[str, Any]) -> MusicAPITaskSensor:
        sensor = MusicAPITaskSensor(task_id="wait", **arguments)
        sensor.hook = MusicAPIHook(sensor.musicapi_conn_id, retries=QUICK)
        return sensor


@dataclass
class Run:
    """A task instance: phases on a worker, each with a new object, and in the triggerer."""

    make: Callable[[], MusicAPITaskSensor]
    xcoms: TriggererXComs
    workers: int = 0

    def __post_init__(self) -> None:
        self.xcoms.values.clear()
        instance = MagicMock(spec=RuntimeTaskInstance)
        instance.max_tries = 0
        instance.get_first_reschedule_date.return_value = None
        self.context: dict[str, Any] = {"ti": instance, "task_state_store": MemoryStateStore()}

    def result(self) -> Any:
        """Return what goes to XCom, or raise what ends the task."""
        sensor = self.make()
        if sensor.start_from_trigger:
            return self._after(_trigger_of(sensor), "execute_complete")
        return self._on_worker(lambda: sensor.execute(self.context))

    def _on_worker(self, phase: Callable[[], Any]) -> Any:
        began = datetime.datetime.now(datetime.UTC)
        for _ in range(200):
            self.workers += 1
            try:
                return phase()
            except AirflowRescheduleException:
                self.context["ti"].get_first_reschedule_date.return_value = began
                phase = lambda: self.make().execute(self.context)  # noqa: E731 - the next of several phases
            except TaskDeferred as deferred:
                return self._after(deferred.trigger, deferred.method_name)
        raise AssertionError("it goes round in circles")

    def _after(self, trigger: Any, method: str) -> Any:
        trigger.task_instance = SimpleNamespace(
            dag_id="dag", task_id="wait", run_id="run", map_index=-1, try_number=1, task=None
        )
        (event,) = asyncio.run(_events(trigger.run()))
        if isinstance(event, TaskSuccessEvent):
            return self.xcoms.values["wait", "return_value"]
        return self._on_worker(
            lambda: self.make().resume_execution(method, {"event": event.payload}, self.context)
        )


def _trigger_of(sensor: MusicAPITaskSensor) -> Any:
    args = sensor.start_trigger_args
    assert args is not None
    assert args.next_method == "execute_complete"
    module, _, name = args.trigger_cls.rpartition(".")
    return getattr(importlib.import_module(module), name)(**args.trigger_kwargs)


async def _events(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


@pytest.fixture
def bench(
    simulator: SimulatorServer,
    triggerer_xcoms: TriggererXComs,
    logged: Log,
    connect: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """Return what runs a sensor in a mode."""
    connect(simulator.base_url, simulator.api_key, poll_interval=0.01, timeout=5, polls_per_second=1000)
    monkeypatch.setattr(waiting, "UNKNOWN_TASK_GRACE", 0.1)
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(poller, "MIN_PAUSE", 0.01)
    yield Bench(simulator, triggerer_xcoms, logged)
    simulator.reset()


@pytest.mark.parametrize(
    ("name", "flag", "strict"),
    [
        pytest.param(name, flag, strict, id=f"{name}-{flag}{'-fail_on_partial' if strict else ''}")
        for name, case in CASES.items()
        for flag in FLAGS
        for strict in ([False, True] if case.tracks else [False])
    ],
)
def test_every_mode_ends_the_same_way(name: str, flag: str, strict: bool, bench: Bench) -> None:
    """State, exception, result and log lines of poke are those of the table, and those of all modes."""
    case = CASES[name]
    ends = {mode: bench.end_of(case, mode, fail_on_partial=strict, **FLAGS[flag]) for mode in MODES}
    poke, tracks = ends["poke"], case.strict_tracks if strict else case.tracks
    why = "\n".join(poke.log) if flag else poke.text

    if tracks is None:
        expected = ("skipped", "AirflowSkipException") if flag else ("failed", case.error.__name__)
        assert expected == (poke.state, poke.error)
        assert [words for words in case.words if words not in why] == []
        assert poke.tracks is None
    else:
        assert ("success", None, tracks) == (poke.state, poke.error, len(poke.tracks or []))
        assert [line for line in case.log if not any(said.startswith(line) for said in poke.log)] == []
    assert ends == dict.fromkeys(MODES, poke)


@pytest.mark.parametrize(
    ("mode", "name", "workers"),
    [
        pytest.param("poke", "success", 1, id="poke"),
        pytest.param("deferrable", "success", 2, id="deferrable"),
        pytest.param("worker_free", "success", 0, id="worker_free"),
        pytest.param("worker_free", "partial", 0, id="worker_free, partial"),
        pytest.param("worker_free", "failed", 1, id="worker_free, failed"),
        pytest.param("worker_free", "deadline", 1, id="worker_free, deadline"),
    ],
)
def test_worker_phases(mode: str, name: str, workers: int, bench: Bench) -> None:
    """What a wait costs in worker starts; a worker-free failure costs the one that tells it."""
    ids = bench.prepare(CASES[name])
    arguments = {"music_task_id": ids, "poke_interval": 0.01, "timeout": 0.5, **MODES[mode]}
    run = Run(lambda: bench.sensor(arguments), bench.xcoms)
    with suppress(AirflowFailException, AirflowSensorTimeout):
        run.result()

    assert run.workers == workers
