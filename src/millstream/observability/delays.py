"""The four delays as a table with a bar a row.

Each run, micro-batch and task waits four times: for its source data, until processing begins, for the processing, and
until the result can be seen. The bar shows the share of each phase in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from millstream.primitives.duration import format_duration
from millstream.primitives.histogram import PHASES, Histogram

Delays = Mapping[tuple[str, str], Mapping[str, Histogram]]

_BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, cells: int = _BAR_CELLS) -> str:
    """Return a bar for a share from 0 to 1, an eighth of a cell exact; the smallest share that is not 0 shows."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    if share > 0 and eighths == 0:
        eighths = 1
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def delays_table(delays: Delays) -> Table:
    """Return the table: a row for each phase of each subject, its quantiles, and its share as a bar."""
    table = Table(title="Where the time went", title_justify="left")
    for column in ("kind", "subject", "delay"):
        table.add_column(column)
    for column in ("count", "p50", "p95", "p99", "max"):
        table.add_column(column, justify="right")
    table.add_column("share of the mean")
    for (kind, subject), phases in sorted(delays.items()):
        total = sum(phases[phase].mean_us for phase in PHASES)
        for index, phase in enumerate(PHASES):
            _add_row(
                table,
                (kind, subject) if index == 0 else ("", ""),
                phase,
                phases[phase],
                total,
                end=index == len(PHASES) - 1,
            )
    return table


def _add_row(
    table: Table,
    head: tuple[str, str],
    phase: str,
    histogram: Histogram,
    total: float,
    *,
    end: bool,
) -> None:
    if not histogram.count:
        figures = ["0", "–", "–", "–", "–", _skew(histogram)]
    else:
        share = histogram.mean_us / total if total else 0.0
        figures = [
            f"{histogram.count:,}",
            *(format_duration(histogram.quantile(q)) for q in (0.5, 0.95, 0.99)),
            format_duration(histogram.max_us),
            f"{bar(share)} {share:.0%}{_skew(histogram)}",
        ]
    table.add_row(*head, phase, *figures, end_section=end)


def _skew(histogram: Histogram) -> str:
    # A negative wait means that a clock elsewhere runs ahead: it is reported, not hidden.
    return f" ({histogram.skewed:,} skewed)" if histogram.skewed else ""
