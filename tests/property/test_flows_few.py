"""Steps over few rows give what the plan of Polars gives, values and types; or they leave it to that."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local.flow_few import FewSteps
from millstream.engines.local.flow_steps import StepRunner, from_arrow
from millstream.flows.expression import (
    Binary,
    Call,
    Cast,
    Column,
    Expression,
    FillNull,
    Literal,
)
from millstream.flows.kinds import BOOLEAN, DATE, FLOAT, INTEGER, TEXT
from millstream.flows.steps import Filter, Select, Step, WithColumns
from millstream.primitives.schema import TIMESTAMP
from tests import expressions as numbers
from tests.flows_kit import runner_of

MARK = "__ms_mark"
SCHEMA = pa.schema([*numbers.SCHEMA, ("t", TEXT), ("at", TIMESTAMP), ("d", DATE)])
TEXTS = st.none() | st.sampled_from(["", "Ab", "aé", "12", "-7", "1e3", "%"])
TIMES = st.none() | st.sampled_from(
    [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2026, 2, 28, 11, 5, tzinfo=UTC)]
)
DAYS = st.none() | st.sampled_from([date(1969, 12, 31), date(2024, 2, 29)])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "i": numbers.INTEGERS,
            "j": numbers.INTEGERS,
            "f": numbers.FLOATS,
            "g": numbers.FLOATS,
            "b": st.none() | st.booleans(),
            "t": TEXTS,
            "at": TIMES,
            "d": DAYS,
            MARK: st.integers(0, 9),
        }
    ),
    max_size=5,
)
TEXT_VALUES = st.recursive(
    st.sampled_from([Column("t"), Literal("Ab")]),
    lambda c: st.builds(Call, st.sampled_from(["lower", "upper"]), c) | st.builds(FillNull, c, c),
    max_leaves=3,
)
TIME_VALUES = st.sampled_from([Column("at"), Literal(datetime(2026, 1, 1, tzinfo=UTC))])
ASKED_OF_TEXT = st.builds(
    Call,
    st.sampled_from(["contains", "starts_with", "like"]),
    TEXT_VALUES,
    st.sampled_from([("b",), ("%",)]),
) | st.builds(Binary, st.sampled_from(numbers.COMPARISONS), TEXT_VALUES, TEXT_VALUES)
ASKED_OF_TIMES = st.builds(
    Binary, st.sampled_from(numbers.COMPARISONS), TIME_VALUES, TIME_VALUES
) | st.builds(Call, st.just("is_nan"), numbers.FLOAT)
INTEGERS = (
    st.builds(Call, st.just("length"), TEXT_VALUES)
    | st.builds(Call, st.sampled_from(["year", "month", "day", "hour", "weekday"]), TIME_VALUES)
    | st.builds(Call, st.sampled_from(["year", "weekday"]), st.just(Column("d")))
    | st.builds(Cast, numbers.FLOAT | numbers.BOOLEAN | TEXT_VALUES | TIME_VALUES, st.just(INTEGER))
)
OTHERS = (
    st.builds(Cast, numbers.INTEGER, st.sampled_from([FLOAT, TEXT, BOOLEAN]))
    | st.builds(Cast, TEXT_VALUES, st.just(FLOAT))
    | st.builds(Cast, TIME_VALUES, st.just(DATE))
    | st.builds(Cast, st.just(Column("d")), st.just(TIMESTAMP))
    | st.builds(Call, st.just("truncate"), TIME_VALUES, st.just((3_600_000_000,)))
    | st.builds(
        Binary, st.sampled_from(["add", "sub"]), st.just(Column("at")), st.just(Column("at"))
    ).filter(lambda e: e.operator == "sub")
    | st.builds(Binary, st.just("add"), TEXT_VALUES, TEXT_VALUES)
    | st.builds(FillNull, st.just(Literal(None)), numbers.INTEGER)
    | numbers.conditional(TEXT_VALUES)
    | numbers.conditional(TIME_VALUES)
)
CONDITIONS = numbers.BOOLEAN | ASKED_OF_TEXT | ASKED_OF_TIMES
VALUES = numbers.ANY | CONDITIONS | TEXT_VALUES | INTEGERS | OTHERS


def columns(*names: str) -> st.SearchStrategy[tuple[tuple[str, Expression], ...]]:
    return st.tuples(*[st.tuples(st.just(name), VALUES) for name in names])


KEPT = tuple((name, Column(name)) for name in SCHEMA.names)
STEPS = st.lists(
    st.builds(Filter, CONDITIONS)
    | st.builds(WithColumns, columns("new") | columns("new", "other"))
    # All that a later step may ask for goes on.
    | st.builds(Select, columns("x").map(lambda chosen: (*chosen, *KEPT))),
    min_size=1,
    max_size=3,
)


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    table = pa.Table.from_pylist(rows, schema=SCHEMA.append(pa.field(MARK, INTEGER)))
    return from_arrow(table)


def both(steps: list[Step], frame: pl.DataFrame) -> tuple[pl.DataFrame | None, StepRunner]:
    few, schema = FewSteps(carried=(MARK,)), SCHEMA
    for step in steps:
        few.add(step, schema)
        schema = step.output(schema, where="here")
    runner = runner_of(steps, SCHEMA, carried=(MARK,))
    found = few.applied(frame)
    return None if found is None else found[0], runner


def shown(frame: pl.DataFrame) -> str:
    """Return rows as text, so that NaN is equal to itself; of zeros without their sign."""
    # Polars leaves out what adds zero: -0.0 + 0.0 is -0.0 in a plan, and 0.0 where it is computed.
    return repr([[0.0 if value == 0.0 else value for value in row] for row in frame.rows()])


@settings(max_examples=600)
@given(steps=STEPS, rows=ROWS)
def test_few_rows_are_as_the_plan_computes_them(steps: list[Step], rows: list[dict[str, Any]]):
    frame = frame_of(rows)
    few, runner = both(steps, frame)
    if few is None:
        return
    planned = runner.apply(frame.lazy()).collect()
    assert few.schema == planned.schema
    assert shown(few) == shown(planned)
