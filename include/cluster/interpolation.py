"""
Variables in a compose file, as Compose knows them: ``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``$$``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-+?]")


class MissingValueError(Exception):
    """A variable that must be given is not."""


def interpolate(tree: Any, values: Mapping[str, str]) -> Any:
    """
    Return the content of a compose file with all variables replaced; keys stay as they are.

    :raises MissingValueError: if a variable with ``?`` has no value.
    """
    if isinstance(tree, Mapping):
        return {key: interpolate(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [interpolate(value, values) for value in tree]
    return interpolate_text(tree, values) if isinstance(tree, str) else tree


def interpolate_text(text: str, values: Mapping[str, str]) -> str:
    """Return one text with all variables replaced."""
    done = ""
    while text:
        before, dollar, rest = text.partition("$")
        done += before
        if not dollar:
            break
        if rest.startswith("$"):
            done, text = done + "$", rest[1:]
        elif rest.startswith("{"):
            inside, text = _up_to_brace(rest[1:])
            done += _substitute(inside, values)
        elif name := _NAME.match(rest):
            done, text = done + values.get(name[0], ""), rest[name.end() :]
        else:
            raise ValueError(f"a single $ before {rest[:20]!r}; write $$ for a dollar sign")
    return done


def _up_to_brace(text: str) -> tuple[str, str]:
    """Split at the closing brace, past those of variables within."""
    depth = 1
    for index, character in enumerate(text):
        depth += text[index : index + 2] == "${"
        depth -= character == "}"
        if not depth:
            return text[:index], text[index + 1 :]
    raise ValueError(f"no closing brace in ${{{text}")


def _substitute(inside: str, values: Mapping[str, str]) -> str:
    name = _NAME.match(inside)
    operator = _OPERATOR.match(inside, name.end()) if name else None
    if not name or not (operator or name.end() == len(inside)):
        raise ValueError(f"${{{inside}}} is no variable that Compose knows")
    value = values.get(name[0])
    if not operator:
        return value or ""
    word = inside[operator.end() :]
    # With a colon an empty value counts as none.
    given = bool(value) if operator[0].startswith(":") else value is not None
    if operator[0].endswith("+"):
        return interpolate_text(word, values) if given else ""
    if given:
        return value or ""
    if operator[0].endswith("?"):
        raise MissingValueError(f"{name[0]} has no value: {interpolate_text(word, values)}")
    return interpolate_text(word, values)
