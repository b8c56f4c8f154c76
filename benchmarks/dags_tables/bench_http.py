"""
A prompt table with the http provider, as well as that goes: a create, a sensor and a download for each row.

For ``benchmarks/table_ways.py``. A file of its own: each worker process imports the whole file.
"""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import PokeReturnValue, dag, task, task_group

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=10)}


def tracks_of(response: Any) -> PokeReturnValue:
    """Say whether all clips are there, and hand their URLs on."""
    clips = response.json().get("data") or []
    done = bool(clips) and all(clip["state"] == "succeeded" for clip in clips)
    return PokeReturnValue(done, {clip["clip_id"]: clip["audio_url"] for clip in clips} if done else None)


@dag(schedule=None, params={"prompt_table": "", "destination": ""}, default_args=RETRIES)
def bench_http() -> None:
    """Do each row in a create, a sensor and a download."""

    @task
    def bodies(params: dict | None = None) -> list[str]:
        """Read the table."""
        kind = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": False}
        with Path(params["prompt_table"].removeprefix("file://")).open(newline="") as file:
            return [
                json.dumps({**kind, "gpt_description_prompt": row["gpt_description_prompt"]})
                for row in csv.DictReader(file)
            ]

    @task
    def download(tracks: dict[str, str], params: dict | None = None) -> None:
        """Write each track to a file."""
        folder = Path(params["destination"].removeprefix("file://"))
        folder.mkdir(parents=True, exist_ok=True)
        for clip_id, url in tracks.items():
            answer = requests.get(url, timeout=60)
            answer.raise_for_status()
            (folder / f"{clip_id}.mp3").write_bytes(answer.content)

    @task_group
    def song(data: str) -> None:
        """Make one row's song."""
        create = HttpOperator(
            task_id="create",
            endpoint="sonic/create",
            headers={"Content-Type": "application/json"},
            data=data,
            response_filter=lambda response: f"sonic/task/{response.json()['task_id']}",
        )
        # As one would write it. But with a response_check HttpSensor never defers, and without one any answer
        # but a 404 ends the wait. It costs nothing here: creates go first, and most jobs are done after them.
        # mode="reschedule" takes as many starts, and loses tries to Airflow's race where jobs are not done.
        wait = HttpSensor(
            task_id="wait",
            endpoint=create.output,
            response_check=tracks_of,
            deferrable=True,
            poke_interval=5,
        )
        download(wait.output)

    song.expand(data=bodies())


bench_http()
