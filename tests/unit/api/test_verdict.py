"""What an answer means: every documented shape, and no success without a track to download."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter

from musicapi_provider import exceptions
from musicapi_provider.api.client import MusicAPIClient
from musicapi_provider.api.models import MusicTask
from musicapi_provider.api.settings import ONCE, ClientSettings
from musicapi_provider.api.urls import is_usable_url
from musicapi_provider.api.verdict import (
    FAILURE_TYPES,
    SHAPE_PATIENCE,
    URL_PATIENCE,
    State,
    Verdict,
    conclude,
    judge,
    judge_error,
)
from musicapi_provider.exceptions import (
    MusicAPIError,
    MusicAPIModerationError,
    MusicAPIPartialResultError,
    MusicAPITaskFailedError,
    MusicAPIUnknownTaskError,
    Spent,
)
from tests import samples
from tests.samples import FAILED, FAILED_TOO, RUNNING_TOO, SUCCEEDED, SUCCEEDED_TOO, TASK_ID

URL = str(SUCCEEDED["audio_url"])


def judged(body: Any, status: int = 200, **options: bool) -> Verdict:
    """Parse and judge an answer."""
    return judge(MusicTask.from_answer(TASK_ID, status, body), **options)


def clips(*items: Any) -> dict[str, Any]:
    """Return a task answer with these clips."""
    return {"code": 200, "data": list(items), "message": "success"}


# -- the documented samples ---------------------------------------------------------------------------------


class CannedAnswer(BaseAdapter):
    """A transport that answers every request with one documented sample, whatever its status."""

    def __init__(self, sample: samples.Sample) -> None:
        super().__init__()
        self.sample = sample

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Answer."""
        answer = requests.Response()
        answer.status_code = self.sample.status
        body = self.sample.body
        content = (body if isinstance(body, str) else requests.compat.json.dumps(body)).encode()
        answer.raw = urllib3.HTTPResponse(io.BytesIO(content), preload_content=False)
        answer.url, answer.request = str(request.url), request
        return answer

    def close(self) -> None:
        """Nothing to close."""


def ask(sample: samples.Sample) -> MusicTask:
    """Let the real client read a sample."""
    session = requests.Session()
    session.mount("https://", CannedAnswer(sample))
    settings = ClientSettings(api_key="key", base_url="https://samples.invalid/api/v1")
    return MusicAPIClient(settings, session=session, retries=ONCE).get_task(TASK_ID)


def look_at(sample: samples.Sample, *, confirmed: bool = False, in_grace: bool = False) -> Verdict:
    """Judge a sample as waiting does."""
    try:
        return judge(ask(sample), confirmed=confirmed)
    except MusicAPIError as error:
        return judge_error(error, in_grace=in_grace)


#: What each meaning of the fact sheet makes of: a first look, and a look that has been confirmed.
MEANINGS: dict[str, tuple[State, State, type[MusicAPIError] | None]] = {
    "running": (State.RUNNING, State.RUNNING, None),
    "succeeded": (State.SUCCEEDED, State.SUCCEEDED, None),
    "partial": (State.PARTIAL, State.PARTIAL, MusicAPIPartialResultError),
    "failed": (State.FAILED, State.FAILED, MusicAPITaskFailedError),
    "moderated": (State.FAILED, State.FAILED, MusicAPIModerationError),
    "succeeded without audio": (State.RUNNING, State.FAILED, MusicAPITaskFailedError),
    "unknown answer": (State.RUNNING, State.FAILED, MusicAPITaskFailedError),
    "unknown task": (State.FAILED, State.FAILED, MusicAPIUnknownTaskError),
    "transient": (State.RUNNING, State.RUNNING, None),
    "throttled": (State.RUNNING, State.RUNNING, None),
}
#: Meanings that concern the account or the call, not the music task.
RAISED: dict[str, type[MusicAPIError]] = {
    "missing task id": exceptions.MusicAPIInvalidRequestError,
    "retired": exceptions.MusicAPIRetiredError,
}


def of_meaning(meanings: Any) -> list[Any]:
    """Return the documented task answers that have one of these meanings."""
    return [pytest.param(s, id=s.name) for s in samples.TASK_ANSWERS if s.meaning in meanings]


def test_every_meaning_of_the_samples_is_tested() -> None:
    """A new meaning in the samples needs a line here."""
    assert {s.meaning for s in samples.TASK_ANSWERS} == set(MEANINGS) | set(RAISED)


