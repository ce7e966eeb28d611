"""Joins of two flows in Polars: the pairs, the rows without a partner, and how long each row is needed.

With W the watermark, below which no row of either side can come any more:

    a row is ``done``      once W is beyond ``done_us``: no partner can come; only now is it known to have none
    a row is ``needed``    until W is beyond ``needed_us``: a partner may come, or one that is not done may ask for it

    interval, right - left in [lower, upper]      done                needed, if all of its partners' fates are asked
    left row                                      time + upper        time + upper + max(0, -lower)
    right row                                     time - lower        time - lower + max(0, upper)

In a window both are the last microsecond of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import dtype, polars_schema
from millstream.engines.local.flow_windows import TIME, FixedKind, window_kind
from millstream.flows.merging import AsOf, JoinSource, Within
from millstream.flows.windows import WINDOW_END, WINDOW_START

_ROW = "__ms_row"
_OTHER = "__ms_other_"
LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class _Side:
    schema: pa.Schema
    on: tuple[str, ...]
    time: str | None


class JoinKernel:
    """One join. Immutable. A side's rows are ``prepared`` before anything else is done with them."""

    def __init__(self, join: JoinSource) -> None:
        """Compile."""
        self.how = join.how
        self.schema = join.schema
        time = join.time
        match = None if time is None else time.match
        assert not isinstance(match, AsOf), "that join has a kernel of its own"
        self._match = match
        self._kind: FixedKind | None = None
        if self._match is not None and not isinstance(self._match, Within):
            kind = window_kind(self._match, [], {})
            assert isinstance(kind, FixedKind)
            self._kind = kind
        self.sides = (
            _Side(join.left.schema, join.left_on, None if time is None else time.left),
            _Side(join.right.schema, join.right_on, None if time is None else time.right),
        )
        self.asks = (self.how in ("left", "full", "semi", "anti"), self.how in ("right", "full"))
        """For which side it matters whether a row has a partner."""

    def prepared(self, rows: pl.LazyFrame, side: int) -> pl.LazyFrame:
        """Return the rows with what the join looks at; the time of each must be known if the join has one."""
        time = self.sides[side].time
        if time is None:
            return rows
        added = [pl.col(time).cast(pl.Int64).alias(TIME)]
        if self._kind is not None:
            added.append(self._kind.start(pl.col(time)).alias(WINDOW_START))
        return rows.with_columns(added)

    def prepared_schema(self, side: int) -> pl.Schema:
        """Return the columns of ``prepared`` rows."""
        return self.prepared(
            pl.LazyFrame(schema=polars_schema(self.sides[side].schema)), side
        ).collect_schema()

    def done_us(self, side: int) -> pl.Expr:
        """Return for a row the greatest time of a partner, in microseconds."""
        if self._kind is not None:
            return self._kind.end(pl.col(WINDOW_START)).cast(pl.Int64) - 1
        assert isinstance(self._match, Within)
        return pl.col(TIME) + (self._match.upper_us if side == LEFT else -self._match.lower_us)

    def needed_us(self, side: int) -> pl.Expr:
        """Return for a row the last watermark at which it may still be looked at."""
        done = self.done_us(side)
        if self._kind is not None or not self.asks[1 - side]:
            return done
        assert isinstance(self._match, Within)
        longer = -self._match.lower_us if side == LEFT else self._match.upper_us
        return done + max(0, longer)

    def late_from(self, time: pl.Expr) -> pl.Expr:
        """Return the watermark from which on a row is too late: a partner of it may have been forgotten."""
        return time.cast(pl.Int64) + 1 if self._kind is None else self._kind.late_from(time)

    def earliest_us(self, until_us: int) -> int:
        """Return the least time of a row that is not late behind a watermark."""
        return until_us if self._kind is None else self._kind.next_start_us(until_us)

    def pairs(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """Return the pairs as output rows; there are none if the join gives none."""
        if self.how in ("semi", "anti"):
            return pl.LazyFrame(schema=polars_schema(self.schema))
        return self._matched(left, right).select(
            [self._output(name, LEFT) for name in self.schema.names]
        )

    def alone(self, rows: pl.LazyFrame, others: pl.LazyFrame, side: int) -> pl.LazyFrame:
        """Return output rows for the rows of a side that no ``others`` fit; with ``semi``, that some fit."""
        numbered = rows.with_row_index(_ROW)
        both = (numbered, others) if side == LEFT else (others, numbered)
        row = _ROW if side == LEFT else _OTHER + _ROW
        paired = self._matched(*both).select(pl.col(row).alias(_ROW)).unique()
        kept = numbered.join(paired, on=_ROW, how="semi" if self.how == "semi" else "anti")
        return kept.select([self._alone_output(name, side) for name in self.schema.names])

    def all_rows(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """Return what the join of all rows gives: the join as a batch."""
        if self._match is None:
            return self._plain(left, right)
        sides = [
            self.prepared(rows.filter(pl.col(self.sides[side].time or "").is_not_null()), side)
            for side, rows in enumerate((left, right))
        ]
        if not any(self.asks):
            return self.pairs(*sides)
        first, second = sides
        parts = [self.pairs(first, second)]
        if self.asks[LEFT]:
            parts.append(self.alone(first, second, LEFT))
        if self.asks[RIGHT]:
            parts.append(self.alone(second, first, RIGHT))
        return pl.concat(parts)

    def _plain(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        joined = left.join(
            right,
            left_on=list(self.sides[LEFT].on),
            right_on=list(self.sides[RIGHT].on),
            how=self.how,  # type: ignore[arg-type]  # checked when the plan was built
            nulls_equal=False,
            coalesce=True,
        )
        if self.how == "right":
            # Polars keeps the keys of the right side, under their names.
            names = dict(zip(self.sides[RIGHT].on, self.sides[LEFT].on, strict=True))
            joined = joined.rename({a: b for a, b in names.items() if a != b})
        return joined.select(self.schema.names)

    def _matched(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """Return the pairs, the right row's columns under names of their own."""
        right = right.select(pl.all().name.prefix(_OTHER))
        left_on, right_on = (list(side.on) for side in self.sides)
        if self._kind is not None:
            left_on, right_on = [*left_on, WINDOW_START], [*right_on, WINDOW_START]
        joined = left.join(
            right,
            left_on=left_on,
            right_on=[_OTHER + name for name in right_on],
            how="inner",
            nulls_equal=False,
            coalesce=False,
        )
        if isinstance(self._match, Within):
            after = pl.col(_OTHER + TIME) - pl.col(TIME)
            joined = joined.filter(after.is_between(self._match.lower_us, self._match.upper_us))
        return joined

    def _output(self, name: str, side: int) -> pl.Expr:
        """Return a column of the output, of pairs or of rows of one side."""
        if self._kind is not None and name in (WINDOW_START, WINDOW_END):
            start = pl.col(WINDOW_START)
            return (start if name == WINDOW_START else self._kind.end(start)).alias(name)
        if name in self.sides[LEFT].schema.names:
            return pl.col(name)
        return pl.col(_OTHER + name if side == LEFT else name).alias(name)

    def _alone_output(self, name: str, side: int) -> pl.Expr:
        """Return a column of the output where the other side has no row."""
        of_left = name in self.sides[LEFT].schema.names
        of_window = self._kind is not None and name in (WINDOW_START, WINDOW_END)
        if of_window or of_left == (side == LEFT):
            return self._output(name, side)
        keys = dict(zip(self.sides[LEFT].on, self.sides[RIGHT].on, strict=True))
        if side == RIGHT and name in keys:
            return pl.col(keys[name]).alias(name)
        return pl.lit(None, dtype=dtype(self.schema.field(name).type)).alias(name)

    def first_start_us(self, rows: pl.DataFrame) -> int | None:
        """Return where the first window begins that a row lies in."""
        first: int | None = rows.select(pl.col(WINDOW_START).cast(pl.Int64).min()).item()
        return first
