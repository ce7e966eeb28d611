"""Expressions: texts, substitution, and what is refused while they are built."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from millstream.flows.expression import col, columns_of, lit, substituted, when
from millstream.primitives.errors import PlanError


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (col("a") + 1, "(col('a') + 1)"),
        (2 / col("a"), "(2 / col('a'))"),
        (~(col("a") == None), "(col('a') == None).not()"),  # noqa: E711
        (col("a").fill_null(0).cast(float), "col('a').fill_null(0).cast(double)"),
        (col("s").str.contains("x"), "col('s').contains('x')"),
        (col("t").dt.truncate("1h"), "col('t').truncate(3600000000)"),
        (col("t") > datetime(1970, 1, 1, tzinfo=UTC), "(col('t') > timestamp(0 us))"),
        (
            when(col("a") > 1).then("x").when(col("b")).then("y").otherwise(None),
            "when((col('a') > 1)).then('x').when(col('b')).then('y').otherwise(None)",
        ),
    ],
)
def test_texts(expression: object, text: str):
    assert repr(expression) == text


def test_the_columns_of_an_expression():
    assert columns_of(when(col("a")).then(col("b") + 1).otherwise(lit(2))) == {"a", "b"}


def test_substitution_replaces_everywhere():
    expression = when(col("a") > 1).then(col("a")).otherwise(col("b").fill_null(col("a")))
    assert columns_of(substituted(expression, {"a": col("c") * 2})) == {"b", "c"}


def test_and_and_or_are_refused():
    with pytest.raises(PlanError, match="no truth value") as refused:
        bool(col("a") and col("b"))
    assert "&" in refused.value.expected


@pytest.mark.parametrize("value", [object(), [1], datetime(2026, 1, 1), 2**63])  # noqa: DTZ001
def test_what_cannot_be_a_literal_is_refused(value: object):
    with pytest.raises(PlanError):
        lit(value)


@pytest.mark.parametrize("name", ["", None, 5])
def test_what_cannot_be_a_name_is_refused(name: object):
    with pytest.raises(PlanError, match="not the name of a column"):
        col(name)


def test_an_unfinished_conditional_is_refused():
    with pytest.raises(PlanError, match="not finished"):
        col("a") + when(col("b")).then(1)


def test_a_truncation_to_nothing_is_refused():
    with pytest.raises(PlanError, match="cannot be truncated"):
        col("t").dt.truncate("0s")


def test_a_cast_to_no_type_is_refused():
    with pytest.raises(PlanError, match="not a type"):
        col("a").cast("number")
