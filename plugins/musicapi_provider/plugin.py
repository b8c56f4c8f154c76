"""
The entry point ``airflow.plugins``: what this provider adds to Airflow's UI and API server.

Every Airflow process loads it, workers included, so it imports next to nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any
from urllib.parse import quote

from airflow.sdk.plugins_manager import AirflowPlugin

from musicapi_provider.links import pages
from musicapi_provider.ui.port_zero import PortZeroIsNoPort
from musicapi_provider.webhooks import addresses as webhooks

_Message = MutableMapping[str, Any]


class LazyApp:
    """
    A FastAPI app, imported at its first request: only API servers ever need it.

    :param module: Where it is, as ``app``.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Handle a request."""
        await import_module(self._module).app(scope, receive, send)


def _icon(colour: str) -> str:
    """Return two joined notes, drawn as Airflow draws its own icons of 24 by 24."""
    shapes = '<path d="M9 18V5l12-2v13"/><circle cx="6" cy="18" r="3"/><circle cx="18" cy="16" r="3"/>'
    drawn = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'
    return "data:image/svg+xml," + quote(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" {drawn}>{shapes}</svg>'
    )


_APPS = [
    {"app": LazyApp("musicapi_provider.ui.app"), "url_prefix": pages.PREFIX, "name": "MusicAPI"},
    {
        "app": LazyApp("musicapi_provider.webhooks.receiver"),
        "url_prefix": webhooks.PREFIX,
        "name": "MusicAPI webhooks",
    },
]
_MIDDLEWARES = [{"middleware": PortZeroIsNoPort, "args": [], "kwargs": {}, "name": "MusicAPI: no port"}]
_PAGES = [
    {
        "name": "MusicAPI Tracks",
        "url_route": pages.TRACKS_ROUTE,
        # Without a slash: it is below Airflow's base URL, wherever that is.
        "bundle_url": f"{pages.PREFIX.strip('/')}/tracks_page.js",
        "destination": "nav",
        "category": "browse",
        "icon": _icon("#3f3f46"),
        "icon_dark_mode": _icon("#e4e4e7"),
    }
]


class MusicAPIPlugin(AirflowPlugin):
    """The tracks page, the receiver of webhooks, and a Test button that works without a port."""

    name = "musicapi"
    fastapi_apps = _APPS
    fastapi_root_middlewares = _MIDDLEWARES
    react_apps = _PAGES
