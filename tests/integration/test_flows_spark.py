"""Windows, aggregates and joins give the rows that PySpark gives: in a batch, and as a stream step by step.

Spark is asked in its own SQL, beside the flow that is to say the same. Its answers are those of a session in a process
of its own, which all tests share: a job takes a third of a second, so there are few examples, each with many rows.
They are not made smaller when they fail, which would take minutes.

Where the two differ by design, the examples keep out of it:

- In a session window of a stream an event behind the watermark is late here. Spark takes it if its own session would
  still be open, so there it can change a session that grew into what was emitted.
- A gap as long as that of the sessions ends one here, and does not in Spark, whose gap is a microsecond shorter here.
- A null key joins nothing here, as in SQL. Spark's full join of streams joins it with other null keys.
- Spark has no anti join of two streams, no sliding windows and no calendar windows of a stream.
- An event is late by the events before it here, and by the micro-batches before it in Spark. Within a micro-batch the
  examples are in order, where both mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from millstream.app import App
from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.windows import (
    Windows,
    calendar,
    hopping,
    session,
    sliding,
    tumbling,
)
from millstream.primitives.schema import TIMESTAMP, Timestamp
from millstream.testing import FlowTest
from millstream.testing.flows_suite import EPOCH, LocalWorld
from tests.spark import Spark
from tests.spark import session as spark_session
from tests.spark_joins import (
    BILLS,
    HOWS,
    ORDERS,
    Row,
    by_time,
    by_window,
    joined_by_time,
    joined_by_window,
    numbered,
    rows_of_join,
)

few = settings(
    max_examples=2,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
"""Of the examples those are left out whose rows are all alike; Hypothesis begins with such a one."""


@pytest.fixture(scope="module")
def spark() -> Iterator[Spark]:
    with spark_session() as spark:
        yield spark


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with LocalWorld(tmp_path_factory.mktemp("spark") / "store.mill") as world:
        yield world


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return rows in an order of their own, with times in microseconds, and floats as far as both are sure of them."""
    return sorted((tuple(map(plain, row.values())) for row in table.to_pylist()), key=repr)


def bounds(group: str) -> tuple[str, str]:
    """Return start and end of a window in Spark's SQL; the end of a session as if its gap were whole."""
    name = group.partition("(")[0]
    return (
        f"unix_micros({name}.start)",
        f"unix_micros({name}.end) + {int(name == 'session_window')}",
    )


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, float):
        return "nan" if math.isnan(value) else float(f"{value:.9g}")
    return list(map(plain, value)) if isinstance(value, list) else value


