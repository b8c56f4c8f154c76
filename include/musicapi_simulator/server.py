"""Runs the simulator: in a thread for tests, in the foreground for ``python -m``."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Self

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from include.musicapi_simulator.app import PREFIX, build_app
from include.musicapi_simulator.journal import Journal
from include.musicapi_simulator.state import SimulatorState
from include.musicapi_simulator.webhooks import Sender
from include.musicapi_simulator.wire import protocol_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from include.musicapi_simulator.settings import Settings

#: Seconds within which a thread's server must be up or gone; it takes a tenth.
PATIENCE = 10.0


class SimulatorServer:
    """
    A running simulator on a loopback port.

    Use it as a context manager, or with :meth:`start` and :meth:`stop`. The port is taken at construction,
    so ``base_url`` is known before the start. ``app`` takes middleware until then: for tests that must act
    exactly when a request arrives or an answer leaves.

    :param settings: Settings to start with and to return to at :meth:`reset`.
    :param host: Address to listen on.
    :param port: Port to listen on, 0 for a free one.
    :param verbose: Log each request to stderr.
    :param journal: A file by which jobs and balance survive the process, even SIGKILL; each create then
        waits for the disk. A reset empties it. None for no file.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        verbose: bool = False,
        journal: Path | None = None,
    ) -> None:
        self.state = SimulatorState(settings, Journal(journal) if journal else None)
        self.app = build_app(self.state)
        self._socket = _listen(host, port)
        self.base_url = f"http://{host}:{self._socket.getsockname()[1]}{PREFIX}"
        self._ready = threading.Event()
        sender = Sender(self.state, self.base_url.removesuffix(PREFIX))
        self._server = _Server(self._config(verbose), self._ready.set, sender)
        self._thread = threading.Thread(target=self._run, name="musicapi-simulator", daemon=True)

    @property
    def api_key(self) -> str:
        """The key that is accepted now."""
        return self.state.api_key

    def start(self) -> Self:
        """
        Serve in a thread and return once connections are accepted.

        :raises TimeoutError: If it does not come up.
        """
        self._thread.start()
        if not self._ready.wait(PATIENCE):
            raise TimeoutError(f"the simulator did not start within {PATIENCE:.0f} s")
        return self

    def stop(self) -> None:
        """Stop serving; requests in flight are cut off."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        self._socket.close()

    def serve_forever(self, on_ready: Callable[[], None]) -> None:
        """
        Serve in this thread until SIGINT or SIGTERM.

        :param on_ready: Called once, when connections are accepted.
        """
        self._server.on_ready = on_ready
        self._run()

    def reset(self) -> None:
        """Forget jobs, counters and scenarios, and restore the settings."""
        self.state.reset()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def _config(self, verbose: bool) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            http=protocol_for(self.state),
            loop="asyncio",
            ws="none",
            lifespan="off",
            proxy_headers=False,  # wire.py finds a connection by its true client address
            access_log=verbose,
            log_level="info" if verbose else "error",
            log_config=LOGGING_CONFIG if verbose else None,  # a test's process keeps its own logging
            timeout_graceful_shutdown=0,  # a sleeping slow-create must not hold up the stop
        )


class _Server(uvicorn.Server):
    """uvicorn, telling when it accepts connections, quiet when it stops, and with a sender of webhooks."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], sender: Sender) -> None:
        super().__init__(config)
        self.on_ready = on_ready
        self._sender = sender

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sender.open()
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Requests cut off by the stop are meant to be; uvicorn would report each as an error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await self._sender.close()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=2048)
    # asyncio sets this only on sockets whose protocol it knows; without it each answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener
