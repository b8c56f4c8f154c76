"""Whatever the API answers: no crash, no success without a usable URL, no wait without an end."""

from __future__ import annotations

import math
import time
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from musicapi_provider.api.models import MusicTask
from musicapi_provider.api.urls import is_usable_url
from musicapi_provider.api.verdict import (
    SHAPE_PATIENCE,
    URL_PATIENCE,
    State,
    Verdict,
    conclude,
    judge,
    judge_error,
)
from musicapi_provider.exceptions import (
    MusicAPIDeadlineError,
    MusicAPIError,
    MusicAPINotSentError,
    MusicAPIThrottledError,
    MusicAPITransientError,
    MusicAPIUnknownTaskError,
)
from musicapi_provider.waiting import wait as waiting
from musicapi_provider.waiting.wait import Wait
from tests.samples import SUCCEEDED

#: The same examples in every run.
fuzzed = settings(derandomize=True, deadline=None, max_examples=150)

WORDS = st.sampled_from(
    [
        *("succeeded", "failed", "running", "pending", "streaming", "joining", "error", "not_ready", ""),
        *("timeout", "api_error", "forbidden", "weird", "complete", "SUCCEEDED"),
    ]
)
URLS = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(
        [
            *(
                "https://cdn1.suno.ai/a.mp3",
                "http://cdn1.suno.ai/a.mp3",
                "https://audiopipe.suno.ai/?item_id=a",
            ),
            *(
                "https://",
                "https:///a.mp3",
                "//cdn1.suno.ai/a.mp3",
                "https://[::1",
                "ftp://a/b",
                "javascript:1",
            ),
        ]
    ),
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS, URLS),
    st.sampled_from([math.inf, -1, 0, 102, 200, 202, 404, 500, 10**400]),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            *("data", "code", "type", "message", "error", "state", "audio_url", "clip_id", "duration"),
            *(
                "extended",
                "full",
                "title",
                "tags",
                "mv",
                "joining",
                "is_joining",
                "created_at",
                "error_message",
            ),
        ]
    ),
    st.text(max_size=6),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
#: Clips that are nearly right: one of them must not carry the others over the line.
CLIPS = st.builds(
    lambda changes, dropped: {k: v for k, v in {**SUCCEEDED, **changes}.items() if k not in dropped},
    st.fixed_dictionaries(
        {}, optional={"state": WORDS | SCALARS, "audio_url": URLS | JSON, "duration": JSON}
    ),
    st.sets(st.sampled_from(sorted(SUCCEEDED)), max_size=2),
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "code": st.sampled_from([102, 200, 202, 404, 500]) | JSON,
        "data": st.lists(CLIPS | JSON, max_size=3) | JSON,
        "type": WORDS | JSON,
        "message": JSON,
        "error": JSON,
    },
)
BODIES = ENVELOPES | JSON
STATUSES = st.sampled_from([200, 200, 202, 504]) | st.integers(100, 599)
ANSWERS = st.builds(lambda status, body: MusicTask.from_answer("some-id", status, body), STATUSES, BODIES)
ERRORS = st.builds(
    lambda error_class, text, after: error_class(text, retry_after=after),
    st.sampled_from(
        [MusicAPITransientError, MusicAPIThrottledError, MusicAPINotSentError, MusicAPIUnknownTaskError]
    ),
    st.text(min_size=1, max_size=8),
    st.none() | st.floats(0, 1e9),
)


def check(verdict: Verdict, *, allow_http: bool) -> None:
    """Check what holds of every verdict."""
    assert all(is_usable_url(track.audio_url, allow_http=allow_http) for track in verdict.tracks)
    assert all(track.state == "succeeded" for track in verdict.tracks)
    assert (verdict.state in (State.SUCCEEDED, State.PARTIAL)) == bool(verdict.tracks)
    assert (verdict.state in (State.FAILED, State.PARTIAL)) == bool(verdict.failures) == bool(verdict.error)
    assert verdict.patience in (None, URL_PATIENCE, SHAPE_PATIENCE)
    assert not (verdict.is_final and verdict.patience)
    assert verdict.reason


@fuzzed
@given(task=ANSWERS, allow_http=st.booleans())
def test_any_answer_has_a_sound_verdict(task: MusicTask, allow_http: bool) -> None:
    """Success only with a usable URL of a succeeded clip; a confirmed doubt is decided."""
    verdict = judge(task, allow_http=allow_http)
    confirmed = judge(task, allow_http=allow_http, confirmed=True)

    check(verdict, allow_http=allow_http)
    check(confirmed, allow_http=allow_http)
    assert confirmed.patience is None
    assert confirmed.is_final == (verdict.is_final or verdict.patience is not None)
    if verdict.is_final:
        assert (confirmed.state, confirmed.failures) == (verdict.state, verdict.failures)


@fuzzed
@given(error=ERRORS, in_grace=st.booleans())
def test_any_tolerated_error_has_a_sound_verdict(error: MusicAPIError, in_grace: bool) -> None:
    """Only an unknown id after its grace is an end."""
    verdict = judge_error(error, in_grace=in_grace)

    check(verdict, allow_http=False)
    assert verdict.is_final == (isinstance(error, MusicAPIUnknownTaskError) and not in_grace)


@fuzzed
@given(
    answers=st.lists(st.tuples(ANSWERS | ERRORS, st.floats(0.1, 30)), min_size=1, max_size=12),
    strict=st.booleans(),
)
def test_any_wait_ends_by_a_verdict_or_at_its_deadline(
    answers: list[tuple[MusicTask | MusicAPIError, float]], strict: bool
) -> None:
    """No series of answers makes it crash, end early with nothing, or outlive its time."""
    now = time.time()
    wait = Wait(["some-id"], 90.0, now)
    result: Any = None
    for answer, pause in answers:
        now += pause
        with patch.object(waiting.time, "time", return_value=now):
            wait.learn("some-id", answer, allow_http=False)
            late, pending = wait.seconds_left <= 0, bool(wait.pending)
            delay = wait.delay(None)
            wait.log_progress(delay)
            try:
                result = wait.tracks(fail_on_partial=strict)
            except MusicAPIDeadlineError:
                assert late
                assert pending
                return
            except MusicAPIError:
                assert not pending
                return
        assert 0 <= delay <= 90
        if result is not None:
            assert result
            assert all(is_usable_url(track.audio_url, allow_http=False) for track in result)
            return
        assert pending
        assert not late


@fuzzed
@given(tasks=st.lists(ANSWERS, min_size=1, max_size=4), strict=st.booleans())
def test_any_conclusion_is_tracks_or_an_error(tasks: list[MusicTask], strict: bool) -> None:
    """Of all final verdicts; never nothing at all."""
    judged = {str(index): judge(task, confirmed=True) for index, task in enumerate(tasks)}
    final = {id_: verdict for id_, verdict in judged.items() if verdict.is_final}
    try:
        tracks, failures = conclude(final, fail_on_partial=strict)
    except MusicAPIError:
        assert any(verdict.failures for verdict in final.values())
        return

    assert tracks or not final
    assert not (strict and failures)
