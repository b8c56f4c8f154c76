"""The worker's side: what a create says, what is on record before it leaves, how a lost answer is settled."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from musicapi_provider.exceptions import MusicAPIAmbiguousSubmitError, MusicAPIConfigurationError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor
from musicapi_provider.triggers.events import BEGIN
from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from musicapi_provider.webhooks import expectation, notices
from musicapi_provider.webhooks.addresses import callback_key, called_key, payer_of, waits_for_key
from musicapi_provider.webhooks.triggers import MusicAPICallbackTrigger
from tests.conftest import QUICK
from tests.unit.conftest import is_slot

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log, MemoryStateStore, TriggererXComs

SECRET = "the-secret-that-signs-callbacks"
OLD = "the-one-before-it-still-accepted"
URL = re.compile(r"https://127\.0\.0\.1:1/musicapi-webhooks/musicapi_default/([0-9a-f]{32}-[0-9a-f]{32})")
GET_TASK = "GET /sonic/task/{task_id}"

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def webhooks(
    simulator: SimulatorServer, connect: Callable[..., None], task_instance: MagicMock
) -> Callable[..., None]:
    """Give the connection webhooks, and return a function that changes its extras."""
    task_instance.id = uuid4()

    def set_up(**changes: Any) -> None:
        extra = {
            **{"webhook": True, "webhook_base_url": "https://127.0.0.1:1/"},
            **{"webhook_secret": f"{SECRET} {OLD}", "timeout": 5, **changes},
        }
        connect(simulator.base_url, simulator.api_key, **extra)

    set_up()
    return set_up


def create_for(**arguments: Any) -> MusicAPICreateOperator:
    """Return an operator that buys "La la"."""
    operator = MusicAPICreateOperator(task_id="create", prompt="La la", **arguments)
    operator.hook = MusicAPIHook(operator.musicapi_conn_id, retries=QUICK)
    return operator


def sent(simulator: SimulatorServer) -> dict[str, Any]:
    """Return the body of the only purchase."""
    (job,) = simulator.state.jobs.values()
    return job.body


def token_of(state_store: MemoryStateStore) -> str:
    """Return the token of the only purchase on record."""
    (record,) = state_store.records
    return str(record["token"])


def tell(state_store: MemoryStateStore, token: str, music_task_id: str) -> None:
    """Do what the receiver does with a callback."""
    state_store.entries[callback_key(token)] = json.dumps({"music_task_id": music_task_id})


# -- what a create says --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("webhooks")
def test_create_says_where_to_call_and_what_signs(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    task_instance: MagicMock,
) -> None:
    """A token of its own, by which the task instance is found, and the first secret."""
    create_for().execute(context)

    found = URL.fullmatch(sent(simulator)["webhook_url"])
    assert found
    assert found[1] == token_of(state_store)
    assert payer_of(found[1]) == task_instance.id
    assert sent(simulator)["webhook_secret"] == SECRET
    assert json.loads(state_store.entries[callback_key(found[1])])["musicapi_conn_id"] == "musicapi_default"


@pytest.mark.usefixtures("webhooks")
def test_callback_is_expected_before_the_create_leaves(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A callback may come before the create's answer: its row and the intent with the token are there."""
    seen: list[dict[str, Any]] = []
    book = simulator.state.book

    def look_then_book(*arguments: Any) -> Any:
        seen.append({**state_store.entries})
        return book(*arguments)

    monkeypatch.setattr(simulator.state, "book", look_then_book)
    create_for().execute(context)

    (before,) = seen
    (ledger,) = [json.loads(text) for key, text in before.items() if is_slot(key)]
    (intent,) = ledger.values()
    assert intent["music_task_id"] is None
    assert callback_key(intent["token"]) in before


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.usefixtures("webhooks")
def test_secret_is_nowhere_but_in_the_request(
    context: dict[str, Any], state_store: MemoryStateStore, task_instance: MagicMock, logged: Log, wait: bool
) -> None:
    """In no XCom, no record, no trigger argument, no rendered field, no log, no repr."""
    operator = create_for(wait_for_completion=wait, deferrable=wait)
    trigger = ""
    try:
        operator.execute(context)
    except TaskDeferred as deferred:
        trigger = str(deferred.trigger.serialize())
    rendered = {name: getattr(operator, name) for name in operator.template_fields}
    places = [str(task_instance.xcom_push.mock_calls), str(state_store.entries), trigger, str(rendered)]

    for secret in (SECRET, OLD):
        assert all(secret not in place for place in [*places, logged.text, repr(operator.hook.settings)])


