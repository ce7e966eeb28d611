"""The four delays as a table with a bar a row.

Each run, micro-batch and task waits four times: for its source data, until processing begins, for the processing, and
until the result can be seen. These lie up to a trillion apart (a replay of last year's events reads them in
microseconds), so the bars are logarithmic, on one scale for all rows. They show what 95 % of the values stay below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from millstream.primitives.duration import format_duration
from millstream.primitives.histogram import PHASES, Histogram

Delays = Mapping[tuple[str, str], Mapping[str, Histogram]]

_SHORTEST_US = 1
_PHASE_WIDTH = max(map(len, PHASES))
_FIGURE_WIDTH = len("13.9 years")
_HALF = 0.5
_MOST = 0.95


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic scale of durations, from one microsecond to the longest."""

    longest_us: int

    def position(self, duration_us: float) -> float:
        """Return where a duration lies: 0 for a microsecond or less, 1 for the longest."""
        if self.longest_us <= _SHORTEST_US:
            return 0.0
        return math.log(max(duration_us, _SHORTEST_US)) / math.log(self.longest_us)


def delays_table(delays: Delays) -> Group:
    """Return a table for each subject, a row for each phase: its quantiles, and a bar that fills the width."""
    shown = [histogram for phases in delays.values() for histogram in phases.values()]
    scale = Scale(max((h.quantile(_MOST) for h in shown if h.count), default=_SHORTEST_US))
    parts: list[Text | Table] = [
        Text("Where the time went", style="bold"),
        Text(f"Bars: p95 from 1 µs to {format_duration(scale.longest_us)}, logarithmic"),
    ]
    for (kind, subject), phases in sorted(delays.items()):
        parts += [Text(), _heading(kind, subject, phases), _rows(phases, scale)]
    return Group(*parts)


def _heading(kind: str, subject: str, phases: Mapping[str, Histogram]) -> Text:
    count = max(histogram.count for histogram in phases.values())
    return Text.assemble(
        f"{kind} ", (subject, "bold"), f", {count:,} {'time' if count == 1 else 'times'}"
    )


def _rows(phases: Mapping[str, Histogram], scale: Scale) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("", width=_PHASE_WIDTH, no_wrap=True)
    for column in ("p50", "p95", "p99", "max"):
        table.add_column(column, justify="right", width=_FIGURE_WIDTH, no_wrap=True)
    table.add_column("", ratio=1)
    for phase in PHASES:
        histogram = phases[phase]
        table.add_row(phase, *_figures(histogram), _bar(histogram, scale))
        if histogram.skewed:
            # A negative wait means that a clock elsewhere runs ahead: it is reported, not hidden.
            table.add_row("", *[""] * 4, f"{histogram.skewed:,} came from a clock that runs ahead")
    return table


def _figures(histogram: Histogram) -> list[str]:
    if not histogram.count:
        return ["–"] * 4
    quantiles = [format_duration(histogram.quantile(q)) for q in (_HALF, _MOST, 0.99)]
    return [*quantiles, format_duration(histogram.max_us)]


def _bar(histogram: Histogram, scale: Scale) -> Bar | str:
    return Bar(1.0, 0.0, scale.position(histogram.quantile(_MOST))) if histogram.count else ""
