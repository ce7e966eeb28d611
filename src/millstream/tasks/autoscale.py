"""How many processes a worker has: more when tasks wait for a free one, fewer when some had nothing to do. Pure.

    need = tasks that run + tasks that wait
    need above the processes, at every look for AUTOSCALE_GROW_US    twice as many, but no more than needed
    need below the processes, at every look for the keepalive        as many as the largest need meanwhile

Always within the bounds. A burst that the processes take within a second starts none, and a pause that is shorter than
the keepalive ends none.
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import AUTOSCALE_GROW_US, CHILDREN_MAX


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """The most and the fewest processes. Equal ones mean a pool of a fixed size."""

    most: int
    fewest: int

    def __post_init__(self) -> None:
        """Refuse what makes no pool. Raises ConfigurationError."""
        if not 1 <= self.fewest <= self.most <= CHILDREN_MAX:
            raise ConfigurationError(
                f"a pool of {self.fewest} to {self.most} worker processes",
                expected=f"1 to {CHILDREN_MAX}, the smaller number last, as in 10,3",
            )

    @property
    def is_fixed(self) -> bool:
        """Tell whether there is nothing to decide."""
        return self.most == self.fewest

    def within(self, processes: int) -> int:
        """Return the number of processes that is nearest."""
        return max(self.fewest, min(self.most, processes))

    def moved(self, by: int) -> PoolBounds:
        """Return both bounds moved by so many processes, as far as they may. Raises ConfigurationError."""
        return PoolBounds(self.most + by, max(1, self.fewest + by))


class Autoscale:
    """Remembers what earlier looks saw. One thread."""

    def __init__(self, keepalive_us: int) -> None:
        """``keepalive_us``: how long a process may have nothing to do."""
        self._keepalive_us = keepalive_us
        self._scarce_since_us: int | None = None
        self._ample_since_us: int | None = None
        self._largest_need = 0

    def target(self, need: int, processes: int, bounds: PoolBounds, *, monotonic_us: int) -> int:
        """Return how many processes there shall be. To be called about once a second."""
        if not bounds.fewest <= processes <= bounds.most:
            return bounds.within(processes)
        if need > processes:
            self._ample_since_us = None
            return self._grown(need, processes, bounds, monotonic_us)
        self._scarce_since_us = None
        if need == processes:
            self._ample_since_us = None
            return processes
        return self._shrunk(need, processes, bounds, monotonic_us)

    def _grown(self, need: int, processes: int, bounds: PoolBounds, now_us: int) -> int:
        if self._scarce_since_us is None:
            self._scarce_since_us = now_us
        if now_us - self._scarce_since_us < AUTOSCALE_GROW_US:
            return processes
        self._scarce_since_us = now_us
        return bounds.within(min(need, 2 * processes))

    def _shrunk(self, need: int, processes: int, bounds: PoolBounds, now_us: int) -> int:
        if self._ample_since_us is None:
            self._ample_since_us, self._largest_need = now_us, need
        self._largest_need = max(self._largest_need, need)
        if now_us - self._ample_since_us < self._keepalive_us:
            return processes
        self._ample_since_us = None
        return bounds.within(self._largest_need)
