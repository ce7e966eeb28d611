"""What one attempt of a task may use: time, softly and hard, and memory. Pure.

    soft limit    SoftTimeLimitExceeded is raised inside the task, once; it may clean up and return
    hard limit    the process of the task is ended; the attempt has failed with TimeLimitExceeded
    memory        likewise, with MemoryLimitExceeded

A call may name times of its own, before those of the task, before those of the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from millstream.primitives.duration import format_duration
from millstream.primitives.errors import (
    ConfigurationError,
    MemoryLimitExceeded,
    TaskError,
    TimeLimitExceeded,
)
from millstream.primitives.size import format_size
from millstream.tasks.limits import MEMORY_LIMIT_BYTES_MIN, TIME_LIMIT_US_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimits:
    """Limits of one attempt; None is no limit. Microseconds from the start of the attempt, bytes of its process."""

    soft_us: int | None = None
    hard_us: int | None = None
    memory_bytes: int | None = None

    @property
    def needs_end(self) -> bool:
        """Tell whether it takes somebody who can end the process."""
        return self.hard_us is not None or self.memory_bytes is not None

    def before(self, other: AttemptLimits) -> AttemptLimits:
        """Return these limits, and where there is none that of the other."""
        return AttemptLimits(
            soft_us=other.soft_us if self.soft_us is None else self.soft_us,
            hard_us=other.hard_us if self.hard_us is None else self.hard_us,
            memory_bytes=other.memory_bytes if self.memory_bytes is None else self.memory_bytes,
        )


UNLIMITED = AttemptLimits()


def checked(limits: AttemptLimits, *, where: str = "") -> AttemptLimits:
    """Return limits that were given together. Raises ConfigurationError for those that cannot be kept."""
    for kind, limit_us in (("soft", limits.soft_us), ("hard", limits.hard_us)):
        if limit_us is not None and not 0 < limit_us <= TIME_LIMIT_US_MAX:
            raise ConfigurationError(
                f"a {kind} time limit of {limit_us / 1_000_000:g} s",
                where=where,
                expected=f"more than 0 s, at most {format_duration(TIME_LIMIT_US_MAX)}",
                next_step="leave it out for no limit",
            )
    if limits.soft_us is not None and limits.hard_us is not None:
        _refuse_hard_first(limits.soft_us, limits.hard_us, where)
    if limits.memory_bytes is not None and limits.memory_bytes < MEMORY_LIMIT_BYTES_MIN:
        raise ConfigurationError(
            f"a memory limit of {limits.memory_bytes:,} bytes",
            where=where,
            expected=f"at least {MEMORY_LIMIT_BYTES_MIN:,} bytes: an interpreter alone takes tens of megabytes",
            next_step="write the unit, as in '500MB', or leave it out for no limit",
        )
    return limits


def _refuse_hard_first(soft_us: int, hard_us: int, where: str) -> None:
    if soft_us >= hard_us:
        raise ConfigurationError(
            f"a soft time limit of {format_duration(soft_us)}, and a hard one of {format_duration(hard_us)}",
            where=where,
            expected="a soft limit that is shorter than the hard one, so that the task can clean up in between",
            next_step="shorten the soft one, or leave one of them out",
        )


class Overrun(IntEnum):
    """The limit for which an attempt is ended from outside."""

    TIME = 1
    MEMORY = 2


def overrun(
    *, deadline_us: int, memory_limit_bytes: int, monotonic_us: int, memory_bytes: int
) -> Overrun | None:
    """Return which limit a running attempt has gone over; 0 for a limit means none."""
    if memory_limit_bytes and memory_bytes > memory_limit_bytes:
        return Overrun.MEMORY
    if deadline_us and monotonic_us >= deadline_us:
        return Overrun.TIME
    return None


def time_over(hard_us: int) -> TaskError:
    """Return the error of an attempt that ran for longer than its hard limit."""
    return TimeLimitExceeded(
        f"the attempt ran for longer than its hard time limit of {format_duration(hard_us)}",
        next_step="give the task a soft limit below it, or more time",
    )


def memory_over(limit_bytes: int, seen_bytes: int) -> TaskError:
    """Return the error of an attempt whose process took more memory than it may."""
    seen = f", {format_size(seen_bytes)} were seen" if seen_bytes else ""
    return MemoryLimitExceeded(
        f"the process of the task took more memory than {format_size(limit_bytes)}, its limit{seen}",
        next_step="work on smaller parts, or raise memory_limit",
    )
