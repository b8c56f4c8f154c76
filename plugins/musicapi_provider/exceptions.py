"""
The error tree: what happened, what it cost, what to do next.

Two questions choose the branch: was it a purchase or a read, and can trying again cure it::

    MusicAPIError
    ├── MusicAPIConfigurationError      no connection, no key, unusable base URL; nothing was sent
    ├── MusicAPIInvalidRequestError     a body that the API refuses, found here or by a 400
    ├── MusicAPIPromptTableError        bad rows of a prompt table
    ├── MusicAPIAuthError               401
    ├── MusicAPICreditsError            402, or 403 with account text
    ├── MusicAPIModerationError         403 with content text, or ``type: forbidden`` on a poll
    ├── MusicAPIRetiredError            410
    ├── MusicAPIThrottledError          429                                           (retryable)
    ├── MusicAPINotSentError            refused, DNS, TLS: nothing left this machine  (retryable)
    ├── MusicAPIAmbiguousSubmitError    a create without an answer: perhaps paid
    ├── MusicAPITransientError          a read that failed for a passing reason       (retryable)
    ├── MusicAPIUnknownTaskError        404, or 400 with not-found text
    ├── MusicAPITaskFailedError         the music task ended without a usable track
    │   └── MusicAPIPartialResultError  some clips are there, some failed
    ├── MusicAPIDeadlineError           still running when the budget ended
    ├── MusicAPIStorageError            audio that is not what it should be           (retryable)
    ├── MusicAPIIncompleteTableError    too few rows of a table have tracks           (retryable or not)
    └── MusicAPITriggerEventError       an event outside the closed set

Classes follow ``musicapi-facts.md`` 6.4. None is an ``AirflowException``: ``control_flow.py`` alone turns
them into Airflow's control flow.
"""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import ClassVar, Self

#: What an error says stays as it was when the error was made.
_FACTS = frozenset(
    {
        *("message", "status_code", "request_id", "music_task_id", "server_text", "retry_after"),
        *("spent", "next_step", "retryable", "problems"),
    }
)


class Spent(StrEnum):
    """What an error says about credits."""

    NOT_SPENT = "not spent"
    SPENT = "spent"
    REFUNDED = "refunded by the API (check the balance if it matters)"
    UNKNOWN = "unknown"
    NO_EFFECT = "no effect: reading is free"


class MusicAPIError(Exception):
    """
    Root of every error of this provider.

    :param message: What happened, in one sentence.
    :param status_code: HTTP status of the answer, when one arrived.
    :param request_id: The server's id of the request, for its support (facts 1).
    :param music_task_id: The music task concerned, when known.
    :param server_text: The server's own words, without the API key.
    :param retry_after: Seconds that the server asked to wait.
    :param spent: What happened to the credits; default by class.
    :param next_step: What the reader should do; default by class.
    :param retryable: Whether the same call may succeed later without a human (decides Airflow retries);
        default by class.
    """

    default_retryable: ClassVar[bool] = False
    default_spent: ClassVar[Spent] = Spent.NOT_SPENT
    default_next_step: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        request_id: str | None = None,
        music_task_id: str | None = None,
        server_text: str | None = None,
        retry_after: float | None = None,
        spent: Spent | None = None,
        next_step: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.request_id = request_id
        self.music_task_id = music_task_id
        self.server_text = server_text
        self.retry_after = retry_after
        self.spent = spent or self.default_spent
        self.next_step = self.default_next_step if next_step is None else next_step
        self.retryable = self.default_retryable if retryable is None else retryable

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FACTS and name in vars(self):
            raise AttributeError(f"{name} of an error does not change; raise error.but({name}=...) instead.")
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, object] | None) -> None:
        vars(self).update(state or {})  # of a copy, or from a pickle
        if "__notes__" in vars(self):  # a copy's notes are its own
            self.__notes__ = list(self.__notes__)

    def but(self, **changes: object) -> Self:
        """
        Return this error with other facts: a new one, since errors do not change once raised.

        :param changes: Constructor arguments, such as ``spent`` or ``next_step``.
        """
        other = copy.copy(self)
        vars(other).update(changes)
        other.args = (other.message, *self.args[1:])
        return other

    def __str__(self) -> str:
        facts = [
            self.status_code and f"HTTP {self.status_code}",
            self.music_task_id and f"music task {self.music_task_id}",
            self.request_id and f"request id {self.request_id}",
        ]
        parts = [self.message]
        if self.server_text and self.server_text not in self.message:
            parts.append(f"The server said: {self.server_text!r}.")
        if known := ", ".join(fact for fact in facts if fact):
            parts.append(f"({known})")
        parts.append(f"Credits: {self.spent}.")
        if self.next_step:
            parts.append(f"Next: {self.next_step}")
        return " ".join(parts)


