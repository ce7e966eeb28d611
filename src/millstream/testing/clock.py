"""Time that passes only when the test says so."""

from __future__ import annotations

import threading

from millstream.primitives.duration import Duration, duration_us

START_US = 1_700_000_000_000_000
"""Where a virtual clock begins: 2023-11-14 22:13:20 UTC."""


class VirtualClock:
    """A clock for ``Store.open(clock=…)`` and ``App(clock=…)``. Thread-safe.

    Waiting on it advances it at once, so nothing that waits takes real time. What sleeps in the kernel (a consumer that
    waits for events) still does, and is woken by what it waits for.
    """

    def __init__(self, start_us: int = START_US) -> None:
        """Begin at a moment, in UTC microseconds."""
        self._start_us = start_us
        self._now_us = start_us
        self._elapsed_us = 0
        self._lock = threading.Lock()

    def now_us(self) -> int:
        """Return UTC microseconds since the epoch."""
        with self._lock:
            return self._now_us

    def monotonic_s(self) -> float:
        """Return seconds since this clock was made, whatever ``jump`` did."""
        with self._lock:
            return self._elapsed_us / 1_000_000

    def wait_s(self, seconds: float) -> None:
        """Let that many seconds pass, at once."""
        self._pass(round(seconds * 1_000_000))

    def advance(self, duration: Duration) -> None:
        """Let time pass: ``clock.advance("10s")``."""
        self._pass(duration_us(duration))

    def _pass(self, microseconds: int) -> None:
        with self._lock:
            self._now_us += microseconds
            self._elapsed_us += microseconds

    def jump(self, microseconds: int) -> None:
        """Set the wall clock forward, or back if negative, as an administrator does; the monotonic one stays."""
        with self._lock:
            self._now_us += microseconds
