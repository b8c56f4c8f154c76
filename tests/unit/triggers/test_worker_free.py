"""Waiting without a worker: who may, where the ids come from, what is left in XCom."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, task, task_group
from airflow.sdk.bases.xcom import BaseXCom

from musicapi_provider.operators.musicapi import MusicAPICreateOperator
from musicapi_provider.sensors.musicapi import MusicAPITaskSensor
from musicapi_provider.triggers import worker_free
from musicapi_provider.triggers.musicapi import MusicAPITaskTrigger
from musicapi_provider.triggers.worker_free import (
    STARTED_KEY,
    ids_from,
    push_result,
    show_music_tasks,
    source_of,
    started,
    why_not,
)

if TYPE_CHECKING:
    from tests.unit.conftest import Log, TriggererXComs


class OtherXCom(BaseXCom):
    """A backend that keeps values elsewhere."""


def ti(**changes: Any) -> Any:
    """Return a task instance as a trigger has it."""
    place = {"dag_id": "dag", "task_id": "wait", "run_id": "run", "map_index": -1, "try_number": 1}
    return SimpleNamespace(**{**place, **changes})


def sensor_for(music_task_id: Any, **changes: Any) -> MusicAPITaskSensor:
    """Return a worker-free sensor."""
    return MusicAPITaskSensor(task_id="wait", music_task_id=music_task_id, worker_free=True, **changes)


@pytest.fixture
def dag() -> DAG:
    """Return an empty DAG."""
    return DAG("dag", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))


# -- how a sensor is set up ----------------------------------------------------------------------------------


def test_sensor_starts_in_the_triggerer_with_its_arguments() -> None:
    """They make a trigger, say when to end there, and change no other sensor."""
    sensor = sensor_for(["a", "b"], timeout=7, poke_interval=3, fail_on_partial=True, musicapi_conn_id="mine")
    args = sensor.start_trigger_args
    assert args is not None
    trigger = MusicAPITaskTrigger(**(args.trigger_kwargs or {}))

    assert sensor.start_from_trigger
    assert sensor.deferrable
    assert args.trigger_cls == trigger.serialize()[0]
    assert (args.next_method, args.timeout) == ("execute_complete", None)
    assert trigger.music_task_ids == ["a", "b"]
    assert (trigger.timeout, trigger.poll_interval, trigger.musicapi_conn_id) == (7.0, 3.0, "mine")
    assert (trigger.started, trigger.ends_here, trigger.fail_on_partial) == (None, True, True)
    assert MusicAPITaskSensor.start_trigger_args is None
    assert not MusicAPITaskSensor.start_from_trigger


def test_sensor_starts_on_a_worker_unless_asked() -> None:
    """The argument is off by default."""
    sensor = MusicAPITaskSensor(task_id="wait", music_task_id="a", deferrable=True)

    assert not sensor.start_from_trigger
    assert sensor.start_trigger_args is None


def test_outlets_end_on_a_worker() -> None:
    """Airflow emits asset events there only; the start needs none."""
    sensor = sensor_for("a", outlets=[Asset("songs")])

    assert "outlets" in (why_not(sensor) or "")
    assert sensor.start_from_trigger
    assert sensor.start_trigger_args is not None
    assert (sensor.start_trigger_args.trigger_kwargs or {})["ends_here"] is False


def test_custom_xcom_backend_keeps_start_and_end_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triggerers bypass it: they could neither read the ids nor leave the result."""
    monkeypatch.setattr(worker_free, "XCom", OtherXCom)
    sensor = sensor_for("a")

    assert "XCom backend" in (why_not(sensor) or "")
    assert not sensor.start_from_trigger
    assert sensor.deferrable


@pytest.mark.parametrize("backend", [BaseXCom, OtherXCom])
@pytest.mark.parametrize("outlets", [[], [Asset("songs")]])
def test_worker_knows_where_its_wait_ends(
    backend: Any, outlets: list[Asset], monkeypatch: pytest.MonkeyPatch, logged: Log
) -> None:
    """It tells the trigger, and the log, unless nothing is lost."""
    monkeypatch.setattr(worker_free, "XCom", backend)
    sensor = sensor_for("a", outlets=outlets)
    sensor._end_in_triggerer()
    free = backend is BaseXCom and not outlets

    assert sensor.ends_in_triggerer is free
    assert ("This wait ends on a worker" in logged.text) is not free


# -- where the ids come from ---------------------------------------------------------------------------------


