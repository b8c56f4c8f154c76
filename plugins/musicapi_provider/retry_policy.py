"""
A ready retry policy for tasks of your own around the hook.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import RetryDecision, RetryPolicy

from musicapi_provider.api.settings import MAX_RETRY_AFTER
from musicapi_provider.exceptions import MusicAPIError

if TYPE_CHECKING:
    from airflow.sdk import Context


class MusicAPIRetryPolicy(RetryPolicy):
    """
    Retry what a retry can cure; for tasks of your own around :class:`MusicAPIHook`.

    ::

        @task(retries=3, retry_policy=MusicAPIRetryPolicy())
        def lyrics(): return MusicAPIHook().request("POST", "/sonic/lyrics", json={"description": "rain"})

    The errors decide as they do for this provider's operators: a passing failure is retried, after the
    server's ``Retry-After`` where it gave one; a bad body, key or content, missing credits, a lost answer
    that may have been paid, and whatever fails after this hook has bought something fail at once. Other
    exceptions follow the task's ``retries``.

    .. warning::
        Airflow asks the policy about exceptions only, and yours follow ``retries``. A task that dies, or
        fails for a reason of its own, after ``hook.create`` is retried and buys again: buy with
        :class:`MusicAPICreateOperator`, which keeps a record.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Return the decision; Airflow logs its reason."""
        if not isinstance(exception, MusicAPIError):
            return RetryDecision.default()
        if not exception.retryable:
            return RetryDecision.fail(reason=str(exception))
        after = exception.retry_after
        delay = None if after is None else timedelta(seconds=min(after, MAX_RETRY_AFTER))
        return RetryDecision.retry(delay=delay, reason=str(exception))
