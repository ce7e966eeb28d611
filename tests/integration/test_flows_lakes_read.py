"""Tables of a lake as sources of flows: a version as a batch, and commit after commit as a stream."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.flows_kit import STEPS, StopAfter, crash_each
from tests.lakes_kit import KINDS, Lake, lake


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return lake(request.param, tmp_path)


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        yield world


def numbers(first: int, count: int) -> pa.Table:
    found = range(first, first + count)
    keys = pa.array(["abc"[n % 3] for n in found], pa.string())
    return pa.table({"k": keys, "n": pa.array(found, pa.int64())})


def stream(world: LocalWorld, place: Lake, *, batch_events: int = 4, **options: Any) -> RunReport:
    flow = world.flows.read(place.declared("t", **options)).write("out")
    return flow.stream(until="end", batch_events=batch_events)


def seen(world: LocalWorld) -> list[int]:
    return [row["n"] for row in world.events("out")]


def typed() -> pa.Table:
    columns = {
        "i": pa.array([1, -(2**63), None], pa.int64()),
        "f": pa.array([1.5, None, -0.25]),
        "t": pa.array(["a", "it's", None]),
        "b": pa.array([True, False, None]),
        "y": pa.array([b"\x00x", None, b""]),
        "d": pa.array([date(2026, 1, 1), None, date(1969, 7, 20)]),
        "w": pa.array([at(0), None, datetime(1969, 7, 20, 20, 17, 40, 5, tzinfo=UTC)]),
        "c": pa.array([Decimal("12.34"), None, Decimal("-0.01")], pa.decimal128(12, 2)),
        "l": pa.array([[1, None], None, []], pa.list_(pa.int64())),
        "m": pa.array([[("x", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        "s": pa.array([{"a": 1, "z": ["x"]}, None, {"a": None, "z": None}]),
    }
    table = pa.table(columns)
    kinds = {"w": pa.timestamp("us", "UTC")}
    return table.cast(pa.schema([(f.name, kinds.get(f.name, f.type)) for f in table.schema]))


@pytest.mark.parametrize("as_stream", [False, True])
def test_every_type_is_written_and_read_back(
    world: LocalWorld, place: Lake, as_stream: bool
) -> None:
    if as_stream:
        world.topic("typed", typed().schema)
        world.append("typed", typed().to_pylist())
        world.read("typed").write(place.declared("every")).stream(until="end")
    else:
        world.table(typed()).write(place.declared("every")).run()
    flow = world.flows.read(place.declared("every"))
    assert flow.schema == typed().schema
    assert in_order(flow.collect().to_pylist()) == in_order(typed().to_pylist())
    assert in_order(place.rows("every")) == in_order(typed().to_pylist())


def test_types_of_a_table_become_those_of_flows(world: LocalWorld, place: Lake) -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    columns = {
        "small": pa.array([7, None], pa.int32()),
        "real": pa.array([0.5, None], pa.float32()),
        "local": pa.array([moment.replace(tzinfo=None), None], pa.timestamp("us")),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "tags": pa.array([["a"], None], pa.list_(pa.string())),
        "pairs": pa.array([{"x": 1}, None], pa.struct([("x", pa.int64())])),
    }
    place.make("t", pa.table(columns))
    flow = world.flows.read(place.declared("t"))
    assert flow.schema.field("small").type == pa.int64()
    assert flow.schema.field("local").type == pa.timestamp("us", "UTC")
    [row, nulls] = flow.collect().to_pylist()
    assert row["small"] == 7
    assert row["local"] == moment
    assert (row["price"], row["tags"], row["pairs"]) == (Decimal("1.50"), ["a"], {"x": 1})
    assert set(nulls.values()) == {None}
    flow.write("out").stream(until="end")
    assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())


def test_a_batch_reads_only_the_files_and_columns_it_asks_for(
    world: LocalWorld, place: Lake
) -> None:
    place.make("t", numbers(0, 9), partition_by="k")
    flow = world.flows.read(place.declared("t"))
    assert flow.collect().num_rows == 9
    for path in place.files("t"):
        if path.parent.name != "k=a":
            # The footer stays, so rows can be counted; what a read of the rows would need is gone.
            data = bytearray(path.read_bytes())
            footer = 8 + int.from_bytes(data[-8:-4], "little")
            data[4:-footer] = bytes(len(data) - footer - 4)
            path.write_bytes(data)
    chosen = flow.filter(col("k") == "a").select("n").collect()
    assert sorted(chosen["n"].to_pylist()) == [0, 3, 6]
    with pytest.raises(StepError):
        flow.select("n").collect()


def test_a_batch_reads_a_version_or_a_time(world: LocalWorld, place: Lake) -> None:
    place.make("t", numbers(0, 2))
    place.make("t", numbers(2, 3))
    first, second = place.versions("t")[-2:]
    assert world.flows.read(place.declared("t")).collect().num_rows == 5
    assert world.flows.read(place.declared("t", version=first)).collect().num_rows == 2
    times = {version: place.at_ms("t", version) for version in (first, second)}
    if times[first] < times[second]:
        when = datetime.fromtimestamp(times[first] / 1000, UTC)
        assert world.flows.read(place.declared("t", timestamp=when)).collect().num_rows == 2
    with pytest.raises(PlanError):
        world.flows.read(place.declared("t", timestamp=datetime(2020, 1, 1, tzinfo=UTC)))
    with pytest.raises(PlanError):
        world.flows.read(place.declared("t", version=987654))
    pinned = world.flows.read(place.declared("t", version=first))
    with pytest.raises(PlanError, match="does not grow"):
        pinned.write("out").stream(until="end")


def test_a_stream_reads_what_is_there_and_then_each_commit(world: LocalWorld, place: Lake) -> None:
    place.make("t", numbers(0, 10), partition_by="k")
    assert stream(world, place).rows_in == 10
    assert stream(world, place).rows_in == 0
    place.make("t", numbers(10, 5))
    place.make("t", numbers(15, 1))
    assert stream(world, place).rows_in == 6
    assert sorted(seen(world)) == list(range(16))


def test_a_stream_without_an_end_sees_new_commits(world: LocalWorld, place: Lake) -> None:
    place.make("t", numbers(0, 3))
    stop = StopAfter(4)

    def progress(done: Any) -> None:
        stop.progress(done)
        if done.rows_done == 3:
            place.make("t", numbers(3, 4))

    flow = world.flows.read(place.declared("t")).write("out")
    flow.stream(stop=stop, progress=progress, batch_events=2)
    assert sorted(seen(world)) == list(range(7))


def test_an_empty_table_is_followed_from_its_first_commit(world: LocalWorld, place: Lake) -> None:
    place.make("t", numbers(0, 0))
    assert stream(world, place).rows_in == 0
    place.make("t", numbers(0, 3))
    stream(world, place)
    assert sorted(seen(world)) == [0, 1, 2]


def test_a_commit_that_removes_rows_ends_the_stream_or_is_skipped(
    world: LocalWorld, place: Lake
) -> None:
    place.make("t", numbers(0, 3))
    stream(world, place)
    place.make("t", numbers(3, 3))
    place.delete("t", "n = 1" if place.kind == "delta" else "n == 1")
    place.make("t", numbers(6, 3))
    for _ in range(2):
        with pytest.raises(StepError, match=r"changes rows that were there.*on_change=\"skip\""):
            stream(world, place, batch_events=100)
        assert sorted(seen(world)) == list(range(6))
    stream(world, place, on_change="skip")
    assert sorted(seen(world)) == list(range(9))


def test_a_compaction_passes_by(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("delta", tmp_path)
    for n in range(4):
        place.make("t", numbers(n, 1))
    stream(world, place)
    place.make("t", numbers(4, 1))
    deltalake.DeltaTable(tmp_path / "delta/t").optimize.compact()
    place.make("t", numbers(5, 1))
    stream(world, place)
    assert sorted(seen(world)) == list(range(6))
    assert len(place.files("t")) == 2


def test_partitions_of_any_text_come_back(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("delta", tmp_path)
    moment = pa.array([at(0.5)] * 3, pa.timestamp("us", "UTC"))
    rows = pa.table(
        {"k": ["a b/c%", "ü:", None], "w": moment, "b": [True, False, None], "n": range(3)}
    )
    place.make("t", rows.slice(0, 0), partition_by=["k", "w", "b"])
    stream(world, place)
    place.make("t", rows)
    stream(world, place)
    assert in_order(world.events("out")) == in_order(rows.to_pylist())


def test_a_column_that_is_new_is_left_alone_and_one_that_changed_is_refused(
    world: LocalWorld, tmp_path: Path
) -> None:
    place = lake("delta", tmp_path)
    place.make("t", numbers(0, 2))
    flow = world.flows.read(place.declared("t"))
    more = numbers(2, 2).append_column("extra", pa.array(["x", "y"]))
    place.make("t", more, schema_mode="merge")
    assert flow.collect().num_rows == 4
    flow.write("out").stream(until="end")
    assert sorted(seen(world)) == [0, 1, 2, 3]
    other = pa.table({"k": ["a"], "n": ["text"]})
    deltalake.write_deltalake(
        tmp_path / "delta/t", other, mode="overwrite", schema_mode="overwrite"
    )
    with pytest.raises(StepError, match="column 'n' is String now"):
        flow.collect()


def test_a_table_that_was_made_again_is_refused(
    world: LocalWorld, tmp_path: Path, place: Lake
) -> None:
    place.make("t", numbers(0, 2))
    stream(world, place)
    if place.kind == "delta":
        shutil.rmtree(tmp_path / "delta/t")
    else:
        with place.catalog() as catalog:  # type: ignore[attr-defined]
            catalog.drop_table("db.t")
    place.make("t", numbers(0, 2))
    with pytest.raises(PlanError, match="deleted and made again"):
        stream(world, place)
    world.flows.read(place.declared("t")).write("out").reset()
    assert stream(world, place).rows_in == 2


def test_what_a_stream_has_missed_is_an_error(world: LocalWorld, tmp_path: Path) -> None:
    tables = lake("delta", tmp_path)
    tables.make("t", numbers(0, 2))
    stream(world, tables)
    tables.make("t", numbers(2, 2))
    tables.make("t", numbers(4, 2))
    deltalake.DeltaTable(tmp_path / "delta/t").create_checkpoint()
    (tmp_path / "delta/t/_delta_log/00000000000000000001.json").unlink()
    with pytest.raises(StepError, match="log of version 1 is gone"):
        stream(world, tables)
    assert sorted(seen(world)) == [0, 1]


def test_a_rollback_is_an_error(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("iceberg", tmp_path)
    place.make("t", numbers(0, 2))
    place.make("t", numbers(2, 2))
    stream(world, place)
    first = place.versions("t")[0]
    with place.table("t") as table, table.manage_snapshots() as snapshots:  # type: ignore[attr-defined]
        snapshots.rollback_to_snapshot(first)
    with pytest.raises(StepError, match="no ancestor"):
        stream(world, place)


def test_a_delta_table_with_masked_rows_is_read_by_batches_only(
    world: LocalWorld, tmp_path: Path
) -> None:
    place = lake("delta", tmp_path)
    place.make("t", numbers(0, 2))
    log = tmp_path / "delta/t/_delta_log/00000000000000000000.json"
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            line["protocol"] = {**protocol, "writerFeatures": features}
    log.write_text("\n".join(map(json.dumps, lines)))
    flow = world.flows.read(place.declared("t"))
    assert flow.collect().num_rows == 2
    with pytest.raises(PlanError, match="a table with deletionVectors"):
        flow.write("out").stream(until="end")


def test_a_table_and_a_topic_are_one_flow(store_path: Path, place: Lake) -> None:
    place.make("t", numbers(0, 10))
    with LocalWorld(store_path) as world:
        world.topic("events", {"k": str, "n": int})
        world.append("events", numbers(100, 10).to_pylist())

    def both(world: LocalWorld) -> Flow:
        return world.read("events").union(world.flows.read(place.declared("t")))

    def run(world: LocalWorld) -> RunReport:
        return both(world).write("out").stream(until="end", batch_events=3)

    crash_each(store_path, [("flow.applied", 2), ("flow.committed", 3)], run)
    place.make("t", numbers(10, 3))
    with LocalWorld(store_path) as world:
        world.append("events", numbers(110, 3).to_pylist())
        run(world)
        assert sorted(seen(world)) == [*range(13), *range(100, 113)]
        assert in_order(both(world).collect().to_pylist()) == in_order(world.events("out"))


def test_windows_over_a_table_are_those_of_a_batch(store_path: Path, place: Lake) -> None:
    rows = [{"k": "ab"[i % 2], "at": at(i), "n": i} for i in range(40)]
    schema = pa.schema({"k": pa.string(), "at": pa.timestamp("us", "UTC"), "n": pa.int64()})
    table = pa.Table.from_pylist(rows, schema)
    for first in (0, 25, 32):
        place.make("t", table[first : {0: 25, 25: 32, 32: 40}[first]])

    def windowed(world: LocalWorld) -> Flow:
        flow = world.flows.read(place.declared("t"))
        return flow.window(tumbling("10m"), on="at", late="1h").group_by("k").agg(n=agg.sum("n"))

    def run(world: LocalWorld) -> RunReport:
        return windowed(world).write("sums").stream(until="end", batch_events=6)

    crash_each(store_path, [("flow.applied", 2), ("flow.committed", 2), ("flow.closing", 1)], run)
    with LocalWorld(store_path) as world:
        assert run(world).late == 0
        assert in_order(world.events("sums")) == in_order(windowed(world).collect().to_pylist())


def test_a_table_that_is_missing_or_declared_for_writing_is_refused(
    world: LocalWorld, place: Lake
) -> None:
    with pytest.raises(PlanError, match="there is no"):
        world.flows.read(place.declared("nowhere"))
    place.make("t", numbers(0, 1))
    for options in ({"mode": "overwrite"}, {"partition_by": "k"}, {"run": "x"}):
        with pytest.raises(PlanError, match="declared for writing"):
            world.flows.read(place.declared("t", **options))
    with pytest.raises(PlanError, match="columns already"):
        world.flows.read(place.declared("t"), schema={"n": int})
    place.make("u", numbers(0, 1))
    flow = world.flows.read(place.declared("t"))
    others = (place.declared("u"), place.declared("t", on_change="skip"))
    for other in others:
        with pytest.raises(PlanError, match="files for one of them only"):
            flow.union(world.flows.read(other)).write("o").stream(until="end")


def test_a_missing_library_says_what_to_install(
    world: LocalWorld, place: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "deltalake" if place.kind == "delta" else "pyiceberg"
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'millstream\[{place.kind}\]'"):
        world.flows.read(place.declared("out"))


def test_a_file_that_is_gone_is_an_error_and_its_rows_come_when_it_is_back(
    world: LocalWorld, tmp_path: Path, place: Lake
) -> None:
    place.make("t", numbers(0, 2))
    flow: Flow = world.flows.read(place.declared("t")).write("out")
    [path] = place.files("t")
    path.rename(tmp_path / "away")
    with pytest.raises(StepError, match="the table failed"):
        flow.stream(until="end")
    (tmp_path / "away").rename(path)
    assert flow.stream(until="end").rows_in == 2


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    turns=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(1, 7),
            st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 3)), max_size=1),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_any_commits_any_cut_and_any_crash_give_each_row_once_in_order(
    kind: str, turns: list[tuple[int, int, list[tuple[str, int]]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, place = Path(folder) / "s.mill", lake(kind, Path(folder))
        rows = 0
        for added, batch_events, crashes in turns:
            place.make("t", numbers(rows, added))
            rows += added
            crash_each(path, crashes, lambda w, n=batch_events: stream(w, place, batch_events=n))
        with LocalWorld(path) as world:
            stream(world, place)
            found = seen(world)
            # Files of Delta have the time of their commit in milliseconds only.
            assert (found if kind == "iceberg" else sorted(found)) == list(range(rows))
            batch = world.flows.read(place.declared("t")).collect()
            assert sorted(batch["n"].to_pylist()) == sorted(found)
