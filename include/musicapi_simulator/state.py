"""The account, jobs, counters and armed scenarios of one running simulator."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal

from include.musicapi_simulator.jobs import Job, JobRule, Phase, length_of, text_of
from include.musicapi_simulator.journal import job_of
from include.musicapi_simulator.scenario import AT_CREATE, OF_A_JOB, USUAL, Armed, Scenario, Stage
from include.musicapi_simulator.scenarios import find, named_in
from include.musicapi_simulator.settings import COSTS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.musicapi_simulator.journal import Event, Journal
    from include.musicapi_simulator.scenario import Manner

#: Attempts to send a webhook of which the outcome is kept.
KEPT_DELIVERIES = 1_000


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
    * ``connections_opened``: TCP connections
    * ``media_requests_with_key``: downloads that carried an Authorization header; must stay 0
    * ``webhooks_sent``: attempts by event
    * ``webhooks_accepted``: attempts that a 2xx answered
    * ``webhooks_refused``: attempts that none did, by HTTP status (0: no answer)
    * ``webhooks``: what became of the last attempts, with the time of the answer and of the job's end
    """

    def __init__(self, settings: Settings | None = None, journal: Journal | None = None) -> None:
        self._initial = Settings(**asdict(settings)) if settings else Settings()
        self._lock = threading.RLock()
        self._watcher: Callable[[Job | None], object] | None = None
        self._journal: Journal | None = None  # not before the journal is read: a reset empties it
        self.reset()
        if journal:
            self._recall(journal)
            self._journal = journal

    def watch(self, watcher: Callable[[Job | None], object] | None) -> None:
        """
        Let somebody know of changes, in the thread that makes them.

        :param watcher: Called with a job that may have reached another phase, or with None: any job may have,
            or may be forgotten. None for nobody.
        """
        self._watcher = watcher

    def _changed(self, job: Job | None = None) -> None:
        if self._watcher:
            self._watcher(job)

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
            self.connections_opened = 0
            self.media_requests_with_key = 0
            self.webhooks_sent: Counter[str] = Counter()
            self.webhooks_accepted = 0
            self.webhooks_refused: Counter[int] = Counter()
            self.webhooks: list[dict[str, Any]] = []
            self._last_events = 0
            self._marker_uses: Counter[tuple[str, str]] = Counter()
            self._may_refund: dict[str, Job] = {}
            self._last_create = float("-inf")
            self._changed()

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
            elif event == "told":
                self.jobs[entry["task_id"]].told = True
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
            self._changed()

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

    def manner_of(self, job: Job) -> Manner:
        """Return how the webhooks of this job are sent."""
        found = (a.scenario for a in job.scenarios if a.scenario.stage is Stage.WEBHOOK)
        return next((scenario.manner for scenario in found), USUAL)

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

    def book(self, body: dict[str, Any], root: str = "") -> Job | None:
        """
        Debit a create and start its job.

        Credits go at submit: the refund texts imply it (facts 9). Extra credits go first (facts 8).

        :param root: Scheme and host that the create came to.
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
            job = Job(body, rule, length_of(rule, self.seed, len(self.jobs)), paid, root=root)
            job.scenarios = self._scenarios_for(job)
            self._enter(job)
            self._note("booked", job)
            self._changed(job)
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

    def count_read(self, job: Job) -> None:
        """Count a read of a job's task."""
        job.reads += 1
        self._changed(job)

    def finish(self, task_id: str) -> None:
        """
        End a job now, whatever its rule or its opening scenario says.

        :raises ValueError: If there is no such job.
        """
        with self._lock:
            job = self.jobs.get(task_id)
            if job is None:
                raise ValueError(f"unknown task {task_id!r}")
            job.finished = True
            job.scenarios = [item for item in job.scenarios if item.scenario.stage is not Stage.OPENING]
            self._note("finished", job)
            self._changed(job)

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

    def knows(self, job: Job) -> bool:
        """Say whether a job is one of this account, and was not forgotten by a reset."""
        return self.jobs.get(job.task_id) is job

    def loses_last(self, job: Job) -> bool:
        """Count the last event of a job, and say whether it is one of those to be lost."""
        with self._lock:
            if not self.knows(job):
                return True
            self._last_events += 1
            return self.webhook_lost_every > 0 and self._last_events % self.webhook_lost_every == 0

    def note_webhook(self, job: Job, event: str) -> None:
        """Count an attempt to send a webhook."""
        with self._lock:
            if self.knows(job):
                self.webhooks_sent[event] += 1

    def note_delivery(self, job: Job, delivery: dict[str, Any]) -> None:
        """Count what became of an attempt."""
        with self._lock:
            if not self.knows(job):
                return
            if delivery["status"] // 100 == 2:
                self.webhooks_accepted += 1
            else:
                self.webhooks_refused[delivery["status"]] += 1
            # A new list: who has the old one may be reading it in another thread.
            self.webhooks = [*self.webhooks, delivery][-KEPT_DELIVERIES:]

    def note_told(self, job: Job) -> None:
        """Remember that nothing more is to be sent about a job."""
        with self._lock:
            if self.knows(job):
                job.told = True
                self._note("told", job)

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
                "webhooks_sent": dict(self.webhooks_sent),
                "webhooks_accepted": self.webhooks_accepted,
                "webhooks_refused": {str(status): count for status, count in self.webhooks_refused.items()},
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
