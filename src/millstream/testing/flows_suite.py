"""What every engine of flows must do: one suite, run on the engine that a fixture gives.

    class TestMyEngine(FlowsSuite):
        @pytest.fixture
        def world(self, tmp_path):
            with MyWorld(tmp_path) as world:
                yield world

Each rule of ``docs/concepts/flows.md`` is a test here. ``LocalWorld`` is the embedded engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest

from millstream.engines.local.flows import LocalFlows
from millstream.engines.local.log import LocalLog
from millstream.flows import aggregate as agg
from millstream.flows.expression import Expression, col, lit, when
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.log.definition import topic_spec
from millstream.primitives.errors import StepError
from millstream.primitives.schema import SchemaLike, Timestamp
from millstream.store import Store

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
Row = Mapping[str, Any]


def at(minutes: float) -> datetime:
    """Return a time so many minutes after the beginning of 2026."""
    return EPOCH + timedelta(minutes=minutes)


class FlowWorld(Protocol):
    """Topics and flows of one engine, empty at first."""

    def topic(self, name: str, schema: SchemaLike, *, key: str | None, partitions: int) -> None:
        """Make a topic."""

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Append events in one go."""

    def read(self, name: str) -> Flow:
        """Return a flow of a topic."""

    def table(self, table: object) -> Flow:
        """Return a flow of a table in memory."""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return all events of a topic."""


class LocalWorld:
    """The embedded engine in a directory. A context manager; may be closed and opened again."""

    def __init__(self, path: Path, *, durability: str = "process") -> None:
        """Open, or make, the store at ``path``."""
        self.store = Store.open(path, durability=durability)
        self.log = LocalLog(self.store)
        self.flows = LocalFlows(self.log)

    def __enter__(self) -> LocalWorld:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.log.close()
        self.store.close()

    def topic(
        self, name: str, schema: SchemaLike, *, key: str | None = None, partitions: int = 1
    ) -> None:
        """Make a topic."""
        spec = topic_spec(
            name,
            schema=schema,
            key=key,
            partitions=partitions,
            retention=None,
            retention_bytes=None,
            compaction=False,
        )
        self.log.create_topic(spec)

    def append(self, name: str, rows: Sequence[Row], *, partition: int | None = None) -> None:
        """Append events in one go, to one partition if it is given."""
        self.log.append(self.log.topic(name), list(rows), partition=partition)

    def read(self, name: str) -> Flow:
        """Return a flow of a topic."""
        return self.flows.read_topic(name)

    def table(self, table: object) -> Flow:
        """Return a flow of a table in memory."""
        return self.flows.read(table)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return all events of a topic, partition after partition."""
        info = self.log.topic(name)
        rows: list[dict[str, Any]] = []
        for partition, (offset, end) in enumerate(self.log.ends(info)):
            while offset < end:
                batch = self.log.read(info, partition, offset)
                if batch is None:
                    break
                rows += batch.to_pylist()
                offset = batch.next_offset
        return rows


