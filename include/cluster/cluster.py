"""
All services of a compose file: started by their needs, restarted by their policies, ended together.
"""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from include.cluster import names
from include.cluster.compose import Condition, Service, load
from include.cluster.processes import ServiceProcess
from include.cluster.programs import PROJECT, MissingProgramError, program_for
from include.local.stack import ENDING_SIGNALS

#: Seconds between two checks of a service that is not healthy yet, at most.
START_INTERVAL = 5.0
#: Health checks at once: each may start a whole Airflow, and services are starting, too.
CHECKS_AT_ONCE = 2
#: Services whose end the others should not see.
LAST_TO_END = ("api-server", "simulator", "s3", "redis", "postgres")


class ClusterError(Exception):
    """A service did not start, did not become healthy, or failed; the text ends with the end of its log."""


class Cluster:
    """
    The services of compose files as processes. Use it as a context manager.

    :param files: Later ones over earlier ones.
    :param state: Folder of everything that they write.
    :param values: What the files ask the environment for.
    """

    def __init__(self, files: Iterable[Path], state: Path, values: Mapping[str, str]) -> None:
        self.state = state.resolve()
        self._files = list(files)
        self._values = dict(values)
        self.addresses: dict[str, str] = {}
        self.processes: dict[str, ServiceProcess] = {}

    @property
    def url(self) -> str:
        """Where Airflow's UI is."""
        return f"http://{self.addresses.get('api-server', '127.0.0.1')}:8080"

    def __enter__(self) -> Cluster:
        """Read the files and make folders; start nothing yet."""
        library = names.nss_wrapper()
        if library is None:
            raise ClusterError(
                "libnss_wrapper is not on this machine (Debian: apt-get install libnss-wrapper)."
            )
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = (self.state / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"another cluster is running in {self.state}.") from None
        everyone = list(load(self._files, {**self._values, "COMPOSE_PROFILES": "simulator"}))
        self.addresses = names.addresses(self.state, everyone)
        # Published ports are for Docker: here the UI is where it listens.
        values = {**self._values, "AIRFLOW_URL": self.url}
        hosts = self.state / "hosts"
        names.write_hosts(hosts, self.addresses)
        for name, service in load(self._files, values).items():
            self.processes[name] = self._process(service, names.environment(library, hosts, service.hostname))
        return self

    def _process(self, service: Service, known: Mapping[str, str]) -> ServiceProcess:
        program = program_for(service, self.state, PROJECT, self.addresses[service.name])
        return ServiceProcess(program, known, self.log(service.name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process that was started; a second Ctrl-C does not cut that short."""
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
        first = [process for name, process in self.processes.items() if name not in LAST_TO_END]
        last = [self.processes[name] for name in LAST_TO_END if name in self.processes]
        self._end(first)
        self._end(last)
        self._lock.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def _end(self, processes: list[ServiceProcess]) -> None:
        for process in processes:
            process.ask_to_end()
        deadline = time.monotonic() + 10
        for process in processes:
            process.end(deadline - time.monotonic())

    # -- starting ------------------------------------------------------------------------------------------

    def start(
        self, *chosen: str, patience: float = 300.0, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """
        Start services, by default all, as soon as what they need is there, and wait until all are healthy.

        :param patience: Seconds for all of it.
        :param say: Told what has become ready.
        """
        waiting = [self.processes[name] for name in chosen or self.processes]
        deadline = time.monotonic() + patience
        pool = ThreadPoolExecutor(CHECKS_AT_ONCE)
        try:
            checks: dict[str, tuple[float, Future[bool]]] = {}
            while waiting:
                for process in list(waiting):
                    if not process.has_started and self._is_possible(process.service):
                        process.start()
                    if process.has_started and self._has_become_ready(process, checks, pool):
                        waiting.remove(process)
                        say(process.service.name)
                self.tend()
                if time.monotonic() > deadline:
                    late = ", ".join(process.service.name for process in waiting)
                    raise ClusterError(
                        f"not healthy after {patience:g} s: {late}\n{self.tail(waiting[0].service.name)}"
                    )
                time.sleep(0.1)
        finally:
            # A check that is under way ends with its service.
            pool.shutdown(wait=False, cancel_futures=True)

    def _is_possible(self, service: Service) -> bool:
        return all(
            self.processes[name].has_started if need is Condition.STARTED else self.processes[name].is_ready
            for name, need in service.needs.items()
        )

    def _has_become_ready(
        self, process: ServiceProcess, checks: dict[str, tuple[float, Future[bool]]], pool: ThreadPoolExecutor
    ) -> bool:
        name = process.service.name
        if process.service.health is None:
            process.is_ready = process.code == 0
            return process.is_ready
        asked_at, answer = checks.get(name, (0.0, None))
        if answer and answer.done() and answer.result():
            del checks[name]
            process.is_ready = True
            return True
        # What starts quickly is asked soon, what starts slowly is not asked all the time.
        pause = min(process.service.health.interval, START_INTERVAL, process.age / 2)
        if answer is None or (answer.done() and time.monotonic() - asked_at > pause):
            checks[name] = time.monotonic(), pool.submit(process.check)
        return False

    def tend(self) -> None:
        """
        Start again what has ended by itself, as its policy says.

        :raises ClusterError: if something ended that is not started again, other than with success.
        """
        for name, process in self.processes.items():
            if process.has_started and process.code is not None and not process.service.restarts:
                if process.code != 0:
                    raise ClusterError(f"{name} ended with exit code {process.code}:\n{self.tail(name)}")
            else:
                process.restart_if_wanted()

    # -- one service ---------------------------------------------------------------------------------------

    def log(self, name: str) -> Path:
        """Return the file of a service's output."""
        return self.state / "processes" / f"{name}.log"

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a service's output."""
        log = self.log(name)
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) + f"\n(whole log: {log})"


__all__ = ["Cluster", "ClusterError", "MissingProgramError"]
