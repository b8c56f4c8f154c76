"""The retry policy: what Airflow's retries may do for tasks around the hook."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import RetryAction

from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.exceptions import MusicAPIError, MusicAPIThrottledError, MusicAPITransientError
from musicapi_provider.hooks.musicapi import MusicAPIHook
from musicapi_provider.retry_policy import MusicAPIRetryPolicy
from tests.conftest import QUICK
from tests.unit.conftest import ERROR_CLASSES, RETRYABLE

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

BODY = {"task_type": "create_music", "mv": "sonic-v5", "custom_mode": True, "prompt": "La la"}


@pytest.mark.parametrize("error_class", ERROR_CLASSES, ids=lambda cls: cls.__name__)
def test_retry_policy_decides_as_the_operators_do(error_class: type[MusicAPIError]) -> None:
    """One rule for the operators and for tasks of one's own; the reason goes to the log."""
    error = error_class("what happened")
    decision = MusicAPIRetryPolicy().evaluate(error, 1, 3)

    assert decision.action is (RetryAction.RETRY if error_class in RETRYABLE else RetryAction.FAIL)
    assert decision.reason == str(error)


@pytest.mark.parametrize(("asked", "delay"), [(None, None), (7.0, 7.0), (1e9, MAX_RETRY_AFTER)])
def test_retry_policy_waits_as_the_server_asks(asked: float | None, delay: float | None) -> None:
    """Within bounds; without a word of the server the task's own delay holds."""
    decision = MusicAPIRetryPolicy().evaluate(MusicAPIThrottledError("slow down", retry_after=asked), 1, 3)

    assert decision.retry_delay == (None if delay is None else timedelta(seconds=delay))


def test_retry_policy_leaves_other_errors_to_the_task() -> None:
    """They are none of ours."""
    assert MusicAPIRetryPolicy().evaluate(ZeroDivisionError(), 1, 3).action is RetryAction.DEFAULT


@pytest.mark.usefixtures("connection")
def test_no_retry_after_the_hook_has_bought(simulator: SimulatorServer) -> None:
    """A read that fails is curable, but the retry would run the create again."""
    hook = MusicAPIHook(retries=QUICK)
    simulator.state.scenario("read-500", times=None)
    with pytest.raises(MusicAPITransientError) as before:
        hook.get_credits()
    music_task_id = hook.create(BODY)
    with pytest.raises(MusicAPITransientError) as after:
        hook.get_task(music_task_id)

    decisions = [MusicAPIRetryPolicy().evaluate(caught.value, 1, 3).action for caught in (before, after)]
    assert decisions == [RetryAction.RETRY, RetryAction.FAIL]
    assert music_task_id in after.value.next_step