def emitted(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return sorted((tuple(map(plain, row.values())) for row in rows), key=repr)


# ---- windows and aggregates of a batch ----------------------------------------------------------

EVENTS = pa.schema(
    [("g", pa.int64()), ("k", pa.string()), ("n", pa.int64()), ("f", pa.float64()), ("at", TIMESTAMP)]
)  # fmt: skip
AGGREGATES: dict[str, tuple[agg.Aggregate, str]] = {
    "rows": (agg.count(), "count(*)"),
    "values": (agg.count("n"), "count(n)"),
    "total": (agg.sum("n"), "sum(n)"),
    "float_total": (agg.sum("f"), "sum(f)"),
    "mean": (agg.mean("n"), "avg(n)"),
    "least": (agg.min("f"), "min(f)"),
    "most": (agg.max("f"), "max(f)"),
    "most_text": (agg.max("k"), "max(k)"),
    "variance": (agg.var("n"), "var_samp(n)"),
    "deviation": (agg.std("n", ddof=0), "stddev_pop(n)"),
    "different": (agg.n_unique("f"), "count(DISTINCT f)"),
    "quarter": (agg.quantile("n", 0.25), "percentile(n, 0.25)"),
    "first": (agg.first("n", by="at"), "min(struct(at, n IS NULL AS no, n)).n"),
    "last": (agg.last("n", by="at"), "max(struct(at, n IS NOT NULL AS yes, n)).n"),
    "all": (
        agg.collect("n", by="at"),
        "transform(array_sort(collect_list(struct(at, n)) FILTER (WHERE n IS NOT NULL)), x -> x.n)",
    ),
    "top": (agg.top_k("n", 2), "slice(sort_array(collect_list(n), false), 1, 2)"),
}
OURS = {name: ours for name, (ours, _) in AGGREGATES.items()}
THEIRS = ", ".join(f"{theirs} AS `{name}`" for name, (_, theirs) in AGGREGATES.items())
FLOATS = st.sampled_from([None, 0.0, 0.5, -2.5, 1e9, 7.0, math.inf, math.nan])
MINUTES = st.none() | st.integers(-40, 80).map(lambda minute: EPOCH + timedelta(minutes=minute))


def events(times: st.SearchStrategy[datetime | None]) -> st.SearchStrategy[pa.Table]:
    row = st.fixed_dictionaries(
        {
            "g": st.integers(0, 5),
            "k": st.sampled_from([None, "a", "b"]),
            "n": st.none() | st.integers(-50, 50),
            "f": FLOATS,
            "at": times,
        }
    )
    rows = st.lists(row, min_size=60, max_size=150).filter(
        lambda rows: len({str(row) for row in rows}) > 50
    )
    return rows.map(lambda rows: pa.Table.from_pylist(rows, schema=EVENTS))


def grouped(world: LocalWorld, table: pa.Table, windows: Windows) -> list[tuple[Any, ...]]:
    flow = world.table(table).window(windows, on="at").group_by("g", "k").agg(**OURS)
    return rows_of(flow.collect())


def windowed(start: str, end: str, group: str) -> str:
    return (
        f"SELECT {start} AS window_start, {end} AS window_end, g, k, {THEIRS} "
        f"FROM events WHERE at IS NOT NULL GROUP BY {group}, g, k"
    )


BATCH: dict[str, tuple[Windows, str]] = {
    "tumbling": (tumbling("5m"), "window(at, '5 minutes')"),
    "hopping": (hopping("10m", every="4m"), "window(at, '10 minutes', '4 minutes')"),
    "session": (session("3m"), "session_window(at, '179999999 microseconds')"),
}


@few
@given(table=events(MINUTES))
def test_windows_of_a_batch(spark: Spark, world: LocalWorld, table: pa.Table):
    queries = [windowed(*bounds(group), group) for _, group in BATCH.values()]
    answers = spark.ask(queries, {"events": table})
    for (kind, (windows, _)), answer in zip(BATCH.items(), answers, strict=True):
        assert grouped(world, table, windows) == rows_of(answer), kind


# Days on which the clocks of these zones change: at one in the night, or over midnight.
ZONES = {
    "Europe/Berlin": (date(2025, 3, 29), date(2025, 10, 25)),
    "America/Sao_Paulo": (date(2018, 2, 17), date(2018, 11, 3)),
}
UNITS = {
    "hour": "1 HOUR",
    "day": "1 DAY",
    "week": "7 DAY",
    "month": "1 MONTH",
    "quarter": "3 MONTH",
    "year": "1 YEAR",
}


@pytest.mark.parametrize("zone", ZONES)
@settings(few, max_examples=1)
@given(data=st.data())
def test_calendar_windows_of_a_batch(
    spark: Spark, world: LocalWorld, zone: str, data: st.DataObject
):
    starts = st.sampled_from(ZONES[zone]).map(
        lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)
    )
    times = st.builds(
        lambda day, minute: day + timedelta(minutes=15 * minute), starts, st.integers(0, 250)
    )
    table = data.draw(events(times))
    queries = [
        windowed(
            "unix_micros(w)", f"unix_micros(date_trunc('{unit}', w + INTERVAL {long}))", "w"
        ).replace("FROM events", f"FROM (SELECT *, date_trunc('{unit}', at) AS w FROM events)")
        for unit, long in UNITS.items()
    ]
    answers = spark.ask(queries, {"events": table}, zone=zone)
    for unit, answer in zip(UNITS, answers, strict=True):
        assert grouped(world, table, calendar(unit, tz=zone)) == rows_of(answer), unit


@few
@given(table=events(MINUTES))
def test_sliding_windows_of_a_batch(spark: Spark, world: LocalWorld, table: pa.Table):
    flow = world.table(table).window(sliding("6m"), on="at").group_by("g", "k")
    ours = flow.agg(rows=agg.count(), total=agg.sum("n"), most=agg.max("f"))
    [theirs] = spark.ask(
        [
            """
            SELECT DISTINCT unix_micros(at) - 360000000 AS window_start, unix_micros(at) AS window_end, g, k,
                count(*) OVER led AS rows, sum(n) OVER led AS total, max(f) OVER led AS most
            FROM events WHERE at IS NOT NULL WINDOW led AS (
                PARTITION BY g, k ORDER BY unix_micros(at) RANGE BETWEEN 359999999 PRECEDING AND CURRENT ROW)
            """
        ],
        {"events": table},
    )
    assert rows_of(ours.collect()) == rows_of(theirs)


# ---- joins of a batch ---------------------------------------------------------------------------


