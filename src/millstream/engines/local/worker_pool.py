"""Where a worker that holds several tasks at once runs them: in threads, or on one event loop.

``start`` returns at once; ``done`` is called later, on some thread, with how the attempt ended.

    thread   every task in a thread of its own, an ``async def`` on a loop of that thread
    async    ``async def`` tasks beside each other on one loop; plain functions in threads, so that they stop nobody
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from millstream.engines.local.worker_execute import Executor
from millstream.tasks.message import Completion, Work

Done = Callable[[Sequence[Completion]], None]


class Pool(Protocol):
    """Runs tasks beside each other. ``start`` and ``close`` belong to one thread, ``cancel`` to any."""

    def start(self, work: Work, done: Done) -> None:
        """Begin a task or a batch; there is always room, since the worker holds no more than the pool has places."""
        ...

    def cancel(self, work: Work) -> None:
        """Ask an attempt to end now. Only a coroutine can be asked; others go on."""
        ...

    def close(self) -> None:
        """End the threads. Nothing runs any more when it is called."""
        ...


class ThreadPool:
    """``size`` threads."""

    def __init__(self, executor: Executor, size: int) -> None:
        """Start threads when they are needed."""
        self._executor = executor
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="millstream-task")

    def start(self, work: Work, done: Done) -> None:
        """Run it in a thread."""
        self._threads.submit(lambda: done(self._executor.run(work)))

    def cancel(self, work: Work) -> None:
        """Do nothing: a thread cannot be ended from outside."""

    def close(self) -> None:
        """Wait for all threads."""
        self._threads.shutdown(wait=True)


class AsyncPool:
    """One event loop in a thread of its own, and threads for plain functions."""

    def __init__(self, executor: Executor, size: int) -> None:
        """Start the loop."""
        self._executor = executor
        self._threads = ThreadPool(executor, size)
        self._running: dict[int, asyncio.Task[None] | None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="millstream-loop", daemon=True
        )
        self._thread.start()

    def start(self, work: Work, done: Done) -> None:
        """Run a coroutine on the loop, a plain function in a thread."""
        if not self._executor.is_coroutine(work):
            self._threads.start(work, done)
            return
        asyncio.run_coroutine_threadsafe(self._run(work, done), self._loop)

    async def _run(self, work: Work, done: Done) -> None:
        # The key is the attempt, not the task: after an eviction the same task may run here a second time.
        key = id(work)
        self._running[key] = asyncio.current_task()
        completions = await self._executor.run_in_loop(work)
        del self._running[key]
        done(completions)

    def cancel(self, work: Work) -> None:
        """Raise CancelledError in the coroutine, where it waits."""
        running = self._running.get(id(work))
        if running is not None:
            self._loop.call_soon_threadsafe(running.cancel)

    def close(self) -> None:
        """Wait for the threads, close what was opened on the loop, then end it; no task runs any more."""
        self._threads.close()
        closing = self._executor.dependencies.aclose()
        try:
            asyncio.run_coroutine_threadsafe(closing, self._loop).result()
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
