"""Windows: which stretch of event time an event belongs to.

Tumbling windows lie side by side, have no gaps, and are aligned to the epoch: with a size of one
hour each begins on the full hour in UTC. A window holds its start and not its end: [start, end).

    time    00:00      01:00      02:00
            |  window  |  window  |
    event      ^ 00:20 ^ 01:00 belongs to the second
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError

WINDOW_START = "window_start"
WINDOW_END = "window_end"


@dataclass(frozen=True)
class Tumbling:
    """Windows of ``size_us`` microseconds, aligned to the epoch."""

    size_us: int

    def start_us(self, time_us: int) -> int:
        """Return the start of the window that holds the time; before 1970 as well."""
        return time_us // self.size_us * self.size_us

    def end_us(self, time_us: int) -> int:
        """Return the end of the window that holds the time."""
        return self.start_us(time_us) + self.size_us

    def text(self) -> str:
        """Return the canonical text."""
        return f"tumbling({exact_duration(self.size_us)})"


def tumbling(size: Duration) -> Tumbling:
    """Return windows of a fixed size side by side. Raises PlanError unless the size is positive."""
    size_us = duration_us(size)
    if size_us <= 0:
        raise PlanError(
            f"a window of {size!r} holds nothing",
            expected="a positive duration",
            next_step='write for example ms.tumbling("1h")',
        )
    return Tumbling(size_us)


def exact_duration(microseconds: int) -> str:
    """Return a duration in its largest whole unit: ``1h``, ``90m``, ``0s``."""
    for unit, size_us in _UNITS_US:
        if microseconds % size_us == 0:
            return f"{microseconds // size_us}{unit}"
    return f"{microseconds}us"


_UNITS_US = (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000))
