"""The account, jobs, counters and armed scenarios of one running simulator."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import asdict, fields
from typing import Any, Literal

from include.musicapi_simulator.jobs import Job, JobRule, Phase, length_of, text_of
from include.musicapi_simulator.scenarios import OF_A_JOB, Armed, Scenario, Stage, find, named_in
from include.musicapi_simulator.settings import COSTS, Settings


class SimulatorState(Settings):
    """
    Everything a simulator remembers, plus its settings as attributes.

    The server's event loop and a test's thread may use it at the same time: what changes more than one
    thing holds the lock.

    :param settings: What :meth:`reset` returns to.

    Counters, all since the last reset:

    * ``requests``: by method and route, such as ``GET /sonic/task/{task_id}``
    * ``creates_booked``: debited creates by their prompt (or description, lyrics, title)
    * ``creates_refused``: creates with the right key that booked nothing, by HTTP status (0: dropped)
    * ``connections_opened``: TCP connections
    * ``media_requests_with_key``: downloads that carried an Authorization header; must stay 0
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._initial = Settings(**asdict(settings)) if settings else Settings()
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget all jobs, counters and scenarios; settings return to what they were at the start."""
        with self._lock:
            for field in fields(Settings):
                setattr(self, field.name, getattr(self._initial, field.name))
            self.jobs: dict[str, Job] = {}
            self.clips: dict[str, tuple[Job, int]] = {}
            self.armed: list[Armed] = []
            self.requests: Counter[str] = Counter()
            self.creates_booked: Counter[str] = Counter()
            self.creates_refused: Counter[int] = Counter()
            self.connections_opened = 0
            self.media_requests_with_key = 0
            self._marker_uses: Counter[tuple[str, str]] = Counter()
            self._may_refund: list[Job] = []
            self._last_create = float("-inf")

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
            self.armed.clear()
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
            self._enter(job)
            return job

    def _enter(self, job: Job) -> None:
        job.scenarios = [
            *(item for item in named_in(job.text) if item.scenario.stage not in (Stage.CREATE, Stage.BOOKED)),
            *self._armed_for(job),
        ]
        self.jobs[job.task_id] = job
        self.clips.update({clip_id: (job, take) for take, clip_id in enumerate(job.clip_ids)})
        self.creates_booked[_label(job.body)] += 1
        ending = self.ending_of(job)
        if ending and ending.refunds:
            self._may_refund.append(job)

    def _armed_for(self, job: Job) -> list[Armed]:
        found = (self._fire(self.armed, stage, job.text) for stage in OF_A_JOB)
        return [Armed(scenario, scenario.times) for scenario in found if scenario]

    def finish(self, task_id: str) -> None:
        """End a job now, whatever its rule or its opening scenario says."""
        with self._lock:
            job = self.jobs[task_id]
            job.finished = True
            job.scenarios = [item for item in job.scenarios if item.scenario.stage is not Stage.OPENING]

    def phase_of(self, job: Job) -> Phase:
        """Return a job's phase as a poll would see it: the scenario ``running`` holds it for ever."""
        held = any(item.scenario.stage is Stage.OPENING and item.left is None for item in job.scenarios)
        return "running" if held else job.phase()

    def settle(self) -> None:
        """Give back the credits of failed jobs whose time has come, whether or not anybody polled them."""
        with self._lock:
            for job in [job for job in self._may_refund if self.phase_of(job) == "done"]:
                self._may_refund.remove(job)
                job.refunded = True
                self.credits, self.extra_credits = (
                    self.credits + job.paid[0],
                    self.extra_credits + job.paid[1],
                )

    def snapshot(self) -> dict[str, Any]:
        """Return counters, credits and jobs by phase, ready for JSON."""
        with self._lock:
            self.settle()
            return {
                "requests": dict(self.requests),
                "creates_booked": dict(self.creates_booked),
                "creates_refused": {str(status): count for status, count in self.creates_refused.items()},
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