@pytest.mark.parametrize("sample", of_meaning(MEANINGS))
def test_documented_answer_means_what_the_facts_say(sample: samples.Sample) -> None:
    """Each sample's meaning comes out, at the first look and when confirmed."""
    first, final, error = MEANINGS[sample.meaning]
    confirmed = look_at(sample, confirmed=True)

    assert first is look_at(sample).state
    assert final is confirmed.state
    assert error is (confirmed.error and type(confirmed.error))
    assert (first is not final) is (look_at(sample).patience is not None)


@pytest.mark.parametrize("sample", of_meaning(RAISED))
def test_documented_answer_about_the_call_is_raised(sample: samples.Sample) -> None:
    """What no waiting can cure is not taken for a state of the music task."""
    with pytest.raises(RAISED[sample.meaning]):
        look_at(sample)


@pytest.mark.parametrize("sample", of_meaning(["unknown task"]))
def test_unknown_task_in_its_grace_is_still_running(sample: samples.Sample) -> None:
    """Right after submitting, not found proves nothing."""
    verdict = look_at(sample, in_grace=True)

    assert State.RUNNING is verdict.state
    assert verdict.patience is None


# -- clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", [None, "", "pending", "running", "streaming", "polishing", "SUCCEEDED", "complete"]
)
def test_clip_of_any_other_state_is_running_despite_its_url(state: str | None) -> None:
    """A URL alone makes no clip final, and neither does a state that is nearly right."""
    verdict = judged(clips(SUCCEEDED, SUCCEEDED_TOO | {"state": state}), confirmed=True)

    assert State.RUNNING is verdict.state
    assert verdict.tracks == ()
    assert not verdict.is_final


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param([{"extended": SUCCEEDED, "full": None}], State.RUNNING, id="full-is-null"),
        pytest.param([{"replaced": SUCCEEDED}], State.RUNNING, id="full-is-absent"),
        pytest.param([{"extended": SUCCEEDED, "full": RUNNING_TOO}], State.RUNNING, id="full-is-running"),
        pytest.param([{"extended": SUCCEEDED, "full": FAILED_TOO}], State.PARTIAL, id="full-failed"),
        pytest.param([{"extended": FAILED, "full": None}], State.FAILED, id="part-failed"),
        pytest.param([{"extended": SUCCEEDED, "full": SUCCEEDED_TOO}], State.SUCCEEDED, id="joined"),
        pytest.param([SUCCEEDED, {"extended": SUCCEEDED_TOO, "full": None}], State.RUNNING, id="one-of-two"),
    ],
)
def test_joining_pair_is_final_when_its_full_clip_is(items: list[Any], expected: State) -> None:
    """An auto-concat result waits for the joined clip, unless its part has failed."""
    assert expected is judged(clips(*items), confirmed=True).state


def test_joining_is_said_in_the_reason() -> None:
    """Whoever reads the log learns what is awaited."""
    verdict = judged(clips({"extended": SUCCEEDED, "full": None}, RUNNING_TOO))

    assert verdict.reason == "2 of 2 clips are joining, running"


def test_success_has_all_tracks_and_nothing_else() -> None:
    """All clips succeeded: all are tracks, nothing failed."""
    verdict = judged(clips(SUCCEEDED, SUCCEEDED_TOO))

    assert [track.clip_id for track in verdict.tracks] == [samples.FIRST, samples.SECOND]
    assert (verdict.failures, verdict.error, verdict.is_final) == ((), None, True)


def test_partial_has_the_good_tracks_and_names_the_bad_ones() -> None:
    """One of two: the track, the reason for the other, and an error for those who want both."""
    verdict = judged(clips(SUCCEEDED, FAILED_TOO))

    assert [track.clip_id for track in verdict.tracks] == [samples.FIRST]
    assert (f"clip {samples.SECOND} failed: Generation failed",) == verdict.failures
    assert isinstance(verdict.error, MusicAPIPartialResultError)
    assert verdict.error.music_task_id == TASK_ID


def test_failure_of_all_clips_names_each() -> None:
    """Every failed clip is named with the server's words, or with their absence."""
    silent = {name: value for name, value in FAILED_TOO.items() if name != "error_message"}
    verdict = judged(clips(FAILED, silent))

    assert verdict.failures == (
        f"clip {samples.FIRST} failed: Generation failed",
        f"clip {samples.SECOND} failed: no reason given",
    )
    assert isinstance(verdict.error, MusicAPITaskFailedError)
    assert not isinstance(verdict.error, MusicAPIPartialResultError)
    assert verdict.error.spent is Spent.REFUNDED


