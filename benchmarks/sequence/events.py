"""The events of this benchmark: 10,000 keys in turn, and some overtaken by one to five later ones of their key."""

from __future__ import annotations

import numpy as np
import polars as pl

KEYS = 10_000
STEP_US = 20
"""Between two events: 50,000 a second, so each key has five."""
START_US = 1_767_225_600_000_000
"""2026-01-01, 00:00 UTC."""
OVERTAKEN_BY = 5
_SEED = 7


def events(count: int, disorder: float, missing: float, repeated: float) -> pl.DataFrame:
    """Return ``key, seq, at, value`` in the order of their arrival. ``at`` is when they were sent, in order."""
    chance = np.random.default_rng(_SEED)
    number = np.arange(count)
    late = np.where(chance.random(count) < disorder, chance.integers(1, OVERTAKEN_BY + 1, count), 0)
    number = number[np.argsort(number + late * KEYS, kind="stable")]
    if missing:
        number = number[chance.random(len(number)) >= missing]
    if repeated:
        number = np.repeat(number, np.where(chance.random(len(number)) < repeated, 2, 1))
    return pl.DataFrame(
        {
            "key": number % KEYS,
            "seq": number // KEYS,
            "at": START_US + number * STEP_US,
            "value": number % 1_000,
        }
    )
