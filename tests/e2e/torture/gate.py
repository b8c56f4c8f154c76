"""
The gate before the simulator: kills the buyer, or spoils the answer, at exactly the planned moment.

Task processes say at ``/torture/began`` who they are; the gate answers, and from then on knows whom to kill.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from include.musicapi_simulator.wire import DroppedResponse
from tests.e2e.torture.plan import AT_CREATE, SCENARIOS, Fault, fate_of
from tests.e2e.torture.purchases import BEGAN, named_in, prompt_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from include.musicapi_simulator.state import SimulatorState
    from tests.e2e.torture.plan import Fate

CREATE = "/sonic/create"
#: Answers that say for certain that nothing was booked.
REFUSALS = frozenset({403, 429})


@dataclass
class Try:
    """
    One begun try of a purchase.

    :param process: The task process: psutil never mistakes a later process of the same number for it.
    :param unused: Whether its fate has not struck yet: it does so at the first create only.
    """

    way: str
    purchase: str
    process: psutil.Process
    fate: Fate
    unused: bool = True

    def fault_of_create(self) -> Fault:
        """Return what happens to a create of this try; the fate is used up by the first."""
        fault = self.fate.fault if self.unused else Fault.NOTHING
        self.unused = False
        return fault

    def shoot(self) -> bool:
        """Send SIGKILL and tell whether it met a living process."""
        if self.is_dead():
            return False
        try:
            self.process.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def is_dead(self) -> bool:
        """Tell whether the process has ended, even if nobody has noticed yet."""
        try:
            return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@dataclass
class Way:
    """
    What the gate has seen of one way of buying.

    :param tries: Begun tries, without those that came back from the triggerer.
    :param struck: Purchases by the faults that took place, once each time; kills only if they met a living
        process.
    :param too_late: Kills that found the process gone.
    :param posts: Creates that arrived, whatever became of them.
    :param resent: Purchases of which a create arrived after one that was perhaps, or surely, booked.
    """

    tries: int = 0
    struck: dict[Fault, list[str]] = field(default_factory=lambda: defaultdict(list))
    too_late: int = 0
    posts: int = 0
    resent: set[str] = field(default_factory=set)
    perhaps_booked: set[str] = field(default_factory=set)

    def counts(self) -> Counter[Fault]:
        """Return how often each fault took place."""
        return Counter({fault: len(purchases) for fault, purchases in self.struck.items()})


class Torture:
    """
    Everything the gate knows. All of it happens in the simulator's event loop.

    :param state: The simulator's.
    :param seed: Of the fault plan.
    """

    def __init__(self, state: SimulatorState, seed: int) -> None:
        self.state = state
        self.seed = seed
        self.ways: dict[str, Way] = defaultdict(Way)
        #: How often purchases that had ended were cleared.
        self.round = 0
        self._current: dict[tuple[str, str], Try] = {}
        self._begun: set[tuple[str, str, int, int]] = set()
        self._dying: set[asyncio.Task[None]] = set()

    def begin(self, report: dict[str, Any]) -> Fault:
        """Note who runs a try and say what will happen to it."""
        way, purchase, number = report["way"], report["purchase"], int(report["try_number"])
        this = (way, purchase, number, self.round)
        resumed = this in self._begun
        self._begun.add(this)
        self.ways[way].tries += not resumed
        fate = fate_of(self.seed, purchase, number, resumed=resumed, round_=self.round)
        begun = Try(way, purchase, psutil.Process(report["pid"]), fate)
        self._current[way, purchase] = begun
        if fate.fault.is_kill and fate.fault not in AT_CREATE:
            self.kill_later(begun)
        if fate.fault is Fault.UNREACHABLE:
            self.strike(begun)
        return fate.fault

    def current(self, way: str, purchase: str) -> Try:
        """Return the try that has begun last."""
        return self._current[way, purchase]

    def strike(self, struck: Try) -> None:
        """Note that the fault of a try took place."""
        self.ways[struck.way].struck[struck.fate.fault].append(struck.purchase)

    def kill_later(self, victim: Try) -> None:
        """Kill the process of a try after the delay of its fate."""

        async def wait_and_kill() -> None:
            await asyncio.sleep(victim.fate.delay)
            await self.kill(victim)

        task = asyncio.get_running_loop().create_task(wait_and_kill())
        self._dying.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._dying.discard)

    async def kill(self, victim: Try) -> None:
        """Kill the process of a try and return when it is dead."""
        if not victim.shoot():
            self.ways[victim.way].too_late += 1
            return
        self.strike(victim)
        while not victim.is_dead():  # noqa: ASYNC110 - nobody tells of another's child's death
            await asyncio.sleep(0.001)


class Gate:
    """ASGI middleware around the simulator."""

    def __init__(self, app: ASGIApp, *, torture: Torture) -> None:
        self._app = app
        self._torture = torture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let everything pass but creates, and reports of task processes."""
        if scope["path"] == BEGAN:
            fault = self._torture.begin(await Request(scope, receive).json())
            answer = JSONResponse({"unreachable": fault is Fault.UNREACHABLE})
            await answer(scope, receive, send)
        elif scope["path"].endswith(CREATE):
            with suppress(
                ClientDisconnect
            ):  # killed while it was sending: an incomplete create books nothing
                body = await Request(scope, receive).body()
                await self._create(Create(self._app, body, scope, receive, send))
        else:
            await self._app(scope, receive, send)

    async def _create(self, create: Create) -> None:
        current = self._torture.current(*create.named)
        seen, purchase = self._torture.ways[current.way], current.purchase
        seen.posts += 1
        if was_booked := purchase in seen.perhaps_booked:
            seen.resent.add(purchase)
        seen.perhaps_booked.add(purchase)  # at once: the next create may come before this one is answered
        await self._act(current, create)
        if create.status in REFUSALS and not was_booked:
            seen.perhaps_booked.discard(purchase)

    async def _act(self, current: Try, create: Create) -> None:
        """Answer a create as planned."""
        fault = current.fault_of_create()
        if fault in (Fault.KILL_ON_ARRIVAL, Fault.KILL_AFTER_BOOKING):
            if fault is Fault.KILL_AFTER_BOOKING:
                await create.book()
            await self._torture.kill(current)
            await create.hang_up()
            return
        if scenario := SCENARIOS.get(fault):
            self._torture.state.scenario(scenario, times=1, match=prompt_of(current.way, current.purchase))
            self._torture.strike(current)
        await create.answer()
        if fault in (Fault.KILL_AT_ANSWER, Fault.KILL_AFTER_ANSWER):
            self._torture.kill_later(current)


class Create:
    """
    A create that has arrived.

    :param body: Of the request; read already, so the simulator gets it replayed.
    """

    def __init__(self, app: ASGIApp, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._body = app, body
        self._scope, self._receive, self._send = scope, receive, send
        #: The status that was sent; ``None`` without an answer.
        self.status: int | None = None

    @property
    def named(self) -> tuple[str, str]:
        """The way and the purchase."""
        return named_in(json.loads(self._body)["prompt"])

    async def book(self) -> None:
        """Let the simulator handle it, and swallow the answer."""

        async def swallow(_message: Message) -> None:
            pass

        await self._app(self._scope, self._replay(), swallow)

    async def answer(self) -> None:
        """Let the simulator handle it and answer."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            await self._send(message)

        await self._app(self._scope, self._replay(), send)

    async def hang_up(self) -> None:
        """Close the connection."""
        with suppress(KeyError):  # the buyer is dead, so the connection may be gone already
            await DroppedResponse()(self._scope, self._receive, self._send)

    def _replay(self) -> Receive:
        parts: list[Message] = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def receive() -> Message:
            return parts.pop() if parts else await self._receive()

        return receive
