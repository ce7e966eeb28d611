"""What a worker holds between claim and commit, shared by the thread that runs tasks and the one that keeps the lease.

claimed ──> pending ──take──> running ──finish──> finished ──drain──> committed
               └───────────────── give_up ──> handed back
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from millstream.primitives.clock import Clock
from millstream.tasks.message import Claimed, Completion


class Hand:
    """The tasks in one worker's hands. Thread-safe; no lock is held while a task runs or the store is written."""

    def __init__(self, clock: Clock) -> None:
        """Start with empty hands."""
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: deque[Claimed] = deque()
        self._finished: list[Completion] = []
        self._running: Claimed | None = None
        self._started_s = 0.0

    def fill(self, claimed: Sequence[Claimed]) -> None:
        """Take over what was claimed."""
        with self._lock:
            self._pending.extend(claimed)

    def take(self) -> Claimed | None:
        """Return the next task to run, now the running one; None when there is none left."""
        with self._lock:
            self._running = self._pending.popleft() if self._pending else None
            self._started_s = self._clock.monotonic_s()
            return self._running

    def finish(self, completion: Completion) -> None:
        """Keep the end of the running task for the next commit."""
        with self._lock:
            self._finished.append(completion)
            self._running = None

    def drain(self) -> list[Completion]:
        """Return what is finished; it is the caller's to commit."""
        with self._lock:
            finished, self._finished = self._finished, []
            return finished

    def give_up(self) -> list[Claimed]:
        """Return what was not started; it is the caller's to hand back."""
        with self._lock:
            pending = list(self._pending)
            self._pending.clear()
            return pending

    def is_stuck(self, longer_than_us: int) -> bool:
        """Tell whether a task runs for longer than that while others wait behind it, or for their commit."""
        with self._lock:
            if self._running is None or not (self._pending or self._finished):
                return False
            run_us = round((self._clock.monotonic_s() - self._started_s) * 1_000_000)
            return run_us >= longer_than_us

    @property
    def running(self) -> Claimed | None:
        """The task that runs now, if one does."""
        with self._lock:
            return self._running

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is held."""
        with self._lock:
            return not (self._pending or self._finished or self._running)