def test_succeeded_clip_without_url_counts_as_failed_once_confirmed() -> None:
    """A clip that never gets its URL does not hide its good sibling."""
    answer = clips(SUCCEEDED, SUCCEEDED_TOO | {"audio_url": None})

    assert judged(answer).patience == URL_PATIENCE
    assert State.PARTIAL is judged(answer, confirmed=True).state
    assert judged(answer, confirmed=True).failures == (
        f"clip {samples.SECOND} succeeded without a usable audio URL (None)",
    )


def test_running_sibling_comes_before_any_doubt() -> None:
    """While one clip runs, a succeeded one without URL may still get it."""
    verdict = judged(clips(SUCCEEDED | {"audio_url": None}, RUNNING_TOO), confirmed=True)

    assert State.RUNNING is verdict.state
    assert verdict.patience is None


# -- URLs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "https_only", "with_http"),
    [
        pytest.param(URL, True, True, id="https"),
        pytest.param("HTTPS://CDN1.suno.ai/a.mp3", True, True, id="capitals"),
        pytest.param("http://127.0.0.1:8000/media/a.mp3", False, True, id="http"),
        pytest.param("https://audiopipe.suno.ai/?item_id=1", False, False, id="stream"),
        pytest.param("https://AudioPipe.Suno.ai:443/?item_id=1", False, False, id="stream-in-disguise"),
        pytest.param("http://audiopipe.suno.ai/?item_id=1", False, False, id="http-stream"),
        pytest.param("ftp://cdn1.suno.ai/a.mp3", False, False, id="ftp"),
        pytest.param("file:///etc/passwd", False, False, id="file"),
        pytest.param("//cdn1.suno.ai/a.mp3", False, False, id="no-scheme"),
        pytest.param("https:///a.mp3", False, False, id="no-host"),
        pytest.param("https://:443/a.mp3", False, False, id="port-alone"),
        pytest.param("https:// /a.mp3", False, False, id="blank-host"),
        pytest.param("https://cdn1 suno.ai/a.mp3", False, False, id="host-with-a-blank"),
        pytest.param("https://[1/a.mp3", False, False, id="broken-address"),
        pytest.param("a.mp3", False, False, id="name"),
        pytest.param("", False, False, id="empty"),
        pytest.param(None, False, False, id="none"),
    ],
)
def test_usable_url_is_https_with_a_host_that_does_not_stream(
    url: str | None, https_only: bool, with_http: bool
) -> None:
    """Only a URL of finished audio is usable; http only where it is allowed."""
    assert https_only is is_usable_url(url, allow_http=False)
    assert with_http is is_usable_url(url, allow_http=True)


@pytest.mark.parametrize(
    ("url", "allow_http", "expected"),
    [
        pytest.param(f"https://audiopipe.suno.ai/?item_id={samples.FIRST}", False, State.FAILED, id="stream"),
        pytest.param("http://cdn1.suno.ai/a.mp3", False, State.FAILED, id="http"),
        pytest.param("http://cdn1.suno.ai/a.mp3", True, State.SUCCEEDED, id="http-allowed"),
    ],
)
def test_succeeded_clip_needs_a_usable_url(url: str, allow_http: bool, expected: State) -> None:
    """The word succeeded is not enough, even when said twice."""
    verdict = judged(clips(SUCCEEDED | {"audio_url": url}), allow_http=allow_http, confirmed=True)

    assert expected is verdict.state


# -- answers without clips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", FAILURE_TYPES)
def test_failure_type_ends_the_music_task_with_a_refund(word: str) -> None:
    """The four failure words are final at once, name the task and keep the server's words."""
    verdict = judged({"type": word, "error": "no luck"})

    assert State.FAILED is verdict.state
    assert (f"music task {TASK_ID} ended with {word!r}: no luck",) == verdict.failures
    assert verdict.error is not None
    assert FAILURE_TYPES[word] is type(verdict.error)
    assert (
        verdict.error.music_task_id,
        verdict.error.server_text,
        verdict.error.spent,
    ) == (TASK_ID, "no luck", Spent.REFUNDED)


def test_failure_without_words_is_still_a_failure() -> None:
    """The type alone decides."""
    assert (f"music task {TASK_ID} ended with 'failed'",) == judged({"type": "failed"}).failures


