"""
What the tests act on: the cluster, Airflow's API, what the simulator has sold, what the object store holds.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

from include.local.airflow_api import AirflowAPI
from musicapi_provider.storage.partial import INCOMPLETE
from tests.e2e.tables.shop import HELD, Shop

if TYPE_CHECKING:
    from include.cluster.cluster import Cluster

BUCKET, CONN_ID = "music", "aws_music"
#: Seconds for one step: a killed worker is noticed after 30, and two cores are slow.
PATIENCE = 240.0


@dataclass
class ClusterShop(Shop):
    """The simulator, a service of the cluster."""

    host: str = ""

    def open(self) -> None:
        """Start it, and wait until it is healthy."""
        self.stack.start("simulator")  # type: ignore[attr-defined]
        self.set(slow_seconds=HELD)

    def kill(self) -> None:
        """End it as a crash does."""
        self.stack.processes["simulator"].kill()  # type: ignore[attr-defined]

    @property
    def _control(self) -> str:
        return f"http://{self.host}:{self.port}/_control"


class Folder:
    """A destination in the bucket, or all of it without a name."""

    def __init__(self, client: Any, name: str) -> None:
        self.uri = f"s3://{CONN_ID}@{BUCKET}/{name}"
        self._client = client
        self._prefix = f"{name}/" if name else ""

    def contents(self) -> dict[str, bytes]:
        """Return all objects by their paths in it."""
        read = self._client.get_object
        return {
            key.removeprefix(self._prefix): read(Bucket=BUCKET, Key=key)["Body"].read() for key in self.keys()
        }

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self._prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def tracks(self) -> int:
        """Return how many tracks are complete."""
        return sum(key.endswith(".mp3") and INCOMPLETE not in key for key in self.keys())


class World:
    """The running cluster, and what can be seen of it."""

    def __init__(self, cluster: Cluster, values: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.values = values
        journal = cluster.state / "volumes" / "simulator" / "journal.jsonl"
        host = cluster.addresses["simulator"]
        self.shop = ClusterShop(cluster, journal, 8765, host=host)  # type: ignore[arg-type]

    @cached_property
    def api(self) -> AirflowAPI:
        """A logged-in client of Airflow."""
        return AirflowAPI(self.cluster.url, self.values["AIRFLOW_ADMIN_PASSWORD"])

    @cached_property
    def s3(self) -> Any:
        """A plain client of the store, to look without our code."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.cluster.addresses['s3']}:8333",
            region_name="us-east-1",
            aws_access_key_id=self.values["S3_ACCESS_KEY"],
            aws_secret_access_key=self.values["S3_SECRET_KEY"],
        )

    def folder(self, name: str) -> Folder:
        """Return a destination."""
        return Folder(self.s3, name)

    def put_table(self, name: str, prompts: Sequence[str]) -> str:
        """Store a prompt table and return its URI."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["prompt_id", "custom_mode", "gpt_description_prompt", "mv"])
        writer.writerows([f"row-{i:03}", "false", prompt, "sonic-v5"] for i, prompt in enumerate(prompts))
        self.s3.put_object(Bucket=BUCKET, Key=name, Body=text.getvalue().encode())
        return f"s3://{CONN_ID}@{BUCKET}/{name}"

    def unfinished_uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were never completed."""
        found = self.s3.list_multipart_uploads(Bucket=BUCKET)
        return [upload["Key"] for upload in found.get("Uploads", [])]

    def until(
        self, what: str, reached: Callable[[], Any], *, pause: float = 0.2, patience: float = PATIENCE
    ) -> Any:
        """Wait until a condition is true and return its value; who asks a dead service asks again."""
        deadline = time.monotonic() + patience
        while True:
            self.cluster.tend()
            with suppress(requests.RequestException, BotoCoreError, ClientError):
                if value := reached():
                    return value
            assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
            time.sleep(pause)


class Run:
    """
    A run of a DAG.

    :param conf: Its conf.
    """

    def __init__(self, world: World, dag_id: str, **conf: Any) -> None:
        self._world = world
        self.dag_id = dag_id
        self.id: str = world.until(f"{dag_id} is started", lambda: world.api.trigger(dag_id, conf))

    def state(self) -> str:
        """Return its state."""
        return self._world.api.run_state(self.dag_id, self.id)

    def until_over(self, *, patience: float = PATIENCE) -> str:
        """Wait until it has ended and return its state."""

        def ended() -> str:
            state = self.state()
            return state if state in ("success", "failed") else ""

        return str(self._world.until(f"the end of {self.dag_id}", ended, patience=patience))

    def triggerer(self) -> str:
        """Return the service that waits for ``make_songs``; empty for none."""
        job = self.instance()["triggerer_job"] or {}
        return str(job.get("hostname") or "")

    def until_waited_for(self) -> None:
        """Wait until a triggerer has taken ``make_songs`` over and looks at its music tasks."""
        world = self._world
        world.until("a triggerer has it", lambda: self.instance()["state"] == "deferred" and self.triggerer())
        before = world.shop.looks()
        world.until("a look", lambda: world.shop.looks() > before)

    def instance(self, task_id: str = "make_songs") -> Mapping[str, Any]:
        """Return a task instance."""
        (found,) = [one for one in self.instances() if one["task_id"] == task_id]
        return found

    def instances(self) -> list[dict[str, Any]]:
        """Return all task instances."""
        return self._world.api.task_instances(self.dag_id, self.id)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom."""
        return self._world.api.xcom(self.dag_id, self.id, task_id, key=key)

    def summary(self) -> dict[str, Any]:
        """Return what ``make_songs`` says in the end; a failed one says it beside its result."""
        keys = self._world.api.xcom_keys(self.dag_id, self.id, "make_songs")
        found: dict[str, Any] = self.xcom(
            "make_songs", "return_value" if "return_value" in keys else "summary"
        )
        return found

    def logs(self) -> str:
        """Return the logs of what has failed."""
        api = self._world.api
        return "\n".join(
            api.log_text(self.dag_id, self.id, one)[-4000:]
            for one in self.instances()
            if one["state"] in ("failed", "up_for_retry")
        )
