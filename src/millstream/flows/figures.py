"""What a run counts of each step, and how far a stream has come and keeps up, as people read it.

A step is found by its number and by the part of the plan that it is written in: a union and a join have parts, each
with steps of its own. Rows are counted only where their number changes; what a step gets is what the one before gave.

    read 1,000 ── filter ── with_columns ── explode         counted: 1,000 read, 300 after 1, 900 after 3
                   1 300       2 = 300        3 900
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from millstream.flows.learning import Fit, Predict
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Plan
from millstream.flows.steps import AsofJoin, Select, Sort, Step, WithColumns
from millstream.primitives.duration import format_duration

SIDES: Final = ("left", "right")
"""The parts of a join."""


@dataclass(frozen=True)
class StepPlace:
    """Where a step stands: its ``number`` of ``explain()``, in a part of a plan; 0 is what is read or joined."""

    path: tuple[str, ...]
    """The parts around it, the outermost first: ``left`` and ``right`` of a join, ``of 1``, ``of 2`` … of a union."""
    number: int


@dataclass(frozen=True)
class Counted:
    """What was counted at a place: the rows it gave, and the time it took, if it has one of its own."""

    rows: int = 0
    time_us: int | None = None


@dataclass(frozen=True)
class StepFigures:
    """What one step of a run got, gave and took.

    ``part`` is empty for the steps of the flow itself, else the side of a join (``left``, ``right``) or the part of a
    union (``of 1``) that it is written in; ``number`` is that of ``explain()``, 0 for a join. ``time_us`` is the time
    of the step in microseconds. It is None where built-in steps are computed as one: the first of them then has the
    time of all. Users' functions always have a time of their own.
    """

    part: str
    number: int
    name: str
    text: str
    rows_in: int
    rows_out: int
    time_us: int | None

    @property
    def selectivity(self) -> float | None:
        """Rows given for each row that came; None if none came."""
        return self.rows_out / self.rows_in if self.rows_in else None


def keeps_rows(step: Step) -> bool:
    """Return whether a step gives as many rows as it gets, whatever is in them."""
    return isinstance(step, WithColumns | Select | Sort | AsofJoin | Predict | Fit)


def parts_with_paths(
    plan: Plan, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """Yield the plans that a plan is made of, each with its path, in the order of ``explain()``."""
    match plan.source:
        case UnionSource(plans=plans):
            for number, part in enumerate(plans, start=1):
                yield from parts_with_paths(part, (*path, f"of {number}"))
        case JoinSource(left=left, right=right):
            for name, part in zip(SIDES, (left, right), strict=True):
                yield from parts_with_paths(part, (*path, name))
    yield path, plan


def step_places(plan: Plan) -> list[StepPlace]:
    """Return every place of a plan: of each part what it reads or joins, then its steps."""
    return [
        StepPlace(path, number)
        for path, part in parts_with_paths(plan)
        for number in range(len(part.steps) + 1)
    ]


def step_figures(plan: Plan, counted: Mapping[StepPlace, Counted]) -> tuple[StepFigures, ...]:
    """Return the figures of each step, in the order of ``explain()``; a place that is missing has counted nothing."""
    given: dict[tuple[str, ...], int] = {}
    figures: list[StepFigures] = []
    for path, part in parts_with_paths(plan):
        told = counted.get(StepPlace(path, 0), Counted())
        rows = told.rows
        if isinstance(part.source, UnionSource):
            rows = sum(given[(*path, f"of {n}")] for n in range(1, len(part.source.plans) + 1))
        elif isinstance(part.source, JoinSource):
            join, rows_in = part.source, sum(given[(*path, side)] for side in SIDES)
            figures.append(_figures(path, 0, join.name, join.summary(), rows_in, rows, told))
        for number, step in enumerate(part.steps, start=1):
            told = counted.get(StepPlace(path, number), Counted())
            rows_out = rows if keeps_rows(step) else told.rows
            figures.append(_figures(path, number, step.name, step.text(), rows, rows_out, told))
            rows = rows_out
        given[path] = rows
    return tuple(figures)


def _figures(
    path: tuple[str, ...], number: int, name: str, text: str, rows_in: int, rows: int, told: Counted
) -> StepFigures:
    return StepFigures(", ".join(path), number, name, text, rows_in, rows, told.time_us)


def merged_steps(runs: Sequence[Sequence[StepFigures]]) -> tuple[StepFigures, ...]:
    """Return the figures of several runs of one plan together."""
    merged: list[StepFigures] = []
    for of_step in zip(*(steps for steps in runs if steps), strict=True):
        times = [step.time_us for step in of_step if step.time_us is not None]
        merged.append(
            replace(
                of_step[0],
                rows_in=sum(step.rows_in for step in of_step),
                rows_out=sum(step.rows_out for step in of_step),
                time_us=sum(times) if times else None,
            )
        )
    return tuple(merged)


STEP_TEXT_MAX = 44
"""Letters of a step that a table shows."""


def steps_text(steps: Sequence[StepFigures]) -> list[str]:
    """Return a table of steps, one a line, with a line for each part of a plan that has several."""
    if not steps:
        return []
    lines = [
        f"  {'step':<{STEP_TEXT_MAX + 4}}{'rows in':>14}{'rows out':>14}{'kept':>9}{'time':>9}"
    ]
    part = ""
    for step in steps:
        if step.part != part:
            part = step.part
            lines.append(f"  {part or 'behind them'}")
        text = (
            step.text if len(step.text) <= STEP_TEXT_MAX else f"{step.text[: STEP_TEXT_MAX - 1]}…"
        )
        kept = "" if step.selectivity is None else _share(step.selectivity)
        time = '"' if step.time_us is None else format_duration(step.time_us)
        lines.append(
            f"  {step.number:<4}{text:<{STEP_TEXT_MAX}}{step.rows_in:>14,}{step.rows_out:>14,}"
            f"{kept:>9}{time:>9}"
        )
    return lines


def _share(share: float) -> str:
    return f"× {share:,.1f}" if share > 1 else f"{share:.1%}"


@dataclass(frozen=True)
class PartitionFigures:
    """How far a stream has read one partition of a source.

    ``waiting`` is how many events lie behind ``next_offset``; None for files and tables of a lake, which do not say.
    ``latest`` is the greatest event time that was seen in it.
    """

    source: str
    partition: int
    next_offset: int
    waiting: int | None
    latest: datetime | None


@dataclass(frozen=True)
class Load:
    """Where the time of a stream went, in microseconds, and how much it took in.

    ``elapsed_us`` is from its beginning to its last commit; what is not reading, computing or committing was waiting
    for events.
    """

    elapsed_us: int
    read_us: int
    process_us: int
    commit_us: int
    rows_in: int

    @property
    def busy(self) -> float:
        """The share of the time that it worked, from 0 to 1: near 1 it can take no more than it does."""
        worked = self.read_us + self.process_us + self.commit_us
        return min(worked / self.elapsed_us, 1.0) if self.elapsed_us > 0 else 0.0

    @property
    def rows_per_s(self) -> float:
        """Rows that it took in, each second."""
        return self.rows_in / (self.elapsed_us / 1e6) if self.elapsed_us > 0 else 0.0


@dataclass(frozen=True)
class FlowFigures:
    """How a stream is doing: of the run that goes on, or of the last one, as its last commit left it.

    ``recent`` is its load in the last minute before that commit, ``load`` since it began at ``started``. ``waiting`` is
    how many events are to be read; None if a source does not say. ``watermark`` is the event time up to which the flow
    is closed, ``watermark_lag_us`` how far that is behind the clock: of old data it says how old they are. A stream is
    ``behind`` when more waits than one micro-batch takes. ``full`` counts micro-batches that took as many events as
    they may. With ``changed`` the flow has other steps now than it had then, and ``steps`` is empty.
    """

    flow: str
    asked: datetime
    is_running: bool
    started: datetime
    committed: datetime
    rows_in: int
    rows_out: int
    late: int
    untimed: int
    failed: int
    batches: int
    full: int
    batch_events: int
    load: Load
    recent: Load
    steps: tuple[StepFigures, ...]
    partitions: tuple[PartitionFigures, ...]
    watermark: datetime | None
    changed: bool = False

    @property
    def waiting(self) -> int | None:
        """How many events wait to be read in all partitions; None if one does not say."""
        each = [partition.waiting for partition in self.partitions]
        known = [waiting for waiting in each if waiting is not None]
        return sum(known) if len(known) == len(each) else None

    @property
    def behind(self) -> bool:
        """Whether more waits than one micro-batch takes: events come faster than they are processed, or did."""
        return (self.waiting or 0) > self.batch_events

    @property
    def watermark_lag_us(self) -> int | None:
        """How far the watermark is behind the clock, in microseconds; None if there is none."""
        if self.watermark is None:
            return None
        return round((self.asked - self.watermark).total_seconds() * 1e6)

    @property
    def held_by(self) -> PartitionFigures | None:
        """The partition whose events are the oldest, which holds the watermark back; None if there are no two."""
        timed = [p for p in self.partitions if p.latest is not None]
        if len(timed) < 2 or self.watermark is None:
            return None
        return min(timed, key=lambda p: p.latest or self.asked)

    def __str__(self) -> str:
        """Return the figures for people."""
        doing = "running" if self.is_running else "not running"
        lines = [
            f"flow {self.flow}: {doing}, {self.rows_in:,} rows in, {self.rows_out:,} out, "
            f"{self.batches:,} micro-batches from {_time(self.started)} to {_time(self.committed)}"
        ]
        if self.late or self.untimed or self.failed:
            lines.append(
                f"  not in the output: {self.late:,} late, {self.untimed:,} without a time, "
                f"{self.failed:,} failed"
            )
        lines += [f"  busy         {_load(self.load)}", f"  last minute  {_load(self.recent)}"]
        lines += [self._waiting_text(), *self._watermark_text(), *steps_text(self.steps)]
        if self.changed:
            lines.append("  the steps were changed since, so theirs are not shown")
        return "\n".join(lines)

    def _waiting_text(self) -> str:
        if self.waiting is None:
            return "  waiting      not known: files and tables of a lake do not say"
        full = f"{self.full:,} of {self.batches:,} micro-batches were full ({self.batch_events:,} events)"
        keeps = "it is behind" if self.behind else "it keeps up"
        return f"  waiting      {self.waiting:,} events: {keeps}; {full}"

    def _watermark_text(self) -> list[str]:
        lag_us = self.watermark_lag_us
        if lag_us is None or self.watermark is None:
            return []
        lag = f"{format_duration(lag_us)} behind the clock" if lag_us >= 0 else "ahead of the clock"
        text = f"  watermark    {_time(self.watermark)}, {lag}"
        held = self.held_by
        if held is not None:
            text += f"; the oldest events are in {held.source}, partition {held.partition}"
        return [text]


def _load(load: Load) -> str:
    elapsed = max(load.elapsed_us, 1)
    parts = ", ".join(
        f"{us / elapsed:.0%} {name}"
        for name, us in (
            ("reading", load.read_us),
            ("computing", load.process_us),
            ("committing", load.commit_us),
        )
    )
    return f"{load.busy:.0%} of the time ({parts}), {load.rows_per_s:,.0f} rows/s"


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"
