"""Identifiers that sort by the time of their making."""

from __future__ import annotations

import os

from millstream.primitives.clock import SYSTEM_CLOCK, Clock

_HEX_DIGITS_TIME = 14
_RANDOM_BYTES = 8


def new_id(clock: Clock = SYSTEM_CLOCK) -> str:
    """Return 30 hexadecimal characters: microseconds since the epoch, then 64 random bits.

    Ids made on one machine sort by time to the microsecond; two are equal with a probability of 2^-64 within one
    microsecond.
    """
    return f"{clock.now_us():0{_HEX_DIGITS_TIME}x}{os.urandom(_RANDOM_BYTES).hex()}"
