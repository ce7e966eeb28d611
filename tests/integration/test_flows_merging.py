"""Streams of several sources: when a join gives what, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.engines.local import flow_kept_rows
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import Progress, RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.flows_kit import StopAfter
from tests.refusals import refused

ORDERS = {"id": str, "item": str, "at": Timestamp}
PAYMENTS = {"order": str, "sum": int, "paid": Timestamp}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("orders", ORDERS)
        world.topic("payments", PAYMENTS)
        yield world


def order(world: LocalWorld, id: str, minute: float) -> None:
    world.append("orders", [{"id": id, "item": f"item {id}", "at": at(minute)}])


def pay(world: LocalWorld, order: str, minute: float, sum: int = 1) -> None:
    world.append("payments", [{"order": order, "sum": sum, "paid": at(minute)}])


def paid(world: LocalWorld, how: str = "left", **options: Any) -> Flow:
    """Orders with the payments of the ten minutes after them."""
    return world.read("orders").join_interval(
        world.read("payments"),
        on="id",
        right_on="order",
        within=("0s", "10m"),
        time=("at", "paid"),
        how=how,
        **options,
    )


def step(flow: Flow) -> RunReport:
    """Stream one micro-batch of what has come, and stop; nothing is closed that may still be open."""
    stop = StopAfter(1)
    return flow.write("out").stream(stop=stop, progress=stop.progress)


def shown(world: LocalWorld) -> list[tuple[Any, ...]]:
    return [(row["id"], row["sum"]) for row in world.events("out")]


def stored_rows(world: LocalWorld) -> dict[int, int]:
    """Return how many rows the catalog holds for each side of the join."""
    with world.store.read() as snapshot:
        [[flow_id, *_]] = snapshot.run("flows/get", ("out",))
        rows: dict[int, int] = {}
        for stage, groups, *_ in snapshot.run("flows/state", (flow_id,)):
            rows[stage] = rows.get(stage, 0) + groups
    return rows


def test_a_pair_is_given_at_once_and_a_row_alone_when_no_partner_can_come(
    world: LocalWorld,
) -> None:
    #   minute     0    5    10   15   20   25
    #   orders     a    b                   c
    #   payments        a              x    z
    #   1st batch  a and its payment
    #   2nd batch  the watermark is 20: nothing can pay for b (5 to 15) any more, b is alone
    #   end        c is alone
    order(world, "a", 0)
    order(world, "b", 5)
    pay(world, "a", 5, 7)
    step(paid(world))
    assert shown(world) == [("a", 7)]
    pay(world, "x", 20)
    order(world, "c", 20)
    step(paid(world))
    assert shown(world) == [("a", 7), ("b", None)]
    paid(world).write("out").stream(until="end")
    assert shown(world) == [("a", 7), ("b", None), ("c", None)]


def test_what_no_partner_can_come_for_is_forgotten(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    #   minute     0    10   20  …  190         each order is paid a minute later
    #   kept       the orders of the last ten minutes and the payment of the last: two or three rows
    monkeypatch.setattr(
        flow_kept_rows, "GROUPS_MIN", 0
    )  # a snapshot as soon as half of it is not needed
    for minute in range(0, 200, 10):
        order(world, f"o{minute}", minute)
        pay(world, f"o{minute}", minute + 1)
        step(paid(world, how="inner"))
        assert all(rows <= 4 for rows in stored_rows(world).values())
    assert [row["id"] for row in world.events("out")] == [f"o{m}" for m in range(0, 200, 10)]
    paid(world, how="inner").write("out").stream(until="end")
    assert stored_rows(world) == {}


@pytest.mark.parametrize("how", ["inner", "left", "right", "full"])
def test_a_partner_may_come_at_the_last_moment(world: LocalWorld, how: str) -> None:
    #   minute     0                   10       the watermark is 10 when the payment of a comes, at 10 too:
    #   orders     a                   z        ten minutes after a, which was not forgotten
    #   payments                       x a
    order(world, "a", 0)
    order(world, "z", 10)
    pay(world, "x", 10)
    step(paid(world, how))
    pay(world, "a", 10, 7)
    paid(world, how).write("out").stream(until="end")
    alone = {"left": [("z", None)], "right": [("x", 1)], "full": [("x", 1), ("z", None)]}
    assert sorted(shown(world)) == sorted([("a", 7), *alone.get(how, [])])


def test_a_row_that_comes_when_its_partners_cannot_any_more_is_given_at_once(
    world: LocalWorld,
) -> None:
    #   minute     0       9   14 15       20   the watermark is 15 (late="5m") once both sides have seen 20
    #   orders                    b ◀───── a    b comes after a, at 15: still in time
    #   partners           [────|]              one to six minutes before b: none can come
    order(world, "a", 20)
    pay(world, "x", 20)
    joined = world.read("orders").join_interval(
        world.read("payments"),
        on="id",
        right_on="order",
        within=("-6m", "-1m"),
        time=("at", "paid"),
        how="left",
        late="5m",
    )
    step(joined)
    order(world, "b", 15)
    step(joined)
    assert shown(world) == [("b", None)]


def test_a_window_behind_a_join_waits_for_what_the_join_keeps(world: LocalWorld) -> None:
    #   minute     0    2         8    9        the watermark of the join is 8
    #   orders     a              z
    #   payments                  x    a        pays for a: the pair counts at 0
    #   windows    |    |  of two minutes by the order's time: 0 to 2 may not be closed while a is kept
    order(world, "a", 0)
    order(world, "z", 8)
    pay(world, "x", 8)
    counted = paid(world, "inner").select(when=col("at")).window(tumbling("2m"), on="when")
    flow = counted.agg(n=agg.count())
    step(flow)
    pay(world, "a", 9)
    assert flow.write("out").stream(until="end").late == 0
    assert [(row["window_start"], row["n"]) for row in world.events("out")] == [(at(0), 1)]


@pytest.mark.parametrize("how", ["inner", "full"])
def test_a_row_is_in_time_for_a_window_join_while_its_window_is_open(
    world: LocalWorld, how: str
) -> None:
    #   minute     0         10        20       the watermark is 8, then 18
    #   orders     |  b   a  |                  b, at 3, comes after a, at 8: the window is open
    #   payments   | b    x  |      y           y, at 18, closes it
    #   then       c, at 5, is late: its window was closed
    order(world, "a", 8)
    pay(world, "b", 2)
    pay(world, "x", 8)
    order(world, "b", 3)
    order(world, "d", 18)
    pay(world, "y", 18)
    joined = world.read("orders").join_window(
        world.read("payments"),
        tumbling("10m"),
        on="id",
        right_on="order",
        time=("at", "paid"),
        how=how,
    )
    assert joined.write("out").stream(until="end", batch_events=1).late == 0
    rows = [(row["id"], row["sum"]) for row in world.events("out")]
    alone = [("a", None), ("d", None), ("x", 1), ("y", 1)] if how == "full" else []
    assert sorted(rows, key=str) == sorted([("b", 1), *alone], key=str)
    order(world, "c", 5)
    assert joined.write("out").stream(until="end").late == 1


def test_a_window_behind_a_window_join_waits_for_rows_that_are_still_in_time(
    world: LocalWorld,
) -> None:
    #   minute     0    2    4    6    8    10
    #   orders     |              a    b    |    a at 9 comes before b at 1: both are in time
    #   windows    of 2 minutes by the order's time: 0 to 2 may not be closed while 0 to 10 is open
    order(world, "a", 9)
    pay(world, "a", 9)
    order(world, "b", 1)
    pay(world, "b", 9)
    joined = world.read("orders").join_window(
        world.read("payments"), tumbling("10m"), on="id", right_on="order", time=("at", "paid")
    )
    counted = joined.select("id", when=col("at")).window(tumbling("2m"), on="when")
    flow = counted.agg(n=agg.count())
    report = flow.write("out").stream(until="end", batch_events=1)
    assert report.late == 0
    assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())
    assert len(world.events("out")) == 2


def test_one_path_with_two_schemas_is_two_sources(world: LocalWorld, tmp_path: Path) -> None:
    path = f"{tmp_path}/*.csv"
    one = world.flows.read(path, schema={"n": int}).select(n=col("n").cast(str))
    other = world.flows.read(path, schema={"n": str})
    with refused(PlanError, "read files for one of them only"):
        one.union(other).write("out").stream(until="end")


def test_late_rows_are_counted_and_kept_on_both_sides(world: LocalWorld) -> None:
    #   minute     0    10   20   30       late="5m": the watermark of each topic is 25
    #   orders          b         a    b comes after a: late
    #   payments             y    x    y comes after x: late
    order(world, "a", 30)
    order(world, "b", 10)
    pay(world, "x", 30)
    pay(world, "y", 20)
    report = paid(world, late="5m", keep_late=True).write("out").stream(until="end")
    assert report.late == 2
    assert [row["id"] for row in world.events("out.late_left")] == ["b"]
    assert [row["order"] for row in world.events("out.late_right")] == ["y"]
    assert shown(world) == [("a", None)]


def test_a_quiet_side_holds_rows_back_and_an_idle_one_does_not(world: LocalWorld) -> None:
    #   minute     0    1    10   11   ……   60
    #   orders     a    b                   c
    #   payments   a                              quiet since: one for b may come, unless payments are idle
    order(world, "a", 0)
    pay(world, "a", 0)
    order(world, "b", 1)
    order(world, "c", 60)
    step(paid(world))
    assert shown(world) == [("a", 1)]  # payments are at 0: one for b may come

    class WhenAlone:
        def is_set(self) -> bool:
            return ("b", None) in shown(world)

    paid(world).write("out").stream(stop=WhenAlone(), idle="10ms")
    assert shown(world) == [("a", 1), ("b", None)]


def test_both_sides_may_be_one_topic(world: LocalWorld) -> None:
    #   minute   0    3    10        20   30        45
    #   in       0                   2
    #            [---------]         [----]              until when an out may follow
    #   out           1                             3
    world.topic("all", {"kind": str, "key": str, "n": int, "at": Timestamp})
    for n, (kind, minute) in enumerate([("in", 0), ("out", 3), ("in", 20), ("out", 45)]):
        world.append("all", [{"kind": kind, "key": "k", "n": n, "at": at(minute)}])
    both = world.read("all")
    opened = both.filter(col("kind") == "in").select("key", "at", began=col("n"))
    closed = both.filter(col("kind") == "out").select("key", ended=col("n"), until=col("at"))
    flow = opened.join_interval(
        closed, on="key", within=("0s", "10m"), time=("at", "until"), how="full"
    ).select("key", "began", "ended")
    expected = [("k", 0, 1), ("k", 2, None), ("k", None, 3)]
    assert in_order(flow.collect().to_pylist()) == in_order([dict(enumerate(r)) for r in expected])
    report = flow.write("out").stream(until="end", batch_events=1)
    assert report.rows_in == 4
    assert in_order(world.events("out")) == in_order([dict(enumerate(r)) for r in expected])


def test_time_in_one_topic_goes_on_with_the_events_of_either_side(world: LocalWorld) -> None:
    #   minute     0              20
    #   left       a                            no event of the left moves time beyond 0
    #   right                      x            but one of the right does: a is alone
    world.topic("all", {"kind": str, "key": str, "at": Timestamp})
    both = world.read("all")
    # The times of the sides are not known in each other's events.
    began = ms.when(col("kind") == "in").then(col("at")).otherwise(None)
    until = ms.when(col("kind") == "out").then(col("at")).otherwise(None)
    opened = both.select("kind", "key", began=began).filter(col("kind") == "in")
    closed = both.select(other=col("kind"), key=col("key"), until=until).filter(
        col("other") == "out"
    )
    flow = opened.join_interval(
        closed, on="key", within=("0s", "10m"), time=("began", "until"), how="left"
    ).select("key", "until")
    world.append("all", [{"kind": "in", "key": "a", "at": at(0)}])
    world.append("all", [{"kind": "out", "key": "x", "at": at(20)}])
    step(flow)
    assert world.events("out") == [{"key": "a", "until": None}]


def test_topics_and_files_are_read_together(world: LocalWorld, tmp_path: Path) -> None:
    #   minute    0    3    5    10
    #   orders    a b
    #             [--------------]
    #   files          a    a               b is alone at the end
    times = pa.array([at(3), at(5)], pa.timestamp("us", "UTC"))
    table = pa.table({"order": ["a", "a"], "sum": [1, 2], "paid": times})
    pq.write_table(table, tmp_path / "1.parquet")
    order(world, "a", 0)
    order(world, "b", 0)
    files = world.flows.read(str(tmp_path / "*.parquet"))
    flow = (
        world.read("orders")
        .join_interval(
            files,
            on="id",
            right_on="order",
            within=("0s", "10m"),
            time=("at", "paid"),
            how="full",
        )
        .write("out")
    )
    flow.stream(until="end", batch_events=1)
    assert sorted(shown(world), key=str) == [("a", 1), ("a", 2), ("b", None)]
    assert flow.stream(until="end").rows_in == 0


def test_flows_without_a_time_are_joined_in_a_batch(world: LocalWorld) -> None:
    order(world, "a", 0)
    order(world, "b", 0)
    pay(world, "a", 500)
    pay(world, "z", 1)
    orders, payments = world.read("orders"), world.read("payments")

    def ids(how: str) -> list[tuple[Any, ...]]:
        flow = orders.join(payments, on="id", right_on="order", how=how)
        names = [name for name in ("id", "item", "sum") if name in flow.schema.names]
        return in_order(flow.select(*names).collect().to_pylist())

    a, b, z = ("a", "item a", 1), ("b", "item b", None), ("z", None, 1)
    assert ids("inner") == [a]
    assert sorted(ids("left")) == [a, b]
    assert sorted(ids("right"), key=str) == [a, z]
    assert sorted(ids("full"), key=str) == [a, b, z]
    assert ids("semi") == [a[:2]]
    assert ids("anti") == [b[:2]]


def test_the_plan_shows_both_sides(world: LocalWorld) -> None:
    flow = paid(world).filter(col("sum") > 1).write("out")
    assert flow.explain().splitlines() == [
        "flow out",
        "  left",
        "    read  topic 'orders'",
        "          -> id: string, item: string, at: timestamp[us, tz=UTC]",
        "  right",
        "    read  topic 'payments'",
        "          -> order: string, sum: int64, paid: timestamp[us, tz=UTC]",
        "  join_interval(on id = order, left, within 0h to 10m, time at, paid, late=0h)",
        "        -> id: string, item: string, at: timestamp[us, tz=UTC], sum: int64, "
        "paid: timestamp[us, tz=UTC]",
        "  1     filter((col('sum') > 1))",
        "  write topic 'out'",
    ]


def test_a_changed_join_does_not_go_on_from_its_state(world: LocalWorld) -> None:
    order(world, "a", 0)
    step(paid(world))
    with refused(PlanError, "the source was join_interval", "and is now"):
        paid(world, how="inner").write("out").stream(until="end")
    # What comes behind the join keeps no state.
    paid(world).filter(col("id") != "b").write("out").stream(until="end")


def test_the_progress_of_a_batch_counts_all_its_sources(world: LocalWorld) -> None:
    order(world, "a", 0)
    order(world, "b", 1)
    pay(world, "a", 2)
    seen: list[Progress] = []
    paid(world).write("out").run(progress=seen.append)
    assert (seen[-1].rows_done, seen[-1].rows_total) == (3, 3)


def test_each_row_is_in_one_branch(world: LocalWorld) -> None:
    #   n      1      2      null   3
    #   yes    -      x      -      x
    #   no     x      -      x      -
    world.topic("numbers", {"n": int | None})
    world.append("numbers", [{"n": n} for n in (1, 2, None, 3)])
    branches = world.read("numbers").branch(col("n") > 1)
    for name, flow, expected in zip(("yes", "no"), branches, ([2, 3], [1, None]), strict=True):
        assert [row["n"] for row in flow.collect().to_pylist()] == expected
        flow.write(name).stream(until="end", batch_events=1)
        assert [row["n"] for row in world.events(name)] == expected
    with refused(PlanError, "int64"):
        world.read("numbers").branch(col("n"))
