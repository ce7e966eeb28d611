"""Files on other file systems, in memory and in archives: read, streamed as they come, and written, each row once."""

from __future__ import annotations

import functools
import io
import sys
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local import flow_fsspec
from millstream.engines.local.flow_file_intake import FileIntake
from millstream.engines.local.flow_sources import file_source
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.windows import tumbling
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import Timestamp, datetime_us
from millstream.primitives.telemetry import set_listener
from millstream.testing.clock import VirtualClock
from millstream.testing.flows_suite import EPOCH, LocalWorld, at, in_order
from tests.flows_kit import STEPS, Crash, crash_at, crash_each

SCHEMA = {"k": str, "n": int, "at": Timestamp}
SENT_STEPS = (*STEPS, "flow.file_written", "flow.file_sent")
FORMATS = ("parquet", "csv", "jsonl", "arrow")
FILES = fsspec.filesystem("memory")


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=2)
    world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(30)])


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        fill(world)
        yield world


@pytest.fixture
def url() -> Iterator[str]:
    url = f"memory://test-{uuid.uuid4().hex}"
    yield url
    if FILES.exists(url):
        FILES.rm(url, recursive=True)


def names(url: str) -> list[str]:
    FILES.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in FILES.ls(url, detail=False))


def put(url: str, rows: list[dict[str, Any]]) -> None:
    """Put a file there whole; it looks as if it had been left alone for an hour."""
    out = io.BytesIO()
    pl.DataFrame(rows).write_csv(out)
    FILES.pipe_file(url, out.getvalue())
    FILES.store[FILES._strip_protocol(url)].created -= timedelta(hours=1)


def outgoing(world: LocalWorld) -> list[Path]:
    return [path for path in (world.store.path / "outgoing").rglob("*") if path.is_file()]


# ---- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_a_batch_writes_it_reads(world: LocalWorld, url: str, file_format: str) -> None:
    flow = world.read("events").select("k", "n", "at").filter(col("n") < 9)
    target = f"{url}/deep/out.{file_format}"
    for _ in range(2):  # the second one replaces the first
        assert flow.write(target).run().rows_out == 9
    assert names(f"{url}/deep") == [f"out.{file_format}"]
    schema = {"k": str, "n": int, "at": Timestamp}
    read = world.flows.read(target, schema=schema)
    assert read.collect().to_pylist() == flow.collect().to_pylist()
    if file_format in ("parquet", "arrow"):
        assert world.flows.read(target).schema == flow.schema


def test_patterns_and_directories(world: LocalWorld, url: str) -> None:
    for number, name in enumerate(("a/1.csv", "a/2.csv", "b/3.csv", "b/_x.txt")):
        put(f"{url}/{name}", [{"n": number}])

    def read(pattern: str) -> list[int]:
        return [row["n"] for row in world.flows.read(f"{url}/{pattern}").collect().to_pylist()]

    assert read("a/") == read("a") == [0, 1]
    assert read("*/[13].csv") == [0, 2]
    assert read("**/*.csv") == [0, 1, 2]
    flow = world.flows.read(f"{url}/a/*.csv").agg(n=agg.sum("n"), rows=agg.count())
    assert flow.collect().to_pylist() == [{"n": 1, "rows": 2}]
    report = world.flows.read(f"{url}/a").filter(col("n") > 0).write("out").run()
    assert (report.rows_in, report.rows_out) == (2, 1)


def test_a_name_with_the_characters_of_patterns_is_that_name(world: LocalWorld, url: str) -> None:
    for number, name in enumerate(("x1.csv", "x[1].csv")):
        put(f"{url}/{name}", [{"n": number}])
    assert world.flows.read(f"{url}/x[1].csv").collect().to_pylist() == [{"n": 1}]
    flow = world.flows.read(f"{url}/x[1].csv").write("brackets")
    assert flow.stream(until="end").rows_in == 1
    assert flow.stream(until="end").rows_in == 0
    assert world.events("brackets") == [{"n": 1}]


