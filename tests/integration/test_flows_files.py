"""Files that flows write: whole or not at all, from a batch; each row once, from a stream, whatever kills it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.flows_kit import STEPS, Crash, crash_at, crash_each

SCHEMA = {"k": str, "n": int, "at": Timestamp}
READ = {
    "parquet": pl.read_parquet,
    "csv": lambda path: pl.read_csv(path, try_parse_dates=True),
    "jsonl": pl.read_ndjson,
    "arrow": pl.read_ipc,
}
FILE_STEPS = (*STEPS, "flow.file_written", "flow.file_renamed")


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=2)
    world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(30)])


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        fill(world)
        yield world


def windowed(world: LocalWorld) -> Flow:
    counted = world.read("events").window(tumbling("5m"), on="at", late="30m").group_by("k")
    return counted.agg(n=agg.sum("n"))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def rows_in(folder: Path, file_format: str = "parquet") -> list[dict[str, Any]]:
    """Return the rows of all files that a reader would take."""
    return [row for path in files_in(folder) for row in READ[file_format](path).to_dicts()]


@pytest.mark.parametrize("file_format", READ)
def test_a_batch_writes_each_format(world: LocalWorld, tmp_path: Path, file_format: str) -> None:
    path = tmp_path / f"out.{file_format}"
    flow = world.read("events").filter(col("n") < 4).select("k", "n")
    report = flow.write(path).run()
    assert report.rows_out == 4
    assert READ[file_format](path).to_dicts() == flow.collect().to_pylist()
    # What it wrote, it reads.
    assert world.flows.read(str(path)).collect().to_pylist() == flow.collect().to_pylist()


@pytest.mark.parametrize("file_format", READ)
def test_a_stream_adds_a_file_for_each_micro_batch(
    world: LocalWorld, tmp_path: Path, file_format: str
) -> None:
    flow = world.read("events").select("k", "n")
    out = tmp_path / "out"
    sink = flow.write(f"{out}/", file_format=file_format)
    report = sink.stream(until="end", batch_events=10)
    assert len(files_in(out)) == report.batches == 3
    assert in_order(rows_in(out, file_format)) == in_order(flow.collect().to_pylist())
    world.append("events", [{"k": "d", "n": 99, "at": at(99)}])
    assert sink.stream(until="end").rows_out == 1
    assert len(rows_in(out, file_format)) == 31
    assert list(out.glob(".*")) == []


def test_a_micro_batch_without_output_makes_no_file(world: LocalWorld, tmp_path: Path) -> None:
    flow = world.read("events").filter(col("n") < 0).write(f"{tmp_path}/out/")
    assert flow.stream(until="end").batches == 1
    assert not (tmp_path / "out").exists()


@settings(max_examples=60)
@given(
    batch_events=st.integers(1, 20),
    crashes=st.lists(st.tuples(st.sampled_from(FILE_STEPS), st.integers(1, 4)), max_size=4),
)
def test_any_crash_leaves_each_row_once(batch_events: int, crashes: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "s.mill", Path(folder) / "out"
        with LocalWorld(path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            return windowed(world).write(f"{out}/").stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            assert in_order(rows_in(out)) == in_order(windowed(world).collect().to_pylist())


def test_a_file_that_was_committed_is_published_by_whoever_goes_on(
    store_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    crashed_behind_its_commit(store_path, out)
    assert files_in(out) == []
    with LocalWorld(store_path) as world:
        assert world.read("events").write(f"{out}/").stream(until="end").rows_out == 0
    assert len(rows_in(out)) == 30


def test_a_file_that_cannot_be_published_holds_the_flow_up_and_is_not_lost(
    store_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    crashed_behind_its_commit(store_path, out)
    [partial] = out.glob(".*")
    blocked = out / partial.name.split(".partial")[0].split(".parquet")[0].lstrip(".")
    blocked = blocked.with_suffix(".parquet")
    blocked.mkdir()
    with LocalWorld(store_path) as world:
        sink = world.read("events").write(f"{out}/")
        for _ in range(2):  # the flow is not held by the one that failed
            with pytest.raises(StepError, match=r"cannot be written"):
                sink.stream(until="end")
        blocked.rmdir()
        assert sink.stream(until="end").rows_out == 0
    assert len(rows_in(out)) == 30


def test_a_reset_publishes_what_was_committed_first(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    crashed_behind_its_commit(store_path, out)
    with LocalWorld(store_path) as world:
        world.read("events").write(f"{out}/").reset()
    assert len(rows_in(out)) == 30


def crashed_behind_its_commit(store_path: Path, out: Path) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at("flow.committed", 1)
        with pytest.raises(Crash):
            world.read("events").write(f"{out}/").stream(until="end")
        set_listener(None)


def test_a_directory_that_cannot_be_written_ends_the_run_and_loses_nothing(
    world: LocalWorld, tmp_path: Path
) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "out"
        blocked.write_text("a file stands where the directory should be")
    else:
        blocked = tmp_path / "closed" / "out"
        blocked.parent.mkdir(mode=0o500)
    sink = world.read("events").write(f"{blocked}/")
    with pytest.raises(StepError, match=r"cannot be written.*out"):
        sink.stream(until="end")
    blocked.unlink(missing_ok=True)
    if blocked.parent != tmp_path:
        blocked.parent.chmod(0o700)
    assert sink.stream(until="end").rows_out == 30


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda flow: flow.write("out.parquet").stream(until="end"), "would never be finished"),
        (lambda flow: flow.write("out.csv", file_format="parquet"), "cannot be written as"),
        (lambda flow: flow.write("out/", file_format="xml"), "cannot be written as 'xml'"),
        (lambda flow: flow.write("out.csv", partitions=2), "no partitions"),
        (
            lambda flow: flow.group_by("k").agg(all=agg.collect("n")).write("out.csv"),
            "csv cannot hold column 'all'",
        ),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, plan: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan(world.read("events"))


def test_bytes_are_refused_where_a_format_has_none(world: LocalWorld) -> None:
    table = world.table(pa.table({"raw": pa.array([b"x"])}))
    with pytest.raises(PlanError, match="jsonl cannot hold column 'raw'"):
        table.write("out.jsonl")
