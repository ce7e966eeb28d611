"""Joins with a table that changes: when rows are given, what is kept, what is late, and what is refused.

minute     0        1        2        3        4
prices     a=1 b=1           a=2               b=2
trades          a       b        a    b
given      each when both flows have passed it: 1, 1, 2, 1
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import millstream as ms
from millstream.engines.local import flow_versions
from millstream.engines.local.flow_state import Blob
from millstream.engines.local.flow_versions import AsofKernel, Versions
from millstream.flows.flow import Flow
from millstream.flows.merging import JoinSource
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp, datetime_us
from millstream.testing.flows import FlowTest
from millstream.testing.flows_suite import LocalWorld, at
from tests.refusals import refused

TRADES = {"k": str, "n": int, "at": Timestamp}
PRICES = {"k": str, "price": int, "since": Timestamp}


def priced(app: ms.App) -> Flow:
    trades = app.read(app.topic("trades", schema=TRADES))
    prices = app.read(app.topic("prices", schema=PRICES))
    return trades.join_asof(prices, on="at", right_on="since", by="k").write("out")


def trade(k: str, n: int, minute: float) -> dict[str, Any]:
    return {"k": k, "n": n, "at": at(minute)}


def price(k: str, price: int, minute: float) -> dict[str, Any]:
    return {"k": k, "price": price, "since": at(minute)}


def shown(flow: FlowTest) -> list[tuple[str, int, int | None]]:
    return [(row["k"], row["n"], row["price"]) for row in flow.emitted()]


def test_a_row_waits_for_the_versions_up_to_its_time(tmp_path: Path) -> None:
    with FlowTest(priced, tmp_path) as flow:
        flow.feed("prices", [price("a", 1, 0), price("b", 1, 0)])
        flow.feed("trades", [trade("a", 1, 0.5), trade("b", 2, 1.5)])
        assert shown(flow) == []
        flow.feed("prices", [price("a", 2, 2)])
        assert shown(flow) == [("a", 1, 1)]
        flow.restart()
        flow.feed("trades", [trade("a", 4, 2.5), trade("b", 8, 3)])
        assert shown(flow) == [("b", 2, 1)]
        flow.feed("prices", [price("b", 2, 4)])
        assert shown(flow) == [("a", 4, 2)]
        flow.end()
        assert shown(flow) == [("b", 8, 1)]


def test_what_is_kept_is_what_holds_and_what_comes(tmp_path: Path) -> None:
    with FlowTest(priced, tmp_path) as flow:
        # A partition that never had an event holds nothing back: so the trades come first.
        flow.feed("trades", [trade("a", 0, 0)])
        flow.feed("prices", [price("a", n, n) for n in range(4)] + [price("b", 1, 1)])
        # It is late: prices have come of later times.
        assert [row["price"] for row in flow.late("right")] == [1]
        flow.feed("prices", [price("b", 1, 3)])
        flow.feed("trades", [trade("a", 1, 2)])
        assert flow.held(0) == [trade("a", 1, 2)]
        assert [(row["k"], row["price"]) for row in flow.held(1)] == [
            ("a", 1), ("a", 2), ("a", 3), ("b", 1),
        ]  # fmt: skip


def test_of_versions_out_of_order_the_last_by_time_holds(tmp_path: Path) -> None:
    def flow_of(app: ms.App) -> Flow:
        trades = app.read(app.topic("trades", schema=TRADES))
        prices = app.read(app.topic("prices", schema=PRICES))
        return trades.join_asof(prices, on="at", right_on="since", by="k", late="5m").write("out")

    with FlowTest(flow_of, tmp_path) as flow:
        flow.feed("trades", [trade("a", 0, 0)])
        flow.feed("prices", [price("a", 2, 2), price("a", 1, 1)])
        flow.feed("prices", [price("a", 9, 9)])
        flow.feed("trades", [trade("a", 1, 9)])
        assert [row["price"] for row in flow.held(1)] == [2, 9]
        flow.end()
        assert shown(flow) == [("a", 0, None), ("a", 1, 9)]


def test_versions_that_nobody_can_ask_for_are_forgotten(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_versions, "GROUPS_MIN", 10)
    with LocalWorld(store_path) as world:
        world.topic("trades", TRADES)
        world.topic("prices", PRICES)
        flow = world.read("trades").join_asof(
            world.read("prices"), on="at", right_on="since", by="k"
        )
        assert isinstance(flow.plan.source, JoinSource)
        kernel = AsofKernel(flow.plan.source)
    versions = Versions(kernel, closed_until_us=TIME_MIN)
    schema = kernel.schemas[1]
    stored: list[Blob] = []
    for n in range(500):
        rows = [price("a", n, n), price("b", -n, n)]
        new = pl.DataFrame(rows, schema=schema)
        versions.add(new)
        until_us = datetime_us(at(n))
        change = versions.close(new, until_us)
        stored = [*([] if change.replaces else stored), *change.blobs]
        assert versions.rows().collect().height <= 11
        assert sum(groups for groups, _, _ in stored) <= 13
        loaded = Versions(kernel, closed_until_us=until_us)
        loaded.load(stored, where="here")
        assert loaded.held().sort("k").rows() == versions.held().sort("k").rows()
    assert versions.held().sort("k")["price"].to_list() == [498, 499, -498, -499]


def test_a_table_that_changes_rarely_holds_rows_back_until_it_is_idle(tmp_path: Path) -> None:
    with FlowTest(priced, tmp_path, idle="5s") as flow:
        flow.feed("prices", [price("a", 1, 0)])
        flow.advance("4s")
        flow.feed("trades", [trade("a", 1, 1), trade("a", 2, 2)])
        assert shown(flow) == []
        flow.advance("1s")
        flow.step()
        assert shown(flow) == [("a", 1, 1)]


def test_rows_without_a_version_get_nulls(tmp_path: Path) -> None:
    with FlowTest(priced, tmp_path) as flow:
        flow.feed("trades", [trade("a", 1, 4)])
        flow.feed("prices", [price("a", 1, 5)])
        flow.end()
        assert shown(flow) == [("a", 1, None)]


Bad = Callable[[Flow, Flow], object]
BAD: dict[str, tuple[Bad, str]] = {
    "a key of another type": (
        lambda f, g: f.join_asof(g, on="at", right_on="since", by="n", right_by="k"),
        "the key 'n' is int64",
    ),
    "a time that is none": (
        lambda f, g: f.join_asof(g, on="n", right_on="since", by="k"),
        "'n' is int64",
    ),
    "a tolerance in numbers": (
        lambda f, g: f.join_asof(g, on="at", right_on="since", by="k", tolerance=5),
        "tolerance=5 beside a flow",
    ),
    "a column twice": (
        lambda f, g: f.with_columns(price=1).join_asof(g, on="at", right_on="since", by="k"),
        "both sides have a column 'price'",
    ),
    "late for a table that does not change": (
        lambda f, g: f.join_asof(g.collect(), on="at", right_on="since", by="k", late="1m"),
        "for a table that does not change",
    ),
    "an aggregation before it, in a stream": (
        lambda f, g: (
            f.join_asof(
                g.window(ms.tumbling("1m"), on="since").group_by("k").agg(price=ms.max("price")),
                on="at",
                right_on="window_start",
                by="k",
            )
            .write("out")
            .stream(until="end")
        ),
        "stands before a join_asof",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case: str, store_path: Path) -> None:
    make, saying = BAD[case]
    with LocalWorld(store_path) as world:
        world.topic("trades", TRADES)
        world.topic("prices", PRICES)
        with refused(PlanError, saying):
            make(world.read("trades"), world.read("prices"))


def test_the_plan_says_it(store_path: Path) -> None:
    with LocalWorld(store_path) as world:
        world.topic("trades", TRADES)
        world.topic("prices", PRICES)
        flow = world.read("trades").join_asof(
            world.read("prices"), on="at", right_on="since", by="k", tolerance="1h"
        )
        assert "join_asof(on k, left, as of, tolerance 1h, time at, since, late=0h)" in (
            flow.explain()
        )
        assert flow.schema.names == ["k", "n", "at", "price"]
