"""
Turn HTTP answers, and their absence, into results and errors.

The only place that does so; both clients share it. Pure.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TypedDict

import requests

from musicapi_provider.api.models import Credits, MusicTask, error_text, music_task_id_of
from musicapi_provider.api.network import BearerAuth, headers_of
from musicapi_provider.api.settings import DEFAULT_BASE_URL, ClientSettings
from musicapi_provider.exceptions import (
    MusicAPIAmbiguousSubmitError,
    MusicAPIAuthError,
    MusicAPIConfigurationError,
    MusicAPICreditsError,
    MusicAPIError,
    MusicAPIInvalidRequestError,
    MusicAPIModerationError,
    MusicAPINotSentError,
    MusicAPIRetiredError,
    MusicAPIThrottledError,
    MusicAPITransientError,
    MusicAPIUnknownTaskError,
    Spent,
)

#: Response headers that may carry a request id, in the SDK's order (facts 1).
REQUEST_ID_HEADERS = ("x-request-id", "x-vercel-id", "cf-ray")
#: Characters of the server's words that an error keeps: content messages embed what they refuse (facts 6.2).
MAX_SERVER_TEXT = 1000
#: Words in a 403 that speak of the account; anything else in a 403 is about content (facts 6.2).
ACCOUNT_WORDS = ("remaining credits", "active subscription")
#: Words in a 400 from the task endpoint that mean an unknown id (facts 3.1).
NOT_FOUND_WORDS = ("not found", "not exist", "no such")
#: Word in a 504 that makes it the music task's end instead of a gateway's (facts 3.1).
REFUND_WORD = "refund"
#: Redirects that say "not here, nothing was done"; a 303 says that something was.
REDIRECTS = frozenset({301, 302, 307, 308})

#: 4xx in which a server or a proxy gave up on a request that may have been handled.
GAVE_UP = frozenset({408, 499})

#: How zlib unpacks a content encoding; for ``deflate`` there are two readings.
_WINDOWS = {
    **dict.fromkeys(("gzip", "x-gzip"), (16 + zlib.MAX_WBITS,)),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
_HEADER = re.compile(r"[\x20-\x7e\t]*")
_PASSWORD_IN_URL = re.compile(r"(//)[^/@\s'\"]+@")


class _Facts(TypedDict):
    """What an error takes from an answer."""

    status_code: int
    request_id: str | None
    retry_after: float | None
    server_text: str | None


@dataclass(frozen=True)
class Answer:
    """A complete HTTP answer, whichever library received it; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def request_id(self) -> str | None:
        """The server's id of this request."""
        return next((self.headers[name] for name in REQUEST_ID_HEADERS if name in self.headers), None)

    @property
    def is_json(self) -> bool:
        """Whether the body is complete JSON."""
        return self._parsed[0]

    @property
    def body(self) -> object:
        """The parsed body, or its text when it is no JSON."""
        return self._parsed[1]

    @cached_property
    def _parsed(self) -> tuple[bool, object]:
        try:
            return True, json.loads(self.text)
        except (ValueError, RecursionError):
            return False, self.text

    @property
    def is_html(self) -> bool:
        """Whether this is a web page: another server, or a gateway in between."""
        label = self.headers.get("content-type", "").lower()
        return not self.is_json and ("html" in label or self.text.lstrip()[:1] == "<")

    @property
    def words(self) -> str:
        """The server's words, in lower case."""
        return (error_text(self.body) or "").lower()


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """
    Read a ``Retry-After`` header: seconds or an HTTP date (facts 9).

    :return: Seconds from now, 0 or more; ``None`` when absent or unreadable.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


class Interpreter:
    """
    Read the answers of one connection.

    Errors of creates say whether credits were spent; errors of reads say that reading has no effect.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings

    def prepared(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> requests.PreparedRequest:
        """
        Make the request that either client sends.

        :raises MusicAPIInvalidRequestError: it cannot be made; nothing was sent.
        """
        try:
            request = requests.Request(
                method,
                self.settings.url(path),
                headers=headers_of(self.settings),
                json=json,
                params=params,
                auth=BearerAuth(self.settings.api_key),
            ).prepare()
        except (ValueError, TypeError, requests.RequestException) as error:
            raise MusicAPIInvalidRequestError(
                f"The request cannot be made ({self.clean(_cause(error))}); nothing was sent."
            ) from error
        for name, value in request.headers.items():
            if not _HEADER.fullmatch(str(value)):
                raise MusicAPIInvalidRequestError(
                    f"Header {name!r} has characters that cannot be sent; nothing was sent."
                )
        return request

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> Answer:
        """
        Make an answer of what came over the wire, without the key should the server echo it.

        Text is UTF-8 (or UTF-16, UTF-32) whatever its label says, as JSON is; of a header that comes twice
        the first counts.

        :raises zlib.error: the content is not compressed as its header says.
        """
        clean: dict[str, str] = {}
        for name, value in headers:
            text = value.decode("utf-8", "replace").strip()
            clean.setdefault(name.decode("utf-8", "replace").lower(), self.clean(text))
        content = _unpacked(content, clean.get("content-encoding", ""))
        text = content.decode(json.detect_encoding(content), "replace")
        return Answer(status, clean, self.clean(text))

    # -- reads ---------------------------------------------------------------------------------------------

    def music_task(self, music_task_id: str, answer: Answer) -> MusicTask:
        """Read the answer of the task endpoint (facts 3.1)."""
        with _reading(music_task_id):
            if self._is_unknown_task(answer):
                raise MusicAPIUnknownTaskError(
                    f"{self.settings.name} does not know music task {music_task_id!r}{self._odd(answer)}.",
                    **self._facts(answer),
                )
            if answer.status != 202 and not (answer.status == 504 and REFUND_WORD in answer.words):
                self._refuse_read(answer)
        return MusicTask.from_answer(music_task_id, answer.status, answer.body)

    def credits(self, answer: Answer) -> Credits:
        """Read the answer of ``GET /get-credits``."""
        if credits := Credits.from_answer(self.read(answer)):
            return credits
        raise MusicAPIConfigurationError(
            f"{self.settings.url('get-credits')} did not answer with a balance: is the base URL right?",
            **self._facts(answer),
        )

    def read(self, answer: Answer) -> object:
        """Return the JSON of any other read."""
        with _reading():
            self._refuse_read(answer)
        return answer.body

    # -- writes --------------------------------------------------------------------------------------------

    def music_task_id(self, answer: Answer) -> str:
        """Read the answer to a create. A 2xx without a usable id is an ambiguous submit (facts 2.4)."""
        self._refuse_write(answer)
        if music_task_id := music_task_id_of(answer.body):
            return music_task_id
        raise MusicAPIAmbiguousSubmitError(
            f"The create was answered with HTTP {answer.status}, but without a task id{self._odd(answer)}.",
            **self._facts(answer),
        )

    def written(self, answer: Answer) -> object:
        """Return the JSON of any other call that may cost credits."""
        self._refuse_write(answer)
        if answer.is_json:
            return answer.body
        raise MusicAPIAmbiguousSubmitError(
            f"The answer is no complete JSON{self._odd(answer)}: the request may have been booked.",
            **self._facts(answer),
        )

    # -- no answer -----------------------------------------------------------------------------------------

    def failure(self, error: BaseException, *, is_write: bool, certainly_not_sent: bool) -> MusicAPIError:
        """Judge a call that brought no answer; unless a write certainly never left, it may have been paid."""
        cause = self.clean(_cause(error))
        if certainly_not_sent:
            name = self.settings.name
            return MusicAPINotSentError(
                f"Cannot reach {self.settings.base_url}: {cause}.",
                spent=None if is_write else Spent.NO_EFFECT,
                next_step=f"check host, proxy, certificates and network of connection {name!r}.",
            )
        if is_write:
            return MusicAPIAmbiguousSubmitError(
                f"The request was sent to {self.settings.base_url}, but its answer was lost ({cause})."
            )
        return MusicAPITransientError(f"No answer from {self.settings.base_url} ({cause}).")

    # -- refusals ------------------------------------------------------------------------------------------

    def _is_unknown_task(self, answer: Answer) -> bool:
        body = answer.body
        return (
            answer.status == 404
            or (answer.status == 400 and any(word in answer.words for word in NOT_FOUND_WORDS))
            or (answer.status == 200 and isinstance(body, Mapping) and body.get("type") == "not_found")
        )

    def _refuse_write(self, answer: Answer) -> None:
        """Raise unless the answer is a 2xx."""
        if 200 <= answer.status < 300:
            return
        self._refuse_common(answer)
        if 400 <= answer.status < 500 and answer.status not in GAVE_UP:
            raise self._invalid(answer)
        raise MusicAPIAmbiguousSubmitError(
            f"The answer was HTTP {answer.status}{self._odd(answer)}: the request may have been booked.",
            **self._facts(answer),
        )

    def _refuse_read(self, answer: Answer) -> None:
        """Raise unless the answer is a 2xx with JSON."""
        self._refuse_common(answer)
        if answer.status >= 500 or answer.status == 408:
            raise MusicAPITransientError(f"The API answered HTTP {answer.status}.", **self._facts(answer))
        if answer.status >= 400:
            raise self._invalid(answer)
        if answer.is_html:
            raise MusicAPITransientError(
                f"{self.settings.base_url} answered with an HTML page instead of JSON.",
                next_step=f"check that the host of connection {self.settings.name!r} is the API's base URL, "
                f"such as {DEFAULT_BASE_URL}.",
                **self._facts(answer),
            )
        if not answer.is_json:
            raise MusicAPITransientError("The API's answer is no complete JSON.", **self._facts(answer))

    def _refuse_common(self, answer: Answer) -> None:
        """Raise for the statuses that mean the same on every endpoint (facts 6.2)."""
        facts = self._facts(answer)
        if answer.status == 401:
            raise MusicAPIAuthError(
                f"The API does not accept the key of connection {self.settings.name!r}.",
                next_step=f"put a valid API key into the password of connection {self.settings.name!r}.",
                **facts,
            )
        account = any(word in answer.words for word in ACCOUNT_WORDS)
        if answer.status == 402 or (answer.status == 403 and account):
            raise MusicAPICreditsError("The account cannot pay for this.", **facts)
        if answer.status == 403:
            raise MusicAPIModerationError("The API refuses the content.", **facts)
        if answer.status == 410:
            raise MusicAPIRetiredError("The API no longer offers this operation.", **facts)
        if answer.status == 429:
            raise MusicAPIThrottledError("The API asks to slow down (HTTP 429).", **facts)
        if answer.status in REDIRECTS:
            raise MusicAPIConfigurationError(
                f"{self.settings.base_url} redirects to {answer.headers.get('location')!r}.",
                next_step="put the final base URL into the connection's host; redirects are not followed.",
                **facts,
            )

    def _invalid(self, answer: Answer) -> MusicAPIError:
        if answer.status in (404, 405):
            return MusicAPIConfigurationError(
                f"{self.settings.base_url} has no such endpoint (HTTP {answer.status}){self._odd(answer)}.",
                next_step=f"check that the host of connection {self.settings.name!r} is the API's base URL.",
                **self._facts(answer),
            )
        hint = ""
        if "use_suno_cdn" in answer.text:  # may become mandatory (facts 2.2, 9)
            hint = " Pass use_suno_cdn=True or False: this API version wants it."
        return MusicAPIInvalidRequestError(
            f"The API refuses the request (HTTP {answer.status}).{hint}", **self._facts(answer)
        )

    # -- words ---------------------------------------------------------------------------------------------

    def clean(self, text: str) -> str:
        """Take the key, and passwords in URLs, out of a text that the server or a library wrote."""
        webhook = self.settings.webhook
        for secret in filter(None, (self.settings.api_key, *(webhook.secrets if webhook else ()))):
            text = text.replace(secret, "***")
        return _PASSWORD_IN_URL.sub(r"\1***@", text)

    def _facts(self, answer: Answer) -> _Facts:
        text = None if answer.is_html else error_text(answer.body) or answer.text.strip()
        return {
            "status_code": answer.status,
            "request_id": answer.request_id,
            "retry_after": parse_retry_after(answer.headers.get("retry-after")),
            "server_text": text[:MAX_SERVER_TEXT] if text else None,
        }

    def _odd(self, answer: Answer) -> str:
        if answer.status >= 500 or not answer.is_html:  # gateways answer 5xx with a page, too
            return ""
        return f" (an HTML page; is {self.settings.base_url} the API?)"


@contextmanager
def _reading(music_task_id: str | None = None) -> Iterator[None]:
    """Say in every error inside that reading has no effect on credits, and which music task was read."""
    try:
        yield
    except MusicAPIError as error:
        raise error.but(spent=Spent.NO_EFFECT, music_task_id=music_task_id) from error.__cause__


def _unpacked(content: bytes, encoding: str) -> bytes:
    """Undo ``gzip`` and ``deflate``, the only encodings that requests ask for."""
    for name in reversed(encoding.lower().split(",")):
        kinds = _WINDOWS.get(name.strip(), ())
        for window in kinds if content else ():
            try:
                content = zlib.decompress(content, window)
                break
            except zlib.error:
                if window == kinds[-1]:
                    raise
    return content


def _cause(error: BaseException) -> str:
    """Return the innermost reason: libraries wrap "connection refused" several times."""
    seen = error
    for _ in range(10):
        inner = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return f"{type(seen).__name__}: {seen}"
