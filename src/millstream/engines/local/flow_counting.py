"""Count windows: so many rows of each key after one another, in the order of their time.

    a key's rows     • • • • •|• • • • •|• •           ms.count_window(5)
    gives                     r         r    r         the last at the end of bounded input: it is not complete

A stream keeps two things: rows whose time has not come yet, and of each key the window that is not complete, as one row
of aggregates. A key whose window has just been completed is forgotten until its next row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import ROWS, GroupKernel
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_expression import computed, polars_schema
from millstream.engines.local.flow_ordered_rows import OrderedRows, in_order
from millstream.engines.local.flow_stages import TIMELY, Advanced, Clockless, fate
from millstream.engines.local.flow_state import (
    GROUPS_MIN,
    PARTIALS_MAX,
    Blob,
    Changelog,
    StateChange,
    decoded,
    encoded,
)
from millstream.engines.local.flow_steps import steps_behind
from millstream.engines.local.flow_tally import Tally
from millstream.engines.local.flow_windows import TIME, Parts
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import TIME_MIN
from millstream.flows.windows import WINDOW_END, WINDOW_START, CountWindow

_ALL: Final = "__ms_all"
"""A key that all rows have, so that there is always one."""
_NUMBER: Final = "__ms_number"
"""Which of the windows that a micro-batch adds to; 0 is the one that was open."""
_PLACE: Final = "__ms_place"


class CountKernel:
    """An aggregation by count windows. Immutable."""

    def __init__(self, step: Aggregation, schema: pa.Schema, *, where: str) -> None:
        """Compile. ``schema`` is that of the aggregation's input, and fits."""
        assert step.window is not None
        assert isinstance(step.window.windows, CountWindow)
        self.size = step.window.windows.size
        self.time = step.window.on
        self._schema = schema
        self._groups = GroupKernel(step, schema, where=where)
        self.keys = [_ALL, *self._groups.keys]
        bounds: Parts = {}
        merged: Parts = {}
        if self.time is not None:
            bounds = {WINDOW_START: pl.col(TIME).min(), WINDOW_END: pl.col(TIME).max()}
            merged = {
                WINDOW_START: pl.col(WINDOW_START).min(),
                WINDOW_END: pl.col(WINDOW_END).max(),
            }
        self._partial = _named(bounds | self._groups.partial_parts)
        self._merge = _named(merged | self._groups.merge_parts)

    def states(self, rows: pl.LazyFrame, opened: pl.LazyFrame) -> pl.LazyFrame:
        """Return the windows that rows, in their order, make of those that were open; each in one row."""
        inputs = computed(rows, self._groups.inputs, self._schema).with_columns(
            pl.lit(0, dtype=pl.Int8).alias(_ALL)
        )
        counts = opened.select(*self.keys, pl.col(ROWS).alias(_PLACE))
        counted = inputs.join(
            counts, on=self.keys, how="left", nulls_equal=True, maintain_order="left"
        )
        place = pl.col(_PLACE).fill_null(0) + pl.int_range(pl.len()).over(self.keys)
        number = (place // self.size).alias(_NUMBER)
        parts = counted.with_columns(number).group_by(_NUMBER, *self.keys).agg(self._partial)
        before = opened.with_columns(pl.lit(0, dtype=pl.Int64).alias(_NUMBER))
        touched = before.join(parts, on=self.keys, how="semi", nulls_equal=True)
        both = pl.concat([touched, parts], how="diagonal")
        return both.group_by(_NUMBER, *self.keys).agg(self._merge).drop(_NUMBER)

    def state_schema(self) -> pl.Schema:
        """Return the columns of state."""
        nothing = pl.LazyFrame(schema=polars_schema(self._schema))
        inputs = computed(nothing, self._groups.inputs, self._schema).with_columns(
            pl.lit(0, dtype=pl.Int8).alias(_ALL)
        )
        return inputs.group_by(self.keys).agg(self._partial).collect_schema()

    def all_windows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return what all rows there are give, complete or not: the step in a batch. Their times are known."""
        nothing = pl.LazyFrame(schema=self.state_schema())
        return self.final(self.states(in_order(rows, self.time).lazy(), nothing).collect())

    def final(self, states: pl.DataFrame) -> pl.DataFrame:
        """Return the output rows of windows, sorted by window and keys, nulls first."""
        return self._groups.final(states)


def _named(parts: Parts) -> list[pl.Expr]:
    return [expression.alias(name) for name, expression in parts.items()]


class OpenCounts:
    """Of each key the window that is not complete. Belongs to one stream in one thread.

    The changelog holds the newest state of the keys of each micro-batch; a state of no rows says that there is none.
    """

    def __init__(self, kernel: CountKernel) -> None:
        """Start with none."""
        self._kernel = kernel
        self._schema = kernel.state_schema()
        self.opened = pl.DataFrame(schema=self._schema)
        self._changelog = Changelog()

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored."""
        stored = list(blobs)
        self._changelog.loaded(stored)
        frames = [decoded(data, checksum, where).cast(self._schema) for _, checksum, data in stored]
        states = pl.concat([self.opened, *frames])
        newest = states.unique(self._kernel.keys, keep="last", maintain_order=True)
        self.opened = newest.filter(pl.col(ROWS) > 0)

    def advance(self, rows: pl.DataFrame) -> tuple[pl.DataFrame | None, StateChange]:
        """Count rows in their order; return complete windows (None if there are none), and the change to store."""
        if not rows.height:
            return None, StateChange()
        keys = self._kernel.keys
        states = self._kernel.states(rows.lazy(), self.opened.lazy()).collect()
        states = states.select(self._schema.names()).cast(self._schema)
        is_complete = states[ROWS] == self._kernel.size
        complete, rest = states.filter(is_complete), states.filter(~is_complete)
        kept = self.opened.join(states, on=keys, how="anti", nulls_equal=True)
        done = complete.select(keys).unique().join(rest, on=keys, how="anti", nulls_equal=True)
        gone = pl.concat([self.opened.clear(), done.with_columns(_no_rows())], how="diagonal")
        self.opened = pl.concat([kept, rest])
        changed = pl.concat([rest, gone])
        return complete if complete.height else None, self._change(changed)

    def finish(self) -> tuple[pl.DataFrame | None, StateChange]:
        """Give the windows that are not complete, and forget them."""
        left, self.opened = self.opened, self.opened.clear()
        return left if left.height else None, self._changelog.replace()

    def _change(self, changed: pl.DataFrame) -> StateChange:
        if not self.opened.height:
            return self._changelog.replace()
        limit = max(GROUPS_MIN, 2 * self.opened.height)
        stored = self._changelog
        if stored.blobs >= PARTIALS_MAX or stored.rows + changed.height > limit:
            return self._changelog.replace(encoded(self.opened))
        return self._changelog.append(encoded(changed))


def _no_rows() -> pl.Expr:
    return pl.lit(0, dtype=pl.Int64).alias(ROWS)


class CountStage(Clockless):
    """An aggregation by count windows and the steps behind it, up to the next step that keeps state or the end."""

    def __init__(
        self,
        plan: Plan,
        state: int,
        at: int,
        end: int,
        *,
        claim: Claim,
        where: Path,
        tally: Tally,
        now_us: Callable[[], int],
    ) -> None:
        """Compile, and load the state that the last commit left; ``at`` is where it stands, ``end`` where the next."""
        del now_us
        step, schemas = plan.steps[at], plan.schemas()
        assert isinstance(step, Aggregation)
        self.states = range(state, state + 2)
        self._kernel = CountKernel(step, schemas[at], where=f"step {at + 1}, agg")
        self._time = self._kernel.time
        self.after = steps_behind(plan, at, end, tally)
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))
        self.closed_until_us = claim.closed_until_us.get(state, TIME_MIN)
        place = f"{where}, flow {claim.name!r}"
        self._waiting = OrderedRows(
            self._time, polars_schema(schemas[at]), closed_until_us=self.closed_until_us
        )
        self._waiting.load(claim.state.get(state, ()), where=place)
        self._counts = OpenCounts(self._kernel)
        self._counts.load(claim.state.get(state + 1, ()), where=place)

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row: it is late once those behind it may have been counted."""
        del side
        if self._time is None:
            return pl.lit(TIMELY, dtype=pl.Int8)
        time = pl.col(self._time)
        return fate(time, time.cast(pl.Int64) + 1, self.closed_until_us, mark)

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Return whether no row is late: without a time none is."""
        del side, rows
        return self._time is None

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Count what lies before a watermark in the order of its time; without a time all that has come."""
        [rows] = sides
        due, waiting = self._waiting.advance(rows, until_us)
        complete, counts = self._counts.advance(due)
        self.closed_until_us = max(self.closed_until_us, until_us)
        return self._behind(complete), (waiting, counts)

    def finish(self) -> Advanced:
        """Give the windows that are not complete: nothing more comes."""
        left, change = self._counts.finish()
        return self._behind(left), (StateChange(), change)

    @property
    def is_unfinished(self) -> bool:
        """Whether a window is not complete."""
        return self._counts.opened.height > 0

    def _behind(self, states: pl.DataFrame | None) -> pl.DataFrame:
        return self._empty if states is None else self.after.applied(self._kernel.final(states))

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before."""
        until_us = self.closed_until_us
        if until_us == TIME_MIN or time == WINDOW_END:
            return until_us
        first_us: int | None = self._counts.opened.select(
            pl.col(WINDOW_START).cast(pl.Int64).min()
        ).item()
        return until_us if first_us is None else min(first_us, until_us)

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that has something counted, or None if nothing waits."""
        return self._waiting.first_due_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which nothing waits, or None if nothing does."""
        return self._waiting.last_due_us
