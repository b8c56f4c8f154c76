"""
Text that everything takes: titles and prompts may hold what encodings, databases and players refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Code points that are half of a character: JSON can carry one alone, no encoding can.
_HALF = re.compile("[\ud800-\udfff]")
#: Stands for what was there, as Unicode means it.
_REPLACEMENT = "\ufffd"


def clean(text: str, *, nul: bool = False) -> str:
    """
    Return a text with U+FFFD for each half of a surrogate pair.

    :param nul: Replace NUL as well, which Postgres and tags of audio files refuse.
    """
    whole = _HALF.sub(_REPLACEMENT, text)
    return whole.replace("\0", _REPLACEMENT) if nul else whole


def clean_json(value: object, *, nul: bool = False) -> Any:
    """Return a value as JSON has it, with :func:`clean` texts; keys become text."""
    if isinstance(value, str):
        return clean(value, nul=nul)
    if isinstance(value, (list, tuple)):
        return [clean_json(item, nul=nul) for item in value]
    if isinstance(value, Mapping):
        return {clean(str(name), nul=nul): clean_json(item, nul=nul) for name, item in value.items()}
    return value
