"""What a stream computes of one micro-batch: with windows, or event by event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_events import Failures
from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_sources import event_times
from millstream.engines.local.flow_state import StateChange, WindowState
from millstream.engines.local.flow_steps import StepRunner, polars_schema
from millstream.engines.local.flow_windows import FLOOR
from millstream.flows.event_time import event_time_anchor, inherited_time
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import (
    TIME_MIN,
    EventTime,
    PartitionTime,
    counting_partitions,
)
from millstream.flows.windows import WINDOW_END
from millstream.primitives.histogram import Histogram

MARK = "__ms_mark"
"""The watermark of the row's partition as it stood before the row."""

FATE = "__ms_fate"
_TIMELY, _LATE, _UNTIMED = range(3)


@dataclass(frozen=True)
class Computed:
    """What a micro-batch gives, not stored yet."""

    output: pl.DataFrame
    states: tuple[StateChange, ...] = ()
    """What changes in the state of each aggregation, in their order."""
    closed_until_us: Mapping[int, int] = field(default_factory=dict)
    """Up to where the windows of each aggregation are closed, by its number."""
    seen_us: Mapping[int, int] = field(default_factory=dict)
    late: int = 0
    untimed: int = 0
    late_rows: pl.DataFrame | None = None
    source_wait: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Idle:
    """What there is to do while nothing comes."""

    computed: Computed | None = None
    wait_us: int | None = None
    """After so long something more can be closed; None if nothing is open."""


class StatelessStream:
    """Steps without an aggregation: rows in, rows out."""

    closed_until_us = TIME_MIN

    def __init__(self, plan: Plan, failures: Failures) -> None:
        """Compile."""
        self._steps = StepRunner(plan.steps, plan.source.schema, first_number=1, failures=failures)
        self.late_schema = plan.source.schema

    def process(
        self,
        taken: Sequence[Taken],
        *,
        next_offsets: Mapping[int, int],
        ends: Mapping[int, int],
        bounded: bool,
        idle: frozenset[int] = frozenset(),
    ) -> Computed:
        """Return the output of a micro-batch: the partitions one after the other."""
        del next_offsets, ends, bounded, idle
        frames = [
            self._steps.apply(batch.frame.lazy()).collect() for batch in taken if batch.frame.height
        ]
        empty = polars_schema(self._steps.schema)
        return Computed(pl.concat(frames) if frames else pl.DataFrame(schema=empty))

    def close_all(self) -> Computed | None:
        """There is nothing to close."""
        return None

    def close_idle(self, *, idle: frozenset[int], counting: frozenset[int], quiet_us: int) -> Idle:
        """There is nothing to close."""
        del idle, counting, quiet_us
        return Idle()


