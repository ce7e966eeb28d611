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
from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_sources import event_times
from millstream.engines.local.flow_state import StateChange, WindowState
from millstream.engines.local.flow_steps import StepRunner, polars_schema
from millstream.flows.event_time import event_time_anchor
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import (
    TIME_MIN,
    EventTime,
    PartitionTime,
    counting_partitions,
)
from millstream.primitives.histogram import Histogram

MARK = "__ms_mark"
"""The watermark of the row's partition as it stood before the row."""

FATE = "__ms_fate"
_TIMELY, _LATE, _UNTIMED = range(3)
_NO_CHANGE = StateChange(replaces=False, blobs=())


@dataclass(frozen=True)
class Computed:
    """What a micro-batch gives, not stored yet."""

    output: pl.DataFrame
    state: StateChange = _NO_CHANGE
    closed_until_us: int = TIME_MIN
    seen_us: Mapping[int, int] = field(default_factory=dict)
    late: int = 0
    untimed: int = 0
    late_rows: pl.DataFrame | None = None
    source_wait: Histogram = field(default_factory=Histogram)


class StatelessStream:
    """Steps without an aggregation: rows in, rows out."""

    closed_until_us = TIME_MIN

    def __init__(self, plan: Plan) -> None:
        """Compile."""
        self._steps = StepRunner(plan.steps, plan.source.schema, first_number=1)
        self.late_schema = plan.source.schema

    def process(
        self,
        taken: Sequence[Taken],
        *,
        next_offsets: Mapping[int, int],
        ends: Mapping[int, int],
        bounded: bool,
    ) -> Computed:
        """Return the output of a micro-batch: the partitions one after the other."""
        del next_offsets, ends, bounded
        frames = [
            self._steps.apply(batch.frame.lazy()).collect() for batch in taken if batch.frame.height
        ]
        empty = polars_schema(self._steps.schema)
        return Computed(pl.concat(frames) if frames else pl.DataFrame(schema=empty))

    def close_all(self) -> Computed | None:
        """There is nothing to close."""
        return None


class WindowedStream:
    """Steps up to an aggregation by window, and the steps behind it."""

    def __init__(self, plan: Plan, claim: Claim, where: Path) -> None:
        """Compile, and load the state that the last commit left."""
        at = plan.aggregation_at()
        anchor = event_time_anchor(plan)
        assert at is not None
        assert anchor is not None
        aggregation = plan.steps[at]
        assert isinstance(aggregation, Aggregation)
        assert aggregation.window is not None
        schemas = plan.schemas()
        self._window = aggregation.window
        self._anchor = anchor
        self._anchor_schema = schemas[anchor.steps]
        self._to_anchor = StepRunner(plan.steps[: anchor.steps], schemas[0], first_number=1)
        self._to_window = StepRunner(
            plan.steps[anchor.steps : at],
            self._anchor_schema,
            first_number=anchor.steps + 1,
            carried=(MARK,),
        )
        self._kernel = GroupKernel(aggregation, schemas[at], where=f"step {at + 1}, agg")
        self._after = StepRunner(plan.steps[at + 1 :], schemas[at + 1], first_number=at + 2)
        self.late_schema: pa.Schema = schemas[at]
        self._state = WindowState(self._kernel)
        self._state.load(
            claim.state, after_us=claim.closed_until_us, where=f"{where}, flow {claim.name!r}"
        )
        self._time = EventTime(
            {number: PartitionTime(p.seen_us) for number, p in claim.positions.items()},
            self._window.late_us,
            claim.closed_until_us,
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
    ) -> Computed:
        """Return what a micro-batch changes. ``next_offsets`` are those after it."""
        source_wait = Histogram()
        marked = [self._marked(batch, source_wait) for batch in taken if batch.frame.height]
        rows = self._rows(marked)
        late = untimed = 0
        aside: pl.DataFrame | None = None
        if rows[FATE].max():
            late = int((rows[FATE] == _LATE).sum())
            untimed = int((rows[FATE] == _UNTIMED).sum())
            aside = rows.filter(pl.col(FATE) != _TIMELY)
            rows = rows.filter(pl.col(FATE) == _TIMELY)
        partial = self._kernel.partial(rows.lazy()).collect()
        counting = counting_partitions(next_offsets=next_offsets, ends=ends, bounded=bounded)
        closed, change = self._close(partial, self._time.watermark_us(counting))
        return Computed(
            output=self._output(closed),
            state=change,
            closed_until_us=self._time.closed_until_us,
            seen_us={b.partition: self._time.partition(b.partition).seen_us for b in taken},
            late=late,
            untimed=untimed,
            late_rows=aside,
            source_wait=source_wait,
        )

    def close_all(self) -> Computed | None:
        """Close every window that is open; None if none is."""
        last_end_us = self._state.last_end_us
        if last_end_us is None:
            return None
        closed, change = self._close(None, last_end_us)
        return Computed(
            self._output(closed), state=change, closed_until_us=self._time.closed_until_us
        )

    def _marked(self, batch: Taken, source_wait: Histogram) -> pl.DataFrame:
        """Return a partition's rows at the anchor, each with the watermark before it; time goes on."""
        frame = batch.frame
        if self._anchor.steps:
            frame = self._to_anchor.apply(frame.lazy()).collect()
        times, known = event_times(frame, self._anchor.time, self._anchor_schema)
        if not self._anchor.steps:
            source_wait.record_many(batch.appended_us[known] - times[known])
        seen_us = self._time.partition(batch.partition).seen_us
        marks, last = watermarks_before(times, known, seen_us=seen_us, late_us=self._window.late_us)
        self._time = self._time.observed({batch.partition: last})
        return frame.hstack([pl.Series(MARK, marks)])

    def _rows(self, marked: list[pl.DataFrame]) -> pl.DataFrame:
        if not marked:
            return pl.DataFrame(schema={**polars_schema(self.late_schema), FATE: pl.Int8})
        rows = self._to_window.apply(pl.concat(marked).lazy())
        return rows.with_columns(self._fate().alias(FATE)).collect()

    def _fate(self) -> pl.Expr:
        size_us = self._window.windows.size_us
        end = (pl.col(self._window.on).cast(pl.Int64) // size_us + 1) * size_us
        is_late = (end <= pl.col(MARK)) | (end <= self._time.closed_until_us)
        is_untimed = pl.col(self._window.on).is_null()
        fate = pl.when(is_untimed).then(_UNTIMED).when(is_late).then(_LATE).otherwise(_TIMELY)
        return fate.cast(pl.Int8)

    def _close(
        self, partial: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame | None, StateChange]:
        closed, change = self._state.advance(partial, until_us)
        self._time = self._time.closed(until_us)
        return closed, change

    def _output(self, closed: pl.DataFrame | None) -> pl.DataFrame:
        if closed is None:
            return pl.DataFrame(schema=polars_schema(self._after.schema))
        return self._after.apply(self._kernel.final(closed).lazy()).collect()


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
