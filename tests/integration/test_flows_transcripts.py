"""Apache Beam's transcripts of triggers, as far as windows of flows give panes.

The cases are those of ``sdks/python/apache_beam/testing/data/trigger_transcripts.yaml`` of Apache Beam (Apache License
2.0), as of its commit 3f6f37c71e90c33c65ea9f0cc3784a1f33409211, each under its name there, written down anew. Windows
are written with their last second, as there. Beam's watermark moves by itself; here it is moved by marks, events that a
filter takes out again.

A window here gives one pane, unless it is asked for early rows. Which one, depends on how long its flow waits:

- **on time**: it does not wait. The pane is Beam's on-time pane, and what Beam adds to it in late panes is late.
- **in the end**: it waits for Beam's allowed lateness. The pane is the last one of Beam, when that accumulates, or all
  of its panes together, when that discards; what Beam drops is late.
- **as it grows**: it waits, and gives early rows with ``emit="update"``. Whenever Beam gives a pane, early, on time or
  late, the newest row of its window holds what Beam has given of it by then.

The tables hold all panes of Beam. What is not compared, and why:

- Late panes of their own: a window gives nothing after it was closed; what comes then is counted, or written aside.
- How often there are rows: Beam's triggers count values and time, and ``emit="update"`` gives one a micro-batch.
- Discarded panes: a window gives all of its values, so the panes are put together.
- ``index``, ``nonspeculative_index``, ``early``, ``late`` and ``final``: there is one pane, of which they say nothing.
- The ``timestamp`` of the two cases ``known_late_data_…``: Beam leaves values behind the watermark out of a pane's
  earliest time; here the least time of the rows is an aggregate like others.
- The case ``garbage_collection``: its panes come when there are two values, with no regard to the watermark, and then
  the rest of the window is thrown away; here the watermark closes windows, and nothing of them is thrown away. Its
  ``state`` are the windows that Beam remembers to have finished; here the watermark alone says that.
- Windows with a time of their own (three cases ``…custom_timestamping…``): that is a computed column here.

The last five cases of Beam are wrong on purpose: they test that a transcript can fail, and so they do here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from millstream.app import App
from millstream.flows import aggregate as agg
from millstream.flows.expression import Expression, col
from millstream.flows.flow import Flow
from millstream.flows.windows import Windows, session, tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing import FlowTest

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DISORDER_S = 1000
"""How far events may be behind each other without a mark. Beam's elements do not move its watermark."""

FIXED, SESSIONS = tumbling("10s"), session("10s")
TIMES: dict[str, Expression] = {
    "end": col("window_end") - timedelta(seconds=1),
    "earliest": col("earliest"),
    "latest": col("latest"),
    "earliest, a hundred later": col("earliest") + timedelta(seconds=100),
}
"""Beam's timestamp combiners: which time a pane has."""

Reading = Literal["on time", "in the end", "as it grows"]
READINGS: tuple[Reading, ...] = ("on time", "in the end", "as it grows")


@dataclass(frozen=True)
class Pane:
    window: tuple[int, int]
    values: tuple[int, ...]
    time: int | None = None
    when: Literal["early", "on time", "late"] = "on time"


@dataclass(frozen=True)
class Input:
    values: tuple[int, ...]
    panes: tuple[Pane, ...] = ()
    comes: Literal["in time", "late", "too late"] = "in time"
    """Behind the watermark, or behind it and the allowed lateness."""


@dataclass(frozen=True)
class Watermark:
    at: int
    panes: tuple[Pane, ...] = ()


@dataclass(frozen=True)
class Transcript:
    name: str
    windows: Windows
    steps: tuple[Input | Watermark, ...]
    time: str = "end"
    lateness: int = 0
    accumulates: bool = True
    early: str = ""
    late: str = ""


THREE = (1, 2, 3, 10, 11, 25)


def three(*times: int) -> tuple[Pane, ...]:
    return (
        Pane((0, 9), (1, 2, 3), times[0]),
        Pane((10, 19), (10, 11), times[1]),
        Pane((20, 29), (25,), times[2]),
    )


