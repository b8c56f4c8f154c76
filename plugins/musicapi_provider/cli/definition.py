"""
Commands of this provider in Airflow's command line; each ``airflow`` call imports this, so it is light.
"""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

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
    return [GroupCommand(name="musicapi", help="Manage what DAGs with MusicAPI need", subcommands=(setup,))]