@pytest.mark.parametrize(
    ("status", "body", "first", "confirmed"),
    [
        pytest.param(202, {"type": "failed"}, State.RUNNING, State.RUNNING, id="202-whatever-the-body"),
        pytest.param(202, clips(SUCCEEDED), State.RUNNING, State.RUNNING, id="202-with-clips"),
        pytest.param(504, {"error": "refunded"}, State.FAILED, State.FAILED, id="504-that-came-through"),
        pytest.param(200, {"type": "not_ready"}, State.RUNNING, State.RUNNING, id="not-ready"),
        pytest.param(200, {}, State.RUNNING, State.RUNNING, id="empty-object"),
        pytest.param(200, None, State.RUNNING, State.RUNNING, id="null"),
        pytest.param(200, [], State.RUNNING, State.RUNNING, id="list"),
        pytest.param(200, {"code": 202, "message": "queued"}, State.RUNNING, State.RUNNING, id="code-202"),
        pytest.param(200, {"code": 200, "message": "success"}, State.RUNNING, State.RUNNING, id="no-data"),
        pytest.param(200, {"code": 500}, State.RUNNING, State.RUNNING, id="code-without-words"),
        pytest.param(200, {"type": "weird"}, State.RUNNING, State.RUNNING, id="type-without-words"),
        pytest.param(
            200, {"type": "weird", "error": "x", "data": ["y"]}, State.RUNNING, State.RUNNING, id="has-data"
        ),
        pytest.param(200, {"code": 500, "message": "broken"}, State.RUNNING, State.FAILED, id="odd-code"),
        pytest.param(200, {"type": "weird", "error": "x"}, State.RUNNING, State.FAILED, id="odd-type"),
        pytest.param(200, {"type": "failed", "data": []}, State.FAILED, State.FAILED, id="failed-empty-data"),
    ],
)
def test_answer_without_clips(status: int, body: Any, first: State, confirmed: State) -> None:
    """Without clips the type decides, then the code; odd answers with words fail when seen again."""
    verdict = judged(body, status)

    assert first is verdict.state
    assert confirmed is judged(body, status, confirmed=True).state
    assert (first is not confirmed) is (verdict.patience is not None)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param({"type": "weird", "error": "x"}, "the unknown type 'weird'", id="type"),
        pytest.param({"code": 500, "message": "x"}, "the unknown code 500", id="code"),
    ],
)
def test_odd_answer_is_named(body: Any, name: str) -> None:
    """Both the doubt and the failure say what was odd."""
    assert name in judged(body).reason
    assert name in str(judged(body, confirmed=True).error)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"type": "weird", "error": "Something new happened"}, id="unknown-type"),
        pytest.param({"code": 500, "message": "broken"}, id="unknown-code"),
        pytest.param(clips(SUCCEEDED | {"audio_url": None}), id="succeeded-without-url"),
        pytest.param(clips(SUCCEEDED | {"audio_url": None}, FAILED_TOO), id="one-without-url-one-failed"),
    ],
)
def test_failure_after_a_doubt_does_not_claim_a_refund(body: Any) -> None:
    """Refunds are documented for the known failures only; anything else leaves the credits unknown."""
    verdict = judged(body, confirmed=True)

    assert verdict.error is not None
    assert verdict.error.spent is Spent.UNKNOWN


@pytest.mark.parametrize(
    ("body", "patience"),
    [
        pytest.param(clips(SUCCEEDED | {"audio_url": None}), URL_PATIENCE, id="url-that-can-come-late"),
        pytest.param({"type": "weird", "error": "x"}, SHAPE_PATIENCE, id="unknown-type"),
        pytest.param({"code": 500, "message": "x"}, SHAPE_PATIENCE, id="unknown-code"),
        pytest.param({"type": "not_ready"}, None, id="no-doubt"),
    ],
)
def test_each_doubt_has_its_patience(body: Any, patience: float | None) -> None:
    """A late URL gets its minute and a half, an unknown shape a second look; then it is decided."""
    assert patience == judged(body).patience
    assert judged(body, confirmed=True).patience is None
    assert SHAPE_PATIENCE < URL_PATIENCE


