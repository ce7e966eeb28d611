"""When windows give rows: timelines, restarts, and what is refused.

clock      0 s   1 s          11 s      21 s
events     a b   a                       a (a window later)
update     r r   r                       R R r            R: of a closed window
early(10s)                    r r        R R
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.flows import aggregate as agg
from millstream.flows.emission import Emission, early
from millstream.flows.flow import Flow
from millstream.flows.windows import Windows, count_window, session, sliding, tumbling
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows import FlowTest
from millstream.testing.flows_suite import LocalWorld, at
from tests.refusals import refused

SCHEMA = {"k": str, "n": int, "at": Timestamp}
Shown = tuple[str, bool, int]


TEN_MINUTES = tumbling("10m")


def build(emit: str | Emission, windows: Windows = TEN_MINUTES) -> Callable[[ms.App], Flow]:
    def flow(app: ms.App) -> Flow:
        topic = app.topic("in", schema=SCHEMA)
        windowed = app.read(topic).window(windows, on="at", emit=emit)
        return windowed.group_by("k").agg(n=agg.sum("n")).write("out").named("sums")

    return flow


def event(k: str, n: int, minute: int) -> dict[str, Any]:
    return {"k": k, "n": n, "at": at(minute)}


def shown(flow: FlowTest) -> list[Shown]:
    return [(row["k"], row["window_closed"], row["n"]) for row in flow.emitted()]


def test_updates_come_with_the_events_that_cause_them(tmp_path: Path) -> None:
    #   minute    0   1  │ 4  │ 10       │ end       each │ is the end of a micro-batch
    #   events    a1  b1 │ a2 │ a4       │
    #   rows      a1  b1 │ a3 │ A3 B1 a4 │ A4        in capitals: of a closed window
    with FlowTest(build("update"), tmp_path) as flow:
        flow.feed("in", [event("a", 1, 0), event("b", 1, 1)])
        assert shown(flow) == [("a", False, 1), ("b", False, 1)]
        flow.feed("in", [event("a", 2, 4)])
        assert shown(flow) == [("a", False, 3)]
        flow.feed("in", [event("a", 4, 10)])
        assert shown(flow) == [("a", True, 3), ("b", True, 1), ("a", False, 4)]
        flow.end()
        assert shown(flow) == [("a", True, 4)]


def test_early_rows_wait_for_the_clock_and_come_once(tmp_path: Path) -> None:
    #   clock    0 s      1 s    11 s        1 h later   + 9 s   + 10 s
    #   events   a1 b1    a2                 a4                          then a4 of the next window
    #   rows                     a3 b1                           a7      A7 B1
    with FlowTest(build(early("10s")), tmp_path) as flow:
        flow.feed("in", [event("a", 1, 0), event("b", 1, 1)])
        flow.advance("1s")
        flow.feed("in", [event("a", 2, 4)])
        assert shown(flow) == []
        flow.advance("10s")
        assert shown(flow) == [("a", False, 3), ("b", False, 1)]
        # Nothing has changed since.
        flow.advance("1h")
        assert shown(flow) == []
        flow.feed("in", [event("a", 4, 5)])
        flow.advance("9s")
        assert shown(flow) == []
        flow.advance("1s")
        assert shown(flow) == [("a", False, 7)]
        flow.feed("in", [event("a", 4, 10)])
        assert shown(flow) == [("a", True, 7), ("b", True, 1)]


def test_a_window_that_closes_before_its_early_row_is_due_gives_the_last_one_only(
    tmp_path: Path,
) -> None:
    #   clock    0 s                             10 s
    #   events   a1 of minute 0, b1 of minute 12
    #   rows     A1                              b1
    with FlowTest(build(early("10s")), tmp_path) as flow:
        flow.feed("in", [event("a", 1, 0)])
        flow.feed("in", [event("b", 1, 12)])
        assert shown(flow) == [("a", True, 1)]
        flow.advance("10s")
        assert shown(flow) == [("b", False, 1)]


def test_after_a_restart_no_change_stays_unseen(tmp_path: Path) -> None:
    #   clock    0 s             10 s
    #   events   a1 b1 ║                   ║: the process ends, and another goes on
    #   rows                     a1 b1
    with FlowTest(build(early("10s")), tmp_path) as flow:
        flow.feed("in", [event("a", 1, 0), event("b", 1, 1)])
        flow.restart()
        flow.step()
        flow.advance("10s")
        assert shown(flow) == [("a", False, 1), ("b", False, 1)]


def test_a_session_grows_until_it_is_closed(tmp_path: Path) -> None:
    #   minute   0    3    4    5    9                20     25
    #   events   1         2                          8
    #                 4                                      comes third: late
    #   rows     |———— 1 ———————|
    #            |————————— 3 ———————|                |— 8 ——|     the second is closed when 20 comes
    with FlowTest(build("update", session("5m")), tmp_path) as flow:
        flow.feed("in", [event("a", 1, 0)])
        flow.feed("in", [event("a", 2, 4)])
        flow.feed("in", [event("a", 4, 3)])
        rows = [(row["window_end"], row["n"]) for row in flow.emitted()]
        # The third comes out of order, in the past of the watermark: it is late for a session.
        assert rows == [(at(5), 1), (at(9), 3)]
        flow.feed("in", [event("a", 8, 20)])
        assert shown(flow) == [("a", True, 3), ("a", False, 8)]


def test_the_emission_may_change_while_windows_are_open(store_path: Path) -> None:
    #   minute   0  │ 1       │                 10
    #   emit     close│update │ close
    #   events   1  │ 2       │
    #   rows        │ 3, open │ 3, at the end
    def flow(world: LocalWorld, emit: str) -> Flow:
        windowed = world.read("in").window(tumbling("10m"), on="at", emit=emit)
        return windowed.group_by("k").agg(n=agg.sum("n"))

    class Once:
        def __init__(self) -> None:
            self.done = False

        def is_set(self) -> bool:
            return self.done

        def progress(self, _: object) -> None:
            self.done = True

    with LocalWorld(store_path) as world:
        world.topic("in", SCHEMA)
        world.append("in", [event("a", 1, 0)])
        once = Once()
        flow(world, "close").write("closed").named("sums").stream(stop=once, progress=once.progress)
        world.append("in", [event("a", 2, 1)])
        once = Once()
        flow(world, "update").write("all").named("sums").stream(stop=once, progress=once.progress)
        assert [(row["n"], row["window_closed"]) for row in world.events("all")] == [(3, False)]
        flow(world, "close").write("closed").named("sums").stream(until="end")
        assert [row["n"] for row in world.events("closed")] == [3]


def test_a_batch_gives_closed_rows_alone(store_path: Path) -> None:
    #   minute   0          10         20
    #   events   1            2
    #   rows               1          2
    with LocalWorld(store_path) as world:
        world.topic("in", SCHEMA)
        world.append("in", [event("a", 1, 0), event("a", 2, 11)])
        flow = world.read("in").window(tumbling("10m"), on="at", emit="update").agg(n=agg.sum("n"))
        assert flow.schema.names == ["window_start", "window_end", "window_closed", "n"]
        rows = flow.collect().to_pylist()
        assert [(row["n"], row["window_closed"]) for row in rows] == [(1, True), (2, True)]


@pytest.mark.parametrize("on", ["at", None])
def test_count_windows_are_complete_after_so_many_rows(tmp_path: Path, on: str | None) -> None:
    #   minute            0    1    2    3    4    end
    #   events            a1   b2   a4   b8   a16
    #   by time                          a5   b10  a16      given when a later row shows that none comes before
    #   as they come                a5   b10       a16
    def flow(app: ms.App) -> Flow:
        topic = app.topic("in", schema=SCHEMA)
        windowed = app.read(topic).window(count_window(2), on=on)
        return windowed.group_by("k").agg(n=agg.sum("n")).write("out")

    def sums(flow: FlowTest) -> list[tuple[str, int]]:
        return [(row["k"], row["n"]) for row in flow.emitted()]

    with FlowTest(flow, tmp_path) as test:
        test.feed("in", [event("a", 1, 0), event("b", 2, 1), event("a", 4, 2)])
        # With a time, the last row may still be followed by an earlier one.
        assert sums(test) == ([] if on else [("a", 5)])
        test.restart()
        test.feed("in", [event("b", 8, 3)])
        assert sums(test) == ([("a", 5)] if on else [("b", 10)])
        test.feed("in", [event("a", 16, 4)])
        assert sums(test) == ([("b", 10)] if on else [])
        assert test.held(1) == ([] if on else [{"k": "a", "n": 16}])
        test.end()
        assert sums(test) == [("a", 16)]


def test_rows_behind_the_watermark_are_late_for_a_count(tmp_path: Path) -> None:
    #   minute     3    4    5    9          the watermark is a minute behind the latest
    #   first                1
    #   second          2                    just in time
    #   third      4                         late
    #   fourth                    8          shows that [4, 5] is complete
    def flow(app: ms.App) -> Flow:
        topic = app.topic("in", schema=SCHEMA)
        windowed = app.read(topic).window(count_window(2), on="at", late="1m")
        return windowed.agg(n=agg.sum("n")).write("out")

    with FlowTest(flow, tmp_path) as test:
        test.feed("in", [event("a", 1, 5), event("a", 2, 4), event("a", 4, 3), event("a", 8, 9)])
        rows = [(row["window_start"], row["window_end"], row["n"]) for row in test.emitted()]
        assert rows == [(at(4), at(5), 3)]
        assert [row["n"] for row in test.late()] == [4]


BAD: dict[str, tuple[Callable[[Flow], object], str]] = {
    "an emission that there is not": (
        lambda f: f.window(tumbling("1h"), on="at", emit="often"),
        "emit='often'",
    ),
    "early rows of sliding windows": (
        lambda f: f.window(sliding("1h"), on="at", emit="update"),
        "each event would change those of all times",
    ),
    "early rows of count windows": (
        lambda f: f.window(count_window(3), on="at", emit=early("1s")),
        "a window is known once it is complete",
    ),
    "windows of time without one": (
        lambda f: f.window(tumbling("1h")),
        "without an event time",
    ),
    "late without a time": (
        lambda f: f.window(count_window(3), late="1m"),
        "without an event time",
    ),
    "a column of that name": (
        lambda f: f.window(tumbling("1h"), on="at", emit="update").agg(window_closed=agg.count()),
        "'window_closed' is used twice",
    ),
    "an aggregation of count windows": (
        lambda f: (
            f.window(count_window(3), on="at")
            .agg(n=agg.count())
            .select("n", at=ms.col("window_end"))
            .window(tumbling("1h"), on="at")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "every window of rows that is not complete",
    ),
    "an aggregation of early rows": (
        lambda f: (
            f.window(tumbling("1h"), on="at", emit="update")
            .agg(n=agg.count())
            .select("n", at=ms.col("window_end"))
            .window(tumbling("1h"), on="at")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "would take each early row for one of its own",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case: str, store_path: Path) -> None:
    make, saying = BAD[case]
    with LocalWorld(store_path) as world:
        world.topic("in", SCHEMA)
        with refused(PlanError, saying):
            make(world.read("in"))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_count_window_has_rows(size: Any) -> None:
    with refused(PlanError, f"a window of {size!r} rows", somewhere=False):
        count_window(size)


def test_early_takes_a_positive_duration() -> None:
    with refused(PlanError, "early('0s')", somewhere=False):
        early("0s")
