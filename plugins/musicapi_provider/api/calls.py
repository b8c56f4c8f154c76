"""
What each call of the API sends, how its answer is read, and whether it may be sent again. Pure.

Both clients make these calls; they differ only in how they send them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from musicapi_provider.api.answers import Answer, Interpreter
from musicapi_provider.api.settings import may_create_again, may_read_again
from musicapi_provider.api.urls import task_path

if TYPE_CHECKING:
    from musicapi_provider.api.models import Credits, MusicTask

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[_Result]):
    """
    One call of the API.

    :param result: Turns the answer into the result, or raises what the answer means.
    :param is_write: It may cost credits, so it is not sent again once it may have left.
    """

    method: str
    path: str
    result: Callable[[Interpreter, Answer], _Result]
    is_write: bool = False
    json: object = None
    params: Mapping[str, object] | None = None

    @property
    def may_repeat(self) -> Callable[[BaseException], bool]:
        """The rule by which it may be sent again after an error."""
        return may_create_again if self.is_write else may_read_again


def create(body: Mapping[str, object]) -> Call[str]:
    """Submit a music task; this buys."""
    return Call("POST", "/sonic/create", Interpreter.music_task_id, is_write=True, json=dict(body))


def get_task(music_task_id: str) -> Call[MusicTask]:
    """Poll a music task."""
    return Call(
        "GET", task_path(music_task_id), lambda reader, answer: reader.music_task(music_task_id, answer)
    )


def get_credits() -> Call[Credits]:
    """Read the balance."""
    return Call("GET", "/get-credits", Interpreter.credits)


def other(method: str, path: str, json: object, params: Mapping[str, object] | None) -> Call[Any]:
    """Call any other endpoint; all but a GET may cost credits."""
    is_write = method.upper() != "GET"
    result = Interpreter.written if is_write else Interpreter.read
    return Call(method.upper(), path, result, is_write, json, params)
