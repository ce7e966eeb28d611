"""The stages of a stream: steps that keep state, each with the stateless steps behind it.

A stage gets rows and a watermark, and gives rows; what they mean for the watermark of the next stage it says itself.
The first stage may be a join; the others are aggregations and, in ``flow_process_stage``, functions with state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_dense import DenseWindows, dense_windows
from millstream.engines.local.flow_dense_keys import TooLarge
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_join_state import JoinState
from millstream.engines.local.flow_joining import LEFT, RIGHT, JoinKernel
from millstream.engines.local.flow_revisions import Revisions
from millstream.engines.local.flow_state import Blob, StateChange, WindowState
from millstream.engines.local.flow_steps import StepRunner, steps_behind
from millstream.engines.local.flow_tally import Tally
from millstream.engines.local.flow_windows import FLOOR
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import TIME_MAX, TIME_MIN
from millstream.flows.windows import WINDOW_END

MARK = "__ms_mark"
"""The watermark of the row's partition as it stood before the row."""

TIMELY, LATE, UNTIMED = range(3)

Advanced = tuple[pl.DataFrame, tuple[StateChange, ...]]
"""The rows that a stage gives, and the changes of its states."""


class Stage(Protocol):
    """One step that keeps state, and the steps behind it. Belongs to one stream in one thread."""

    closed_until_us: int
    after: StepRunner
    """The steps behind it."""

    @property
    def states(self) -> range:
        """The numbers of its states in the catalog."""

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row; ``mark`` is the watermark of its partition before it."""

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Return whether that is known of all rows without a look at each; False says nothing."""

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Take timely rows, one frame for each side, and close everything up to a watermark."""

    def fire_clock(self, now_us: int) -> Advanced:
        """Call the timers of the clock that are due."""

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before; ``time`` is one of its own columns."""

    def finish(self) -> Advanced:
        """Give what no watermark brings out, once nothing more can come."""

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something that no watermark brings out."""

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that gives something more, or None if none does."""

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which nothing is open, or None if nothing is."""

    @property
    def clock_due_us(self) -> int | None:
        """When the next timer of the clock is due, or None."""


def sorted_out(
    stage: Stage, side: int, rows: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame | None, Mapping[int, int]]:
    """Return the timely rows, the others if there are some, and how many there are of each fate.

    Rows of a source have ``MARK``; those that another stage gives do not.
    """
    counts = {LATE: 0, UNTIMED: 0}
    if stage.are_timely(side, rows):
        return rows, None, counts
    mark = pl.col(MARK) if MARK in rows.columns else None
    fates = rows.select(stage.fate(side, mark).alias(MARK))[MARK]
    if not fates.max():
        return rows, None, counts
    counts = {fate: int((fates == fate).sum()) for fate in counts}
    is_timely = fates == TIMELY
    return rows.filter(is_timely), rows.filter(~is_timely), counts


class Clockless:
    """A stage without timers of the clock, and with nothing that waits for the end of the input."""

    states: range
    _empty: pl.DataFrame

    @property
    def clock_due_us(self) -> int | None:
        """There is none."""
        return None

    @property
    def is_unfinished(self) -> bool:
        """Nothing is."""
        return False

    def finish(self) -> Advanced:
        """There is nothing to give."""
        return self._empty, (StateChange(),) * len(self.states)

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Say nothing."""
        del side, rows
        return False

    def fire_clock(self, now_us: int) -> Advanced:
        """There is nothing to call."""
        del now_us
        return self._empty, (StateChange(),) * len(self.states)


def fate(time: pl.Expr, late_from: pl.Expr, closed_until_us: int, mark: pl.Expr | None) -> pl.Expr:
    """Return what becomes of a row that is too late once the watermark has reached ``late_from``."""
    is_late = late_from <= closed_until_us
    if mark is not None:
        is_late |= late_from <= mark
    fate = pl.when(time.is_null()).then(UNTIMED).when(is_late).then(LATE).otherwise(TIMELY)
    return fate.cast(pl.Int8)


