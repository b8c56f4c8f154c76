"""
Waiting that never touches a worker: what the triggerer does then in a worker's place.

A task instance can start in the triggerer (no worker has polled or rendered anything) and end there (no
worker hands over the result). Whatever goes wrong is handed to a worker, so failures mean the same in every
mode.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow.sdk import XComArg
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import StartTriggerArgs

from musicapi_provider.links.extra_links import (
    MusicAPICoverLink,
    MusicAPIListenLink,
    MusicAPIMusicTaskLink,
    media_links,
    music_tasks_url,
)
from musicapi_provider.links.place import Place
from musicapi_provider.triggers.deleted_xcoms import delete_xcoms

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk import BaseOperator

    from musicapi_provider.sensors.musicapi import MusicAPITaskSensor

#: XCom key under which a wait that began in the triggerer keeps its beginning: the deadline must survive the
#: triggerer, and the arguments of such a trigger are those of the DAG file.
STARTED_KEY = "musicapi_wait_started"


def why_not(operator: BaseOperator) -> str | None:
    """Say why this task must end on a worker, if so: what would be lost in the triggerer."""
    if operator.outlets:
        return "it has outlets, and Airflow emits asset events from workers only"
    if _custom_xcom_backend():
        return "a custom XCom backend is configured, and triggerers do not use it"
    return None


def _custom_xcom_backend() -> bool:
    return XCom is not BaseXCom


def source_of(music_task_id: str | list[str] | XComArg) -> dict[str, object] | None:
    """
    Return where a trigger finds its music tasks: trigger arguments ``music_task_ids`` and ``source``.

    :return: ``None`` when only a worker can find them: the output of a mapped task.

    :raises ValueError: A template or a computed XComArg, which nobody renders in the triggerer.
    """
    if isinstance(music_task_id, PlainXComArg):
        upstream = music_task_id.operator
        if upstream.is_mapped or upstream.get_closest_mapped_task_group() is not None:
            return None  # triggerers can read single XComs only
        return {"music_task_ids": [], "source": {"task_id": upstream.task_id, "key": music_task_id.key}}
    ids = [music_task_id] if isinstance(music_task_id, str) else music_task_id
    if isinstance(ids, XComArg) or not all(isinstance(id_, str) and "{" not in id_ for id_ in ids):
        raise ValueError(
            "worker_free needs music_task_id to be an id, a list of ids or a task's output: templates are "
            f"not rendered in the triggerer; got {music_task_id!r}. Use deferrable=True instead."
        )
    return {"music_task_ids": list(ids), "source": None}


def start_args(sensor: MusicAPITaskSensor) -> StartTriggerArgs | None:
    """
    Return what Airflow needs to start a sensor in the triggerer; ``None`` when only a worker can start it.

    :raises ValueError: see :func:`source_of`.
    """
    source = source_of(sensor.music_task_id)
    if source is None or _custom_xcom_backend():
        return None
    return StartTriggerArgs(
        trigger_cls="musicapi_provider.triggers.musicapi.MusicAPITaskTrigger",
        trigger_kwargs={
            **source,
            "musicapi_conn_id": sensor.musicapi_conn_id,
            "timeout": sensor.timeout,
            "poll_interval": sensor.poll_interval,
            "ends_here": why_not(sensor) is None,
            "fail_on_partial": sensor.fail_on_partial,
            "include_lyrics": sensor.include_lyrics,
            "webhook": sensor.webhook,
        },
        next_method="execute_complete",
    )


async def ids_from(source: Mapping[str, str], ti: TaskInstance) -> object:
    """Return what the upstream task has left in XCom: ids, or whatever it is."""
    return await XCom.aget_one(**{**Place.of(ti)._asdict(), **source, "map_index": -1})


async def started(ti: TaskInstance) -> float:
    """Return when this try's wait began, in epoch seconds: now, or before a triggerer went down."""
    place = Place.of(ti)
    known = await XCom.aget_one(key=STARTED_KEY, **place._asdict())
    if isinstance(known, dict) and known.get("try_number") == ti.try_number:
        return float(known["started"])
    if known is not None:
        await _forget_result(place)
    now = time.time()
    await XCom.aset(key=STARTED_KEY, value={"try_number": ti.try_number, "started": now}, **place._asdict())
    return now


async def _forget_result(place: Place) -> None:
    """Remove what an earlier try left, as Airflow does when a try starts on a worker."""
    links = MusicAPIListenLink(), MusicAPICoverLink(), MusicAPIMusicTaskLink()
    await delete_xcoms(["return_value", *(link.xcom_key for link in links)], place)


async def show_music_tasks(music_task_ids: Sequence[str], conn_id: str, ti: TaskInstance) -> None:
    """Leave the link to the music tasks in XCom, as a worker does when it hands them over."""
    url = music_tasks_url(ti, conn_id, music_task_ids)
    await XCom.aset(key=MusicAPIMusicTaskLink().xcom_key, value=url, **Place.of(ti)._asdict())


async def push_result(tracks: Sequence[dict[str, object]], ti: TaskInstance) -> None:
    """Leave the result and its links in XCom, as a worker would."""
    place = Place.of(ti)._asdict()
    length = len(tracks) if ti.map_index < 0 else None  # for tasks that are mapped over the result
    await XCom.aset(key="return_value", value=list(tracks), _mapped_length=length, **place)
    for key, url in media_links(tracks).items():
        await XCom.aset(key=key, value=url, **place)
