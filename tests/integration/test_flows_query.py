"""Steps in SQL on the engine: the same rows in a batch and in a stream, and what a stream refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at, in_order
from tests.refusals import refused

pytest.importorskip("sqlglot", reason="sqlglot is not installed: pip install millstream[sql]")

ROWS = [
    {"key": "a", "value": 7, "price": 0.5, "at": at(0)},
    {"key": "Ab", "value": -7, "price": None, "at": at(1)},
    {"key": None, "value": 3, "price": 2.0, "at": at(2)},
    {"key": "a", "value": None, "price": 4.0, "at": at(3)},
    {"key": "a", "value": 5, "price": 1.0, "at": at(4)},
]


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic(
            "rows",
            {"key": str | None, "value": int | None, "price": float | None, "at": Timestamp},
        )
        world.append("rows", ROWS)
        yield world


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # What databases disagree on is as the other steps have it.
        (
            "SELECT value / 2 AS half, value // 2 AS floor, value % 2 AS rest, value / 0 AS none FROM self",
            [(3.5, 3, 1, None), (-3.5, -4, 1, None), (1.5, 1, 1, None), (None,) * 4, (2.5, 2, 1, None)],
        ),
        ("SELECT key FROM self WHERE key LIKE 'a%'", [("a",)] * 3),
        ("SELECT key FROM self WHERE key ILIKE 'a_'", [("Ab",)]),
        ("SELECT value FROM self WHERE value NOT IN (7, NULL)", []),
        ("SELECT value FROM self WHERE NOT (value = 7)", [(-7,), (3,), (5,)]),
        ("SELECT value FROM self WHERE value IS DISTINCT FROM 7", [(-7,), (3,), (None,), (5,)]),
        ("SELECT key || '/' AS k, IFNULL(value, 0) AS v FROM self WHERE price >= 1", [(None, 3), ("a/", 0), ("a/", 5)]),
        ("SELECT CASE WHEN value = 0 THEN 0 ELSE 35 // value END AS x FROM self WHERE value > 0", [(5,), (11,), (7,)]),
        ("SELECT 1 AS one FROM self", [(1,)] * 5),
        ("SELECT EXTRACT(HOUR FROM at + INTERVAL '57 minutes') - HOUR(at) AS x FROM self", [(0,)] * 3 + [(1,)] * 2),
    ],
)  # fmt: skip
def test_a_batch_and_a_stream_give_the_same(
    world: LocalWorld, query: str, expected: list[tuple[object, ...]]
):
    flow = world.read("rows").sql(query)
    assert [tuple(row.values()) for row in flow.collect().to_pylist()] == expected
    flow.write("streamed").stream(until="end", batch_events=2)
    assert in_order(world.events("streamed")) == in_order(flow.collect().to_pylist())


def test_groups_order_and_limit_of_a_batch(world: LocalWorld):
    flow = world.read("rows").sql(
        """
        SELECT key, COUNT(*) AS n, SUM(value) AS total, MAX(price) - MIN(price) AS span
        FROM self GROUP BY key HAVING COUNT(*) >= :least ORDER BY total DESC, key LIMIT 2
        """,
        parameters={"least": 1},
    )
    assert flow.collect().to_pylist() == [
        {"key": "a", "n": 3, "total": 12, "span": 3.5},
        {"key": None, "n": 1, "total": 3, "span": 0.0},
    ]


def test_rows_are_ordered_by_columns_of_both_directions(world: LocalWorld):
    flow = world.read("rows").sql("SELECT key, value FROM self ORDER BY key DESC, value")
    assert [tuple(row.values()) for row in flow.collect().to_pylist()] == [
        ("a", None), ("a", 5), ("a", 7), ("Ab", -7), (None, 3),
    ]  # fmt: skip


def test_different_rows_are_ordered(world: LocalWorld):
    flow = world.read("rows").sql("SELECT DISTINCT LOWER(key) AS k FROM self ORDER BY k DESC")
    assert flow.collect()["k"].to_pylist() == ["ab", "a", None]


def test_an_aggregate_of_no_rows_is_that_of_agg(world: LocalWorld):
    none = world.read("rows").sql("SELECT * FROM self WHERE value > 100")
    told = none.sql("SELECT COUNT(*) AS n, SUM(value) AS total FROM self")
    meant = none.agg(n=agg.count(), total=agg.sum("value"))
    assert told.collect().equals(meant.collect())


def test_windows_stand_before_and_behind_a_step_in_sql(world: LocalWorld):
    # minute   0   1   2   3   4
    # value    7  -7   3   .   5      windows of two minutes; the filter does not hold the watermark
    flow = (
        world.read("rows")
        .sql("SELECT at AS happened, value * 2 AS double FROM self WHERE value > 0")
        .window(tumbling("2m"), on="happened")
        .agg(n=agg.count(), total=agg.sum("double"))
        .sql("SELECT window_start AS at, total / n AS each FROM self WHERE n > 0")
    )
    rows = flow.collect().to_pylist()
    assert [row["each"] for row in rows] == [14.0, 6.0, 10.0]
    flow.write("streamed").stream(until="end", batch_events=1)
    assert in_order(world.events("streamed")) == in_order(rows)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT key, COUNT(*) AS n FROM self GROUP BY key", ("step 1, agg", ".window(")),
        ("SELECT COUNT(*) AS n FROM self", ("step 1, agg", ".window(")),
        ("SELECT DISTINCT key FROM self", ("step 2, agg", ".window(")),
        ("SELECT key FROM self ORDER BY key", ("step 2, sort", "run()")),
        ("SELECT key FROM self LIMIT 3", ("step 2, limit", "run()")),
    ],
)
def test_a_stream_refuses_what_has_no_end(world: LocalWorld, query: str, words: tuple[str, ...]):
    flow: Flow = world.read("rows").sql(query).write("out")
    with refused(PlanError, "a stream has no end", *words):
        flow.stream(until="end")


def test_a_value_that_does_not_fit_is_named(world: LocalWorld):
    flow = world.read("rows").sql(f"SELECT value * {2**62} AS x FROM self")
    with pytest.raises(StepError, match="64 bits"):
        flow.collect()
