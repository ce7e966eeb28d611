"""Durations as people write them: ``"250ms"``, ``"2s"``, ``"1m"``, ``"22h"``, ``"7d"``."""

from __future__ import annotations

import re
from datetime import timedelta

from millstream.primitives.errors import ConfigurationError

Duration = str | timedelta

_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_TOO_LONG_US = 2.0**63
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)")


def duration_us(value: Duration) -> int:
    """Return microseconds. Parts may follow each other: ``"1h30m"``.

    Raises ConfigurationError for anything else, a bare number included: its unit would be a guess. So do a negative
    timedelta, and what 64 bits cannot hold.
    """
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise _not_a_duration(value)
        return value // timedelta(microseconds=1)
    if not isinstance(value, str):
        raise _not_a_duration(value)
    text = value.strip()
    total = 0.0
    position = 0
    for match in _PATTERN.finditer(text):
        if match.start() != position:
            raise _not_a_duration(value)
        total += float(match[1]) * _UNIT_US[match[2]]
        position = match.end()
    if position == 0 or position != len(text) or total >= _TOO_LONG_US:
        raise _not_a_duration(value)
    return round(total)


def format_duration(microseconds: float) -> str:
    """Return a duration for people, three digits: ``"1.25 ms"``, ``"2 s"``, ``"3.5 h"``, ``"13.4 years"``."""
    magnitude = abs(microseconds)
    if magnitude < 1_000:
        return f"{microseconds:.0f} µs"
    if magnitude < 1_000_000:
        return f"{microseconds / 1_000:.3g} ms"
    if magnitude < 120_000_000:
        return f"{microseconds / 1_000_000:.3g} s"
    if magnitude < 7_200_000_000:
        return f"{microseconds / 60_000_000:.3g} min"
    if magnitude < 172_800_000_000:
        return f"{microseconds / 3_600_000_000:.3g} h"
    if magnitude < 63_072_000_000_000:
        return f"{microseconds / 86_400_000_000:.3g} d"
    return f"{microseconds / 31_557_600_000_000:.3g} years"


def _not_a_duration(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"{value!r} is not a duration",
        expected="a timedelta that is not negative, or a text such as '250ms', '2s', '1h30m', '7d'",
        next_step="write the unit behind the number",
    )
