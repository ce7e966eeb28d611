"""One sync for many commits, shared by threads and processes.

A commit is visible in SQLite's write-ahead log before it is on the disk. To acknowledge it, a sync of that log must
*start* after the commit. Two shared counters number the syncs: ``started`` and ``finished``. A commit reads ``started``
as ``s``; it is durable once sync ``s + 1`` has finished. Whoever holds the sync lock finds its sync done already, or
makes one for everybody who committed before.

Power fails before the sync: the commit may be gone; nobody was told that it happened. The log is a sequence, so a
commit never survives without all those before it. A holder is killed between the counters: the next one starts from
``started``, so no number is reused. A sync that fails is never repeated: the kernel may have dropped the pages, and a
second sync would lie.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from millstream.primitives.telemetry import reach
from millstream.store.locks import FileLock
from millstream.store.signals import Signals

_STARTED = 16
_FINISHED = 24


class Sync(Protocol):
    """Something that makes what was written before durable."""

    def ticket(self) -> int:
        """Return the number to wait for, taken after the write."""

    def ensure(self, ticket: int) -> None:
        """Return when a sync that started after ``ticket`` was taken has finished."""


class SharedSync:
    """Syncs of one file by all processes of a store. Thread-safe."""

    def __init__(self, signals: Signals, lock: FileLock, sync: Callable[[], None]) -> None:
        """Share the counters in ``signals``; ``sync`` does the real work and stops the store when it fails."""
        self._signals = signals
        self._lock = lock
        self._threads = threading.Lock()
        self._sync = sync

    def begin_anew(self) -> None:
        """Forget the numbers of the past. Only for a process that is alone: nobody waits for one of them.

        They lie in a file that nothing protects; a damaged number would acknowledge commits that were never synced.
        """
        self._signals.set_counter(_STARTED, 0)
        self._signals.set_counter(_FINISHED, 0)

    def ticket(self) -> int:
        """Return the number to wait for."""
        return self._signals.counter(_STARTED) + 1

    def ensure(self, ticket: int) -> None:
        """Return when a sync that started after the ticket has finished."""
        if self._signals.counter(_FINISHED) >= ticket:
            return
        with self._threads:
            if self._signals.counter(_FINISHED) >= ticket:
                return
            with self._lock:
                if self._signals.counter(_FINISHED) >= ticket:
                    return
                number = self._signals.counter(_STARTED) + 1
                self._signals.set_counter(_STARTED, number)
                reach("commit.sync_started")
                self._sync()
                self._signals.set_counter(_FINISHED, number)


class LocalSync:
    """Syncs of one file by the threads of one process."""

    def __init__(self, sync: Callable[[], None]) -> None:
        """Share one sync among threads."""
        self._lock = threading.Lock()
        self._started = 0
        self._finished = 0
        self._sync = sync

    def ticket(self) -> int:
        """Return the number to wait for."""
        return self._started + 1

    def ensure(self, ticket: int) -> None:
        """Return when a sync that started after the ticket has finished."""
        if self._finished >= ticket:
            return
        with self._lock:
            if self._finished >= ticket:
                return
            self._started += 1
            self._sync()
            self._finished = self._started
