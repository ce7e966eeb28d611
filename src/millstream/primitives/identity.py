"""Identifiers that sort by the time of their making."""

from __future__ import annotations

import os

from millstream.primitives.clock import SYSTEM_CLOCK, Clock

_HEX_DIGITS_TIME = 14
_RANDOM_BYTES = 8
_READ_AT_ONCE = 256
_random: list[str] = []
"""Random parts that were read from the system and not used yet: a call of the system costs more than all else here."""


def new_id(clock: Clock = SYSTEM_CLOCK) -> str:
    """Return 30 hexadecimal characters: microseconds since the epoch, then 64 random bits.

    Ids made on one machine sort by time to the microsecond; two are equal with a probability of 2^-64 within one
    microsecond.
    """
    try:
        part = _random.pop()
    except IndexError:
        part = _read_random()
    return f"{clock.now_us():0{_HEX_DIGITS_TIME}x}{part}"


def _read_random() -> str:
    data = os.urandom(_RANDOM_BYTES * _READ_AT_ONCE).hex()
    first, *others = (
        data[at : at + 2 * _RANDOM_BYTES] for at in range(0, len(data), 2 * _RANDOM_BYTES)
    )
    _random.extend(others)
    return first


if hasattr(os, "register_at_fork"):
    # A child must not use what its parent will use too.
    os.register_at_fork(after_in_child=_random.clear)
