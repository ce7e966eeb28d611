"""Functions with state: when they are called, what is kept, and what is refused. Timelines are of event time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.engines.local import flow_keyed, flow_process_stage
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.errors import StepError
from millstream.primitives.schema import Timestamp
from millstream.testing import FlowTest
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.refusals import refused

CLICKS = {"user": str, "page": str, "at": Timestamp | None}
LEFT = {"user": str, "pages": list[str], "at": Timestamp}
Row = dict[str, Any]
Context = ms.KeyedContext[Any]


@dataclass
class Visit:
    pages: list[str] = field(default_factory=list)


def look(event: Row, context: ms.KeyedContext[Visit]) -> None:
    """Gather the pages of a visit, which ends when nothing has come for ten minutes."""
    context.state.pages.append(event["page"])
    context.set_timer(context.time + timedelta(minutes=10))


def leave(context: ms.KeyedContext[Visit]) -> Row:
    pages = context.state.pages
    context.clear()
    return {"user": context.key, "pages": pages, "at": context.time}


def visits(flow: Flow, **options: Any) -> Flow:
    return flow.key_by("user", time="at", **options).process(
        look, LEFT, state=Visit, on_timer=leave
    )


def click(user: str, page: str, minute: float | None) -> Row:
    return {"user": user, "page": page, "at": None if minute is None else at(minute)}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("clicks", CLICKS)
        yield world


def topic_of(app: ms.App, partitions: int = 1) -> Flow:
    return app.read(app.topic("clicks", schema=CLICKS, partitions=partitions))


def numbered(event: Row, context: Context) -> Row:
    context.state += 1
    return {"user": event["user"], "n": context.state}


def count_of(flow: Flow, **options: Any) -> Flow:
    return flow.key_by("user", **options).process(numbered, {"user": str, "n": int}, state=int)


def test_events_come_in_the_order_of_their_times_and_timers_between_them(tmp_path: Path) -> None:
    # minute     0    2    4         12   14
    # a          1         2               ⏰ of a
    # b               1             ⏰ of b
    # comes as   a1   a2   b1             c
    with FlowTest(lambda app: visits(topic_of(app), late="5m").write("left"), tmp_path) as flow:
        flow.feed("clicks", [click("a", "1", 0), click("a", "2", 4), click("b", "1", 2)])
        assert flow.emitted() == []
        assert [row["page"] for row in flow.held(0)] == ["1", "2", "1"]
        assert flow.held(1) == []

        flow.feed("clicks", [click("c", "1", 8)])
        # 8 - 5: what lies before minute 3 was processed.
        assert [(row["user"], row["page"]) for row in flow.held(0)] == [("a", "2"), ("c", "1")]
        assert {row["key"]: row["timers"] for row in flow.held(1)} == {
            "a": {"": at(10)},
            "b": {"": at(12)},
        }

        flow.feed("clicks", [click("c", "2", 18)])
        assert flow.emitted() == [{"user": "b", "pages": ["1"], "at": at(12)}]
        flow.restart()
        flow.feed("clicks", [click("c", "3", 20)])
        assert flow.emitted() == [{"user": "a", "pages": ["1", "2"], "at": at(14)}]
        assert [row["key"] for row in flow.held(1)] == ["c"]

        flow.end()
        assert flow.emitted() == [{"user": "c", "pages": ["1", "2", "3"], "at": at(30)}]
        assert flow.held(1) == []


def test_late_events_are_counted_and_kept(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 10), click("a", "2", 4), click("b", "1", None)])
    report = (
        visits(world.read("clicks"), late="5m", keep_late=True).write("left").stream(until="end")
    )
    assert (report.late, report.untimed, report.rows_out) == (1, 1, 1)
    assert [row["page"] for row in world.events("left.late")] == ["2", "1"]


def test_a_batch_has_no_late_events(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 10), click("a", "2", 4), click("b", "1", None)])
    report = visits(world.read("clicks")).run()
    assert report.table is not None
    assert report.table.to_pylist() == [{"user": "a", "pages": ["2", "1"], "at": at(20)}]
    assert report.untimed == 1


def test_without_a_time_events_come_as_they_arrive_and_at_once(tmp_path: Path) -> None:
    with FlowTest(lambda app: count_of(topic_of(app)).write("counts"), tmp_path) as flow:
        flow.feed("clicks", [click("a", "1", 9), click("a", "2", 3), click("b", "1", None)])
        assert [(row["user"], row["n"]) for row in flow.emitted()] == [("a", 1), ("a", 2), ("b", 1)]
        flow.restart()
        flow.feed("clicks", [click("a", "3", 1)])
        assert [(row["user"], row["n"]) for row in flow.emitted()] == [("a", 3)]


def test_timers_of_the_clock_go_by_the_clock(tmp_path: Path) -> None:
    def wait(event: Row, context: Context) -> None:
        context.set_clock_timer("5m", event["page"])
        context.set_clock_timer("1h", "other")

    def ring(context: Context) -> Row:
        return {"user": context.key, "page": context.timer}

    def flow_of(app: ms.App) -> Flow:
        keyed = topic_of(app).key_by("user")
        return keyed.process(wait, {"user": str, "page": str}, on_timer=ring).write("rung")

    with FlowTest(flow_of, tmp_path) as flow:
        flow.feed("clicks", [click("a", "1", 0)])
        flow.advance("3m")
        flow.feed("clicks", [click("a", "2", 0), click("b", "1", 0)])
        assert flow.emitted() == []
        flow.advance("2m")
        assert flow.emitted() == [{"user": "a", "page": "1"}]
        flow.restart()
        flow.advance("3m")
        assert in_order(flow.emitted()) == in_order(
            [{"user": "a", "page": "2"}, {"user": "b", "page": "1"}]
        )
        # At the end all that are left are due.
        flow.end()
        assert in_order(flow.emitted()) == in_order(
            [{"user": "a", "page": "other"}, {"user": "b", "page": "other"}]
        )


def test_a_key_without_events_is_forgotten_after_its_time_to_live(tmp_path: Path) -> None:
    # minute     0    1         30   31
    # a          1         (over)      1
    # b               1          2         within 30 minutes
    with FlowTest(
        lambda app: count_of(topic_of(app), time="at", ttl="30m").write("counts"), tmp_path
    ) as flow:
        flow.feed("clicks", [click("a", "1", 0), click("b", "1", 1)])
        flow.feed("clicks", [click("b", "2", 30), click("c", "1", 30.5)])
        assert [row["key"] for row in flow.held(1)] == ["b"]
        flow.feed("clicks", [click("a", "2", 31), click("c", "2", 32)])
        flow.end()
        counts = [(row["user"], row["n"]) for row in flow.emitted()]
    assert counts == [("a", 1), ("b", 1), ("b", 2), ("c", 1), ("a", 1), ("c", 2)]


def test_a_key_is_over_exactly_after_its_time_to_live_and_a_timer_keeps_it(
    tmp_path: Path,
) -> None:
    # minute     0       10         30                 ttl 20m
    # a          1                  1    over: a timer alone, of b, keeps a key
    # b          1  ⏰ 40 ………………    2
    # c                  1          1    over after exactly 20 minutes
    def count(event: Row, context: Context) -> Row:
        context.state += 1
        if event["page"] == "wait":
            context.set_timer(at(40))
        return {"user": context.key, "n": context.state}

    def flow_of(app: ms.App) -> Flow:
        keyed = topic_of(app).key_by("user", time="at", ttl="20m")
        schema = {"user": str, "n": int}
        return keyed.process(count, schema, state=int, on_timer=lambda _: None).write("counts")

    with FlowTest(flow_of, tmp_path) as flow:
        flow.feed("clicks", [click("a", "1", 0), click("b", "wait", 0), click("c", "1", 10)])
        flow.feed("clicks", [click("a", "2", 30), click("b", "2", 30), click("c", "2", 30)])
        flow.end()
        counts = [(row["user"], row["n"]) for row in flow.emitted()]
    assert counts == [("a", 1), ("b", 1), ("c", 1), ("a", 1), ("b", 2), ("c", 1)]


def test_a_timer_comes_behind_the_events_of_its_time(world: LocalWorld) -> None:
    def note(event: Row, context: Context) -> Row:
        for minute in (4, 5):
            context.set_timer(at(minute), str(minute))
        return {"what": event["page"]}

    world.append("clicks", [click("a", "first", 0), click("b", "second", 5)])
    keyed = world.read("clicks").key_by("user", time="at")
    flow = keyed.process(note, {"what": str}, on_timer=lambda c: {"what": f"{c.key}{c.timer}"})
    told = [row["what"] for row in flow.collect().to_pylist()]
    # The timers of b are set for a time that has passed, and come right behind it.
    assert told == ["first", "a4", "second", "b4", "a5", "b5"]


def test_timers_of_the_clock_leave_event_time_alone(tmp_path: Path) -> None:
    def wait(event: Row, context: Context) -> Row:
        context.state += 1
        context.set_clock_timer("5m", "clock")
        return {"what": event["user"], "n": context.state, "at": context.time}

    def ring(context: Context) -> Row:
        if context.timer == "clock" and context.key == "a":
            context.set_timer(at(-100), "passed")
        return {"what": context.timer, "n": context.state, "at": context.time}

    def flow_of(app: ms.App) -> Flow:
        keyed = topic_of(app).key_by("user", time="at", ttl="30m")
        schema = {"what": str, "n": int, "at": Timestamp}
        return keyed.process(wait, schema, state=int, on_timer=ring).write("out")

    with FlowTest(flow_of, tmp_path) as flow:
        flow.feed("clicks", [click("a", "1", 0), click("c", "1", 0), click("b", "1", 10)])
        flow.restart()
        flow.advance("5m")
        rung_at = flow.clock.now_us()
        told = flow.emitted()
        assert [row["what"] for row in told] == ["a", "c", "clock", "clock"]
        assert told[2]["at"].timestamp() * 1e6 == rung_at
        # The timer that was set for the past comes where event time has come to.
        flow.feed("clicks", [click("b", "2", 12)])
        assert {"what": "passed", "n": 1, "at": at(10)} in flow.emitted()
        # What the clock says is no event: c had its last one twenty minutes ago.
        flow.feed("clicks", [click("c", "2", 20), click("b", "3", 60)])
        assert {"what": "c", "n": 2, "at": at(20)} in flow.emitted()


def test_all_events_may_belong_together(world: LocalWorld) -> None:
    world.append("clicks", [click(user, "1", n) for n, user in enumerate("abcab")])
    flow = count_of(world.read("clicks"), time="at")
    flow = (
        world.read("clicks").key_by(time="at").process(numbered, {"user": str, "n": int}, state=int)
    )
    flow.write("out").stream(until="end", batch_events=2)
    assert [row["n"] for row in world.events("out")] == [1, 2, 3, 4, 5]
    assert flow.collect().to_pylist() == world.events("out")


def test_a_key_may_be_several_columns(world: LocalWorld) -> None:
    world.append("clicks", [click("a", page, n) for n, page in enumerate("xyx")])
    seen: list[object] = []

    def note(event: Row, context: Context) -> None:
        seen.append((context.key, event["at"], context.time))

    flow = world.read("clicks").key_by("user", "page", time="at").process(note, {"n": int})
    flow.write("out").stream(until="end", batch_events=1)
    assert seen == [(("a", page), at(n), at(n)) for n, page in enumerate("xyx")]


def test_functions_follow_windows_joins_and_each_other(world: LocalWorld) -> None:
    world.append("clicks", [click("ab"[n % 2], str(n % 3), n) for n in range(40)])
    clicks = world.read("clicks")
    hours = clicks.window(tumbling("10m"), on="at").group_by("user").agg(hits=agg.count())
    hours = hours.select("user", "hits", ended=col("window_end"))

    def change(event: Row, context: Context) -> Row:
        before, context.state = context.state, event["hits"]
        return {
            "user": context.key,
            "more": event["hits"] - before,
            "ended": event["ended"],
        }

    changed = hours.key_by("user", time="ended").process(
        change, {"user": str, "more": int, "ended": Timestamp}, state=int
    )

    def twice(event: Row, context: Context) -> Iterator[Row]:
        yield event
        yield event

    again = changed.key_by("user", time="ended").process(
        twice, {"user": str, "more": int, "ended": Timestamp}
    )
    days = again.window(tumbling("20m"), on="ended").agg(more=agg.sum("more"))
    pairs = clicks.join_interval(
        clicks.select("user", seen=col("page"), then=col("at")),
        on="user",
        within=("0s", "2m"),
        time=("at", "then"),
    )
    for number, flow in enumerate((changed, again, days, count_of(pairs, time="at"))):
        flow.write(f"out{number}").stream(until="end", batch_events=3)
        streamed = in_order(world.events(f"out{number}"))
        assert streamed == in_order(flow.collect().to_pylist())
        assert streamed


def test_a_function_that_fails_ends_the_run_and_nothing_is_stored(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 0), click("a", "bad", 1), click("a", "2", 2)])

    def picky(event: Row, context: Context) -> Row:
        context.state += 1
        if event["page"] == "bad":
            raise ValueError("no such page")
        return {"user": event["user"], "n": context.state}

    keyed = world.read("clicks").key_by("user", time="at")
    flow = keyed.process(picky, {"user": str, "n": int}, state=int)
    for run in (flow.run, lambda: flow.write("out").stream(until="end")):
        with refused(StepError, "ValueError: no such page", '"page":"bad"'):
            run()
    assert world.events("out") == []
    # Nothing of the event that is left out is remembered.
    for policy in ("skip", "dead_letter"):
        careful = keyed.process(picky, {"user": str, "n": int}, state=int, on_error=policy)
        report = careful.write(policy).stream(until="end", batch_events=1)
        assert [row["n"] for row in world.events(policy)] == [1, 2]
        assert report.failed == 1
    [letter] = world.events("dead_letter.dead")
    assert json.loads(letter["event"])["page"] == "bad"
    assert (letter["step"], letter["error"]) == ("step 1, process", "ValueError: no such page")


def test_a_timer_that_fails_is_left_out_and_the_key_is_as_before(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 0), click("b", "1", 1), click("c", "1", 30)])

    def ring(context: ms.KeyedContext[Visit]) -> Row:
        context.state.pages.append("rung")
        if context.key == "b":
            raise RuntimeError("not b")
        return leave(context)

    flow = (
        world.read("clicks")
        .key_by("user", time="at")
        .process(look, LEFT, state=Visit, on_timer=ring, on_error="dead_letter")
        .write("out")
    )
    flow.stream(until="end", batch_events=1)
    assert [row["user"] for row in world.events("out")] == ["a", "c"]
    [letter] = world.events("out.dead")
    assert json.loads(letter["event"]) == {"key": "b", "timer": "", "time": "2026-01-01T00:11:00Z"}


def test_what_a_failed_call_has_set_is_taken_back(world: LocalWorld) -> None:
    def half(event: Row, context: Context) -> None:
        context.set_timer(at(30), event["page"])
        if event["page"] == "bad":
            context.clear()
            context.cancel_timer("good")
            raise ValueError

    world.append("clicks", [click("a", "good", 0), click("a", "bad", 1)])
    flow = (
        world.read("clicks")
        .key_by("user", time="at")
        .process(half, {"t": str}, on_timer=lambda c: {"t": c.timer}, on_error="skip")
    )
    assert flow.collect().to_pylist() == [{"t": "good"}]


def test_what_the_function_gives_has_to_fit(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 5)])
    keyed = world.read("clicks").key_by("user", time="at")
    for given, saying in (
        ({"n": "one"}, "n"),
        ({"m": 1}, "unknown column 'm'"),
        (1, "it gives a int"),
        ([1], "it gives a int"),
        ("text", "it gives a str"),
    ):
        flow = keyed.process(lambda event, context, given=given: given, {"n": int})  # type: ignore[misc]
        with refused(StepError, saying):
            flow.run()
        skipping = keyed.process(
            lambda event, context, given=given: given,  # type: ignore[misc]
            {"n": int},
            on_error="skip",
        )
        assert skipping.run().failed == 1


def test_a_row_is_as_it_was_when_it_was_given(world: LocalWorld) -> None:
    world.append("clicks", [click("a", page, n) for n, page in enumerate("xy")])

    def growing(event: Row, context: ms.KeyedContext[Visit]) -> Iterator[Row]:
        row: Row = {"pages": context.state.pages}
        context.state.pages.append(event["page"])
        for n in range(2):
            row["n"] = n
            yield row

    flow = world.read("clicks").key_by("user", time="at")
    rows = flow.process(growing, {"pages": list[str], "n": int}, state=Visit).collect().to_pylist()
    assert [(row["pages"], row["n"]) for row in rows] == [
        (["x"], 0),
        (["x"], 1),
        (["x", "y"], 0),
        (["x", "y"], 1),
    ]


def test_a_row_in_the_past_is_refused_where_windows_rely_on_it(world: LocalWorld) -> None:
    world.append("clicks", [click("a", "1", 5)])

    def early(event: Row, _: Context) -> Row:
        return {"user": "a", "at": event["at"] - timedelta(minutes=1)}

    flow = (
        world.read("clicks")
        .key_by("user", time="at")
        .process(early, {"user": str, "at": Timestamp})
    )
    assert flow.collect().num_rows == 1
    windows = flow.window(tumbling("1h"), on="at").agg(n=agg.count())
    for run in (windows.run, lambda: windows.write("out").stream(until="end")):
        with refused(StepError, "a row lies before the event", "'at'"):
            run()


def test_timers_have_to_come_to_an_end(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_process_stage, "END_ROUNDS_MAX", 50)
    world.append("clicks", [click("a", "1", 5)])

    def again(context: Context) -> None:
        context.set_timer(context.time + timedelta(minutes=1))

    flow = (
        world.read("clicks")
        .key_by("user", time="at")
        .process(look, LEFT, state=Visit, on_timer=again)
    )
    for run in (flow.run, lambda: flow.write("out").stream(until="end")):
        with refused(StepError, "50 times"):
            run()


def test_timers_that_are_set_anew_do_not_pile_up(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_keyed, "HEAP_MIN", 10)
    monkeypatch.setattr(flow_keyed, "SLICE_ROWS", 5)
    world.append("clicks", [click("ab"[n % 2], str(n), n / 100) for n in range(300)])
    lengths = []

    def watched(event: Row, context: ms.KeyedContext[Visit]) -> None:
        look(event, context)
        context.set_timer(at(1_000), "the same")
        lengths.append(len(context._agenda.of_events))

    keyed = world.read("clicks").key_by("user", time="at", ttl="1d")
    flow = keyed.process(
        watched, LEFT, state=Visit, on_timer=lambda c: leave(c) if not c.timer else None
    )
    assert [row["user"] for row in flow.collect().to_pylist()] == ["a", "b"]
    assert len(lengths) == 300
    assert max(lengths) < 30
