"""
A real S3 server for tests: moto's, on a free loopback port, reached through the amazon provider's connection.

``from tests.s3 import s3_bucket`` gives a fixture; ``ObjectStoragePath(s3_bucket.uri)`` works, also in the
processes that a test starts, since the connection ``aws_test`` stands in the environment.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import boto3
import pytest
from airflow.sdk.io import store
from moto.server import ThreadedMotoServer

CONN_ID = "aws_test"
KEY, REGION = "test", "us-east-1"


@dataclass(frozen=True)
class S3Bucket:
    """
    A bucket of its own for one test.

    :param client: A plain boto3 client, to look without our code.
    """

    name: str
    client: Any

    @property
    def uri(self) -> str:
        """The folder ``music`` in it, as a DAG would name it."""
        return f"s3://{CONN_ID}@{self.name}/music"

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all objects by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def unfinished_uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were never completed."""
        found = self.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in found.get("Uploads", [])]


@cache
def endpoint() -> str:
    """Start the server, once for the process, and return its URL."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    one_at_a_time(server)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def one_at_a_time(server: ThreadedMotoServer) -> None:
    """Serve one request after the other: moto's threads read an object's buffer without a lock."""
    serving: Any = server._server
    app, lock = serving.app, threading.Lock()

    def locked(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    serving.app = locked


def connection_json(url: str) -> str:
    """Return the Airflow connection for a server, as ``AIRFLOW_CONN_AWS_TEST`` holds it."""
    extra = {"endpoint_url": url, "region_name": REGION}
    return json.dumps({"conn_type": "aws", "login": KEY, "password": KEY, "extra": extra})


def client_for(url: str) -> Any:
    """Return a boto3 client for a server."""
    return boto3.client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=KEY
    )


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """Return a fresh bucket, with the connection ``aws_test`` to its server in the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", connection_json(endpoint()))
    bucket = S3Bucket(f"music-{uuid4().hex[:12]}", client_for(endpoint()))
    bucket.client.create_bucket(Bucket=bucket.name)
    yield bucket
    store._STORE_CACHE.pop(f"s3-{CONN_ID}", None)  # the next test may have another server
    for key in bucket.sizes():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    bucket.client.delete_bucket(Bucket=bucket.name)
