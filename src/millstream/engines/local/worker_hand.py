"""What a worker holds between claim and commit, shared by the thread that runs tasks and the one that keeps the lease.

claimed ──> pending ──take──> running ──finish──> finished ──drain──> committed
               └───────────────── give_up ──> handed back
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from millstream.primitives.clock import Clock
from millstream.tasks.batch import works_of
from millstream.tasks.message import Claimed, Completion, Work


class Hand:
    """The tasks in one worker's hands. Thread-safe; no lock is held while a task runs or the store is written."""

    def __init__(self, clock: Clock) -> None:
        """Start with empty hands."""
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: deque[Work] = deque()
        self._finished: list[Completion] = []
        self._running: Work = ()
        self._started_s = 0.0
        self.committing = threading.Lock()
        """Held by whoever drains, until what it took is committed: a lease that ends meanwhile would return that."""

    def fill(self, claimed: Sequence[Claimed]) -> None:
        """Take over what was claimed."""
        with self._lock:
            self._pending.extend(works_of(claimed))

    def take(self) -> Work:
        """Return the next task to run, or the tasks of a batch, now the running ones; empty when none is left."""
        with self._lock:
            self._running = self._pending.popleft() if self._pending else ()
            self._started_s = self._clock.monotonic_s()
            return self._running

    def finish(self, completions: Sequence[Completion]) -> None:
        """Keep the end of what runs for the next commit."""
        with self._lock:
            self._finished += completions
            self._running = ()

    def drain(self) -> list[Completion]:
        """Return what is finished; it is the caller's to commit."""
        with self._lock:
            finished, self._finished = self._finished, []
            return finished

    def put_back(self, finished: Sequence[Completion]) -> None:
        """Keep what was drained and could not be committed."""
        with self._lock:
            self._finished[:0] = finished

    def give_up(self) -> list[Claimed]:
        """Return what was not started; it is the caller's to hand back."""
        with self._lock:
            pending = [task for work in self._pending for task in work]
            self._pending.clear()
            return pending

    def is_stuck(self, longer_than_us: int) -> bool:
        """Tell whether a task runs for longer than that while others wait behind it, or for their commit."""
        with self._lock:
            if not self._running or not (self._pending or self._finished):
                return False
            run_us = round((self._clock.monotonic_s() - self._started_s) * 1_000_000)
            return run_us >= longer_than_us

    @property
    def running(self) -> Work:
        """What runs now: a task, the tasks of a batch, or nothing."""
        with self._lock:
            return self._running

    @property
    def has_finished(self) -> bool:
        """Tell whether something waits for its commit."""
        with self._lock:
            return bool(self._finished)

    @property
    def pending_count(self) -> int:
        """How many tasks are held and not started."""
        with self._lock:
            return sum(len(work) for work in self._pending)

    @property
    def running_since(self) -> tuple[Work, int]:
        """What runs now, and since when: UTC microseconds."""
        with self._lock:
            run_us = round((self._clock.monotonic_s() - self._started_s) * 1_000_000)
            return self._running, self._clock.now_us() - run_us

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is held."""
        with self._lock:
            return not (self._pending or self._finished or self._running)
