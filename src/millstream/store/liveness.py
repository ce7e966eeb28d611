"""Which processes are alive, told by the kernel at once: each holds a lock on a file of its own.

``kill -9`` frees the lock in the same moment, so nothing waits for a lease to end. A process that is stopped
(``SIGSTOP``) or hangs keeps its lock: leases with a time cover that case.
"""

from __future__ import annotations

import os
from pathlib import Path

from millstream.store.locks import FileLock, lock_descriptor


class Liveness:
    """This process's sign of life, and the question whether others still have theirs."""

    def __init__(self, run: Path, process: str) -> None:
        """Take the lock on ``run/live/<process>``."""
        self._folder = run / "live"
        self._folder.mkdir(exist_ok=True)
        self.process = process
        self._lock = self._take(self._folder / process)

    @staticmethod
    def _take(path: Path) -> FileLock:
        while True:
            lock = FileLock(path)
            lock.acquire()
            if lock.is_in_place():
                return lock
            # Somebody swept it away between its making and its locking.
            lock.close()

    def is_alive(self, process: str) -> bool:
        """Return whether that process holds its lock."""
        if process == self.process:
            return True
        try:
            descriptor = os.open(self._folder / process, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not lock_descriptor(descriptor)
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove the signs of processes that are dead."""
        for path in self._folder.iterdir():
            if path.name == self.process:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                # Removed while it is locked here, so that a process that is just beginning notices, see ``_take``.
                if lock_descriptor(descriptor):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def close(self, *, forked: bool = False) -> None:
        """Give the lock back; in a forked child only its copy of the descriptor is closed."""
        self._lock.close()
        if not forked:
            self._lock.path.unlink(missing_ok=True)