def test_ids_of_the_dag_file_are_arguments() -> None:
    """One or several."""
    assert source_of("a") == {"music_task_ids": ["a"], "source": None}
    assert source_of(["a", "b"]) == {"music_task_ids": ["a", "b"], "source": None}


def test_output_of_a_task_is_a_source(dag: DAG) -> None:
    """The trigger reads it; a key of several outputs, too."""
    with dag:
        create = MusicAPICreateOperator(task_id="create", gpt_description_prompt="rain")

        @task(multiple_outputs=True)
        def booked() -> dict[str, str]:
            return {"one": "a"}

        ids = booked()

    assert source_of(create.output) == {
        "music_task_ids": [],
        "source": {"task_id": "create", "key": "return_value"},
    }
    assert source_of(ids["one"]) == {"music_task_ids": [], "source": {"task_id": "booked", "key": "one"}}


def test_output_of_mapped_tasks_needs_a_worker(dag: DAG) -> None:
    """Mapped themselves, or in a mapped group: triggerers read single XComs only."""

    @task
    def book(row: str) -> str:
        return row

    @task_group
    def rows(row: str) -> Any:
        return book.override(task_id="inner")(row)

    with dag:
        mapped = book.expand(row=["a", "b"])
        rows.expand(row=["a", "b"])
        inner = dag.get_task("rows.inner").output

    assert source_of(mapped.operator.output) is None
    assert source_of(inner) is None


def test_mapped_sensor_may_have_templates(dag: DAG) -> None:
    """It starts on a worker, which renders them; so making its instances refuses nothing."""
    with dag:
        MusicAPITaskSensor.partial(task_id="wait", worker_free=True).expand(
            music_task_id=["{{ params.a }}", "{{ params.b }}"]
        )
        sensor = dag.get_task("wait").unmap({"music_task_id": "{{ params.a }}"})

    assert isinstance(sensor, MusicAPITaskSensor)
    assert sensor.worker_free
    assert not sensor.start_from_trigger


@pytest.mark.parametrize("bad", ["{{ params.id }}", ["a", "{{ params.id }}"], [5], ["a", None]], ids=repr)
def test_template_is_refused_when_the_dag_is_parsed(bad: Any) -> None:
    """Nobody would render it; the error says what to do."""
    with pytest.raises(ValueError, match="Use deferrable=True instead"):
        sensor_for(bad)


def test_computed_output_is_refused_when_the_dag_is_parsed(dag: DAG) -> None:
    """A triggerer has no code of the DAG."""
    with dag:
        create = MusicAPICreateOperator(task_id="create", gpt_description_prompt="rain")
        with pytest.raises(ValueError, match="templates are not rendered"):
            sensor_for(create.output.map(str.strip))


# -- XCom ----------------------------------------------------------------------------------------------------


async def test_ids_are_read_where_the_upstream_left_them(triggerer_xcoms: TriggererXComs) -> None:
    """Whatever they are; ``None`` where nothing is."""
    triggerer_xcoms.values["create", "return_value"] = ["a", "b"]
    source = {"task_id": "create", "key": "return_value"}

    assert await ids_from(source, ti()) == ["a", "b"]
    assert await ids_from({**source, "key": "other"}, ti()) is None


async def test_beginning_is_kept_for_a_try(triggerer_xcoms: TriggererXComs) -> None:
    """The same try goes on, in whatever process; another try begins and forgets the result of the first."""
    first = await started(ti())
    await show_music_tasks(["m"], "musicapi_default", ti())
    await push_result([{"audio_url": "https://cdn/a.mp3"}], ti())
    triggerer_xcoms.values["wait", STARTED_KEY]["started"] = 5.0
    again = await started(ti())
    kept = dict(triggerer_xcoms.values)
    second = await started(ti(try_number=2))

    assert again == 5.0
    assert len(kept) == 5  # beginning, result, three links
    assert second >= first
    assert triggerer_xcoms.values == {("wait", STARTED_KEY): {"try_number": 2, "started": second}}


@pytest.mark.parametrize(("map_index", "length"), [(-1, 2), (0, None)])
async def test_result_is_what_a_worker_would_leave(
    map_index: int, length: int | None, triggerer_xcoms: TriggererXComs
) -> None:
    """A list, its length for mapping, and the link."""
    tracks = [{"audio_url": "https://cdn/a.mp3"}, {"audio_url": "https://cdn/b.mp3"}]
    await push_result(tracks, ti(map_index=map_index))

    assert triggerer_xcoms.values["wait", "return_value"] == tracks
    assert triggerer_xcoms.mapped_lengths == {"wait": length}
    assert "https://cdn/a.mp3" in triggerer_xcoms.values.values()
