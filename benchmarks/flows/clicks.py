"""The data of this benchmark: clicks of users on pages, in the order of their time, the same in every run."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Settings

SCHEMA = {"user": int, "page": str, "price": float, "at": ms.Timestamp}
_PAGES, _USERS = 1_000, 100_000
_SEED = 7
_ROWS_PER_SECOND = 10_000
_START_US = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)


def clicks(settings: Settings) -> pa.Table:
    """Return two million clicks of 200 seconds, or a few in a smoke test."""
    rows = settings.scaled(2_000_000, 5_000)
    chance = np.random.default_rng(_SEED)
    pages = pa.array([f"/page/{number}" for number in range(_PAGES)])
    return pa.table(
        {
            "user": chance.integers(0, _USERS, rows),
            "page": pages.take(pa.array(chance.integers(0, _PAGES, rows))),
            "price": chance.random(rows) * 100 - 10,
            "at": pa.array(
                _START_US + np.arange(rows) * (1_000_000 // _ROWS_PER_SECOND),
                pa.timestamp("us", tz="UTC"),
            ),
        }
    )
