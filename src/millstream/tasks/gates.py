"""Locks and limits: who may start now, counted over all workers. Pure.

A *lock* lets one task run at a time. A *limit* belongs to a task's name: so many at once (``concurrency``), and so many
a second, minute or hour (``rate_limit``), evenly spread. A task that is not let in is *blocked*, out of the way of
those behind it, until there is room again.

The rate is a leaky bucket kept as one number, the time of the next allowed start (GCRA, ITU-T I.371): a start moves it
on by one interval. A start that comes a little late is made up for, up to ``RATE_CATCH_UP_US``; an idle hour earns no
burst beyond what fits into that time.
"""

from __future__ import annotations

import re

import msgspec

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import RATE_CATCH_UP_US, RUNNING_MAX

LOCK_PREFIX = "lock:"
LIMIT_PREFIX = "limit:"
_PERIOD_US = {"": 1_000_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?")


class Limit(msgspec.Struct, frozen=True, gc=False):
    """How many tasks of a name run at once, and how often one starts; None means without bound."""

    key: str
    concurrency: int | None
    interval_us: int | None


def limit_of(name: str, *, concurrency: int | None, rate: str | float | None) -> Limit | None:
    """Return the limit of a task, or None if it has none. Raises ConfigurationError."""
    if concurrency is None and rate is None:
        return None
    if concurrency is not None and not 1 <= concurrency <= RUNNING_MAX:
        raise ConfigurationError(
            f"{concurrency!r} tasks at once", expected=f"1 to {RUNNING_MAX:,}, or None for no bound"
        )
    interval_us = None if rate is None else interval_of(rate)
    return Limit(f"{LIMIT_PREFIX}{name}", concurrency, interval_us)


def interval_of(rate: str | float) -> int:
    """Return the microseconds between two starts of ``"10/s"``, ``"10/m"``, ``"10/h"``, or a number a second."""
    match = _RATE.fullmatch(str(rate).strip())
    often = float(match[1]) if match else 0.0
    if match is None or often <= 0:
        raise ConfigurationError(
            f"{rate!r} is not a rate",
            expected="a number above 0 a second, minute or hour, such as '10/m'",
            next_step="leave it out for no limit",
        )
    return max(1, round(_PERIOD_US[match[2] or ""] / often))


def next_start_us(stored_us: int, *, interval_us: int, now_us: int) -> int:
    """Return the next allowed start. No start moves it further than an interval from its own time.

    One that is further ahead was stored before the clock was set back, or under a slower rate: it is not waited for.
    """
    return now_us if stored_us > now_us + interval_us else stored_us


def starts_allowed(*, next_us: int, interval_us: int, now_us: int) -> int:
    """Return how many tasks the rate lets start at ``now_us``."""
    if next_us > now_us:
        return 0
    return (now_us - _counted_from_us(next_us, interval_us, now_us)) // interval_us + 1


def after_start(*, next_us: int, interval_us: int, now_us: int) -> int:
    """Return the next allowed start when one was made at ``now_us``."""
    return _counted_from_us(next_us, interval_us, now_us) + interval_us


def _counted_from_us(next_us: int, interval_us: int, now_us: int) -> int:
    """Return the allowed start that is used up by one at ``now_us``: an old one if it is a little late only."""
    if now_us - next_us <= RATE_CATCH_UP_US:
        return next_us
    return now_us - RATE_CATCH_UP_US // interval_us * interval_us
