"""A step in SQL gives what filter and select give; and what DuckDB gives, where both mean the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows.expression import (
    BINARY_SIGNS,
    Binary,
    Call,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
)
from millstream.flows.flow import Flow
from millstream.primitives.errors import StepError
from millstream.testing.flows_suite import LocalWorld, in_order
from tests.expressions import ANY, BOOLEAN, ROWS, SCHEMA

pytest.importorskip("sqlglot", reason="sqlglot is not installed: pip install millstream[sql]")
duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: it knows the answers")

SIGNS = BINARY_SIGNS | {"eq": "=", "ne": "<>", "and": "AND", "or": "OR"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with LocalWorld(tmp_path_factory.mktemp("query") / "store.mill") as world:
        yield world


def as_sql(expression: Expression) -> str:
    match expression:
        case Column(name=name):
            return f'"{name}"'
        case Literal(value=value):
            return str(value).upper() if isinstance(value, bool) else repr(value)
        case Binary(operator=operator, left=left, right=right):
            return f"({as_sql(left)} {SIGNS[operator]} {as_sql(right)})"
        case Call(function="is_null" | "is_not_null" as function, operand=operand):
            return f"({as_sql(operand)} {'IS NULL' if function == 'is_null' else 'IS NOT NULL'})"
        case Call(function=function, operand=operand):
            return {"neg": "(- {})", "abs": "ABS({})", "not": "(NOT {})"}[function].format(
                as_sql(operand)
            )
        case FillNull(operand=operand, value=value):
            return f"COALESCE({as_sql(operand)}, {as_sql(value)})"
        case Conditional(branches=branches, otherwise=otherwise):
            whens = " ".join(f"WHEN {as_sql(a)} THEN {as_sql(b)}" for a, b in branches)
            return f"CASE {whens} ELSE {as_sql(otherwise)} END"
    raise AssertionError(expression)


def told(flow: Flow, expression: Expression, condition: Expression) -> Flow:
    return flow.sql(f"SELECT {as_sql(expression)} AS x FROM self WHERE {as_sql(condition)}")


def outcome(flow: Flow) -> object:
    try:
        return [shown(value) for value in flow.collect()["x"].to_pylist()]
    except StepError:
        return StepError


def shown(value: Any) -> Any:
    return "nan" if isinstance(value, float) and math.isnan(value) else value


@settings(max_examples=150)
@given(expression=ANY, condition=BOOLEAN, rows=ROWS)
def test_it_is_filter_and_select(
    world: LocalWorld, expression: Expression, condition: Expression, rows: list[dict[str, Any]]
):
    flow = world.table(pa.Table.from_pylist(rows, schema=SCHEMA))
    meant = flow.filter(condition).select(x=expression)
    query = told(flow, expression, condition)
    assert query.schema == meant.schema
    assert outcome(query) == outcome(meant)


@settings(max_examples=20)
@given(expression=ANY, condition=BOOLEAN, rows=ROWS, number=st.integers(1, 3))
def test_a_stream_gives_what_a_batch_gives(
    tmp_path_factory: pytest.TempPathFactory,
    expression: Expression,
    condition: Expression,
    rows: list[dict[str, Any]],
    number: int,
):
    with LocalWorld(tmp_path_factory.mktemp("stream") / "store.mill") as world:
        world.topic("rows", SCHEMA)
        if rows:
            world.append("rows", rows)
        flow = told(world.read("rows"), expression, condition)
        batch = outcome(flow)
        try:
            flow.write("streamed").stream(until="end", batch_events=number)
        except StepError:
            assert batch is StepError
            return
        assert batch is not StepError
        rows_batch = flow.collect().to_pylist()
        assert in_order(world.events("streamed")) == in_order(rows_batch)


# ---- what a database says -----------------------------------------------------------------------

# Without brackets, so that it is the parser who says what belongs together. Both say the same of these operators; of
# division, of the sign of a remainder and of overflow they do not, and no two databases agree on these either.
NUMBERS = st.recursive(
    st.sampled_from(["i", "j", "f", "3", "-2", "0.5"]),
    lambda n: (
        st.builds("{} {} {}".format, n, st.sampled_from(["+", "-", "*"]), n)
        | st.builds("- {}".format, n)
        | st.builds("({})".format, n)
        | st.builds("COALESCE({}, {})".format, n, n)
        | st.builds("NULLIF({}, {})".format, n, n)
    ),
    max_leaves=4,
)
PATTERNS = st.text("ab%_.", max_size=4).map("'{}'".format)
MAYBE_NOT = st.sampled_from(["", "NOT "])
PREDICATES = (
    st.builds(
        "{} {} {}".format, NUMBERS, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), NUMBERS
    )
    | st.builds("{} IS {}NULL".format, st.sampled_from(["i", "f", "s", "b"]), MAYBE_NOT)
    | st.builds("{} {}IN ({}, NULL)".format, NUMBERS, MAYBE_NOT, NUMBERS)
    | st.builds("{} {}IN ({}, {})".format, NUMBERS, MAYBE_NOT, NUMBERS, NUMBERS)
    | st.builds("{} {}BETWEEN {} AND {}".format, NUMBERS, MAYBE_NOT, NUMBERS, NUMBERS)
    | st.builds("s {}LIKE {}".format, MAYBE_NOT, PATTERNS)
    | st.builds("s {}ILIKE {}".format, MAYBE_NOT, PATTERNS)
    | st.builds("i IS {}DISTINCT FROM j".format, MAYBE_NOT)
    | st.sampled_from(["b", "b IS TRUE", "b IS NOT TRUE", "b IS FALSE", "s || s = 'aa'", "s < 'b'"])
)
CONDITIONS = st.recursive(
    PREDICATES,
    lambda c: (
        st.builds("{} {} {}".format, c, st.sampled_from(["AND", "OR"]), c)
        | st.builds("NOT {}".format, c)
        | st.builds("({})".format, c)
    ),
    max_leaves=5,
)
VALUES = (
    NUMBERS
    | CONDITIONS.map("({})".format)
    | st.builds("CASE WHEN {} THEN {} WHEN {} THEN {} END".format, CONDITIONS, NUMBERS, CONDITIONS, NUMBERS)
    | st.builds("CASE {} WHEN {} THEN 'x' ELSE 'y' END".format, NUMBERS, NUMBERS)
    | st.sampled_from(["UPPER(s)", "LENGTH(s)", "s || 'é'", "STARTS_WITH(s, 'a')", "CONTAINS(s, 'b')"])
)  # fmt: skip
FEW = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | st.integers(-3, 3),
            "j": st.none() | st.integers(-3, 3),
            "f": st.none() | st.sampled_from([0.0, 0.5, -2.0, 3.0, math.inf, math.nan]),
            "s": st.none() | st.text("abAB.%é\n", max_size=3),
            "b": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=8,
)
FEW_SCHEMA = pa.schema(
    [("i", pa.int64()), ("j", pa.int64()), ("f", pa.float64()), ("s", pa.string()), ("b", pa.bool_())]
)  # fmt: skip


@settings(max_examples=250)
@given(value=VALUES, condition=CONDITIONS, rows=FEW)
def test_it_means_what_it_means_in_duckdb(
    world: LocalWorld, value: str, condition: str, rows: list[dict[str, Any]]
):
    table = pa.Table.from_pylist(rows, schema=FEW_SCHEMA)
    query = f"SELECT {value} AS x FROM self WHERE {condition}"
    ours = world.table(table).sql(query).collect()["x"].to_pylist()
    with duckdb.connect() as connection:
        connection.register("self", table)
        theirs = [
            row[0]
            for row in connection.execute(query.replace("FROM self", 'FROM "self"')).fetchall()
        ]
    assert list(map(comparable, ours)) == list(map(comparable, theirs)), query


def comparable(value: Any) -> Any:
    # A decimal of DuckDB (0.5 is one there) is the float it stands for.
    if value is None or isinstance(value, bool | str):
        return value
    return shown(float(value) + 0.0)
