"""
Let services find each other by name on one machine: each has a loopback address of its own.

libnss_wrapper answers their look-ups; it also tells each its host name. So all may listen on the same ports,
as containers may, and none is reached from another machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

#: Where Debian and Red Hat put the library.
PLACES = ("/usr/lib/*/libnss_wrapper.so", "/usr/lib64/libnss_wrapper.so", "/usr/lib/libnss_wrapper.so")


def nss_wrapper() -> Path | None:
    """Return the library, or none."""
    found = [path for place in PLACES for path in Path("/").glob(place[1:])]
    return found[0] if found else None


def addresses(folder: Path, services: Iterable[str]) -> dict[str, str]:
    """Return a loopback address for each service; those of another folder are others."""
    network = zlib.crc32(str(folder).encode()) % 254 + 1
    return {name: f"127.77.{network}.{number}" for number, name in enumerate(services, 1)}


def write_hosts(file: Path, known: Mapping[str, str]) -> None:
    """Write what names mean, as in ``/etc/hosts``."""
    file.write_text("".join(f"{address} {name}\n" for name, address in known.items()))


def environment(library: Path, hosts: Path, hostname: str) -> dict[str, str]:
    """Return what makes a process know the names, and its own."""
    return {
        "LD_PRELOAD": str(library),
        "NSS_WRAPPER_HOSTS": str(hosts),
        "NSS_WRAPPER_HOSTNAME": hostname,
        "HOSTNAME": hostname,
        # The library keeps a pointer into the environment, which process titles (Celery's) would write over.
        "SPT_NOENV": "1",
    }
