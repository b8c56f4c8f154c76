"""
``make up``: Airflow with its UI on this machine, the simulator and its connection ready; Ctrl-C ends it all.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from include.local.stack import SIMULATOR_KEY, Stack, StackError, connection_json, end_by_signal, port_is_free

DESCRIPTION = "The simulator; made by make up. Put your own key and https base URL here to use the real API."
CONN_ID = "musicapi_default"
#: The database of the DAG musicapi_sql_tables.
SQL_CONN_ID = "musicapi_sql"
SQL_DESCRIPTION = "SQLite for the DAG musicapi_sql_tables; made by make up. Any other database will do, too."
#: Only what you trigger: unpausing a daily DAG makes the scheduler start a run of its own as well.
WITHOUT_SCHEDULES = {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}

console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, say where it is, wait for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="port of the UI on 127.0.0.1")
    port = parser.parse_args(arguments).port
    end_by_signal()
    if not port_is_free(port):
        console.print(f"[red]Port {port} is in use.[/red] Choose another: make up PORT={port + 1}")
        return 1
    try:
        with Stack(port=port, settings=WITHOUT_SCHEDULES) as stack:
            _start(stack)
            while True:
                stack.check_alive()
                time.sleep(1)
    except StackError as error:
        console.print(f"[red]Airflow stopped:[/red] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Everything is ended.")
        return 0


def _start(stack: Stack) -> None:
    with console.status("Starting Airflow and the simulator (about 15 s) ..."):
        stack.migrate()
        base_url = stack.start_simulator()
        stack.start_airflow()
        _connect(stack, base_url)
        _connect_sql(stack)
    console.print(f"Airflow:    [bold]{stack.url}[/bold]")
    console.print(f"Login:      [bold]admin[/bold], password [bold]{stack.password}[/bold]")
    console.print(f"Simulator:  {base_url.removesuffix('/api/v1')}/   (its scenarios and counters)")
    console.print("Try:        DAG musicapi_single_track, Trigger, fill in the form. Ctrl-C ends everything.")
    console.print("            DAGs start paused; the form unpauses them. Nothing runs by schedule here, so")
    console.print("            trigger musicapi_new_tracks yourself after one of the prompt-table DAGs.")


def _connect(stack: Stack, base_url: str) -> None:
    """Point the connection to this simulator, unless it leads away from this machine: that is the user's."""
    # For tasks that say webhook=True; the others poll, as most people will.
    webhooks = {"webhook_base_url": stack.url, "webhook_secret": secrets.token_hex(32)}
    connection = connection_json(base_url, SIMULATOR_KEY, poll_interval=2, **webhooks)
    api = stack.api()
    known = api.connection(CONN_ID)
    if known is None or (known.get("host") or "").startswith("http://127.0.0.1:"):
        api.put_connection(CONN_ID, connection, description=DESCRIPTION)
    else:
        console.print(
            f"Connection {CONN_ID} is yours ({known.get('host')}); the simulator is not used by it."
        )


def _connect_sql(stack: Stack) -> None:
    """Make the connection of the SQL example, unless there is one: then it is the user's."""
    api = stack.api()
    if api.connection(SQL_CONN_ID) is None:
        connection = {"conn_type": "sqlite", "host": str(stack.home / "musicapi.db"), "extra": {}}
        api.put_connection(SQL_CONN_ID, json.dumps(connection), description=SQL_DESCRIPTION)


if __name__ == "__main__":
    sys.exit(main())
