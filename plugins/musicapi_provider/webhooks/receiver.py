"""
The receiver: a FastAPI app on Airflow's API server that takes the API's callbacks, and nothing else.

It has no login: a callback is authenticated by its signature alone, over the exact bytes. Cheap checks come
first and touch neither database nor threads, so that forged requests cost next to nothing. Without a webhook
secret there is no receiver. Nothing is answered or logged from which a forger could learn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow.observability.stats import Stats
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from musicapi_provider.exceptions import MusicAPIError
from musicapi_provider.hooks.base import MusicAPIBaseHook
from musicapi_provider.webhooks import wake
from musicapi_provider.webhooks.expectation import accepted_connections, expected_webhook
from musicapi_provider.webhooks.signature import Reason, RefusedError, check_headers, verified

if TYPE_CHECKING:
    from musicapi_provider.api.settings import WebhookSettings
    from musicapi_provider.webhooks.wake import Call

log = logging.getLogger(__name__)

#: Bytes of a callback: two clips with their lyrics are some 20 kB.
MAX_BODY = 256 * 1024
#: Seconds within which it has to be here.
BODY_PATIENCE = 10.0
#: Seconds for which a connection is remembered: a changed secret is in force after that.
MEMORY = 30.0
#: Seconds between log lines about refused callbacks; each line counts those since the last.
LOG_PAUSE = 10.0

#: What is answered where it is not 401.
STATUSES = {
    Reason.UNKNOWN_ROUTE: 404,
    Reason.TOO_SLOW: 408,
    Reason.TOO_LARGE: 413,
    Reason.NOT_JSON: 415,
}

app = FastAPI(title="MusicAPI webhooks", openapi_url=None, docs_url=None, redoc_url=None)


@dataclass(slots=True)
class Refusals:
    """
    Count what is refused, by reason, and say so once in a while.

    :param counts: Since the process began.
    """

    counts: Counter[Reason] = field(default_factory=Counter)
    _told: Counter[Reason] = field(default_factory=Counter)
    _next_line: float = 0.0

    def add(self, reason: Reason) -> None:
        """Count one; the body is nobody's business, the sender's address is the proxy's to tell."""
        self.counts[reason] += 1
        Stats.incr("musicapi.webhook.refused", tags={"reason": reason.name.lower()})
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + LOG_PAUSE
            since, self._told = self.counts - self._told, self.counts.copy()
            listed = ", ".join(f"{number} with {why}" for why, number in since.most_common())
            log.warning("Callbacks refused: %s", listed)


class Receivers:
    """The connections that have a receiver, remembered for :data:`MEMORY` seconds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, MusicAPIBaseHook | None]] = {}
        self._lock = asyncio.Lock()

    async def get(self, conn_id: str) -> tuple[MusicAPIBaseHook, WebhookSettings] | None:
        """Return a connection's hook and its webhook settings; ``None``: it has no receiver."""
        if conn_id not in accepted_connections():
            return None
        async with self._lock:
            since, hook = self._known.get(conn_id, (-MEMORY, None))
            if time.monotonic() - since >= MEMORY:
                hook = await asyncio.get_running_loop().run_in_executor(accepting, _hook_of, conn_id)
                self._known[conn_id] = time.monotonic(), hook
        webhook = hook.settings.webhook if hook else None
        return (hook, webhook) if hook and webhook and webhook.is_complete else None

    def forget(self) -> None:
        """Look at all connections anew; for tests."""
        self._known.clear()


#: Threads of their own: neither a slow API nor a flood of callbacks takes those of Airflow's UI. Waking looks
#: at the API, so what is to be answered does not wait behind it.
accepting = ThreadPoolExecutor(4, "musicapi-webhook")
waking = ThreadPoolExecutor(4, "musicapi-wake")
receivers, refusals = Receivers(), Refusals()
#: Wakes under way: the event loop alone would not keep them.
_wakes: set[asyncio.Task[None]] = set()


@app.post("/{conn_id}/{token}")
async def receive(request: Request, conn_id: str, token: str) -> Response:
    """Take a callback: 200 when it is written down, or of no use; 401 for what is not the API's."""
    try:
        receiver = await receivers.get(conn_id)
    except Exception as error:
        log.exception("Connection %s cannot be read.", conn_id)
        raise HTTPException(503) from error
    if receiver is None:
        raise _refusal(Reason.UNKNOWN_ROUTE)
    hook, webhook = receiver
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _refusal(Reason.NOT_JSON)
    try:
        check_headers(request.headers, time.time())
        body = await _body(request)
        callback = verified(request.headers, body, webhook.secrets, time.time())
        loop = asyncio.get_running_loop()
        outcome, call = await loop.run_in_executor(accepting, wake.accept, conn_id, token, callback)
    except RefusedError as refused:
        raise _refusal(refused.reason) from None
    except Exception as error:
        log.exception("A callback could not be written down.")
        raise HTTPException(503) from error
    Stats.incr("musicapi.webhook.received", tags={"outcome": outcome.value, "event": callback.event})
    log.info("Callback %s for music task %s: %s", callback.event, callback.music_task_id, outcome)
    if call is not None:
        task = asyncio.create_task(_wake(call, hook))
        _wakes.add(task)
        task.add_done_callback(_wakes.discard)
    return JSONResponse({"status": outcome})


async def _body(request: Request) -> bytes:
    """Return the bytes as they came, and no more of them than a callback has."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY:
        raise RefusedError(Reason.TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise RefusedError(Reason.TOO_LARGE)
    except TimeoutError:
        raise RefusedError(Reason.TOO_SLOW) from None
    return bytes(body)


async def _wake(call: Call, hook: MusicAPIBaseHook) -> None:
    """Do what the callback is for, again until it is done; polling is the net below."""
    loop = asyncio.get_running_loop()
    for pause in wake.PAUSES:
        await asyncio.sleep(pause)
        try:
            if await loop.run_in_executor(waking, wake.act, call, hook):
                return
        except Exception:
            log.exception("Callback for music task %s: nobody is woken by it yet.", call.music_task_id)
    log.warning("Callback for music task %s: who waits finds it by polling.", call.music_task_id)


def _hook_of(conn_id: str) -> MusicAPIBaseHook | None:
    """Return the hook of a connection whose callbacks can be verified and used."""
    hook = MusicAPIBaseHook(conn_id)
    try:
        if hook.get_connection(conn_id).conn_type != hook.conn_type:
            return None
        if expected_webhook(hook.settings, bool(hook.settings.webhook), conn_id) is None:
            return None
        _ = hook.client  # made here: threads share it
    except MusicAPIError as error:
        log.warning("No receiver for webhooks of connection %s: %s", conn_id, error)
        return None
    return hook


def _refusal(reason: Reason) -> HTTPException:
    refusals.add(reason)
    return HTTPException(STATUSES.get(reason, 401))
