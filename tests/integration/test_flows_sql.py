"""Databases of the user as source and sink of flows: SQLite files, and a real PostgreSQL server."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local import flow_delivery
from millstream.flows import aggregate as agg
from millstream.flows.expression import col, lit
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.flows.sql import SqlSink, sql, sql_table
from millstream.flows.windows import tumbling
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests import postgresql
from tests.flows_kit import STEPS, Crash, crash_at, crash_each
from tests.integration import flows_crash

ROOT = Path(__file__).parents[2]
SCHEMA = {"k": str, "n": int, "at": Timestamp}
SQL_STEPS = ("flow.sql_written", "flow.sql_committed")
VALUES = {
    "i": [1, -(2**63), None],
    "f": [1.5, None, -0.25],
    "t": ["a", "it's", None],
    "b": [True, False, None],
    "y": [b"\x00x", None, b""],
    "d": [date(2026, 1, 1), None, date(1969, 7, 20)],
    "w": [at(0), None, datetime(1969, 7, 20, 20, 17, 40, 5, tzinfo=UTC)],
}
TYPES = {
    "i": int | None, "f": float | None, "t": str | None, "b": bool | None, "y": bytes | None, "d": date | None,
    "w": Timestamp,
}  # fmt: skip


class Place:
    """A database: its URL, and a way in that is not ours."""

    def __init__(self, url: str, connect: Callable[[], Any]) -> None:
        self.url = url
        self._connect = connect

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
            connection.commit()
            return [tuple(row) for row in rows]


def sqlite_place(folder: Path) -> Place:
    path = folder / "user.db"
    sqlite3.connect(path).close()
    return Place(f"sqlite:///{path}", lambda: sqlite3.connect(path))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as dsn:
        yield dsn


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return sqlite_place(tmp_path)
    dsn = request.getfixturevalue("server")
    found = Place(postgresql_url(dsn), lambda: psycopg.connect(dsn))
    found.run("DROP SCHEMA public CASCADE")
    found.run("CREATE SCHEMA public")
    return found


def postgresql_url(dsn: str) -> str:
    said = dict(part.split("=", 1) for part in dsn.split())
    return f"postgresql://{said['user']}@/{said['dbname']}?host={quote(said['host'], safe='')}"


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        fill(world)
        yield world


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=2)
    world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(30)])


def counted(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("5m"), on="at", late="30m").group_by("k")
    return windowed.agg(n=agg.sum("n")).select("k", "n")


def expected(world: LocalWorld) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in counted(world).collect().to_pylist())


def table_of_all() -> pa.Table:
    kinds = {"w": pa.timestamp("us", "UTC"), "d": pa.date32()}
    return pa.table({name: pa.array(v, type=kinds.get(name)) for name, v in VALUES.items()})


def test_every_type_is_written_and_read_back(world: LocalWorld, place: Place) -> None:
    report = world.table(table_of_all()).write(sql_table("every", place.url, create=True)).run()
    assert report.rows_out == 3
    query = sql("SELECT * FROM every", place.url, schema={**TYPES, "w": datetime | None})
    assert world.flows.read(query).collect().to_pylist() == table_of_all().to_pylist()


def test_a_batch_adds_and_with_a_key_it_replaces(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE totals (k VARCHAR(9) PRIMARY KEY, n INTEGER, note TEXT DEFAULT 'new')")
    place.run("INSERT INTO totals VALUES ('a', 0, 'kept'), ('z', 7, 'kept')")
    by_key = world.read("events").group_by("k").agg(n=agg.sum("n"))
    for _ in range(2):
        by_key.write(sql_table("totals", place.url, key="k")).run()
    rows = place.run("SELECT k, n, note FROM totals ORDER BY k")
    assert rows == [("a", 135, "kept"), ("b", 145, "new"), ("c", 155, "new"), ("z", 7, "kept")]
    place.run("CREATE TABLE plain (k TEXT, n BIGINT)")
    for _ in range(2):
        by_key.write(sql_table("plain", place.url)).run()
    assert place.run("SELECT count(*) FROM plain") == [(6,)]


def test_the_last_row_of_a_key_stands(world: LocalWorld, place: Place) -> None:
    rows = [{"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a", "n": 3}]
    world.table(rows).write(sql_table("last", place.url, key="k", create=True)).run()
    assert place.run("SELECT k, n FROM last ORDER BY k") == [("a", 3), ("b", 2)]


def test_a_batch_that_fails_leaves_nothing(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE small (n BIGINT CHECK (n < 20))")
    flow = world.read("events").select("n").write(sql_table("small", place.url))
    with pytest.raises(StepError, match="the database failed"):
        flow.run()
    assert place.run("SELECT count(*) FROM small") == [(0,)]


def test_parameters_are_bound(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE names (name TEXT, n BIGINT)")
    place.run("INSERT INTO names VALUES ('it''s', 1), ('x', 2)")
    mark = "?" if place.url.startswith("sqlite") else "$1"
    query = sql(f"SELECT n FROM names WHERE name = {mark}", place.url, parameters=["it's"])
    assert world.flows.read(query).collect().to_pylist() == [{"n": 1}]


def test_a_query_feeds_a_flow_in_pieces(world: LocalWorld, place: Place) -> None:
    numbers = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 25000)"
    flow = world.flows.read(sql(f"{numbers} SELECT n FROM r", place.url)).filter(col("n") > 10)
    seen: list[int] = []
    flow.write("numbers").run(progress=lambda progress: seen.append(progress.rows_done))
    assert seen[-1] == 25_000
    assert len(world.events("numbers")) == 24_990


def test_an_empty_table_has_types(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE empty (n INTEGER, f REAL, t TEXT)")
    assert world.flows.read(sql("SELECT * FROM empty;", place.url)).schema == pa.schema(
        {"n": pa.int64(), "f": pa.float64(), "t": pa.string()}
    )


def test_a_query_cannot_write(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE kept (n BIGINT)")
    with pytest.raises((PlanError, StepError)):
        world.flows.read(sql("INSERT INTO kept VALUES (1) RETURNING n", place.url)).collect()
    assert place.run("SELECT count(*) FROM kept") == [(0,)]


def test_a_stream_adds_each_row_once(world: LocalWorld, place: Place) -> None:
    sink = counted(world).write(sql_table("sums", place.url, create=True))
    report = sink.stream(until="end", batch_events=7)
    assert sorted(place.run("SELECT k, n FROM sums")) == expected(world)
    assert report.rows_out == len(expected(world))
    assert sink.stream(until="end").rows_out == 0
    assert len(place.run("SELECT * FROM millstream_flow")) == 1
    # What is delivered is not kept.
    assert world.store.look("flows/delivery", (1,)) == []


@pytest.mark.parametrize("key", [(), ("k", "n")])
@pytest.mark.parametrize("step", [*STEPS, *SQL_STEPS])
def test_a_crash_at_any_step_leaves_each_row_once(
    store_path: Path, place: Place, step: str, key: tuple[str, ...]
) -> None:
    with LocalWorld(store_path) as world:
        fill(world)

    def stream(world: LocalWorld) -> RunReport:
        sink = sql_table("sums", place.url, key=key, create=True)
        return world.read("events").select("k", "n").write(sink).stream(until="end", batch_events=7)

    crash_each(store_path, [(step, 1), (step, 2), (step, 1)], stream)
    with LocalWorld(store_path) as world:
        stream(world)
        rows = [
            tuple(row.values())
            for row in world.read("events").select("k", "n").collect().to_pylist()
        ]
    assert sorted(place.run("SELECT k, n FROM sums")) == sorted(rows)


@settings(max_examples=40)
@given(
    batch_events=st.integers(1, 20),
    crashes=st.lists(
        st.tuples(st.sampled_from((*STEPS, *SQL_STEPS)), st.integers(1, 4)), max_size=4
    ),
)
def test_any_cut_and_any_crash_give_what_the_batch_gives(
    batch_events: int, crashes: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, place = Path(folder) / "s.mill", sqlite_place(Path(folder))
        with LocalWorld(path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            sink = sql_table("sums", place.url, create=True)
            return counted(world).write(sink).stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            assert sorted(place.run("SELECT k, n FROM sums")) == expected(world)


@pytest.mark.parametrize("step", ["flow.sql_written", "flow.committed", "flow.sql_committed"])
def test_kill_9_leaves_each_row_once(store_path: Path, place: Place, step: str) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
    arguments = ["-m", "tests.integration.flows_crash", str(store_path), place.url, step, "2"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world)
        flow.write(sql_table("out", place.url, create=True)).stream(
            until="end", batch_events=flows_crash.BATCH_EVENTS
        )
        names = flow.schema.names
        query = sql("SELECT * FROM out", place.url, schema=flow.schema)
        rows = world.flows.read(query).select(*names).collect().to_pylist()
        assert in_order(rows) == in_order(flow.collect().to_pylist())


def crashed_behind_its_commit(store_path: Path, sink: SqlSink) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at("flow.committed", 1)
        with pytest.raises(Crash):
            world.read("events").write(sink).stream(until="end")
        set_listener(None)


def test_a_database_that_is_away_holds_the_flow_up_and_nothing_is_lost(
    store_path: Path, tmp_path: Path
) -> None:
    place = sqlite_place(tmp_path)
    crashed_behind_its_commit(store_path, sql_table("out", place.url, create=True))
    away = tmp_path / "away.db"
    (tmp_path / "user.db").rename(away)
    with LocalWorld(store_path) as world:
        sink = world.read("events").write(sql_table("out", place.url))
        for _ in range(2):  # the flow is not held by the one that failed
            with pytest.raises(StepError, match="the database failed: unable to open"):
                sink.stream(until="end")
        with pytest.raises(StepError, match="unable to open"):
            sink.reset()
        away.rename(tmp_path / "user.db")
        assert sink.stream(until="end").rows_out == 0
    assert place.run("SELECT count(*) FROM out") == [(30,)]


def test_a_reset_delivers_what_was_committed_first(store_path: Path, place: Place) -> None:
    sink = sql_table("out", place.url, create=True)
    crashed_behind_its_commit(store_path, sink)
    with LocalWorld(store_path) as world:
        flow = world.read("events").write(sink)
        flow.reset()
        assert place.run("SELECT count(*) FROM out") == [(30,)]
        flow.stream(until="end")
        assert place.run("SELECT count(*) FROM out") == [(60,)]


def test_a_flow_does_not_leave_a_table_that_it_owes_rows(store_path: Path, tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    crashed_behind_its_commit(store_path, sql_table("out", place.url, create=True))
    with LocalWorld(store_path) as world:
        events = world.read("events").named("out")
        for other in (events.write("topic"), events.write(sql_table("b", place.url, create=True))):
            with pytest.raises(PlanError, match="may not be in table 'out'"):
                other.stream(until="end")
        events.write(sql_table("out", place.url)).stream(until="end")
        assert events.write("topic").stream(until="end").rows_out == 0
    assert place.run("SELECT count(*) FROM out") == [(30,)]


def test_a_store_that_is_behind_the_database_is_refused(store_path: Path, tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    sink = sql_table("out", place.url, create=True)
    crashed_behind_its_commit(store_path, sink)
    place.run("UPDATE millstream_flow SET number = 9, crc = 1")
    with LocalWorld(store_path) as world, pytest.raises(StepError, match="has delivery 9"):
        world.read("events").write(sink).stream(until="end")
    assert place.run("SELECT count(*) FROM out") == [(0,)]


def test_what_the_database_refuses_is_not_committed(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE small (n BIGINT CHECK (n < 20))")
    sink = world.read("events").select("n").write(sql_table("small", place.url))
    with pytest.raises(StepError, match="the database failed"):
        sink.stream(until="end")
    assert place.run("SELECT count(*) FROM small") == [(0,)]
    place.run("DROP TABLE small")
    place.run("CREATE TABLE small (n BIGINT)")
    assert sink.stream(until="end").rows_out == 30
    assert place.run("SELECT count(*) FROM small") == [(30,)]


def test_a_micro_batch_that_is_too_large_is_refused(
    world: LocalWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sqlite_place(tmp_path)
    monkeypatch.setattr(flow_delivery, "DELIVERY_BYTES_MAX", 200)
    sink = world.read("events").write(sql_table("out", place.url, create=True))
    with pytest.raises(StepError, match=r"at most 200.*smaller batch_events"):
        sink.stream(until="end")
    sink.stream(until="end", batch_events=3)
    assert place.run("SELECT count(*) FROM out") == [(30,)]


def test_two_stores_and_two_flows_share_a_table(
    world: LocalWorld, store_path: Path, place: Place
) -> None:
    sink = sql_table("out", place.url, create=True)
    events = world.read("events")
    events.named("one").write(sink).stream(until="end")
    events.named("two").write(sink).stream(until="end")
    with LocalWorld(store_path.with_name("other.mill")) as other:
        fill(other)
        other.read("events").named("one").write(sink).stream(until="end")
    assert place.run("SELECT count(*) FROM out") == [(90,)]


def test_what_does_not_fit_the_table_is_refused(world: LocalWorld, place: Place) -> None:
    events = world.read("events")
    with pytest.raises(PlanError, match=r"refuses it.*nowhere"):
        events.write(sql_table("nowhere", place.url)).run()
    place.run("CREATE TABLE there (k INTEGER, n BIGINT, at TIMESTAMP)")
    for run in (Flow.run, lambda flow: flow.stream(until="end")):
        with pytest.raises(PlanError, match=r"column \W*k"):
            run(events.write(sql_table("there", place.url)))
        with pytest.raises(PlanError, match=r"refuses it.*other"):
            run(events.select("n", other="k").write(sql_table("there", place.url)))
        with pytest.raises(PlanError, match="refuses it"):  # no unique key
            run(events.select("n").write(sql_table("there", place.url, key="n")))
    null_key = world.table(pa.table({"k": pa.array([None, "a"])}))
    with pytest.raises(StepError, match="k is null"):
        null_key.write(sql_table("keyed", place.url, key="k", create=True)).run()


def test_queries_that_cannot_be_are_refused(world: LocalWorld, place: Place) -> None:
    place.run("CREATE TABLE t (a INTEGER)")
    cases = {
        "SELECT FROM WHERE": "refuses it",
        "SELECT * FROM nope": "refuses it.*nope",
        "SELECT a, a FROM t": "different names",
    }
    for query, says in cases.items():
        with pytest.raises(PlanError, match=says):
            world.flows.read(sql(query, place.url))
    with pytest.raises(PlanError, match="the query's columns"):
        world.flows.read(sql("SELECT a FROM t", place.url, schema={"b": int}))
    flow = world.flows.read(sql("SELECT a FROM t", place.url))
    with pytest.raises(PlanError, match="does not grow"):
        flow.write("out").stream(until="end")


def test_types_that_are_not_known_ask_for_a_schema(
    world: LocalWorld, server: str, tmp_path: Path
) -> None:
    lite = sqlite_place(tmp_path)
    lite.run("CREATE TABLE t (d DECIMAL)")
    url = postgresql_url(server)
    for query, place in (("SELECT d FROM t", lite.url), ("SELECT 1.5::numeric AS d", url)):
        with pytest.raises(PlanError, match="what type column 'd' has"):
            world.flows.read(sql(query, place))
        world.flows.read(sql(query, place, schema={"d": float | None})).collect()
    lite.run("INSERT INTO t VALUES (1), ('x')")
    with pytest.raises(PlanError, match="different types: int, str"):
        world.flows.read(sql("SELECT d FROM t", lite.url))
    with pytest.raises(StepError, match="not int64"):
        world.flows.read(sql("SELECT 'x' AS d", lite.url, schema={"d": int})).collect()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda flow: sql_table("t", "mysql://host/db"), "no database for 'mysql'"),
        (lambda flow: sql("SELECT 1", "user.db"), "without a scheme"),
        (lambda flow: sql_table("", "sqlite:///user.db"), "empty"),
        (lambda flow: flow.write(sql_table("t", "sqlite:///u.db", key="x")), "key 'x'"),
        (lambda flow: flow.write(sql_table("t", "sqlite:///u.db"), key="k"), r"sql_table\(…, key"),
        (
            lambda flow: flow.agg(all=agg.collect("n")).write(sql_table("t", "sqlite:///u.db")),
            "cannot hold column 'all'",
        ),
    ],
)
def test_what_cannot_be_is_refused(world: LocalWorld, made: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made(world.read("events").with_columns(one=lit(1)))


def test_passwords_are_not_shown(world: LocalWorld) -> None:
    sink = sql_table("t", "postgresql://ann:secret@db.example/shop?sslpassword=secret")
    flow = world.read("events").write(sink)
    assert "secret" not in flow.explain() + repr(sink)
    assert "table 't' on postgresql://db.example/shop" in flow.explain()


def test_a_server_that_is_away_is_a_clear_error(world: LocalWorld, tmp_path: Path) -> None:
    url = f"postgresql://x@/x?host={quote(str(tmp_path), safe='')}"
    with pytest.raises(StepError, match="the database failed"):
        world.flows.read(sql("SELECT 1 AS n", url))


def test_a_missing_driver_says_what_to_install(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(ConfigurationError, match=r"pip install millstream\[sql\]"):
        world.flows.read(sql("SELECT 1 AS n", "postgresql://x@/x"))


@pytest.mark.parametrize(("step", "rows"), [("flow.sql_written", 0), ("flow.sql_committed", 30)])
def test_a_batch_that_crashes_is_there_whole_or_not_at_all(
    store_path: Path, place: Place, step: str, rows: int
) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at(step, 1)
        try:
            with pytest.raises(Crash):
                world.read("events").write(sql_table("out", place.url, create=True)).run()
        finally:
            set_listener(None)
    assert place.run("SELECT count(*) FROM out") == [(rows,)]
