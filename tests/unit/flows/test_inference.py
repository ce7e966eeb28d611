"""Types of expressions, and why an expression has none."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.flows.expression import Expression, col, lit, when
from millstream.flows.inference import check_condition, infer
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP

SCHEMA = pa.schema(
    [
        ("i", pa.int64()), ("f", pa.float64()), ("s", pa.string()), ("b", pa.bool_()),
        ("t", TIMESTAMP), ("d", pa.duration("us")), ("day", pa.date32()),
        ("list", pa.list_(pa.int64())), ("money", pa.decimal128(10, 2)),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        (col("i") + 1, pa.int64()),
        (col("i") + 1.5, pa.float64()),
        (col("i") / 2, pa.float64()),
        (col("i") // 2, pa.int64()),
        (col("f") % 2, pa.float64()),
        (col("i") + None, pa.int64()),
        (col("t") - col("t"), pa.duration("us")),
        (col("t") + col("d"), TIMESTAMP),
        (col("i") > col("f"), pa.bool_()),
        (col("s") == None, pa.bool_()),  # noqa: E711
        (col("b") & True, pa.bool_()),
        (col("list").is_null(), pa.bool_()),
        (col("i").fill_null(0.5), pa.float64()),
        (col("s").str.length(), pa.int64()),
        (col("day").dt.year(), pa.int64()),
        (col("t").cast(int), pa.int64()),
        (col("money").cast(float), pa.float64()),
        (when(col("b")).then(1).otherwise(None), pa.int64()),
        (when(col("b")).then(1).otherwise(2.5), pa.float64()),
        (lit(None), pa.null()),
    ],
    ids=repr,
)
def test_types(expression: Expression, kind: pa.DataType):
    assert infer(expression, SCHEMA, where="step 1") == kind


@pytest.mark.parametrize(
    "expression",
    [
        col("s") + 1,
        col("b") + col("b"),
        col("t") * 2,
        col("t") + col("t"),
        col("i") & True,
        col("s") > 1,
        col("list") == col("list"),
        col("i").str.lower(),
        col("s").dt.hour(),
        col("f").cast(str),
        col("t").cast(float),
        col("s").fill_null(0),
        when(col("i")).then(1).otherwise(2),
        when(col("b")).then(1).otherwise("x"),
        ~col("i"),
        col("i").is_nan(),
        col("money") + 1,
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused_with_the_place(expression: Expression):
    with pytest.raises(PlanError) as refused:
        infer(expression, SCHEMA, where="step 3, filter")
    assert refused.value.where == "step 3, filter"
    assert refused.value.expected
    assert refused.value.next_step


def test_a_missing_column_is_named_with_what_there_is():
    with pytest.raises(PlanError, match="there is no column 'mony'") as refused:
        infer(col("mony"), SCHEMA, where="step 1")
    assert "money: decimal" in refused.value.expected
    assert "'money'" in refused.value.next_step


def test_a_condition_is_a_boolean():
    check_condition(col("b"), SCHEMA, where="here")
    with pytest.raises(PlanError, match="is int64"):
        check_condition(col("i"), SCHEMA, where="here")
