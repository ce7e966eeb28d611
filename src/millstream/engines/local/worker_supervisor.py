"""The process that starts worker processes, starts them again when they die, and ends them in order.

Children are new interpreters, never forks: nothing of the supervisor's threads or locks is copied. The supervisor does
not import the app and opens no store, so no task can harm it; what waits, and which files matter, its children tell
(``worker_reports.py``). A child that dies is one failed attempt of one task; other workers see the death within a
second, and the next child at its start.

    start ─> runs ─> exits 0 ───────────────> done (burst, or told to stop)
               ├──> dies ─> waits, doubling ─> start
               └──> told to stop, so that a new one takes its place (reload), or none does (fewer are needed)
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

from millstream.engines.local.worker_child import (
    DEMAND,
    EXIT_RECYCLED,
    EXIT_TERMINATED,
    QUICK,
    STOP,
)
from millstream.engines.local.worker_places import Exited, Place, Told
from millstream.engines.local.worker_reports import Demand, Marked
from millstream.engines.local.worker_sources import SourceWatch
from millstream.engines.local.worker_watch import ProcessWatch
from millstream.primitives.clock import Clock
from millstream.primitives.duration import format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.autoscale import Autoscale, PoolBounds
from millstream.tasks.limits import (
    AUTOSCALE_KEEPALIVE_US,
    AUTOSCALE_LOOK_US,
    ORDERS_REMEMBERED,
    RELOAD_LOOK_US,
    RESTART_FIRST_US,
    RESTART_FORGIVEN_US,
    RESTART_LONGEST_US,
)
from millstream.tasks.workers import Order, OrderKind

CHILD_REFUSED = 78
"""What a child exits with that cannot start at all, because its app is not there (EX_CONFIG of sysexits.h)."""
EXIT_REFUSED = 2
"""What the supervisor exits with then."""
_MICROSECONDS = 1_000_000


def restart_delay_us(deaths: int) -> int:
    """Return how long to wait before a start, after that many early deaths in a row (1 is the first)."""
    doublings = min(deaths - 1, RESTART_LONGEST_US.bit_length())
    return min(RESTART_LONGEST_US, RESTART_FIRST_US << doublings)


def _resized(bounds: PoolBounds, order: Order) -> PoolBounds:
    """Return the bounds that an order asks for. Raises ConfigurationError."""
    if order.kind is OrderKind.AUTOSCALE:
        return PoolBounds(order.most, order.fewest)
    return bounds.moved(order.most if order.kind is OrderKind.POOL_GROW else -order.most)


@dataclass(slots=True)
class Supervisor:
    """Keeps processes of ``command`` running, as many as ``bounds`` say. Use ``run`` from the main thread."""

    command: Sequence[str]
    bounds: PoolBounds
    clock: Clock
    report: Callable[[str], None]
    keepalive_us: int = AUTOSCALE_KEEPALIVE_US
    reload: bool = False
    """Replace the processes when their source files change, and wait for a change when the app cannot be loaded."""
    _events: SimpleQueue[Exited | Told | bytes] = field(default_factory=SimpleQueue)
    _places: list[Place] = field(default_factory=list)
    _sources: SourceWatch = field(default_factory=SourceWatch)
    _watch: ProcessWatch = field(init=False)
    _autoscale: Autoscale = field(init=False)
    _waiting: int = 0
    _numbers: int = 0
    _stops: int = 0
    _is_ending: bool = False
    _has_spoken: bool = False
    _looked_s: float = 0.0
    _code: int = 0
    _obeyed: deque[str] = field(default_factory=lambda: deque(maxlen=ORDERS_REMEMBERED))

    def run(self) -> int:
        """Run until all children have ended, or SIGTERM or SIGINT came; return the exit code.

        The first signal lets every child finish its task; the second, or SIGQUIT, ends them at once.
        """
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
        self._autoscale = Autoscale(self.keepalive_us)
        self._watch = ProcessWatch(self.clock, self.report)
        self._looked_s = self.clock.monotonic_s()
        self._grow(self.bounds.fewest)
        while any(place.is_needed for place in self._places):
            event = self._next_event()
            if isinstance(event, Exited):
                self._on_exit(event)
            elif isinstance(event, Told):
                self._on_told(event)
            elif event is not None:
                self._tell_to_stop(event)
            if not self._stops:
                self._look()
                self._start_due()
        self._watch.stop()
        return self._code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(QUICK if number == getattr(signal, "SIGQUIT", None) else STOP)

    def _next_event(self) -> Exited | Told | bytes | None:
        wakes = [place.start_at_s for place in self._places if place.start_at_s is not None]
        if not self._stops and self._looks_every_s is not None:
            wakes.append(self._looked_s + self._looks_every_s)
        timeout_s = max(0.0, min(wakes) - self.clock.monotonic_s()) if wakes else None
        try:
            return self._events.get(timeout=timeout_s)
        except Empty:
            return None

    # Starting and ending

    def _start(self, place: Place) -> None:
        # All children find the same faults of the app: one tells of them, and whoever starts again after a death.
        quiet = ["--quiet"] if self._has_spoken and not place.deaths else []
        self._has_spoken = True
        place.start([*self.command, *quiet], self.clock, self._events.put)
        if not self.bounds.is_fixed:
            place.order(DEMAND)

    def _start_due(self) -> None:
        now_s = self.clock.monotonic_s()
        for place in self._places:
            if place.start_at_s is not None and place.start_at_s <= now_s:
                self._start(place)

    def _tell_to_stop(self, asked: bytes) -> None:
        self._stops += 1
        order = asked if self._stops == 1 else QUICK
        for place in self._places:
            place.start_at_s = None
            place.is_refused = False
            # A second STOP would be a quick one: a process that was told so already is left alone.
            if order == QUICK or not (place.is_leaving or place.is_renewing):
                place.order(order)
        self.report("stopping: tasks that run are finished" if order == STOP else "stopping now")

    def _on_exit(self, event: Exited) -> None:
        place, code = event.place, event.code
        was_ended = place.process is not None and self._watch.detach(place.process)
        place.vacate()
        if self._stops or place.is_leaving:
            self._places.remove(place)
        elif place.is_renewing or was_ended or code in {EXIT_RECYCLED, EXIT_TERMINATED}:
            place.start_at_s = self.clock.monotonic_s()
        elif code == 0:
            self._is_ending = (
                True  # A burst has come to its end: no other process is started for it.
            )
        elif code == CHILD_REFUSED and self.reload:
            place.is_refused = True
        elif code == CHILD_REFUSED and place.deaths == 0:
            self._code = EXIT_REFUSED  # It has said why; starting it again would only repeat that.
            self._is_ending = True
        else:
            self._start_again_later(place, code)

    def _start_again_later(self, place: Place, code: int) -> None:
        lived_us = (self.clock.monotonic_s() - place.started_s) * _MICROSECONDS
        place.deaths = 1 if lived_us >= RESTART_FORGIVEN_US else place.deaths + 1
        delay_us = restart_delay_us(place.deaths)
        place.start_at_s = self.clock.monotonic_s() + delay_us / _MICROSECONDS
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.report(
            f"worker {place.number} died ({how}); starts again in {format_duration(delay_us)}"
        )

    # What children tell

    def _on_told(self, event: Told) -> None:
        place, report = event.place, event.report
        if isinstance(report, Demand):
            place.is_busy = report.is_busy and place.process is not None
            self._waiting = report.waiting
        elif isinstance(report, Order):
            self._obey(report)
        elif isinstance(report, Marked):
            if event.process is place.process:
                self._watch.attach(place.number, event.process, Path(report.path))
        elif not place.is_renewing:
            self._sources.learn(report.files, started_ns=place.started_ns)

    def _obey(self, order: Order) -> None:
        """Do what is asked of the node, once: every process passes on a copy."""
        if order.id in self._obeyed:
            return
        self._obeyed.append(order.id)
        if order.kind is OrderKind.SHUTDOWN:
            if not self._stops:
                self._tell_to_stop(STOP)
            return
        try:
            self.bounds = _resized(self.bounds, order)
        except ConfigurationError as error:
            self.report(f"not done: {error}")
            return
        if self._stops or self._is_ending:
            return
        staying = [place for place in self._places if not place.is_leaving]
        for place in staying:
            if not self.bounds.is_fixed:
                place.order(DEMAND)
        self._resize_to(self.bounds.within(len(staying)), len(staying))

    # Looking, when there is something to look at

    @property
    def _looks_every_s(self) -> float | None:
        if self.reload:
            return RELOAD_LOOK_US / _MICROSECONDS
        return None if self.bounds.is_fixed else AUTOSCALE_LOOK_US / _MICROSECONDS

    def _look(self) -> None:
        every_s, now_s = self._looks_every_s, self.clock.monotonic_s()
        if every_s is None or now_s < self._looked_s + every_s:
            return
        self._looked_s = now_s
        if self.reload:
            changed = self._sources.changed()
            if changed:
                self._renew(changed)
        if not (self.bounds.is_fixed or self._is_ending):
            self._scale()

    def _renew(self, changed: Sequence[str]) -> None:
        """Replace every process once it has finished its task."""
        names = ", ".join(sorted(Path(path).name for path in changed)[:3])
        self.report(f"reloading: {names} changed")
        self._has_spoken = False
        for place in self._places:
            if place.process is None:
                place.start_at_s, place.deaths = self.clock.monotonic_s(), 0
                place.is_refused = False
            elif not (place.is_leaving or place.is_renewing):
                place.is_renewing = True
                place.order(STOP)

    def _scale(self) -> None:
        staying = [place for place in self._places if not place.is_leaving]
        need = self._waiting + sum(place.is_busy for place in staying)
        target = self._autoscale.target(
            need,
            len(staying),
            self.bounds,
            monotonic_us=int(self.clock.monotonic_s() * _MICROSECONDS),
        )
        self._resize_to(target, len(staying))

    def _resize_to(self, target: int, before: int) -> None:
        if target == before:
            return
        self.report(f"{target} worker processes, before {before}")
        staying = [place for place in self._places if not place.is_leaving]
        self._grow(target - len(staying))
        # Those that have nothing to do go first, and of these the youngest.
        staying.sort(key=lambda place: (place.process is not None, place.is_busy, -place.number))
        for place in staying[: max(0, len(staying) - target)]:
            self._dismiss(place)

    def _grow(self, count: int) -> None:
        for _ in range(count):
            self._numbers += 1
            place = Place(self._numbers)
            self._places.append(place)
            self._start(place)

    def _dismiss(self, place: Place) -> None:
        if place.process is None:
            self._places.remove(place)
            return
        if not place.is_renewing:
            place.order(STOP)
        place.is_leaving = True