@pytest.mark.usefixtures("webhooks")
def test_secret_in_an_answer_is_taken_out(
    simulator: SimulatorServer, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch, logged: Log
) -> None:
    """A server that repeats the request in its error."""
    from include.musicapi_simulator import app

    monkeypatch.setattr(app, "_refusal", lambda body, *_: f"I do not like {body}")
    with pytest.raises(AirflowFailException) as failure:
        create_for().execute(context)

    assert "I do not like" in str(failure.value)
    assert SECRET not in f"{failure.value} {logged.text}"


@pytest.mark.parametrize(
    ("connection", "argument", "expected"),
    [(True, None, True), (True, False, False), (False, True, True), (False, None, False)],
)
def test_task_goes_before_connection(
    webhooks: Callable[..., None],
    simulator: SimulatorServer,
    context: dict[str, Any],
    connection: bool,
    argument: bool | None,
    expected: bool,
) -> None:
    """The connection says what holds unless a task says otherwise."""
    webhooks(webhook=connection)
    create_for(webhook=argument).execute(context)

    assert ("webhook_url" in sent(simulator)) is expected


def test_webhook_makes_no_other_purchase(
    webhooks: Callable[..., None], simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Switched on, off, with another secret or address: the next try collects."""
    first = create_for().execute(context)
    webhooks(webhook=False)
    second = create_for().execute(context)
    webhooks(webhook_secret="a-third-secret-for-the-same", webhook_base_url="https://127.0.0.1:2")
    third = create_for().execute(context)

    assert first == second == third
    assert len(simulator.state.jobs) == 1


# -- what cannot work is refused before it is paid ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"webhook_secret": ""}, "no webhook_base_url or no webhook_secret; nothing was sent"),
        ({"webhook_base_url": None}, "no webhook_base_url or no webhook_secret; nothing was sent"),
        ({"webhook_base_url": "https://[::1"}, "must be a https URL"),
        ({"webhook_base_url": "https://airflow.example.com:99999"}, "must be a https URL"),
        ({"webhook_base_url": "https://airflow.example.com/a b"}, "must be a https URL"),
        ({"webhook_secret": "short"}, "'webhook_secret' .* at least 16 ASCII characters"),
        ({"webhook_secret": f"{SECRET} short"}, "'webhook_secret' .* at least 16 ASCII characters"),
        ({"webhook_base_url": "ftp://airflow.example.com"}, "must be a https URL"),
        ({"webhook_base_url": "airflow.example.com"}, "must be a https URL"),
        ({"webhook_base_url": "https://me:pw@airflow.example.com"}, "must be a https URL"),
        ({"webhook_base_url": "https://127.0.0.1:1?x=1"}, "must be a https URL"),
        ({"webhook_base_url": "https://" + "a" * 1000}, "the API takes 1024"),
        ({"webhook": "perhaps"}, "'webhook' .* must be true or false"),
        ({"webhook_poll_interval": -1}, "'webhook_poll_interval' .* must be a number above 0"),
    ],
)
def test_unusable_setting_is_refused_unpaid(
    webhooks: Callable[..., None],
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    changes: dict[str, Any],
    told: str,
) -> None:
    """It names field and rule; no secret; no intent stays."""
    webhooks(**changes)
    with pytest.raises(AirflowFailException, match=told) as failure:
        create_for().execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 0
    assert state_store.records == []
    assert SECRET not in str(failure.value)


def test_http_is_for_the_simulator_only(connect: Callable[..., None]) -> None:
    """The real API would refuse it, and a secret would cross the network in clear."""
    extra = {"webhook_base_url": "http://airflow.example.com", "webhook_secret": SECRET}
    connect("https://api.musicapi.ai", "key", **extra)
    with pytest.raises(Exception, match="must be a https URL"):
        _ = MusicAPIHook().settings
    connect("http://127.0.0.1:1", "key", **extra)

    assert MusicAPIHook().settings.webhook is not None


def test_wanted_without_a_set_up_is_refused_unpaid(
    connection: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """webhook=True alone cannot work."""
    with pytest.raises(
        AirflowFailException, match=r"no webhook_base_url or no webhook_secret; nothing was sent"
    ):
        create_for(webhook=True).execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 0


@pytest.mark.usefixtures("webhooks")
def test_connection_without_a_receiver_is_refused_unpaid(
    simulator: SimulatorServer, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its callbacks would be refused."""
    monkeypatch.setenv("AIRFLOW__MUSICAPI__WEBHOOK_CONNECTIONS", "one, two")
    with pytest.raises(AirflowFailException, match=r"webhook_connections, which is 'one, two'"):
        create_for().execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 0


@pytest.mark.usefixtures("webhooks")
def test_unknown_airflow_is_polled_as_ever(
    simulator: SimulatorServer, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch, logged: Log
) -> None:
    """No callback is asked for that nobody could use; the log says so."""
    monkeypatch.setattr(expectation, "airflow_version", "3.4.0")
    with pytest.raises(TaskDeferred) as deferred:
        create_for(wait_for_completion=True, deferrable=True).execute(context)

    assert "webhook_url" not in sent(simulator)
    assert "Webhooks are off" in logged.text
    assert (deferred.value.trigger.webhook, deferred.value.trigger.ends_here) == (False, False)


@pytest.mark.usefixtures("webhooks")
def test_broken_task_state_means_nothing_is_sent(
    simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """No row, no create: its callback would be unknown."""
    state_store.broken.add("set")
    with pytest.raises(Exception, match="this try has sent nothing"):
        create_for().execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 0


# -- waiting -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("webhooks")
def test_waiting_create_defers_without_a_look_and_ends_by_callback(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """It is polled every five minutes; success ends it where the callback is."""
    with pytest.raises(TaskDeferred) as deferred:
        create_for(wait_for_completion=True, deferrable=True).execute(context)
    trigger = deferred.value.trigger

    assert isinstance(trigger, MusicAPITaskTrigger)
    assert (trigger.webhook, trigger.ends_here) == (True, True)
    assert simulator.state.requests[GET_TASK] == 0


@pytest.mark.usefixtures("webhooks")
def test_outlets_end_on_a_worker(context: dict[str, Any]) -> None:
    """Airflow emits asset events from workers only."""
    from airflow.sdk import Asset

    with pytest.raises(TaskDeferred) as deferred:
        create_for(wait_for_completion=True, deferrable=True, outlets=[Asset("songs")]).execute(context)

    assert (deferred.value.trigger.webhook, deferred.value.trigger.ends_here) == (True, False)


@pytest.mark.usefixtures("webhooks")
def test_sensor_says_for_what_it_waits_before_it_looks(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """What ends after the poll finds it; what ended before is found by the poll."""
    simulator.state.configure(job_rule="seconds:600")
    job = simulator.state.book({"task_type": "create_music", "prompt": "La la"})
    assert job is not None
    polls: list[int] = []
    task_instance.xcom_push.side_effect = lambda **_: polls.append(simulator.state.requests[GET_TASK])
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id=job.task_id, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)

    (pushed,) = [
        call.kwargs for call in task_instance.xcom_push.mock_calls if "waits_for" in call.kwargs["key"]
    ]
    assert pushed["key"] == waits_for_key(job.task_id)
    assert pushed["value"]["music_task_ids"] == [job.task_id]
    assert polls[0] == 0
    assert simulator.state.requests[GET_TASK] == 1
    assert deferred.value.trigger.webhook is True


@pytest.mark.usefixtures("webhooks")
def test_sensor_of_several_notes_what_is_done_already(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """Nobody calls about that any more: the last callback of the others ends the wait."""
    simulator.state.configure(job_rule="seconds:600")
    done, running = (simulator.state.book({"task_type": "create_music", "prompt": "x"}) for _ in range(2))
    assert done is not None
    assert running is not None
    simulator.state.finish(done.task_id)
    sensor = MusicAPITaskSensor(
        task_id="wait", music_task_id=[done.task_id, running.task_id], deferrable=True
    )
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)

    pushed = {call.kwargs["key"] for call in task_instance.xcom_push.mock_calls}
    assert {waits_for_key(done.task_id), waits_for_key(running.task_id)} <= pushed
    assert called_key(done.task_id) in pushed
    assert called_key(running.task_id) not in pushed
    assert deferred.value.trigger.webhook is True


@pytest.mark.usefixtures("webhooks")
async def test_several_that_no_worker_has_begun_are_polled(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """As ever, and often: nobody has looked which are done."""
    jobs = [simulator.state.book({"task_type": "create_music", "prompt": "x"}) for _ in range(2)]
    ids = [job.task_id for job in jobs if job]
    arguments: dict[str, Any] = {"started": None, "ends_here": True, "poll_interval": 0.05}
    trigger = MusicAPITaskTrigger(ids, "musicapi_default", 600.0, **arguments)
    trigger.task_instance = triggerer_ti

    await asyncio.wait_for(events_of(trigger), 20)

    assert len(triggerer_xcoms.values["task", "return_value"]) == 4
    assert not any("waits_for" in key for _, key in triggerer_xcoms.values)


@pytest.mark.usefixtures("webhooks")
def test_sensor_of_many_polls(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """An XCom for each of a hundred would cost more than polling them."""
    simulator.state.configure(job_rule="seconds:600")
    jobs = [simulator.state.book({"task_type": "create_music", "prompt": "x"}) for _ in range(21)]
    sensor = MusicAPITaskSensor(
        task_id="wait", music_task_id=[job.task_id for job in jobs if job], deferrable=True
    )
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)

    assert deferred.value.trigger.webhook is False
    assert not any("waits_for" in str(call) for call in task_instance.xcom_push.mock_calls)


async def events_of(trigger: Any) -> list[Any]:
    """Run a trigger to its end."""
    return [event async for event in trigger.run()]


def trigger_for(job_id: str, triggerer_ti: Any, **changes: Any) -> MusicAPITaskTrigger:
    """Return a trigger as a worker hands it over."""
    arguments: dict[str, Any] = {"started": time.time(), "webhook": True, "ends_here": True, **changes}
    trigger = MusicAPITaskTrigger([job_id], "musicapi_default", 600.0, **arguments)
    trigger.task_instance = triggerer_ti
    return trigger


@pytest.fixture
def triggerer_ti(task_instance: MagicMock) -> MagicMock:
    """Return a task instance as triggers have it."""
    task_instance.try_number = 1
    return task_instance


@pytest.mark.usefixtures("webhooks")
async def test_trigger_does_not_look_while_it_expects_a_call(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """The first poll would come after five minutes."""
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    simulator.state.finish(job.task_id)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(events_of(trigger_for(job.task_id, triggerer_ti)), 1.0)

    assert simulator.state.requests[GET_TASK] == 0


async def test_lost_callback_costs_the_poll_interval(
    webhooks: Callable[..., None],
    simulator: SimulatorServer,
    triggerer_ti: MagicMock,
    triggerer_xcoms: TriggererXComs,
) -> None:
    """Not the track."""
    webhooks(webhook_poll_interval=0.3)
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    simulator.state.finish(job.task_id)

    await events_of(trigger_for(job.task_id, triggerer_ti))

    assert len(triggerer_xcoms.values["task", "return_value"]) == 2
    assert simulator.state.requests[GET_TASK] == 1


@pytest.mark.usefixtures("webhooks")
async def test_trigger_finds_the_note_of_an_early_callback(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """It polls at once."""
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    simulator.state.finish(job.task_id)
    triggerer_xcoms.values["task", called_key(job.task_id)] = True

    await asyncio.wait_for(events_of(trigger_for(job.task_id, triggerer_ti)), 20)

    assert len(triggerer_xcoms.values["task", "return_value"]) == 2


@pytest.mark.usefixtures("webhooks")
async def test_wait_that_begins_in_the_triggerer_says_so_there(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """Before its first poll, which is at once."""
    simulator.state.configure(job_rule="seconds:600")
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(
            events_of(trigger_for(job.task_id, triggerer_ti, started=None, webhook=None)), 1
        )

    about = triggerer_xcoms.values["task", waits_for_key(job.task_id)]
    assert about["music_task_ids"] == [job.task_id]
    assert about["started"] == triggerer_xcoms.values["task", "musicapi_wait_started"]["started"]
    assert simulator.state.requests[GET_TASK] == 1


@pytest.mark.parametrize("noted", [False, True])
async def test_asking_trigger_yields_one_event(
    noted: bool, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """At the deadline, or when the callback was there before it: a worker begins anew."""
    if noted:
        triggerer_xcoms.values["task", called_key("token")] = True
    until = time.time() + (600 if noted else 0.3)
    trigger = MusicAPICallbackTrigger("token", until, time.time())
    trigger.task_instance = triggerer_ti

    (event,) = await asyncio.wait_for(events_of(trigger), 10)

    assert event.payload == BEGIN
    assert noted or time.time() >= until
    path, arguments = trigger.serialize()
    assert path.endswith("MusicAPICallbackTrigger")
    assert MusicAPICallbackTrigger(**arguments).serialize() == trigger.serialize()


# -- lost answers --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("webhooks")
def test_lost_answer_waits_for_the_call_and_is_settled_by_it(
    simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore, logged: Log
) -> None:
    """One purchase, its track collected, nobody asked."""
    simulator.state.scenario("drop-after-booking")
    simulator.state.configure(job_rule="at-once")
    arguments: dict[str, Any] = {"wait_for_completion": True, "deferrable": True}
    with pytest.raises(TaskDeferred) as deferred:
        create_for(**arguments).execute(context)
    trigger, token = deferred.value.trigger, token_of(state_store)
    assert isinstance(trigger, MusicAPICallbackTrigger)
    assert trigger.token == token
    assert "waiting for that" in logged.text

    ((music_task_id, _),) = simulator.state.jobs.items()
    tell(state_store, token, music_task_id)
    tracks = create_for(**arguments).resume_execution(
        deferred.value.method_name, {"event": dict(BEGIN)}, context
    )

    assert {track["music_task_id"] for track in tracks} == {music_task_id}
    assert len(simulator.state.jobs) == 1
    assert simulator.state.requests["POST /sonic/create"] == 1
    assert [record["music_task_id"] for record in state_store.records] == [music_task_id]


@pytest.mark.usefixtures("webhooks")
def test_lost_answer_is_waited_for_on_a_worker_where_nothing_defers(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The callback comes while the worker waits."""
    monkeypatch.setattr(notices, "CALLBACK_PAUSE", 0.05)
    simulator.state.scenario("drop-after-booking")

    def call_later() -> None:
        while not simulator.state.jobs or not state_store.records:
            time.sleep(0.01)
        time.sleep(0.2)
        tell(state_store, token_of(state_store), next(iter(simulator.state.jobs)))

    thread = threading.Thread(target=call_later)
    thread.start()
    music_task_id = create_for().execute(context)
    thread.join()

    assert [music_task_id] == list(simulator.state.jobs)


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
@pytest.mark.usefixtures("webhooks")
def test_killed_create_is_settled_hours_later(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    """An intent without an id, long given up, and its callback since: a clear collects, nothing is sent."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(TaskDeferred):
        create_for(deferrable=True).execute(context)
    (key,) = [key for key in state_store.entries if is_slot(key)]
    records = json.loads(state_store.entries[key])
    ((fingerprint, record),) = records.items()
    state_store.entries[key] = json.dumps({fingerprint: {**record, "at": "2026-11-01T00:00:00+00:00"}})
    (music_task_id,) = simulator.state.jobs
    tell(state_store, record["token"], music_task_id)

    found = create_for(deferrable=True, on_unknown_outcome=policy).execute(context)

    assert found == music_task_id
    assert len(simulator.state.jobs) == 1


@pytest.mark.usefixtures("webhooks")
def test_call_that_does_not_come_leaves_it_to_a_human(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the evidence, when the time is over; the record stays for a callback that is later still."""
    monkeypatch.setattr(notices, "CALLBACK_PATIENCE", 1.0)
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(AirflowFailException, match="Evidence"):
        create_for(timeout=1.0).execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 1
    assert state_store.records[0]["music_task_id"] is None


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
@pytest.mark.usefixtures("webhooks")
def test_failure_that_only_a_call_has_named_is_not_bought_again_in_the_same_try(
    simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore, policy: str
) -> None:
    """It proves no refund of this create: a human decides, or the policy, by the next try."""
    simulator.state.scenario("drop-after-booking")
    simulator.state.scenario("failed")
    simulator.state.configure(job_rule="at-once")
    arguments: dict[str, Any] = {"deferrable": True, "on_unknown_outcome": policy}
    with pytest.raises(TaskDeferred):
        create_for(**arguments).execute(context)
    tell(state_store, token_of(state_store), next(iter(simulator.state.jobs)))
    expected = AirflowFailException if policy == "fail" else MusicAPIAmbiguousSubmitError
    with pytest.raises(expected, match="nothing else proves that it is this one"):
        create_for(**arguments).execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 1
    if policy == "fail":
        with pytest.raises(AirflowFailException, match="nothing else proves"):
            create_for(**arguments).execute(context)
        # Somebody has looked into the account and says that it is this one: refunded, and bought anew.
        failed = next(iter(simulator.state.jobs))
        create_for(**arguments, adopt_music_task_id=failed).execute(context)
        assert [record["told"] for record in state_store.records] == [False]
    else:  # the next try
        create_for(**arguments).execute(context)
    assert simulator.state.requests["POST /sonic/create"] == (1 if policy == "fail" else 2)


@pytest.mark.parametrize("lost", ["secret", "list", "switch"])
def test_what_is_bought_is_collected_with_any_configuration(
    webhooks: Callable[..., None],
    simulator: SimulatorServer,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """Webhooks that have become impossible meanwhile are a warning for who waits, no end."""
    simulator.state.configure(job_rule="seconds:600")
    bought = create_for().execute(context)
    if lost == "secret":
        webhooks(webhook_secret=None)
    elif lost == "list":
        monkeypatch.setenv("AIRFLOW__MUSICAPI__WEBHOOK_CONNECTIONS", "another")
    else:
        webhooks(webhook=False)

    assert create_for().execute(context) == bought
    with pytest.raises(TaskDeferred) as deferred:
        create_for(wait_for_completion=True, deferrable=True).execute(context)
    assert deferred.value.trigger.webhook is False


@pytest.mark.usefixtures("webhooks")
async def test_trigger_whose_xcom_cannot_be_read_waits_on(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs
) -> None:
    """A paid wait does not end by that."""
    triggerer_xcoms.broken.add("GetXCom")
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(events_of(trigger_for(job.task_id, triggerer_ti)), 1.0)


@pytest.mark.usefixtures("webhooks")
async def test_wait_that_cannot_be_registered_goes_on(
    simulator: SimulatorServer, triggerer_ti: MagicMock, triggerer_xcoms: TriggererXComs, logged: Log
) -> None:
    """It is polled."""
    job = simulator.state.book({"task_type": "create_music", "prompt": "x"})
    assert job is not None
    trigger = trigger_for(job.task_id, triggerer_ti, started=None)
    triggerer_xcoms.refuse = waits_for_key(job.task_id)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(events_of(trigger), 1.0)

    assert "Callbacks will not find this wait" in logged.text
    assert simulator.state.requests[GET_TASK] == 1


@pytest.mark.usefixtures("webhooks")
def test_own_webhook_of_a_user_stays(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """Who gives one by extra_body has a receiver of their own."""
    own = {"webhook_url": "https://127.0.0.1:3/own", "webhook_secret": "my own secret, not ours"}
    create_for(extra_body=own).execute(context)

    assert {name: sent(simulator)[name] for name in own} == own


@pytest.mark.usefixtures("webhooks")
def test_connection_that_no_url_can_hold_is_refused_unpaid() -> None:
    """A # would cut the token off."""
    with pytest.raises(MusicAPIConfigurationError, match="cannot be part of a webhook's URL"):
        expectation.required_webhook(MusicAPIHook().settings, True, "team#a")


@pytest.mark.usefixtures("webhooks")
def test_nothing_is_sent_again_while_a_call_may_come(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy "resubmit" waits as well: the call may say that it was booked."""
    simulator.state.scenario("drop-after-booking")
    arguments: dict[str, Any] = {"deferrable": True, "on_unknown_outcome": "resubmit"}
    for _ in range(2):  # the first try, and the one after a worker's death
        with pytest.raises(TaskDeferred):
            create_for(**arguments).execute(context)

    assert simulator.state.requests["POST /sonic/create"] == 1
    monkeypatch.setattr(notices, "CALLBACK_PATIENCE", 0.001)
    music_task_id = create_for(**arguments, timeout=0.001).execute(context)
    assert simulator.state.requests["POST /sonic/create"] == 2
    assert music_task_id in simulator.state.jobs


@pytest.mark.usefixtures("connection")
def test_without_a_webhook_a_lost_answer_ends_the_task_as_ever(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Nobody would call."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(AirflowFailException, match="Evidence"):
        create_for(deferrable=True).execute(context)
