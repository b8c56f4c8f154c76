"""The controls (``/_control``, this machine only) and the front page."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from include.musicapi_simulator.scenarios import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from include.musicapi_simulator.state import SimulatorState

    Control = Callable[[SimulatorState, dict[str, Any]], Any]

FRONT_PAGE = """\
MusicAPI simulator
==================
A local stand-in for MusicAPI. Nothing here costs money, and the music is synthesized on this machine.

API            {base}  (Authorization: Bearer <the key printed at start>)
Watch          GET    /_control/state
Webhooks       GET    /_control/webhooks   (the last attempts, for creates with a webhook_url)
Start afresh   POST   /_control/reset
Settings       POST   /_control/settings   {{"job_rule": "reads:3", "credits": 30, "api_key": "new"}}
                                           {{"webhooks_over_http": true, "webhook_delay": 2.5,
                                            "webhook_tries": 4, "webhook_retry_seconds": 1,
                                            "webhook_lost_every": 2}}
End a job      POST   /_control/finish     {{"task_id": "..."}}
Misbehave      POST   /_control/scenarios  {{"name": "partial", "times": 1, "match": "words of the prompt"}}
Behave again   DELETE /_control/scenarios

Or write simulate:NAME (simulate:NAME*3 for three times) into a prompt, description, tags or title.

Scenarios
---------
"""


def control_routes(state: SimulatorState, prefix: str) -> list[Route]:
    """Return the control routes and the front page."""

    def route(method: str, path: str, control: Control) -> Route:
        async def endpoint(request: Request) -> Response:
            if not _is_local(request):
                return JSONResponse({"error": "control routes answer this machine only"}, 403)
            try:
                return JSONResponse(control(state, _arguments(await request.body())))
            except (ValueError, TypeError) as err:
                return JSONResponse({"error": str(err)}, 400)

        return Route(f"/_control{path}", endpoint, methods=[method])

    async def front_page(request: Request) -> Response:
        base = str(request.base_url).rstrip("/") + prefix
        return PlainTextResponse(FRONT_PAGE.format(base=base) + scenario_list())

    return [
        route("GET", "/state", lambda state, _: state.snapshot()),
        route("GET", "/webhooks", lambda state, _: state.webhooks),
        route("POST", "/finish", lambda state, given: state.finish(**given)),
        route("POST", "/reset", lambda state, _: state.reset()),
        route("POST", "/settings", lambda state, given: state.configure(**given)),
        route("POST", "/scenarios", lambda state, given: state.scenario(**given)),
        route("DELETE", "/scenarios", lambda state, _: state.clear_scenarios()),
        route("GET", "/scenarios", lambda _, __: {s.name: s.description for s in CATALOGUE.values()}),
        Route("/", front_page),
    ]


def scenario_list() -> str:
    """Return the catalogue as text, one scenario a line, grouped by where it acts."""
    lines, stage = [], None
    for scenario in CATALOGUE.values():
        if scenario.stage is not stage:
            stage = scenario.stage
            lines.append(f"\non {stage}:")
        lines.append(f"  {scenario.name:<26} {scenario.description}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_local(request: Request) -> bool:
    return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback


def _arguments(raw: bytes) -> dict[str, Any]:
    given = json.loads(raw or b"{}")
    if not isinstance(given, dict):
        raise TypeError("the body must be a JSON object")
    return given
