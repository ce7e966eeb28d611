"""Expressions of flows, compiled to Polars.

Polars differs from what ``docs/concepts/flows.md`` promises in a few places; each is put right
here and nowhere else:

    promise                                  Polars alone
    integers beyond 64 bits are an error     wrap around
    x / 0 is null                            infinite
    float // and % as Python's               rounds the quotient first
    float / as Python's                      times the reciprocal when a side is one value, or one row
    what is not needed cannot fail           all branches are computed for all rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from millstream.flows.expression import (
    Binary,
    Call,
    Cast,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
    columns_of,
)
from millstream.flows.inference import infer
from millstream.flows.kinds import (
    BINARY,
    BOOLEAN,
    DATE,
    DURATION,
    FLOAT,
    INTEGER,
    NULL,
    TEXT,
)
from millstream.primitives.errors import StepError
from millstream.primitives.schema import TIMESTAMP

UTC_TIME = pl.Datetime("us", "UTC")
_INTEGER_MIN = -(2**63)
_INTEGER_MAX = 2**63 - 1
_DTYPES: dict[pa.DataType, pl.DataType] = {
    INTEGER: pl.Int64(),
    FLOAT: pl.Float64(),
    TEXT: pl.String(),
    BOOLEAN: pl.Boolean(),
    BINARY: pl.Binary(),
    DATE: pl.Date(),
    TIMESTAMP: UTC_TIME,
    DURATION: pl.Duration("us"),
    NULL: pl.Null(),
}


def dtype(kind: pa.DataType) -> pl.DataType:
    """Return the Polars type of a type that flows compute with, or of one that passes through."""
    known = _DTYPES.get(kind)
    if known is not None:
        return known
    frame = pl.from_arrow(pa.table({"x": pa.array([], kind)}))
    assert isinstance(frame, pl.DataFrame)
    return frame.schema["x"]


def polars_schema(schema: pa.Schema) -> pl.Schema:
    """Return the Polars schema of a schema that flows compute with."""
    return pl.Schema({field.name: dtype(field.type) for field in schema})


def compiled(expression: Expression, schema: pa.Schema) -> pl.Expr:
    """Return the Polars expression. ``expression`` has been checked against ``schema``."""
    return _Compiler(schema).compile(expression)


def computed(
    frame: pl.LazyFrame,
    columns: Sequence[tuple[str, Expression]],
    schema: pa.Schema,
    *,
    carried: Sequence[str] = (),
) -> pl.LazyFrame:
    """Return exactly these columns (and the ``carried`` ones), each with a value for each row.

    Polars' ``select`` gives one row for what is constant, or becomes so when it is optimized;
    ``with_columns`` never does.
    """
    return computing(columns, schema, carried=carried)(frame)


def computing(
    columns: Sequence[tuple[str, Expression]], schema: pa.Schema, *, carried: Sequence[str] = ()
) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """Return ``computed`` for many frames: compiled once."""
    temporary = [f"__ms_c{index}" for index in range(len(columns))]
    added = [compiled(e, schema).alias(t) for t, (_, e) in zip(temporary, columns, strict=True)]
    renamed = [pl.col(t).alias(name) for t, (name, _) in zip(temporary, columns, strict=True)]
    return lambda frame: frame.with_columns(added).select([*renamed, *carried])


def can_fail(expression: Expression, schema: pa.Schema) -> bool:
    """Return whether the expression can raise for some data: integer arithmetic and casts."""
    match expression:
        case Binary(operator="add" | "sub" | "mul" | "floordiv"):
            if infer(expression, schema, where="") == INTEGER:
                return True
        case Call(function="neg" | "abs") | Cast():
            return True
    return any(can_fail(child, schema) for child in expression.children())


def calls_python(expression: Expression) -> bool:
    """Return whether the expression may call Python: Polars cannot hand it on to a source that is written in Python."""
    match expression:
        case Binary(operator="div" | "floordiv" | "mod"):
            return True
    return any(calls_python(child) for child in expression.children())


class _Compiler:
    """Compiles over one schema. ``mask``: rows where it is false are null to the expression."""

    def __init__(self, schema: pa.Schema, mask: pl.Expr | None = None) -> None:
        self.schema = schema
        self.mask = mask

    def kind(self, expression: Expression) -> pa.DataType:
        return infer(expression, self.schema, where=expression.text())

    def compile(self, expression: Expression) -> pl.Expr:
        match expression:
            case Column(name=name):
                column = pl.col(name)
                return column if self.mask is None else pl.when(self.mask).then(column)
            case Literal(value=value):
                constant = pl.lit(value, dtype=dtype(self.kind(expression)))
                return constant if self.mask is None else pl.when(self.mask).then(constant)
            case Binary():
                return self.binary(expression)
            case Call():
                return self.call(expression)
            case FillNull(operand=operand, value=value):
                common = dtype(self.kind(expression))
                first = self.compile(operand).cast(common)
                needed = first.is_null() if self.mask is None else self.mask & first.is_null()
                second = self.masked(needed, value).compile(value).cast(common)
                if columns_of(operand):
                    return first.fill_null(second)
                # Polars gives a constant that is filled from a column another length.
                return pl.when(first.is_not_null()).then(first).otherwise(second)
            case Cast():
                return self.cast(expression)
            case Conditional():
                return self.conditional(expression)
        raise AssertionError(f"{type(expression).__name__} has no meaning here")

    def binary(self, expression: Binary) -> pl.Expr:
        left_kind, right_kind = self.kind(expression.left), self.kind(expression.right)
        left, right = self.compile(expression.left), self.compile(expression.right)
        operator = expression.operator
        if operator in PLAIN:
            plain: pl.Expr = PLAIN[operator](left, right)
            return plain
        result = self.kind(expression)
        if NULL in (left_kind, right_kind):
            return pl.lit(None, dtype=dtype(result))
        if result == INTEGER:
            if operator == "mod" or _cannot_overflow(expression):
                return left % right if operator == "mod" else left // right
            return _checked(operator, left, right, expression.text())
        if operator in ("div", "floordiv", "mod"):
            return divided(operator, left.cast(pl.Float64), right.cast(pl.Float64))
        if result == FLOAT:
            left, right = left.cast(pl.Float64), right.cast(pl.Float64)
        sums: pl.Expr = FLOATING[operator](left, right)
        return sums

    def call(self, expression: Call) -> pl.Expr:
        operand = self.compile(expression.operand)
        if expression.function in ("neg", "abs"):
            if self.kind(expression) == INTEGER:
                negative = _checked("sub", pl.lit(0, pl.Int64), operand, expression.text())
                if expression.function == "neg":
                    return negative
                return pl.when(operand < 0).then(negative).otherwise(operand)
            return -operand if expression.function == "neg" else operand.abs()
        called: pl.Expr = CALLS[expression.function](operand, *expression.arguments)
        return called

    def cast(self, expression: Cast) -> pl.Expr:
        source, target = self.kind(expression.operand), expression.kind
        operand = self.compile(expression.operand)
        if source == target:
            return operand
        if (source, target) == (INTEGER, BOOLEAN):
            return operand != 0
        if (source, target) == (DATE, TIMESTAMP):
            return operand.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return operand.cast(dtype(target), strict=True)

    def conditional(self, expression: Conditional) -> pl.Expr:
        common = dtype(self.kind(expression))
        before: pl.Expr | None = self.mask
        chain: pl.Expr | None = None
        taken: list[tuple[pl.Expr, pl.Expr]] = []
        for condition, value in expression.branches:
            truth = self.masked(before, condition).compile(condition).fill_null(value=False)
            here = truth if before is None else before & truth
            taken.append((truth, self.masked(here, value).compile(value).cast(common)))
            before = ~truth if before is None else before & ~truth
        chain = self.masked(before, expression.otherwise).compile(expression.otherwise)
        chain = chain.cast(common)
        for truth, value_expression in reversed(taken):
            chain = pl.when(truth).then(value_expression).otherwise(chain)
        return chain

    def masked(self, mask: pl.Expr | None, value: Expression) -> _Compiler:
        """Hide rows from a branch only if the branch can fail: the mask costs a pass."""
        return _Compiler(self.schema, mask) if can_fail(value, self.schema) else self


def _cannot_overflow(expression: Binary) -> bool:
    # Only the least integer divided by -1 leaves 64 bits.
    right = expression.right
    return (
        expression.operator == "floordiv"
        and isinstance(right, Literal)
        and right.value not in (-1, None)
    )


def _checked(operator: str, left: pl.Expr, right: pl.Expr, text: str) -> pl.Expr:
    """Return integer arithmetic that raises StepError instead of wrapping around."""

    def compute(sides: Sequence[pl.Series]) -> pl.Series:
        return exact(operator, sides[0], sides[1], text)

    return pl.map_batches([left, right], compute, return_dtype=pl.Int64, is_elementwise=True)


def exact(operator: str, left: pl.Series, right: pl.Series, text: str) -> pl.Series:
    """Return integer arithmetic on columns. Raises StepError instead of wrapping around."""
    # The extremes decide for nearly all data, in two cheap passes, that nothing can overflow.
    function = SERIES[operator]
    lows = [_bounds(left), _bounds(right)]
    if lows[0] is None or lows[1] is None or _stays_inside(operator, lows[0], lows[1]):
        return function(left, right)
    wide = function(left.cast(pl.Int128), right.cast(pl.Int128))
    narrow = wide.cast(pl.Int64, strict=False)
    if narrow.null_count() > wide.null_count():
        at = (narrow.is_null() & wide.is_not_null()).arg_true()[0]
        raise StepError(
            f"{text} is {wide[at]}, which does not fit in 64 bits",
            expected=f"a result between {_INTEGER_MIN} and {_INTEGER_MAX}",
            next_step="cast to float before the operation, or filter such rows out",
        )
    return narrow


def _bounds(series: pl.Series) -> tuple[int, int] | None:
    low, high = series.min(), series.max()
    return (low, high) if isinstance(low, int) and isinstance(high, int) else None


def _stays_inside(operator: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    if operator == "floordiv":
        return left[0] > _INTEGER_MIN
    function = _NUMBERS[operator]
    corners = [function(a, b) for a in left for b in right]
    return min(corners) >= _INTEGER_MIN and max(corners) <= _INTEGER_MAX


def divided(operator: str, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return floats divided as Python divides them (``div``, ``floordiv``, ``mod``); by zero or a null it is null."""
    function = QUOTIENTS[operator]

    def compute(sides: Sequence[pl.Series]) -> pl.Series:
        with np.errstate(all="ignore"):
            return pl.Series(function(sides[0].to_numpy(), sides[1].to_numpy()))

    both = pl.map_batches([left, right], compute, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when((right != 0) & left.is_not_null()).then(both)


QUOTIENTS: dict[str, Callable[..., Any]] = {
    "div": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
}
_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}
SERIES: dict[str, Callable[[pl.Series, pl.Series], pl.Series]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
}
# What follows gives an expression of expressions, and a column of columns: ``flow_few`` computes with the same.
FLOATING: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}
PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: a.cast(pl.Boolean) & b.cast(pl.Boolean),
    "or": lambda a, b: a.cast(pl.Boolean) | b.cast(pl.Boolean),
}
CALLS: dict[str, Callable[..., Any]] = {
    "not": lambda x: ~x,
    "is_null": lambda x: x.is_null(),
    "is_not_null": lambda x: x.is_not_null(),
    "is_nan": lambda x: x.is_nan(),
    "lower": lambda x: x.str.to_lowercase(),
    "upper": lambda x: x.str.to_uppercase(),
    "length": lambda x: x.str.len_chars().cast(pl.Int64),
    "contains": lambda x, part: x.str.contains(part, literal=True),
    "starts_with": lambda x, prefix: x.str.starts_with(prefix),
    "like": lambda x, pattern, escape=None: like(x, pattern, escape),
    "year": lambda x: x.dt.year().cast(pl.Int64),
    "month": lambda x: x.dt.month().cast(pl.Int64),
    "day": lambda x: x.dt.day().cast(pl.Int64),
    "hour": lambda x: x.dt.hour().cast(pl.Int64),
    "weekday": lambda x: x.dt.weekday().cast(pl.Int64),
    "truncate": lambda x, size_us: truncated(x, size_us),
}


def like(text: pl.Expr, pattern: str, escape: str | None) -> pl.Expr:
    """Return whether texts are as a pattern of SQL; a last ``escape`` stands for itself."""
    signs: list[str] = []
    rest = iter(pattern)
    for sign in rest:
        if sign == escape:
            signs.append(f"\\x{{{ord(next(rest, sign)):x}}}")
        else:
            signs.append({"%": ".*", "_": "."}.get(sign, f"\\x{{{ord(sign):x}}}"))
    return text.str.contains(rf"(?s)\A{''.join(signs)}\z")


def truncated(time: pl.Expr, size_us: int) -> pl.Expr:
    """Return timestamps rounded down to multiples of ``size_us`` since the epoch."""
    microseconds = time.cast(pl.Int64)
    return (microseconds // size_us * size_us).cast(UTC_TIME)
