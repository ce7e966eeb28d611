"""Streams of files: each row once, whatever kills the stream; files that come later are picked up."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local.flow_file_intake import SETTLED_US, FileIntake, FileMark
from millstream.engines.local.flow_sources import file_source
from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import Timestamp, datetime_us
from millstream.testing.clock import VirtualClock
from millstream.testing.flows_suite import EPOCH, LocalWorld, at, in_order
from millstream.testing.log_suite import options
from tests.flows_kit import STEPS, crash_each

SCHEMA = {"k": str, "n": int, "at": Timestamp}
WRITE = {
    "parquet": pl.DataFrame.write_parquet,
    "csv": pl.DataFrame.write_csv,
    "jsonl": pl.DataFrame.write_ndjson,
    "arrow": pl.DataFrame.write_ipc,
}


def put(folder: Path, name: str, *numbers: int, age_s: float = 60) -> Path:
    """Write a file elsewhere and rename it into place; it was last changed so long ago."""
    folder.mkdir(exist_ok=True)
    frame = pl.DataFrame(
        {"k": ["abc"[n % 3] for n in numbers], "n": numbers, "at": [at(n) for n in numbers]},
        schema={"k": pl.String, "n": pl.Int64, "at": pl.Datetime("us", "UTC")},
    )
    path = folder / name
    aside = folder.parent / f"aside-{name}"
    WRITE[path.suffix.lstrip(".")](frame, aside)
    then = (EPOCH - timedelta(seconds=age_s)).timestamp()
    os.utime(aside, (then, then))
    aside.rename(path)
    return path


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        yield world


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    return tmp_path / "landing"


def read(world: LocalWorld, folder: Path) -> Flow:
    return world.flows.read(str(folder))


def numbers(world: LocalWorld) -> list[int]:
    return sorted(row["n"] for row in world.events("out"))


@pytest.mark.parametrize("file_format", WRITE)
def test_each_format_is_read_as_a_batch_reads_it(
    world: LocalWorld, landing: Path, file_format: str
) -> None:
    put(landing, f"a.{file_format}", 1, 2, 3)
    put(landing, f"b.{file_format}", 4, 5)
    flow = world.flows.read(str(landing), file_format=file_format, schema=SCHEMA)
    report = flow.write("out").stream(until="end", batch_events=2)
    assert report.rows_in == 5
    assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())
    assert world.events("out")[0]["at"] == at(1)


def test_a_second_run_reads_only_what_is_new(world: LocalWorld, landing: Path) -> None:
    put(landing, "a.csv", 1, 2)
    flow = read(world, landing).write("out")
    assert flow.stream(until="end").rows_in == 2
    put(landing, "b.csv", 3)
    assert flow.stream(until="end").rows_in == 1
    assert flow.stream(until="end").rows_in == 0
    assert numbers(world) == [1, 2, 3]
    flow.reset()
    assert flow.stream(until="end").rows_in == 3


def test_files_that_come_are_picked_up(world: LocalWorld, landing: Path) -> None:
    put(landing, "a.parquet", 1)
    flow = read(world, landing).select("n").write("out")
    stop = threading.Event()
    world.topic("out", {"n": int})
    with world.log.consumer(world.log.topic("out"), "test", options(follow=True)) as consumer:
        thread = threading.Thread(target=flow.stream, kwargs={"stop": stop})
        thread.start()
        batches = iter(consumer)
        assert [row["n"] for row in next(batches).to_pylist()] == [1]
        put(landing, "b.parquet", 2)
        assert [row["n"] for row in next(batches).to_pylist()] == [2]
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_with_a_schema_no_file_need_be_there(world: LocalWorld, landing: Path) -> None:
    landing.mkdir()
    flow = world.flows.read(f"{landing}/*.csv", schema=SCHEMA).write("out")
    assert flow.stream(until="end").rows_in == 0
    put(landing, "a.csv", 7)
    assert flow.stream(until="end").rows_in == 1
    assert world.events("out")[0]["at"] == at(7)


def test_a_file_without_rows_is_done_at_once(world: LocalWorld, landing: Path) -> None:
    put(landing, "a.parquet")
    put(landing, "b.parquet", 1)
    flow = read(world, landing).write("out")
    assert flow.stream(until="end").rows_in == 1
    assert flow.stream(until="end").batches == 0


@settings(max_examples=60)
@given(
    files=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    batch_events=st.integers(1, 20),
    crashes=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=4),
)
def test_any_crash_reads_each_row_once(
    files: list[int], batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, landing = Path(folder) / "s.mill", Path(folder) / "landing"
        first = 0
        for number, rows in enumerate(files):
            put(landing, f"{number}.parquet", *range(first, first + rows), age_s=60 - number)
            first += rows

        def flow(world: LocalWorld) -> Flow:
            windowed = read(world, landing).window(tumbling("4m"), on="at").group_by("k")
            return windowed.agg(n=agg.sum("n"), rows=agg.count())

        def stream(world: LocalWorld) -> RunReport:
            return flow(world).write("out").stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            report = stream(world)
            assert report.late == 0
            assert in_order(world.events("out")) == in_order(flow(world).collect().to_pylist())


# ---- which files are taken ----------------------------------------------------------------------


def intake(landing: Path, *, bounded: bool, marks: dict[str, FileMark] | None = None) -> FileIntake:
    clock = VirtualClock(datetime_us(EPOCH))
    source = file_source(f"{landing}/*", file_format="csv", schema=SCHEMA)
    return FileIntake(source, marks or {}, bounded=bounded, takes_unsettled=bounded, clock=clock)


def taken(files: FileIntake, rows: int = 100) -> list[int]:
    return [n for batch in files.take(rows, files.ends()) for n in batch.frame["n"].to_list()]


def test_an_open_stream_waits_until_a_file_was_left_alone(landing: Path) -> None:
    put(landing, "old.csv", 1, age_s=SETTLED_US / 1e6)
    put(landing, "young.csv", 2, age_s=SETTLED_US / 1e6 - 0.1)
    assert taken(intake(landing, bounded=False)) == [1]
    assert taken(intake(landing, bounded=True)) == [1, 2]


def test_names_of_files_on_their_way_are_passed_over(landing: Path) -> None:
    put(landing, "a.csv", 1)
    for name in (".b.csv", "_c.csv"):
        put(landing, name, 2)
    (landing / "d.csv.partial").write_text("n\n3\n")
    (landing / "e.csv.tmp").write_text("n\n4\n")
    assert taken(intake(landing, bounded=True)) == [1]


@pytest.mark.parametrize("pattern", ["", "/*.parquet", "/_b.parquet"])
def test_a_batch_passes_over_the_names_that_a_stream_does(
    world: LocalWorld, landing: Path, pattern: str
) -> None:
    for number, name in enumerate(["a", "_b", ".c"]):
        put(landing, f"{name}.parquet", number)
    flow = world.flows.read(f"{landing}{pattern}")
    batch = flow.collect()["n"].to_pylist()
    assert batch == ([1] if pattern == "/_b.parquet" else [0])
    flow.write("out").stream(until="end")
    assert numbers(world) == batch


def test_files_are_read_in_the_order_of_their_change(landing: Path) -> None:
    put(landing, "a.csv", 3, age_s=10)
    put(landing, "b.csv", 1, age_s=30)
    put(landing, "c.csv", 2, age_s=20)
    assert taken(intake(landing, bounded=True)) == [1, 2, 3]


def test_a_file_that_changed_while_it_was_read_is_refused(landing: Path) -> None:
    path = put(landing, "a.csv", 1, 2, 3)
    first = intake(landing, bounded=True)
    assert taken(first, 2) == [1, 2]
    path.write_text(path.read_text() + "a,4,2026-01-01T00:04:00Z\n")
    with pytest.raises(StepError, match="changed since"):
        taken(intake(landing, bounded=True, marks=first.changed))
    path.unlink()
    assert taken(intake(landing, bounded=True, marks=first.changed)) == []


def test_what_is_no_file_of_its_kind_is_named(world: LocalWorld, landing: Path) -> None:
    put(landing, "a.parquet", 1)
    flow = read(world, landing).write("out")
    (landing / "b.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(StepError, match=r"cannot be read.*b\.parquet"):
        flow.stream(until="end")
    (landing / "b.parquet").unlink()
    flow.stream(until="end")
    assert numbers(world) == [1]


def test_a_value_of_another_type_is_named(world: LocalWorld, landing: Path) -> None:
    landing.mkdir()
    (landing / "a.csv").write_text("n\n1\nmany\n")
    with pytest.raises(StepError, match=r"a\.csv|many"):
        world.flows.read(f"{landing}/*.csv", schema={"n": int}).write("out").stream(until="end")


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (
            lambda w, d: w.flows.read(str(d)).write(f"{d}/").stream(until="end"),
            "read what it writes",
        ),
        (
            lambda w, d: w.flows.read(f"{d}/*.csv").write(f"{d}/").stream(until="end"),
            "read what it",
        ),
        (lambda w, d: w.table([{"n": 1}]).write("out").stream(until="end"), "does not grow"),
        (lambda w, d: w.flows.read(f"{d}/*.xml", schema=SCHEMA), "is not known"),
        (lambda w, d: w.flows.read(pa.table({"n": [1]}), schema=SCHEMA), "has its columns already"),
        (lambda w, d: w.flows.read(f"{d}/none-*.csv", schema=SCHEMA).collect(), "no file matches"),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, landing: Path, plan: Any, says: str) -> None:
    put(landing, "a.csv", 1)
    with pytest.raises(PlanError, match=says):
        plan(world, landing)
