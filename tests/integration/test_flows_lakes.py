"""Tables of a lake as sinks of flows, by the real libraries: Delta Lake in a folder, Iceberg in a catalog of SQLite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import load_catalog

from millstream.engines.local import flow_delivery, flow_iceberg
from millstream.engines.local.flow_lake import Note
from millstream.engines.local.flow_lakes import opened
from millstream.flows import aggregate as agg
from millstream.flows.expression import col, lit
from millstream.flows.flow import Flow
from millstream.flows.lakes import delta, iceberg
from millstream.flows.report import RunReport
from millstream.flows.sql import sql_table
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.flows_kit import STEPS, Crash, crash_at, crash_each
from tests.integration import flows_crash
from tests.lakes_kit import KINDS, Lake, lake

ROOT = Path(__file__).parents[2]
SCHEMA = flows_crash.SCHEMA
LAKE_STEPS = ("flow.lake_staged", "flow.lake_committed")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return lake(request.param, tmp_path)


@pytest.fixture
def world(store_path: Path) -> Any:
    with LocalWorld(store_path) as world:
        fill(world)
        yield world


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=2)
    world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(30)])


def counted(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("5m"), on="at", late="30m").group_by("k")
    return windowed.agg(n=agg.sum("n")).select("k", "n")


def test_a_batch_appends_replaces_or_refuses(world: LocalWorld, place: Lake) -> None:
    flow = world.read("events")
    for mode, rows in (("error", 30), ("append", 60), ("overwrite", 30), ("append", 60)):
        assert flow.write(place.declared("out", mode=mode)).run().rows_out == 30
        assert len(place.rows("out")) == rows
    with pytest.raises(PlanError, match="there is a table already"):
        flow.write(place.declared("out", mode="error")).run()
    empty = flow.filter(lit(False))
    assert empty.write(place.declared("out", mode="overwrite")).run().rows_out == 0
    assert place.rows("out") == []
    assert empty.write(place.declared("new")).run().rows_out == 0
    assert place.rows("new") == []


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_table_is_partitioned(world: LocalWorld, place: Lake, as_stream: bool) -> None:
    flow = world.read("events").write(place.declared("out", partition_by=["k"]))
    for _ in range(2):
        flow.named("again").stream(until="end", batch_events=11) if as_stream else flow.run()
    assert place.partitions("out") == ["k"]
    assert all(path.parent.name in ("k=a", "k=b", "k=c") for path in place.files("out"))
    expected = world.read("events").collect().to_pylist() * (1 if as_stream else 2)
    assert in_order(place.rows("out")) == in_order(expected)
    with pytest.raises(PlanError, match="partitioned by k"):
        world.read("events").write(place.declared("out", partition_by=["n"])).run()


def test_a_large_batch_is_one_commit(
    world: LocalWorld, place: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_iceberg, "PIECE_BYTES", 1)
    rows = pa.table({"k": ["a", "b"] * 200_000, "n": range(400_000)})
    flow = world.table(rows).filter(lit(True)).write(place.declared("out", partition_by="k"))
    assert flow.run().rows_out == 400_000
    if place.kind == "delta":
        assert len(place.versions("out")) == 1
    assert sum(row["n"] for row in place.rows("out")) == sum(range(400_000))


def test_a_run_with_a_name_is_written_once(
    world: LocalWorld, store_path: Path, place: Lake
) -> None:
    flow = world.read("events")
    first = flow.write(place.declared("out", run="monday"))
    assert [first.run().rows_out, first.run().rows_out] == [30, 0]
    assert flow.write(place.declared("out", run="tuesday")).run().rows_out == 30
    with LocalWorld(store_path.with_name("other.mill")) as other:
        fill(other)
        assert other.read("events").write(place.declared("out", run="monday")).run().rows_out == 30
    assert len(place.rows("out")) == 90


@pytest.mark.parametrize(
    ("kind", "step", "is_there"),
    [
        ("delta", "flow.lake_given", False),
        ("delta", "flow.lake_committed", True),
        ("iceberg", "flow.lake_staged", False),
        ("iceberg", "flow.lake_committed", True),
    ],
)
def test_a_killed_batch_is_there_whole_or_not_at_all_and_its_run_once(
    store_path: Path, tmp_path: Path, kind: str, step: str, is_there: bool
) -> None:
    place = lake(kind, tmp_path)
    killed(store_path, f"lake:{kind}:monday", step, 1)
    assert (columns_of(place) is not None) == is_there
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        flow.write(place.declared("out", run="monday")).run()
        assert in_order(place.rows("out")) == in_order(flow.collect().to_pylist())


def columns_of(place: Lake) -> pa.Schema | None:
    with closing(opened(place.declared("out"))) as table:
        return table.target()


def killed(store_path: Path, what: str, step: str, nth: int) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
    arguments = ["-m", "tests.integration.flows_crash", str(store_path), what, step, str(nth)]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("delta", "flow.committed"),
        ("delta", "flow.lake_committed"),
        ("iceberg", "flow.committed"),
        ("iceberg", "flow.lake_staged"),
        ("iceberg", "flow.lake_committed"),
    ],
)
def test_kill_9_leaves_each_row_once(
    store_path: Path, tmp_path: Path, kind: str, step: str
) -> None:
    place = lake(kind, tmp_path)
    killed(store_path, f"lake:{kind}:", step, 2)
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        flow.write(place.declared("out")).stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        assert in_order(place.rows("out")) == in_order(flow.collect().to_pylist())


@pytest.mark.parametrize("step", ["flow.applied", "flow.committed", *LAKE_STEPS])
def test_a_crash_at_any_step_leaves_each_row_once(store_path: Path, place: Lake, step: str) -> None:
    with LocalWorld(store_path) as world:
        fill(world)

    def stream(world: LocalWorld) -> RunReport:
        sink = place.declared("out", partition_by="k")
        return world.read("events").write(sink).stream(until="end", batch_events=11)

    crash_each(store_path, [(step, 1), (step, 2), (step, 1)], stream)
    with LocalWorld(store_path) as world:
        stream(world)
        expected = in_order(world.read("events").collect().to_pylist())
    assert in_order(place.rows("out")) == expected


@pytest.mark.parametrize("as_stream", [False, True])
def test_what_is_delivered_is_synced(
    world: LocalWorld, place: Lake, as_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    flow = world.read("events").write(place.declared("out", partition_by="k"))
    flow.stream(until="end") if as_stream else flow.run()
    files = place.files("out")
    assert len(files) >= 3
    assert synced >= {folder for path in files for folder in (path, *path.parents[:3])}
    logs = [
        path for path in synced if path.suffix == (".json" if place.kind == "delta" else ".avro")
    ]
    assert logs


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    batch_events=st.integers(4, 30),
    crashes=st.lists(
        st.tuples(st.sampled_from((*STEPS, *LAKE_STEPS)), st.integers(1, 4)), max_size=3
    ),
)
def test_any_cut_and_any_crash_give_what_the_batch_gives(
    kind: str, batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, place = Path(folder) / "s.mill", lake(kind, Path(folder))
        with LocalWorld(path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            sink = place.declared("out")
            return counted(world).write(sink).stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            assert in_order(place.rows("out")) == in_order(counted(world).collect().to_pylist())


def crashed_behind_its_commit(store_path: Path, place: Lake) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at("flow.committed", 1)
        try:
            with pytest.raises(Crash):
                world.read("events").write(place.declared("out")).stream(until="end")
        finally:
            set_listener(None)


def test_a_table_that_is_away_holds_the_flow_up_and_nothing_is_lost(
    store_path: Path, tmp_path: Path, place: Lake
) -> None:
    crashed_behind_its_commit(store_path, place)
    there = tmp_path / ("delta" if place.kind == "delta" else "catalog.db")
    there.rename(tmp_path / "away")
    there.mkdir()  # neither a table nor a database
    (there / "out").write_text("no table")
    with LocalWorld(store_path) as world:
        sink = world.read("events").write(place.declared("out"))
        with pytest.raises(StepError, match="the table failed"):
            sink.stream(until="end")
        (there / "out").unlink()
        there.rmdir()
        (tmp_path / "away").rename(there)
        assert sink.stream(until="end").rows_out == 0
    assert len(place.rows("out")) == 30


def test_a_reset_delivers_what_was_committed_first(store_path: Path, place: Lake) -> None:
    crashed_behind_its_commit(store_path, place)
    with LocalWorld(store_path) as world:
        flow = world.read("events").write(place.declared("out"))
        flow.reset()
        assert len(place.rows("out")) == 30
        flow.stream(until="end")
        assert len(place.rows("out")) == 60


def test_a_flow_does_not_leave_a_table_that_it_owes_rows(
    store_path: Path, tmp_path: Path, place: Lake
) -> None:
    crashed_behind_its_commit(store_path, place)
    database = f"sqlite:///{tmp_path}/user.db"
    with LocalWorld(store_path) as world:
        events = world.read("events").named("out")
        others = ("topic", place.declared("b"), sql_table("b", database, create=True))
        for other in others:
            with pytest.raises(PlanError, match="may not be in"):
                events.write(other).stream(until="end")
        events.write(place.declared("out")).stream(until="end")
    assert len(place.rows("out")) == 30


def test_a_store_that_is_behind_the_table_is_refused(store_path: Path, place: Lake) -> None:
    crashed_behind_its_commit(store_path, place)
    with LocalWorld(store_path) as world:
        [[identity]] = world.store.look("flows/store_identity", ())
        columns = columns_of(place)
        assert columns is not None
        with closing(opened(place.declared("out"))) as table:
            table.append(columns.empty_table(), f"millstream {identity} out", Note(9, 1))
        with pytest.raises(StepError, match="has delivery 9"):
            world.read("events").write(place.declared("out")).stream(until="end")
    assert place.rows("out") == []


def test_writers_side_by_side_add_each_row_once(place: Lake) -> None:
    rows = pa.table({"n": range(10)})
    place.make("out", rows.slice(0, 0))
    failed: list[BaseException] = []
    begin = threading.Barrier(4)

    def write(writer: int) -> None:
        try:
            with closing(opened(place.declared("out"))) as table:
                for number in range(1, 4):
                    begin.wait()
                    # Two threads deliver the same rows under one name, as if one had been thought dead.
                    table.append(rows, f"flow {writer % 2}", Note(number, 7))
        except Exception as error:  # noqa: BLE001 - it is asserted on below
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(place.rows("out")) == 2 * 3 * 10
    with closing(opened(place.declared("out"))) as table:
        assert table.noted("flow 1") == Note(3, 7)


def test_what_does_not_fit_the_table_is_refused(world: LocalWorld, place: Lake) -> None:
    events = world.read("events")
    place.make("there", pa.table({"k": pa.array([1]), "n": pa.array([1])}))
    needs = pa.schema([pa.field("n", pa.int32()), pa.field("id", pa.int64(), nullable=False)])
    place.make("needs", pa.table({"n": [1], "id": [1]}, schema=needs))
    for run in (Flow.run, lambda flow: flow.stream(until="end")):
        with pytest.raises(PlanError, match="column 'k' of the table is int64"):
            run(events.select("k", "n").write(place.declared("there")))
        with pytest.raises(PlanError, match="no column 'at'"):
            run(events.select("n", "at").write(place.declared("there")))
        with pytest.raises(PlanError, match="needs column 'id'"):
            run(events.select("n").write(place.declared("needs")))
    large = world.table(pa.table({"n": [2**40], "id": [1]}))
    with pytest.raises(StepError, match="column 'n' holds a value that is not int32"):
        large.write(place.declared("needs")).run()
    without = world.table(pa.table({"n": [1], "id": pa.array([None], pa.int64())}))
    with pytest.raises(StepError, match="column 'id' is null"):
        without.write(place.declared("needs")).run()
    sink = events.select(id=col("n"), n=lit(2**40)).write(place.declared("needs")).named("big")
    with pytest.raises(StepError, match="column 'n' holds"):
        sink.stream(until="end")
    assert world.store.look("flows/delivery", (1,)) == []
    assert len(place.rows("needs")) == 1
    events.select("n", id=col("n")).write(place.declared("needs")).run()
    events.select(id=col("n")).write(place.declared("needs")).run()
    assert sorted(row["id"] for row in place.rows("needs")) == sorted([1, *range(30), *range(30)])


def test_a_table_with_a_constraint_takes_batches_only(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("delta", tmp_path)
    place.make("checked", pa.table({"n": [1]}))
    deltalake.DeltaTable(tmp_path / "delta/checked").alter.add_constraint({"positive": "n >= 1"})
    flow = world.read("events").select("n").write(place.declared("checked"))
    with pytest.raises(PlanError, match="constraint 'positive'"):
        flow.stream(until="end")
    with pytest.raises(StepError, match="the table failed"):
        flow.run()
    assert len(place.rows("checked")) == 1


def test_a_step_that_fails_leaves_nothing_and_says_so_itself(
    world: LocalWorld, place: Lake
) -> None:
    def half(event: dict[str, Any]) -> dict[str, Any]:
        return {"n": 1 // (event["n"] - 25)}

    flow = world.read("events").map(half, {"n": int}).write(place.declared("out"))
    with pytest.raises(StepError, match="ZeroDivisionError"):
        flow.run()
    assert columns_of(place) is None


def test_a_micro_batch_that_is_too_large_is_refused(
    world: LocalWorld, place: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_delivery, "DELIVERY_BYTES_MAX", 400)
    sink = world.read("events").write(place.declared("out"))
    with pytest.raises(StepError, match=r"at most 400.*smaller batch_events"):
        sink.stream(until="end")
    sink.stream(until="end", batch_events=10)
    assert len(place.rows("out")) == 30


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "upsert"}, "mode='upsert'"),
        ({"on_change": "ignore"}, "on_change='ignore'"),
        ({"version": -1}, "no one version"),
        ({"version": 1, "timestamp": at(0)}, "no one version"),
        ({"timestamp": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 - what is refused
        ({"run": ""}, "name of the run"),
        ({"version": 1}, "is for reading"),
        ({"partition_by": "nope"}, "'nope' is not a column"),
        ({"partition_by": "f"}, "'f' is double"),
        ({"partition_by": ["n", "f", "w"]}, "'f' is double"),
    ],
)
def test_what_cannot_be_is_refused(
    world: LocalWorld, place: Lake, options: dict[str, Any], says: str
) -> None:
    flow = world.table(pa.table({"n": [1], "f": [1.5], "w": ["x"]}))
    with pytest.raises(PlanError, match=says):
        flow.write(place.declared("out", **options))


def test_what_cannot_be_written_is_refused(world: LocalWorld, place: Lake) -> None:
    durations = world.table(pa.table({"took": pa.array([1], pa.duration("us"))}))
    with pytest.raises(PlanError, match="cannot hold column 'took'"):
        durations.write(place.declared("out"))
    events = world.read("events")
    with pytest.raises(PlanError, match="neither a key nor a format"):
        events.write(place.declared("out"), key="k")
    with pytest.raises(PlanError, match="names every column"):
        events.select("k").write(place.declared("out", partition_by="k"))
    for options in ({"mode": "overwrite"}, {"run": "x"}):
        with pytest.raises(PlanError, match="is for a batch"):
            events.write(place.declared("out", **options)).stream(until="end")
    place.make("out", pa.table({"n": [1]}))
    with pytest.raises(PlanError, match="would read what it writes"):
        world.flows.read(place.declared("out")).write(place.declared("out")).stream(until="end")
    if place.kind == "delta":
        url = place.files("out")[0].parent.as_uri()
        with pytest.raises(PlanError, match="would read what it writes"):
            world.flows.read(place.declared("out")).write(delta(url)).stream(until="end")


def test_a_namespace_that_is_missing_is_refused(world: LocalWorld, tmp_path: Path) -> None:
    place = lake("iceberg", tmp_path)
    found = place.declared("out")
    with pytest.raises(PlanError, match="names no namespace"):
        iceberg("out", catalog={})
    nowhere = iceberg("nowhere.out", catalog=dict(found.catalog))
    with pytest.raises(PlanError, match="no such namespace"):
        world.read("events").write(nowhere).run()


def test_a_catalog_is_named_by_the_configuration(
    world: LocalWorld, store_path: Path, tmp_path: Path
) -> None:
    place = lake("iceberg", tmp_path)
    declared = dict(place.declared("out").catalog)
    with load_catalog("shop", **declared) as catalog:
        catalog.create_namespace("db")
    shop = iceberg("db.out", catalog={**declared, "name": "shop"})
    assert world.read("events").write(shop).run().rows_out == 30
    assert columns_of(place) is None  # another name, another table
    named = {f"PYICEBERG_CATALOG__SHOP__{key.upper()}": value for key, value in declared.items()}
    program = (
        "import sys; from pathlib import Path\n"
        "from millstream.flows.lakes import iceberg\n"
        "from millstream.testing.flows_suite import LocalWorld\n"
        "with LocalWorld(Path(sys.argv[1])) as world:\n"
        "    flow = world.flows.read(iceberg('db.out', catalog='shop'))\n"
        "    print(flow.plan.source.text(), flow.collect().num_rows)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store_path.with_name("other.mill"))],
        cwd=ROOT,
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Iceberg table 'db.out' of catalog 'shop' 30\n", done.stderr


def test_passwords_are_not_shown(world: LocalWorld) -> None:
    secret = {
        "type": "sql",
        "uri": "postgresql://ann:secret@db/x",
        "s3.secret-access-key": "secret",
    }
    found = [
        iceberg("db.t", catalog=secret),
        delta("s3://ann:secret@bucket/t", storage={"AWS_SECRET_ACCESS_KEY": "secret"}),
    ]
    for declared in found:
        flow = world.read("events").write(declared)
        assert "secret" not in flow.explain()
        assert "secret" not in declared.text()
