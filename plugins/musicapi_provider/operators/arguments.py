"""
What operators make of their arguments once templates are rendered: the right type, or a clear error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.bodies import parse_flag
from musicapi_provider.exceptions import MusicAPIInvalidRequestError, MusicAPINotSentError, Spent
from musicapi_provider.files import make_folder
from musicapi_provider.purchases import UnknownOutcome

if TYPE_CHECKING:
    from typing import NoReturn


def text_of(value: object) -> str | None:
    """Return a text, ``None`` for nothing; a template makes the text "None" of an empty param."""
    return None if value is None or str(value).strip() in ("", "None") else str(value)


def flag_of(name: str, value: object) -> bool:
    """Return a boolean; text from a template counts."""
    if isinstance(value, bool):
        return value
    try:
        return parse_flag(str(value))
    except ValueError as error:
        _refuse(name, str(error), value)


def number_of(name: str, value: object) -> float | None:
    """Return a number, ``None`` for nothing; text from a template counts."""
    text = text_of(value)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or math.isnan(number):
        _refuse(name, "must be a number", value)
    return number


def mapping_of(name: str, value: object) -> dict[str, str]:
    """Return a mapping of texts; a JSON object as text counts."""
    if isinstance(value, str) and value.strip().startswith("{"):
        with suppress(ValueError):  # refused below
            value = json.loads(value)
    if isinstance(value, Mapping):
        return dict(value)
    if text_of(value) is not None:
        _refuse(name, "must be a mapping, or a JSON object as text", value)
    return {}


def folder_of(name: str, uri: str) -> ObjectStoragePath:
    """Return a folder of object storage; the text of an empty param is none."""
    if text_of(uri) is None:
        raise MusicAPIInvalidRequestError(
            f"{name}: must be the URI of a folder; got {uri!r}.",
            next_step="give one, such as s3://conn_id@bucket/music or file:///data/music.",
        )
    return ObjectStoragePath(uri)


def open_folder(name: str, uri: str) -> ObjectStoragePath:
    """Return a folder that is there, or can be; what is to be stored needs a place before it is paid."""
    folder = folder_of(name, uri)
    try:
        make_folder(folder)
    except Exception as error:  # each storage has its own
        raise MusicAPINotSentError(
            f"{name}: {uri} cannot be written to ({type(error).__name__}: {error}); "
            "this try has sent nothing.",
            spent=Spent.UNKNOWN,  # earlier tries may have bought
            next_step="correct it, or the rights there; a later try goes on.",
        ) from error
    return folder


def policy_of(value: object) -> UnknownOutcome:
    """Return what to do about a lost answer."""
    try:
        return UnknownOutcome(str(value))
    except ValueError:
        _refuse(
            "on_unknown_outcome",
            f"must be {' or '.join(repr(str(policy)) for policy in UnknownOutcome)}",
            value,
        )


def check_policy(value: object) -> None:
    """
    Refuse a policy that is none, unless it is a template: a slip must not wait for the bad day.

    :raises ValueError: said when the DAG is parsed.
    """
    if isinstance(value, str) and "{" not in value:
        UnknownOutcome(value)


def seconds_of(name: str, value: timedelta | float) -> float:
    """
    Return seconds.

    :raises ValueError: negative or endless; said when the DAG is parsed.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be seconds, 0 or more; got {value!r}")
    return seconds


def _refuse(name: str, rule: str, value: object) -> NoReturn:
    raise MusicAPIInvalidRequestError(f"{name}: {rule}; got {value!r}. Nothing was sent.")
