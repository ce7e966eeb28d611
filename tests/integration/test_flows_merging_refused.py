"""What cannot be joined or united is refused when the plan is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.windows import session, tumbling
from millstream.primitives.errors import MillstreamError, PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld
from tests.refusals import refused

ORDERS = {"id": str, "item": str, "at": Timestamp}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("orders", ORDERS)
        world.topic("payments", {"order": str, "sum": int, "paid": Timestamp})
        yield world


JOIN: dict[str, Any] = {"on": "id", "right_on": "order", "within": ("0s", "1m")}
REFUSED: dict[str, tuple[Callable[[Flow, Flow], object], str]] = {
    "a time that is none": (
        lambda orders, payments: orders.join_interval(payments, **JOIN, time=("item", "paid")),
        "'item' is string",
    ),
    "a stretch that ends before it begins": (
        lambda orders, payments: orders.join_interval(
            payments, on="id", right_on="order", within=("5m", "-5m"), time=("at", "paid")
        ),
        "no time is within 5m to -5m",
    ),
    "a stretch that is none": (
        lambda orders, payments: orders.join_interval(
            payments, on="id", right_on="order", within=(3, 4), time=("at", "paid")
        ),
        "within=(3, 4)",
    ),
    "one bound": (
        lambda orders, payments: orders.join_interval(
            payments, on="id", right_on="order", within="5m", time=("at", "paid")
        ),
        "within='5m'",
    ),
    "a table without columns": (
        lambda orders, payments: orders.join([], on="id"),
        "an empty list says nothing of its columns",
    ),
    "a column that is not there": (
        lambda orders, payments: orders.join_interval(payments, **JOIN, time=("when", "paid")),
        "'when'",
    ),
    "a kind that there is not": (
        lambda orders, payments: orders.join_interval(
            payments, **JOIN, time=("at", "paid"), how="outer"
        ),
        "'outer'",
    ),
    "keys of two types": (
        lambda orders, payments: orders.join(payments, on="id", right_on="sum"),
        "the key 'id' is string",
    ),
    "one name on both sides": (
        lambda orders, payments: orders.join_interval(
            payments.with_columns(item=1), **JOIN, time=("at", "paid")
        ),
        "both sides have a column 'item'",
    ),
    "windows that overlap": (
        lambda orders, payments: orders.join_window(
            payments,
            session("1m"),  # type: ignore[arg-type]  # that is the point
            on="id",
            right_on="order",
            time=("at", "paid"),
        ),
        "of which each event has one",
    ),
    "a table with a time": (
        lambda orders, _: orders.join_interval([{"order": "a"}], **JOIN, time="at"),  # type: ignore[arg-type]
        "a list is no flow",
    ),
    "a union of other columns": (
        lambda orders, payments: orders.union(payments),
        "the same columns",
    ),
    "a union with nothing": (lambda orders, _: orders.union(), "at least one other flow"),
    "a flow that is written": (
        lambda orders, payments: orders.union(payments.write("there")),
        "write and enqueue last",
    ),
    "a join for ever": (
        lambda orders, payments: (
            orders.join(payments, on="id", right_on="order").write("out").stream(until="end")
        ),
        "keep every row of both flows for ever",
    ),
    "an aggregation before a join": (
        lambda orders, payments: (
            orders.join_interval(
                payments.window(tumbling("1m"), on="paid").group_by("order").agg(n=agg.count()),
                **JOIN,
                time=("at", "window_start"),
            )
            .write("out")
            .stream(until="end")
        ),
        "stands before a join_interval",
    ),
    "a window by another time than those of the join": (
        lambda orders, payments: (
            orders.join_interval(payments, **JOIN, time=("at", "paid"))
            .with_columns(later=col("at") + (col("paid") - col("at")))
            .window(tumbling("1m"), on="later")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "'later' does not say what can still come",
    ),
    "one topic whose time comes out of a function": (
        lambda orders, _: (
            orders.map(lambda row: row, ORDERS)
            .union(orders)
            .window(tumbling("1m"), on="at")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "is read several times",
    ),
    "a source that is the sink": (
        lambda orders, _: orders.union(orders).write("orders").stream(until="end"),
        "would read what it writes",
    ),
    "an order before a union": (
        lambda orders, _: orders.sort("id").union(orders).write("out").stream(until="end"),
        "a stream has no end",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_joined_is_refused_when_the_plan_is_built(
    world: LocalWorld, case: str
) -> None:
    build, what = REFUSED[case]
    with pytest.raises(MillstreamError) as caught:
        build(world.read("orders"), world.read("payments"))
    error = caught.value
    assert isinstance(error, PlanError)
    assert what in str(error)
    assert error.where
    assert error.expected
    assert error.next_step


def test_flows_of_two_stores_do_not_meet(world: LocalWorld, tmp_path: Path) -> None:
    with LocalWorld(tmp_path / "other.mill") as other:
        other.topic("orders", ORDERS)
        with refused(PlanError, "two stores"):
            world.read("orders").union(other.read("orders"))