def in_order(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return rows as sorted tuples, so that results can be compared whatever their order; NaN equals NaN."""
    cells = [
        tuple("nan" if isinstance(v, float) and math.isnan(v) else v for v in row.values())
        for row in rows
    ]
    return sorted(cells, key=lambda row: tuple((v is not None, str(v)) for v in row))


class FlowsSuite:
    """The rules of flows. A subclass gives the fixture ``world``."""

    def compute(
        self, world: FlowWorld, table: pa.Table, **columns: Expression
    ) -> list[dict[str, Any]]:
        """Return the computed columns of a table."""
        rows: list[dict[str, Any]] = world.table(table).select(**columns).collect().to_pylist()
        return rows

    def value(
        self, world: FlowWorld, values: Sequence[Any], kind: pa.DataType, **columns: Expression
    ) -> list[Any]:
        """Return one computed column over a table with the column x."""
        rows = self.compute(world, pa.table({"x": pa.array(values, kind)}), **columns)
        return [next(iter(row.values())) for row in rows]

    # Arithmetic.

    def test_integers_of_any_width_are_64_bits(self, world: FlowWorld) -> None:
        """300 does not fit in 8 bits, and need not."""
        assert self.value(world, [100, None], pa.int8(), y=col("x") * 3) == [300, None]

    @pytest.mark.parametrize(
        "expression",
        [col("x") + 1, col("x") * 2, -(0 - col("x") - 2), abs(0 - col("x") - 1 - lit(1))],
        ids=["add", "multiply", "negate", "abs"],
    )
    def test_an_integer_beyond_64_bits_is_an_error(
        self, world: FlowWorld, expression: Expression
    ) -> None:
        """It never wraps around."""
        with pytest.raises(StepError, match="64 bits"):
            self.value(world, [2**63 - 1], pa.int64(), y=expression)

    def test_integers_up_to_the_last_one_are_exact(self, world: FlowWorld) -> None:
        """The check is not a float's."""
        assert self.value(world, [2**63 - 2], pa.int64(), y=col("x") + 1) == [2**63 - 1]
        assert self.value(world, [-(2**62)], pa.int64(), y=col("x") * 2) == [-(2**63)]

    def test_a_division_by_zero_is_null(self, world: FlowWorld) -> None:
        """For /, // and %, of integers and floats."""
        for zero in (0, 0.0):
            for y in (col("x") / zero, col("x") // zero, col("x") % zero):
                assert self.value(world, [1, 0, None], pa.int64(), y=y) == [None, None, None]
                assert self.value(world, [1.5, 0.0], pa.float64(), y=y) == [None, None]

    @pytest.mark.parametrize("x", [-7, 7, -6, 0])
    @pytest.mark.parametrize("divisor", [3, -3, 2.5, -2.5, 0.1])
    def test_floor_division_and_modulo_are_pythons(
        self, world: FlowWorld, x: int, divisor: float
    ) -> None:
        """They round down, and the remainder has the sign of the divisor."""
        for kind in (pa.int64(), pa.float64()):
            assert self.value(world, [x], kind, y=col("x") // divisor) == [x // divisor]
            assert self.value(world, [x], kind, y=col("x") % divisor) == [x % divisor]

    def test_nan_is_the_greatest_number(self, world: FlowWorld) -> None:
        """Also greater than infinity, and equal to itself."""
        values = [1.0, math.inf, math.nan, None]
        y = col("x") >= lit(math.nan)
        assert self.value(world, values, pa.float64(), y=y) == [False, False, True, None]
        assert self.value(world, values, pa.float64(), y=col("x") == col("x")) == [
            True, True, True, None,
        ]  # fmt: skip

    def test_booleans_have_three_values(self, world: FlowWorld) -> None:
        """False & null is false; true | null is true."""
        values = [True, False, None]
        null = lit(None).cast(bool)
        assert self.value(world, values, pa.bool_(), y=col("x") & null) == [None, False, None]
        assert self.value(world, values, pa.bool_(), y=col("x") | null) == [True, None, None]
        assert self.value(world, values, pa.bool_(), y=~col("x")) == [False, True, None]

    def test_a_branch_not_taken_cannot_fail(self, world: FlowWorld) -> None:
        """Nor can a row that an earlier filter has dropped."""
        small = when(col("x") < 10).then(col("x") * col("x")).otherwise(-1)
        assert self.value(world, [3, 2**62], pa.int64(), y=small) == [9, -1]
        table = pa.table({"x": [3, 2**62]})
        kept = world.table(table).filter(col("x") < 10).filter(col("x") * col("x") > 0).collect()
        assert kept.to_pylist() == [{"x": 3}]

    def test_timestamps_are_utc_microseconds(self, world: FlowWorld) -> None:
        """Nanoseconds are cut, a time without a zone is taken as UTC."""
        table = pa.table(
            {
                "ns": pa.array([1_999], pa.timestamp("ns", "UTC")),
                "naive": pa.array([1], pa.timestamp("s")),
            }
        )
        flow = world.table(table)
        assert flow.schema.types == [pa.timestamp("us", "UTC")] * 2
        [row] = (
            flow.select(ns=col("ns").cast(int), naive=col("naive").cast(int)).collect().to_pylist()
        )
        assert row == {"ns": 1, "naive": 1_000_000}

    def test_parts_of_a_time(self, world: FlowWorld) -> None:
        """In UTC; Monday is 1."""
        time = col("x").dt
        [row] = self.compute(
            world,
            pa.table({"x": pa.array([datetime(2026, 11, 23, 23, 59, tzinfo=UTC)])}),
            year=time.year(),
            month=time.month(),
            day=time.day(),
            hour=time.hour(),
            weekday=time.weekday(),
            hourly=time.truncate("1h"),
        )
        assert list(row.values()) == [
            2026, 11, 23, 23, 1, datetime(2026, 11, 23, 23, tzinfo=UTC),
        ]  # fmt: skip

    def test_text(self, world: FlowWorld) -> None:
        """Characters, not bytes; no pattern characters."""
        [row] = self.compute(
            world,
            pa.table({"x": ["Größe.*"]}),
            lower=col("x").str.lower(),
            upper=col("x").str.upper(),
            length=col("x").str.length(),
            star=col("x").str.contains(".*"),
            dots=col("x").str.contains("G..."),
            starts=col("x").str.starts_with("Gr"),
        )
        assert list(row.values()) == ["größe.*", "GRÖSSE.*", 7, True, False, True]

    def test_two_texts_are_put_together(self, world: FlowWorld) -> None:
        """With + as in Python; null with anything is null."""
        assert self.value(world, ["a", "", None], pa.string(), y=col("x") + "é" + col("x")) == [
            "aéa", "é", None,
        ]  # fmt: skip

    def test_like_is_that_of_sql(self, world: FlowWorld) -> None:
        """All of the text, % any characters and _ any one, line ends among them; case counts; a backslash is itself."""
        values = ["a.c", "abc", "ABC", "a\nc", "xabc", "a%", "a\\%", "é", "", None]
        for pattern, escape, expected in [
            ("a_c", None, ["a.c", "abc", "a\nc"]),
            ("a%", None, ["a.c", "abc", "a\nc", "a%", "a\\%"]),
            ("%bc", None, ["abc", "xabc"]),
            ("a!%", "!", ["a%"]),
            ("a\\%", None, ["a\\%"]),
            ("a.c", None, ["a.c"]),
            ("_", None, ["é"]),
            ("", None, [""]),
        ]:
            y = col("x").str.like(pattern, escape=escape)
            found = self.value(world, values, pa.string(), y=y)
            assert found == [None if v is None else v in expected for v in values], pattern

    # Groups and joins.

    def test_a_null_key_is_a_group(self, world: FlowWorld) -> None:
        """One group for all nulls."""
        table = pa.table({"k": ["a", None, None], "x": [1, 2, 3]})
        rows = world.table(table).group_by("k").agg(s=agg.sum("x")).collect().to_pylist()
        assert rows == [{"k": None, "s": 5}, {"k": "a", "s": 1}]

    def test_a_null_key_joins_nothing(self, world: FlowWorld) -> None:
        """Not even another null."""
        left = pa.table({"k": ["a", None]})
        right = pa.table({"k": ["a", None], "v": [1, 2]})
        flow = world.table(left)
        assert flow.join(right, on="k").collect().to_pylist() == [
            {"k": "a", "v": 1},
            {"k": None, "v": None},
        ]
        assert flow.join(right, on="k", how="inner").collect().to_pylist() == [{"k": "a", "v": 1}]

    def test_aggregates_of_nothing(self, world: FlowWorld) -> None:
        """Null, except counts."""
        table = pa.table({"x": pa.array([], pa.int64())})
        flow = world.table(table).agg(
            n=agg.count(), nx=agg.count("x"), u=agg.n_unique("x"), s=agg.sum("x"), m=agg.mean("x"),
            q=agg.quantile("x", 0.5), lo=agg.min("x"), v=agg.var("x"), f=agg.first("x", by="x"),
        )  # fmt: skip
        [row] = flow.collect().to_pylist()
        assert list(row.values()) == [0, 0, 0, None, None, None, None, None, None]

    def test_a_sum_beyond_64_bits_is_an_error_and_a_mean_is_not(self, world: FlowWorld) -> None:
        """Sums are exact inside: one that comes back is right."""
        table = pa.table({"x": [2**63 - 1, 2**63 - 1, -(2**63)]})
        [row] = world.table(table).agg(s=agg.sum("x"), m=agg.mean("x")).collect().to_pylist()
        assert row["s"] == 2**63 - 2
        with pytest.raises(StepError, match="64 bits"):
            world.table(table).filter(col("x") > 0).agg(s=agg.sum("x")).collect()
        [row] = world.table(table).filter(col("x") > 0).agg(m=agg.mean("x")).collect().to_pylist()
        assert row["m"] == float(2**63 - 1)

    # Streams.

    def fill(self, world: FlowWorld, *, partitions: int = 1) -> Flow:
        """Make a topic with disorder, nulls and NaN; return a flow with every aggregate."""
        schema = {"k": str | None, "n": int | None, "f": float | None, "at": Timestamp | None}
        world.topic("events", schema, key="k", partitions=partitions)
        rows = [
            {
                "k": [None, "a", "b", "c"][i % 4],
                "n": None if i % 5 == 0 else (i * 37) % 100,
                "f": math.nan if i == 41 else float(i % 13) / 4,
                "at": at(i + (i * 7919) % 45),
            }
            for i in range(200)
        ]
        for start in range(0, len(rows), 17):
            world.append("events", rows[start : start + 17])
        return (
            world.read("events")
            .filter((col("n") != 7) | col("n").is_null())
            .with_columns(twice=col("n") * 2)
            .window(tumbling("1h"), on="at", late="45m")
            .group_by("k")
            .agg(
                rows=agg.count(),
                n=agg.count("n"),
                total=agg.sum("twice"),
                part=agg.sum("f"),
                mean=agg.mean("n"),
                low=agg.min("n"),
                high=agg.max("f"),
                u=agg.n_unique("n"),
                q=agg.quantile("n", 0.9),
                first=agg.first("n", by="at"),
                last=agg.last("n", by="at"),
            )
        )

    @pytest.mark.parametrize("batch_events", [1, 7, 50, 1000])
    @pytest.mark.parametrize("partitions", [1, 3])
    def test_a_stream_gives_what_the_batch_gives(
        self, world: FlowWorld, partitions: int, batch_events: int
    ) -> None:
        """Row for row, however it is cut."""
        flow = self.fill(world, partitions=partitions)
        report = flow.write("streamed").stream(until="end", batch_events=batch_events)
        assert report.late == 0
        assert in_order(world.events("streamed")) == in_order(flow.collect().to_pylist())

    def test_a_batch_into_a_topic_gives_what_it_collects(self, world: FlowWorld) -> None:
        """The topic has the rows of the table."""
        flow = self.fill(world)
        report = flow.write("out").run()
        assert report.rows_in == 200
        assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())
        assert {phase: h.count for phase, h in report.delays.items()} == {
            "source_wait": 200, "start_wait": 200, "process": 200, "publish": 200,
        }  # fmt: skip

    def test_a_late_event_is_counted_and_kept(self, world: FlowWorld) -> None:
        """A stream gives up a window when event time has passed its end by the lateness.

            minute   0        60       120
                     |  first |  second |
            events   10 ........ 75 ................ 50 comes now: the first window closed at 60 + 10
        """  # fmt: skip
        world.topic("events", {"at": Timestamp, "n": int}, key=None, partitions=1)
        world.append("events", [{"at": at(m), "n": m} for m in (10, 75, 50)])
        windowed = world.read("events").window(tumbling("1h"), on="at", late="10m", keep_late=True)
        report = windowed.agg(n=agg.sum("n")).write("out").stream(until="end", batch_events=1)
        assert (report.late, report.rows_out) == (1, 2)
        assert [row["n"] for row in world.events("out")] == [10, 75]
        assert world.events("out.late") == [{"at": at(50), "n": 50}]

    def test_an_event_without_a_time_is_counted(self, world: FlowWorld) -> None:
        """It belongs to no window, in a batch as in a stream."""
        world.topic("events", {"at": Timestamp | None, "n": int}, key=None, partitions=1)
        world.append("events", [{"at": at(1), "n": 1}, {"at": None, "n": 2}])
        windowed = world.read("events").window(tumbling("1h"), on="at", keep_late=True)
        flow = windowed.agg(n=agg.sum("n"))
        assert flow.write("out").stream(until="end").untimed == 1
        assert flow.write("batch").run().untimed == 1
        assert [row["n"] for row in world.events("out")] == [1]
        assert [row["n"] for row in world.events("batch")] == [1]
        assert world.events("out.late") == [{"at": None, "n": 2}]

    def test_windows_align_to_the_epoch_also_before_it(self, world: FlowWorld) -> None:
        """One second before 1970 lies in the hour before 1970."""
        times = [datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
        table = pa.table({"at": pa.array(times, pa.timestamp("us", "UTC"))})
        rows = world.table(table).window(tumbling("1h"), on="at").agg(n=agg.count()).collect()
        assert [row["window_start"] for row in rows.to_pylist()] == [
            datetime(1969, 12, 31, 23, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ]

    def test_a_stream_without_windows_passes_events_through(self, world: FlowWorld) -> None:
        """Each once; a second stream goes on where the first ended."""
        world.topic("events", {"n": int}, key=None, partitions=1)
        world.append("events", [{"n": n} for n in range(10)])
        flow = world.read("events").filter(col("n") % 2 == 0).select(m=col("n") * 10).write("out")
        assert flow.stream(until="end", batch_events=3).rows_out == 5
        world.append("events", [{"n": 10}])
        assert flow.stream(until="end").rows_in == 1
        assert [row["m"] for row in world.events("out")] == [0, 20, 40, 60, 80, 100]
