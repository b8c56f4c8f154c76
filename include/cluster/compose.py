"""
Read a compose file: what a service runs, needs, mounts, and how its health is checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from include.cluster.interpolation import interpolate

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Condition(StrEnum):
    """What a service waits for at another one."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """
    How a service's health is checked; Compose's defaults.

    :param command: Ends with 0 if it is healthy.
    :param start_period: Seconds in which a failed check does not count.
    """

    command: list[str]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume, or a folder of the project when ``source`` is a path, and where the service has it."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Service:
    """
    One service, as far as it matters to run it without a container.

    :param command: Without the image's entrypoint.
    :param needs: Conditions by service; those that are not there are left out when not required.
    :param restarts: Whether it is started again when it ends by itself.
    :param grace: Seconds between the request to end and the kill.
    """

    name: str
    image: str
    command: list[str]
    environment: Mapping[str, str]
    needs: Mapping[str, Condition]
    health: HealthCheck | None
    mounts: list[Mount]
    hostname: str
    restarts: bool
    grace: float


def load(files: Iterable[Path], values: Mapping[str, str]) -> dict[str, Service]:
    """
    Read compose files, later ones over earlier ones, and return their services whose profiles are on.

    :param values: What the files ask the environment for; ``COMPOSE_PROFILES`` among them.
    :raises MissingValueError: if something must be given and is not.
    """
    trees = [yaml.safe_load(file.read_text()) for file in files]
    tree = interpolate(reduce(_merge, trees)["services"], values)
    profiles = set(filter(None, values.get("COMPOSE_PROFILES", "").split(",")))
    chosen = {
        name: raw
        for name, raw in tree.items()
        if not raw.get("profiles") or profiles.intersection(raw["profiles"])
    }
    return {name: _service(name, raw, set(chosen)) for name, raw in chosen.items()}


def _merge(base: Any, over: Any, key: str = "") -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        merged = {name: _merge(base[name], over[name], name) for name in base.keys() & over.keys()}
        return {**base, **over, **merged}
    replaced = key in ("command", "entrypoint", "test")
    return base + over if isinstance(base, list) and isinstance(over, list) and not replaced else over


def _service(name: str, raw: Mapping[str, Any], present: set[str]) -> Service:
    return Service(
        name=name,
        image=raw["image"],
        command=_words(raw.get("entrypoint")) + _words(raw.get("command")),
        environment={key: str(value) for key, value in (raw.get("environment") or {}).items()},
        needs=_needs(raw.get("depends_on") or {}, present),
        health=_health(raw["healthcheck"]) if "healthcheck" in raw else None,
        mounts=[Mount(*volume.split(":")[:2]) for volume in raw.get("volumes", [])],
        hostname=raw.get("hostname", name),
        restarts=raw.get("restart", "no") in ("always", "unless-stopped"),
        grace=_seconds(raw.get("stop_grace_period", "10s")),
    )


def _words(command: str | list[str] | None) -> list[str]:
    """Return a command as words: Compose splits a text as a shell does, and gives it to none."""
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command or []]


def _needs(raw: Mapping[str, Any] | list[str], present: set[str]) -> dict[str, Condition]:
    if isinstance(raw, list):
        raw = {name: {} for name in raw}
    wanted = {name: need for name, need in raw.items() if name in present or need.get("required", True)}
    if missing := wanted.keys() - present:
        raise ValueError(f"a service depends on {', '.join(sorted(missing))}, which is not there")
    return {name: Condition(need.get("condition", Condition.STARTED)) for name, need in wanted.items()}


def _health(raw: Mapping[str, Any]) -> HealthCheck:
    test = raw["test"]
    if isinstance(test, str):
        test = ["CMD-SHELL", test]
    kind, *command = test
    usual = HealthCheck([])
    return HealthCheck(
        command=["/bin/sh", "-c", *command] if kind == "CMD-SHELL" else command,
        interval=_seconds(raw.get("interval", usual.interval)),
        timeout=_seconds(raw.get("timeout", usual.timeout)),
        retries=raw.get("retries", usual.retries),
        start_period=_seconds(raw.get("start_period", usual.start_period)),
    )


def _seconds(duration: str | float) -> float:
    """Return a duration such as ``1m30s`` in seconds."""
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", str(duration))
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else float(duration)