class MusicAPIConfigurationError(MusicAPIError):
    """The connection is missing or unusable; nothing was sent."""

    default_next_step = "correct the Airflow connection (Admin > Connections); its Test button costs nothing."


class MusicAPIInvalidRequestError(MusicAPIError):
    """The API refuses this body or this call; observed to cost nothing (facts 2.5)."""

    default_next_step = "correct the named fields and run the task again."


class MusicAPIPromptTableError(MusicAPIError):
    """
    One or more rows of a prompt table are unusable; nothing was bought.

    :param problems: One line per problem: ``file:line: column: what is wrong``.
    """

    default_next_step = "correct the table and run again, or pass skip_invalid=True to leave these rows out."

    def __init__(
        self,
        message: str,
        *,
        problems: tuple[str, ...] = (),
        next_step: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__("\n  ".join([message, *problems]), next_step=next_step, retryable=retryable)
        self.problems = problems


class MusicAPIAuthError(MusicAPIError):
    """The API does not accept the key (401)."""

    default_next_step = "put a valid API key into the password of the Airflow connection."


class MusicAPICreditsError(MusicAPIError):
    """The account cannot pay: too few credits, or no subscription (402, or 403 with account text)."""

    default_next_step = "top up the account, then clear the task."


class MusicAPIModerationError(MusicAPIError):
    """The API refuses the content: lyrics, artist names, producer tags (facts 2.5)."""

    default_next_step = "change the text that the server names; the same text will be refused again."


class MusicAPIRetiredError(MusicAPIError):
    """The operation no longer exists at the API (410)."""

    default_next_step = "use another task_type or endpoint."


class MusicAPIThrottledError(MusicAPIError):
    """Too many requests (429); not documented by the vendor, seen in its SDK (facts 6.2)."""

    default_retryable = True
    default_next_step = "let a later retry do it; one create per 3 s is the documented pace."


class MusicAPINotSentError(MusicAPIError):
    """The request certainly did not reach the server: refused connection, DNS, certificate."""

    default_retryable = True
    default_next_step = "check host, proxy and network of the connection."


class MusicAPIAmbiguousSubmitError(MusicAPIError):
    """A create whose answer was lost or is unreadable: it may have been paid (facts 5)."""

    default_spent = Spent.UNKNOWN
    default_next_step = "look into the account's history at the vendor before sending it again."


class MusicAPITransientError(MusicAPIError):
    """A read failed for a passing reason: time-out, dropped connection, 5xx, unreadable answer."""

    default_retryable = True
    default_spent = Spent.NO_EFFECT
    default_next_step = "let a later retry read it again; reading is free."


class MusicAPIUnknownTaskError(MusicAPIError):
    """The API does not know this music task (404, or 400 with not-found text; facts 3.1)."""

    default_spent = Spent.NO_EFFECT
    default_next_step = "check the id and that the connection uses the key that submitted it."


class MusicAPITaskFailedError(MusicAPIError):
    """The music task ended without a usable track."""

    default_spent = Spent.REFUNDED
    default_next_step = "clear the create task to buy again; providers fail often enough to plan for it."


class MusicAPIPartialResultError(MusicAPITaskFailedError):
    """Some clips succeeded and some failed, and ``fail_on_partial`` is on (facts 3.3: refund unknown)."""

    default_spent = Spent.UNKNOWN
    default_next_step = "set fail_on_partial=False to take what is there."


class MusicAPIDeadlineError(MusicAPIError):
    """The music task was still running when the time allowed for it ended; it may still finish."""

    default_spent = Spent.SPENT
    default_next_step = "clear the waiting task to go on waiting; nothing is bought by that."


class MusicAPIStorageError(MusicAPIError):
    """A track could not be stored: the media host's answer is not the audio that it should be."""

    default_retryable = True
    default_spent = Spent.SPENT
    default_next_step = "clear the store task: the track is paid for, downloading again is free."


class MusicAPIIncompleteTableError(MusicAPIError):
    """
    Fewer rows of a prompt table than wanted have their tracks; what is there is stored.

    Retryable when another try can cure it, such as by buying anew what failed and was refunded.
    """

    default_spent = Spent.SPENT
    default_next_step = (
        "read the manifest's column error; what is bought is collected by the next try or run."
    )


class MusicAPITriggerEventError(MusicAPIError):
    """The trigger sent an event outside the closed set; nothing may pass silently."""

    default_spent = Spent.NO_EFFECT
    default_next_step = "clear the task: it polls the music task again, nothing is bought by that."
