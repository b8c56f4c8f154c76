"""Tell a benchmark each time that a worker process begins to work on a task, whatever DAG it is of."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class Starts:
    """A listener that runs in the worker process."""

    @hookimpl
    def on_task_instance_running(self, task_instance: Any) -> None:
        """Add a line: the task's name and the time."""
        with Path(os.environ["BENCHMARK_STARTS"]).open("a") as file:
            file.write(f"{task_instance.task_id} {time.time():.3f}\n")


class StartsPlugin(AirflowPlugin):
    """Brings the listener."""

    name = "benchmark_starts"
    listeners = [Starts()]  # noqa: RUF012 - so does Airflow's own class
