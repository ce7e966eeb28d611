"""``concurrent.futures.ProcessPoolExecutor``: what it costs to hand a function to another process and keep nothing.

No queue here outlives the process, so it promises nothing (``none``). Many are sent one by one: ``map`` with chunks
would make one task of many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, Amounts

_FUNCTIONS: dict[str, Callable[..., float]] = {f.__name__: f for f in (work.no_op, work.spin)}
_TIMEOUT_S = 60.0


class ProcessPool:
    """A pool of processes, which is its own client."""

    name = "process pool (none)"
    amounts = Amounts(singles=20_000, bulk=20_000, round_trips=1_000)

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._pool: ProcessPoolExecutor | None = None
        self._futures: list[Future[Any]] = []
        self._done = 0

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Nothing to start."""
        del directory
        yield

    def connect(self) -> ProcessPool:
        """Return itself."""
        return self

    @contextmanager
    def working(self, workers: int, log: Path) -> Iterator[list[int]]:
        """Make the pool; it starts its processes with the first tasks."""
        del log
        with ProcessPoolExecutor(workers) as self._pool:
            yield []

    def send(self, kind: str) -> Future[Any]:
        """Submit one."""
        assert self._pool is not None, "tasks are sent while workers run"
        name, arguments = KINDS[kind]
        future = self._pool.submit(_FUNCTIONS[name], *arguments)
        self._futures.append(future)
        return future

    def send_many(self, kind: str, count: int) -> None:
        """Submit one by one."""
        for _ in range(count):
            self.send(kind)

    def wait(self, handle: Future[Any]) -> None:
        """Wait for the result."""
        handle.result(_TIMEOUT_S)

    def is_done(self, count: int) -> bool:
        """Tell whether the last ones have ended; they end nearly in order."""
        del count
        return self._futures[-1].done() and all(future.done() for future in self._futures)

    def results(self) -> int:
        """Count results, and let go of them."""
        finished, _ = wait(self._futures, return_when=FIRST_EXCEPTION)
        self._done += sum(1 for future in finished if future.exception() is None)
        self._futures.clear()
        return self._done

    def close(self) -> None:
        """Nothing is left."""