@few
@given(
    orders=numbered(ORDERS, MINUTES, min_size=40, max_size=80),
    bills=numbered(BILLS, MINUTES, min_size=40, max_size=80),
)
def test_joins_by_time_of_a_batch(
    spark: Spark, world: LocalWorld, orders: pa.Table, bills: pa.Table
):
    queries = [joined_by_time(how) for how in HOWS] + [joined_by_window(how) for how in HOWS]
    timed = [
        query.replace("orders", "timed_orders").replace("bills", "timed_bills") for query in queries
    ]
    tables = {
        "timed_orders": orders.filter(pa.compute.is_valid(orders["at"])),
        "timed_bills": bills.filter(pa.compute.is_valid(bills["paid"])),
    }
    answers = iter(spark.ask(timed, tables))
    for join in (by_time, by_window):
        for how in HOWS:
            flow = join(world.table(orders), world.table(bills), how)
            assert rows_of(flow.collect()) == rows_of(next(answers)), (join, how)


@few
@given(
    orders=numbered(ORDERS, MINUTES, min_size=40, max_size=80),
    bills=numbered(BILLS, MINUTES, min_size=10, max_size=40),
)
def test_joins_with_a_table(spark: Spark, world: LocalWorld, orders: pa.Table, bills: pa.Table):
    hows = ("inner", "left", "semi", "anti")
    both = "SELECT l.k, o, unix_micros(at) AS at, b, unix_micros(paid) AS paid FROM orders l "
    one = "SELECT l.k, o, unix_micros(at) AS at FROM orders l "
    queries = [
        (one if how in ("semi", "anti") else both) + f"{HOWS[how]} bills r ON l.k = r.k"
        for how in hows
    ]
    # Of several rows of one time the last in the table counts; b is their number.
    queries.append(
        """
        SELECT any_value(l.k) AS k, o, unix_micros(any_value(at)) AS at, max(struct(paid, b)).b AS b
        FROM orders l LEFT JOIN bills r
        ON l.k = r.k AND paid <= at AND paid >= at - INTERVAL 10 MINUTES GROUP BY o
        """
    )
    answers = spark.ask(queries, {"orders": orders, "bills": bills})
    flow = world.table(orders)
    for how, answer in zip(hows, answers, strict=False):
        assert rows_of(flow.join(bills, on="k", how=how).collect()) == rows_of(answer), how
    asof = flow.join_asof(bills, on="at", right_on="paid", by="k", tolerance="10m")
    assert rows_of(asof.collect()) == rows_of(answers[-1])


# ---- streams ------------------------------------------------------------------------------------

STREAMED = {
    "rows": (agg.count(), "count(*)"),
    "total": (agg.sum("n"), "sum(n)"),
    "mean": (agg.mean("n"), "avg(n)"),
    "most": (agg.max("n"), "max(n)"),
    "all": (agg.collect("n"), "array_sort(collect_list(n))"),
}
STEP_S, LATE_S = 60, 30
STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b", "c"]),
            st.none() | st.integers(-9, 9),
            st.integers(-9, 6).map(lambda tens: 10 * tens),
        ),
        min_size=3,
        max_size=12,
    ),
    min_size=4,
    max_size=4,
)


def streamed(windows: Windows, topic: str) -> Any:
    def flow(app: App) -> Flow:
        source = app.topic(topic, schema={"k": str | None, "n": int | None, "at": Timestamp})
        windowed = app.read(source).window(windows, on="at", late=f"{LATE_S}s").group_by("k")
        return windowed.agg(**{name: ours for name, (ours, _) in STREAMED.items()}).write("out")

    return flow


def in_steps(
    steps: list[list[tuple[str | None, int | None, int]]], *, calm: bool
) -> list[list[Row]]:
    """Return the events of each step, in order; a step later than the one before. Calm ones are never late.

    The last step is an event an hour later, which closes everything.
    """
    found: list[list[Row]] = []
    latest = EPOCH
    for number, step in enumerate(steps):
        rows = []
        for k, n, offset_s in step:
            when = EPOCH + timedelta(seconds=STEP_S * number + offset_s)
            when = max(when, latest - timedelta(seconds=LATE_S)) if calm else when
            rows.append({"k": k, "n": n, "at": when})
        rows.sort(key=lambda row: row["at"])
        latest = max(latest, rows[-1]["at"])
        found.append(rows)
    return [*found, [{"k": "end", "n": 0, "at": latest + timedelta(hours=1)}]]


def late_ones(steps: list[list[tuple[str | None, int | None, int]]]) -> int:
    """Return how many events come when their window of 20 seconds is closed by the steps before."""
    latest, found = EPOCH, 0
    for step in in_steps(steps, calm=False):
        closed = latest - timedelta(seconds=LATE_S + 20)
        found += sum(row["at"] <= closed for row in step)
        latest = max(latest, step[-1]["at"])
    return found