def test_a_file_elsewhere_that_cannot_be_read_is_named(world: LocalWorld, url: str) -> None:
    put(f"{url}/a.csv", [{"n": 1}])
    put(f"{url}/b.csv", [{"n": "x"}])
    flow = world.flows.read(f"{url}/*.csv", schema={"n": int})
    for run in (flow.collect, lambda: flow.write("out").stream(until="end")):
        with pytest.raises(StepError) as caught:
            run()
        assert caught.value.where.endswith("/b.csv")
        assert "cannot be read" in str(caught.value)


def test_an_archive_is_read(world: LocalWorld, tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in/a.csv", "n\n1\n2\n")
        archive.writestr("in/b.csv", "n\n3\n")
    for pattern in ("zip://in/*.csv::", "zip://in::"):
        read = world.flows.read(f"{pattern}file://{path}")
        assert read.collect()["n"].to_pylist() == [1, 2, 3]
    stream = world.flows.read(f"zip://in/*.csv::{path}").named("zip").write("out")
    assert stream.stream(until="end", batch_events=2).rows_out == 3
    assert sorted(row["n"] for row in world.events("out")) == [1, 2, 3]


def test_the_web_is_read(world: LocalWorld, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("n\n1\n2\n")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.command)

    serve = functools.partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/in.csv"
            flow = world.flows.read(url)
            assert flow.collect()["n"].to_pylist() == [1, 2]
            assert flow.named("web").write("web").stream(until="end").rows_out == 2
        finally:
            server.shutdown()
            thread.join()
    assert asked.count("GET") <= 6


def test_a_file_url_is_a_path(world: LocalWorld, tmp_path: Path) -> None:
    target = f"file://{tmp_path}/out.parquet"
    world.read("events").write(target).run()
    assert world.flows.read(target).collect().num_rows == 30
    report = world.read("events").write(f"file://{tmp_path}/dir/").stream(until="end")
    assert report.rows_out == 30
    assert len(list((tmp_path / "dir").glob("*.parquet"))) == 1
    assert outgoing(world) == []


def test_a_batch_that_fails_leaves_nothing(world: LocalWorld, url: str) -> None:
    put(f"{url}/old.csv", [{"n": 1}])
    failing = world.read("events").map(lambda row: 1 / (row["n"] - 9), {"n": int})
    with pytest.raises(StepError, match="ZeroDivisionError"):
        failing.write(f"{url}/old.csv").run()
    assert FILES.cat(f"{url}/old.csv") == b"n\n1\n"
    assert names(url) == ["old.csv"]


# ---- streams that write -------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_stream_adds_a_file_for_each_micro_batch(
    world: LocalWorld, url: str, file_format: str
) -> None:
    flow = world.read("events").select("k", "n")
    sink = flow.write(f"{url}/", file_format=file_format)
    assert sink.stream(until="end", batch_events=10).batches == 3
    assert len(names(url)) == 3
    assert rows_at(world, url) == in_order(flow.collect().to_pylist())
    assert outgoing(world) == []
    assert sink.stream(until="end").rows_out == 0


def rows_at(world: LocalWorld, url: str) -> list[tuple[Any, ...]]:
    return in_order(world.flows.read(url).collect().to_pylist())


def windowed(world: LocalWorld) -> Flow:
    counted = world.read("events").window(tumbling("5m"), on="at", late="30m").group_by("k")
    return counted.agg(n=agg.sum("n"))


@settings(max_examples=12)
@given(
    batch_events=st.integers(1, 20),
    crashes=st.lists(st.tuples(st.sampled_from(SENT_STEPS), st.integers(1, 4)), max_size=4),
)
def test_any_crash_leaves_each_row_once(batch_events: int, crashes: list[tuple[str, int]]) -> None:
    url = f"memory://crash-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            return windowed(world).write(f"{url}/").stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            assert rows_at(world, url) == in_order(windowed(world).collect().to_pylist())
            assert outgoing(world) == []
            assert not [name for name in names(url) if name.startswith(".")]
    FILES.rm(url, recursive=True)


