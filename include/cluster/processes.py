"""
One service's process: started, watched, asked for its health, ended with everything that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from include.cluster.programs import Program


class ServiceProcess:
    """
    A service and its process, if it runs.

    :param names: Environment by which it finds the others.
    :param log: File of its output; what is started again goes on there.
    """

    def __init__(self, program: Program, names: Mapping[str, str], log: Path) -> None:
        self.program = program
        self.service = program.service
        self.log = log
        #: Whether it has been healthy, or has completed, since its last start.
        self.is_ready = False
        #: Starts after it ended by itself.
        self.restarts = 0
        self._names = names
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._started_at = self._ended_at = 0.0
        self._ending: list[psutil.Process] = []
        self._check: subprocess.Popen[bytes] | None = None

    @property
    def has_started(self) -> bool:
        """Whether it was started, and not ended on purpose since."""
        return self._wanted

    @property
    def code(self) -> int | None:
        """The exit code of a process that has ended by itself."""
        return self._process.poll() if self._process else None

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self._started_at

    def start(self) -> None:
        """Start it."""
        self.program.prepare()
        self._started_at = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.is_ready, self._wanted, self._ended_at = False, True, 0.0
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self.program.command(),
                cwd=self.program.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self.program.user,
            )

    def check(self) -> bool:
        """Run the health check as it is written, and tell whether the service is healthy."""
        health = self.service.health
        if health is None:
            return self.code is None
        command = [self.program.here(word) for word in health.command]
        self._check = check = subprocess.Popen(
            command,
            cwd=self.program.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return check.wait(health.timeout) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill_group(check)
            self._check = None

    def restart_if_wanted(self) -> bool:
        """Do what the restart policy says about a process that has ended by itself."""
        if not self._wanted or not self.service.restarts or self.code is None:
            return False
        self._ended_at = self._ended_at or time.monotonic()
        # As Docker does: at once, then after ever longer pauses.
        if time.monotonic() - self._ended_at < min(0.1 * 2**self.restarts, 30):
            return False
        self.restarts += 1
        self.start()
        return True

    # -- ending --------------------------------------------------------------------------------------------

    def ask_to_end(self) -> None:
        """Send what its image ends with."""
        self._wanted, self._ending = False, self._family()
        if self._process:
            with suppress(ProcessLookupError):
                self._process.send_signal(self.program.stop_signal)

    def end(self, seconds: float) -> None:
        """Wait for its end after :meth:`ask_to_end`, then kill what it has started and is still there."""
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.1, seconds))
            # Who lost its parent is no descendant any more.
            _kill([*self._ending, *self._family()])
            self._process.wait()
            self._process = None
        if self._check:
            _kill_group(self._check)

    def kill(self) -> None:
        """End it as the loss of its machine does: SIGKILL to every process, at once; it is not restarted."""
        self._wanted = False
        _kill(self._family())
        if self._process:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it answer nobody, as behind a network that is down."""
        for process in self._family():
            process.suspend()

    def resume(self) -> None:
        """Let it go on."""
        for process in self._family():
            process.resume()

    def _family(self) -> list[psutil.Process]:
        if not self._process:
            return []
        with suppress(psutil.NoSuchProcess):
            head = psutil.Process(self._process.pid)
            return [head, *head.children(recursive=True)]
        return []

    def _environment(self) -> dict[str, str]:
        return {**self.program.environment(), **self._names}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)
