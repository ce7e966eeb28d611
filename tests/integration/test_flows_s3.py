"""Files in a store of objects, over S3: what a reader sees that knows nothing of us, at any moment and after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import s3fs

from millstream.flows.flow import Flow
from millstream.primitives.errors import StepError
from millstream.testing.flows_suite import LocalWorld, in_order
from tests import s3
from tests.integration import flows_crash

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    with s3.server() as options:
        yield options


@pytest.fixture
def url() -> str:
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        flows_crash.fill(world)
        yield world


def seen(url: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of all objects, as another program reads them."""
    files = s3fs.S3FileSystem(**options, use_listings_cache=False)
    rows = []
    for path in files.find(url):
        with files.open(path, "rb") as file:
            rows += pl.read_parquet(file.read()).to_dicts()
    return rows


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl", "arrow"])
def test_what_a_batch_writes_it_reads(
    world: LocalWorld, options: dict[str, Any], url: str, file_format: str
) -> None:
    flow = world.read("events")
    target = f"{url}/day=1/out.{file_format}"
    for _ in range(2):
        flow.write(target, storage_options=options).run()
    pattern = f"{url}/*/*.{file_format}"
    read = world.flows.read(pattern, schema=flows_crash.SCHEMA, storage_options=options)
    assert in_order(read.collect().to_pylist()) == in_order(flow.collect().to_pylist())
    found = world.flows.read(f"{url}/day=1/", storage_options=options)
    assert found.collect().num_rows == 240


def test_a_folder_is_streamed(world: LocalWorld, options: dict[str, Any], url: str) -> None:
    # One of its own, as another process has: what it writes is not in the lists that were read here.
    files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    flow = world.flows.read(f"{url}/*.csv", schema={"n": int}, storage_options=options)
    stream = flow.named("landing").write("out")
    for number in range(3):
        files.pipe_file(f"{url}/{number}.csv", f"n\n{number}\n{number + 10}\n".encode())
        assert stream.stream(until="end", batch_events=1).rows_in == 2
    assert sorted(row["n"] for row in world.events("out")) == [0, 1, 2, 10, 11, 12]


def out(world: LocalWorld, url: str, options: dict[str, Any]) -> Flow:
    return flows_crash.flow(world).write(f"{url}/", storage_options=options)


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.file_written", 2),
        ("flow.committed", 5),
        ("flow.file_sent", 2),
    ],
)
def test_kill_9_leaves_each_row_once(
    store_path: Path, options: dict[str, Any], url: str, step: str, nth: int
) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
        batch = in_order(flows_crash.flow(world).collect().to_pylist())
    killed(store_path, f"{url}/", options, step, nth)
    before = in_order(seen(url, options))
    assert set(before) <= set(batch)
    assert len(set(before)) == len(before)
    with LocalWorld(store_path) as world:
        out(world, url, options).stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        assert in_order(seen(url, options)) == batch
        assert not [path for path in (store_path / "outgoing").rglob("*") if path.is_file()]


def killed(store_path: Path, url: str, options: dict[str, Any], step: str, nth: int) -> None:
    arguments = [str(store_path), url, json.dumps(options), step, str(nth)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.s3_crash", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("step", "is_there"), [("flow.file_written", False), ("flow.file_sent", True)]
)
def test_a_killed_batch_leaves_a_whole_file_or_none(
    store_path: Path, options: dict[str, Any], url: str, step: str, is_there: bool
) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
    killed(store_path, f"{url}/out.parquet", options, step, 1)
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        batch = in_order(flow.collect().to_pylist())
        assert in_order(seen(url, options)) == (batch if is_there else [])
        flow.write(f"{url}/out.parquet", storage_options=options).run()
        assert in_order(seen(url, options)) == batch


def test_a_bucket_that_is_not_there_holds_the_flow_up_and_nothing_is_lost(
    world: LocalWorld, options: dict[str, Any]
) -> None:
    bucket = f"late-{uuid.uuid4().hex}"
    flow = world.read("events").named("late")
    sink = flow.write(f"s3://{bucket}/out/", storage_options=options)
    for _ in range(2):
        with pytest.raises(StepError, match="the file system failed"):
            sink.stream(until="end")
    files = s3fs.S3FileSystem(**options)
    assert not files.exists(bucket), "a wrong name must not make a bucket"
    files.mkdir(bucket)
    assert sink.stream(until="end").rows_out == 0
    assert len(seen(f"s3://{bucket}/out", options)) == 240


def test_a_server_that_is_away_is_a_clear_error(world: LocalWorld) -> None:
    away = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    away["config_kwargs"] = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
    with pytest.raises(StepError, match="the file system failed"):
        world.flows.read("s3://shop/a.parquet", storage_options=away)