TRANSCRIPTS = (
    # time      0         10        20        30
    # values    1 2 3     10 11        | 25
    Transcript(
        "fixed_default",
        FIXED,
        (
            Input((1, 2, 3, 10, 11)),
            Watermark(25, (Pane((0, 9), (1, 2, 3)), Pane((10, 19), (10, 11)))),
        ),
    ),
    # time      0         10        20        30          100
    # values    1 2 3     10 11        25                 |
    #                7 comes now
    Transcript(
        "fixed_default_late_data",
        FIXED,
        (
            Input(THREE),
            Watermark(100, three(9, 19, 29)),
            Input((7,), (Pane((0, 9), (1, 2, 3, 7), 9, "late"),), "late"),
        ),
        lateness=100,
    ),
    # time      0       10      20         80        90   100
    # values    1 2     10 11              80 81          |
    #             7 8      17 18              82 come now: only its window still waits
    Transcript(
        "fixed_drop_late_data_after_allowed_lateness",
        FIXED,
        (
            Input((1, 2, 10, 11, 80, 81)),
            Watermark(
                100,
                (
                    Pane((0, 9), (1, 2), 9),
                    Pane((10, 19), (10, 11), 19),
                    Pane((80, 89), (80, 81), 89),
                ),
            ),
            Input((7, 8), comes="too late"),
            Input((17, 18), comes="too late"),
            Input((82,), (Pane((80, 89), (80, 81, 82), 89, "late"),), "late"),
        ),
        lateness=20,
        early="three values",
        late="each value",
    ),
    Transcript(
        "timestamp_combiner_earliest",
        FIXED,
        (Input(THREE), Watermark(100, three(1, 10, 25))),
        time="earliest",
    ),
    Transcript(
        "timestamp_combiner_latest",
        FIXED,
        (Input(THREE), Watermark(100, three(3, 11, 25))),
        time="latest",
    ),
    # Beam's windows have a time of their own here, a hundred later, which is not asked for in the first two.
    Transcript(
        "timestamp_combiner_custom_timestamping_eow",
        FIXED,
        (Input(THREE), Watermark(100, three(9, 19, 29))),
    ),
    Transcript(
        "timestamp_combiner_custom_timestamping_earliest",
        FIXED,
        (Input(THREE), Watermark(100, three(1, 10, 25))),
        time="earliest",
    ),
    Transcript(
        "timestamp_combiner_custom_timestamping_earliest, transformed",
        FIXED,
        (Input(THREE), Watermark(100, three(101, 110, 125))),
        time="earliest, a hundred later",
    ),
    # time      0         10        20              100
    # values    1 2 3 4 5      one session          |
    #           1   3 4 come now
    Transcript(
        "early_late_sessions",
        SESSIONS,
        (
            Input((1, 2), (Pane((1, 11), (1, 2), 11, "early"),)),
            Input((3,)),
            Input((4,), (Pane((1, 13), (1, 2, 3, 4), 13, "early"),)),
            Input((5,)),
            Watermark(100, (Pane((1, 14), (1, 2, 3, 4, 5), 14),)),
            Input((1,), comes="late"),
            Input((3, 4), (Pane((1, 14), (1, 1, 2, 3, 3, 4, 4, 5), 14, "late"),), "late"),
        ),
        lateness=100,
        early="two values",
        late="three values",
    ),
    # time      0            10          20         100
    # values    1 2 4 5 6      14   18              |
    Transcript(
        "discarding_early_fixed",
        FIXED,
        (
            Input((1, 2), (Pane((0, 9), (1, 2), 9, "early"),)),
            Input((4,)),
            Input((14,)),
            Input((5,), (Pane((0, 9), (4, 5), 9, "early"),)),
            Input((18,), (Pane((10, 19), (14, 18), 19, "early"),)),
            Input((6,)),
            Watermark(100, (Pane((0, 9), (6,), 9), Pane((10, 19), (), 19))),
        ),
        accumulates=False,
        early="two values",
    ),
    # time      0    5      10 11
    # values         | 2 3 7 8 come now, two of them behind the watermark of an open window
    Transcript(
        "known_late_data_watermark",
        FIXED,
        (Watermark(5), Input((2, 3, 7, 8)), Watermark(11, (Pane((0, 9), (2, 3, 7, 8)),))),
    ),
    Transcript(
        "known_late_data_no_watermark_hold_possible",
        FIXED,
        (Watermark(8), Input((2, 3, 7)), Watermark(11, (Pane((0, 9), (2, 3, 7)),))),
    ),
)
WRONG = (
    Transcript("bad_output", FIXED, (Input((1, 2, 3), (Pane((0, 9), (1, 2, 3)),)), Watermark(100))),
    Transcript(
        "bad_expected_values", FIXED, (Input((1, 2, 3)), Watermark(100, (Pane((0, 9), (1, 2)),)))
    ),
    Transcript(
        "bad_expected_window",
        FIXED,
        (Input((1, 2, 3)), Watermark(100, (Pane((0, 19), (1, 2, 3)),))),
    ),
    Transcript("missing_output", FIXED, (Input((1, 2, 3)), Watermark(100), Watermark(200))),
    Transcript("missing_output_at_end", FIXED, (Input((1, 2, 3)), Watermark(100))),
)


