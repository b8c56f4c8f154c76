"""The operators: what is bought, what is collected, what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import mutagen
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from musicapi_provider.api.bodies import FIELDS
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIInvalidRequestError,
    MusicAPINotSentError,
    MusicAPIStorageError,
    MusicAPITaskFailedError,
    MusicAPIThrottledError,
)
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.links import xcoms
from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.operators.prompt_table import MusicAPIPromptTableOperator
from musicapi_provider.operators.purchasing import API_FIELDS
from musicapi_provider.operators.store_tracks import MusicAPIStoreTracksOperator
from musicapi_provider.storage.index import read_index
from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from tests.conftest import QUICK
from tests.s3 import S3Bucket, s3_bucket
from tests.states import NOT_SUBMITTED, SUBMITTED, UNKNOWN
from tests.unit.conftest import is_slot

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.musicapi_simulator import SimulatorServer
    from tests.unit.conftest import Log, MemoryStateStore

__all__ = ["s3_bucket"]
pytestmark = pytest.mark.usefixtures("connection", "quick")

POST = "POST /sonic/create"
GET_TASK = "GET /sonic/task/{task_id}"


def create_for(**arguments: Any) -> MusicAPICreateOperator:
    """Return a quick operator that buys "La la" unless told otherwise."""
    if not {"prompt", "body", "gpt_description_prompt", "music_task_type"} & arguments.keys():
        arguments["prompt"] = "La la"
    operator = MusicAPICreateOperator(task_id="create", **arguments)
    operator.hook = MusicAPIHook(operator.musicapi_conn_id, retries=QUICK)
    return operator


def run(make: Callable[[], MusicAPICreateOperator], context: dict[str, Any]) -> Any:
    """Execute and follow deferrals, each phase with a new object, as Airflow does."""
    try:
        return make().execute(context)
    except TaskDeferred as caught:
        deferred = caught
    for _ in range(10):
        (event,) = asyncio.run(_events(deferred.trigger))
        try:
            return make().resume_execution(deferred.method_name, {"event": event}, context)
        except TaskDeferred as caught:
            deferred = caught
    raise AssertionError("it goes round in circles")


async def _events(trigger: Any) -> list[Any]:
    return [event.payload async for event in trigger.run()]


def sent(simulator: SimulatorServer) -> dict[str, Any]:
    """Return the body of the only purchase."""
    (job,) = simulator.state.jobs.values()
    return job.body


# -- bodies --------------------------------------------------------------------------------------------------


def test_create_returns_and_pushes_the_id(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """One purchase; its id is the return value and stands under its own key."""
    music_task_id = create_for().execute(context)

    assert [music_task_id] == list(simulator.state.jobs)
    task_instance.xcom_push.assert_any_call(key="music_task_id", value=music_task_id)
    assert simulator.state.requests[POST] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            {"prompt": "La la"},
            {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"},
            id="lyrics",
        ),
        pytest.param(
            {"gpt_description_prompt": "rainy jazz"},
            {
                "task_type": "create_music",
                "mv": "sonic-v5",
                "custom_mode": False,
                "gpt_description_prompt": "rainy jazz",
            },
            id="description",
        ),
        pytest.param(
            {"music_task_type": "concat_music", "continue_clip_id": "c1"},
            {"task_type": "concat_music", "continue_clip_id": "c1"},
            id="other task type",
        ),
        pytest.param(
            {"body": {"prompt": "La la", "tags": "folk", "title": None}, "mv": "sonic-v4-5"},
            {
                "task_type": "create_music",
                "mv": "sonic-v4-5",
                "custom_mode": True,
                "prompt": "La la",
                "tags": "folk",
            },
            id="body and arguments together",
        ),
        pytest.param(
            {"body": {"title": None, "prompt": "La la"}, "title": "Mine"},
            {
                "task_type": "create_music",
                "mv": "sonic-v5",
                "custom_mode": True,
                "prompt": "La la",
                "title": "Mine",
            },
            id="nothing in body gives way to an argument",
        ),
        pytest.param(
            {
                "prompt": "La la",
                "make_instrumental": "True",
                "auto_lyrics": "None",
                "style_weight": "0.5",
                "weirdness_constraint": "",
                "title": "",
                "duration": "60",
                "use_suno_cdn": "false",
            },
            {
                "task_type": "create_music",
                "mv": "sonic-v5",
                "custom_mode": True,
                "prompt": "La la",
                "make_instrumental": True,
                "style_weight": 0.5,
                "duration": 60,
                "use_suno_cdn": False,
            },
            id="text from templates gets its type",
        ),
        pytest.param(
            {"prompt": "La la", "extra_body": {"brand_new": {"deep": [1]}, "tags": 5}},
            {
                "task_type": "create_music",
                "mv": "sonic-v5",
                "custom_mode": True,
                "prompt": "La la",
                "brand_new": {"deep": [1]},
                "tags": 5,
            },
            id="extra_body is not checked",
        ),
    ],
)
def test_body_that_is_sent(
    arguments: dict[str, Any], expected: dict[str, Any], simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Arguments, a whole body or both; text gets its type, nothing is sent as nothing."""
    if "extra_body" in arguments:  # the simulator would refuse tags that are no text: look at it before
        operator = create_for(**arguments)
        body = {**operator.request_body(), **operator.extra_body}
    else:
        create_for(**arguments).execute(context)
        body = sent(simulator)

    assert body == expected


