"""
Run an event loop beside the thread that signals strike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress


def run_apart(work: Coroutine[object, None, None]) -> None:
    """
    Run a coroutine in a thread of its own; what a signal handler raises here meanwhile cancels it.

    Airflow's ``execution_timeout`` is such an exception, and an event loop in the main thread may swallow it:
    the handler strikes in whatever callback is running.
    """
    begun: Future[Callable[[], object]] = Future()

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run made one
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        await work

    with ThreadPoolExecutor(1, thread_name_prefix="musicapi-table") as thread:  # it waits at its end
        running = thread.submit(asyncio.run, main())
        try:
            running.result()
        except BaseException:
            if not running.done():
                with suppress(RuntimeError):  # it has ended meanwhile, and its loop with it
                    begun.result()()
            raise
