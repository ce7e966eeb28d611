"""Ends worker processes that go over a limit, or show no sign of life, from outside: it needs nothing of them.

    the mark of a process                 the supervisor
    deadline, memory limit of what runs ─> looks every 100 ms, once there are limits
    signs of life                       ─> counts once a second; none for a whole lease: killed

A task that holds the interpreter's lock for ever, blocks signals or fills the memory is ended all the same. Before the
kill the mark is told for whose sake it happens, so that whoever recovers the tasks charges that attempt, and no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from millstream.engines.local.process_memory import process_memory_bytes
from millstream.primitives.clock import Clock
from millstream.primitives.duration import format_duration
from millstream.primitives.size import format_size
from millstream.store.runmark import NOTHING, Bound, RunMark
from millstream.tasks.attempt_limits import Overrun, overrun
from millstream.tasks.lease import LeaseWatch, WorkerSight
from millstream.tasks.limits import LIMIT_TICK_US, RECOVERY_TICK_US

_MICROSECONDS = 1_000_000


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


@dataclass(slots=True, eq=False)
class _Watched:
    number: int
    process: Process
    mark: RunMark
    was_ended: bool = False


@dataclass(slots=True)
class ProcessWatch:
    """Watches the processes of one supervisor, in a thread that starts with the first of them."""

    clock: Clock
    report: Callable[[str], None]
    memory_of: Callable[[int], int] = process_memory_bytes
    _watched: list[_Watched] = field(default_factory=list)
    _leases: LeaseWatch = field(default_factory=LeaseWatch)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _is_stopped: bool = False
    _counted_us: int = 0

    def attach(self, number: int, process: Process, path: Path) -> None:
        """Watch a process by its mark; one that has a newer lease is watched by that one from now on."""
        mark = RunMark.attach(path)
        with self._lock:
            self._forget(process)
            if mark is None:
                return  # It has given its lease up already.
            self._watched.append(_Watched(number, process, mark))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="millstream-watch", daemon=True
                )
                self._thread.start()
        self._changed.set()

    def detach(self, process: Process) -> bool:
        """Forget a process that has ended; tell whether it was ended here."""
        with self._lock:
            return self._forget(process)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._is_stopped = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def _forget(self, process: Process) -> bool:
        gone = [one for one in self._watched if one.process is process]
        for one in gone:
            self._watched.remove(one)
            one.mark.close()
        return any(one.was_ended for one in gone)

    def _run(self) -> None:
        while not self._is_stopped:
            with self._lock:
                self.look()
                often = any(one.mark.has_limits for one in self._watched)
            self._changed.wait((LIMIT_TICK_US if often else RECOVERY_TICK_US) / _MICROSECONDS)
            self._changed.clear()

    def look(self) -> None:
        """Look at each process once, and end those that must end."""
        now_us = int(self.clock.monotonic_s() * _MICROSECONDS)
        for one in self._watched:
            if not one.was_ended:
                self._look_at(one, now_us)
        if now_us - self._counted_us >= RECOVERY_TICK_US:
            self._counted_us = now_us
            self._end_the_silent(now_us)

    def _look_at(self, one: _Watched, now_us: int) -> None:
        seq, bound = one.mark.seq, one.mark.bound
        if seq == NOTHING or not (bound.deadline_us or bound.memory_bytes):
            return
        memory_bytes = self.memory_of(one.process.pid) if bound.memory_bytes else 0
        cause = overrun(
            deadline_us=bound.deadline_us,
            memory_limit_bytes=bound.memory_bytes,
            monotonic_us=now_us,
            memory_bytes=memory_bytes,
        )
        if cause is not None and one.mark.condemn(seq, cause, memory_bytes):
            one.was_ended = True
            one.process.kill()
            self.report(f"worker {one.number} is killed: {_why(cause, bound, memory_bytes)}")

    def _end_the_silent(self, now_us: int) -> None:
        sights = [
            WorkerSight(
                lease=one.process.pid,
                process="",
                beats=one.mark.beats,
                lease_us=one.mark.lease_us,
            )
            for one in self._watched
            if one.mark.lease_us  # 0: it ends in order, and that may take its time.
        ]
        silent = self._leases.silent(sights, monotonic_us=now_us)
        for one in self._watched:
            if one.process.pid in silent and not one.was_ended:
                one.was_ended = True
                one.process.kill()
                lease = format_duration(one.mark.lease_us)
                self.report(
                    f"worker {one.number} is killed: no sign of life for {lease}, its lease"
                )


def _why(cause: Overrun, bound: Bound, memory_bytes: int) -> str:
    if cause is Overrun.TIME:
        return f"its task ran for longer than {format_duration(bound.hard_us)}, its hard time limit"
    return (
        f"its task took {format_size(memory_bytes)}, and may take {format_size(bound.memory_bytes)}"
    )
