"""
Commands of this provider in Airflow's command line; each ``airflow`` call imports this, so it is light.
"""

from __future__ import annotations

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

from musicapi_provider.api.settings import CREATES_POOL, DEFAULT_CONN_ID

_DESCRIPTION = """\
Make or bring up to date, from environment variables, what DAGs with this provider need. What is as wanted
already is not touched, nor what the environment does not give, so it may run at each start of a deployment.

  MUSICAPI_KEY             the API key: connection of type musicapi
  MUSICAPI_BASE_URL        its base URL; default: the real API
  MUSICAPI_EXTRA           its extra, a JSON object such as {"polls_per_second": 20}
  MUSICAPI_CREATE_SLOTS    slots of the pool for creates; default 4
  MUSICAPI_S3_ACCESS_KEY   connection of type aws for s3:// destinations
  MUSICAPI_S3_SECRET_KEY   its secret
  MUSICAPI_S3_ENDPOINT_URL where the store is; default: AWS
  MUSICAPI_S3_REGION       default us-east-1
"""

_SETTLE = """\
Decide what becomes of a create whose answer was lost, without a change of the DAG. Nothing is sent here:
clear the task afterwards.

  airflow musicapi settle --run DAG_ID RUN_ID ORDER --adopt MUSIC_TASK_ID   it was booked: collect it
  airflow musicapi settle --run DAG_ID RUN_ID ORDER --resubmit              it was not: send it again, once

With --resubmit you pay twice if it was booked all the same. Look into the account's history first.
"""
_WHERE = (
    Arg(
        ("--run",),
        help="The dag run, for tasks without records=",
        nargs=2,
        metavar=("DAG_ID", "RUN_ID"),
    ),
    Arg(
        ("--folder",),
        help="The folder, a URI: records= of the task, or the destination of the table",
        metavar="URI",
    ),
)


def get_musicapi_commands() -> list[CLICommand]:
    """Return the group ``musicapi``."""
    setup = ActionCommand(
        name="setup",
        help="Set up connections and the pool for creates from environment variables",
        description=_DESCRIPTION,
        func=lazy_load_command("musicapi_provider.cli.setup.setup"),
        args=(
            Arg(("--conn-id",), help="Connection to the API", default=DEFAULT_CONN_ID),
            Arg(("--s3-conn-id",), help="Connection to the object store", default="aws_music"),
            Arg(("--pool",), help="Pool for creates", default=CREATES_POOL),
            Arg(("--force",), help="Also replace what somebody else has made", action="store_true"),
        ),
    )
    purchases = ActionCommand(
        name="purchases",
        help="List the purchases on record, of a dag run or in a folder",
        func=lazy_load_command("musicapi_provider.cli.purchases.purchases"),
        args=(*_WHERE, ARG_OUTPUT, ARG_VERBOSE),
    )
    settle = ActionCommand(
        name="settle",
        help="Decide what becomes of a create whose answer was lost",
        description=_SETTLE,
        func=lazy_load_command("musicapi_provider.cli.purchases.settle"),
        args=(
            *_WHERE,
            Arg(("order",), help="Its name in the list of purchases, or the beginning", metavar="ORDER"),
            Arg(("--adopt",), help="It is this music task: collect it", metavar="MUSIC_TASK_ID"),
            Arg(("--resubmit",), help="Send it again, once; may pay twice", action="store_true"),
            ARG_VERBOSE,
        ),
    )
    return [
        GroupCommand(
            name="musicapi",
            help="Manage what DAGs with MusicAPI need, and what they have bought",
            subcommands=(setup, purchases, settle),
        )
    ]
