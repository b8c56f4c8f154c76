"""
What the Test button of a connection shows; somebody waits for it, and the UI shows it for seconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.settings import RetrySettings
from musicapi_provider.exceptions import MusicAPIAuthError, MusicAPIConfigurationError, MusicAPIError

if TYPE_CHECKING:
    from musicapi_provider.hooks.base import MusicAPIBaseHook


def tested(hook: MusicAPIBaseHook, retries: RetrySettings | None) -> tuple[bool, str]:
    """Return whether the balance could be read, and the balance, or what is wrong."""
    try:
        client = MusicAPIClient(
            hook.settings, session=hook.get_conn(), retries=retries or RetrySettings(attempts=2)
        )
        credits = client.get_credits()
    except MusicAPIError as error:
        # Airflow tests under a random name, which nobody knows.
        named = rf"(The )?(?:the )?(?:Airflow )?connection {re.escape(repr(hook.musicapi_conn_id))}"
        return False, re.sub(
            named, lambda found: "This connection" if found[1] else "this connection", _why_not(error)
        )
    extra = f" and {credits.extra_credits:g} extra credits" if credits.extra_credits else ""
    return True, f"Connected to {hook.settings.base_url}. Balance: {credits.credits:g} credits{extra}."


def _why_not(error: MusicAPIError) -> str:
    """Say which of key, base URL and network is wrong, in the form's words."""
    status = error.status_code
    if isinstance(error, MusicAPIAuthError):
        return "The API key is wrong: the API does not accept it."
    if isinstance(error, MusicAPIConfigurationError) and status is None:
        return error.message
    if status is None:
        unknown = "gaierror" in error.message
        culprit = (
            "The Base URL is wrong, or its host name is not known here" if unknown else "The network fails"
        )
        return f"{culprit}. {error.message}"
    if status == 429 or status >= 500:
        return f"The API is there, but cannot say now. {error.message}"
    return f"The Base URL is wrong. {error.message}"
