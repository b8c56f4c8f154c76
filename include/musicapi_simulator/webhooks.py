"""
Calls back: signed events about jobs whose creates have named a URL (facts 7).

A thread looks which jobs have come how far, and others send: the simulator answers meanwhile, and a receiver
that hangs holds up nobody else. It signs with a few lines of its own, lest it agree with our receiver on a
mistake.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import requests

from include.musicapi_simulator import answers
from include.musicapi_simulator.scenarios import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.musicapi_simulator.jobs import Job
    from include.musicapi_simulator.state import SimulatorState

#: Seconds between looks at the jobs, and for which a receiver may take its time.
TICK, PATIENCE = 0.02, 5.0
#: Calls at once.
THREADS = 16
STREAMING, COMPLETED, FAILED = "song.streaming", "song.completed", "song.failed"
#: What signs where a create has named no secret: nobody else knows it (facts 7.1).
OWN_SECRET = secrets.token_hex(32)


@dataclass(frozen=True)
class Call:
    """
    One event about one job, which may be sent more than once.

    :param done_at: Epoch seconds at which the job ended, as seen here; None for streaming.
    :param skew: Seconds that the timestamp lies back.
    :param form: How it is signed: as documented, not at all, or the sister site's way, over the body alone.
    """

    url: str
    secret: str
    event: str
    body: dict[str, Any]
    done_at: float | None
    skew: float = 0.0
    form: str = "documented"
    id: str = field(default_factory=lambda: f"evt_{uuid.uuid4().hex}")

    def signed(self) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of an attempt, of this moment."""
        raw = json.dumps(self.body).encode()
        timestamp = str(int(time.time() - self.skew))
        headers = {
            "Content-Type": "application/json",
            "X-Webhook-Id": self.id,
            "Idempotency-Key": self.id,
            "X-Webhook-Event": self.event,
            "X-Webhook-Timestamp": timestamp,
        }
        if self.form == "documented":
            headers["X-Webhook-Signature"] = _digest(self.secret, timestamp.encode() + b"." + raw)
        elif self.form == "body only":
            headers["X-Signature"] = headers["X-Webhook-Signature"] = _digest(self.secret, raw)
        return raw, headers


def _digest(secret: str, message: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


#: What a scenario makes of the calls about a job that are due together.
BEHAVIOURS: dict[str, Callable[[list[Call]], list[Call]]] = {
    "webhook-lost": lambda calls: [call for call in calls if call.event == STREAMING],
    "webhook-twice": lambda calls: [call for call in calls for _ in range(2)],
    "webhook-early": lambda calls: sorted(calls, key=lambda call: call.event == STREAMING),
    "webhook-wrong-secret": lambda calls: [replace(call, secret="a wrong secret") for call in calls],  # noqa: S106
    "webhook-unsigned": lambda calls: [replace(call, form="none") for call in calls],
    "webhook-body-only": lambda calls: [replace(call, form="body only") for call in calls],
    "webhook-old": lambda calls: [replace(call, skew=3600.0) for call in calls],
}
#: Scenarios that keep the streaming event until the last one is due.
TOGETHER = frozenset({"webhook-early", "webhook-late"})


class WebhookSender:
    """
    Watches the jobs of a running simulator and calls back.

    :param root: Scheme and host of the simulator; media URLs start with it.
    """

    def __init__(self, state: SimulatorState, root: str) -> None:
        self._state = state
        self._root = root
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="musicapi-webhooks", daemon=True)
        self._pool = ThreadPoolExecutor(THREADS, "musicapi-webhook")
        self._finals = 0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing any more; what is being sent is not waited for."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _watch(self) -> None:
        while not self._stopped.wait(TICK):
            for job in self._state.uncalled():
                if calls := self._due(job):
                    self._pool.submit(self._send, job, calls)

    def _due(self, job: Job) -> list[Call]:
        """Return the calls that are due about a job, as its scenario will have them."""
        phase, scenario = self._state.phase_of(job), self._scenario_of(job)
        events = {"half": [STREAMING], "done": [STREAMING, COMPLETED]}.get(phase, [])
        if phase == "half" and scenario in TOGETHER:
            return []
        due = [event for event in events if event not in job.called]
        job.called.update(due)
        calls = [self._call(job, event) for event in due]
        if scenario in BEHAVIOURS:
            calls = BEHAVIOURS[scenario](calls)
        return [call for call in calls if not self._is_lost(call)]

    def _scenario_of(self, job: Job) -> str:
        names = (item.scenario.name for item in job.scenarios if item.scenario.stage is Stage.WEBHOOK)
        return next(names, "")

    def _is_lost(self, call: Call) -> bool:
        if call.event == STREAMING:
            return False
        self._finals += 1
        every = self._state.webhook_lost_every
        return bool(every) and self._finals % every == 0

    def _call(self, job: Job, event: str) -> Call:
        told: dict[str, Any] = {"code": 200, "message": "success"}
        reply = answers.task(job, "half" if event == STREAMING else "done", self._root, self._state)
        if event == COMPLETED:
            ending = self._state.ending_of(job)
            reply = ending.effect(reply) if ending else reply
            self._state.settle(job)
        body = reply.body if isinstance(reply.body, dict) else {}
        clips = body.get("data")
        failed = reply.status != 200 or "error" in body or _all_failed(clips)
        if event == COMPLETED and failed:
            event = FAILED
            status = reply.status if reply.status != 200 else 500
            told = {"code": status, "message": body.get("error", "Generation failed")}
        about = {"event": event, "task_id": job.task_id, "platform": "suno", **told}
        return Call(
            url=str(job.body["webhook_url"]),
            secret=str(job.body.get("webhook_secret") or OWN_SECRET),
            event=event,
            body={**about, "data": clips or []},
            done_at=None if event == STREAMING else time.time(),
        )

    def _send(self, job: Job, calls: list[Call]) -> None:
        """Send the calls about a job, one after the other."""
        if self._scenario_of(job) == "webhook-late" and self._stopped.wait(self._state.slow_seconds):
            return
        for call in calls:
            if self._stopped.wait(self._state.webhook_delay):
                return
            self._deliver(call)

    def _deliver(self, call: Call) -> None:
        """Send until it is accepted, or often enough."""
        for attempt in range(self._state.webhook_tries):
            raw, headers = call.signed()
            status = _post(call.url, raw, headers)
            self._state.note_call(call.url, call.event, call.body["task_id"], call.id, status, call.done_at)
            if 200 <= status < 300:
                return
            if self._stopped.wait(self._state.webhook_retry_seconds * 2**attempt):
                return


def _all_failed(clips: Any) -> bool:
    return bool(clips) and all(isinstance(clip, dict) and clip.get("state") == "failed" for clip in clips)


def _post(url: str, raw: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer, 0 without one."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.post(
                url, raw, headers=headers, timeout=PATIENCE, allow_redirects=False
            ).status_code
    except requests.RequestException:
        return 0
