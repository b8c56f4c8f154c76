"""``python -m include.musicapi_simulator``: the simulator in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from include.musicapi_simulator.jobs import JobRule
from include.musicapi_simulator.server import SimulatorServer
from include.musicapi_simulator.settings import Settings

if TYPE_CHECKING:
    from types import FrameType


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve until a signal comes."""
    given = _parser().parse_args(argv)
    settings = Settings(
        api_key=given.api_key,
        credits=given.credits,
        job_rule=given.jobs,
        seed=given.seed,
        song_seconds=given.song_seconds,
        latency=given.latency,
        create_interval=given.create_interval,
        media_url_seconds=given.media_url_seconds,
        one_song=given.one_song,
        webhook_delay=given.webhook_delay,
        webhook_tries=given.webhook_tries,
        webhook_retry_seconds=given.webhook_retry_seconds,
        webhook_lost_every=given.webhook_lost_every,
        webhooks_over_http=given.webhooks_over_http,
    )
    server = SimulatorServer(settings, given.host, given.port, given.verbose, given.journal)
    # uvicorn stops by itself and then raises the signal again: make that an ordinary exit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    line = f"MusicAPI simulator ready: {server.base_url} (key: {server.api_key})\n"

    def announce() -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    server.serve_forever(announce)


def _parser() -> argparse.ArgumentParser:
    usual = Settings()
    parser = argparse.ArgumentParser(prog="python -m include.musicapi_simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=usual.api_key)
    parser.add_argument("--credits", type=int, default=usual.credits)
    parser.add_argument(
        "--jobs", type=_job_rule, default=usual.job_rule, help="at-once, reads:N, seconds:MEDIAN"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="of the spread of job lengths")
    parser.add_argument("--song-seconds", type=float, default=usual.song_seconds, help="of audio a track")
    parser.add_argument("--latency", type=float, default=usual.latency, help="seconds before each answer")
    parser.add_argument(
        "--create-interval", type=float, default=usual.create_interval, help="least seconds between creates"
    )
    parser.add_argument(
        "--media-url-seconds",
        type=float,
        default=usual.media_url_seconds,
        help="after which media URLs expire; 0: never",
    )
    parser.add_argument("--one-song", action="store_true", help="all tracks alike: spares the renderer")
    _add_webhook_options(parser, usual)
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="remember jobs and balance there, even if killed"
    )
    parser.add_argument("--verbose", action="store_true", help="log each request")
    return parser


def _add_webhook_options(parser: argparse.ArgumentParser, usual: Settings) -> None:
    parser.add_argument(
        "--webhook-delay",
        type=float,
        default=usual.webhook_delay,
        help="seconds from an event to its sending",
    )
    parser.add_argument(
        "--webhook-tries", type=int, default=usual.webhook_tries, help="until a 2xx answers a webhook"
    )
    parser.add_argument(
        "--webhook-retry-seconds",
        type=float,
        default=usual.webhook_retry_seconds,
        help="before the second try, doubled before each further one",
    )
    parser.add_argument(
        "--webhook-lost-every",
        type=int,
        default=usual.webhook_lost_every,
        metavar="N",
        help="every N-th last event of a job is not sent; 0: none is lost",
    )
    parser.add_argument(
        "--webhooks-over-http", action="store_true", help="accept http webhook URLs to this machine, too"
    )


def _job_rule(text: str) -> str:
    try:
        JobRule.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