class AggregationStage(Clockless):
    """An aggregation by window and the steps behind it, up to the next aggregation or the end."""

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
        step, schemas = plan.steps[at], plan.schemas()
        assert isinstance(step, Aggregation)
        assert step.window is not None
        assert step.window.on is not None, "windows of time have one"
        self._on = step.window.on
        self.states = range(state, state + 1)
        self._kernel = GroupKernel(step, schemas[at], where=f"step {at + 1}, agg")
        assert self._kernel.kind is not None
        self._kind = self._kernel.kind
        self.after = steps_behind(plan, at, end, tally)
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))
        self.closed_until_us = claim.closed_until_us.get(state, TIME_MIN)
        self._state = _windows(
            step,
            self._kernel,
            schemas[at],
            self.closed_until_us,
            claim.state.get(state, ()),
            where=f"{where}, flow {claim.name!r}",
        )
        self._revisions: Revisions | None = None
        if step.window.emission.is_early:
            columns = [*self._kind.columns, *self._kernel.keys]
            has_open = self.last_due_us is not None
            emission = step.window.emission
            self._revisions = Revisions(emission, columns, now_us, has_open=has_open)

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row; ``mark`` is the watermark of its partition before it."""
        del side
        time = pl.col(self._on)
        return fate(time, self._kind.late_from(time), self.closed_until_us, mark)

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Return whether no window of a row was closed, where the windows are simple arithmetic."""
        del side
        times = rows[self._on].cast(pl.Int64)
        if times.null_count():
            return False
        late_from_us = self._kind.late_from_us(times.to_numpy())
        if (
            late_from_us is None
            or int(np.min(late_from_us, initial=TIME_MAX)) <= self.closed_until_us
        ):
            return False
        return MARK not in rows.columns or bool((late_from_us > rows[MARK].to_numpy()).all())

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Add rows to their groups and close windows up to a watermark."""
        [rows] = sides
        closed, change = self._advanced(rows, until_us)
        self.closed_until_us = max(self.closed_until_us, until_us)
        given = [] if closed is None else [self._kernel.final(closed)]
        if self._revisions is not None:
            given += self._revised(self._revisions)
        if not given:
            return self._empty, (change,)
        return self.after.applied(pl.concat(given)), (change,)

    def _revised(self, revisions: Revisions) -> list[pl.DataFrame]:
        """Return the early rows of what the micro-batch has changed, or note that they are due by the clock."""
        touched = self._state.touched
        if self.last_due_us is None:
            revisions.clear()
        elif touched is not None and touched.height:
            if not revisions.is_clocked:
                return [self._kernel.final(self._state.current(touched), is_closed=False)]
            revisions.note(touched)
        return []

    def fire_clock(self, now_us: int) -> Advanced:
        """Give the early rows that are due by the clock."""
        revisions = self._revisions
        if revisions is None or revisions.due_us is None or revisions.due_us > now_us:
            return super().fire_clock(now_us)
        states = self._state.current(revisions.take())
        return self.after.applied(self._kernel.final(states, is_closed=False)), (StateChange(),)

    @property
    def clock_due_us(self) -> int | None:
        """When early rows are due by the clock, or None."""
        return None if self._revisions is None else self._revisions.due_us

    def _advanced(
        self, rows: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame | None, StateChange]:
        if isinstance(self._state, DenseWindows):
            try:
                return self._state.advance(rows, until_us)
            except TooLarge:
                dense = self._state
                self._state = WindowState(self._kernel, closed_until_us=self.closed_until_us)
                self._state.take_over(dense.states(), dense.changelog)
        return self._state.advance(None if rows is None else self._partial(rows), until_us)

    def _partial(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the state of rows; up to where windows are closed for each of them hangs on its own partition."""
        frame = rows.lazy()
        if self._kind.asks_floor:
            floor = pl.lit(self.closed_until_us)
            if MARK in rows.columns:
                floor = pl.max_horizontal(MARK, floor)
            frame = frame.with_columns(floor.alias(FLOOR))
        return self._kernel.partial(frame, has_floor=self._kind.asks_floor).collect()

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before."""
        until_us = self.closed_until_us
        if until_us == TIME_MIN or time == WINDOW_END:
            return until_us
        first = self._state.first_start_us
        bound = self._kind.next_start_us(until_us)
        return bound if first is None else min(first, bound)

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that closes a window, or None if none is open."""
        return self._state.first_due_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark that closes all windows that are open, or None if none is."""
        return self._state.last_due_us


def _windows(
    step: Aggregation,
    kernel: GroupKernel,
    schema: pa.Schema,
    closed_until_us: int,
    blobs: Sequence[Blob],
    *,
    where: str,
) -> WindowState | DenseWindows:
    """Return the state that the last commit left: as arrays if they can hold it, else as Polars has it."""
    dense = dense_windows(step, kernel, schema, closed_until_us=closed_until_us)
    if dense is not None:
        with suppress(TooLarge):
            dense.load(blobs, where=where)
            return dense
    state = WindowState(kernel, closed_until_us=closed_until_us)
    state.load(blobs, where=where)
    return state


class JoinStage(Clockless):
    """A join of two flows and the steps behind it, up to the first aggregation or the end."""

    states = range(2)

    def __init__(self, plan: Plan, end: int, *, claim: Claim, where: Path, tally: Tally) -> None:
        """Compile, and load the state that the last commit left."""
        join = plan.source
        assert isinstance(join, JoinSource)
        assert join.time is not None
        self._join = join
        self._kernel = JoinKernel(join)
        self.after = steps_behind(plan, -1, end, tally)
        self._no_pairs = pl.LazyFrame(schema=polars_schema(join.schema))
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))
        self._nothing = [
            pl.DataFrame(schema=self._kernel.prepared_schema(side)) for side in self.states
        ]
        self.closed_until_us = claim.closed_until_us.get(0, TIME_MIN)
        self._sides = [
            JoinState(self._kernel, side, closed_until_us=self.closed_until_us)
            for side in self.states
        ]
        for side, state in enumerate(self._sides):
            state.load(claim.state.get(side, ()), where=f"{where}, flow {claim.name!r}")

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row: it is late if a partner of it may have been forgotten."""
        assert self._join.time is not None
        time = pl.col((self._join.time.left, self._join.time.right)[side])
        return fate(time, self._kernel.late_from(time), self.closed_until_us, mark)

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Give the pairs that new rows make, and the rows whose partners cannot come any more."""
        kernel, (left, right) = self._kernel, self._sides
        new = [self._prepared(rows, side) for side, rows in enumerate(sides)]
        parts: list[pl.LazyFrame] = []
        if new[LEFT].height:
            parts.append(kernel.pairs(new[LEFT].lazy(), right.all(new[RIGHT])))
        if new[RIGHT].height and left.height:
            parts.append(kernel.pairs(left.rows(), new[RIGHT].lazy()))
        for side in self.states:
            own, other = self._sides[side], self._sides[1 - side]
            if kernel.asks[side] and until_us > TIME_MIN:
                done = own.done(new[side], self.closed_until_us, until_us)
                if done.height:
                    parts.append(kernel.alone(done.lazy(), other.all(new[1 - side]), side))
        given = pl.concat([self._no_pairs, *parts])
        output = self.after.computed(given) if parts else self._empty
        changes = tuple(s.advance(n, until_us) for s, n in zip(self._sides, new, strict=True))
        self.closed_until_us = max(self.closed_until_us, until_us)
        return output, changes

    def _prepared(self, rows: pl.DataFrame | None, side: int) -> pl.DataFrame:
        nothing = self._nothing[side]
        if rows is None or not rows.height:
            return nothing
        return self._kernel.prepared(rows.lazy(), side).select(nothing.columns).collect()

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before."""
        until_us = self.closed_until_us
        side = self._join.times()[time]
        if until_us == TIME_MIN or time == WINDOW_END:
            return until_us
        if side is None:
            firsts = [state.first_start_us for state in self._sides]
        else:
            firsts = [self._sides[side].first_time_us]
        bound = self._kernel.earliest_us(until_us)
        return min([bound, *(first for first in firsts if first is not None)])

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that tells of a row that it has no partner, or None if nobody asks."""
        due = [s.first_due_us for side, s in enumerate(self._sides) if self._kernel.asks[side]]
        return min((us for us in due if us is not None), default=None)

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which no row is needed any more, or None if none is kept."""
        due = [state.last_due_us for state in self._sides]
        return max((us for us in due if us is not None), default=None)
