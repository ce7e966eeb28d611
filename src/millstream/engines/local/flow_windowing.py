"""What a stream computes of one micro-batch: with state, or event by event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_counting import CountStage
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_heads import Heads
from millstream.engines.local.flow_intake import Taken
from millstream.engines.local.flow_learning import LearnStage, Trainers
from millstream.engines.local.flow_process_stage import ProcessStage, refuse_endless
from millstream.engines.local.flow_stages import (
    LATE,
    UNTIMED,
    Advanced,
    AggregationStage,
    JoinStage,
    Stage,
    sorted_out,
)
from millstream.engines.local.flow_state import StateChange
from millstream.engines.local.flow_steps import StepRunner
from millstream.engines.local.flow_tally import Tally
from millstream.engines.local.flow_versions import VersionStage
from millstream.flows.branches import branches, source_at, sources
from millstream.flows.event_time import inherited_time
from millstream.flows.figures import StepPlace
from millstream.flows.keyed import Process
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Plan
from millstream.flows.watermark import (
    TIME_MAX,
    TIME_MIN,
    EventTime,
    PartitionTime,
    counting_partitions,
)
from millstream.primitives.histogram import Histogram


@dataclass(frozen=True)
class Computed:
    """What a micro-batch gives, not stored yet."""

    output: pl.DataFrame
    states: tuple[StateChange, ...] = ()
    """What changes in each state, in their order."""
    closed_until_us: Mapping[int, int] = field(default_factory=dict)
    """Up to where each state is closed, by its number."""
    seen_us: Mapping[int, int] = field(default_factory=dict)
    late: int = 0
    untimed: int = 0
    late_rows: tuple[pl.DataFrame | None, ...] = ()
    """Rows that came too late or without a time, for each side of the first stage."""
    source_wait: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Idle:
    """What there is to do while nothing comes."""

    computed: Computed | None = None
    wait_us: int | None = None
    """After so long something more can be closed; None if nothing is open."""


class StatelessStream:
    """Steps without state: rows in, rows out."""

    closed_until_us = TIME_MIN
    clock_due_us: int | None = None
    late_schemas: Sequence[pa.Schema] = ()

    def __init__(self, plan: Plan, tally: Tally) -> None:
        """Compile."""
        all_sources, found = sources(plan), branches(plan)
        self._runners: list[list[StepRunner]] = [[] for _ in all_sources]
        for branch in found:
            runner = StepRunner(
                branch.steps,
                branch.source.schema,
                places=branch.places,
                tally=tally,
                before=tally.at(StepPlace(branch.path, 0)),
            )
            self._runners[source_at(branch, all_sources)].append(runner)
        self._empty = pl.DataFrame(schema=polars_schema(plan.schema))

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
            runner.applied(batch.frame)
            for batch in taken
            if batch.frame.height
            for runner in self._runners[batch.source]
        ]
        return Computed(pl.concat(frames) if frames else self._empty)

    def close_all(self) -> Computed | None:
        """There is nothing to close."""
        return None

    def fire_clock(self, now_us: int) -> Computed:
        """There is nothing to call."""
        del now_us
        return Computed(self._empty)

    def close_idle(self, *, idle: frozenset[int], counting: frozenset[int], quiet_us: int) -> Idle:
        """There is nothing to close."""
        del idle, counting, quiet_us
        return Idle()


class StagedStream:
    """Branches up to the first stage, and the stages one behind the other."""

    def __init__(
        self,
        plan: Plan,
        claim: Claim,
        where: Path,
        tally: Tally,
        now_us: Callable[[], int],
        trainers: Trainers,
    ) -> None:
        """Compile, and load the state that the last commit left."""
        self._stages = _stages(plan, claim, where, tally, now_us, trainers)
        self._counters = [tally.at(place) for place in _places(plan)]
        self._times = _times_between(plan)
        self._heads = Heads(branches(plan), sources(plan), tally)
        self.late_schemas: Sequence[pa.Schema] = self._heads.schemas
        self._late_us = _lateness(plan)
        self._time = EventTime(
            {number: PartitionTime(p.seen_us) for number, p in claim.positions.items()},
            self._late_us,
            self._stages[0].closed_until_us,
        )

    @property
    def closed_until_us(self) -> int:
        """What ends at or before this is closed, or TIME_MIN."""
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
        first = self._stages[0]
        headed = self._heads.rows(taken, self._time)
        self._time = headed.time
        told: list[pl.DataFrame] = []
        aside: list[pl.DataFrame | None] = []
        late = untimed = 0
        for side, frame in enumerate(headed.sides):
            if frame is None:
                told.append(self._heads.empty(side))
                aside.append(None)
                continue
            rows, others, counts = sorted_out(first, side, frame)
            told.append(rows)
            aside.append(others)
            late, untimed = late + counts[LATE], untimed + counts[UNTIMED]
        counting = counting_partitions(next_offsets=next_offsets, ends=ends, bounded=bounded)
        until_us = self._time.watermark_us(counting - idle)
        with self._spending(0):
            output, changes = first.advance(told, until_us)
        self._time = self._time.closed(until_us)
        output, behind, lost = self._behind(output, close=False)
        return Computed(
            output=output,
            states=(*changes, *behind),
            closed_until_us=self._closed(),
            seen_us={b.partition: self._time.partition(b.partition).seen_us for b in taken},
            late=late + lost[LATE],
            untimed=untimed + lost[UNTIMED],
            late_rows=tuple(aside),
            source_wait=headed.source_wait,
        )

    def close_all(self) -> Computed | None:
        """Close everything that is open; None if nothing is."""
        due = [stage.last_due_us for stage in self._stages]
        is_unfinished = any(stage.is_unfinished for stage in self._stages)
        if all(last is None for last in due) and self.clock_due_us is None and not is_unfinished:
            return None
        until_us = self._stages[0].closed_until_us if due[0] is None else due[0]
        return self._closed_up_to(until_us, close=True)

    @property
    def clock_due_us(self) -> int | None:
        """When the next timer of the clock is due, or None."""
        due = [stage.clock_due_us for stage in self._stages]
        return min((us for us in due if us is not None), default=None)

    def fire_clock(self, now_us: int) -> Computed:
        """Call the timers of the clock that are due."""
        first = self._stages[0]
        with self._spending(0):
            output, changes = first.fire_clock(now_us)
        output, behind, lost = self._behind(output, close=False, now_us=now_us)
        return Computed(
            output,
            states=(*changes, *behind),
            closed_until_us=self._closed(),
            late=lost[LATE],
            untimed=lost[UNTIMED],
        )

    def _closed_up_to(self, until_us: int, *, close: bool) -> Computed:
        first = self._stages[0]
        nothing = [None] * len(self.late_schemas)
        with self._spending(0):
            output, changes = first.advance(nothing, until_us)
            if close:
                output, changes = _closed(first, len(nothing), (output, changes))
        self._time = self._time.closed(until_us)
        output, behind, lost = self._behind(output, close=close)
        return Computed(
            output,
            states=(*changes, *behind),
            closed_until_us=self._closed(),
            late=lost[LATE],
            untimed=lost[UNTIMED],
        )

    def close_idle(self, *, idle: frozenset[int], counting: frozenset[int], quiet_us: int) -> Idle:
        """Close what a quiet partition holds open; once all are quiet, event time goes on with the clock.

        ``quiet_us`` is how long none of the partitions has shown an event.
        """
        awake = counting - idle
        until_us = self._time.watermark_us(awake)
        if not awake and idle:
            latest = max(self._time.partition(n).watermark_us(self._late_us) for n in idle)
            if latest != TIME_MIN:
                until_us = max(until_us, latest + quiet_us)
        computed = None
        if until_us > self._stages[0].closed_until_us:
            given = self._closed_up_to(until_us, close=False)
            if given.output.height or any(state.replaces or state.blobs for state in given.states):
                computed = given
        waits = [
            due - stage.closed_until_us
            for stage in self._stages
            if (due := stage.first_due_us) is not None
        ]
        return Idle(computed, None if awake else min(waits, default=None))

    def _behind(
        self, rows: pl.DataFrame, *, close: bool, now_us: int | None = None
    ) -> tuple[pl.DataFrame, list[StateChange], Mapping[int, int]]:
        """Pass what the first stage gives through the others; ``close`` closes all their windows.

        ``now_us`` also calls their timers of the clock that are due.
        """
        changes: list[StateChange] = []
        lost = {LATE: 0, UNTIMED: 0}
        for number, on in enumerate(self._times, start=1):
            before, stage = self._stages[number - 1], self._stages[number]
            told, _, counts = sorted_out(stage, 0, rows)
            lost = {kind: lost[kind] + counts[kind] for kind in lost}
            known_us = TIME_MIN if on is None else before.watermark_behind_us(on)
            with self._spending(number):
                advanced = stage.advance([told], max(stage.closed_until_us, known_us))
                if close:
                    advanced = _closed(stage, 1, advanced)
                if now_us is not None:
                    advanced = _then(advanced, stage.fire_clock(now_us))
            rows, of_stage = advanced
            changes += of_stage
        return rows, changes, lost

    @contextmanager
    def _spending(self, number: int) -> Iterator[None]:
        """Count the time of a stage; the steps behind it count their own."""
        after = self._stages[number].after
        behind_s, started_s = after.seconds, time.perf_counter()
        yield
        passed_s = time.perf_counter() - started_s
        self._counters[number].spend(passed_s - (after.seconds - behind_s))

    def _closed(self) -> dict[int, int]:
        return {number: stage.closed_until_us for stage in self._stages for number in stage.states}


def _closed(stage: Stage, sides: int, advanced: Advanced) -> Advanced:
    """Return what a stage gives once everything that it keeps is closed, behind what it gave before."""
    rounds = 0
    while (until_us := stage.last_due_us) is not None or stage.clock_due_us is not None:
        rounds += 1
        refuse_endless(rounds, "process")
        more = (
            stage.fire_clock(TIME_MAX)
            if until_us is None
            else stage.advance([None] * sides, until_us)
        )
        advanced = _then(advanced, more)
    return _then(advanced, stage.finish())


def _then(advanced: Advanced, more: Advanced) -> Advanced:
    changes = [a.then(b) for a, b in zip(advanced[1], more[1], strict=True)]
    return pl.concat([advanced[0], more[0]]), tuple(changes)


def _stages(
    plan: Plan,
    claim: Claim,
    where: Path,
    tally: Tally,
    now_us: Callable[[], int],
    trainers: Trainers,
) -> list[Stage]:
    stateful = plan.stateful()
    ends = [*stateful, len(plan.steps)]
    stages: list[Stage] = []
    if isinstance(plan.source, JoinSource):
        join = VersionStage if plan.source.is_asof else JoinStage
        stages.append(join(plan, ends[0], claim=claim, where=where, tally=tally))
    for (at, step), end in zip(stateful.items(), ends[1:], strict=True):
        state = stages[-1].states.stop if stages else 0
        kind: type[ProcessStage | CountStage | AggregationStage]
        if isinstance(step, Fit):
            stages.append(LearnStage(plan, state, at, end, trainers=trainers, tally=tally))
            continue
        if isinstance(step, Process):
            kind = ProcessStage
        else:
            kind = CountStage if step.counts_rows else AggregationStage
        stages.append(
            kind(plan, state, at, end, claim=claim, where=where, tally=tally, now_us=now_us)
        )
    return stages


def _places(plan: Plan) -> list[StepPlace]:
    """Return where the stages stand."""
    at = [*([-1] if isinstance(plan.source, JoinSource) else []), *plan.stateful()]
    return [StepPlace((), index + 1) for index in at]


def _times_between(plan: Plan) -> list[str | None]:
    """Return the column of each stage that is the event time of the next one; None if that asks for none."""
    stateful = plan.stateful()
    at = [*([-1] if isinstance(plan.source, JoinSource) else []), *stateful]
    return [
        None if stateful[behind].time is None else inherited_time(plan, before, behind)
        for before, behind in pairwise(at)
    ]


def _lateness(plan: Plan) -> int:
    """Return how long the first stage waits for late events."""
    if isinstance(plan.source, JoinSource):
        assert plan.source.time is not None
        return plan.source.time.late_us
    first = plan.first_stateful()
    assert first is not None
    return first.late_us
