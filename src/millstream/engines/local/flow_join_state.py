"""The rows of one side of a join that may still be needed."""

from __future__ import annotations

import polars as pl

from millstream.engines.local.flow_joining import JoinKernel
from millstream.engines.local.flow_kept_rows import KeptRows
from millstream.engines.local.flow_windows import TIME


class JoinState(KeptRows):
    """One side. Belongs to one stream in one thread. Rows are ``prepared`` by the kernel."""

    def __init__(self, kernel: JoinKernel, side: int, *, closed_until_us: int) -> None:
        """Start with no rows, everything done before that watermark."""
        super().__init__(
            kernel.prepared_schema(side), kernel.needed_us(side), closed_until_us=closed_until_us
        )
        self._kernel = kernel
        self._done_us = kernel.done_us(side)

    def all(self, new: pl.DataFrame) -> pl.LazyFrame:
        """Return the rows that are kept and new ones."""
        return pl.concat([self._frame, new]).lazy()

    def done(self, new: pl.DataFrame, before_us: int, until_us: int) -> pl.DataFrame:
        """Return the rows that no partner can come for at ``until_us``, and for which one could ``before_us``.

        A new row was not looked at before, whatever its time.
        """
        kept = self._frame.filter((self._done_us >= before_us) & (self._done_us < until_us))
        return pl.concat([kept, new.filter(self._done_us < until_us)])

    @property
    def first_time_us(self) -> int | None:
        """The least time of a row that is kept, or None."""
        first = self._frame[TIME].min()
        assert first is None or isinstance(first, int)
        return first

    @property
    def first_start_us(self) -> int | None:
        """Where the first window begins that a row lies in, or None."""
        return self._kernel.first_start_us(self._frame)

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that makes a row ``done`` which is not, or None."""
        due = self._done_us.filter(self._done_us >= self._closed_until_us).min() + 1
        first: int | None = self._frame.select(due).item()
        return first
