"""``make cluster``: docker-compose.yaml on this machine without Docker; Ctrl-C ends it all."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console

from include.cluster.cluster import Cluster, ClusterError, MissingProgramError
from include.cluster.interpolation import MissingValueError
from include.cluster.values import made_env, read_env
from include.local.stack import PROJECT, end_by_signal

STATE = PROJECT / ".cluster"
COMPOSE = PROJECT / "docker-compose.yaml"

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Start everything, say where it is, wait for Ctrl-C."""
    end_by_signal()
    values = values_for(STATE)
    try:
        with Cluster([COMPOSE], STATE, values) as cluster:
            started = time.monotonic()
            console.print(f"Starting {len(cluster.processes)} services of {COMPOSE.name}, about two minutes:")
            cluster.start(say=lambda name: console.print(f"{time.monotonic() - started:6.1f} s  {name}"))
            console.print(f"Airflow:  [bold]{cluster.url}[/bold]")
            console.print(
                f"Login:    [bold]admin[/bold], password [bold]{values['AIRFLOW_ADMIN_PASSWORD']}[/bold]"
            )
            console.print("Try:      DAG musicapi_prompt_table with destination s3://aws_music@music/songs")
            while True:
                cluster.tend()
                time.sleep(1)
    except (ClusterError, MissingProgramError, MissingValueError) as error:
        console.print(f"[red]The cluster stopped:[/red] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Everything is ended.")
        return 0


def values_for(state: Path) -> dict[str, str]:
    """Return what the file asks for: made secrets, over them ``.env``, over that the environment."""
    usual = {"COMPOSE_PROFILES": "simulator"}
    given = {name: value for name, value in read_env(PROJECT / ".env").items() if value}
    return {**usual, **made_env(state / "secrets.env"), **given, **os.environ}


if __name__ == "__main__":
    sys.exit(main())