# event time      0         60        120       180                 each step is a micro-batch, up to 90 s out of order;
# windows         |    |    |    |    |    |    |    |    |         the watermark is 30 s behind the latest
# step 1      e e   e  e                                            a window is given in the step that closes it
# step 2           e    l   e e     e                               l: late, as its window was closed by step 1
STREAMS: dict[str, tuple[Windows, str, bool]] = {
    "tumbling": (tumbling("20s"), "window(at, '20 seconds')", False),
    "hopping": (hopping("1m", every="20s"), "window(at, '1 minute', '20 seconds')", False),
    "session": (session("20s"), "session_window(at, '19999999 microseconds')", True),
}


@few
@given(steps=STEPS)
def test_windows_of_a_stream(tmp_path_factory: pytest.TempPathFactory, spark: Spark, steps: Any):
    theirs = ", ".join(f"{sql} AS `{name}`" for name, (_, sql) in STREAMED.items())
    assume(len({row for step in steps for row in step}) > 12 and late_ones(steps))
    queries = []
    for _, group, calm in STREAMS.values():
        start, end = bounds(group)
        source = "calm" if calm else "wild"
        queries.append(
            f"SELECT {start} AS s, {end} AS e, k, {theirs} FROM {source} GROUP BY {group}, k"
        )
    ddl = "k string, n bigint, at timestamp"
    schema = pa.schema([("k", pa.string()), ("n", pa.int64()), ("at", TIMESTAMP)])
    given_steps = {name: in_steps(steps, calm=name == "calm") for name in ("calm", "wild")}
    with ExitStack() as stack:
        sources = stack.enter_context(
            spark.stream(
                queries, {"calm": (ddl, "at"), "wild": (ddl, "at")}, late=f"{LATE_S} seconds"
            )
        )
        flows = {}
        for kind, (windows, _, calm) in STREAMS.items():
            test = FlowTest(
                streamed(windows, "calm" if calm else "wild"), tmp_path_factory.mktemp("flow")
            )
            flows[kind] = stack.enter_context(test)
        for number in range(len(given_steps["calm"])):
            for name, source in sources.items():
                source.append(pa.Table.from_pylist(given_steps[name][number], schema=schema))
            for (kind, flow), answer in zip(flows.items(), spark.step(), strict=True):
                name = "calm" if STREAMS[kind][2] else "wild"
                flow.feed(name, given_steps[name][number])
                assert emitted(flow.emitted()) == rows_of(answer), (kind, number)


@settings(few, max_examples=1)
@given(data=st.data())
def test_joins_of_streams(
    tmp_path_factory: pytest.TempPathFactory, spark: Spark, data: st.DataObject
):
    # Up to five minutes out of order, as long as the watermark waits.
    minute = st.integers(0, 5).map(lambda back: -timedelta(minutes=back))
    steps = []
    for number in range(3):
        base = EPOCH + timedelta(minutes=6 * number)
        times = st.just(base) | minute.map(lambda back, base=base: base + back)
        steps.append(
            tuple(
                data.draw(
                    numbered(
                        schema,
                        times,
                        keys=("a", "b", "c"),
                        first=100 * number,
                        min_size=8,
                        max_size=20,
                    )
                )
                for schema in (ORDERS, BILLS)
            )
        )
    assume(all(len(set(rows["k"].to_pylist())) > 2 for step in steps for rows in step))
    end = EPOCH + timedelta(days=1)
    steps.append(
        (
            pa.Table.from_pylist([{"k": "end", "o": 0, "at": end}], schema=ORDERS),
            pa.Table.from_pylist([{"k": "end", "b": 0, "paid": end}], schema=BILLS),
        )
    )
    schemas = {
        "orders": ("k string, o bigint, at timestamp", "at"),
        "bills": ("k string, b bigint, paid timestamp", "paid"),
    }
    # A full join holds the rows of all others, and of several joins of streams at once Spark takes its time.
    theirs: tuple[list[Row], list[Row]] = [], []
    queries = [joined_by_time("full"), joined_by_window("full")]
    with spark.stream(queries, schemas, late="5 minutes") as sources:
        for orders, bills in steps:
            sources["orders"].append(orders)
            sources["bills"].append(bills)
            for found, answer in zip(theirs, spark.step(), strict=True):
                found += answer.to_pylist()
    with LocalWorld(tmp_path_factory.mktemp("joins") / "store.mill") as world:
        world.topic("orders", ORDERS)
        world.topic("bills", BILLS)
        for orders, bills in steps:
            world.append("orders", orders.to_pylist())
            world.append("bills", bills.to_pylist())
        for join, full in zip((by_time, by_window), theirs, strict=True):
            for how in HOWS:
                name = f"{join.__name__}_{how}"
                flow = join(world.read("orders"), world.read("bills"), how)
                report = flow.write(name).stream(until="end", batch_events=7)
                assert report.late == 0
                ours = [row for row in world.events(name) if row["k"] != "end"]
                assert emitted(ours) == emitted(rows_of_join(how, full)), name
