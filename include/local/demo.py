"""
``make demo``: the prompt-table DAG, run for real by Airflow's own processes, from one command.

Needs no key: the simulator plays the API. With ``--real`` it goes to MusicAPI with ``MUSICAPI_KEY`` and pays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from include.local.stack import (
    AIRFLOW_HOME,
    PROJECT,
    SIMULATOR_KEY,
    Stack,
    StackError,
    connection_json,
    end_by_signal,
)
from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import DEFAULT_BASE_URL, ClientSettings
from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.prompt_table import PromptRow, parse_prompt_table

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI

DAG_ID = "musicapi_prompt_table"
TABLE = PROJECT / "include" / "prompts" / "evening_radio.csv"
MUSIC = PROJECT / "music"
#: Credits that one row of the table costs at the real API (facts 8); costs change without notice.
CREDITS_A_ROW = 15
STEPS = ("create", "wait", "store")

console = Console(width=None if sys.stdout.isatty() else 220)


@dataclass(frozen=True, slots=True)
class Target:
    """Which API the demo talks to."""

    base_url: str
    key: str
    poll_interval: float | None

    def client(self) -> MusicAPIClient:
        """Return a client for the balance."""
        return MusicAPIClient(ClientSettings(api_key=self.key, base_url=self.base_url))

    def connection(self) -> str:
        """Return the Airflow connection."""
        extra = {"poll_interval": self.poll_interval} if self.poll_interval else {}
        return connection_json(self.base_url, self.key, **extra)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 only if every row has its tracks on disk as playable audio."""
    options = _parser().parse_args(arguments)
    end_by_signal()
    rows = parse_prompt_table(TABLE.read_bytes(), name=str(TABLE))
    # The simulator's songs get a folder for each demo: stored rows would not be made again. Bought ones stay.
    destination = MUSIC if options.real else MUSIC / f"demo-{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005
    started = time.monotonic()
    try:
        _announce(rows, real=options.real)
        manifest, state, spent = _run(rows, destination, real=options.real)
    except (StackError, MusicAPIError) as error:
        console.print(f"[red]The demo stopped:[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print(
            "Stopped." + (" The next make demo REAL=1 goes on where it was." if options.real else "")
        )
        return 130
    complete = _report(rows, manifest, spent)
    console.print(f"The files: {destination.relative_to(PROJECT)}/ (and their manifest in manifests/)")
    console.print(f"Took {time.monotonic() - started:.0f} s. Next: [bold]make up[/bold]")
    return 0 if complete and state == "success" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--real", action="store_true", help="use MUSICAPI_KEY and pay real credits")
    return parser


def _announce(rows: Sequence[PromptRow], *, real: bool) -> None:
    cost = len(rows) * CREDITS_A_ROW
    table = TABLE.relative_to(PROJECT)
    if real:
        if not os.environ.get("MUSICAPI_KEY"):
            raise StackError("--real needs an API key in MUSICAPI_KEY.")
        console.print(f"[bold]{len(rows)} songs[/bold] from {table}, bought for about {cost} credits.")
        return
    console.print(f"[bold]{len(rows)} songs[/bold] from {table}, made by the simulator: no key, no cost.")
    if os.environ.get("MUSICAPI_KEY"):
        console.print(
            f"MUSICAPI_KEY is set, and not used. The real API would cost about {cost} credits: "
            "[bold]make demo REAL=1[/bold]"
        )


def _run(
    rows: Sequence[PromptRow], destination: Path, *, real: bool
) -> tuple[list[dict[str, Any]], str, float]:
    """Run the DAG; return its manifest, its state and the credits spent."""
    home = AIRFLOW_HOME / ("real" if real else "demo")
    # Only triggered runs: unpausing a daily DAG makes the scheduler start one of its own as well.
    settings = {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}
    # Nothing of an earlier demo may act in this one; what was paid for, though, goes on where it was.
    with Stack(home=home, fresh=not real, settings=settings) as stack:
        with _step("Preparing Airflow's database (SQLite)"):
            stack.migrate()
        target = _target(stack, real=real)
        stack.environment["AIRFLOW_CONN_MUSICAPI_DEFAULT"] = target.connection()
        before = target.client().get_credits().total
        if real and before < len(rows) * CREDITS_A_ROW:
            console.print(f"The balance is {before:g} credits: rows that it cannot pay will fail, unpaid.")
        with _step("Starting scheduler, DAG processor, triggerer and API server"):
            stack.start_airflow()
        api = stack.api()
        with _step(f"Reading dags/{DAG_ID}.py"):
            stack.wait_for_dag(api, DAG_ID)
        # What was paid for is collected: an interrupted run goes on instead of a new one.
        run_id = api.unfinished_run(DAG_ID) or api.trigger(
            DAG_ID, {"prompt_table": f"file://{TABLE}", "destination": f"file://{destination}"}
        )
        state = _watch(stack, api, run_id, len(rows))
        if state != "success":
            _explain(api, run_id)
        return _manifest(api, run_id), state, before - target.client().get_credits().total


