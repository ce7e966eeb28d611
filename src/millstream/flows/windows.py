"""Windows: which stretches of event time an event belongs to.

Tumbling windows lie side by side, have no gaps, and are aligned to the epoch: with a size of one hour each begins on
the full hour in UTC. A window holds its start and not its end: [start, end).

    time        00:00      01:00      02:00
    tumbling    |  window  |  window  |              ms.tumbling("1h"): each event has one
    hopping     |      window         |              ms.hopping("2h", every="1h"): each event has two
                           |      window         |
    calendar    |  window (a day, in its zone)  |    ms.calendar("day", tz="Europe/Berlin"): 23 or 25 hours at times
    session       | e  e e    |     | e  |           ms.session("20m"): as long as no gap is that long
    sliding       --------]e   -------]e             ms.sliding("1h"): what led up to each event: (time - 1h, time]
    count         |e  e e| |e   e  e|                ms.count_window(3): so many events of a key after one another
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError

WINDOW_START = "window_start"
WINDOW_END = "window_end"

CALENDAR_UNITS: Final = ("hour", "day", "week", "month", "quarter", "year")
_WINDOWS_OF_AN_EVENT_MAX: Final = 10_000


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


@dataclass(frozen=True)
class Hopping:
    """Windows of ``size_us`` that begin every ``every_us`` microseconds, aligned to the epoch. They overlap."""

    size_us: int
    every_us: int

    def starts_us(self, time_us: int) -> list[int]:
        """Return the starts of all windows that hold the time, the earliest first."""
        last = time_us // self.every_us * self.every_us
        first = (time_us - self.size_us) // self.every_us * self.every_us + self.every_us
        return list(range(first, last + 1, self.every_us))

    def text(self) -> str:
        """Return the canonical text."""
        return f"hopping({exact_duration(self.size_us)}, every={exact_duration(self.every_us)})"


@dataclass(frozen=True)
class Calendar:
    """Hours, days, weeks (from Monday), months, quarters or years as the clocks of a time zone show them."""

    unit: str
    zone: str

    def text(self) -> str:
        """Return the canonical text."""
        return f"calendar({self.unit}, tz={self.zone})"


@dataclass(frozen=True)
class Session:
    """Stretches of a key's events between which no gap is as long as ``gap_us``: [first, last + gap)."""

    gap_us: int

    def text(self) -> str:
        """Return the canonical text."""
        return f"session({exact_duration(self.gap_us)})"


@dataclass(frozen=True)
class Sliding:
    """For each time at which a key has events, those of the ``size_us`` up to it: (time - size, time]."""

    size_us: int

    def text(self) -> str:
        """Return the canonical text."""
        return f"sliding({exact_duration(self.size_us)})"


@dataclass(frozen=True)
class CountWindow:
    """So many rows of a key after one another, in the order of their time: [first, last]."""

    size: int

    def text(self) -> str:
        """Return the canonical text."""
        return f"count_window({self.size})"


TimeWindows: TypeAlias = Tumbling | Hopping | Calendar | Session | Sliding
Windows: TypeAlias = TimeWindows | CountWindow


def tumbling(size: Duration) -> Tumbling:
    """Return windows of a fixed size side by side. Raises PlanError unless the size is positive."""
    return Tumbling(_positive(size, "a window", 'ms.tumbling("1h")'))


def hopping(size: Duration, *, every: Duration) -> Hopping:
    """Return windows of a fixed size, a new one ``every`` so often: an event is in several when they overlap.

    Raises PlanError unless both are positive and ``every`` is at most the size: no event may be in none.
    """
    example = 'ms.hopping("1h", every="10m")'
    size_us, every_us = _positive(size, "a window", example), _positive(every, "a hop", example)
    if every_us > size_us or size_us > every_us * _WINDOWS_OF_AN_EVENT_MAX:
        raise PlanError(
            f"windows of {size!r} every {every!r}: an event would be in "
            f"{'none at times' if every_us > size_us else f'{size_us // every_us:,} of them'}",
            expected=f"windows that overlap, at most {_WINDOWS_OF_AN_EVENT_MAX:,} at any time",
            next_step=f"write for example {example}",
        )
    return Hopping(size_us, every_us)


def calendar(unit: str, *, tz: str | zoneinfo.ZoneInfo = "UTC") -> Calendar:
    """Return windows of the calendar: ``"hour"``, ``"day"``, ``"week"``, ``"month"``, ``"quarter"`` or ``"year"``.

    ``tz`` is the name of a time zone; where the clocks change there, a day has 23 or 25 hours. A week begins on Monday.
    Raises PlanError for another unit or zone.
    """
    if unit not in CALENDAR_UNITS:
        raise PlanError(
            f"there is no calendar window of a {unit!r}",
            expected=f"one of {', '.join(map(repr, CALENDAR_UNITS))}",
            next_step='for other sizes write ms.tumbling("15m")',
        )
    zone = tz.key if isinstance(tz, zoneinfo.ZoneInfo) else tz
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise PlanError(
            f"there is no time zone {tz!r}",
            expected="a name such as 'Europe/Berlin'",
            next_step="look it up in zoneinfo.available_timezones()",
        ) from error
    return Calendar(unit, zone)


def session(gap: Duration) -> Session:
    """Return windows that last as long as a key's events come with less than ``gap`` between them.

    A window is [first, last + gap). Raises PlanError unless the gap is positive.
    """
    return Session(_positive(gap, "a gap", 'ms.session("30m")'))


def sliding(size: Duration) -> Sliding:
    """Return for each time at which a key has events the window of the ``size`` up to it, that time included.

    Rows: one for each key and time. Raises PlanError unless the size is positive.
    """
    return Sliding(_positive(size, "a window", 'ms.sliding("10m")'))


def count_window(size: int) -> CountWindow:
    """Return windows of ``size`` rows of each key, one behind the other, in the order of their event time.

    A stream gives a window when its last row has come and the watermark has passed it; the last window of a key, which
    may hold fewer, at the end of bounded input. ``window_start`` and ``window_end`` are the times of its first and its
    last row. Without ``on=`` rows are counted as they arrive, and there is neither. Raises PlanError unless the size is
    positive.
    """
    if type(size) is not int or size < 1:
        raise PlanError(
            f"a window of {size!r} rows",
            expected="a whole number, at least 1",
            next_step="write for example ms.count_window(100)",
        )
    return CountWindow(size)


def _positive(size: Duration, what: str, example: str) -> int:
    size_us = duration_us(size)
    if size_us <= 0:
        raise PlanError(
            f"{what} of {size!r} holds nothing",
            expected="a positive duration",
            next_step=f"write for example {example}",
        )
    return size_us


def refuse_window_columns(names: Iterable[str], *, where: str) -> None:
    """Raise PlanError if a column has the name of a window's start or end."""
    for name in names:
        if name in (WINDOW_START, WINDOW_END):
            raise PlanError(
                f"column {name!r} is there already",
                where=where,
                expected="no column of that name: windows are put there",
                next_step="select() it under another name",
            )


def exact_duration(microseconds: int) -> str:
    """Return a duration in its largest whole unit: ``1h``, ``90m``, ``0s``."""
    for unit, size_us in _UNITS_US:
        if microseconds % size_us == 0:
            return f"{microseconds // size_us}{unit}"
    return f"{microseconds}us"


_UNITS_US = (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000))
