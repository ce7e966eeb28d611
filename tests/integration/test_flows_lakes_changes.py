"""Tables of a lake that others change, or misuse, while flows write and follow them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyiceberg.types import LongType

from millstream.flows.expression import col
from millstream.flows.report import Progress
from millstream.primitives.errors import PlanError, StepError
from millstream.testing.flows_suite import LocalWorld
from tests.lakes_kit import KINDS, Lake, lake
from tests.refusals import refused


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return lake(request.param, tmp_path)


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", {"n": int, "x": float})
        world.append("events", [{"n": n, "x": n / 2} for n in range(6)])
        yield world


def add_column(place: Any, name: str) -> None:
    if place.kind == "delta":
        kind = deltalake.schema.PrimitiveType("long")
        place.table(name).alter.add_columns([deltalake.Field("extra", kind)])
        return
    with place.table(name) as table, table.update_schema() as update:
        update.add_column("extra", LongType())


def test_a_column_that_others_add_meanwhile_is_null(world: LocalWorld, place: Lake) -> None:
    def change(progress: Progress) -> None:
        if progress.rows_done == 2:
            add_column(place, "out")

    flow = world.read("events").select("n").write(place.declared("out"))
    flow.stream(until="end", batch_events=2, progress=change)
    found = sorted((row["n"], row["extra"]) for row in place.rows("out"))
    assert found == [(n, None) for n in range(6)]


def test_names_of_runs_and_flows_are_kept_apart(world: LocalWorld, place: Lake) -> None:
    """A table knows each by a text, and no two may share one: a run that seems known is not written."""
    one = world.read("events").limit(1)
    written = [
        one.named(flow).write(place.declared("out", run=run)).run().rows_out
        for flow, run in [("a", "b"), ("a", "b crc"), ("a", "b c"), ("a b", "c"), ("a", 'b", "c')]
    ]
    assert written == [1] * 5
    zero = world.read("events").filter(col("n") == 0)
    for name in ("a", "a b", "a crc"):
        assert zero.named(name).write(place.declared("out")).stream(until="end").rows_out == 1
    assert one.named("a").write(place.declared("out", run="crc")).run().rows_out == 1
    assert len(place.rows("out")) == 9


def test_rows_that_a_restore_brings_back_are_not_read_again(
    world: LocalWorld, tmp_path: Path
) -> None:
    place: Any = lake("delta", tmp_path)
    place.make("t", pa.table({"n": [1, 2]}))
    reading = world.flows.read(place.declared("t", on_change="skip")).write("out")
    strict = world.flows.read(place.declared("t")).named("strict").write("strictly")
    reading.stream(until="end")
    place.table("t").delete()
    strict.stream(until="end")
    place.table("t").restore(0)
    reading.stream(until="end")
    assert [row["n"] for row in world.events("out")] == [1, 2]
    with refused(StepError, "RESTORE brings files back", "flow.reset()"):
        strict.stream(until="end")


@pytest.mark.parametrize("change", ["rename", "drop"])
def test_a_column_that_is_gone_ends_a_stream_that_runs(
    world: LocalWorld, tmp_path: Path, change: str
) -> None:
    """Its rows would be nulls. What was read before stays, and a flow that is built again goes on."""
    place: Any = lake("iceberg", tmp_path)
    place.make("t", pa.table({"k": ["a"], "n": [1]}))

    def alter(progress: Progress) -> None:
        if progress.rows_done == 1:
            with place.table("t") as table:
                with table.update_schema() as update:
                    if change == "rename":
                        update.rename_column("n", "m")
                    else:
                        update.delete_column("n")
                added = {"k": ["b"], "m": [2]} if change == "rename" else {"k": ["b"]}
                table.append(pa.table(added))

    with refused(StepError, "column 'n' is gone", "build the flow again"):
        world.flows.read(place.declared("t")).write("out").stream(progress=alter)
    assert [row["n"] for row in world.events("out")] == [1]


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_number_that_is_too_large_is_refused_and_an_infinite_one_is_not(
    world: LocalWorld, place: Lake, *, as_stream: bool
) -> None:
    place.make("t", pa.table({"x": pa.array([1.5], pa.float32())}))
    world.topic("huge", {"x": float | None})
    world.append("huge", [{"x": float("-inf")}, {"x": None}, {"x": 0.1}, {"x": 1e300}])
    rows = world.read("huge").write(place.declared("t"))
    with refused(StepError, "column 'x' holds a number that is too large for float"):
        rows.stream(until="end") if as_stream else rows.run()
    assert len(place.rows("t")) == 1
    small = world.read("huge").limit(3).write(place.declared("t")).run()
    assert small.rows_out == 3
    assert float("-inf") in [row["x"] for row in place.rows("t")]


def test_a_table_with_an_invariant_takes_no_stream(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("delta", tmp_path)
    place.make("t", pa.table({"n": [1]}))
    log = tmp_path / "delta" / "t" / "_delta_log"
    lines = [json.loads(line) for line in (log / f"{0:020d}.json").read_text().splitlines()]
    changed = next(line for line in lines if "metaData" in line)
    schema = json.loads(changed["metaData"]["schemaString"])
    rule = json.dumps({"expression": {"expression": "n < 5"}})
    schema["fields"][0]["metadata"] = {"delta.invariants": rule}
    changed["metaData"]["schemaString"] = json.dumps(schema)
    protocol = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
    text = "".join(json.dumps(line) + "\n" for line in (changed, protocol))
    (log / f"{1:020d}.json").write_text(text)
    flow = world.read("events").select("n").write(place.declared("t"))
    with refused(PlanError, "constraint 'n delta.invariants'", "filter() the rows"):
        flow.stream(until="end")
    few = world.read("events").select("n").limit(3)
    assert few.write(place.declared("t")).run().rows_out == 3
