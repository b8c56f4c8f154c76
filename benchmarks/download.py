"""
Download a body of 500 MB: throughput beside curl on the same server, and how much memory it takes.

A small server in a process of its own streams MP3 frames. ``TrackStore`` stores them in a fresh process,
checked and hashed, to a local folder, and 100 MB to S3 (moto's server in a third process, which keeps objects
in memory). curl writes the same body to the same disk; it neither checks nor hashes, so it is also run into
``sha256sum``. The ways take turns; the figures are medians.

``python -m benchmarks.download`` prints a table and writes ``results/download.json`` here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write

PROJECT = Path(__file__).parents[1]
MB = 10**6
#: Bytes of the body, and of the one for S3.
LOCAL, ON_S3 = 500 * MB, 100 * MB
REPEATS = 5
#: One frame of a 128 kbit/s, 44.1 kHz MP3: header, then silence. 417 bytes last 26 ms.
FRAME = b"\xff\xfb\x90\x00" + bytes(413)
#: What the server sends at a time.
BLOCK = FRAME * 5000
#: Growth of the peak that the issue allows, in MB.
LIMIT = 64


# -- server --------------------------------------------------------------------------------------------------


class Frames(BaseHTTPRequestHandler):
    """Answer ``/BYTES.mp3`` with that many bytes of frames."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send them."""
        left = int(self.path.strip("/").removesuffix(".mp3"))
        self.send_response(200)
        self.send_header("Content-Type", "audio/mpeg")
        self.send_header("Content-Length", str(left))
        self.send_header("ETag", f'"{left}"')
        self.end_headers()
        view = memoryview(BLOCK)
        while left > 0:
            left -= self.wfile.write(view[:left])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
        """Say nothing."""


def serve() -> None:
    """Serve until the process ends; the first line printed is the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Frames)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a Python module beside this process."""
    running = subprocess.Popen([sys.executable, "-m", *arguments], cwd=PROJECT, text=True, **options)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server and return its URL once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with process("moto.server", "-H", "127.0.0.1", "-p", str(port), **quiet):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


# -- ways ----------------------------------------------------------------------------------------------------


def memory(name: str) -> int:
    """Return a field of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def store(url: str, destination: str) -> dict[str, Any]:
    """Store a track and return seconds and peak growth; a small one first, which loads what is lazy."""
    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.api.models import Track
    from musicapi_provider.api.settings import ClientSettings
    from musicapi_provider.storage import TrackStore

    settings = ClientSettings(api_key="none", base_url=f"{url.rpartition('/')[0]}/api/v1")
    folder = ObjectStoragePath(destination)
    with TrackStore(folder, settings, max_bytes=10**10) as tracks:
        small = f"{url.rpartition('/')[0]}/{len(BLOCK)}.mp3"
        tracks.store(Track("", "small", None, audio_url=small))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began = memory("VmRSS"), time.perf_counter()
        stored = tracks.store(Track("", "large", None, audio_url=url))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "growth": memory("VmHWM") - before, "sha256": stored.sha256}


def ours(url: str, destination: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Store a track in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.download", "--store", url, destination]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def shell(command: str) -> dict[str, Any]:
    """Time a command."""
    began = time.perf_counter()
    line = ["/bin/bash", "-c", f"set -o pipefail; {command}"]
    subprocess.run(line, check=True, capture_output=True)
    return {"seconds": time.perf_counter() - began}


def measure_local(root: str) -> dict[str, list[dict[str, Any]]]:
    """Let the ways take turns."""
    url = f"{root}/{LOCAL}.mp3"
    found: dict[str, list[dict[str, Any]]] = {"TrackStore": [], "curl -o": [], "curl | tee | sha256sum": []}
    for _ in range(REPEATS):
        for way, runs in found.items():
            with tempfile.TemporaryDirectory() as folder:
                file = shlex.quote(f"{folder}/large.mp3")
                os.sync()  # nobody pays for what the one before has left to be written
                if way == "TrackStore":
                    runs.append(ours(url, f"file://{folder}/music"))
                elif way == "curl -o":
                    runs.append(shell(f"curl -sf -o {file} {url}"))
                else:
                    runs.append(shell(f"curl -sf {url} | tee {file} | sha256sum"))
    assert {run["sha256"] for run in found["TrackStore"]} == {_sha256(LOCAL)}
    return found


def measure_s3(root: str) -> list[dict[str, Any]]:
    """Store to S3."""
    from tests.s3 import client_for, connection_json

    found = []
    with s3_server() as endpoint:
        environment = {"AIRFLOW_CONN_AWS_TEST": connection_json(endpoint)}
        for number in range(REPEATS):
            client_for(endpoint).create_bucket(Bucket=f"music{number}")
            destination = f"s3://aws_test@music{number}/music"
            found.append(ours(f"{root}/{ON_S3}.mp3", destination, environment))
    assert {run["sha256"] for run in found} == {_sha256(ON_S3)}
    return found


def _sha256(size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - start])
    return digest.hexdigest()


# -- figures -------------------------------------------------------------------------------------------------


def figures_of(runs: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Return what a way's runs tell."""
    seconds = median(run["seconds"] for run in runs)
    growth = {"peak_growth_mb": max(run["growth"] for run in runs) / MB} if "growth" in runs[0] else {}
    return {"mb": size // MB, "seconds": seconds, "mb_per_second": size / MB / seconds, **growth}


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """Return the figures as a table."""
    table = Table(title="One download on the loopback")
    for heading in ("", "MB", "MB/s", "beside curl -o", "peak memory growth, MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for way, row in results.items():
        ratio = f"{row['ratio_to_curl']:.2f}" if "ratio_to_curl" in row else ""
        growth = f"{row['peak_growth_mb']:.0f}" if "peak_growth_mb" in row else ""
        table.add_row(way, str(row["mb"]), f"{row['mb_per_second']:.0f}", ratio, growth)
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--store", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
    if given.store:
        print("\n" + json.dumps(store(*given.store)))
        return
    with process("benchmarks.download", "--serve", stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        root = f"http://127.0.0.1:{int(server.stdout.readline())}"
        results = {way: figures_of(runs, LOCAL) for way, runs in measure_local(root).items()}
        for row in results.values():
            row["ratio_to_curl"] = row["mb_per_second"] / results["curl -o"]["mb_per_second"]
        results["TrackStore, to S3"] = figures_of(measure_s3(root), ON_S3)
    Console(width=120).print(table_of(results))
    write("download", {"repeats": REPEATS, "limit_mb": LIMIT, "results": results})
    assert results["TrackStore"]["peak_growth_mb"] < LIMIT


if __name__ == "__main__":
    main()
