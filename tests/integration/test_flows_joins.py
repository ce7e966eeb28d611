"""Joins with tables that do not change: which rows stay, and what held at the time of an event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.flows_kit import runner_of

KEYS = pa.table({"k": ["a", "b", "b", None], "name": ["A", "B", "BB", "?"]})
#   minute    0     10    20    30
#   a         1 ———————   3 ———————
#   b               2 —————————————
PRICES = [
    {"who": "a", "since": at(20), "price": 3},
    {"who": "a", "since": at(0), "price": 1},
    {"who": "b", "since": at(10), "price": 2},
    {"who": None, "since": at(0), "price": 9},
    {"who": "a", "since": None, "price": 9},
]


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", {"k": str | None, "at": Timestamp | None})
        yield world


def append(world: LocalWorld, *events: tuple[str | None, float | None]) -> Flow:
    rows = [{"k": key, "at": None if minute is None else at(minute)} for key, minute in events]
    world.append("events", rows)
    return world.read("events")


def both_ways(world: LocalWorld, flow: Flow) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = flow.collect().to_pylist()
    flow.write("streamed").stream(until="end", batch_events=2)
    assert in_order(world.events("streamed")) == in_order(rows)
    return rows


@pytest.mark.parametrize(("how", "kept"), [("semi", ["a", "b"]), ("anti", [None, "c"])])
def test_semi_and_anti_keep_rows_once_and_add_nothing(
    world: LocalWorld, how: str, kept: list[str | None]
) -> None:
    events = append(world, ("a", 0), ("b", 1), (None, 2), ("c", 3))
    rows = both_ways(world, events.join(KEYS, on="k", how=how))
    assert [row["k"] for row in rows] == kept
    assert list(rows[0]) == ["k", "at"]


def test_what_held_at_the_time_of_an_event(world: LocalWorld) -> None:
    events = append(
        world, ("a", 25), ("a", 5), ("a", 20), ("b", 5), ("b", 30), (None, 30), ("a", None)
    )
    flow = events.join_asof(PRICES, on="at", right_on="since", by="k", right_by="who")
    assert in_order(both_ways(world, flow)) == in_order(
        [
            {"k": "a", "at": at(25), "price": 3},
            {"k": "a", "at": at(5), "price": 1},
            {"k": "a", "at": at(20), "price": 3},
            {"k": "b", "at": at(5), "price": None},
            {"k": "b", "at": at(30), "price": 2},
            {"k": None, "at": at(30), "price": None},
            {"k": "a", "at": None, "price": None},
        ]
    )


def test_a_row_may_be_only_so_old(world: LocalWorld) -> None:
    events = append(world, ("a", 25), ("a", 31))
    flow = events.join_asof(
        PRICES, on="at", right_on="since", by="k", right_by="who", tolerance="10m"
    )
    assert [row["price"] for row in both_ways(world, flow)] == [3, None]


def test_numbers_and_no_key(world: LocalWorld) -> None:
    table = world.table(pa.table({"n": [5, 1, 3]}))
    flow = table.join_asof(
        [{"m": 2, "x": "two"}, {"m": 4, "x": "four"}], on="n", right_on="m", tolerance=1
    )
    assert in_order(flow.collect().to_pylist()) == in_order(
        [{"n": 1, "x": None}, {"n": 3, "x": "two"}, {"n": 5, "x": "four"}]
    )


def test_of_rows_with_one_time_the_last_counts(world: LocalWorld) -> None:
    rows = [{"m": 1, "x": "first"}, {"m": 1, "x": "last"}]
    assert world.table([{"n": 1}]).join_asof(rows, on="n", right_on="m").collect()[
        "x"
    ].to_pylist() == ["last"]


def test_a_window_behind_the_join_keeps_the_time_of_the_source(world: LocalWorld) -> None:
    #   minute    0         10        20        30        the times of the events, not those since when prices hold
    #   events     a a        b         a
    #   prices     1 1        2         3
    events = append(world, ("a", 1), ("a", 2), ("b", 12), ("a", 22))
    joined = events.join_asof(PRICES, on="at", right_on="since", by="k", right_by="who")
    flow = joined.window(tumbling("10m"), on="at").agg(price=agg.sum("price"))
    assert [row["price"] for row in both_ways(world, flow)] == [2, 2, 3]


@settings(max_examples=60)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.integers(0, 30)), max_size=20
    ),
    prices=st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.integers(0, 30)), max_size=10
    ),
    tolerance=st.none() | st.integers(0, 10),
)
def test_it_finds_what_plain_python_finds(
    events: list, prices: list, tolerance: int | None
) -> None:
    from millstream.engines.local.flow_steps import from_arrow, to_arrow
    from millstream.flows.steps import AsofJoin

    schema = pa.schema([("k", pa.string()), ("n", pa.int64())])
    left = pa.Table.from_pylist([{"k": k, "n": n} for k, n in events], schema)
    right = pa.table(
        {
            "k": pa.array([k for k, _ in prices], pa.string()),
            "m": pa.array([m for _, m in prices], pa.int64()),
            "p": pa.array(list(range(len(prices))), pa.int64()),
        }
    )
    step = AsofJoin(right, "n", "m", ("k",), ("k",), tolerance)
    runner = runner_of([step], schema)
    found = to_arrow(runner.apply(from_arrow(left).lazy()).collect(), runner.schema).to_pylist()

    def price(k: str | None, n: int | None) -> int | None:
        held = [
            (m, number)
            for number, (key, m) in enumerate(prices)
            if None not in (k, n, m) and key == k and m <= n
        ]
        best = max(held, default=None)
        too_old = best is not None and tolerance is not None and n - best[0] > tolerance
        return None if best is None or too_old else best[1]

    assert in_order(found) == in_order([{"k": k, "n": n, "p": price(k, n)} for k, n in events])


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda f: f.join(KEYS, on="k", how="full"), "no 'full' join"),
        (lambda f: f.join_asof(PRICES, on="k", right_on="who"), "'k' is string"),
        (lambda f: f.join_asof(PRICES, on="at", right_on="price"), "of the table is int64"),
        (
            lambda f: f.join_asof(PRICES, on="at", right_on="since", by="k", right_by=()),
            "1 keys here and 0",
        ),
        (lambda f: f.join_asof(PRICES, on="at", right_on="until"), "no column 'until'"),
        (lambda f: f.join_asof(PRICES, on="at", right_on="since", tolerance=-1), "tolerance=-1"),
        (
            lambda f: f.join_asof([{"since": at(0), "k": "a"}], on="at", right_on="since"),
            "both sides have",
        ),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, plan: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan(world.read("events"))
