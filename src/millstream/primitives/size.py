"""Amounts of memory as people write them: ``"500MB"``, ``"1.5 GiB"``; a bare number of an ``int`` is bytes."""

from __future__ import annotations

import re

from millstream.primitives.errors import ConfigurationError

Size = str | int

_UNIT_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", re.IGNORECASE)
_TOO_MANY = 2.0**63


def size_bytes(value: Size) -> int:
    """Return bytes. ``MB`` is 1,000,000 of them, ``MiB`` 1,048,576.

    Raises ConfigurationError for anything else, a text without a unit included: its unit would be a guess. So do a
    negative number, and what 64 bits cannot hold.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        total = float(value)
    else:
        match = _PATTERN.fullmatch(value.strip()) if isinstance(value, str) else None
        unit = None if match is None else _UNIT_BYTES.get(match[2].upper())
        if match is None or unit is None:
            raise _not_a_size(value)
        total = float(match[1]) * unit
    if not 0 <= total < _TOO_MANY:
        raise _not_a_size(value)
    return value if isinstance(value, int) else round(total)


def format_size(count_bytes: float) -> str:
    """Return an amount for people, three digits: ``"512 B"``, ``"1.5 MB"``, ``"2.25 GB"``."""
    for unit in ("TB", "GB", "MB", "KB"):
        if count_bytes >= _UNIT_BYTES[unit]:
            return f"{count_bytes / _UNIT_BYTES[unit]:.3g} {unit}"
    return f"{count_bytes:.0f} B"


def _not_a_size(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"{value!r} is not an amount of memory",
        expected="a number of bytes, or a text such as '500MB', '1.5GiB'",
        next_step="write the unit behind the number; Celery's bare number is KiB",
    )