class _Stage:
    """One aggregation by window and the steps behind it, up to the next aggregation or the end."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        at: int,
        end: int,
        claim: Claim,
        where: Path,
        failures: Failures,
    ) -> None:
        """Compile, and load the state that the last commit left; ``at`` is where it stands, ``end`` where the next."""
        step, schemas = plan.steps[at], plan.schemas()
        assert isinstance(step, Aggregation)
        assert step.window is not None
        self.window = step.window
        self.kernel = GroupKernel(step, schemas[at], where=f"step {at + 1}, agg")
        assert self.kernel.kind is not None
        self.kind = self.kernel.kind
        self._after = StepRunner(
            plan.steps[at + 1 : end], schemas[at + 1], first_number=at + 2, failures=failures
        )
        self.closed_until_us = claim.closed_until_us.get(number, TIME_MIN)
        self.state = WindowState(self.kernel, closed_until_us=self.closed_until_us)
        self.state.load(claim.state.get(number, ()), where=f"{where}, flow {claim.name!r}")

    def fate(self, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row; ``mark`` is the watermark of its partition before it."""
        time = pl.col(self.window.on)
        late_from = self.kind.late_from(time)
        is_late = late_from <= self.closed_until_us
        if mark is not None:
            is_late |= late_from <= mark
        fate = pl.when(time.is_null()).then(_UNTIMED).when(is_late).then(_LATE).otherwise(_TIMELY)
        return fate.cast(pl.Int8)

    def advance(
        self, partial: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame, StateChange]:
        """Add the state of a micro-batch and close windows up to a watermark; return the rows that this gives."""
        closed, change = self.state.advance(partial, until_us)
        self.closed_until_us = max(self.closed_until_us, until_us)
        if closed is None:
            return pl.DataFrame(schema=polars_schema(self._after.schema)), change
        return self._after.apply(self.kernel.final(closed).lazy()).collect(), change

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before; ``time`` is one of its own columns."""
        until_us = self.closed_until_us
        if until_us == TIME_MIN or time == WINDOW_END:
            return until_us
        first = self.state.first_start_us
        bound = self.kind.next_start_us(until_us)
        return bound if first is None else min(first, bound)


class WindowedStream:
    """Steps up to an aggregation by window, the steps behind it, and further aggregations of what it gives."""

    def __init__(self, plan: Plan, claim: Claim, where: Path, failures: Failures) -> None:
        """Compile, and load the state that the last commit left."""
        anchor = event_time_anchor(plan)
        assert anchor is not None
        ats = plan.aggregations_at()
        schemas = plan.schemas()
        self._stages = [
            _Stage(plan, number, at, end, claim, where, failures)
            for number, (at, end) in enumerate(zip(ats, [*ats[1:], len(plan.steps)], strict=True))
        ]
        self._times = [inherited_time(plan, ats[n - 1], ats[n]) for n in range(1, len(ats))]
        self._anchor = anchor
        self._anchor_schema = schemas[anchor.steps]
        self._to_anchor = StepRunner(
            plan.steps[: anchor.steps], schemas[0], first_number=1, failures=failures
        )
        self._to_window = StepRunner(
            plan.steps[anchor.steps : ats[0]],
            self._anchor_schema,
            first_number=anchor.steps + 1,
            failures=failures,
            carried=(MARK,),
        )
        self.late_schema: pa.Schema = schemas[ats[0]]
        first = self._stages[0]
        self._time = EventTime(
            {number: PartitionTime(p.seen_us) for number, p in claim.positions.items()},
            first.window.late_us,
            first.closed_until_us,
        )

    @property
    def closed_until_us(self) -> int:
        """Windows that end at or before this are closed, or TIME_MIN."""
        return self._time.closed_until_us

    def process(
        self,
        taken: Sequence[Taken],
        *,
        next_offsets: Mapping[int, int],
        ends: Mapping[int, int],
        bounded: bool,
        idle: frozenset[int] = frozenset(),
    ) -> Computed:
        """Return what a micro-batch changes. ``next_offsets`` are those after it; ``idle`` partitions do not count."""
        source_wait = Histogram()
        marked = [self._marked(batch, source_wait) for batch in taken if batch.frame.height]
        first = self._stages[0]
        rows, aside, counts = _sorted_out(self._rows(marked))
        floor = pl.max_horizontal(MARK, pl.lit(first.closed_until_us)) if marked else None
        partial = _partial(first, rows, floor)
        counting = counting_partitions(next_offsets=next_offsets, ends=ends, bounded=bounded)
        until_us = self._time.watermark_us(counting - idle)
        output, change = first.advance(partial, until_us)
        self._time = self._time.closed(until_us)
        output, changes, late_behind = self._behind(output, close=False)
        return Computed(
            output=output,
            states=(change, *changes),
            closed_until_us=self._closed(),
            seen_us={b.partition: self._time.partition(b.partition).seen_us for b in taken},
            late=counts[_LATE] + late_behind,
            untimed=counts[_UNTIMED],
            late_rows=aside,
            source_wait=source_wait,
        )

    def close_all(self) -> Computed | None:
        """Close every window that is open; None if none is."""
        due = [stage.state.last_due_us for stage in self._stages]
        if all(last is None for last in due):
            return None
        first = self._stages[0]
        until_us = first.closed_until_us if due[0] is None else due[0]
        output, change = first.advance(None, until_us)
        self._time = self._time.closed(until_us)
        output, changes, late = self._behind(output, close=True)
        return Computed(
            output, states=(change, *changes), closed_until_us=self._closed(), late=late
        )

    def close_idle(self, *, idle: frozenset[int], counting: frozenset[int], quiet_us: int) -> Idle:
        """Close what a quiet partition holds open; once all are quiet, event time goes on with the clock.

        ``quiet_us`` is how long none of the partitions has shown an event.
        """
        awake = counting - idle
        until_us = self._time.watermark_us(awake)
        if not awake and idle:
            marks = [
                self._time.partition(n).watermark_us(self._stages[0].window.late_us) for n in idle
            ]
            latest = max(marks)
            if latest != TIME_MIN:
                until_us = max(until_us, latest + quiet_us)
        first = self._stages[0]
        computed = None
        if until_us > first.closed_until_us:
            output, change = first.advance(None, until_us)
            self._time = self._time.closed(until_us)
            output, changes, late = self._behind(output, close=False)
            states = (change, *changes)
            if output.height or any(state.replaces or state.blobs for state in states):
                computed = Computed(
                    output, states=states, closed_until_us=self._closed(), late=late
                )
        waits = [
            due - stage.closed_until_us
            for stage in self._stages
            if (due := stage.state.first_due_us) is not None
        ]
        return Idle(computed, None if awake else min(waits, default=None))

    def _behind(
        self, rows: pl.DataFrame, *, close: bool
    ) -> tuple[pl.DataFrame, list[StateChange], int]:
        """Pass what the first aggregation gives through the others; ``close`` closes all their windows."""
        changes, late = [], 0
        for before, stage, time in zip(self._stages, self._stages[1:], self._times, strict=False):
            assert time is not None, "refused when the plan was checked"
            told, _, counts = _sorted_out(rows.with_columns(stage.fate(None).alias(FATE)))
            late += counts[_LATE]
            until_us = max(stage.closed_until_us, before.watermark_behind_us(time))
            partial = _partial(stage, told, pl.lit(stage.closed_until_us))
            rows, change = stage.advance(partial, until_us)
            if close and (last := stage.state.last_due_us) is not None:
                more, rest = stage.advance(None, last)
                rows, change = pl.concat([rows, more]), change.then(rest)
            changes.append(change)
        return rows, changes, late

    def _closed(self) -> dict[int, int]:
        return {number: stage.closed_until_us for number, stage in enumerate(self._stages)}

    def _marked(self, batch: Taken, source_wait: Histogram) -> pl.DataFrame:
        """Return a partition's rows at the anchor, each with the watermark before it; time goes on."""
        frame = batch.frame
        if self._anchor.steps:
            frame = self._to_anchor.apply(frame.lazy()).collect()
        times, known = event_times(frame, self._anchor.time, self._anchor_schema)
        if not self._anchor.steps:
            source_wait.record_many(batch.appended_us[known] - times[known])
        seen_us = self._time.partition(batch.partition).seen_us
        late_us = self._stages[0].window.late_us
        marks, last = watermarks_before(times, known, seen_us=seen_us, late_us=late_us)
        self._time = self._time.observed({batch.partition: last})
        return frame.hstack([pl.Series(MARK, marks)])

    def _rows(self, marked: list[pl.DataFrame]) -> pl.DataFrame:
        if not marked:
            return pl.DataFrame(schema={**polars_schema(self.late_schema), FATE: pl.Int8})
        rows = self._to_window.apply(pl.concat(marked).lazy())
        return rows.with_columns(self._stages[0].fate(pl.col(MARK)).alias(FATE)).collect()


