"""
The webhooks of the service: a create with a ``webhook_url`` is called back when its job streams and ends.

Headers, signature and body follow facts 7. No source states order, time-out or retries: here the events of a
job set out in their order, and one that no 2xx answers comes again a few times, under its id and signed anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import aiohttp

from include.musicapi_simulator import answers
from include.musicapi_simulator.jobs import HALF_FROM

if TYPE_CHECKING:
    from include.musicapi_simulator.jobs import Job
    from include.musicapi_simulator.reply import Reply
    from include.musicapi_simulator.scenario import Manner
    from include.musicapi_simulator.state import SimulatorState

#: Seconds within which a receiver must answer.
TIMEOUT = 5.0
#: Webhooks under way at one time; more wait for their turn.
AT_ONCE = 100
#: ``code`` of a failure by the ``type`` of the task's answer, where its status is 200. The sheet says no more
#: than "other values on failure" (facts 7.4).
CODES = {"forbidden": 403, "timeout": 504}


@dataclass(frozen=True)
class Callback:
    """
    One event of a job, on its way to the receiver.

    :param body: The bytes that are sent and signed.
    :param done_at: Epoch seconds at which the job was done; None for the streaming event.
    :param tried: Set once the first attempt is over.
    """

    event: str
    job: Job
    body: bytes
    manner: Manner
    done_at: float | None = None
    tried: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def webhook_id(self) -> str:
        """The event's id: also the same after a restart, so that a receiver can tell a repetition."""
        return str(uuid.uuid5(uuid.UUID(self.job.task_id), self.event))

    def headers(self, own_secret: str) -> dict[str, str]:
        """
        Return the headers, signed now.

        :param own_secret: Signs where the create named no secret (facts 7.1).
        """
        timestamp = str(int(time.time() - self.manner.age))
        secret = self.job.body.get("webhook_secret") or own_secret
        return {
            "Content-Type": "application/json",
            "X-Webhook-Id": self.webhook_id,
            "Idempotency-Key": self.webhook_id,
            "X-Webhook-Event": self.event,
            "X-Webhook-Timestamp": timestamp,
            **self._signature(f"wrong {secret}" if self.manner.signature == "wrong" else secret, timestamp),
        }

    def _signature(self, secret: str, timestamp: str) -> dict[str, str]:
        if self.manner.signature == "none":
            return {}
        if self.manner.signature == "body":
            return {"X-Signature": _hmac(secret, self.body)}
        return {"X-Webhook-Signature": f"sha256={_hmac(secret, timestamp.encode() + b'.' + self.body)}"}


def _hmac(secret: str, message: bytes) -> str:
    # JSON may hold half a surrogate pair; a create with one must not break the sender.
    return hmac.new(secret.encode("utf-8", "surrogatepass"), message, hashlib.sha256).hexdigest()


def callback_of(event: str, job: Job, reply: Reply, manner: Manner, done_at: float | None = None) -> Callback:
    """
    Return the callback that tells what a task's answer tells (facts 7.4).

    :param event: ``song.streaming`` or ``song.completed``. An answer without clips, or with failed ones only,
        makes it ``song.failed``.
    """
    told, items = reply.body, reply.body.get("data", [])
    code, message = 200, told.get("message")
    if all(item.get("state") == "failed" for item in items):
        event = "song.failed"
        code = reply.status if reply.status != 200 else CODES.get(told.get("type"), 500)
        message = items[0]["error_message"] if items else told.get("error") or message
    body = {
        "event": event,
        "task_id": job.task_id,
        "platform": "suno",  # as documented; integrators expect "sonic" (facts 7.4, CONFLICT)
        "code": code,
        "message": message,
        "data": items,
    }
    # Not escaped to ASCII: who signs the parsed text instead of the bytes shall notice.
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Callback(event, job, raw, manner, done_at)


def _wants_webhooks(job: Job) -> bool:
    return bool(job.body.get("webhook_url"))


