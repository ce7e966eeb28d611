"""Functions that are called with single events, lists that become rows, order, and what is left of duplicates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.refusals import refused

SCHEMA = {"k": str, "n": int | None, "at": Timestamp}
NAMED = {"k": str, "half": float}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA)
        world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(9)])
        yield world


def both_ways(world: LocalWorld, flow: Flow) -> list[dict[str, Any]]:
    """Return the rows of a batch, which those of a stream must equal."""
    rows: list[dict[str, Any]] = flow.collect().to_pylist()
    flow.write("streamed").stream(until="end", batch_events=2)
    assert in_order(world.events("streamed")) == in_order(rows)
    return rows


def half(event: dict[str, Any]) -> dict[str, Any]:
    return {"k": event["k"], "half": event["n"] / 2}


def refusing(event: dict[str, Any]) -> dict[str, Any]:
    if event["n"] % 4 == 1:
        raise ValueError(f"no {event.pop('n')}")
    return {"k": event["k"], "half": event["n"] / 2}


def misfit(event: dict[str, Any]) -> Any:
    return {"k": event["k"], "half": "much"} if event["n"] == 5 else half(event)


async def awaited(event: dict[str, Any]) -> dict[str, Any]:
    # The later an event, the earlier its answer.
    for _ in range(9 - event["n"]):
        await asyncio.sleep(0)
    return refusing(event)


def test_map_gives_a_row_for_each_event(world: LocalWorld) -> None:
    rows = both_ways(world, world.read("events").map(half, NAMED))
    assert sorted(row["half"] for row in rows) == [n / 2 for n in range(9)]


def test_flat_map_gives_any_number_of_rows(world: LocalWorld) -> None:
    flow = world.read("events").flat_map(
        lambda e: ({"n": e["n"]} for _ in range(e["n"] % 3)), {"n": int}
    )
    assert [row["n"] for row in both_ways(world, flow)] == [1, 2, 2, 4, 5, 5, 7, 8, 8]


def test_async_map_keeps_the_order_and_its_bound(world: LocalWorld) -> None:
    inside = most = 0

    async def counted(event: dict[str, Any]) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        return {"n": event["n"]}

    flow = world.read("events").async_map(counted, {"n": int}, concurrency=3)
    assert [row["n"] for row in flow.collect().to_pylist()] == list(range(9))
    assert most == 3


def test_calls_of_all_micro_batches_share_one_loop(world: LocalWorld) -> None:
    loops = set()

    async def seen(event: dict[str, Any]) -> dict[str, Any]:
        loops.add(id(asyncio.get_running_loop()))
        return {"n": event["n"]}

    flow = world.read("events").async_map(seen, {"n": int}).write("out")
    assert flow.stream(until="end", batch_events=2).batches > 1
    assert len(loops) == 1


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        (refusing, "map", 'ValueError: no 1; the event: .*"n":1'),
        (awaited, "async_map", 'ValueError: no 1; the event: .*"n":1'),
        (misfit, "map", 'half.*the event: .*"n":5'),
        (lambda event: [event], "map", "is a list"),
        (lambda event: {"k": event["k"], "whole": 1}, "map", "unknown column 'whole'"),
    ],
)
@pytest.mark.parametrize("way", ["run", "stream"])
def test_an_event_that_fails_ends_the_run_by_default(
    world: LocalWorld, function: Any, kind: str, says: str, way: str
) -> None:
    flow = getattr(world.read("events"), kind)(function, NAMED).write("out")
    with pytest.raises(StepError, match=says):
        flow.run() if way == "run" else flow.stream(until="end")
    assert world.events("out") == []


@pytest.mark.parametrize("kind", ["map", "async_map"])
@pytest.mark.parametrize("way", ["run", "stream"])
def test_a_dead_letter_holds_the_event_as_it_came_and_its_error(
    world: LocalWorld, kind: str, way: str
) -> None:
    function = awaited if kind == "async_map" else refusing
    step = getattr(world.read("events"), kind)(function, NAMED, on_error="dead_letter")
    flow = step.write("out")
    report = flow.run() if way == "run" else flow.stream(until="end", batch_events=2)
    assert report.failed == 2
    assert "2 failed" in str(report)
    assert len(world.events("out")) == 7
    letters = world.events("out.dead")
    assert [json.loads(letter["event"])["n"] for letter in letters] == [1, 5]
    assert letters[0]["error"] == "ValueError: no 1"
    assert letters[0]["step"] == f"step 1, {kind}"
    assert "in refusing" in letters[0]["traceback"]


def test_a_result_that_does_not_fit_is_a_dead_letter_of_its_own(world: LocalWorld) -> None:
    flow = world.read("events").map(misfit, NAMED, on_error="dead_letter").write("out")
    assert flow.run().failed == 1
    assert len(world.events("out")) == 8
    assert "half" in world.events("out.dead")[0]["error"]


def test_events_are_skipped_and_counted(world: LocalWorld) -> None:
    flow = world.read("events").map(refusing, NAMED, on_error="skip")
    assert len(both_ways(world, flow)) == 7
    assert flow.write("other").run().failed == 2
    assert "other.dead" not in world.log.topic_names()


def test_dead_letters_are_there_once_when_the_stream_goes_on(world: LocalWorld) -> None:
    flow = world.read("events").map(refusing, NAMED, on_error="dead_letter").write("out")
    assert flow.stream(until="end").failed == 2
    assert flow.stream(until="end").failed == 0
    assert len(world.events("out.dead")) == 2


def test_dead_letters_of_a_name_that_is_no_topic_ask_for_another(
    world: LocalWorld, tmp_path: Path
) -> None:
    letters = world.read("events").map(refusing, NAMED, on_error="dead_letter")
    flow = letters.write(f"{tmp_path}/day one/")
    with refused(ConfigurationError, "'day one.dead'", ".named("):
        flow.stream(until="end")
    assert flow.named("day-one").stream(until="end").failed == 2


def test_a_function_before_a_window_gives_it_its_time(world: LocalWorld) -> None:
    #   minute    0   1   2   3   4  │5   6   7   8
    #   events    a   b   c   a   b  │c   a   b   c         each n doubled by the function, its time as it was
    timed = {"k": str, "n": int | None, "at": Timestamp}
    flow = (
        world.read("events")
        .map(lambda event: {**event, "n": 2 * event["n"]}, timed)
        .window(tumbling("5m"), on="at")
        .group_by("k")
        .agg(n=agg.sum("n"))
    )
    assert sum(row["n"] for row in both_ways(world, flow)) == 72


def test_an_exit_in_an_awaited_function_is_that_of_the_program(world: LocalWorld) -> None:
    cancelled = []

    async def leaving(event: dict[str, Any]) -> dict[str, Any]:
        if event["n"] == 3:
            raise SystemExit(7)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event["n"])
            raise
        return event

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"n": 1}
        raise SystemExit(8)

    flow = world.read("events").async_map(leaving, NAMED, concurrency=4, on_error="skip")
    with pytest.raises(SystemExit, match="7"):
        flow.collect()
    with pytest.raises(SystemExit, match="8"):
        world.flows.read(rows, schema={"n": int}).collect()
    # The loop goes on, and so what the others did in it was ended there.
    assert world.read("events").async_map(awaited, NAMED, on_error="skip").collect().num_rows == 7
    assert cancelled == [0, 1, 2]


def test_explode_makes_a_row_of_each_value(world: LocalWorld) -> None:
    lists = pa.table(
        {
            "id": [1, 2, 3, 4],
            "tags": pa.array([["a", "b"], [], None, [None]], pa.list_(pa.string())),
        }
    )
    rows = world.table(lists).explode("tags").collect().to_pylist()
    assert rows == [{"id": 1, "tags": "a"}, {"id": 1, "tags": "b"}, {"id": 4, "tags": None}]


def test_a_window_behind_explode_keeps_the_time_of_the_source(store_path: Path) -> None:
    #   minute    0   1   2   3  │4   5   6   7  │8   9   10  11
    #   tags      –   x   xx  –  │x   xx  –   x  │xx  –   x   xx
    #   rows      3              │4              │5
    with LocalWorld(store_path) as world:
        world.topic("events", {"tags": list[str], "at": Timestamp})
        rows = [{"tags": ["x"] * (i % 3), "at": at(i)} for i in range(12)]
        world.append("events", rows)
        flow = world.read("events").explode("tags").window(tumbling("4m"), on="at")
        assert [row["n"] for row in both_ways(world, flow.agg(n=agg.count()))] == [3, 4, 5]


def test_sort_limit_and_top_k(world: LocalWorld) -> None:
    events = world.read("events")
    descending = events.sort("k", "n", descending=True).select("n").collect()["n"].to_pylist()
    assert descending == [8, 5, 2, 7, 4, 1, 6, 3, 0]
    assert events.sort("n").limit(2).collect()["n"].to_pylist() == [0, 1]
    assert events.top_k(2, by="n").collect()["n"].to_pylist() == [8, 7]


def test_nulls_come_first_in_order_and_last_in_reverse(world: LocalWorld) -> None:
    table = world.table(pa.table({"n": [2, None, 1], "f": [float("nan"), 1.0, None]}))
    assert table.sort("n").collect()["n"].to_pylist() == [None, 1, 2]
    assert table.sort("n", descending=True).collect()["n"].to_pylist() == [2, 1, None]
    floats = table.sort("f", descending=True).collect()["f"].to_pylist()
    assert floats[0] != floats[0]
    assert floats[1:] == [1.0, None]


def test_a_quotient_does_not_depend_on_how_many_rows_come_together(world: LocalWorld) -> None:
    # In a frame of one row Polars multiplies by the reciprocal: 53 / 3 has another last digit then.
    for rows in (1, 2):
        table = world.table(pa.table({"a": [53] * rows, "b": [3] * rows}))
        flow = table.select("b", q=col("a") / col("b"), c=col("a") / 3)
        assert flow.collect().to_pylist() == [{"b": 3, "q": 53 / 3, "c": 53 / 3}] * rows
        assert table.agg(m=agg.sum("a")).select(m=col("m") / 3).collect()["m"].to_pylist() == [
            53 * rows / 3
        ]


def test_distinct_keeps_each_combination_once(world: LocalWorld) -> None:
    table = world.table(pa.table({"a": [1, 1, None, None, 2], "b": ["x", "x", "y", "y", "x"]}))
    assert in_order(table.distinct().collect().to_pylist()) == in_order(
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}, {"a": 2, "b": "x"}]
    )
    assert sorted(table.distinct("b").collect()["b"].to_pylist()) == ["x", "y"]


def test_a_stream_keeps_each_combination_once_in_a_window(world: LocalWorld) -> None:
    #   minute    0   1   2   3   4  │5   6   7   8
    #   events    a   b   c   a   b  │c   a   b   c
    #   rows      a b c              │a b c
    flow = world.read("events").window(tumbling("5m"), on="at").distinct("k")
    assert [row["k"] for row in both_ways(world, flow)] == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda flow: flow.sort("n").write("o").stream(until="end"), "step 1, sort"),
        (lambda flow: flow.limit(3).write("o").stream(until="end"), "step 1, limit"),
        (lambda flow: flow.distinct("k").write("o").stream(until="end"), "step 1, agg"),
        (lambda flow: flow.sort(), "nothing to sort by"),
        (lambda flow: flow.sort("m"), "no column 'm'"),
        (lambda flow: flow.limit(-1), r"limit\(-1\)"),
        (lambda flow: flow.explode("n"), "is int64"),
        (lambda flow: flow.map(half, NAMED, on_error="hope"), "on_error='hope'"),
        (lambda flow: flow.async_map(awaited, NAMED, concurrency=0), "concurrency=0"),
        (lambda flow: flow.map(None, NAMED), "cannot be called"),
        (lambda flow: flow.map(half, {"__ms_x": int}), "cannot be the name"),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, plan: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan(world.read("events"))


def test_a_dict_that_is_yielded_again_is_as_it_was_each_time(world: LocalWorld) -> None:
    def counting(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {}
        for n in range(2):
            row["k"], row["half"] = event["k"], float(n)
            yield row

    rows = both_ways(world, world.read("events").flat_map(counting, NAMED))
    assert [row["half"] for row in rows] == [0.0, 1.0] * 9
