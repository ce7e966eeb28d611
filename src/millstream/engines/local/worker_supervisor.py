"""The process that starts worker processes, starts them again when they die, and ends them in order.

Children are new interpreters, never forks: nothing of the supervisor's threads or locks is copied. The supervisor does
not import the app and opens no store, so no task can harm it. A child that dies is one failed attempt of one task;
other workers see the death within a second, and the next child at its start.

    start ─> runs ─> exits 0 ───────────────> done (burst, or told to stop)
               └──> dies ─> waits, doubling ─> start
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import FrameType

from millstream.engines.local.worker_child import EXIT_RECYCLED, QUICK, STOP
from millstream.primitives.clock import Clock
from millstream.primitives.duration import format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import (
    CHILDREN_MAX,
    RESTART_FIRST_US,
    RESTART_FORGIVEN_US,
    RESTART_LONGEST_US,
)

CHILD_REFUSED = 78
"""What a child exits with that cannot start at all, because its app is not there (EX_CONFIG of sysexits.h)."""
EXIT_REFUSED = 2
"""What the supervisor exits with then."""
_MICROSECONDS = 1_000_000


def restart_delay_us(deaths: int) -> int:
    """Return how long to wait before a start, after that many early deaths in a row (1 is the first)."""
    doublings = min(deaths - 1, RESTART_LONGEST_US.bit_length())
    return min(RESTART_LONGEST_US, RESTART_FIRST_US << doublings)


@dataclass(slots=True)
class _Place:
    """One of the N places for a child."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths: int = 0
    start_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Exited:
    place: _Place
    code: int


@dataclass(slots=True)
class Supervisor:
    """Keeps ``children`` processes of ``command`` running. Use ``run`` from the main thread."""

    command: Sequence[str]
    children: int
    clock: Clock
    report: Callable[[str], None]
    _events: SimpleQueue[_Exited | bytes] = field(default_factory=SimpleQueue)
    _places: list[_Place] = field(default_factory=list)
    _stops: int = 0

    def run(self) -> int:
        """Run until all children have ended, or SIGTERM or SIGINT came; return the exit code.

        The first signal lets every child finish its task; the second, or SIGQUIT, ends them at once.
        """
        if not 1 <= self.children <= CHILDREN_MAX:
            raise ConfigurationError(
                f"{self.children} worker processes", expected=f"1 to {CHILDREN_MAX}"
            )
        signals = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGQUIT"):
            signals.append(signal.SIGQUIT)
        before = [signal.signal(number, self._on_signal) for number in signals]
        try:
            return self._keep_running()
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _keep_running(self) -> int:
        self._places = [_Place(number + 1) for number in range(self.children)]
        for place in self._places:
            self._start(place)
        code = 0
        while self._is_needed():
            event = self._next_event()
            if isinstance(event, _Exited):
                code = max(code, self._on_exit(event))
            self._start_due()
        return code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(QUICK if number == getattr(signal, "SIGQUIT", None) else STOP)

    def _is_needed(self) -> bool:
        return any(p.process is not None or p.start_at_s is not None for p in self._places)

    def _start(self, place: _Place) -> None:
        place.start_at_s = None
        place.started_s = self.clock.monotonic_s()
        # All children of the first start find the same faults of the app: one tells of them.
        quiet = ["--quiet"] if place.number > 1 and not place.deaths else []
        # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which then tells the children.
        place.process = subprocess.Popen(
            [*self.command, *quiet], stdin=subprocess.PIPE, start_new_session=True
        )
        threading.Thread(target=self._await_exit, args=(place, place.process), daemon=True).start()

    def _await_exit(self, place: _Place, process: subprocess.Popen[bytes]) -> None:
        self._events.put(_Exited(place, process.wait()))

    def _next_event(self) -> _Exited | bytes | None:
        starts = [p.start_at_s for p in self._places if p.start_at_s is not None]
        timeout_s = max(0.0, min(starts) - self.clock.monotonic_s()) if starts else None
        try:
            event = self._events.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(event, bytes):
            self._tell_to_stop(event)
        return event

    def _tell_to_stop(self, asked: bytes) -> None:
        self._stops += 1
        order = asked if self._stops == 1 else QUICK
        for place in self._places:
            place.start_at_s = None
            if place.process is not None and place.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # It has ended already.
                    place.process.stdin.write(order)
                    place.process.stdin.flush()
        self.report("stopping: tasks that run are finished" if order == STOP else "stopping now")

    def _on_exit(self, event: _Exited) -> int:
        place = event.place
        if place.process is not None and place.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                place.process.stdin.close()
        place.process = None
        lived_us = (self.clock.monotonic_s() - place.started_s) * _MICROSECONDS
        if event.code == 0 or self._stops:
            return 0
        if event.code == EXIT_RECYCLED:
            place.start_at_s = self.clock.monotonic_s()
            return 0
        if event.code == CHILD_REFUSED and place.deaths == 0:
            return EXIT_REFUSED  # It has said why; starting it again would only repeat that.
        place.deaths = 1 if lived_us >= RESTART_FORGIVEN_US else place.deaths + 1
        delay_us = restart_delay_us(place.deaths)
        place.start_at_s = self.clock.monotonic_s() + delay_us / _MICROSECONDS
        how = f"signal {-event.code}" if event.code < 0 else f"exit code {event.code}"
        self.report(
            f"worker {place.number} died ({how}); starts again in {format_duration(delay_us)}"
        )
        return 0

    def _start_due(self) -> None:
        now_s = self.clock.monotonic_s()
        for place in self._places:
            if place.start_at_s is not None and place.start_at_s <= now_s and not self._stops:
                self._start(place)
