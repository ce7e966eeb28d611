"""When a schedule is due: ``cron``, ``every``, or once ``at`` a moment. Pure: receives the time, never asks for it.

Times are UTC microseconds. ``dues`` goes from one to the next, always forwards, so no moment comes twice whatever the
clocks of a time zone do. A cron expression means the wall clock of its zone:

    clocks go forward, 02:00 -> 03:00            clocks go back, 03:00 -> 02:00
    "30 2 * * *"     runs at 03:00               "30 2 * * *"     runs at the first 02:30 only
    "*/30 * * * *"   runs at 01:30, 03:00        "*/30 * * * *"   runs in both hours: the time goes on

The rule is that of Debian's cron: an expression whose minute and hour both do not begin with ``*`` names moments of a
day, each of which comes once every day. Any other describes a rhythm, which follows the real time.

``cronsim`` reads the expressions and walks over wall clock times without a zone; what a zone makes of them is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from millstream.primitives.duration import Duration, duration_us, format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import datetime_us

EVERY_US_MIN = 10_000
"""The shortest interval of ``every``."""
_FIELDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WALL = datetime(1970, 1, 1)  # noqa: DTZ001 - wall clock times have no zone here
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_DAY_US = 86_400_000_000
_BROKEN = (CronSimError, AssertionError, TypeError, ValueError)  # What cronsim raises for nonsense.
# "5-5/2" is 5 alone; cronsim reads it as "5/2", from 5 to the end.
_ONE_WITH_STEP = re.compile(r"(?<![\w-])(\w+)-\1/0*[1-9]\d*(?!\w)", re.IGNORECASE)
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """The wall clock of a zone fits an expression. Made by ``cron``."""

    expression: str
    tz: str

    def dues(self, after_us: int, *, anchor_us: int) -> Iterator[int]:
        """Yield every due time after ``after_us``, in order; ends when there is none within 50 years."""
        del anchor_us
        zone = _zone(self.tz)
        walls = _walls(self.expression, after_us, zone)
        moments = _daily(walls, zone) if _is_daily(self.expression) else _rhythm(walls, zone)
        last_us = after_us
        for moment_us in moments:
            if moment_us > last_us:
                last_us = moment_us
                yield moment_us

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"cron {self.expression} ({self.tz})"


class Every(msgspec.Struct, frozen=True, tag="every"):
    """Each ``interval_us`` since the schedule was first stored. Made by ``every``."""

    interval_us: int

    def dues(self, after_us: int, *, anchor_us: int) -> Iterator[int]:
        """Yield every due time after ``after_us``, in order, without an end."""
        number = max(1, (after_us - anchor_us) // self.interval_us + 1)
        while True:
            yield anchor_us + number * self.interval_us
            number += 1

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"every {format_duration(self.interval_us)}"


class Once(msgspec.Struct, frozen=True, tag="at"):
    """One moment. Made of a datetime."""

    at_us: int

    def dues(self, after_us: int, *, anchor_us: int) -> Iterator[int]:
        """Yield the moment, if it is after ``after_us``."""
        del anchor_us
        if self.at_us > after_us:
            yield self.at_us

    def __str__(self) -> str:
        """Return it as a person reads it."""
        moment = _EPOCH + timedelta(microseconds=self.at_us)
        return f"once at {moment.isoformat(sep=' ', timespec='seconds')}"


Times = Cron | Every | Once
TimesLike = Times | datetime


def cron(expression: str, *, tz: str = "UTC") -> Cron:
    """Return the times that fit a cron expression by the wall clock of the zone ``tz``.

    Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), with names (``mon-fri``), lists,
    ranges, steps, ``L`` (last day of the month), ``LW`` (its last weekday), ``5L`` (its last Friday), ``mon#2`` (its
    second Monday); or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``. When neither day field begins
    with ``*``, one of them is enough, as in every cron. Raises ConfigurationError for what cannot be read or never
    comes.
    """
    text = _MACROS.get(expression.strip().lower(), " ".join(expression.split()))
    text = _ONE_WITH_STEP.sub(r"\1", text)
    _zone(tz)
    try:
        if len(text.split()) != _FIELDS:
            raise CronSimError("Wrong number of fields")
        first = next(CronSim(text, datetime(2000, 1, 1)), None)  # noqa: DTZ001
    except _BROKEN as error:
        raise ConfigurationError(
            f"{expression!r} is not a cron expression: {error}",
            expected="five fields, such as '0 9 * * mon-fri', or '@daily'",
            next_step="for less than a minute use ms.every('10s')",
        ) from error
    if first is None:
        raise ConfigurationError(
            f"{expression!r} never comes", expected="a day that there is", next_step="check the day"
        )
    return Cron(text, tz)


def every(interval: Duration) -> Every:
    """Return the times that follow each other at ``interval``, beginning one after the schedule is first stored.

    They do not drift: each is a multiple after the first. Raises ConfigurationError for less than 10 ms.
    """
    interval_us = duration_us(interval)
    if interval_us < EVERY_US_MIN:
        raise ConfigurationError(
            f"{interval!r} is too short an interval",
            expected=f"at least {format_duration(EVERY_US_MIN)}",
            next_step="let a task run in a loop of its own",
        )
    return Every(interval_us)


def times_of(value: TimesLike) -> Times:
    """Return the times of ``cron(…)``, ``every(…)`` or an aware datetime. Raises ConfigurationError."""
    if isinstance(value, datetime):
        return Once(datetime_us(value))
    if isinstance(value, (Cron, Every, Once)):
        return value
    raise ConfigurationError(
        f"{value!r} does not say when",
        expected="ms.cron('0 9 * * *', tz='Europe/Berlin'), ms.every('5m'), or a datetime with a time zone",
        next_step="write the text of a time as ms.cron(…), and an interval as ms.every(…)",
    )


def first_due(times: Times, after_us: int, *, anchor_us: int) -> int | None:
    """Return the first due time after ``after_us``, or None."""
    return next(iter(times.dues(after_us, anchor_us=anchor_us)), None)


@cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"there is no time zone {name!r} on this machine",
            expected="a name such as 'Europe/Berlin' or 'UTC'",
            next_step="check the name, or install the package tzdata",
        ) from error


def _is_daily(expression: str) -> bool:
    minute, hour = expression.split()[:2]
    return not minute.startswith("*") and not hour.startswith("*")


def _walls(expression: str, after_us: int, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the fitting wall clock times of every moment after ``after_us``, and maybe some before."""
    # Clocks that go back near this moment show again what they have shown: begin as much earlier.
    near = [_wall_us(after_us + shift, zone) - shift for shift in (-_DAY_US, 0, _DAY_US)]
    start_us = near[1] - (max(near) - min(near))
    return CronSim(expression, _EPOCH_WALL + timedelta(microseconds=start_us))


