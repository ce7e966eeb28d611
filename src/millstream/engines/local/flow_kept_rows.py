"""Rows that a stream keeps until the watermark has passed them: in memory, and their changelog in the catalog.

Each micro-batch appends its rows to the changelog; when more is stored than twice what is needed, a snapshot replaces
it. What is needed follows from a row's time and the watermark alone, so loading leaves out the rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from millstream.engines.local.flow_state import (
    GROUPS_MIN,
    PARTIALS_MAX,
    Blob,
    Changelog,
    StateChange,
    decoded,
    encoded,
)


class KeptRows:
    """Rows in the order in which they came. Belongs to one stream in one thread."""

    def __init__(self, schema: pl.Schema, needed_us: pl.Expr, *, closed_until_us: int) -> None:
        """Start with none. ``needed_us`` computes for a row the last watermark at which it may still be looked at."""
        self._needed_us = needed_us
        self._closed_until_us = closed_until_us
        self._frame = pl.DataFrame(schema=schema)
        self._changelog = Changelog()

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored, without what is not needed any more."""
        stored = list(blobs)
        self._changelog.loaded(stored)
        frames = [decoded(data, checksum, where) for _, checksum, data in stored]
        needed = [frame.filter(self._needed_us >= self._closed_until_us) for frame in frames]
        self._frame = pl.concat([self._frame, *needed]).rechunk()

    @property
    def height(self) -> int:
        """How many rows are kept."""
        return self._frame.height

    def rows(self) -> pl.LazyFrame:
        """Return the rows that are kept."""
        return self._frame.lazy()

    def advance(self, new: pl.DataFrame, until_us: int) -> StateChange:
        """Keep new rows, and forget those that are not needed behind a watermark; return the change to store."""
        is_needed = self._needed_us >= until_us
        new = new.filter(is_needed)
        if until_us > self._closed_until_us and self._frame.height:
            self._frame = self._frame.filter(is_needed)
        self._closed_until_us = max(self._closed_until_us, until_us)
        if new.height:
            self._frame = pl.concat([self._frame, new])
        if not self._frame.height:
            return self._changelog.replace()
        if self._is_due(new.height):
            self._frame = self._frame.rechunk()
            return self._changelog.replace(encoded(self._frame))
        return self._changelog.append(encoded(new))

    def _is_due(self, new_rows: int) -> bool:
        limit = max(GROUPS_MIN, 2 * self._frame.height)
        stored = self._changelog
        return stored.blobs >= PARTIALS_MAX or stored.rows + new_rows > limit

    @property
    def first_due_us(self) -> int | None:
        """The least watermark behind which a row is not needed any more, or None if none is kept."""
        first: int | None = self._frame.select(self._needed_us.min() + 1).item()
        return first

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which no row is needed, or None if none is kept."""
        last: int | None = self._frame.select(self._needed_us.max() + 1).item()
        return last
