"""What one worker runs right now: a small mapped file that outlives its process.

A start is not worth a commit of its own: that would cost ten times a no-op task. So a worker writes the number of the
task into a map before each attempt, and a zero behind it: two stores to memory. After ``kill -9`` the page cache still
holds them; whoever recovers the worker's tasks reads there which one ran, and charges that one alone.

``run/running/<lease>``, native integers of 64 bits:

    0   magic
    1   the lease that it belongs to
    2   seq of the task that runs; 0 none, -1 several at once
    3   when it must have ended, monotonic microseconds; 0 no limit
    4   bytes that its process may take; 0 no limit
    5   its hard time limit, microseconds
    6   when it started, UTC microseconds
    7   the delay of its next attempt if its time is over, microseconds; -1 there is none
    8   likewise if its process takes too much memory
    9   seq of the task for whose sake the supervisor kills the process; 0 none
    10  why: 1 time, 2 memory
    11  how many bytes were seen then
    12  signs of life, counted
    13  the length of the lease, microseconds; 0 when its worker has retired
    14  1: there are limits to keep, so look often

Slots 3 to 8 are written before slot 2 by whoever begins an attempt under limits, 9 to 11 by the supervisor that kills.
It is a hint beside the catalog, never a second truth: only tasks that the catalog says are held under the lease are
charged. It is not synced. After a power loss it may be missing, or tell of another moment; a file that is missing,
short or of another lease says nothing, and the rule for workers without a mark holds.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

NOTHING: Final = 0
SEVERAL: Final = -1
_MAGIC = int.from_bytes(b"MSRUNS01", "little")
_SLOTS = 16
_BYTES = 8 * _SLOTS
_LEASE = 1
_SEQ = 2
_DEADLINE = 3
_MEMORY = 4
_HARD = 5
_STARTED = 6
_AFTER_TIME = 7
_AFTER_MEMORY = 8
_CONDEMNED = 9
_CAUSE = 10
_SEEN = 11
_BEATS = 12
_LEASE_US = 13
_LIMITS = 14
_NEVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The limits of the attempt that runs, and the delay of the next if it goes over one; None for no next."""

    deadline_us: int
    memory_bytes: int
    hard_us: int
    started_us: int
    after_time_us: int | None
    after_memory_us: int | None


@dataclass(frozen=True, slots=True)
class Condemned:
    """The attempt for whose sake a process was killed; ``seq`` may be ``SEVERAL``, those of a batch.

    ``cause`` is 1 for time, 2 for memory.
    """

    seq: int
    cause: int
    seen_bytes: int
    bound: Bound


class RunMark:
    """The mark of one lease. One thread begins and ends; any process reads."""

    def __init__(self, path: Path, shared: mmap.mmap) -> None:
        """Use ``make`` or ``attach``."""
        self.path = path
        self._map = shared
        self._slots = memoryview(shared).cast("q")

    @classmethod
    def make(cls, folder: Path, lease: int, lease_us: int) -> Self:
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
        mark._slots[_LEASE_US] = lease_us
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

    def bind(self, bound: Bound) -> None:
        """Say which limits the attempt has that begins now. Call it before ``begin``."""
        slots = self._slots
        slots[_HARD], slots[_STARTED] = bound.hard_us, bound.started_us
        slots[_AFTER_TIME] = _NEVER if bound.after_time_us is None else bound.after_time_us
        slots[_AFTER_MEMORY] = _NEVER if bound.after_memory_us is None else bound.after_memory_us
        slots[_MEMORY], slots[_DEADLINE] = bound.memory_bytes, bound.deadline_us
        slots[_LIMITS] = 1

    def unbind(self) -> None:
        """Say that what runs has no limits any more."""
        self._slots[_DEADLINE] = self._slots[_MEMORY] = 0

    def expect_limits(self) -> None:
        """Let the supervisor look often from the start, not from the first attempt under limits on."""
        self._slots[_LIMITS] = 1

    @property
    def has_limits(self) -> bool:
        """Whether the supervisor should look often."""
        return bool(self._slots[_LIMITS])

    @property
    def bound(self) -> Bound:
        """The limits of what runs; zeros for none."""
        slots = self._slots
        after_time_us, after_memory_us = slots[_AFTER_TIME], slots[_AFTER_MEMORY]
        return Bound(
            deadline_us=slots[_DEADLINE],
            memory_bytes=slots[_MEMORY],
            hard_us=slots[_HARD],
            started_us=slots[_STARTED],
            after_time_us=None if after_time_us == _NEVER else after_time_us,
            after_memory_us=None if after_memory_us == _NEVER else after_memory_us,
        )

    def condemn(self, seq: int, cause: int, seen_bytes: int) -> bool:
        """Say for whose sake the process is killed next; False, and nothing is said, when it runs another by now."""
        slots = self._slots
        slots[_CAUSE], slots[_SEEN] = cause, seen_bytes
        slots[_CONDEMNED] = seq
        if slots[_SEQ] == seq:
            return True
        slots[_CONDEMNED] = NOTHING
        return False

    @property
    def condemned(self) -> Condemned | None:
        """For whose sake the process was killed; None when for nobody's. It is never taken back: a kill follows."""
        slots = self._slots
        seq = slots[_CONDEMNED]
        return None if seq == NOTHING else Condemned(seq, slots[_CAUSE], slots[_SEEN], self.bound)

    def beat(self) -> None:
        """Show a sign of life."""
        self._slots[_BEATS] += 1

    @property
    def beats(self) -> int:
        """How many signs of life there were."""
        return self._slots[_BEATS]

    @property
    def lease_us(self) -> int:
        """For how long none may be missing; 0 when its worker ends."""
        return self._slots[_LEASE_US]

    def retire(self) -> None:
        """Unmap it for good: its worker ends in order now, and shows no sign of life any more."""
        self._slots[_LEASE_US] = 0
        self.close()

    def close(self) -> None:
        """Unmap it."""
        self._slots.release()
        self._map.close()


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the mark of a dead worker says."""

    seq: int | None
    """The task that ran; ``NOTHING``, or None when that is not known."""
    condemned: Condemned | None = None


class RunMarks:
    """The marks of all workers of one store. Any thread."""

    def __init__(self, run: Path) -> None:
        """``run`` is the folder of the processes that are alive."""
        self._folder = run / "running"

    def make(self, lease: int, lease_us: int) -> RunMark:
        """Make the mark of a lease. Raises OSError."""
        return RunMark.make(self._folder, lease, lease_us)

    def last_run(self, lease: int) -> LastRun:
        """Return what runs under a lease."""
        mark = RunMark.attach(self._folder / str(lease))
        if mark is None:
            return LastRun(None)
        seq, condemned = mark.seq, mark.condemned
        mark.close()
        if condemned is not None:
            return LastRun(condemned.seq, condemned)  # What it began meanwhile is not charged.
        return LastRun(None if seq == SEVERAL else seq)

    def remove(self, lease: int) -> None:
        """Remove the mark of a lease that was given up."""
        (self._folder / str(lease)).unlink(missing_ok=True)

    def leases(self) -> set[int]:
        """Return of which leases there are marks."""
        with contextlib.suppress(FileNotFoundError):
            return {int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()}
        return set()