@pytest.mark.parametrize("goes_on", ["stream", "reset"])
def test_a_file_that_was_committed_is_sent_by_whoever_goes_on(
    store_path: Path, url: str, goes_on: str
) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at("flow.committed", 1)
        with pytest.raises(Crash):
            world.read("events").write(f"{url}/").stream(until="end")
        set_listener(None)
        assert len(outgoing(world)) == 1
    assert not FILES.exists(url)
    with LocalWorld(store_path) as world:
        flow = world.read("events").write(f"{url}/")
        assert (
            flow.reset() is None if goes_on == "reset" else flow.stream(until="end").rows_out == 0
        )
        assert len(rows_at(world, url)) == 30
        assert outgoing(world) == []


def test_a_file_system_that_fails_holds_the_flow_up_and_nothing_is_lost(
    world: LocalWorld, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = world.read("events").write(f"{url}/")

    def full(_: str, path: str) -> None:
        FILES.pipe_file(path, b"half")
        raise OSError("no room there")

    with monkeypatch.context() as patch:
        patch.setattr(FILES, "put_file", full)
        for _ in range(2):  # the flow is not held by the one that failed
            with pytest.raises(StepError, match="the file system failed: no room there"):
                flow.stream(until="end")
        [half] = names(url)
        assert (half[:1], half[-8:]) == (".", ".partial"), "somebody could take it for data"
    assert flow.stream(until="end").rows_out == 0
    assert len(rows_at(world, url)) == 30
    assert len(names(url)) == 1


def test_a_file_that_arrives_short_is_noticed(
    world: LocalWorld, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = world.read("events").write(f"{url}/out.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(FILES, "put_file", lambda _, path: FILES.pipe_file(path, b"cut"))
        with pytest.raises(StepError, match="the file has 3 bytes there"):
            flow.run()


# ---- streams that read --------------------------------------------------------------------------


@settings(max_examples=10)
@given(
    batch_events=st.integers(1, 9),
    crashes=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=3),
)
def test_files_are_streamed_each_row_once(
    batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    url = f"memory://land-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mill"

        def stream(world: LocalWorld) -> RunReport:
            flow = world.flows.read(f"{url}/*.csv", schema={"n": int}).named("land")
            return flow.write("out").stream(until="end", batch_events=batch_events)

        for number, name in enumerate("abc"):
            put(f"{url}/{name}.csv", [{"n": 5 * number + i} for i in range(5)])
            crash_each(path, crashes[number : number + 1], stream)
        with LocalWorld(path) as world:
            stream(world)
            assert sorted(row["n"] for row in world.events("out")) == list(range(15))
            assert stream(world).rows_in == 0
    FILES.rm(url, recursive=True)


def test_an_open_stream_sees_new_files(world: LocalWorld, url: str) -> None:
    stop, seen = threading.Event(), threading.Event()
    put(f"{url}/a.csv", [{"n": 1}])
    flow = world.flows.read(f"{url}/*.csv", schema={"n": int}).named("open").write("open")
    thread = threading.Thread(
        target=lambda: flow.stream(stop=stop, progress=lambda _: seen.set()), daemon=True
    )
    thread.start()
    try:
        assert seen.wait(30)
        seen.clear()
        put(f"{url}/b.csv", [{"n": 2}])
        assert seen.wait(30)
    finally:
        stop.set()
        thread.join()
    assert sorted(row["n"] for row in world.events("open")) == [1, 2]


def test_files_are_looked_for_once_a_second(url: str) -> None:
    clock = VirtualClock(datetime_us(EPOCH))
    put(f"{url}/a.csv", [{"n": 1}])
    source = file_source(f"{url}/*.csv", schema={"n": int})
    intake = FileIntake(source, {}, bounded=False, takes_unsettled=False, clock=clock)
    clock.advance("36500d")  # everything that is there was left alone for long
    assert intake.ends() == {0: 1}
    put(f"{url}/b.csv", [{"n": 2}])
    assert intake.ends() == {0: 1}
    clock.advance("1s")
    assert intake.ends() == {0: 2}


def test_a_file_that_changes_while_it_is_read_is_refused(store_path: Path, url: str) -> None:
    put(f"{url}/a.csv", [{"n": i} for i in range(5)])

    def stream(world: LocalWorld) -> RunReport:
        flow = world.flows.read(f"{url}/*.csv", schema={"n": int}).named("one")
        return flow.write("one").stream(until="end", batch_events=2)

    crash_each(store_path, [("flow.committed", 1)], stream)
    put(f"{url}/a.csv", [{"n": 7}])
    with LocalWorld(store_path) as world:
        with pytest.raises(StepError, match="it has changed"):
            stream(world)
        FILES.rm(f"{url}/a.csv")
        assert stream(world).rows_in == 0
        assert [row["n"] for row in world.events("one")] == [0, 1]


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda flows, _: flows.read("memory://nothing/*.csv"), "no file matches"),
        (lambda flows, _: flows.read("memory://nothing/*"), "format of"),
        (lambda flows, _: flows.read("nope://x/*.csv", schema=SCHEMA), "Protocol not known: nope"),
        (lambda flows, _: flows.read("a.csv", storage_options={"a": 1}), "for URLs of other"),
        (lambda flows, _: flows.read(pa.table({"n": [1]}), storage_options={"a": 1}), "for a Table"),
        (lambda _, flow: flow.write("zip://a.csv::file://b.zip"), "cannot be written to"),
        (lambda _, flow: flow.write("https://host/a.csv"), "cannot be written to"),
        (lambda _, flow: flow.write("out/", storage_options={"a": 1}), "for URLs of other"),
        (lambda _, flow: flow.write("topic", storage_options={"a": 1}), "for URLs of other"),
        (lambda _, flow: flow.write("memory://x/a.csv", file_format="arrow"), "as 'arrow'"),
        (lambda _, flow: flow.write("memory://x/a.csv", key="k"), "no key"),
        (lambda _, flow: flow.write("memory://x/a.csv").stream(), "nowhere|memory://x/a.csv"),
        (lambda _, flow: flow.write("nope://x/").stream(until="end"), "Protocol not known: nope"),
        (lambda _, flow: flow.write("nope://x/a.csv").run(), "Protocol not known: nope"),
        (
            lambda flows, _: flows.read("memory://x/*.csv", schema=SCHEMA).write("memory://x/").stream(),
            "would read what it writes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(world: LocalWorld, made: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made(world.flows, world.read("events"))


def test_passwords_are_not_shown(world: LocalWorld) -> None:
    options = {"secret": "hidden", "host": "h"}
    flow = world.read("events").write("ftp://ann:hidden@host/out/", storage_options=options)
    assert "hidden" not in flow.explain() + repr(flow.plan.sink)
    assert "'ftp://host/out'" in flow.explain()


def test_missing_libraries_say_what_to_install(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(ConfigurationError, match=r"gcsfs for gs://"):
            world.flows.read("gs://bucket/a.csv", schema=SCHEMA)
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=r"pip install millstream\[fsspec\]"):
        world.flows.read("memory://x/a.csv", schema=SCHEMA)
    with pytest.raises(ConfigurationError, match=r"pip install millstream\[fsspec\]"):
        world.read("events").write("memory://x/").stream(until="end")


@pytest.mark.parametrize(
    ("value", "us"),
    [
        (EPOCH, datetime_us(EPOCH)),
        (EPOCH.replace(tzinfo=None), datetime_us(EPOCH)),
        (EPOCH.timestamp(), datetime_us(EPOCH)),
        ("2026-01-01T00:00:00Z", datetime_us(EPOCH)),
        ((2026, 1, 1, 0, 0, 0), datetime_us(EPOCH)),
        ("yesterday", 0),
        (None, 0),
        ((2026, 13, 1), 0),
    ],
)
def test_times_are_understood_as_each_file_system_says_them(value: object, us: int) -> None:
    assert flow_fsspec._time_us(value) == us
