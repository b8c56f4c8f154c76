"""
Print the path of a uv: the machine's own, or one installed into the project.

Runs with nothing but a Python standard library, also where Debian has no ``pip`` and no ``ensurepip``: then
the wheel, which holds the program, is fetched from the package index and unpacked.

Usage: ``python3 get_uv.py FOLDER``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from io import BytesIO
from pathlib import Path

#: Oldest uv that reads this project's lock file.
OLDEST = (0, 8)


def main(folder: Path) -> int:
    """Find uv, or install it below the folder; print its path."""
    own = folder / "bin" / "uv"
    found = shutil.which("uv")
    if found and _version(found) >= OLDEST:
        own = Path(found)
    elif not own.exists():
        print(f"Installing uv into {folder} ...", file=sys.stderr)
        if not _with_pip(folder, own):
            _with_wheel(own)
    print(own)
    return 0


def _version(program: str) -> tuple[int, ...]:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _with_pip(folder: Path, own: Path) -> bool:
    """Install with pip, which knows the machine's proxies and mirrors; tell whether there is one."""
    target = folder / "pip"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--target", str(target), "uv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    program = target / "bin" / "uv"
    if done.returncode or not program.exists():
        return False
    own.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, own)
    shutil.rmtree(target)
    return True


def _with_wheel(own: Path) -> None:
    """Fetch the newest wheel for this machine from the package index and take the program out."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or _locked_index()
    page = f"{index.rstrip('/')}/uv/"
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(page, headers=accept)) as answer:  # noqa: S310 - https
        files = json.load(answer)["files"]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    wanted = re.compile(rf"uv-(\d+)\.(\d+)\.(\d+)-py3-none-manylinux.*_{machine}\.whl")
    wheels = {m.groups(): f for f in files if (m := wanted.match(f["filename"])) and not f.get("yanked")}
    newest = max(wheels, key=lambda version: tuple(map(int, version)))
    url = urllib.parse.urljoin(page, wheels[newest]["url"])
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - https
        wheel = zipfile.ZipFile(BytesIO(answer.read()))
    name = next(name for name in wheel.namelist() if name.endswith("/scripts/uv"))
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(wheel.read(name))
    own.chmod(own.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _locked_index() -> str:
    """Return the package index that the lock file names."""
    lock = (Path(__file__).parents[2] / "uv.lock").read_text()
    found = re.search(r'registry = "([^"]+)"', lock)
    if not found:
        raise SystemExit("uv.lock names no package index; install uv (or Debian's python3-venv) by hand.")
    return found.group(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
