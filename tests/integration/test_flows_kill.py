"""kill -9 at every named step of a flow, then start again: as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from millstream.testing.flows_suite import LocalWorld, in_order
from tests.integration import flows_crash

ROOT = Path(__file__).parents[2]


def run_until_killed(store: Path, what: str, step: str, nth: int) -> None:
    arguments = ["-m", "tests.integration.flows_crash", str(store), what, step, str(nth)]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def filled(store: Path) -> None:
    with LocalWorld(store, durability="process") as world:
        flows_crash.fill(world)


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.claimed", 1),
        ("flow.read", 1),
        ("flow.read", 3),
        ("flow.computed", 2),
        ("flow.staged", 1),
        ("flow.staged", 4),
        ("flow.applied", 1),
        ("flow.applied", 5),
        ("flow.committed", 1),
        ("flow.committed", 3),
        ("flow.closing", 1),
        ("flow.applied", 7),
        ("flow.committed", 7),
    ],
)
def test_a_killed_stream_goes_on_as_if_nothing_had_happened(
    store_path: Path, step: str, nth: int
) -> None:
    filled(store_path)
    run_until_killed(store_path, "stream", step, nth)
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        flow.write("out").stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())
        assert world.events("out.late") == []


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.computed", 3),
        ("flow.applied", 2),
        ("flow.committed", 4),
        ("flow.closing", 1),
        ("flow.committed", 7),
    ],
)
def test_a_killed_function_remembers_what_was_committed(
    store_path: Path, step: str, nth: int
) -> None:
    filled(store_path)
    run_until_killed(store_path, "process", step, nth)
    with LocalWorld(store_path) as world:
        flow = flows_crash.remembered(world)
        flow.write("out").stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.file_written", 1),
        ("flow.file_written", 3),
        ("flow.applied", 5),
        ("flow.committed", 5),
        ("flow.file_renamed", 1),
        ("flow.file_renamed", 3),
    ],
)
def test_a_killed_stream_of_files_leaves_each_row_once(
    store_path: Path, tmp_path: Path, step: str, nth: int
) -> None:
    filled(store_path)
    out = tmp_path / "out"
    run_until_killed(store_path, f"{out}/", step, nth)
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        flow.write(f"{out}/").stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        rows = [row for path in out.glob("[!.]*") for row in pl.read_parquet(path).to_dicts()]
        assert in_order(rows) == in_order(flow.collect().to_pylist())


@pytest.mark.parametrize("step", ["flow.batch_computed", "flow.staged", "commit.before"])
def test_a_killed_batch_leaves_nothing_in_the_topic(store_path: Path, step: str) -> None:
    filled(store_path)
    # The first commit of the run makes the output topic; the second holds the output.
    run_until_killed(store_path, "batch", step, 2 if step == "commit.before" else 1)
    with LocalWorld(store_path) as world:
        assert world.events("out") == []
        flow = flows_crash.flow(world)
        flow.write("out").run()
        assert in_order(world.events("out")) == in_order(flow.collect().to_pylist())


def test_a_batch_killed_after_its_commit_is_there_once(store_path: Path) -> None:
    filled(store_path)
    run_until_killed(store_path, "batch", "flow.batch_committed", 1)
    with LocalWorld(store_path) as world:
        assert in_order(world.events("out")) == in_order(
            flows_crash.flow(world).collect().to_pylist()
        )


@pytest.mark.parametrize(
    ("step", "is_there"), [("flow.file_written", False), ("flow.file_renamed", True)]
)
def test_a_killed_batch_leaves_a_whole_file_or_none(
    store_path: Path, tmp_path: Path, step: str, is_there: bool
) -> None:
    filled(store_path)
    target = tmp_path / "out.parquet"
    run_until_killed(store_path, str(target), step, 1)
    assert target.exists() is is_there
    with LocalWorld(store_path) as world:
        expected = flows_crash.flow(world).collect()
        flows_crash.flow(world).write(target).run()
    assert in_order(pl.read_parquet(target).to_dicts()) == in_order(expected.to_pylist())