def _wall_us(moment_us: int, zone: ZoneInfo) -> int:
    wall = (_EPOCH + timedelta(microseconds=moment_us)).astimezone(zone).replace(tzinfo=None)
    return (wall - _EPOCH_WALL) // _MICROSECOND


def _moment_us(wall: datetime, zone: ZoneInfo, *, fold: int) -> int:
    return (wall.replace(tzinfo=zone, fold=fold) - _EPOCH) // _MICROSECOND


def _is_shown(wall: datetime, zone: ZoneInfo) -> bool:
    """Tell whether the clocks of the zone ever show that time, or jump over it."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    return moment.astimezone(zone).replace(tzinfo=None) == wall


def _daily(walls: Iterator[datetime], zone: ZoneInfo) -> Iterator[int]:
    """Each time once: the first of two, and the end of the jump for one that is jumped over."""
    for wall in walls:
        shown = wall
        while not _is_shown(shown, zone):
            shown += _MINUTE
        yield _moment_us(shown, zone, fold=0)


def _rhythm(walls: Iterator[datetime], zone: ZoneInfo) -> Iterator[int]:
    """Each time as often as the clocks show it."""
    again: list[int] = []  # The second time of what is shown twice; it comes after the first times.
    for wall in walls:
        if not _is_shown(wall, zone):
            continue
        first_us = _moment_us(wall, zone, fold=0)
        while again and again[0] < first_us:
            yield again.pop(0)
        yield first_us
        second_us = _moment_us(wall, zone, fold=1)
        if second_us > first_us:
            again.append(second_us)
    yield from again
