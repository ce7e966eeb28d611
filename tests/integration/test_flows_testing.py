"""The kit for tests of flows that users get: each step, what it gives, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.tasks.states import TaskState
from millstream.testing import FlowTest
from tests.refusals import refused

pytest_plugins = ["millstream.testing.plugin"]
Stream = Callable[..., FlowTest]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def click(minute: float, page: str = "/") -> dict[str, Any]:
    return {"page": page, "at": at(minute)}


def hits(app: ms.App, partitions: int = 1) -> ms.Flow:
    clicks = app.topic("clicks", schema={"page": str, "at": ms.Timestamp}, partitions=partitions)
    return (
        app.read(clicks)
        .window(ms.tumbling("1m"), on="at", late="30s")
        .group_by("page")
        .agg(hits=ms.count())
        .write("hits")
    )


def shown(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [((row["window_start"] - NOON).seconds // 60, row["page"], row["hits"]) for row in rows]


# minute     0         1         2         3
# window     |    a    |    b    |    c    |
# events       1  1      1 ─ 30 s ─▶ 1.5: a closes      then 0.9: late


def test_a_window_is_given_when_the_watermark_reaches_its_end(millstream_flows: Stream) -> None:
    flow = millstream_flows(hits)
    assert flow.watermark is None
    flow.feed("clicks", [click(0.1), click(0.2), click(0.3, "/buy")])
    assert flow.emitted() == []
    assert shown(flow.held()) == [(0, "/", 2), (0, "/buy", 1)]
    flow.feed("clicks", [click(1.4)])
    assert flow.emitted() == []
    flow.feed("clicks", [click(1.5)])
    assert flow.watermark == at(1)
    assert shown(flow.emitted()) == [(0, "/", 2), (0, "/buy", 1)]
    assert flow.emitted() == [], "each row is shown once"
    assert shown(flow.held()) == [(1, "/", 2)]


def test_late_events_are_shown_though_the_flow_only_counts_them(millstream_flows: Stream) -> None:
    flow = millstream_flows(hits)
    flow.feed("clicks", [click(0.1), click(2)])
    flow.feed("clicks", [click(0.9)])
    assert flow.late() == [click(0.9)]
    assert flow.late() == []
    assert shown(flow.emitted()) == [(0, "/", 1)]


def test_the_slowest_partition_holds_the_watermark(millstream_flows: Stream) -> None:
    #   minute         0    1           5         9
    #   window         |    |
    #   partition 0     ·               ·              comes last, and closes it
    #   partition 1                               ·    alone closes nothing
    flow = millstream_flows(lambda app: hits(app, partitions=2))
    flow.feed("clicks", [click(0.1)], partition=0)
    flow.feed("clicks", [click(9)], partition=1)
    assert flow.emitted() == []
    flow.feed("clicks", [click(5)], partition=0)
    assert shown(flow.emitted()) == [(0, "/", 1)]


def test_time_closes_windows_only_where_idle_is_declared(millstream_flows: Stream) -> None:
    patient, idle = millstream_flows(hits), millstream_flows(hits, idle="1m")
    for flow in (patient, idle):
        flow.feed("clicks", [click(0.1)])
        flow.advance("59s")
        assert flow.emitted() == []
        flow.advance("5m")
    assert patient.emitted() == []
    assert shown(idle.emitted()) == [(0, "/", 1)]


def test_an_end_closes_everything_and_what_comes_then_is_late(millstream_flows: Stream) -> None:
    flow = millstream_flows(hits)
    flow.feed("clicks", [click(0.1)])
    report = flow.end()
    assert (report.rows_in, report.rows_out) == (0, 1)
    assert shown(flow.emitted()) == [(0, "/", 1)]
    assert flow.held() == []
    flow.feed("clicks", [click(0.2)])
    assert flow.late() == [click(0.2)]


def test_a_restart_loses_nothing(millstream_flows: Stream) -> None:
    flow = millstream_flows(hits)
    flow.feed("clicks", [click(0.1)])
    flow.restart()
    assert shown(flow.held()) == [(0, "/", 1)]
    flow.feed("clicks", [click(0.2), click(1.5)])
    assert shown(flow.emitted()) == [(0, "/", 2)]


def test_a_flow_of_another_app_is_tested_beside_its_store(
    millstream_flows: Stream, millstream_app: ms.App
) -> None:
    built = hits(millstream_app)
    flow = millstream_flows(built, partitions=2)
    flow.feed("clicks", [click(0.1)], partition=1)
    flow.end()
    assert shown(flow.emitted()) == [(0, "/", 1)]
    assert millstream_app.read("clicks").collect().num_rows == 0
    assert "hits" not in millstream_app.topics()


def test_an_error_is_raised_by_the_step_and_the_next_takes_the_events_again(
    millstream_flows: Stream,
) -> None:
    broken = [True]

    def checked(event: dict[str, Any]) -> dict[str, Any]:
        if broken[0]:
            raise ValueError("no line")
        return {"n": event["n"]}

    def build(app: ms.App) -> ms.Flow:
        numbers = app.topic("numbers", schema={"n": int})
        return app.read(numbers).map(checked, {"n": int})

    flow = millstream_flows(build)
    with pytest.raises(ms.errors.StepError, match="no line"):
        flow.feed("numbers", [{"n": 1}])
    assert flow.emitted() == []
    broken[0] = False
    flow.step()
    assert flow.emitted() == [{"n": 1}]


def test_dead_letters_are_shown(millstream_flows: Stream) -> None:
    def build(app: ms.App) -> ms.Flow:
        numbers = app.topic("numbers", schema={"n": int})
        halves = app.read(numbers).map(
            lambda event: {"n": 10 // event["n"]}, {"n": int}, on_error="dead_letter"
        )
        return halves.write("halves")

    flow = millstream_flows(build)
    assert flow.dead() == []
    flow.feed("numbers", [{"n": 0}, {"n": 5}])
    assert flow.emitted() == [{"n": 2}]
    [letter] = flow.dead()
    assert letter["event"] == '{"n":0}'
    assert "ZeroDivisionError" in letter["error"]


def test_a_join_shows_what_waits_for_a_partner(millstream_flows: Stream) -> None:
    #   minute   0       5    10        60         90
    #   orders   1 2    (3: late)                  9
    #            [----------------------]
    #   bills                 1                    9      both sides at 90: none can come for 2
    def build(app: ms.App) -> ms.Flow:
        orders = app.topic("orders", schema={"id": int, "at": ms.Timestamp})
        bills = app.topic("bills", schema={"id": int, "sum": int, "at": ms.Timestamp})
        billed = app.read(bills).select("id", "sum", billed=ms.col("at"))
        return app.read(orders).join_interval(
            billed, on="id", within=("0s", "1h"), time=("at", "billed"), how="left"
        )

    flow = millstream_flows(build)
    flow.feed("orders", [{"id": 1, "at": at(0)}, {"id": 2, "at": at(0)}])
    flow.feed("bills", [{"id": 1, "sum": 7, "at": at(10)}])
    assert [(row["id"], row["sum"]) for row in flow.emitted()] == [(1, 7)]
    assert [row["id"] for row in flow.held(0)] == [1, 2]
    assert flow.held(1) == [{"id": 1, "sum": 7, "billed": at(10)}]
    flow.feed("bills", [{"id": 9, "sum": 1, "at": at(90)}])
    flow.feed("orders", [{"id": 9, "at": at(90)}])
    assert [(row["id"], row["sum"]) for row in flow.emitted()] == [(9, 1), (2, None)]
    flow.feed("orders", [{"id": 3, "at": at(5)}])
    assert flow.late("left") == [{"id": 3, "at": at(5)}]
    assert flow.late("right") == []
    with pytest.raises(ms.errors.ConfigurationError, match="no state 2"):
        flow.held(2)


def test_a_flow_of_files_is_fed_with_events(
    millstream_flows: Stream, millstream_app: ms.App, tmp_path: Path
) -> None:
    (tmp_path / "meters.csv").write_text("city,kwh,at\nRom,7,2026-01-01T12:00:00Z\n")
    path = str(tmp_path / "meters.csv")
    built = millstream_app.read(path).filter(ms.col("kwh") > 5).write(str(tmp_path / "out") + "/")
    flow = millstream_flows(built)
    flow.feed(path, [{"city": "Bern", "kwh": 3, "at": NOON}, {"city": "Rom", "kwh": 9, "at": NOON}])
    assert flow.emitted() == [{"city": "Rom", "kwh": 9, "at": NOON}]
    assert not (tmp_path / "out").exists()


def test_calls_of_a_task_are_shown_as_rows(millstream_flows: Stream) -> None:
    def build(app: ms.App) -> ms.Flow:
        @app.task
        def warn(kwh: int) -> None: ...

        meters = app.topic("meters", schema={"kwh": int})
        return app.read(meters).filter(ms.col("kwh") > 5).enqueue(warn)

    flow = millstream_flows(build)
    flow.feed("meters", [{"kwh": 9}, {"kwh": 1}])
    assert flow.emitted() == [{"kwh": 9}]
    assert flow.app.tasks_engine.depth("default")[TaskState.QUEUED] == 1


def test_what_cannot_work_is_refused(millstream_flows: Stream, millstream_app: ms.App) -> None:
    with pytest.raises(ms.errors.PlanError, match="cannot be streamed"):
        millstream_flows(millstream_app.read([{"n": 1}]))
    flow = millstream_flows(hits)
    with pytest.raises(ms.errors.ConfigurationError, match="does not read 'orders'"):
        flow.feed("orders", [])
    with pytest.raises(ms.errors.PlanError, match="idle"):
        millstream_flows(hits, idle="0s").feed("clicks", [click(0)])


def test_what_is_no_flow_is_refused(tmp_path: Path) -> None:
    expected = "a function that takes an app and returns a flow"
    for given, saying in ((5, "was given 5"), (lambda app: None, "which returned None")):
        with (
            refused(ms.errors.ConfigurationError, saying, expected),
            FlowTest(given, tmp_path),  # type: ignore[arg-type]
        ):
            pass


def test_it_is_used_in_its_with_block(tmp_path: Path) -> None:
    flow = FlowTest(hits, tmp_path)
    with refused(ms.errors.ConfigurationError, "not open"):
        flow.feed("clicks", [click(0)])
    with flow:
        flow.feed("clicks", [click(0)])
    for use in (flow.step, lambda: flow.advance("1m"), lambda: flow.feed("clicks", [])):
        with refused(ms.errors.ConfigurationError, "not open"):
            use()
