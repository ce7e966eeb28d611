"""What a run tells of its steps, and what others see of a stream: counts, times, what waits, how far it is behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import millstream as ms
from millstream.engines.local import flow_steps, flow_tally, flow_windowing
from millstream.flows.figures import FlowFigures, Load, StepFigures
from millstream.testing.clock import VirtualClock
from tests.flows_kit import StopAfter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SCHEMA = {"user": str, "n": int, "at": ms.Timestamp}
Row = dict[str, object]


def click(user: str, n: int, minute: float = 0) -> Row:
    return {"user": user, "n": n, "at": NOON + timedelta(minutes=minute)}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(round(NOON.timestamp() * 1e6))


@pytest.fixture
def app(tmp_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with ms.App("shop", store=tmp_path / "shop.mill", durability="process", clock=clock) as app:
        yield app


@pytest.fixture
def clicks(app: ms.App) -> ms.Topic:
    return app.topic("clicks", key="user", partitions=2, schema=SCHEMA)


def counts(steps: tuple[StepFigures, ...]) -> list[tuple[str, int, int, int]]:
    return [(step.part, step.number, step.rows_in, step.rows_out) for step in steps]


def run(flow: ms.Flow, mode: str) -> ms.RunReport:
    return flow.run() if mode == "batch" else flow.stream(until="end")


BOTH = pytest.mark.parametrize("mode", ["batch", "stream"])


@BOTH
def test_every_part_of_a_plan_has_its_steps(app: ms.App, clicks: ms.Topic, mode: str) -> None:
    """
    clicks  n even ─┐
                    ├ union ── 1 select ─┐
    clicks  n > 7 ──┘                    ├ join within 1 h ── 1 filter m > 8 ── 2 window ── 3 filter
    clicks  1 select ────────────────────┘
    """
    clicks.append([click("ann", n, n) for n in range(10)])
    read = app.read(clicks)
    left = read.filter(ms.col("n") % 2 == 0).union(read.filter(ms.col("n") > 7))
    right = read.select("user", m=ms.col("n"), then=ms.col("at"))
    joined = left.select("user", "n", "at").join_interval(
        right, on="user", time=("at", "then"), within=("0s", "1h")
    )
    windows = joined.filter(ms.col("m") > 8).window(ms.tumbling("1h"), on="at").group_by("n")
    report = run(windows.agg(rows=ms.count()).filter(ms.col("rows") > 1).write("out"), mode)
    pairs = [(n, m) for n in [0, 2, 4, 6, 8, 8, 9] for m in range(n, 10)]
    late = [pair for pair in pairs if pair[1] > 8]
    assert counts(report.steps) == [
        ("left, of 1", 1, 10, 5),
        ("left, of 2", 1, 10, 2),
        ("left", 1, 7, 7),
        ("right", 1, 10, 10),
        ("", 0, 17, len(pairs)),
        ("", 1, len(pairs), len(late)),
        ("", 2, len(late), len({n for n, _ in late})),
        ("", 3, 6, 1),
    ]
    assert "left, of 2" in str(report)


def versions(flow: ms.Flow) -> ms.Flow:
    return flow.select("user", p=ms.col("n"), since=ms.col("at"))


@BOTH
@pytest.mark.parametrize(
    ("step", "rows_out"),
    [
        (lambda f: f.key_by("user", time="at").process(lambda e, c: [e, e], SCHEMA), 20),
        (lambda f: f.window(ms.count_window(3), on="at").group_by("user").agg(n=ms.count()), 4),
        (lambda f: f.window(ms.session("2m"), on="at").group_by("user").agg(n=ms.count()), 1),
        (lambda f: f.join_asof(versions(f), on="at", right_on="since", by="user"), 10),
        (lambda f: f.map_batches(lambda batches: (b[:0] for b in batches), schema=SCHEMA), 0),
    ],
    ids=["process", "count windows", "session", "versions", "map_batches"],
)  # fmt: skip
def test_steps_that_keep_state_count(
    app: ms.App, clicks: ms.Topic, mode: str, step: Callable[[ms.Flow], ms.Flow], rows_out: int
) -> None:
    clicks.append([click("ann", n, n) for n in range(10)])
    report = run(step(app.read(clicks)).write("out"), mode)
    of_step = next(s for s in report.steps if s.part == "" and s.name != "filter")
    assert (of_step.rows_out, report.rows_out) == (rows_out, rows_out)
    assert of_step.time_us is not None


class Seconds:
    """A clock that stands still unless a function takes time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@BOTH
