"""What a run tells when it is over, and while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from millstream.flows.figures import StepFigures, merged_steps, steps_text
from millstream.flows.models import ModelFigures
from millstream.primitives.duration import format_duration
from millstream.primitives.histogram import PHASES, Histogram


@dataclass(frozen=True)
class Progress:
    """How far a run has come. ``rows_total`` is None where it is not known before the end."""

    rows_done: int
    rows_total: int | None


ProgressListener = Callable[[Progress], None]


@dataclass(frozen=True)
class RunReport:
    """The figures of one run.

    ``late`` counts events that came after their window had closed, ``untimed`` events without an event time, ``failed``
    events that a function failed for; none of them is in the output. ``delays`` holds a histogram in microseconds for
    each of the four delays. ``models`` says of each model that was trained how wrong it was, since its first row.
    ``steps`` says what each step got, gave and took.
    """

    flow: str
    mode: str
    rows_in: int
    rows_out: int
    late: int
    untimed: int
    batches: int
    started_us: int
    duration_us: int
    failed: int = 0
    watermark_us: int | None = None
    delays: Mapping[str, Histogram] = field(default_factory=dict)
    table: pa.Table | None = None
    models: Mapping[str, ModelFigures] = field(default_factory=dict)
    steps: tuple[StepFigures, ...] = ()

    @property
    def rows_per_s(self) -> float:
        """Rows read per second of the run's duration."""
        return self.rows_in / (self.duration_us / 1e6) if self.duration_us else 0.0

    def __str__(self) -> str:
        """Return the report for people, one figure a line."""
        lines = [
            f"flow {self.flow}: {self.mode}, {self.rows_in:,} rows in, {self.rows_out:,} out, "
            f"{self.batches:,} batches, {format_duration(self.duration_us)}, "
            f"{self.rows_per_s:,.0f} rows/s"
        ]
        if self.late or self.untimed or self.failed:
            lines.append(
                f"  not in the output: {self.late:,} late, {self.untimed:,} without a time, "
                f"{self.failed:,} failed"
            )
        for phase in PHASES:
            delay = self.delays.get(phase)
            if delay is not None and delay.count:
                lines.append(
                    f"  {phase:<12} p50 {format_duration(delay.quantile(0.5)):>8}  "
                    f"p95 {format_duration(delay.quantile(0.95)):>8}  "
                    f"max {format_duration(delay.max_us):>8}"
                )
        lines += [f"  model {name}: {figures}" for name, figures in self.models.items()]
        lines += steps_text(self.steps)
        return "\n".join(lines)


def merged(
    flow: str, reports: Sequence[RunReport], *, started_us: int, duration_us: int
) -> RunReport:
    """Return the figures of several runs of one stream, each of a part of it; event time is where the last part is."""
    delays = {phase: Histogram() for phase in PHASES}
    for report in reports:
        for phase, histogram in report.delays.items():
            delays[phase].merge(histogram)
    marks = [report.watermark_us for report in reports if report.watermark_us is not None]
    return RunReport(
        flow=flow,
        mode="stream",
        rows_in=sum(report.rows_in for report in reports),
        rows_out=sum(report.rows_out for report in reports),
        late=sum(report.late for report in reports),
        untimed=sum(report.untimed for report in reports),
        failed=sum(report.failed for report in reports),
        batches=sum(report.batches for report in reports),
        started_us=started_us,
        duration_us=duration_us,
        watermark_us=min(marks, default=None),
        delays=delays,
        steps=merged_steps([report.steps for report in reports]),
    )