def test_extra_body_is_sent(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """A field that this version does not know goes through."""
    create_for(extra_body={"brand_new": {"deep": [1]}}).execute(context)

    assert sent(simulator)["brand_new"] == {"deep": [1]}


def test_every_field_of_the_api_is_a_templated_argument() -> None:
    """The table of fields and the operator cannot drift."""
    assert set(FIELDS) == set(API_FIELDS.values())
    assert set(API_FIELDS) <= set(MusicAPICreateOperator.template_fields)
    assert {"body", "extra_body", "musicapi_conn_id", "adopt_music_task_id", "prompt_id"} <= set(
        MusicAPICreateOperator.template_fields
    )
    assert all(hasattr(create_for(), name) for name in MusicAPICreateOperator.template_fields)


def test_unknown_model_warns_and_is_sent(
    simulator: SimulatorServer, context: dict[str, Any], logged: Log
) -> None:
    """The list of models grows without us; the API has the last word."""
    with pytest.raises(AirflowFailException, match="mv must be one of"):  # the simulator's words
        create_for(mv="sonic-v9").execute(context)

    assert "'sonic-v9' is unknown" in logged.text
    assert simulator.state.requests[POST] == 1


BAD_BODIES = [
    pytest.param({"body": {"prompt": "a"}, "prompt": "b"}, "prompt", id="given twice"),
    pytest.param({"body": {"promt": "a"}}, "did you mean 'prompt'", id="misspelt"),
    pytest.param({"music_task_type": "sing", "prompt": "a"}, "task_type", id="task type"),
    pytest.param({"music_task_type": "extend_music", "prompt": "a"}, "continue_clip_id", id="missing id"),
    pytest.param({"prompt": "x" * 5001}, "prompt", id="too long"),
    pytest.param({"prompt": "a", "mv": "sonic-v4", "tags": "x" * 201}, "tags", id="too long for the model"),
    pytest.param({"prompt": "a", "title": "x" * 81}, "title", id="title"),
    pytest.param({"prompt": "a", "tags": ["folk"]}, "tags: must be text, comma separated", id="list"),
    pytest.param({"prompt": "a", "style_weight": "loud"}, "style_weight: must be a number", id="words"),
    pytest.param({"prompt": "a", "style_weight": 1.01}, "style_weight", id="weight"),
    pytest.param({"prompt": "a", "style_weight": True}, "style_weight", id="weight as boolean"),
    pytest.param({"prompt": "a", "make_instrumental": "perhaps"}, "make_instrumental", id="boolean"),
    pytest.param({"prompt": "a", "vocal_gender": "x"}, "vocal_gender", id="gender"),
    pytest.param({"prompt": "a", "mv": "sonic-v4", "vocal_gender": "f"}, "vocal_gender", id="old model"),
    pytest.param({"prompt": "a", "duration": 5}, "duration", id="duration"),
    pytest.param({"prompt": "   "}, "prompt", id="blank"),
    pytest.param({"gpt_description_prompt": "a", "auto_lyrics": True}, "auto_lyrics", id="mode"),
    pytest.param({"body": "{'prompt': 'a'}"}, "body", id="body as text"),
    pytest.param({"body": ["prompt", "a"]}, "body", id="body as list"),
    pytest.param({"prompt": "a", "extra_body": "{'x': 1}"}, "extra_body", id="extra_body as text"),
    pytest.param({"prompt": "a", "extra_body": {"x": float("nan")}}, "JSON", id="NaN in extra_body"),
    pytest.param(
        {"prompt": "a", "extra_body": {"x": datetime.datetime.now(datetime.UTC)}},
        "JSON",
        id="no JSON in extra_body",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_BODIES)
def test_bad_body_is_refused_before_anything_happens(
    arguments: dict[str, Any],
    words: str,
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
) -> None:
    """No request, no record, no retry; the field is named."""
    with pytest.raises(AirflowFailException, match=words):
        create_for(**arguments).execute(context)

    assert not simulator.state.requests
    assert not state_store.records


def test_all_problems_are_named_at_once() -> None:
    """One round to correct them all."""
    with pytest.raises(MusicAPIInvalidRequestError) as caught:
        create_for(prompt="a", title="x" * 81, style_weight=2, duration=1).request_body()

    assert all(f"\n  {name}: " in str(caught.value) for name in ("title", "style_weight", "duration"))


# -- paying once ---------------------------------------------------------------------------------------------


def test_record_holds_the_id(
    simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """And not the key."""
    music_task_id = create_for().execute(context)
    (record,) = state_store.records

    assert record["music_task_id"] == music_task_id
    assert simulator.api_key not in json.dumps(record)


@pytest.mark.parametrize("cleared", [False, True], ids=["retry", "clear"])
def test_second_execute_collects(
    cleared: bool, simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """The same id comes out and nothing is paid again."""
    first = create_for().execute(context)
    task_instance.max_tries += int(cleared)
    second = create_for().execute(context)

    assert first == second
    assert simulator.state.requests[POST] == 1


def test_changed_body_is_a_new_purchase(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """And going back to the first body still collects the first."""
    ids = [create_for(title=title).execute(context) for title in ("One", "Two", "One")]

    assert ids[0] == ids[2] != ids[1]
    assert simulator.state.requests[POST] == 2


AMBIGUOUS = [
    *("create-500", "drop-before-booking", "create-502-after-booking", "drop-after-booking"),
    *("truncated-create", "html-create", "no-task-id"),
]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_create_fails_for_good_and_is_never_repeated(
    name: str, simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """The try and its retry both end without a second POST; the record is the evidence."""
    simulator.state.scenario(name)
    with pytest.raises(AirflowFailException, match="Credits: unknown"):
        create_for().execute(context)
    with pytest.raises(AirflowFailException, match="Credits: unknown") as caught:
        create_for().execute(context)

    assert simulator.state.requests[POST] == 1
    assert [record["music_task_id"] for record in state_store.records] == [None]
    assert "adopt_music_task_id" in str(caught.value)
    assert state_store.records[0]["at"] in str(caught.value)


def test_ambiguous_create_is_sent_again_on_request(
    simulator: SimulatorServer, context: dict[str, Any], logged: Log, state_store: MemoryStateStore
) -> None:
    """``resubmit`` is a stated policy: left to the retries, it warns and keeps the lost one on record."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(MusicAPIAmbiguousSubmitError, match="the task's next retry sends it again"):
        create_for(on_unknown_outcome="resubmit").execute(context)
    music_task_id = create_for(on_unknown_outcome="resubmit").execute(context)

    assert simulator.state.requests[POST] == 2
    assert music_task_id == list(simulator.state.jobs)[1]
    assert len(state_store.records[0]["lost_at"]) == 1
    assert "pays twice" in logged.text


def test_ambiguous_create_is_settled_by_adopting(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """A human found the music task; from then on it is collected without being named."""
    simulator.state.scenario("drop-after-booking")
    with pytest.raises(AirflowFailException):
        create_for().execute(context)
    (found,) = simulator.state.jobs
    adopted = create_for(adopt_music_task_id=found).execute(context)
    later = create_for().execute(context)

    assert found == adopted == later
    assert simulator.state.requests[POST] == 1
    task_instance.xcom_push.assert_any_call(key="music_task_id", value=found)


@pytest.mark.parametrize("bad", ["  ", "['a']", ["a", "b"], 5], ids=repr)
def test_bad_id_to_adopt_is_refused_before_anything_happens(
    bad: Any, simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """Above all it must not become a purchase."""
    with pytest.raises(AirflowFailException, match="music_task_id"):
        create_for(adopt_music_task_id=bad).execute(context)

    assert not simulator.state.requests
    assert not state_store.records


@pytest.mark.parametrize("text", ["", "None"])
def test_text_of_a_missing_id_to_adopt_is_refused(
    text: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """A template makes the text "None" of a missing XCom; adopting it must not become a purchase."""
    with pytest.raises(AirflowFailException, match="must be an id"):
        create_for(adopt_music_task_id=text).execute(context)

    assert simulator.state.requests[POST] == 0


@pytest.mark.parametrize("name", ["failed", "all-failed", "api-error", "gateway-timeout-refunded"])
def test_failed_and_refunded_task_is_bought_anew(
    name: str, simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """The next try of a failed one pays again, since the first was given back; both stay on record."""
    simulator.state.job_rule = "at-once"
    simulator.state.scenario(name, times=1)
    first = create_for().execute(context)
    second = create_for().execute(context)

    assert [first, second] == list(simulator.state.jobs)
    assert state_store.records[0]["earlier"] == [first]
    simulator.state.settle()
    assert simulator.state.credits == 985


@pytest.mark.parametrize("name", ["unknown-404", "unknown-400", "partial", "running"])
def test_task_that_is_not_surely_refunded_is_not_bought_anew(
    name: str, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Unknown, partial or still running: none of them proves that the credits are back."""
    simulator.state.job_rule = "at-once"
    simulator.state.scenario(name)
    first = create_for().execute(context)
    second = create_for().execute(context)

    assert first == second
    assert simulator.state.requests[POST] == 1


def test_force_new_buys_once_for_each_clear(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """Its retries collect; a clear, which raises ``max_tries``, buys again."""
    simulator.state.job_rule = "at-once"
    first = create_for(force_new=True).execute(context)
    retried = create_for(force_new=True).execute(context)
    task_instance.max_tries = 1
    cleared = create_for(force_new=True).execute(context)

    assert first == retried != cleared
    assert simulator.state.requests[POST] == 2


def test_force_new_pays_again_for_what_is_there(
    simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """That is what it is for: set it, clear the task, and what is finished is bought once more."""
    simulator.state.job_rule = "at-once"
    first = create_for().execute(context)
    task_instance.max_tries = 1
    forced = create_for(force_new=True).execute(context)

    assert first != forced
    assert simulator.state.requests[POST] == 2


def test_without_a_place_for_the_record_nothing_is_sent(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """An older Airflow, or a task whose inlet was taken away, has no memory for a purchase."""
    del context["asset_state_store"]
    with pytest.raises(AirflowFailException, match=r"Airflow 3\.3"):
        create_for().execute(context)

    assert not simulator.state.requests


@pytest.mark.parametrize("method", ["get", "set"])
def test_with_a_broken_task_state_store_nothing_is_sent(
    method: str, simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """A later try may work, so it is left to the task's retries."""
    state_store.broken.add(method)
    with pytest.raises(MusicAPINotSentError, match=f"{method} is broken"):
        create_for().execute(context)

    assert simulator.state.requests[POST] == 0


def test_id_survives_a_record_that_cannot_be_completed(
    simulator: SimulatorServer,
    context: dict[str, Any],
    state_store: MemoryStateStore,
    logged: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store breaks after the purchase: the id is returned and logged, and a retry does not pay."""
    write = state_store.set

    def set_once(key: str, value: Any, *, retention: Any = None) -> None:
        write(key, value, retention=retention)
        if is_slot(key):
            state_store.broken.add("set")

    with monkeypatch.context() as patch:
        patch.setattr(state_store, "set", set_once)
        music_task_id = create_for().execute(context)
    state_store.broken.clear()
    with pytest.raises(AirflowFailException, match="Credits: unknown"):
        create_for().execute(context)

    assert [music_task_id] == list(simulator.state.jobs)
    assert music_task_id in logged.text


@pytest.mark.parametrize("name", ["invalid", "no-credits", "moderated", "unauthorized", "retired"])
def test_certain_refusal_fails_for_good_and_leaves_no_record(
    name: str, simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """Once the cause is cured and the task cleared, it buys."""
    simulator.state.scenario(name, times=1)
    with pytest.raises(AirflowFailException, match="Credits: not spent"):
        create_for().execute(context)
    left = state_store.records
    create_for().execute(context)

    assert left == []
    assert simulator.state.creates_booked.total() == 1


def test_lasting_throttling_is_left_to_the_tasks_retries(
    simulator: SimulatorServer, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """It passes as itself, and leaves no record that would look like a purchase."""
    simulator.state.scenario("throttled", times=None)
    with pytest.raises(MusicAPIThrottledError):
        create_for().execute(context)

    assert not state_store.records


def test_refused_connection_is_left_to_the_tasks_retries(
    connect: Callable[..., None], refusing_url: str, context: dict[str, Any], state_store: MemoryStateStore
) -> None:
    """Nothing arrived, so a later try may buy."""
    connect(refusing_url, "any-key")
    with pytest.raises(MusicAPINotSentError):
        create_for().execute(context)

    assert not state_store.records


# -- what the run's report may rely on -----------------------------------------------------------------------


def pushed(task_instance: MagicMock, key: str) -> list[Any]:
    """Return the values pushed under a key, in order."""
    calls = task_instance.xcom_push.call_args_list
    values = [call.kwargs["value"] for call in calls if call.kwargs["key"] == key]
    return [value["state"] if key == xcoms.SUBMISSION else value for value in values]


@pytest.mark.parametrize(
    ("scenario", "expected", "credits"),
    [
        pytest.param(None, [UNKNOWN, SUBMITTED], 15, id="bought"),
        pytest.param("moderated", [UNKNOWN, NOT_SUBMITTED], 0, id="refused"),
        pytest.param("drop-after-booking", [UNKNOWN, UNKNOWN], None, id="answer lost"),
        pytest.param("create-500", [UNKNOWN, UNKNOWN], None, id="server error"),
    ],
)
def test_what_is_known_of_the_purchase_is_pushed(
    scenario: str | None,
    expected: list[str],
    credits: float | None,  # noqa: A002 - the API's word
    simulator: SimulatorServer,
    context: dict[str, Any],
    task_instance: MagicMock,
    logged: Log,
) -> None:
    """Before it is sent nobody knows; a task that dies there must not look as if nothing had happened."""
    if scenario:
        simulator.state.scenario(scenario)
    with contextlib.suppress(AirflowFailException):
        create_for().execute(context)

    assert expected == pushed(task_instance, xcoms.SUBMISSION)
    assert task_instance.xcom_push.call_args.kwargs["value"]["credits"] == credits
    assert ("is bought (about 15 credits)" in logged.text) is (credits == 15)


def test_credits_are_named_again_when_a_retry_collects(
    context: dict[str, Any], task_instance: MagicMock, simulator: SimulatorServer
) -> None:
    """The Airflow task has spent them, whichever try it was."""
    create_for().execute(context)
    create_for().execute(context)

    assert task_instance.xcom_push.call_args.kwargs["value"]["credits"] == 15
    assert simulator.state.requests[POST] == 1


def test_corrected_host_does_not_pay_again(
    connect: Callable[..., None], simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Within a dag run the same body on the same connection is the same purchase, whatever its host."""
    music_task_id = create_for().execute(context)
    connect(simulator.base_url.replace("127.0.0.1", "localhost"), simulator.api_key)

    assert create_for().execute(context) == music_task_id
    assert simulator.state.requests[POST] == 1


def test_credit_check_is_an_argument(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """The check ends the task before anything is sent."""
    simulator.state.configure(credits=3)
    with pytest.raises(AirflowFailException, match="balance of 3 credits does not cover"):
        create_for(credit_check=True).execute(context)

    assert simulator.state.requests[POST] == 0


def test_purchase_of_an_earlier_try_is_never_called_not_submitted(
    context: dict[str, Any], task_instance: MagicMock, state_store: MemoryStateStore
) -> None:
    """The retry cannot read its records: then it does not know, and must not say that nothing was bought."""
    create_for().execute(context)
    task_instance.xcom_push.reset_mock()  # Airflow wipes XCom before a retry
    state_store.broken.add("get")
    with pytest.raises(MusicAPINotSentError):
        create_for().execute(context)

    assert NOT_SUBMITTED not in pushed(task_instance, xcoms.SUBMISSION)


# -- waiting -------------------------------------------------------------------------------------------------

ways_to_wait = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


@ways_to_wait
def test_wait_for_completion_returns_tracks(
    deferrable: bool, simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """As the sensor does; the id stands under its own key."""
    make = lambda: create_for(wait_for_completion=True, deferrable=deferrable)  # noqa: E731
    tracks = run(make, context)
    (music_task_id,) = simulator.state.jobs

    assert [music_task_id] * 2 == [track["music_task_id"] for track in tracks]
    assert all(track["audio_url"].endswith(".mp3") and "lyrics" not in track for track in tracks)
    task_instance.xcom_push.assert_any_call(key="music_task_id", value=music_task_id)
    assert simulator.state.requests[POST] == 1


@ways_to_wait
def test_id_is_pushed_before_any_waiting(
    deferrable: bool, simulator: SimulatorServer, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """Whatever happens while waiting, the id is there."""
    looks: dict[str, int] = {}

    def push(key: str, value: Any) -> None:
        looks[key] = simulator.state.requests[GET_TASK]

    task_instance.xcom_push.side_effect = push
    run(lambda: create_for(wait_for_completion=True, deferrable=deferrable), context)

    assert looks["music_task_id"] == 0
    assert simulator.state.requests[GET_TASK] > 0


def test_deferrable_create_defers_with_the_right_trigger(
    simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The deadline counts from the purchase."""
    with pytest.raises(TaskDeferred) as caught:
        create_for(
            wait_for_completion=True,
            deferrable=True,
            timeout=datetime.timedelta(minutes=5),
            poll_interval=datetime.timedelta(seconds=7),
        ).execute(context)
    trigger = caught.value.trigger

    assert isinstance(trigger, MusicAPITaskTrigger)
    assert trigger.music_task_ids == list(simulator.state.jobs)
    assert trigger.timeout == 300
    assert trigger.poll_interval == 7
    assert (caught.value.method_name, caught.value.timeout) == ("execute_complete", None)


def test_without_wait_deferrable_means_nothing(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """There is nothing to wait for."""
    music_task_id = create_for(deferrable=True).execute(context)

    assert [music_task_id] == list(simulator.state.jobs)
    assert simulator.state.requests[GET_TASK] == 0


@ways_to_wait
def test_failed_task_is_bought_anew_by_the_retry(
    deferrable: bool, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The id and the refund are in the text; within the task's own retries a new purchase follows."""
    simulator.state.scenario("failed", times=1)
    make = lambda: create_for(wait_for_completion=True, deferrable=deferrable)  # noqa: E731
    with pytest.raises(MusicAPITaskFailedError, match=r"refunded.*next retry buys it anew") as caught:
        run(make, context)
    (failed,) = simulator.state.jobs
    tracks = run(make, context)

    assert failed in str(caught.value)
    assert {track["music_task_id"] for track in tracks} == set(simulator.state.jobs) - {failed}
    assert simulator.state.requests[POST] == 2


@ways_to_wait
def test_moderated_task_fails_for_good(
    deferrable: bool, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """The same text would be refused again."""
    simulator.state.scenario("forbidden")
    with pytest.raises(AirflowFailException, match="Inappropriate content"):
        run(lambda: create_for(wait_for_completion=True, deferrable=deferrable), context)


@ways_to_wait
def test_deadline_is_a_sensor_timeout(
    deferrable: bool, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """Clearing goes on waiting for the same music task."""
    simulator.state.scenario("running")
    make = lambda: create_for(wait_for_completion=True, deferrable=deferrable, timeout=0.15)  # noqa: E731
    with pytest.raises(AirflowSensorTimeout) as caught:
        run(make, context)
    (music_task_id,) = simulator.state.jobs
    simulator.state.finish(music_task_id)
    tracks = run(make, context)

    assert music_task_id in str(caught.value)
    assert {music_task_id} == {track["music_task_id"] for track in tracks}
    assert simulator.state.requests[POST] == 1


@ways_to_wait
@pytest.mark.parametrize("fail_on_partial", [False, True])
def test_partial_result(
    fail_on_partial: bool, deferrable: bool, simulator: SimulatorServer, context: dict[str, Any]
) -> None:
    """What is there is returned, unless all is wanted."""
    simulator.state.scenario("partial")
    make = lambda: create_for(  # noqa: E731 - called in two ways
        wait_for_completion=True, deferrable=deferrable, fail_on_partial=fail_on_partial, include_lyrics=True
    )
    if fail_on_partial:
        with pytest.raises(AirflowFailException, match="1 of 2"):
            run(make, context)
    else:
        (track,) = run(make, context)

        assert track["lyrics"] == "La la"


def test_adopted_task_is_waited_for(simulator: SimulatorServer, context: dict[str, Any]) -> None:
    """Collecting needs no purchase."""
    job = simulator.state.book({"task_type": "create_music", "prompt": "elsewhere"})
    assert job is not None
    tracks = run(lambda: create_for(adopt_music_task_id=job.task_id, wait_for_completion=True), context)

    assert {job.task_id} == {track["music_task_id"] for track in tracks}
    assert simulator.state.requests[POST] == 0


def test_create_on_kill_logs_what_stays(simulator: SimulatorServer, logged: Log) -> None:
    """The credits stay spent, and the next try collects."""
    create_for().on_kill()

    assert "credits stay spent" in logged.text
    assert "collects" in logged.text
    assert not simulator.state.requests


def test_create_logs_what_it_bought_and_never_the_key(
    simulator: SimulatorServer, context: dict[str, Any], logged: Log
) -> None:
    """Whoever reads the log can find the music task and the account's host."""
    music_task_id = create_for(title="Rain").execute(context)

    assert music_task_id in logged.text
    assert "Submitting Rain" in logged.text
    assert simulator.base_url in logged.text
    assert simulator.api_key not in logged.text


def test_wrong_policy_is_refused_at_construction() -> None:
    """A typo there must not wait for the bad day."""
    with pytest.raises(ValueError, match="maybe"):
        create_for(on_unknown_outcome="maybe")


# -- storing -------------------------------------------------------------------------------------------------


@pytest.fixture
def tracks(simulator: SimulatorServer, context: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tracks of a finished music task."""
    simulator.state.job_rule = "at-once"
    return create_for(wait_for_completion=True, deferrable=False).execute(context)  # type: ignore[return-value]


def store_for(tracks: Any, folder: Path, **arguments: Any) -> MusicAPIStoreTracksOperator:
    """Return an operator that stores into a local folder."""
    return MusicAPIStoreTracksOperator(
        task_id="store", tracks=tracks, destination=f"file://{folder}", **arguments
    )


def test_store_returns_a_record_of_each_track(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any]
) -> None:
    """With the documented keys, in the order of the tracks."""
    records = store_for(tracks, tmp_path, prompt_id="row-7").execute(context)
    keys = {"clip_id", "music_task_id", "title", "audio_url", "uri", "bytes", "sha256", "duration"}

    assert [track["clip_id"] for track in tracks] == [record["clip_id"] for record in records]
    assert [keys | {"content_type", "prompt_id"}] * 2 == [set(record) for record in records]
    assert [f"{clip['clip_id']}.mp3" for clip in tracks] == [Path(record["uri"]).name for record in records]
    assert {"row-7"} == {record["prompt_id"] for record in records}


def test_store_tells_its_outlets_the_counts(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any]
) -> None:
    """Each outlet gets an event with tracks, bytes and the folder."""
    asset = Asset("music", uri="file:///music")
    records = store_for(tracks, tmp_path, outlets=[asset]).execute(context)

    assert context["outlet_events"][asset].extra == {
        "tracks": 2,
        "bytes": sum(record["bytes"] for record in records),
        "destination": f"file://{tmp_path}",
    }


def test_store_of_nothing_stores_nothing(tmp_path: Path, context: dict[str, Any]) -> None:
    """An empty list is no error."""
    asset = Asset("music", uri="file:///music")
    records = store_for([], tmp_path, outlets=[asset]).execute(context)

    assert records == []
    assert context["outlet_events"][asset].extra["tracks"] == 0


def test_store_failure_is_left_to_the_tasks_retries(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """All others are stored first; downloading again is free, and what is there is not downloaded twice."""
    broken = [{**tracks[0], "audio_url": "ftp://a.example/b.mp3"}, tracks[1]]
    words = r"1 tracks could not be stored, 1 are.*no final https URL"
    with pytest.raises(MusicAPIStorageError, match=words):
        store_for(broken, tmp_path).execute(context)
    stored = {path.name for path in tmp_path.glob("*.mp3")}
    records = store_for(tracks, tmp_path).execute(context)

    assert stored == {f"{tracks[1]['clip_id']}.mp3"}
    assert len(records) == 2
    assert simulator.state.requests["GET /media/{clip_id}.mp3"] == 2


def test_store_reads_fresh_urls_of_expired_tracks(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """With the connection's key, which goes to the API alone."""
    before = simulator.state.requests[GET_TASK]
    expired = [{**track, "audio_url": f"{track['audio_url']}-gone"} for track in tracks]
    records = store_for(expired, tmp_path).execute(context)

    assert [track["audio_url"] for track in tracks] == [record["audio_url"] for record in records]
    assert simulator.state.requests[GET_TASK] == before + 2
    assert simulator.state.media_requests_with_key == 0


def test_store_keeps_what_is_known_of_the_run(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """The sidecar leads back to it; the index has the row."""
    task_instance.dag_id, task_instance.task_id = "songs", "store"
    store_for(tracks, tmp_path, prompt_id="row-7").execute(context)
    sidecar = json.loads((tmp_path / f"{tracks[0]['clip_id']}.json").read_text())
    index = (tmp_path / "index.csv").read_text(encoding="utf-8-sig")

    assert sidecar["about"] == {
        "prompt_id": "row-7",
        "dag_id": "songs",
        "task_id": "store",
        "run_id": "manual__1",
        "map_index": -1,
        "try_number": 1,
    }
    assert index.count("row-7") == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp3", ".json", ".csv"}


def test_store_says_where_before_it_stores(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], task_instance: MagicMock
) -> None:
    """The tracks page finds a folder by this, also when a later track fails the task."""
    task_instance.xcom_push.reset_mock()
    task_instance.xcom_push.side_effect = lambda **_: (_ for _ in ()).throw(ConnectionError("stop here"))
    with pytest.raises(ConnectionError):
        store_for(tracks, f"{tmp_path}/music/").execute(context)  # type: ignore[arg-type]

    assert task_instance.xcom_push.call_args.kwargs == {
        "key": xcoms.DESTINATION,
        "value": f"file://{tmp_path}/music",
    }
    assert not (tmp_path / "music").exists()


@pytest.mark.parametrize("many", [False, True], ids=["one", "a list"])
def test_what_was_ordered_goes_into_the_sidecar(
    many: bool,
    tracks: list[dict[str, Any]],
    tmp_path: Path,
    context: dict[str, Any],
    task_instance: MagicMock,
) -> None:
    """The create tells what it bought; the tracks page shows prompt and credits."""
    calls = [call.kwargs for call in task_instance.xcom_push.call_args_list]
    submission = [call["value"] for call in calls if call["key"] == xcoms.SUBMISSION][-1]
    other = {"music_task_id": "other", "body": {"prompt": "not this"}, "credits": 2}
    store_for(tracks, tmp_path, submission=[other, submission] if many else submission).execute(context)
    about = json.loads((tmp_path / f"{tracks[0]['clip_id']}.json").read_text())["about"]
    row = read_index((tmp_path / "index.csv").read_bytes())[0]

    assert submission["music_task_id"] == tracks[0]["music_task_id"]
    assert about["body"] == submission["body"]
    assert about["body"]["prompt"] == "La la"
    assert (about["credits"], row.credits, row.prompt) == (15, "15", "La la")
    assert (row.dag_id, row.run_id) == ("songs", "manual__1")


def test_submission_of_another_purchase_tells_nothing(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any]
) -> None:
    """After a clear, a mapped task may get another row's XCom."""
    other = {"music_task_id": "other", "body": {"prompt": "not this"}, "credits": 2}
    store_for(tracks, tmp_path, submission=other).execute(context)
    about = json.loads((tmp_path / f"{tracks[0]['clip_id']}.json").read_text())["about"]

    assert not {"body", "credits"} & about.keys()


@pytest.mark.parametrize("submission", ["{'state': 'submitted'}", 5, ["x"], [None]], ids=repr)
def test_store_refuses_a_submission_that_is_none(
    submission: Any, tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any]
) -> None:
    """Before anything is downloaded; the text says how to pass it."""
    with pytest.raises(
        AirflowFailException, match=r"submission: must be what a create knows .*create\.output"
    ):
        store_for(tracks, tmp_path, submission=submission).execute(context)

    assert not list(tmp_path.iterdir())


def test_extra_body_stays_out_of_xcom(context: dict[str, Any], task_instance: MagicMock) -> None:
    """It may hold what is nobody's business, such as a webhook's secret."""
    create_for(extra_body={"webhook_secret": "s3cret"}).execute(context)

    assert "s3cret" not in str(task_instance.xcom_push.call_args_list)


def test_body_that_is_no_json_stays_out_of_xcom(context: dict[str, Any], task_instance: MagicMock) -> None:
    """That of an adopted music task is not checked; the error tells of the body, not of XCom."""
    with pytest.raises(AirflowFailException, match="request body is no JSON"):
        create_for(adopt_music_task_id="abc", body={"prompt": object()}).execute(context)

    assert [call.kwargs["value"]["body"] for call in task_instance.xcom_push.call_args_list] == [None]


def test_store_embeds_tags_and_covers(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any]
) -> None:
    """A player shows them."""
    records = store_for(tracks, tmp_path, store_cover=True, embed_tags=True, concurrency=1).execute(context)
    tags = mutagen.File(records[0]["uri"].removeprefix("file://")).tags

    assert str(tags["TIT2"]) == tracks[0]["title"]
    assert tags.getall("APIC")


def test_store_puts_up_with_an_index_that_cannot_be_written(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], logged: Log
) -> None:
    """The tracks are stored, and the next run makes up for it."""
    (tmp_path / "index.csv").mkdir()
    records = store_for(tracks, tmp_path).execute(context)

    assert len(records) == 2
    assert "The index of" in logged.text


def test_store_works_on_s3_as_on_files(
    tracks: list[dict[str, Any]], s3_bucket: S3Bucket, context: dict[str, Any]
) -> None:
    """The same operator with another destination; nothing else stays in the bucket."""
    operator = MusicAPIStoreTracksOperator(
        task_id="store", tracks=tracks, destination=s3_bucket.uri, store_cover=True, embed_tags=True
    )
    records = operator.execute(context)
    sizes = s3_bucket.sizes()
    clips = [track["clip_id"] for track in tracks]

    assert [f"{s3_bucket.uri}/{clip}.mp3" for clip in clips] == [record["uri"] for record in records]
    assert [record["bytes"] for record in records] == [sizes[f"music/{clip}.mp3"] for clip in clips]
    assert set(sizes) == {
        "music/index.csv",
        *(f"music/{clip}.{suffix}" for clip in clips for suffix in ("mp3", "json", "jpeg")),
    }


def test_store_refuses_no_concurrency() -> None:
    """When the DAG is parsed; nothing would ever be stored."""
    with pytest.raises(ValueError, match="concurrency"):
        MusicAPIStoreTracksOperator(task_id="store", tracks=[], destination="file:///x", concurrency=0)


@pytest.mark.parametrize("destination", ["", " ", "None"], ids=repr)
def test_store_refuses_a_missing_destination(
    destination: str, tracks: list[dict[str, Any]], context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """Else the music would land in some working directory."""
    operator = MusicAPIStoreTracksOperator(task_id="store", tracks=tracks, destination=destination)
    with pytest.raises(AirflowFailException, match="destination"):
        operator.execute(context)

    assert simulator.state.requests["GET /media/{clip_id}.mp3"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("[{'clip_id': 'a'}]", id="text of a list"),
        pytest.param(None, id="missing XCom"),
        pytest.param(["a"], id="list of ids"),
        pytest.param({"clip_id": "a"}, id="one track without a list"),
    ],
)
def test_store_refuses_what_is_no_list_of_tracks(bad: Any, tmp_path: Path, context: dict[str, Any]) -> None:
    """A mistake in the DAG is told as one, and not retried."""
    with pytest.raises(AirflowFailException, match="tracks"):
        store_for(bad, tmp_path).execute(context)


def test_store_never_sends_the_key_to_the_media_host(
    tracks: list[dict[str, Any]], tmp_path: Path, context: dict[str, Any], simulator: SimulatorServer
) -> None:
    """It is another host's business."""
    store_for(tracks, tmp_path, store_cover=True).execute(context)

    assert simulator.state.requests["GET /media/{clip_id}.mp3"] == 2
    assert simulator.state.requests["GET /media/{clip_id}.jpeg"] == 2
    assert simulator.state.media_requests_with_key == 0


def test_log_tells_the_story_of_a_song(
    tmp_path: Path, context: dict[str, Any], simulator: SimulatorServer, logged: Log
) -> None:
    """What was ordered and at what price, how long it took, the takes, where they are; a line each."""
    simulator.state.configure(job_rule="at-once")
    title = "Rain\n in the city, " + "again " * 9
    made = run(lambda: create_for(title=title, wait_for_completion=True), context)
    store_for(made, tmp_path).execute(context)
    name, seconds = r"Rain in the city, again .* \.\.\.", r"\d+ s"
    patterns = [
        rf"Submitting {name} \(create_music, sonic-v5\).* balance .* credits.*",
        rf"Music task {made[0]['music_task_id']} is bought \(about 15 credits\)\.",
        rf"2 tracks of 1 music tasks are ready after {seconds}: {name} \({seconds}\), {name} \({seconds}\)",
        *[rf"Stored {name} \({seconds}, \d+ bytes\): file://{tmp_path}/.*\.mp3"] * 2,
        rf"2 tracks are in file://{tmp_path}",
    ]
    told = [line for line in logged.lines if re.match(r"Submitting|Music task|\d tracks|Stored", line)]

    assert len(told) == len(patterns)
    assert all(re.fullmatch(*pair) for pair in zip(patterns, told, strict=True)), told


@pytest.mark.parametrize(
    "operator", [MusicAPICreateOperator, MusicAPIStoreTracksOperator, MusicAPIPromptTableOperator]
)
def test_fields_with_a_renderer_are_rendered(operator: type[BaseOperator]) -> None:
    """Airflow passes over a name that is no template field."""
    assert operator.template_fields_renderers
    assert operator.template_fields_renderers.keys() <= set(operator.template_fields)


def test_store_templated_fields() -> None:
    """What a DAG may compute."""
    assert {"tracks", "destination", "musicapi_conn_id", "prompt_id", "submission"} == set(
        MusicAPIStoreTracksOperator.template_fields
    )


# -- imports -------------------------------------------------------------------------------------------------


def test_import_brings_no_heavy_modules() -> None:
    """DAG files are parsed all the time: what only running tasks need is not imported before."""
    code = """
import sys
from airflow.sdk import BaseOperator, BaseSensorOperator, ObjectStoragePath, conf
before = set(sys.modules)
import musicapi_provider.operators.musicapi
import musicapi_provider.sensors.musicapi
heavy = {'aiohttp', 'airflow.providers.http', 'mutagen', 'numpy', 'pyarrow'}
print(*sorted(heavy & (set(sys.modules) - before)), 'end')
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "end"
