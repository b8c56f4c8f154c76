"""
Airflow's own ``TriggerRunner``, in this process and without a database: what a triggerer's child runs.

Only its supervisor is missing. Log lines are made as in a triggerer and counted instead of sent.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from include.local.stack import connection_json

KEY = "simulator-key"
OURS = "musicapi_provider.triggers.musicapi.MusicAPITaskTrigger"
THEIRS = "airflow.providers.http.triggers.http.HttpSensorTrigger"
#: Waits and does nothing: what Airflow itself costs.
IDLE = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"


def connections(base_url: str, **extra: Any) -> dict[str, str]:
    """Return both ways' connection as environment variables."""
    http = {"conn_type": "http", "host": base_url, "extra": {"Authorization": f"Bearer {KEY}"}}
    return {
        "AIRFLOW_CONN_MUSICAPI_DEFAULT": connection_json(base_url, KEY, **extra),
        "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps(http),
    }


def set_connections(base_url: str, **extra: Any) -> None:
    """Set both ways' connection, as users do with an environment variable."""
    os.environ.update(connections(base_url, **extra))


class CountingLog(io.RawIOBase):
    """Log output that is thrown away, but for the number of lines and of the watchdog's warnings."""

    def __init__(self) -> None:
        self.lines = self.blocked = 0

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Count."""
        self.lines += 1
        self.blocked += b"was blocked for" in bytes(data)
        return len(data)


class _NoSupervisor:
    """In place of the pipe to the supervisor: it has nothing to say."""

    def __init__(self) -> None:
        self._reader_task: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def asend(self, _message: Any) -> Any:
        from airflow.jobs.triggerer_job_runner import messages

        return messages.TriggerStateSync(to_create=[], to_cancel=set())


class Runner:
    """
    A running ``TriggerRunner`` to which triggers can be given.

    :param log: Where its log lines went.
    """

    def __init__(self, log: CountingLog) -> None:
        from airflow.jobs.triggerer_job_runner import TriggerRunner

        class Unsupervised(TriggerRunner):
            async def init_comms(self) -> None:
                self.comms_decoder = cast("Any", _NoSupervisor())

            async def create_triggers(self) -> None:
                async with creating:  # the runner's loop does it as well, each second
                    await super().create_triggers()  # type: ignore[no-untyped-call]

        creating = asyncio.Lock()
        self.log = log
        self._runner = Unsupervised()  # type: ignore[no-untyped-call]
        self.task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Triggers that have not ended."""
        return sum(not details["task"].done() for details in self._runner.triggers.values())

    async def give(self, classpath: str, kwargs: Sequence[Mapping[str, Any]], *, seconds: float) -> None:
        """Start triggers evenly over some seconds, as a scheduler defers their tasks."""
        from airflow.executors.workloads.trigger import RunTrigger
        from airflow.models.trigger import Trigger

        first = len(self._runner.triggers)
        for number, arguments in enumerate(kwargs, first):
            encrypted = Trigger.encrypt_kwargs(dict(arguments))
            self._runner.to_create.append(
                RunTrigger(id=number, classpath=classpath, encrypted_kwargs=encrypted)
            )
            await self._runner.create_triggers()
            await asyncio.sleep(seconds / len(kwargs))

    async def clear(self) -> None:
        """End all triggers, as when their tasks are cleared."""
        tasks = [details["task"] for details in self._runner.triggers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._runner.triggers.clear()

    async def stop(self) -> None:
        """End all triggers and the runner."""
        await self.clear()
        self._runner.stop = True
        if self._runner._stop_event is not None:
            self._runner._stop_event.set()
        if self.task is not None:
            await self.task


@asynccontextmanager
async def running() -> AsyncIterator[Runner]:
    """Run Airflow's trigger runner in this event loop."""
    from airflow.sdk.log import configure_logging

    log = CountingLog()
    configure_logging(json_output=True, output=cast("Any", log), sending_to_supervisor=True)
    runner = Runner(log)
    runner.task = asyncio.create_task(runner._runner.arun())  # type: ignore[no-untyped-call]
    await asyncio.sleep(0.5)
    try:
        yield runner
    finally:
        await runner.stop()
