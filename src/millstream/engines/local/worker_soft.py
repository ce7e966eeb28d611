"""A coroutine under a soft time limit: SoftTimeLimitExceeded is raised at the ``await`` where it waits.

A task of asyncio can only be cancelled. So the cancellation is caught between the event loop and the coroutine, and
handed on as what it means. It is not counted as a cancellation then, so ``asyncio.timeout`` and task groups inside the
task see an ordinary error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from millstream.primitives.errors import SoftTimeLimitExceeded


async def under_soft_limit(coroutine: Coroutine[Any, Any, Any], limit_us: int) -> Any:  # noqa: ANN401 - what the user's coroutine returns
    """Return what the coroutine returns. Raises what it raises; a cancellation from elsewhere stays one.

    Code that does not ``await`` is not interrupted.
    """
    return await _Limited(coroutine, limit_us)


class _Limited:
    """Drives the coroutine by hand, once."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], limit_us: int) -> None:
        self._coroutine = coroutine
        self._limit_s = limit_us / 1_000_000
        self._is_over = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None, "an event loop runs it"
        timer = asyncio.get_running_loop().call_later(self._limit_s, self._end, task)
        error: BaseException | None = None
        try:
            while True:
                try:
                    waits_for = (
                        self._coroutine.send(None)
                        if error is None
                        else self._coroutine.throw(error)
                    )
                except StopIteration as returned:
                    return returned.value
                error = None
                try:
                    yield waits_for
                except asyncio.CancelledError as cancelled:
                    error = self._meaning_of(cancelled, task)
                except BaseException as raised:  # noqa: BLE001 - handed on to the coroutine
                    error = raised
        finally:
            timer.cancel()
            self._coroutine.close()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._is_over = True
        task.cancel()

    def _meaning_of(
        self, cancelled: asyncio.CancelledError, task: asyncio.Task[Any]
    ) -> BaseException:
        if not self._is_over:
            return cancelled
        self._is_over = False
        task.uncancel()
        return SoftTimeLimitExceeded()
