"""Joins with a table that changes: as plain Python looks them up, in any cut, after any crash, over any partitions.

prices   ──1────────2───────3──▶ event time
trades   t────t──────t────t────▶           nothing, 1, 2, 2
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local import flow_versions
from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each

LATE_S = 300
TRADES = {"k": str | None, "trade": int, "at": Timestamp | None}
PRICES = {"key": str | None, "price": int | None, "since": Timestamp | None}
Row = dict[str, Any]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "a", "b"]),
        st.sampled_from([0, 0, 60, 60, 120, 300]),
        st.one_of(st.none(), *[st.integers(0, LATE_S // 60)] * 9),
    ),
    min_size=1,
    max_size=16,
)
LATENESS = st.sampled_from([0, LATE_S])


def rows_of(events: list, names: tuple[str, str, str], late_s: int) -> list[Row]:
    rows, second = [], 0
    for number, (key, step_s, back) in enumerate(events):
        second += step_s
        behind = min(60 * (back or 0), late_s)
        when = None if back is None else EPOCH + timedelta(seconds=LATE_S + second - behind)
        rows.append(dict(zip(names, (key, number, when), strict=True)))
    return rows


def joined(trades: Flow, prices: Flow, *, by: bool, tolerance: str | None, late_s: int) -> Flow:
    keys: dict[str, Any] = {"by": "k", "right_by": "key"} if by else {}
    return trades.join_asof(
        prices,
        on="at",
        right_on="since",
        tolerance=tolerance,
        late=f"{late_s}s",
        keep_late=True,
        **keys,
    )


def looked_up(
    trades: list[Row], prices: list[Row], *, by: bool, tolerance: timedelta | None
) -> list[Row]:
    found = []
    for trade in trades:
        at: datetime | None = trade["at"]
        if at is None:
            continue
        fit = [
            (price["since"], number, price)
            for number, price in enumerate(prices)
            if price["since"] is not None
            and price["since"] <= at
            and (tolerance is None or at - price["since"] <= tolerance)
            and (not by or (price["key"] is not None and price["key"] == trade["k"]))
        ]
        held = max(fit, default=None, key=lambda found: found[:2])
        row = {**trade, "price": None if held is None else held[2]["price"]}
        if not by:
            row["key"] = None if held is None else held[2]["key"]
        found.append({n: row[n] for n in ("k", "trade", "at", *([] if by else ["key"]), "price")})
    return found


@pytest.mark.parametrize("tolerance_m", [None, 3])
@pytest.mark.parametrize("by", [True, False], ids=["keys", "no keys"])
@settings(max_examples=25)
@given(
    trades=EVENTS,
    prices=EVENTS,
    late_s=LATENESS,
    partitions=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch_events=st.integers(1, 30),
    crashes=CRASHES,
)
def test_any_cut_and_any_crash(
    by: bool,
    tolerance_m: int | None,
    trades: list,
    prices: list,
    late_s: int,
    partitions: tuple[int, int],
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    left = rows_of(trades, ("k", "trade", "at"), late_s)
    right = rows_of(prices, ("key", "price", "since"), late_s)
    tolerance = None if tolerance_m is None else f"{tolerance_m}m"
    within = None if tolerance_m is None else timedelta(minutes=tolerance_m)

    def flow(world: LocalWorld) -> Flow:
        sides = world.read("trades"), world.read("prices")
        return joined(*sides, by=by, tolerance=tolerance, late_s=late_s)

    def stream(world: LocalWorld) -> RunReport:
        return flow(world).write("out").stream(until="end", batch_events=batch_events)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # So that versions are forgotten with each micro-batch, or with none.
        forgets_at = 0 if batch_events % 2 else 20_000
        patch.setattr(flow_versions, "GROUPS_MIN", forgets_at)
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("trades", TRADES, key="k", partitions=partitions[0])
            world.topic("prices", PRICES, key="key", partitions=partitions[1] if by else 1)
            world.append("trades", left)
            world.append("prices", right)
        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            expected = in_order(looked_up(left, right, by=by, tolerance=within))
            assert in_order(flow(world).collect().to_pylist()) == expected
            assert in_order(world.events("out")) == expected


@settings(max_examples=25)
@given(trades=EVENTS, prices=EVENTS, batch_events=st.integers(1, 30), crashes=CRASHES)
def test_a_window_behind_the_join(
    trades: list, prices: list, batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    def flow(world: LocalWorld) -> Flow:
        sides = world.read("trades"), world.read("prices")
        rows = joined(*sides, by=True, tolerance=None, late_s=LATE_S)
        sums = rows.window(tumbling("5m"), on="at").group_by("k")
        return sums.agg(rows=agg.count(), total=agg.sum("price"))

    def stream(world: LocalWorld) -> RunReport:
        return flow(world).write("out").stream(until="end", batch_events=batch_events)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            world.topic("trades", TRADES, key="k", partitions=2)
            world.topic("prices", PRICES, key="key", partitions=2)
            world.append("trades", rows_of(trades, ("k", "trade", "at"), LATE_S))
            world.append("prices", rows_of(prices, ("key", "price", "since"), LATE_S))
        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            assert in_order(world.events("out")) == in_order(flow(world).collect().to_pylist())


@settings(max_examples=25)
@given(trades=EVENTS, prices=EVENTS, cuts=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_which_rows_are_late_depends_on_no_cut(
    trades: list, prices: list, cuts: tuple[int, int]
) -> None:
    results = []
    for batch_events in cuts:
        with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s") as world:
            world.topic("trades", TRADES)
            world.topic("prices", PRICES)
            world.append("trades", rows_of(trades, ("k", "trade", "at"), LATE_S))
            world.append("prices", rows_of(prices, ("key", "price", "since"), LATE_S))
            sides = world.read("trades"), world.read("prices")
            flow = joined(*sides, by=True, tolerance=None, late_s=60).write("out")
            report = flow.stream(until="end", batch_events=batch_events)
            late = [world.events(f"out.late_{side}") for side in ("left", "right")]
            assert report.late + report.untimed == sum(map(len, late))
            results.append((in_order(world.events("out")), in_order(late[0]), in_order(late[1])))
    assert results[0] == results[1]
