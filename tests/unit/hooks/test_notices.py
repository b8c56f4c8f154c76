"""Who tells tasks about their music tasks is found by name, and done without where there is nobody."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock

import pytest

from musicapi_provider.api.settings import ClientSettings
from musicapi_provider.hooks.notices import IMPLEMENTATION, notices_of
from musicapi_provider.waiting.notices import Notices
from musicapi_provider.waiting.wait import Wait
from tests.conftest import PROJECT


def test_webhooks_are_found() -> None:
    """By module and class."""
    notices = notices_of(ClientSettings("key"), None, "musicapi_default")

    assert (type(notices).__module__, type(notices).__name__) == IMPLEMENTATION
    assert notices.poll_interval(["a"]) is None  # the connection says nothing of webhooks


async def test_package_without_webhooks_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is expected, and nothing is worth waiting for."""
    module, name = IMPLEMENTATION
    for gone in (module, module.rpartition(".")[0]):
        monkeypatch.delitem(sys.modules, gone, raising=False)
    monkeypatch.setattr("musicapi_provider.hooks.notices.IMPLEMENTATION", ("musicapi_provider.gone", name))
    notices, nobody = notices_of(ClientSettings("key"), True, "musicapi_default"), MagicMock()
    notices.announce(nobody, Wait(["a"], 1.0))
    notices.withdraw(nobody, ["a"])
    await notices.announce_here(nobody, Wait(["a"], 1.0))
    notices.await_name(nobody, "token", 0.0)

    assert type(notices) is Notices
    assert notices.poll_interval(["a"]) is None
    assert not await notices.have_come(nobody, ["a"])
    assert notices.callbacks(nobody) is None
    assert notices.patience(600.0) == 0.0
    assert nobody.mock_calls == []


def test_broken_webhooks_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants to be called must not be polled for in silence."""
    monkeypatch.setitem(sys.modules, IMPLEMENTATION[0], None)
    monkeypatch.setattr(
        "musicapi_provider.hooks.notices.import_module",
        MagicMock(side_effect=ModuleNotFoundError("no sqlalchemy", name="sqlalchemy")),
    )
    with pytest.raises(ModuleNotFoundError):
        notices_of(ClientSettings("key"), True, "musicapi_default")


@pytest.mark.parametrize("room", ["waiting", "links", "triggers", "operators", "sensors"])
def test_who_waits_knows_no_webhooks(room: str) -> None:
    """Beyond the argument's name."""
    folder = PROJECT / "plugins" / "musicapi_provider" / room
    importing = [
        path.name for path in folder.glob("*.py") if "musicapi_provider.webhooks" in path.read_text()
    ]

    assert importing == []
