"""Locks between processes that the kernel frees when their holder dies, however it dies."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from types import TracebackType

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, *, wait: bool) -> bool:
        os.lseek(descriptor, 0, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
            else:
                return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock on a file. One holder among all processes; not for threads of one process."""

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: Path) -> None:
        """Open the file, making it if it is missing; nothing is locked yet."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _open_locks.add(self)

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the file that is open here, and was not removed since."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    @property
    def was_removed(self) -> bool:
        """Whether the file that is open here has no name any more: its directory was removed. Costs under 1 µs."""
        return os.fstat(self._descriptor).st_nlink == 0

    def acquire(self) -> None:
        """Wait until the lock is ours. Waiters are served about in their order."""
        _lock(self._descriptor, wait=True)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        return _lock(self._descriptor, wait=False)

    def release(self) -> None:
        """Free the lock."""
        _unlock(self._descriptor)

    def close(self) -> None:
        """Close the file, which frees the lock too."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileLock:
        """Acquire."""
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release."""
        self.release()


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_after_fork() -> None:
    # A forked child shares the locks of its parent: one that the parent holds when it is killed would stay locked for
    # as long as the child lives. Closing the child's copy takes nothing from the parent.
    for lock in list(_open_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


def lock_descriptor(descriptor: int) -> bool:
    """Try to lock an open file by its descriptor; it is freed when the descriptor is closed."""
    return _lock(descriptor, wait=False)