def _target(stack: Stack, *, real: bool) -> Target:
    if real:
        base_url = os.environ.get("MUSICAPI_BASE_URL") or DEFAULT_BASE_URL
        return Target(base_url, os.environ["MUSICAPI_KEY"], None)
    with _step("Starting the simulator"):
        return Target(stack.start_simulator(), SIMULATOR_KEY, 2.0)


@contextmanager
def _step(text: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(f"{text} ..."):
        yield
    console.print(f"{text}: {time.monotonic() - started:.1f} s", highlight=False)


def _watch(stack: Stack, api: AirflowAPI, run_id: str, total: int) -> str:
    """Show how far the run is, until it ends."""
    said = ""
    with console.status("Waiting for the first task ...") as status:
        while True:
            stack.check_alive()
            state = api.run_state(DAG_ID, run_id)
            line = _progress(api.task_instances(DAG_ID, run_id), total)
            status.update(line)
            if line != said and not console.is_terminal:
                console.print(said := line, highlight=False)
            if state in ("success", "failed"):
                break
            time.sleep(1)
    console.print(f"{line}. The run: {state}", highlight=False)
    return state


def _progress(instances: Sequence[Mapping[str, Any]], total: int) -> str:
    done = Counter(one["task_id"] for one in instances if one["state"] == "success")
    bad = Counter(one["task_id"] for one in instances if one["state"] in ("failed", "upstream_failed"))
    waiting = sum(one["state"] == "deferred" for one in instances)
    words = {"create": "submitted", "wait": "finished", "store": "stored"}
    parts = [f"{done[f'song.{step}']}/{total} {words[step]}" for step in STEPS]
    parts += [f"{bad[f'song.{step}']} {step} failed" for step in STEPS if bad[f"song.{step}"]]
    return ", ".join(parts) + (f" ({waiting} waiting in the triggerer)" if waiting else "")


def _explain(api: AirflowAPI, run_id: str) -> None:
    """Show the end of the log of what failed."""
    for instance in api.task_instances(DAG_ID, run_id):
        if instance["state"] == "failed":
            name = f"{instance['task_id']} {instance.get('rendered_map_index') or ''}".strip()
            console.print(f"[red]{name} failed:[/red]")
            console.print("\n".join(api.log(DAG_ID, run_id, instance)[-8:]), markup=False, highlight=False)


def _manifest(api: AirflowAPI, run_id: str) -> list[dict[str, Any]]:
    states = {one["task_id"]: one["state"] for one in api.task_instances(DAG_ID, run_id)}
    if states.get("write_manifest") != "success":
        return []
    manifest = _path(api.xcom(DAG_ID, run_id, "write_manifest")["manifest"])
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def _report(rows: Sequence[PromptRow], manifest: Sequence[Mapping[str, Any]], spent: float) -> bool:
    """Print the table; tell whether every row has playable tracks on disk."""
    entries = {entry["prompt_id"]: entry for entry in manifest}
    table = Table(title="Tracks", show_lines=False, header_style="bold")
    for name in ("prompt", "title", "state", "seconds", "URL", "file"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    complete, files = True, 0
    for row in rows:
        tracks = entries.get(row.prompt_id, {}).get("tracks", [])
        complete &= bool(tracks)
        if not tracks:
            table.add_row(row.prompt_id, "", "[red]no tracks[/red]", "", "", "")
        for track in tracks:
            path = _path(track["uri"])
            seconds = _playable_seconds(path)
            complete &= seconds is not None
            files += seconds is not None
            table.add_row(
                row.prompt_id,
                track["title"] or "",
                "playable" if seconds else "[red]not playable[/red]",
                f"{seconds or 0:.1f}",
                _linked(track["audio_url"]),
                _linked(path.as_uri(), str(path.relative_to(PROJECT))),
            )
    console.print(table)
    console.print(f"{files} playable tracks of {len(rows)} prompts. Credits spent: {spent:g}.")
    return complete


def _linked(url: str, text: str = "") -> Text:
    """Return a link that can be clicked; on a terminal the id's middle gives way to the columns."""
    text = text or url
    shown = re.sub(r"-[0-9a-f-]{20,}", "…", text) if console.is_terminal else text
    return Text(shown, style=f"link {url}")


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _playable_seconds(path: Path) -> float | None:
    """Return the duration of a file that a player could play, else ``None``."""
    import mutagen

    try:
        audio = mutagen.File(path)
    except (mutagen.MutagenError, OSError):
        return None
    return float(audio.info.length) if audio is not None and audio.info.length > 0 else None


if __name__ == "__main__":
    sys.exit(main())
