"""A batch with a limit of memory: the same rows, in less memory; what it leaves on disk goes away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millstream.engines.local import flow_memory
from millstream.engines.local.flow_memory import SPILL_FOLDER, memory_limit
from millstream.flows import aggregate as agg
from millstream.primitives.errors import ConfigurationError, PlanError
from millstream.primitives.telemetry import set_listener
from millstream.store import segment
from millstream.testing.flows_suite import LocalWorld, in_order
from tests.refusals import refused

ROWS = 6_000_000
LIMIT = "64MiB"
PROGRAM = Path(__file__).with_name("memory_program.py")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return files of so many rows, nearly each of which is a group of its own."""
    folder = tmp_path_factory.mktemp("numbers")
    for part in range(4):
        n = pl.int_range(part, ROWS, 4, eager=True)
        pl.DataFrame({"k": (n * 7919) % ROWS, "v": n}).write_parquet(folder / f"{part}.parquet")
    return folder


def ran(folder: Path, numbers: Path, what: str, sink: str, memory: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), str(folder), str(numbers), what, sink, memory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
@pytest.mark.parametrize(
    ("what", "sink"), [("group", "file"), ("sort", "file"), ("group", "topic"), ("filter", "topic")]
)
def test_the_same_rows_in_less_memory(tmp_path: Path, numbers: Path, what: str, sink: str) -> None:
    free = ran(tmp_path / "free", numbers, what, sink, "")
    limited = ran(tmp_path / "limited", numbers, what, sink, LIMIT)
    assert limited["rows"] == free["rows"] == ROWS
    assert limited["sums"] == free["sums"]
    # What was held beside the libraries themselves.
    assert limited["held_mib"] < 0.75 * free["held_mib"], (limited, free)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
@pytest.mark.parametrize(("what", "sink"), [("fit", "file"), ("fit only", "")])
def test_rows_that_are_learned_need_not_fit(
    tmp_path: Path, numbers: Path, what: str, sink: str
) -> None:
    """The rows with what was said of them are 140 MiB; what they took beside that was 700 before."""
    told = ran(tmp_path / "free", numbers, what, sink, "")
    assert (told["rows"], told["learned"]) == (ROWS, [ROWS])
    assert told["held_mib"] < 250, told


def test_a_limit_changes_no_row(store_path: Path) -> None:
    rows = [{"k": n % 7 or None, "v": n} for n in range(1000)]
    with LocalWorld(store_path) as world:
        world.topic("in", {"k": int | None, "v": int})
        world.append("in", rows)
        flow = world.read("in").group_by("k").agg(n=agg.count(), total=agg.sum("v"))
        expected = in_order(flow.collect().to_pylist())
        flow.write("grouped").run(memory="16MiB")
        assert in_order(world.events("grouped")) == expected
        world.read("in").sort("v", descending=True).write("sorted").run(memory="16MiB")
        assert [row["v"] for row in world.events("sorted")] == [*range(999, -1, -1)]
        report = world.read("in").run(memory="16MiB")
        assert report.table is not None
        assert report.table.num_rows == 1000
        with memory_limit(2**25, world.store) as folder:
            assert folder is not None
            # Polars keeps its folder as long as the process lives; no rows are left in it.
            assert [path.name for path in folder.rglob("*") if path.is_file()] == []


def test_what_a_dead_process_left_is_removed(store_path: Path) -> None:
    with LocalWorld(store_path) as world:
        left = store_path / SPILL_FOLDER / "a process that is dead"
        (left / "1").mkdir(parents=True)
        (left / "1" / "spill.ipc").write_bytes(b"rows")
        with memory_limit(2**25, world.store) as folder:
            assert folder is not None
            assert folder.exists()
            assert not left.exists()


def test_of_several_limits_the_least_counts(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    def load(text: str) -> None:
        told.append(json.loads(text)["environment"]["POLARS_OOC_MEMORY_BUDGET_MB"])

    monkeypatch.setattr(flow_memory.pl.Config, "load", load)
    with LocalWorld(store_path) as world:
        with memory_limit(2**30, world.store), memory_limit(2**28, world.store):
            pass
        with memory_limit(None, world.store) as folder:
            assert folder is None
    assert told == ["1024", "256", "1024", None]


def test_what_is_no_limit_is_refused(store_path: Path) -> None:
    with LocalWorld(store_path) as world:
        world.topic("in", {"v": int})
        with refused(PlanError, "memory='1MB'", "at least 16MiB"):
            world.read("in").run(memory="1MB")
        with refused(ConfigurationError, "'much'", somewhere=False):
            world.read("in").run(memory="much")


def test_what_lies_in_several_segments_is_committed_as_one(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments that are full before the commit have no frame yet, and are not taken for dead."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 2_000_000)
    monkeypatch.setattr(flow_memory, "_TABLE_ROWS", 50_000)
    rows = 600_000
    with LocalWorld(store_path, durability="disk") as world:
        table = pl.DataFrame({"v": pl.int_range(rows, eager=True)}).to_arrow()
        swept = 0

        def sweep(step: str) -> None:
            nonlocal swept
            if step == "append.segment_made":
                world.log.upkeep.sweep()
                swept += 1

        set_listener(sweep)
        try:
            world.table(table).write("out").run(memory="64MiB")
        finally:
            set_listener(None)
        assert swept > 2
        total = world.read("out").agg(n=agg.count(), v=agg.sum("v")).collect().to_pylist()
        assert total == [{"n": rows, "v": rows * (rows - 1) // 2}]
        world.log.upkeep.sweep()
        assert world.read("out").agg(n=agg.count()).collect()["n"].to_pylist() == [rows]
