"""The API's routes under ``/api/v1``: what a client of MusicAPI sees (facts 2-4)."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Route

from include.musicapi_simulator import answers
from include.musicapi_simulator.checks import refusal_of
from include.musicapi_simulator.control import control_routes
from include.musicapi_simulator.jobs import text_of
from include.musicapi_simulator.media import Media
from include.musicapi_simulator.reply import Reply
from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import named_in
from include.musicapi_simulator.wire import response_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from include.musicapi_simulator.jobs import Job
    from include.musicapi_simulator.state import SimulatorState

#: Path of the API; only the version prefix is part of the contract (facts 1).
PREFIX = "/api/v1"


def build_app(state: SimulatorState) -> Starlette:
    """Return the whole application: API, media files, control routes and front page."""
    api = Api(state)
    routes = [
        api.route("POST", "/sonic/create", api.create),
        api.route("POST", "/suno/create", api.create),
        api.route("GET", "/sonic/task/{task_id}", api.task),
        api.route("GET", "/suno/clip/{task_id}", api.task),
        api.route("GET", "/sonic/task/", api.no_task),
        api.route("GET", "/suno/clip/", api.no_task),
        api.route("GET", "/get-credits", api.credits),
        api.route("POST", "/nuro/create", api.retired),
        api.route("GET", "/nuro/task/{task_id}", api.retired),
    ]
    app = Starlette(routes=[*routes, *Media(state).routes(), *control_routes(state, PREFIX)])
    # A missing task id must get the API's 400, not a redirect.
    app.router.redirect_slashes = False
    return app


class Api:
    """
    The handlers of the API.

    :param state: The account they work on.
    """

    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self._request_ids = itertools.count(1)

    def route(self, method: str, path: str, handler: Callable[[Request], Awaitable[Reply]]) -> Route:
        """Return a route that counts, waits, checks the key, and answers what ``handler`` says."""

        async def endpoint(request: Request) -> Response:
            self.state.requests[f"{method} {path}"] += 1
            if self.state.latency:
                await asyncio.sleep(self.state.latency)
            reply = await handler(request) if self._key_is_right(request) else answers.UNAUTHORIZED
            if reply.slow:
                await asyncio.sleep(self.state.slow_seconds)
            response = response_for(reply, self.state.retry_after)
            response.headers["x-request-id"] = f"sim-{next(self._request_ids):06d}"
            return response

        return Route(PREFIX + path, endpoint, methods=[method], name=f"{method} {path}")

    def _key_is_right(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self.state.api_key}".encode())

    async def create(self, request: Request) -> Reply:
        """Check, book and debit a create (facts 2)."""
        reply = self._create(_json_of(await request.body()), _root_of(request))
        if isinstance(reply, tuple):
            return reply[1]
        self.state.creates_refused[0 if reply.wire == "drop" else reply.status] += 1
        return reply

    def _create(self, body: Any, root: str) -> Reply | tuple[Job, Reply]:
        """Return a refusal, or the job that was booked and what to answer about it."""
        if refused := _refusal(body, self.state.webhooks_over_http):
            return answers.error(400, refused)
        if scenario := self.state.scenario_at_create(Stage.CREATE, body):
            return scenario.effect(Reply())
        if self.state.too_fast():
            return replace(answers.THROTTLED, retry_after="seconds")
        job = self.state.book(body, root)
        if job is None:
            return answers.NO_CREDITS
        reply = answers.submitted(job.task_id)
        scenario = self.state.scenario_at_create(Stage.BOOKED, body)
        return job, scenario.effect(reply) if scenario else reply

    async def task(self, request: Request) -> Reply:
        """Answer a poll (facts 3)."""
        job = self.state.jobs.get(request.path_params["task_id"])
        if job is None:
            return self._read(answers.UNKNOWN_TASK)
        reply = self._task(job, _root_of(request))
        if scenario := self.state.scenario_for(Stage.POLL, job):
            return scenario.effect(reply)
        return self._read(reply, job)

    def _task(self, job: Job, root: str) -> Reply:
        phase = job.phase()
        self.state.count_read(job)
        if opening := self.state.scenario_for(Stage.OPENING, job):
            return opening.effect(answers.task(job, "running", root, self.state))
        reply = answers.task(job, phase, root, self.state)
        if phase == "done":
            self.state.settle(job)
        ending = self.state.ending_of(job) if phase == "done" else None
        return ending.effect(reply) if ending else reply

    async def no_task(self, _request: Request) -> Reply:
        """Refuse a poll without a task id (facts 3.1)."""
        return answers.MISSING_TASK_ID

    async def credits(self, _request: Request) -> Reply:
        """Answer the balance (facts 4.5)."""
        self.state.settle()
        return self._read(answers.balance(self.state.credits, self.state.extra_credits))

    async def retired(self, _request: Request) -> Reply:
        """Answer for a family that is gone (facts 4.4)."""
        return answers.RETIRED

    def _read(self, due: Reply, job: Job | None = None) -> Reply:
        scenario = self.state.scenario_for(Stage.READ, job)
        return scenario.effect(due) if scenario else due


def _root_of(request: Request) -> str:
    """Return the scheme and host that were asked."""
    return str(request.base_url).rstrip("/")


def _json_of(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None  # refused like any body that is no object


def _refusal(body: Any, webhooks_over_http: bool) -> str | None:
    """Return why a body is refused; a misspelt scenario is refused too, not played as a success."""
    if refused := refusal_of(body, webhooks_over_http):
        return refused
    try:
        named_in(text_of(body))
    except ValueError as err:
        return str(err)
    return None
