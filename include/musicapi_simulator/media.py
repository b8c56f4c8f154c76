"""The media host: tracks, early streams and covers, without a key (facts 1, media fetch)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from include.musicapi_simulator.answers import EXPIRED, title_of
from include.musicapi_simulator.expiry import is_valid
from include.musicapi_simulator.ranges import file, part_of
from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import preview
from include.musicapi_simulator.wire import response_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from include.musicapi_simulator.jobs import Job
    from include.musicapi_simulator.reply import Reply
    from include.musicapi_simulator.state import SimulatorState

#: Files kept in memory; 64 tracks of 10 s are 10 MB.
CACHED = 64
#: Songs rendered side by side; more threads than this only fight for the interpreter lock.
RENDERERS = 2


class Media:
    """
    The handlers of the media host.

    :param state: Where clips are looked up and requests counted.
    """

    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self._rendering = asyncio.Semaphore(RENDERERS)
        self._files: dict[tuple[object, ...], Reply] = {}

    def routes(self) -> list[Route]:
        """Return the routes of all media."""
        return [
            self._route("/media/stream/{clip_id}.mp3", self._stream),
            self._route("/media/{clip_id}.mp3", self._track),
            self._route("/media/{clip_id}.jpeg", self._cover),
        ]

    def _route(self, path: str, handler: Callable[[Job, int], Awaitable[Reply]]) -> Route:
        async def endpoint(request: Request) -> Response:
            self.state.requests[f"GET {path}"] += 1
            if "authorization" in request.headers:
                # The key must never reach a media host: be loud about it, the real one would just log it.
                self.state.media_requests_with_key += 1
                return JSONResponse({"error": "Authorization header sent to a media host"}, 400)
            job, take = self.state.clips.get(request.path_params["clip_id"], (None, 0))
            if job is None:
                return JSONResponse({"error": "Not found"}, 404)
            if self.state.media_url_seconds and not is_valid(request.url.path, request.query_params):
                return response_for(EXPIRED, self.state.retry_after)
            due = await handler(job, take)
            # Early streams behave, and the target of a redirect must not redirect again.
            spared = handler == self._stream or "redirected" in request.query_params
            if not spared and (scenario := self.state.scenario_for(Stage.MEDIA, job)):
                due = scenario.effect(replace(due, url=str(request.url)))
            return response_for(part_of(due, request.headers), self.state.retry_after)

        return Route(path, endpoint, methods=["GET"], name=path)

    async def _track(self, job: Job, take: int) -> Reply:
        flags = (bool(job.body.get("make_instrumental")), str(job.body.get("vocal_gender") or ""))
        return await self._file(
            "audio/mp3", _render, self.state.words(job.text), *flags, take, self.state.song_seconds
        )

    async def _stream(self, job: Job, take: int) -> Reply:
        return preview(await self._track(job, take))

    async def _cover(self, job: Job, take: int) -> Reply:
        words = self.state.words
        return await self._file("image/jpeg", _draw, words(title_of(job)), words(job.text), take)

    async def _file(self, kind: str, make: Callable[..., bytes], *of: object) -> Reply:
        """Return the answer with a file, made of ``of`` in a thread unless it is among those in memory."""
        key = (kind, *of)
        if key not in self._files:
            async with self._rendering:
                if key not in self._files:  # made while this one waited
                    made = file(await asyncio.to_thread(make, *of), kind)
                    if len(self._files) >= CACHED:
                        del self._files[next(iter(self._files))]
                    self._files[key] = made
        return self._files[key]


def _render(text: str, instrumental: bool, gender: str, take: int, seconds: float) -> bytes:
    from include.musicapi_simulator.audio import render_mp3  # numpy and LAME cost start-up time
    from include.musicapi_simulator.melody import compose

    return render_mp3(compose(text, instrumental, gender, take, seconds))


def _draw(title: str, text: str, take: int) -> bytes:
    from include.musicapi_simulator.cover import draw_cover  # Pillow costs start-up time

    return draw_cover(title, text, take)