def test_failure_after_a_doubt_says_how_to_buy_again() -> None:
    """Nothing proves a refund, so buying again is the reader's decision."""
    error = judged({"type": "weird", "error": "x"}, confirmed=True).error

    assert error is not None
    assert "force_new=True" in error.next_step


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(exceptions.MusicAPITransientError("x"), id="transient"),
        pytest.param(exceptions.MusicAPIThrottledError("x", retry_after=7.0), id="throttled"),
        pytest.param(exceptions.MusicAPINotSentError("x"), id="not-sent"),
    ],
)
@pytest.mark.parametrize("in_grace", [True, False])
def test_passing_error_means_running_and_keeps_the_pace(error: MusicAPIError, in_grace: bool) -> None:
    """What passes is no verdict, but the server's wish to wait is kept."""
    verdict = judge_error(error, in_grace=in_grace)

    assert State.RUNNING is verdict.state
    assert (error.message, error.retry_after) == (verdict.reason, verdict.retry_after)


@pytest.mark.parametrize(
    "error_class",
    [
        exceptions.MusicAPIAuthError,
        exceptions.MusicAPICreditsError,
        exceptions.MusicAPIModerationError,
        exceptions.MusicAPIRetiredError,
        exceptions.MusicAPIConfigurationError,
        exceptions.MusicAPIInvalidRequestError,
    ],
)
@pytest.mark.parametrize("in_grace", [True, False])
def test_error_about_the_account_is_raised(error_class: type[MusicAPIError], in_grace: bool) -> None:
    """A refused key says nothing about the music task."""
    error = error_class("x")

    with pytest.raises(error_class) as raised:
        judge_error(error, in_grace=in_grace)
    assert error is raised.value


def test_unknown_task_after_its_grace_has_failed() -> None:
    """Then not found is the answer."""
    error = MusicAPIUnknownTaskError("gone")
    verdict = judge_error(error, in_grace=False)

    assert (State.FAILED, ("gone",), error) == (verdict.state, verdict.failures, verdict.error)


# -- conclusions --------------------------------------------------------------------------------------------

GOOD = judged(clips(SUCCEEDED, SUCCEEDED_TOO))
PARTIAL = judged(clips(SUCCEEDED, FAILED_TOO))
BAD = judged(clips(FAILED, FAILED_TOO))
MODERATED = judged({"type": "forbidden", "error": "no"})
UNKNOWN = judge_error(MusicAPIUnknownTaskError("gone"), in_grace=False)


@pytest.mark.parametrize(
    ("verdicts", "tracks", "failures"),
    [
        pytest.param([GOOD], 2, 0, id="one-good"),
        pytest.param([PARTIAL], 1, 1, id="one-partial"),
        pytest.param([GOOD, GOOD], 4, 0, id="two-good"),
        pytest.param([GOOD, BAD], 2, 2, id="good-and-bad"),
        pytest.param([UNKNOWN, PARTIAL], 1, 2, id="unknown-and-partial"),
        pytest.param([], 0, 0, id="nothing-awaited"),
    ],
)
def test_tolerant_conclusion_takes_what_is_there(verdicts: list[Verdict], tracks: int, failures: int) -> None:
    """Without fail_on_partial any track is a success, and every failure is told."""
    found = conclude({f"t{n}": verdict for n, verdict in enumerate(verdicts)}, fail_on_partial=False)

    assert (tracks, failures) == (len(found[0]), len(found[1]))


@pytest.mark.parametrize("fail_on_partial", [True, False])
@pytest.mark.parametrize(
    ("verdicts", "error_class"),
    [
        pytest.param([BAD], MusicAPITaskFailedError, id="one-bad"),
        pytest.param([MODERATED], MusicAPIModerationError, id="one-moderated"),
        pytest.param([UNKNOWN], MusicAPIUnknownTaskError, id="one-unknown"),
        pytest.param([BAD, UNKNOWN], MusicAPITaskFailedError, id="two-bad"),
    ],
)
def test_conclusion_without_any_track_is_an_error(
    verdicts: list[Verdict], error_class: type[MusicAPIError], fail_on_partial: bool
) -> None:
    """Nothing to download fails in both modes; a single task's own error is kept."""
    with pytest.raises(error_class) as raised:
        conclude({f"t{n}": v for n, v in enumerate(verdicts)}, fail_on_partial=fail_on_partial)
    assert error_class is type(raised.value)
    assert all(text in str(raised.value) for verdict in verdicts[1:] for text in verdict.failures)


