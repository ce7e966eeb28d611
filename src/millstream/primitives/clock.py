"""The only place that asks the machine for the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the library knows of time. ``millstream.testing.VirtualClock`` is the other one."""

    def now_us(self) -> int:
        """Return UTC microseconds since the epoch."""

    def monotonic_s(self) -> float:
        """Return seconds of a clock that never goes back; only differences mean anything."""

    def wait_s(self, seconds: float) -> None:
        """Let that many seconds pass."""


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Return UTC microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Return seconds of the machine's monotonic clock."""
        return time.monotonic()

    def wait_s(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
