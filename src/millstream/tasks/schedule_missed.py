"""Which due times of a schedule are run when somebody looks at it, and which are passed over. Pure.

    due:   1     2     3     4     5          looked at here: 2, 3, 4 were missed, 5 is on time
    ──────●─────●─────●─────●─────●─┊──>
          ran   no worker was there ┊
    skip: runs 5      latest: runs 5      all: runs 2, 3, 4, 5
    ──────●─────●─────●─────●─────●───────────┊──>   5 was missed too
    skip: runs none   latest: runs 5      all: runs 2, 3, 4, 5

A due time counts as missed ``ON_TIME_US`` after it. Every due time is handled once: it is run or passed over, and the
schedule moves on in the same transaction. A clock that goes back makes a schedule wait until it has come again to where
it was.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import Every, Times, first_due

ON_TIME_US = 60_000_000
"""A run that is enqueued at most this late was not missed."""
CAUGHT_UP_RUNS_MAX = 1_000
"""Runs of one schedule that are caught up with; of more the newest are run."""
_LOOK_BACK_US = 366 * 86_400_000_000


class Missed(StrEnum):
    """What becomes of runs for which nobody was there."""

    SKIP = "skip"
    """They are passed over."""
    LATEST = "latest"
    """The last of them is run, once for all."""
    ALL = "all"
    """Each is run, the oldest first; the newest thousand of those of the last year if there are more."""


def missed_of(value: str) -> Missed:
    """Return the policy of that name. Raises ConfigurationError."""
    try:
        return Missed(value)
    except ValueError:
        raise ConfigurationError(
            f"{value!r} does not say what becomes of missed runs",
            expected=", ".join(repr(str(one)) for one in Missed),
            next_step="leave it out for 'latest'",
        ) from None


@dataclass(frozen=True, slots=True)
class Firing:
    """What one look at a schedule leads to."""

    runs: tuple[int, ...]
    """The due times that are run."""
    passed_over: int
    """At least so many are not: those before a year ago are not counted."""
    next_us: int | None


def firing(times: Times, missed: Missed, *, next_us: int, anchor_us: int, now_us: int) -> Firing:
    """Decide what follows for a schedule whose first due time that was not handled is ``next_us <= now_us``."""
    dues = _dues_until(times, next_us, now_us, anchor_us=anchor_us)
    newest = deque(dues.newest, maxlen=CAUGHT_UP_RUNS_MAX if missed is Missed.ALL else 1)
    if missed is Missed.SKIP and newest[-1] + ON_TIME_US < now_us:
        newest.clear()
    return Firing(
        tuple(newest),
        dues.count - len(newest),
        first_due(times, now_us, anchor_us=anchor_us),
    )


@dataclass(frozen=True, slots=True)
class _Dues:
    newest: list[int]
    count: int


def _dues_until(times: Times, next_us: int, now_us: int, *, anchor_us: int) -> _Dues:
    if isinstance(times, Every):
        count = (now_us - next_us) // times.interval_us + 1
        kept = range(max(0, count - CAUGHT_UP_RUNS_MAX), count)
        return _Dues([next_us + number * times.interval_us for number in kept], count)
    # ``next_us`` itself stands even when the rules of its zone were changed since it was computed.
    newest = deque([next_us], maxlen=CAUGHT_UP_RUNS_MAX)
    count = 1
    after_us = max(next_us, now_us - _LOOK_BACK_US)
    for due_us in takewhile(lambda due: due <= now_us, times.dues(after_us, anchor_us=anchor_us)):
        newest.append(due_us)
        count += 1
    return _Dues(list(newest), count)