@pytest.mark.parametrize(
    "verdicts",
    [
        pytest.param([PARTIAL], id="one-partial"),
        pytest.param([GOOD, BAD], id="good-and-bad"),
        pytest.param([GOOD, PARTIAL], id="good-and-partial"),
        pytest.param([GOOD, UNKNOWN], id="good-and-unknown"),
    ],
)
def test_strict_conclusion_refuses_a_partial_result(verdicts: list[Verdict]) -> None:
    """With fail_on_partial one failure among good tracks is an error that names it."""
    with pytest.raises(MusicAPIPartialResultError) as raised:
        conclude({f"t{n}": verdict for n, verdict in enumerate(verdicts)}, fail_on_partial=True)
    assert all(text in str(raised.value) for verdict in verdicts for text in verdict.failures)


def test_strict_conclusion_takes_a_full_success() -> None:
    """With fail_on_partial two good tasks are a success."""
    tracks, failures = conclude({"a": GOOD, "b": GOOD}, fail_on_partial=True)

    assert (len(tracks), failures) == (4, [])


def test_conclusion_about_unknown_tasks_does_not_claim_a_refund() -> None:
    """Several ids that the API does not know are no reason to speak of refunded credits."""
    with pytest.raises(MusicAPITaskFailedError) as raised:
        conclude({"a": UNKNOWN, "b": UNKNOWN}, fail_on_partial=False)
    assert raised.value.spent is not Spent.REFUNDED


def test_conclusion_about_failed_tasks_says_refunded_only_if_all_are() -> None:
    """Two refunded failures are refunded; one whose refund is unknown makes the sum unknown."""
    odd = judged({"type": "weird", "error": "x"}, confirmed=True)
    spent = []
    for other in (MODERATED, odd):
        with pytest.raises(MusicAPITaskFailedError) as raised:
            conclude({"a": BAD, "b": other}, fail_on_partial=False)
        spent.append(raised.value.spent)

    assert spent == [Spent.REFUNDED, Spent.UNKNOWN]


# -- robustness ---------------------------------------------------------------------------------------------

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 102, 200, 10**400, 1.5, math.nan, math.inf),
    *("", " ", "x", "succeeded", "failed", "not_ready", "timeout", "nan", "\ud800", "\x00"),
    *("https://", "https://[", "https:// /", "http://x", "//x", "javascript:alert(1)", "9" * 5000),
    *([], [[]], [None], ["x"], {}, {"": None}, {"state": "succeeded"}, {"clip_id": "x"}, {"full": {}}),
]


def nasty_answers() -> Iterator[Any]:
    """Put every nasty value in every place of an answer."""
    for value in NASTY:
        yield value
        yield [value]
        yield from ({name: value} for name in ("data", "type", "code", "error", "message", "detail"))
        yield {"type": value, "code": value, "error": value, "data": value}
        yield {"error": {"error": value}, "type": "weird", "code": 500}
        yield clips(value)
        yield clips(value, value)
        yield clips({"extended": value, "full": value})
        yield clips({"replaced": {"state": "succeeded", "audio_url": value}, "full": value})
        yield clips(dict.fromkeys(SUCCEEDED, value))
        yield clips({"state": "succeeded", "audio_url": value})
        yield clips({"state": value, "audio_url": value}, {"state": "failed", "error_message": value})


@pytest.mark.parametrize("status", [200, 201, 202, 504])
@pytest.mark.parametrize("confirmed", [False, True])
def test_no_answer_raises_or_succeeds_without_a_track(status: int, confirmed: bool) -> None:
    """Whatever the server sends: a verdict, and success only with audio to download."""
    for answer in nasty_answers():
        verdict = judged(answer, status, confirmed=confirmed)

        assert bool(verdict.tracks) is (verdict.state in {State.SUCCEEDED, State.PARTIAL}), answer
        assert all(is_usable_url(track.audio_url, allow_http=False) for track in verdict.tracks), answer
        assert bool(verdict.error) is (verdict.state in {State.FAILED, State.PARTIAL}), answer
        assert verdict.patience is None or (verdict.state is State.RUNNING and not confirmed), answer


@pytest.mark.parametrize("place", SUCCEEDED)
def test_success_survives_rubbish_in_any_field_that_does_not_decide(place: str) -> None:
    """Only state and URL decide; any other field may hold anything."""
    expected = {State.SUCCEEDED} if place not in {"state", "audio_url"} else set(State) - {State.SUCCEEDED}
    rubbish = [value for value in NASTY if value != "succeeded"]

    assert expected >= {judged(clips(SUCCEEDED | {place: value})).state for value in rubbish}