class Sender:
    """
    Sends the webhooks of all jobs, on the server's loop, one task a job.

    :param state: Whose jobs are followed; it counts what was sent.
    :param root: Scheme and host for the media URLs of jobs that were not booked over HTTP.
    """

    def __init__(self, state: SimulatorState, root: str) -> None:
        self.state = state
        self._root = root
        self._own_secret = secrets.token_hex()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._followers: dict[str, tuple[Job, asyncio.Task[None], asyncio.Event]] = {}

    def open(self) -> None:
        """Begin, on the running loop, also with jobs that were booked before."""
        loop = asyncio.get_running_loop()
        # No connection is used twice: one that the receiver has just closed would look like a refusal.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        )

        def notice(job: Job | None) -> None:
            if job is None or _wants_webhooks(job):
                loop.call_soon_threadsafe(self._look, job)

        self.state.watch(notice)
        self._look(None)

    async def close(self) -> None:
        """End; what is not sent by now is not sent."""
        self.state.watch(None)
        while self._followers:  # a job may be booked meanwhile
            tasks = [task for _, task, _ in self._followers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def _look(self, changed: Job | None) -> None:
        """Begin to follow a job or wake its follower; with None, all, and end those of forgotten jobs."""
        for job in [changed] if changed else list(self.state.jobs.values()):
            if job.task_id in self._followers:
                self._followers[job.task_id][2].set()
            elif _wants_webhooks(job) and not job.told and self.state.knows(job):
                self._begin(job)
        for job, task, _ in () if changed else self._followers.values():
            if not self.state.knows(job):
                task.cancel()

    def _begin(self, job: Job) -> None:
        woken = asyncio.Event()
        task = asyncio.create_task(self._follow(job, woken))
        task.add_done_callback(lambda _task: self._followers.pop(job.task_id))
        self._followers[job.task_id] = job, task, woken

    async def _follow(self, job: Job, woken: asyncio.Event) -> None:
        """Send what happens to a job, until its last event is accepted or given up."""
        async with asyncio.TaskGroup() as group:
            await self._reached("half", job, woken)
            manner = self.state.manner_of(job)
            reply = answers.task(job, "half", job.root or self._root, self.state)
            streaming = callback_of("song.streaming", job, reply, manner)
            if not manner.reverse:
                group.create_task(self._deliver(streaming))
            await self._reached("done", job, woken)
            last = self._last(job)
            group.create_task(self._deliver(last, after=None if manner.reverse else streaming))
            if manner.reverse:
                group.create_task(self._deliver(streaming, after=last))
        self.state.note_told(job)

    def _last(self, job: Job) -> Callback:
        done_at = job.done_at()
        self.state.settle(job)
        reply = answers.task(job, "done", job.root or self._root, self.state)
        if ending := self.state.ending_of(job):
            reply = ending.effect(reply)
        manner = self.state.manner_of(job)
        if self.state.loses_last(job):
            manner = replace(manner, copies=0)
        return callback_of("song.completed", job, reply, manner, done_at)

    async def _reached(self, phase: Literal["half", "done"], job: Job, woken: asyncio.Event) -> None:
        share = HALF_FROM if phase == "half" else 1.0
        while True:
            left = job.seconds_until(share)  # before the look: None then means that nothing but a wake helps
            if self.state.phase_of(job) in (phase, "done"):
                return
            woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await woken.wait()

    async def _deliver(self, callback: Callback, after: Callback | None = None) -> None:
        """
        Send an event until it is accepted or has been tried often enough.

        :param after: The event before it, of which the first attempt is waited for.
        """
        late = callback.manner.late and callback.done_at is not None
        await asyncio.sleep(self.state.webhook_delay + (self.state.slow_seconds if late else 0))
        if after:
            await after.tried.wait()
        refused = [copy for copy in range(callback.manner.copies) if not await self._attempt(callback)]
        callback.tried.set()
        await asyncio.gather(*(self._retry(callback) for _ in refused))

    async def _retry(self, callback: Callback) -> None:
        for attempt in range(self.state.webhook_tries - 1):
            await asyncio.sleep(self.state.webhook_retry_seconds * 2**attempt)
            if await self._attempt(callback):
                return

    async def _attempt(self, callback: Callback) -> bool:
        """Send an event once and say whether it was accepted."""
        async with self._turns:
            self.state.note_webhook(callback.job, callback.event)
            status = await self._post(callback)
        self.state.note_delivery(
            callback.job,
            {
                "url": callback.job.body["webhook_url"],
                "event": callback.event,
                "task_id": callback.job.task_id,
                "webhook_id": callback.webhook_id,
                "status": status,
                "time": time.time(),
                "done_at": callback.done_at,
            },
        )
        return status // 100 == 2

    async def _post(self, callback: Callback) -> int:
        """Return the receiver's status, 0 for no answer."""
        url, headers = callback.job.body["webhook_url"], callback.headers(self._own_secret)
        try:
            async with self._session.post(
                url, data=callback.body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):  # the last: a host that no name can be
            return 0
