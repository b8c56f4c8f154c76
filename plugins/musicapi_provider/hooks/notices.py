"""
Find who tells tasks about their music tasks; here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from musicapi_provider.waiting.notices import Notices

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings

#: Module and class, by name: nothing below them knows them, and the package works without.
IMPLEMENTATION = "musicapi_provider.webhooks.notices", "WebhookNotices"


def implementation() -> Callable[[ClientSettings, bool | None, str], Notices]:
    """Return what makes notices; its first import takes a moment, which an event loop has not."""
    module, name = IMPLEMENTATION
    try:
        found: Callable[[ClientSettings, bool | None, str], Notices] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.rpartition(".")[0]):
            raise
        return lambda *_: Notices()
    return found


def notices_of(settings: ClientSettings, wanted: bool | None, conn_id: str) -> Notices:
    """
    Return what tasks of a connection are told.

    :param wanted: What the task says; ``None``: as the connection says.
    """
    return implementation()(settings, wanted, conn_id)