def at(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


def second(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)


def panes_of(transcript: Transcript, reading: Reading = "on time") -> Callable[[App], Flow]:
    """Return what makes a flow that gives a pane for each window of values; marks only move the watermark."""

    emit = "update" if reading == "as it grows" else "close"

    def flow(app: App) -> Flow:
        topic = app.topic("values", schema={"n": int, "at": Timestamp, "mark": bool})
        return (
            app.read(topic)
            .filter(~col("mark"))
            .window(transcript.windows, on="at", late=f"{DISORDER_S}s", emit=emit)
            .agg(values=agg.collect("n"), earliest=agg.min("at"), latest=agg.max("at"))
            .with_columns(time=TIMES[transcript.time])
            .write("panes")
        )

    return flow


class Run:
    """A transcript on its way: what it has given and dropped is compared after each step."""

    def __init__(self, flow: FlowTest, transcript: Transcript, reading: Reading) -> None:
        self.flow = flow
        self.transcript = transcript
        self.waits = reading != "on time"
        self.grows = reading == "as it grows"
        self.known: dict[tuple[int, int], Pane] = {}
        """What Beam has given of each window, as one pane."""
        self.newest: dict[tuple[int, int], dict[str, Any]] = {}
        """The newest row of each window; those of a session hold the earlier ones."""

    def play(self) -> None:
        watermark = -DISORDER_S
        for step in self.transcript.steps:
            if isinstance(step, Watermark):
                watermark = step.at - (self.transcript.lateness if self.waits else 0)
                self.flow.feed("values", [row(watermark + DISORDER_S, mark=True)])
            else:
                self.flow.feed("values", [row(n) for n in step.values])
                is_late = step.comes == "too late" or (step.comes == "late" and not self.waits)
                assert [event["n"] for event in self.flow.late()] == list(
                    step.values if is_late else ()
                )
            noted = [self.noted(pane) for pane in step.panes]
            if self.grows:
                self.see(noted)
            elif not self.waits:
                self.compare([pane for pane in noted if pane.when == "on time"])
            else:
                self.compare([pane for pane in self.known.values() if pane.window[1] < watermark])
        self.flow.end()
        if self.grows:
            self.see(list(self.known.values()))
            assert all(row["window_closed"] for row in self.newest.values())
        else:
            self.compare(list(self.known.values()) if self.waits else [])

    def see(self, panes: list[Pane]) -> None:
        """Compare the newest rows of windows with what Beam has given of them."""
        for emitted in self.flow.emitted():
            first, last, _, _ = self.given(emitted, timed=False)
            inside = [w for w in self.newest if first <= w[0] and w[1] <= last]
            for window in inside:
                del self.newest[window]
            self.newest[first, last] = emitted
        for pane in panes:
            row = self.newest[pane.window]
            found = self.given(row, timed=pane.time is not None)
            assert found == (*pane.window, sorted(pane.values), pane.time)

    def noted(self, pane: Pane) -> Pane:
        """Return what Beam has given of a window by now; a session's earlier panes are shorter."""
        overlaps = [w for w in self.known if w[0] <= pane.window[1] and pane.window[0] <= w[1]]
        before = [self.known.pop(window) for window in overlaps]
        if not self.transcript.accumulates:
            values = (n for one in (*before, pane) for n in one.values)
            pane = replace(pane, values=tuple(values))
        self.known[pane.window] = pane
        return pane

    def compare(self, expected: list[Pane]) -> None:
        for pane in expected if self.waits else ():
            del self.known[pane.window]
        given = [
            self.given(emitted, timed=any(p.time for p in expected))
            for emitted in self.flow.emitted()
        ]
        assert sorted(given) == sorted(
            (*pane.window, sorted(pane.values), pane.time) for pane in expected
        )

    @staticmethod
    def given(emitted: dict[str, Any], *, timed: bool) -> tuple[int, int, list[int], int | None]:
        window = second(emitted["window_start"]), second(emitted["window_end"]) - 1
        return (*window, emitted["values"], second(emitted["time"]) if timed else None)


def row(n: int, *, mark: bool = False) -> dict[str, object]:
    return {"n": n, "at": at(n), "mark": mark}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
def test_windows_give_the_panes_of_beam(tmp_path: Path, transcript: Transcript, reading: Reading):
    with FlowTest(panes_of(transcript, reading), tmp_path) as flow:
        Run(flow, transcript, reading).play()


@pytest.mark.parametrize("transcript", WRONG, ids=lambda transcript: transcript.name)
def test_a_wrong_transcript_fails(tmp_path: Path, transcript: Transcript):
    with (
        FlowTest(panes_of(transcript), tmp_path) as flow,
        pytest.raises(AssertionError, match="assert"),
    ):
        Run(flow, transcript, "on time").play()
