"""What one worker runs right now: a small mapped file that outlives its process.

A start is not worth a commit of its own: that would cost ten times a no-op task. So a worker writes the number of the
task into a map before each attempt, and a zero behind it: two stores to memory. After ``kill -9`` the page cache still
holds them; whoever recovers the worker's tasks reads there which one ran, and charges that one alone.

``run/running/<lease>``, native integers of 64 bits:

    0   magic
    1   the lease that it belongs to
    2   seq of the task that runs; 0 none, -1 several at once

It is a hint beside the catalog, never a second truth: only tasks that the catalog says are held under the lease are
charged. It is not synced. After a power loss it may be missing, or tell of another moment; a file that is missing,
short or of another lease says nothing, and the rule for workers without a mark holds.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Final, Self

NOTHING: Final = 0
SEVERAL: Final = -1
_MAGIC = int.from_bytes(b"MSRUNS01", "little")
_SLOTS = 16
_BYTES = 8 * _SLOTS
_LEASE = 1
_SEQ = 2


class RunMark:
    """The mark of one lease. One thread begins and ends; any process reads."""

    def __init__(self, path: Path, shared: mmap.mmap) -> None:
        """Use ``make`` or ``attach``."""
        self.path = path
        self._map = shared
        self._slots = memoryview(shared).cast("q")

    @classmethod
    def make(cls, folder: Path, lease: int) -> Self:
        """Make the mark of a lease that was just taken; nothing runs. Raises OSError."""
        folder.mkdir(exist_ok=True)
        path = folder / str(lease)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            # Written, not only made long: a store into a hole of a full disk would be a SIGBUS.
            os.write(descriptor, bytes(_BYTES))
            mark = cls(path, mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)
        mark._slots[_LEASE] = lease
        mark._slots[0] = _MAGIC
        return mark

    @classmethod
    def attach(cls, path: Path) -> Self | None:
        """Return the mark at ``path``; None when there is none, or it is no mark."""
        try:
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return None
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                return None
            mark = cls(path, mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)
        if mark._slots[0] != _MAGIC or path.name != str(mark._slots[_LEASE]):
            mark.close()
            return None
        return mark

    def begin(self, seq: int) -> None:
        """Say that the task runs from now on; ``SEVERAL`` when it is not one."""
        self._slots[_SEQ] = seq

    def end(self) -> None:
        """Say that nothing runs."""
        self._slots[_SEQ] = NOTHING

    @property
    def seq(self) -> int:
        """The task that runs, or ran when the process died; ``NOTHING`` or ``SEVERAL`` otherwise."""
        return self._slots[_SEQ]

    def close(self, *, remove: bool = False) -> None:
        """Unmap it; with ``remove`` the lease is given up, and the file goes too."""
        self._slots.release()
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)


class RunMarks:
    """The marks of all workers of one store. Any thread."""

    def __init__(self, run: Path) -> None:
        """``run`` is the folder of the processes that are alive."""
        self._folder = run / "running"

    def make(self, lease: int) -> RunMark:
        """Make the mark of a lease. Raises OSError."""
        return RunMark.make(self._folder, lease)

    def running(self, lease: int) -> int | None:
        """Return which task runs under a lease, ``NOTHING``, or None when that is not known."""
        mark = RunMark.attach(self._folder / str(lease))
        if mark is None:
            return None
        seq = mark.seq
        mark.close()
        return None if seq == SEVERAL else seq

    def remove(self, lease: int) -> None:
        """Remove the mark of a lease that was given up."""
        (self._folder / str(lease)).unlink(missing_ok=True)

    def leases(self) -> set[int]:
        """Return of which leases there are marks."""
        with contextlib.suppress(FileNotFoundError):
            return {int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()}
        return set()
