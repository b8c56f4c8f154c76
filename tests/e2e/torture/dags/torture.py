"""
# The same purchases, in three ways.

**ours**: `MusicAPICreateOperator`. **sdk**: a task around the vendor's SDK. **http**: the http provider's
`HttpOperator`. Each buys one song a map index; the harness decides which ways run and who is killed when.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from tests.e2e.torture.instrument import reports_begin
from tests.e2e.torture.plan import RETRIES
from tests.e2e.torture.purchases import (
    BASE_URL,
    DAG_IDS,
    KEY,
    ORDER,
    PURCHASES,
    REQUEST_TIMEOUT,
    TASK_ID,
    WAITING,
    WAYS,
    prompt_of,
    purchase_name,
)

purchases = int(os.environ[PURCHASES])
waiting = int(os.environ[WAITING])


def prompts(way: str) -> list[str]:
    """Return what a way buys, by map index."""
    return [prompt_of(way, purchase_name(index)) for index in range(purchases)]


def body(prompt: str) -> dict[str, Any]:
    """Return the request body that each way sends."""
    return {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": prompt}


def settings(way: str) -> dict[str, Any]:
    """Operator arguments that all ways share."""
    return {
        "task_id": TASK_ID,
        "retries": RETRIES,
        "retry_delay": timedelta(seconds=0),
        "pre_execute": reports_begin(way),
    }


def ours() -> None:
    """Buy with this provider."""
    from musicapi_provider.operators.musicapi import MusicAPICreateOperator  # each way loads only its own

    def waits(purchase: str) -> dict[str, bool]:
        flag = bool(waiting) and int(purchase.rpartition("-")[2]) % waiting == 0
        return {"wait_for_completion": flag, "deferrable": flag}

    @task(retries=RETRIES)
    def order() -> list[dict[str, Any]]:
        """Return the rows as they are ordered now."""
        purchases = json.loads(Path(os.environ[ORDER]).read_text())
        return [{"prompt": prompt_of("ours", purchase), **waits(purchase)} for purchase in purchases]

    MusicAPICreateOperator.partial(**settings("ours"), mv="sonic-v5", custom_mode=True).expand_kwargs(order())


def sdk() -> None:
    """Buy as the SDK's users do: with its own retries inside Airflow's."""

    @task(**settings("sdk"))
    def buy(prompt: str) -> str:
        from musicapi import MusicAPI, SonicCreateParams

        with MusicAPI(KEY, base_url=os.environ[BASE_URL], timeout=REQUEST_TIMEOUT) as client:
            return client.sonic.create(SonicCreateParams(**body(prompt))).task_id

    buy.expand(prompt=prompts("sdk"))


def http() -> None:
    """Buy with the generic operator."""
    from airflow.providers.http.operators.http import HttpOperator

    HttpOperator.partial(
        **settings("http"),
        http_conn_id="torture_http",
        endpoint="sonic/create",
        method="POST",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        extra_options={"timeout": REQUEST_TIMEOUT},
        response_filter=lambda response: response.json()["task_id"],
    ).expand(data=[json.dumps(body(prompt)) for prompt in prompts("http")])


for way in os.environ[WAYS].split():
    with DAG(DAG_IDS[way], schedule=None, max_active_tasks=1000, doc_md=__doc__, tags=["torture"]):
        {"ours": ours, "sdk": sdk, "http": http}[way]()
