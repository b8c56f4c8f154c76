"""Switches of the connection; how it is read as a whole is tested with the hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.hooks.musicapi import MusicAPIHook


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        ("true", True),
        (" True ", True),
        (False, False),
        ("false", False),
        ("", False),
        (None, False),
    ],
    ids=repr,
)
def test_private_media_are_allowed_only_on_request(
    value: Any, expected: bool, connect: Callable[..., None]
) -> None:
    """A form gives a boolean, a file may give text."""
    connect("https://api.musicapi.ai", "sk-key", allow_private_media=value)
    settings = MusicAPIHook().settings

    assert expected is settings.allow_private_media
    assert not settings.headers


def test_private_media_are_off_by_default(connect: Callable[..., None]) -> None:
    """URLs come from a server."""
    connect("https://api.musicapi.ai", "sk-key")

    assert MusicAPIHook().settings.allow_private_media is False


@pytest.mark.parametrize("value", ["yes", 1, "tru", ["true"]], ids=repr)
def test_unclear_switch_is_refused(value: Any, connect: Callable[..., None]) -> None:
    """A slip must not open a network, nor pass for an opened one."""
    connect("https://api.musicapi.ai", "sk-key", allow_private_media=value)
    with pytest.raises(MusicAPIConfigurationError, match=r"'allow_private_media'.* must be true or false"):
        _ = MusicAPIHook().settings