def _sorted_out(
    rows: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame | None, Mapping[int, int]]:
    """Return the timely rows, the others if there are some, and how many there are of each fate."""
    counts = {_LATE: 0, _UNTIMED: 0}
    if not rows[FATE].max():
        return rows, None, counts
    counts = {fate: int((rows[FATE] == fate).sum()) for fate in counts}
    is_timely = pl.col(FATE) == _TIMELY
    return rows.filter(is_timely), rows.filter(~is_timely), counts


def _partial(stage: _Stage, rows: pl.DataFrame, floor: pl.Expr | None) -> pl.DataFrame:
    """Return the state of rows; ``floor`` is up to where windows are closed for each of them."""
    frame = rows.lazy()
    has_floor = stage.kind.asks_floor and floor is not None
    if has_floor:
        assert floor is not None
        frame = frame.with_columns(floor.alias(FLOOR))
    return stage.kernel.partial(frame, has_floor=has_floor).collect()


def watermarks_before(
    times: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    *,
    seen_us: int,
    late_us: int,
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the partition's watermark before each row, and the greatest time after the last row.

    Rows whose time is not known do not move time. The result does not depend on how the rows were cut into batches:
    ``seen_us`` carries over.
    """
    steps = np.empty(times.size + 1, dtype=np.int64)
    steps[0] = seen_us
    steps[1:] = np.where(known, times, TIME_MIN)
    seen = np.maximum.accumulate(steps)
    before = seen[:-1]
    marks = np.where(before == TIME_MIN, TIME_MIN, before - late_us)
    return marks, int(seen[-1])
