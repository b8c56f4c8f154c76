"""The media host: tracks, early streams and covers, without a key (facts 1, media fetch)."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from include.musicapi_simulator.answers import Reply, title_of
from include.musicapi_simulator.scenarios import Stage
from include.musicapi_simulator.wire import response_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from include.musicapi_simulator.jobs import Job
    from include.musicapi_simulator.state import SimulatorState

#: Rendered tracks kept in memory; 64 tracks of 10 s are 10 MB.
CACHED = 64
#: Songs rendered side by side; more threads than this only fight for the interpreter lock.
RENDERERS = 2
#: An early stream gives the first half of a track in this many pieces, with this pause in seconds.
STREAM_PIECES, STREAM_PAUSE = 8, 0.03


class Media:
    """
    The handlers of the media host.

    :param state: Where clips are looked up and requests counted.
    """

    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self._rendering = asyncio.Semaphore(RENDERERS)
        self._render = lru_cache(CACHED)(_render)

    def routes(self) -> list[Route]:
        """Return the routes of all media."""
        return [
            self._route("/media/stream/{clip_id}.mp3", self._stream),
            self._route("/media/{clip_id}.mp3", self._track),
            self._route("/media/{clip_id}.jpeg", self._cover),
        ]

    def _route(self, path: str, handler: Callable[[Job, int], Awaitable[Reply | Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            self.state.requests[f"GET {path}"] += 1
            if "authorization" in request.headers:
                # The key must never reach a media host: be loud about it, the real one would just log it.
                self.state.media_requests_with_key += 1
                return JSONResponse({"error": "Authorization header sent to a media host"}, 400)
            job, take = self.state.clips.get(request.path_params["clip_id"], (None, 0))
            if job is None:
                return JSONResponse({"error": "Not found"}, 404)
            due = await handler(job, take)
            if isinstance(due, Response):
                return due
            # The target of media-redirect must not redirect again.
            moved = "redirected" in request.query_params
            scenario = None if moved else self.state.scenario_for(Stage.MEDIA, job)
            return response_for(scenario.effect(due) if scenario else due, self.state.retry_after)

        return Route(path, endpoint, methods=["GET"], name=path)

    async def _track(self, job: Job, take: int) -> Reply:
        return Reply(200, await self._mp3(job, take), {"content-type": "audio/mp3"})

    async def _stream(self, job: Job, take: int) -> Response:
        track = await self._mp3(job, take)
        return StreamingResponse(_trickle(track[: len(track) // 2]), media_type="audio/mp3")

    async def _cover(self, job: Job, take: int) -> Reply:
        from include.musicapi_simulator.cover import draw_cover  # Pillow costs start-up time

        picture = await asyncio.to_thread(draw_cover, title_of(job), job.text, take)
        return Reply(200, picture, {"content-type": "image/jpeg"})

    async def _mp3(self, job: Job, take: int) -> bytes:
        flags = (bool(job.body.get("make_instrumental")), str(job.body.get("vocal_gender") or ""))
        async with self._rendering:
            return await asyncio.to_thread(self._render, job.text, *flags, take, self.state.song_seconds)


def _render(text: str, instrumental: bool, gender: str, take: int, seconds: float) -> bytes:
    from include.musicapi_simulator.audio import render_mp3  # numpy and LAME cost start-up time
    from include.musicapi_simulator.melody import compose

    return render_mp3(compose(text, instrumental, gender, take, seconds))


async def _trickle(track: bytes) -> AsyncIterator[bytes]:
    size = max(1, len(track) // STREAM_PIECES)
    for start in range(0, len(track), size):
        yield track[start : start + size]
        await asyncio.sleep(STREAM_PAUSE)
