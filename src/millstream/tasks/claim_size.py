"""How many tasks a worker claims at once: many short ones, one long one. Pure.

    task takes    claims
    10 µs         256    (CLAIM_TASKS_MAX)
    1 ms          50     (CLAIM_GOAL_US / 1 ms)
    50 ms, more   1

The size doubles at most from one claim to the next, so that a few short tasks in front do not fill a worker with long
ones. It starts with one.
"""

from __future__ import annotations

from millstream.tasks.limits import CLAIM_GOAL_US, CLAIM_TASKS_MAX

_WEIGHT = 0.5


class ClaimSize:
    """Follows the cost of tasks. One worker, one thread."""

    __slots__ = ("_mean_us", "tasks")

    def __init__(self) -> None:
        """Start with one task."""
        self.tasks = 1
        self._mean_us = 0.0

    def observe(self, *, tasks: int, process_us: int) -> None:
        """Take into account that so many tasks together took so long."""
        if tasks == 0:
            return
        mean_us = process_us / tasks
        # Slower tasks count at once, faster ones half: claiming too many long tasks hurts more than a commit.
        self._mean_us = max(mean_us, self._mean_us + _WEIGHT * (mean_us - self._mean_us))
        fitting = int(CLAIM_GOAL_US / self._mean_us) if self._mean_us >= 1 else CLAIM_TASKS_MAX
        self.tasks = max(1, min(fitting, self.tasks * 2, CLAIM_TASKS_MAX))
