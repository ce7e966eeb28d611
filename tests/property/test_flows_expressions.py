"""Any expression over any rows gives what Python gives, row by row, with the rules of flows."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from millstream.engines.local.flow_errors import step_errors
from millstream.engines.local.flow_expression import computed
from millstream.engines.local.flow_steps import from_arrow
from millstream.flows.expression import (
    Binary,
    Call,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
)
from millstream.primitives.errors import StepError
from tests.expressions import ANY, ROWS, SCHEMA

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class TooLarge(Exception):
    """An integer left 64 bits."""


def evaluate(expression: Expression, row: dict[str, Any]) -> Any:
    match expression:
        case Column(name=name):
            return row[name]
        case Literal(value=value):
            return value
        case FillNull(operand=operand, value=value):
            first = evaluate(operand, row)
            return evaluate(value, row) if first is None else first
        case Call(function=function, operand=operand):
            return called(function, evaluate(operand, row))
        case Conditional(branches=branches, otherwise=otherwise):
            for condition, value in branches:
                if evaluate(condition, row):
                    return evaluate(value, row)
            return evaluate(otherwise, row)
        case Binary():
            left, right = evaluate(expression.left, row), evaluate(expression.right, row)
            return combined(expression.operator, left, right)
    raise AssertionError(expression)


def called(function: str, value: Any) -> Any:
    if function in ("is_null", "is_not_null"):
        return (value is None) == (function == "is_null")
    if value is None:
        return None
    return fitting({"neg": operator.neg, "abs": abs, "not": operator.not_}[function](value))


def combined(name: str, left: Any, right: Any) -> Any:
    if name in ("and", "or"):
        absorbing = name == "or"
        if absorbing in (left, right):
            return absorbing
        return None if None in (left, right) else not absorbing
    if left is None or right is None:
        return None
    if name in COMPARISONS:
        return COMPARISONS[name](sortable(left, right), sortable(right, left))
    if name in ("div", "floordiv", "mod") and right == 0:
        return None
    if name == "div" or isinstance(left, float) or isinstance(right, float):
        left, right = float(left), float(right)
    return fitting(ARITHMETIC[name](left, right))


def sortable(value: Any, other: Any) -> tuple[bool, Any]:
    # NaN is greater than every number and equal to itself; mixed numbers are compared as floats.
    if isinstance(value, float) and math.isnan(value):
        return (True, 0.0)
    mixed = isinstance(value, float) or isinstance(other, float)
    return (False, float(value) if mixed else value)


def fitting(value: Any) -> Any:
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise TooLarge
    return value


@settings(max_examples=400)
@given(expression=ANY, rows=ROWS)
def test_it_is_what_python_gives(expression: Expression, rows: list[dict[str, Any]]):
    frame = from_arrow(pa.Table.from_pylist(rows, schema=SCHEMA))
    try:
        expected = [evaluate(expression, row) for row in rows]
    except TooLarge:
        with pytest.raises(StepError, match="64 bits"):
            result_of(frame, expression)
        return
    result = result_of(frame, expression)
    assert list(map(shown, result)) == list(map(shown, expected)), expression.text()


def result_of(frame: pl.DataFrame, expression: Expression) -> list[Any]:
    with step_errors("here"):
        return computed(frame.lazy(), [("x", expression)], SCHEMA).collect()["x"].to_list()


def shown(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value
