"""The account, jobs, counters and armed scenarios of one running simulator."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal

from include.musicapi_simulator.jobs import Job, JobRule, Phase, length_of, text_of
from include.musicapi_simulator.journal import job_of
from include.musicapi_simulator.scenarios import AT_CREATE, OF_A_JOB, Armed, Scenario, Stage, find, named_in
from include.musicapi_simulator.settings import COSTS, Settings

if TYPE_CHECKING:
    from include.musicapi_simulator.journal import Event, Journal


class SimulatorState(Settings):
    """
    Everything a simulator remembers, plus its settings as attributes.

    The server's event loop and a test's thread may use it at the same time: what changes more than one
    thing holds the lock.

    :param settings: What :meth:`reset` returns to.
    :param journal: Where jobs, balance and refunds outlive the process; None for nowhere.

    Counters, all since the last reset:

    * ``requests``: by method and route, such as ``GET /sonic/task/{task_id}``
    * ``creates_booked``: debited creates by their prompt (or description, lyrics, title)
    * ``creates_refused``: creates with the right key that booked nothing, by HTTP status (0: dropped)
    * ``webhooks``: the last attempts to deliver one: ``url, event, task_id, webhook_id, status`` (0: no
      answer), ``time`` of the answer and ``done_at`` of the job, both in epoch seconds
    * ``connections_opened``: TCP connections
    * ``media_requests_with_key``: downloads that carried an Authorization header; must stay 0
    """

    def __init__(self, settings: Settings | None = None, journal: Journal | None = None) -> None:
        self._initial = Settings(**asdict(settings)) if settings else Settings()
        self._lock = threading.RLock()
        self._journal: Journal | None = None  # not before the journal is read: a reset empties it
        self.reset()
        if journal:
            self._recall(journal)
            self._journal = journal

    def reset(self) -> None:
        """Forget all jobs, counters and scenarios; settings return to what they were at the start."""
        with self._lock:
            if self._journal:
                self._journal.clear()
            for field in fields(Settings):
                setattr(self, field.name, getattr(self._initial, field.name))
            self.jobs: dict[str, Job] = {}
            self.clips: dict[str, tuple[Job, int]] = {}
            self.armed: list[Armed] = []
            self.requests: Counter[str] = Counter()
            self.creates_booked: Counter[str] = Counter()
            self.creates_refused: Counter[int] = Counter()
            self.webhooks: deque[dict[str, Any]] = deque(maxlen=1000)
            self.connections_opened = 0
            self.media_requests_with_key = 0
            self._marker_uses: Counter[tuple[str, str]] = Counter()
            self._may_refund: dict[str, Job] = {}
            self._last_create = float("-inf")

    def _recall(self, journal: Journal) -> None:
        """Become what the journal tells."""
        for entry in journal.replay():
            event: Event = entry["event"]
            if event == "booked":
                job = job_of(entry)
                self._use_up_markers(job.text)
                self._enter(job)
            elif event == "cleared":
                self._disarm()
            else:
                self.finish(entry["task_id"])
                if event == "refunded":
                    self.settle(self.jobs[entry["task_id"]])
            self.credits, self.extra_credits = entry["balance"]

    def _use_up_markers(self, text: str) -> None:
        """Count the scenarios that must have acted on creates of these words before and at a booking."""
        for named in named_in(text):
            key = (named.scenario.name, text)
            if named.scenario.stage is Stage.CREATE:
                self._marker_uses[key] = named.left or 0
            elif named.scenario.stage is Stage.BOOKED:
                self._marker_uses[key] += 1

    def _note(self, event: Event, job: Job | None = None) -> None:
        if self._journal:
            self._journal.add(event, job, (self.credits, self.extra_credits))

    def configure(self, **settings: Any) -> None:
        """
        Change settings by name.

        :raises ValueError: If a name is not a field of :class:`Settings`, or a job rule makes no sense.
        :raises TypeError: If a value has the wrong type.
        """
        for name, value in settings.items():
            self._check_setting(name, value)
        with self._lock:
            for name, value in settings.items():
                setattr(self, name, value)

    def _check_setting(self, name: str, value: Any) -> None:
        if name not in {field.name for field in fields(Settings)}:
            raise ValueError(f"unknown setting {name!r}")
        kind = type(getattr(self._initial, name))
        if not isinstance(value, (float, int) if kind is float else kind):
            raise TypeError(f"setting {name!r} must be of type {kind.__name__}")
        if name == "job_rule":
            JobRule.parse(str(value))

    def scenario(
        self, name: str, times: int | Literal["usual"] | None = "usual", match: str | None = None
    ) -> None:
        """
        Arm a scenario.

        :param name: A name of the catalogue, ``scenarios.py``.
        :param times: Uses (requests; for scenarios of a job: jobs), None for no end, or ``usual``: what the
            catalogue says for requests, no end for jobs.
        :param match: Act only on creates, and the jobs and files made by them, with this in their words.
        :raises ValueError: If the name is not in the catalogue.
        """
        found = find(name)
        usual = None if found.stage in OF_A_JOB else found.times
        with self._lock:
            self.armed.append(Armed(found, usual if times == "usual" else times, match))

    def clear_scenarios(self) -> None:
        """Disarm all scenarios, also those that jobs have been given."""
        with self._lock:
            self.settle()  # what has failed has failed
            self._disarm()
            self._note("cleared")

    def _disarm(self) -> None:
        self.armed.clear()
        self._may_refund.clear()
        for job in self.jobs.values():
            job.scenarios.clear()

    def scenario_at_create(self, stage: Stage, body: dict[str, Any]) -> Scenario | None:
        """Return the scenario that acts on this create, by its words first, then as armed."""
        text = text_of(body)
        with self._lock:
            for named in named_in(text):
                key = (named.scenario.name, text)
                if named.scenario.stage is stage and (
                    named.left is None or self._marker_uses[key] < named.left
                ):
                    self._marker_uses[key] += 1
                    return named.scenario
            return self._fire(self.armed, stage, text)

    def scenario_for(self, stage: Stage, job: Job | None) -> Scenario | None:
        """Return the scenario that acts on this read or download, the job's own first."""
        with self._lock:
            own = self._fire(job.scenarios, stage, job.text) if job else None
            if own or stage in OF_A_JOB:
                return own
            return self._fire(self.armed, stage, job.text if job else "")

    def ending_of(self, job: Job) -> Scenario | None:
        """Return the scenario that shapes the job's last answer."""
        return next((a.scenario for a in job.scenarios if a.scenario.stage is Stage.ENDING), None)

    def _fire(self, armed: list[Armed], stage: Stage, text: str) -> Scenario | None:
        return next((item.scenario for item in armed if item.fires(stage, text)), None)

    def too_fast(self) -> bool:
        """Say whether a create comes sooner after the last one than ``create_interval`` allows."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_create < self.create_interval:
                return True
            self._last_create = now
            return False

    def book(self, body: dict[str, Any]) -> Job | None:
        """
        Debit a create and start its job.

        Credits go at submit: the refund texts imply it (facts 9). Extra credits go first (facts 8).

        :return: The job, or None if the credits do not suffice.
        """
        with self._lock:
            cost = COSTS[body.get("task_type", "create_music")]
            if cost > self.credits + self.extra_credits:
                return None
            extra = min(cost, self.extra_credits)
            paid = (cost - extra, extra)
            self.credits, self.extra_credits = self.credits - paid[0], self.extra_credits - paid[1]
            rule = JobRule.parse(self.job_rule)
            job = Job(body, rule, length_of(rule, self.seed, len(self.jobs)), paid)
            job.scenarios = self._scenarios_for(job)
            self._enter(job)
            self._note("booked", job)
            return job

    def _enter(self, job: Job) -> None:
        self.jobs[job.task_id] = job
        self.clips.update({clip_id: (job, take) for take, clip_id in enumerate(job.clip_ids)})
        self.creates_booked[_label(job.body)] += 1
        ending = self.ending_of(job)
        if ending and ending.refunds:
            self._may_refund[job.task_id] = job

    def _scenarios_for(self, job: Job) -> list[Armed]:
        """Return the scenarios that a new job takes along: those in its words, then the armed ones."""
        named = [item for item in named_in(job.text) if item.scenario.stage not in AT_CREATE]
        found = (self._fire(self.armed, stage, job.text) for stage in OF_A_JOB)
        return named + [Armed(scenario, scenario.times) for scenario in found if scenario]

    def finish(self, task_id: str) -> None:
        """End a job now, whatever its rule or its opening scenario says."""
        with self._lock:
            job = self.jobs[task_id]
            job.finished = True
            job.scenarios = [item for item in job.scenarios if item.scenario.stage is not Stage.OPENING]
            self._note("finished", job)

    def uncalled(self) -> list[Job]:
        """Return the jobs that a webhook is still due about."""
        with self._lock:
            wanted = (job for job in self.jobs.values() if job.body.get("webhook_url"))
            return [job for job in wanted if len(job.called) < 2]

    def note_call(
        self, url: str, event: str, task_id: str, webhook_id: str, status: int, done_at: float | None
    ) -> None:
        """Note an attempt to deliver a webhook."""
        about = {"url": url, "event": event, "task_id": task_id, "webhook_id": webhook_id, "status": status}
        self.webhooks.append({**about, "time": time.time(), "done_at": done_at})

    def phase_of(self, job: Job) -> Phase:
        """Return a job's phase as a poll would see it: the scenario ``running`` holds it for ever."""
        held = any(item.scenario.stage is Stage.OPENING and item.left is None for item in job.scenarios)
        return "running" if held else job.phase()

    def settle(self, *jobs: Job) -> None:
        """
        Give back the credits of failed jobs whose time has come, whether or not anybody polled them.

        :param jobs: Look at these only; with none given, at all.
        """
        with self._lock:
            for job in jobs or list(self._may_refund.values()):
                if job.task_id not in self._may_refund or self.phase_of(job) != "done":
                    continue
                del self._may_refund[job.task_id]
                job.refunded = True
                self.credits, self.extra_credits = (
                    self.credits + job.paid[0],
                    self.extra_credits + job.paid[1],
                )
                self._note("refunded", job)

    def snapshot(self) -> dict[str, Any]:
        """Return counters, credits and jobs by phase, ready for JSON."""
        with self._lock:
            self.settle()
            return {
                "requests": dict(self.requests),
                "creates_booked": dict(self.creates_booked),
                "creates_refused": {str(status): count for status, count in self.creates_refused.items()},
                "webhooks": dict(
                    Counter(f"{call['event']} {call['status']}" for call in list(self.webhooks))
                ),
                "connections_opened": self.connections_opened,
                "media_requests_with_key": self.media_requests_with_key,
                "credits": self.credits,
                "extra_credits": self.extra_credits,
                "jobs": dict(Counter(self.phase_of(job) for job in self.jobs.values())),
                "jobs_refunded": sum(job.refunded for job in self.jobs.values()),
                "job_rule": self.job_rule,
                "armed": [
                    {"name": item.scenario.name, "left": item.left, "match": item.match}
                    for item in self.armed
                ],
            }


def _label(body: dict[str, Any]) -> str:
    names = ("prompt", "gpt_description_prompt", "lyrics", "title", "tags", "continue_clip_id", "persona_id")
    return next((str(body[name]) for name in names if body.get(name)), "")
