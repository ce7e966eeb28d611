"""Joins and unions of streams: as plain Python joins them, in any cut, after any crash, over any partitions.

orders   ──o────────o─────o──▶ event time       within=("-2m", "5m"): the partners of the first order
        [--|-----]
bills    ───b─────b──────b───▶
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.merging import JOINS
from millstream.flows.report import RunReport
from millstream.flows.windows import calendar, tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each

LATE_S = 300
ORDERS = {"k": str | None, "order": int, "at": Timestamp | None}
BILLS = {"key": str | None, "bill": int, "paid_at": Timestamp | None}
Row = dict[str, Any]
Fits = Callable[[datetime, datetime], bool]


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


def window_of(time: datetime, size: timedelta) -> tuple[datetime, datetime]:
    start = EPOCH + (time - EPOCH) // size * size
    return start, start + size


@dataclass(frozen=True)
class Case:
    join: Callable[[Flow, Flow, str, str], Flow]
    fits: Fits
    window: Callable[[datetime], tuple[datetime, datetime]] | None = None


def interval(lower: int, upper: int) -> Case:
    def join(left: Flow, right: Flow, how: str, late: str) -> Flow:
        return left.join_interval(
            right,
            on="k",
            right_on="key",
            within=(f"{lower}m", f"{upper}m"),
            time=("at", "paid_at"),
            how=how,
            late=late,
            keep_late=True,
        )

    return Case(join, lambda at, paid: minutes(lower) <= paid - at <= minutes(upper))


def windowed(windows: Any, size: timedelta) -> Case:
    def join(left: Flow, right: Flow, how: str, late: str) -> Flow:
        return left.join_window(
            right,
            windows,
            on="k",
            right_on="key",
            time=("at", "paid_at"),
            how=how,
            late=late,
        )

    return Case(
        join,
        lambda at, paid: window_of(at, size) == window_of(paid, size),
        lambda time: window_of(time, size),
    )


CASES = {
    "around": interval(-2, 5),
    "after": interval(1, 4),
    "before": interval(-6, -1),
    "at once": interval(0, 0),
    "tumbling": windowed(tumbling("4m"), minutes(4)),
    "calendar": windowed(calendar("hour"), minutes(60)),
}
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "a", "b"]),
        st.sampled_from([0, 0, 60, 60, 120, 300]),
        st.one_of(st.none(), *[st.integers(0, LATE_S // 60)] * 9),
    ),
    max_size=14,
)


LATENESS = st.sampled_from([0, LATE_S])


def rows_of(
    events: list[tuple[str | None, int, int | None]], names: tuple[str, str, str], late_s: int
) -> list[Row]:
    """Return events that come up to ``late_s`` out of order; with 0 they are in order, and the watermark is close."""
    rows, second = [], 0
    for number, (key, step_s, back) in enumerate(events):
        second += step_s
        behind = min(60 * (back or 0), late_s)
        when = None if back is None else EPOCH + timedelta(seconds=LATE_S + second - behind)
        rows.append(dict(zip(names, (key, number, when), strict=True)))
    return rows


def joined(case: Case, how: str, orders: list[Row], bills: list[Row]) -> list[Row]:
    """Return what the join gives: every order with every bill, one by one."""
    orders = [row for row in orders if row["at"] is not None]
    bills = [row for row in bills if row["paid_at"] is not None]
    pairs = [
        (order, bill)
        for order in orders
        for bill in bills
        if order["k"] is not None
        and order["k"] == bill["key"]
        and case.fits(order["at"], bill["paid_at"])
    ]
    met_orders = [order for order, _ in pairs]
    met_bills = [bill for _, bill in pairs]
    if how in ("semi", "anti"):
        wanted = how == "semi"
        return [shown(case, order, {}) for order in orders if (order in met_orders) == wanted]
    nothing = {"bill": None, "paid_at": None}
    rows = [shown(case, o, {n: b[n] for n in nothing}) for o, b in pairs]
    if how in ("left", "full"):
        rows += [shown(case, o, nothing) for o in orders if o not in met_orders]
    if how in ("right", "full"):
        rows += [
            shown(case, {"k": b["key"], "order": None, "at": None}, {n: b[n] for n in nothing})
            for b in bills
            if b not in met_bills
        ]
    return rows


def shown(case: Case, order: Row, bill: Row) -> Row:
    if case.window is None:
        return {**order, **bill}
    start, end = case.window(order["at"] or bill["paid_at"])
    return {"window_start": start, "window_end": end, **order, **bill}


def make_world(world: LocalWorld, orders: list[Row], bills: list[Row], partitions: int) -> None:
    world.topic("orders", ORDERS, key="k", partitions=partitions)
    world.topic("bills", BILLS, key="key", partitions=3 - partitions)
    # Appended by turns, a few at a time.
    for start in range(0, max(len(orders), len(bills)), 3):
        for name, rows in (("orders", orders), ("bills", bills)):
            if rows[start : start + 3]:
                world.append(name, rows[start : start + 3])


@contextmanager
def streamed(
    make: Callable[[LocalWorld], Flow],
    orders: list[Row],
    bills: list[Row],
    *,
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> Iterator[tuple[LocalWorld, RunReport]]:
    """Give the world after a flow was streamed to its end over all crashes, and the report of the last run."""

    def stream(world: LocalWorld) -> RunReport:
        return make(world).write("out").stream(until="end", batch_events=batch_events)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            make_world(world, orders, bills, partitions)
        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            report = stream(world)
            assert report.late == 0
            yield world, report


def both(case: Case, how: str, world: LocalWorld, late_s: int) -> Flow:
    return case.join(world.read("orders"), world.read("bills"), how, f"{late_s}s")


@pytest.mark.parametrize("how", JOINS)
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=20)
@given(
    orders=EVENTS,
    bills=EVENTS,
    partitions=st.integers(1, 2),
    batch_events=st.integers(1, 20),
    late_s=LATENESS,
    crashes=CRASHES,
)
def test_any_cut_and_any_crash(
    case: str,
    how: str,
    orders: list,
    bills: list,
    partitions: int,
    batch_events: int,
    late_s: int,
    crashes: list[tuple[str, int]],
) -> None:
    of_orders = rows_of(orders, ("k", "order", "at"), late_s)
    of_bills = rows_of(bills, ("key", "bill", "paid_at"), late_s)
    expected = in_order(joined(CASES[case], how, of_orders, of_bills))

    def flow(world: LocalWorld) -> Flow:
        return both(CASES[case], how, world, late_s)

    with streamed(
        flow, of_orders, of_bills, partitions=partitions, batch_events=batch_events, crashes=crashes
    ) as (world, _):
        batch = flow(world).collect()
        assert in_order(batch.to_pylist()) == expected
        assert in_order(world.events("out")) == expected
        assert batch.schema == flow(world).schema


@pytest.mark.parametrize("case", ["around", "before", "tumbling"])
@settings(max_examples=25)
@given(
    orders=EVENTS,
    bills=EVENTS,
    by=st.sampled_from(["at", "paid_at", "window_start", "window_end"]),
    batch_events=st.integers(1, 20),
    late_s=LATENESS,
    crashes=CRASHES,
)
def test_an_aggregation_of_a_join(
    case: str,
    orders: list,
    bills: list,
    by: str,
    batch_events: int,
    late_s: int,
    crashes: list[tuple[str, int]],
) -> None:
    by = by if case == "tumbling" or not by.startswith("window") else "at"

    def flow(world: LocalWorld) -> Flow:
        named = both(CASES[case], "inner", world, late_s).select("k", "order", "bill", when=col(by))
        windowed = named.filter(col("bill") != 3).window(tumbling("10m"), on="when")
        return windowed.group_by("k").agg(pairs=agg.count(), last=agg.max("order"))

    of_orders = rows_of(orders, ("k", "order", "at"), late_s)
    of_bills = rows_of(bills, ("key", "bill", "paid_at"), late_s)
    with streamed(
        flow, of_orders, of_bills, partitions=1, batch_events=batch_events, crashes=crashes
    ) as (world, _):
        assert in_order(world.events("out")) == in_order(flow(world).collect().to_pylist())


@settings(max_examples=40)
@given(
    orders=EVENTS,
    bills=EVENTS,
    partitions=st.integers(1, 2),
    batch_events=st.integers(1, 20),
    late_s=LATENESS,
    crashes=CRASHES,
    windowed=st.booleans(),
)
def test_a_union(
    orders: list,
    bills: list,
    partitions: int,
    batch_events: int,
    late_s: int,
    crashes: list[tuple[str, int]],
    windowed: bool,
) -> None:
    of_orders = rows_of(orders, ("k", "order", "at"), late_s)
    of_bills = rows_of(bills, ("key", "bill", "paid_at"), late_s)

    def flow(world: LocalWorld) -> Flow:
        first = (
            world.read("orders").filter(col("order") != 2).select("k", n=col("order"), at=col("at"))
        )
        second = world.read("bills").select(k=col("key"), n=col("bill"), at=col("paid_at"))
        rows = first.union(second, first).with_columns(n=col("n") + 1)
        if not windowed:
            return rows
        return (
            rows.window(tumbling("5m"), on="at", late=f"{late_s}s")
            .group_by("k")
            .agg(rows=agg.count(), total=agg.sum("n"))
        )

    kept = [{"k": r["k"], "n": r["order"] + 1, "at": r["at"]} for r in of_orders if r["order"] != 2]
    plain = [*kept, *kept]
    plain += [{"k": r["key"], "n": r["bill"] + 1, "at": r["paid_at"]} for r in of_bills]
    with streamed(
        flow, of_orders, of_bills, partitions=partitions, batch_events=batch_events, crashes=crashes
    ) as (world, report):
        rows = world.events("out")
        assert in_order(rows) == in_order(flow(world).collect().to_pylist())
        if not windowed:
            assert in_order(rows) == in_order(plain)
            return
        timed = sum(row["at"] is not None for row in plain)
        assert sum(row["rows"] for row in rows) == timed
        if not crashes:
            assert report.untimed == len(plain) - timed
