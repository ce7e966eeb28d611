"""What a shared stream writes besides topics is there once, whatever crashes; it has the late rows of a whole one."""

from __future__ import annotations

import gc
from datetime import timedelta
from pathlib import Path

import apsw
import polars as pl
import pytest

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.sql import sql_table
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import crash_each

SCHEMA = {"k": str, "n": int, "at": Timestamp}
ROWS = [
    {"k": "abcdefgh"[at % 8], "n": at, "at": EPOCH + timedelta(seconds=20 * at)} for at in range(96)
]


def by_key(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("3m"), on="at")
    return windowed.group_by("k").agg(rows=agg.count(), total=agg.sum("n"))


def filled(path: Path) -> None:
    with LocalWorld(path) as world:
        world.topic("events", SCHEMA, key="k", partitions=4)
        world.append("events", ROWS)


def crashed(path: Path, target: object, crashes: list[tuple[str, int]]) -> None:
    """Stream shared, crash each time, and then to the end."""

    def stream(world: LocalWorld) -> object:
        flow = by_key(world).write(target).named("shared")  # type: ignore[arg-type]
        return flow.stream(until="end", shared=True, batch_events=8)

    for crash in crashes:
        crash_each(path, [crash], stream)
        gc.collect()  # a process that is gone has no connection open, nor a transaction in it
    with LocalWorld(path) as world:
        stream(world)


@pytest.mark.parametrize("step", ["flow.file_written", "flow.committed", "flow.file_renamed"])
def test_files_of_a_shared_stream_hold_each_row_once(
    store_path: Path, tmp_path: Path, step: str
) -> None:
    filled(store_path)
    out = tmp_path / "out"
    crashed(store_path, f"{out}/", [(step, 1), (step, 3), (step, 6)])
    rows = [row for path in out.glob("[!.]*") for row in pl.read_parquet(path).to_dicts()]
    with LocalWorld(store_path) as world:
        assert in_order(rows) == in_order(by_key(world).collect().to_pylist())


@pytest.mark.parametrize("step", ["flow.sql_written", "flow.committed", "flow.sql_committed"])
def test_a_table_of_a_shared_stream_holds_each_row_once(
    store_path: Path, tmp_path: Path, step: str
) -> None:
    filled(store_path)
    database = tmp_path / "theirs.db"
    table = sql_table("out", f"sqlite:///{database}", create=True)
    crashed(store_path, table, [(step, 1), (step, 3), (step, 6)])
    connection = apsw.Connection(str(database))
    found = [*connection.execute("SELECT k, rows, total FROM out ORDER BY 1, 2, 3")]
    connection.close()
    with LocalWorld(store_path) as world:
        expected = by_key(world).select("k", "rows", "total").collect().to_pylist()
    assert found == sorted((row["k"], row["rows"], row["total"]) for row in expected)


@pytest.mark.parametrize("batch_events", [3, 1000])
def test_late_rows_are_those_of_a_whole_stream(store_path: Path, batch_events: int) -> None:
    """Every fifth event is an hour behind: late, where its partition has gone on by then."""
    #   partition 0   e   e   e   e   e     each by itself:
    #   partition 1     e   L   e   e       an L is an hour back, where its own partition has closed the windows
    rows = [
        {**row, "at": row["at"] - timedelta(hours=1)} if number % 5 == 4 else row
        for number, row in enumerate(ROWS)
    ]
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA, key="k", partitions=4)
        world.append("events", rows)
        windowed = world.read("events").window(tumbling("3m"), on="at", keep_late=True)
        flow = windowed.group_by("k").agg(rows=agg.count(), total=agg.sum("n"))
        late = {}
        for name, shared in (("whole", False), ("shared", True)):
            report = (
                flow.write(name)
                .named(name)
                .stream(until="end", shared=shared, batch_events=batch_events)
            )
            late[name] = in_order(world.events(f"{name}.late"))
            assert report.late == len(late[name]) > 0
        assert late["shared"] == late["whole"]
        assert in_order(world.events("shared")) == in_order(world.events("whole"))
