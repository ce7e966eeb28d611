"""The heads of a stream: from what was read to the rows of its first stage, each with the watermark before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_sources import event_times
from millstream.engines.local.flow_stages import MARK
from millstream.engines.local.flow_steps import StepRunner
from millstream.engines.local.flow_tally import Tally
from millstream.flows.branches import Branch, source_at
from millstream.flows.event_time import event_time_anchor
from millstream.flows.figures import StepPlace
from millstream.flows.source import Source
from millstream.flows.watermark import TIME_MIN, EventTime
from millstream.primitives.errors import StepError
from millstream.primitives.histogram import Histogram

TIME_FAR_US: Final = 2**62
"""Event times may be no further from 1970: the bounds of their windows have to fit in 64 bits too."""

Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""The event time of each row, and for which rows it is known."""


class Head:
    """One branch, cut where its event time is known first."""

    def __init__(self, branch: Branch, tally: Tally) -> None:
        """Compile."""
        anchor = event_time_anchor(branch)
        # Without an event time the rows go as they are: nothing waits for them, and none is late.
        schemas, cut = branch.schemas(), 0 if anchor is None else anchor.steps
        self.side = branch.side
        self.read = tally.at(StepPlace(branch.path, 0))
        self.is_at_source = cut == 0
        self._time = None if anchor is None else anchor.time
        self.schema = schemas[-1]
        self._schema_at_anchor = schemas[cut]
        self._to_anchor = StepRunner(
            branch.steps[:cut], schemas[0], places=branch.places[:cut], tally=tally
        )
        self.to_end = StepRunner(
            branch.steps[cut:],
            schemas[cut],
            places=branch.places[cut:],
            tally=tally,
            carried=(MARK,),
        )

    def at_anchor(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows after the steps up to the anchor."""
        return self._to_anchor.applied(frame)

    def times(self, frame: pl.DataFrame) -> Times:
        """Return the event times of rows at the anchor."""
        if self._time is None:
            return np.zeros(frame.height, dtype=np.int64), np.zeros(frame.height, dtype=np.bool_)
        return event_times(frame, self._time, self._schema_at_anchor)


@dataclass(frozen=True)
class Headed:
    """What the heads make of a micro-batch."""

    sides: tuple[pl.DataFrame | None, ...]
    """The rows of each side with ``MARK``; None if there are none."""
    time: EventTime
    source_wait: Histogram


class Heads:
    """All branches of a plan. Immutable."""

    def __init__(
        self, branches: Sequence[Branch], sources: tuple[Source, ...], tally: Tally
    ) -> None:
        """Compile."""
        heads = [Head(branch, tally) for branch in branches]
        self._of_source = [
            [h for h, b in zip(heads, branches, strict=True) if source_at(b, sources) == number]
            for number in range(len(sources))
        ]
        self.schemas: list[pa.Schema] = [
            next(head.schema for head in heads if head.side == side)
            for side in range(1 + max(head.side for head in heads))
        ]

    def rows(self, taken: Sequence[Taken], time: EventTime) -> Headed:
        """Return the rows of a micro-batch on each side; event time goes on with them."""
        source_wait = Histogram()
        sides: list[list[pl.DataFrame]] = [[] for _ in self.schemas]
        for number, heads in enumerate(self._of_source):
            frames = []
            for batch in taken:
                if batch.source == number and batch.frame.height:
                    for head in heads:
                        head.read.add(batch.frame.height)
                    frame, time = _marked(batch, heads, time, source_wait)
                    frames.append(frame)
            if frames:
                rows = pl.concat(frames)
                for head in heads:
                    sides[head.side].append(head.to_end.applied(rows))
        joined = tuple(pl.concat(frames) if frames else None for frames in sides)
        return Headed(joined, time, source_wait)

    def empty(self, side: int) -> pl.DataFrame:
        """Return no rows of a side."""
        return pl.DataFrame(schema=polars_schema(self.schemas[side]))


def _marked(
    batch: Taken, heads: Sequence[Head], time: EventTime, source_wait: Histogram
) -> tuple[pl.DataFrame, EventTime]:
    """Return a partition's rows at the anchor, each with the watermark before it; time goes on.

    Where several branches read a source, the latest time that one of them sees in an event counts for all.
    """
    frame = heads[0].at_anchor(batch.frame)
    times, known = _latest([head.times(frame) for head in heads])
    _refuse_far(times, known)
    if heads[0].is_at_source:
        source_wait.record_many(batch.appended_us[known] - times[known])
    seen_us = time.partition(batch.partition).seen_us
    marks, last = watermarks_before(times, known, seen_us=seen_us, late_us=time.late_us)
    return frame.hstack([pl.Series(MARK, marks)]), time.observed({batch.partition: last})


def _refuse_far(times: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> None:
    """Raise StepError for a time whose window may not fit in 64 bits, before it moves anything."""
    if not times.size or (times.max() <= TIME_FAR_US and times.min() >= -TIME_FAR_US):
        return
    far = times[known & ((times > TIME_FAR_US) | (times < -TIME_FAR_US))]
    if far.size:
        raise StepError(
            f"the event time of an event is {far[0]} microseconds from 1970",
            where="event time",
            expected=f"at most {TIME_FAR_US}, which is 146,000 years; windows beyond that cannot be told",
            next_step="give such events no time, and they are counted as untimed: "
            'with_columns(at=ms.when(ms.col("at") < …).then(ms.col("at")).otherwise(None))',
        )


def _latest(found: Sequence[Times]) -> Times:
    if len(found) == 1:
        return found[0]
    times = np.max(np.stack([np.where(known, times, TIME_MIN) for times, known in found]), axis=0)
    return times, np.any(np.stack([known for _, known in found]), axis=0)


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
