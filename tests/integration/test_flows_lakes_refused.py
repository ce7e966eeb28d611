"""Tables that a library reads and cannot write are refused when a run starts; a run that lost a race wrote nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import deltalake
import pyarrow as pa
import pytest

from millstream.flows.lakes import LakeTable
from millstream.primitives.errors import MillstreamError, PlanError
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld
from tests.lakes_kit import KINDS, lake
from tests.refusals import refused

ROWS = pa.table({"n": [1]})


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as found:
        found.topic("events", {"n": int})
        found.append("events", [{"n": n} for n in range(30)])
        yield found


def feature(name: str) -> Callable[[Path], None]:
    """Return what changes a Delta table so that writers need a feature."""

    def change(folder: Path) -> None:
        protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": [name]}
        add_version(folder, {"protocol": protocol})

    return change


def mapped(folder: Path) -> None:
    """Give the columns names that differ from those in the files."""
    first = (folder / "_delta_log" / f"{0:020d}.json").read_text().splitlines()
    changed = next(json.loads(line) for line in first if "metaData" in line)
    schema = json.loads(changed["metaData"]["schemaString"])
    names = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
    schema["fields"][0]["metadata"] = names
    changed["metaData"]["schemaString"] = json.dumps(schema)
    changed["metaData"]["configuration"] = {
        "delta.columnMapping.mode": "name",
        "delta.columnMapping.maxColumnId": "1",
    }
    add_version(folder, changed, {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}})


def add_version(folder: Path, *actions: dict[str, Any]) -> None:
    text = "".join(json.dumps(action) + "\n" for action in actions)
    (folder / "_delta_log" / f"{1:020d}.json").write_text(text)


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (feature("rowTracking"), "RowTracking"),
        (feature("identityColumns"), "IdentityColumns"),
        (feature("a feature of tomorrow"), "a feature of tomorrow"),
        (mapped, "delta.columnMapping.mode=name"),
    ],
)
def test_a_delta_table_that_cannot_be_written(
    world: LocalWorld, tmp_path: Path, change: Callable[[Path], None], saying: str, as_stream: bool
) -> None:
    place = lake("delta", tmp_path)
    place.make("t", ROWS)
    change(tmp_path / "delta" / "t")
    flow = world.read("events").write(place.declared("t"))
    files = sorted((tmp_path / "delta" / "t").rglob("*"))
    with refused(PlanError, "the library cannot write a table", saying, "Delta table"):
        flow.stream(until="end") if as_stream else flow.run()
    # Nothing was committed: another sink takes all rows.
    assert sorted((tmp_path / "delta" / "t").rglob("*")) == files
    other = world.read("events").write(place.declared("other")).named(flow.name)
    assert other.stream(until="end").rows_out == 30


def test_the_look_adds_no_version(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("delta", tmp_path)
    place.make("t", ROWS)
    deltalake.DeltaTable(tmp_path / "delta" / "t").alter.add_feature(
        deltalake.TableFeatures.AppendOnly, allow_protocol_versions_increase=True
    )
    world.read("events").write(place.declared("t")).stream(until="end")
    assert place.versions("t") == [0, 1, 2]
    assert len(place.rows("t")) == 31


@pytest.mark.parametrize("as_stream", [False, True])
def test_an_iceberg_table_that_cannot_be_written(
    world: LocalWorld, tmp_path: Path, as_stream: bool
) -> None:
    place = lake("iceberg", tmp_path)
    place.make("t", ROWS)
    [newest] = [metadata_of(place.declared("t"))]
    told = json.loads(newest.read_text())
    newest.write_text(json.dumps({**told, "format-version": 3, "next-row-id": 0}))
    flow = world.read("events").write(place.declared("t"))
    with refused(PlanError, "the library cannot write a table of format version 3"):
        flow.stream(until="end") if as_stream else flow.run()
    other = world.read("events").write(place.declared("other")).named(flow.name)
    assert other.stream(until="end").rows_out == 30


def metadata_of(table: LakeTable) -> Path:
    from pyiceberg.catalog import load_catalog

    properties = dict(table.catalog)
    catalog = load_catalog(properties.pop("name", "default"), **properties)
    try:
        return Path(urlsplit(catalog.load_table(table.table).metadata_location).path)
    finally:
        catalog.close()


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_lost_a_race_wrote_nothing(
    world: LocalWorld, tmp_path: Path, kind: str, exists: bool
) -> None:
    place = lake(kind, tmp_path)
    if exists:
        place.make("t", ROWS)
    flow = world.read("events").write(place.declared("t", run="monday"))
    winner: list[int] = []
    with overtaking(kind, lambda: winner.append(flow.run().rows_out)):
        loser = flow.run()
    assert (winner, loser.rows_out) == ([30], 0)
    assert len(place.rows("t")) == 30 + exists


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_runs_that_make_a_table_one_says_that_it_failed(
    world: LocalWorld, tmp_path: Path, kind: str
) -> None:
    place = lake(kind, tmp_path)
    first, second = (
        world.read("events").write(place.declared("t", run=run, mode="error"))
        for run in ("monday", "tuesday")
    )
    with overtaking(kind, first.run), pytest.raises(MillstreamError, match=r"made|exists"):
        second.run()
    assert len(place.rows("t")) == 30


@contextmanager
def overtaking(kind: str, other: Callable[[], object]) -> Iterator[None]:
    """Run another one from start to end while the first is about to commit."""

    def overtake(step: str) -> None:
        if step == {"delta": "flow.lake_given", "iceberg": "flow.lake_staged"}[kind]:
            set_listener(None)
            # The libraries call us from threads in which they cannot be called.
            thread = Thread(target=other)
            thread.start()
            thread.join()

    set_listener(overtake)
    try:
        yield
    finally:
        set_listener(None)
