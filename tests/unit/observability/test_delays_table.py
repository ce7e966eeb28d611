"""``millstream delays`` on narrow and wide screens, on replays of old data, and with nothing measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from millstream.observability.delays import Scale, delays_table
from millstream.primitives.histogram import PHASES, Histogram

YEAR_US = 365 * 86_400_000_000


def printed(width: int, **phases: int) -> list[str]:
    measured = {phase: Histogram() for phase in PHASES}
    for phase, duration_us in phases.items():
        measured[phase].record(duration_us)
    console = Console(file=io.StringIO(), width=width)
    console.print(delays_table({("task", "mail"): measured}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_every_figure_is_readable_at_any_usual_width(width: int):
    lines = printed(
        width, source_wait=13 * YEAR_US, start_wait=3_000_000, process=250, publish=9_000
    )
    assert not any("…" in line for line in lines)
    assert all(len(line) <= width for line in lines)
    for phase in PHASES:
        assert any(line.startswith(phase) and "█" in line for line in lines), phase


def test_bars_of_a_replay_still_tell_the_phases_apart():
    lines = printed(100, source_wait=13 * YEAR_US, start_wait=3_000_000, process=250, publish=9_000)
    lengths = {
        line.split()[0]: line.count("█")
        for line in lines
        if line.split()[:1] and line.split()[0] in PHASES
    }
    assert (
        lengths["source_wait"] > lengths["start_wait"] > lengths["publish"] > lengths["process"] > 0
    )


def test_a_phase_that_was_never_measured_has_dashes_and_no_bar():
    lines = printed(80, process=250)
    (row,) = [line for line in lines if line.startswith("publish")]
    assert row.split() == ["publish", "–", "–", "–", "–"]


def test_the_scale_goes_from_a_microsecond_to_the_longest():
    scale = Scale(1_000_000)
    assert [scale.position(us) for us in (0, 1, 1_000, 1_000_000)] == pytest.approx([0, 0, 0.5, 1])
    assert Scale(1).position(1) == 0