def test_a_function_has_the_time_it_takes_itself(
    app: ms.App, clicks: ms.Topic, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = Seconds()
    monkeypatch.setattr(flow_tally, "time", seconds)
    monkeypatch.setattr(flow_windowing, "time", seconds)
    monkeypatch.setattr(flow_steps, "time", seconds)

    def slow(row: Row) -> Row:
        seconds.now += 2
        return row

    def quick(row: Row) -> Row:
        seconds.now += 0.5
        return row

    def counted(row: Row, context: ms.KeyedContext[None]) -> Row:
        seconds.now += 0.25
        return row

    clicks.append([click("ann", n) for n in range(4)])
    flow = (
        app.read(clicks)
        .filter(ms.col("n") > 0)
        .map(slow, schema=SCHEMA)
        .filter(ms.col("n") > 1)
        .map(quick, schema=SCHEMA)
        .with_columns(m=ms.col("n"))
        .key_by("user", time="at")
        .process(counted, {"user": str, "n": int, "at": ms.Timestamp, "m": int})
        .map(quick, schema={"user": str, "n": int, "at": ms.Timestamp, "m": int})
    )
    steps = run(flow.write("out"), mode).steps
    times = [None if step.time_us is None else step.time_us / 1e6 for step in steps]
    # A batch computes built-in steps as one, whatever lies between; a stream calls functions between them.
    between = None if mode == "batch" else 0
    assert times == [0, 6, between, 1, between, 0.5, 1]
    assert sum(time or 0 for time in times) == seconds.now


def test_a_stream_is_looked_at_while_it_runs(
    app: ms.App, clicks: ms.Topic, clock: VirtualClock
) -> None:
    flow = app.read(clicks).window(ms.tumbling("1h"), on="at", late="1m").group_by("user")
    flow = flow.agg(rows=ms.count()).write("out")
    with pytest.raises(ms.errors.ConfigurationError, match="no figures of flow 'out'"):
        flow.figures()
    clicks.append([click("ann", n, n) for n in range(100)], partition=0)
    clicks.append([click("bob", n, n / 2) for n in range(100)], partition=1)
    seen: list[FlowFigures] = []

    class Looking(StopAfter):
        def progress(self, told: ms.Progress) -> None:
            super().progress(told)
            seen.append(flow.figures())

    clock.advance("2h")
    stop = Looking(2)
    flow.stream(stop=stop, progress=stop.progress, batch_events=40)
    first, second = seen
    assert (first.is_running, first.batches, first.full, first.rows_in) == (True, 1, 1, 40)
    assert (first.waiting, first.behind, second.waiting) == (160, True, 120)
    assert [p.waiting for p in second.partitions] == [60, 60]
    assert [p.next_offset for p in second.partitions] == [40, 40]
    # ann's events come to 12:39, bob's to 12:19:30; a minute is waited for late ones.
    assert second.held_by is not None
    assert (second.held_by.partition, second.held_by.latest) == (1, NOON + timedelta(minutes=19.5))
    assert second.watermark == NOON + timedelta(minutes=18.5)
    assert second.watermark_lag_us == (120 - 18.5) * 60e6
    after = flow.figures()
    assert not after.is_running
    assert "the oldest events are in topic 'clicks', partition 1" in str(after)
    flow.stream(until="now")
    assert (flow.figures().waiting, flow.figures().behind) == (0, False)
    told = str(flow.figures()).splitlines()
    assert (
        told[3]
        == "  waiting      0 events: it keeps up; 0 of 1 micro-batches were full (100,000 events)"
    )
    # What is told stands below each other, behind its name.
    assert all(line[:2] == "  " and line[14] == " " != line[15] for line in told[1:5])


def test_the_load_says_where_the_time_went(
    app: ms.App, clicks: ms.Topic, clock: VirtualClock
) -> None:
    """Each event takes 6 s of the clock to compute; between two runs of micro-batches the stream waits 40 s."""

    def slow(row: Row) -> Row:
        clock.advance("6s")
        return row

    flow = app.read(clicks).map(slow, schema=SCHEMA).write("out")
    clicks.append([click("ann", 0)])

    class Feeding(StopAfter):
        def progress(self, told: ms.Progress) -> None:
            super().progress(told)
            clock.advance("40s")
            clicks.append([click("ann", told.rows_done)])

    stop = Feeding(4)
    flow.stream(stop=stop, progress=stop.progress)
    figures = flow.figures()
    # The last commit is at 4 * 6 + 3 * 40 seconds.
    assert figures.load == Load(144_000_000, 0, 24_000_000, 0, rows_in=4)
    assert figures.load.busy == pytest.approx(24 / 144)
    # The last minute before it begins at the commit at 98 s: 46 s ago. The one before is more than a minute ago.
    assert figures.recent.elapsed_us == 92_000_000
    assert (figures.recent.process_us, figures.recent.rows_in) == (12_000_000, 2)
    assert [step.time_us is not None for step in figures.steps] == [True]


def test_other_steps_than_those_that_ran_are_not_shown(app: ms.App, clicks: ms.Topic) -> None:
    clicks.append([click("ann", n) for n in range(4)])
    read = app.read(clicks)
    read.filter(ms.col("n") > 1).write("out").stream(until="now")
    other = read.filter(ms.col("n") > 2).write("out")
    figures = other.figures()
    assert (figures.changed, figures.steps, figures.rows_in) == (True, (), 4)
    assert "the steps were changed since" in str(figures)


def test_a_shared_flow_has_the_figures_of_all_its_units(app: ms.App, clicks: ms.Topic) -> None:
    clicks.append([click(user, n) for n in range(9) for user in ("ann", "bob", "eve")])
    flow = app.read(clicks).filter(ms.col("n") > 2).write("out")
    report = flow.stream(until="end", shared=True)
    figures = flow.figures()
    assert counts(report.steps) == counts(figures.steps) == [("", 1, 27, 18)]
    assert (figures.rows_in, figures.rows_out, figures.waiting) == (27, 18, 0)
    assert len(figures.partitions) == 2


def test_files_do_not_say_what_waits(app: ms.App, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    flow = app.read(tmp_path / "in", schema={"n": int}, file_format="jsonl")
    flow = flow.filter(ms.col("n") > 1).write("out")
    flow.stream(until="end")
    figures = flow.figures()
    assert (figures.waiting, figures.behind, figures.watermark) == (None, False, None)
    assert counts(figures.steps) == [("", 1, 2, 1)]
    assert "not known" in str(figures)


MODULE = """
import millstream as ms

app = ms.App("shop", store="shop.mill", durability="process")
clicks = app.topic("clicks", schema={"n": int})
small = app.read(clicks).filter(ms.col("n") < 5).write("small")
"""


def test_the_command_shows_them(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(MODULE)
    with ms.App("shop", store=tmp_path / "shop.mill", durability="process") as app:
        clicks = app.topic("clicks", schema={"n": int})
        clicks.append([{"n": n} for n in range(20)])

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "millstream", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    none = ran("figures", "shop:small")
    assert (none.returncode, "no figures of flow 'small'" in none.stderr) == (2, True)
    assert "      20             5    25.0%" in ran("stream", "shop:small", "--until-now").stdout
    shown = ran("figures", "shop:small")
    assert shown.returncode == 0, shown.stderr
    assert "flow small: not running, 20 rows in, 5 out, 1 micro-batches" in shown.stdout
    facts = json.loads(ran("figures", "shop:small", "--json").stdout)
    assert (facts["waiting"], facts["behind"], facts["watermark_lag_us"]) == (0, False, None)
    [step] = facts["steps"]
    assert (step["rows_in"], step["rows_out"], step["selectivity"]) == (20, 5, 0.25)
