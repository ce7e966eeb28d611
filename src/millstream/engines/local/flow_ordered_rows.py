"""Rows that come out in the order of event time: each waits until the watermark has passed it.

Where there is no event time they go as they come.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from millstream.engines.local.flow_kept_rows import KeptRows
from millstream.engines.local.flow_state import Blob, StateChange
from millstream.flows.watermark import TIME_MIN


def in_order(rows: pl.DataFrame, time: str | None) -> pl.DataFrame:
    """Return rows in the order of their time; those of one time stay as they lie."""
    return rows if time is None else rows.sort(time, maintain_order=True)


class OrderedRows:
    """The rows that wait, in memory and in the catalog. Belongs to one stream in one thread."""

    def __init__(self, time: str | None, schema: pl.Schema, *, closed_until_us: int) -> None:
        """Start with none; ``schema`` is that of the rows."""
        self._time = time
        self._nothing = pl.DataFrame(schema=schema)
        needed_us = pl.lit(TIME_MIN) if time is None else pl.col(time).cast(pl.Int64)
        self._kept = KeptRows(schema, needed_us, closed_until_us=closed_until_us)

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored."""
        self._kept.load(blobs, where=where)

    def rows(self) -> pl.DataFrame:
        """Return the rows that wait."""
        return self._kept.rows().collect()

    def advance(self, rows: pl.DataFrame | None, until_us: int) -> tuple[pl.DataFrame, StateChange]:
        """Take new rows, and return those before a watermark in the order of time, and the change to store."""
        new = self._nothing if rows is None else rows.select(self._nothing.columns)
        if self._time is None:
            return new, StateChange()
        has_come = pl.col(self._time).cast(pl.Int64) < until_us
        due = pl.concat([self._kept.rows().filter(has_come), new.lazy().filter(has_come)])
        change = self._kept.advance(new, until_us)
        return in_order(due.collect(), self._time), change

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that lets a row out, or None if none waits."""
        return None if self._time is None else self._kept.first_due_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which none waits, or None if none does."""
        return None if self._time is None else self._kept.last_due_us
