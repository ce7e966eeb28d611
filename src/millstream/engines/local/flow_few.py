"""Stateless steps over few rows: column by column, without a plan of Polars.

For ten rows Polars takes longer to plan, to optimize and to hand the work to its threads than to compute, and where an
expression calls Python its threads wait for ours. Here each operation is one call on whole columns, in this thread,
with the same functions of Polars behind it as in ``flow_expression``.

The values are those of the plan, but for the sign of a zero, or there are none: whatever fails here is computed again
by Polars, which computes less (what no later step needs, or another branch hides, cannot fail there) and says what is
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import (
    CALLS,
    FLOATING,
    PLAIN,
    QUOTIENTS,
    SERIES,
    compiled,
    dtype,
    exact,
)
from millstream.flows.expression import (
    Binary,
    Call,
    Cast,
    Column,
    Conditional,
    Expression,
    FillNull,
    columns_of,
)
from millstream.flows.inference import infer
from millstream.flows.kinds import BOOLEAN, DATE, INTEGER, NULL, is_number
from millstream.flows.steps import Filter, Select, Step, WithColumns
from millstream.primitives.errors import StepError
from millstream.primitives.schema import TIMESTAMP

FEW_ROWS_MAX: Final = 10_000
"""Above, one thread may take longer than the plan and the threads of Polars: with 100,000 rows it does for most."""

_FAILURES: Final = (StepError, pl.exceptions.PolarsError, OverflowError)


@dataclass(frozen=True, slots=True)
class Rows:
    """A frame as its columns, each of that height."""

    columns: dict[str, pl.Series]
    height: int


Value: TypeAlias = Callable[[Rows], pl.Series]
"""What computes an expression: a value for each row."""

Applied: TypeAlias = Callable[[Rows], Rows]


@dataclass
class FewSteps:
    """Consecutive steps, as far as they were told. Immutable once all are."""

    carried: Sequence[str]
    _steps: list[Applied] | None = field(default_factory=list)

    def add(self, step: Step, schema: pa.Schema) -> None:
        """Put a step behind the others; after one that is not known here all go to Polars."""
        applied = _applied(step, schema, self.carried)
        self._steps = None if self._steps is None or applied is None else [*self._steps, applied]

    def applied(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[int]] | None:
        """Return the frame after the steps, and how many rows each gave; None if Polars has to compute it."""
        if self._steps is None or not 0 < frame.height <= FEW_ROWS_MAX:
            return None
        rows = Rows({column.name: column for column in frame.get_columns()}, frame.height)
        heights = []
        try:
            for step in self._steps:
                rows = step(rows)
                heights.append(rows.height)
        except _FAILURES:
            return None
        return pl.DataFrame(list(rows.columns.values())), heights


def _applied(step: Step, schema: pa.Schema, carried: Sequence[str]) -> Applied | None:
    match step:
        case Filter(condition=condition):
            kept = value_of(condition, schema)
            return None if kept is None else lambda rows: _filtered(rows, kept(rows))
        case WithColumns(columns=columns):
            added = _values(columns, schema)
            return None if added is None else lambda rows: _with(rows, rows.columns, added)
        case Select(columns=columns):
            chosen = _values(columns, schema)
            if chosen is None:
                return None
            return lambda rows: _with(
                rows, {}, chosen, {name: rows.columns[name] for name in carried}
            )
    return None


def _values(
    columns: Sequence[tuple[str, Expression]], schema: pa.Schema
) -> list[tuple[str, Value]] | None:
    values = [(name, value) for name, e in columns if (value := value_of(e, schema)) is not None]
    return values if len(values) == len(columns) else None


def _filtered(rows: Rows, kept: pl.Series) -> Rows:
    columns = {name: column.filter(kept) for name, column in rows.columns.items()}
    return Rows(columns, int(kept.sum()))


def _with(
    rows: Rows,
    before: Mapping[str, pl.Series],
    values: Sequence[tuple[str, Value]],
    behind: Mapping[str, pl.Series] | None = None,
) -> Rows:
    """Return the columns of before, and the values, all computed of the same rows."""
    computed = {name: value(rows).alias(name) for name, value in values}
    return Rows({**before, **computed, **(behind or {})}, rows.height)


def value_of(expression: Expression, schema: pa.Schema) -> Value | None:
    """Return what computes an expression that was checked against ``schema``; None if it is left to Polars."""
    kind = infer(expression, schema, where=expression.text())
    if kind != NULL and not columns_of(expression):
        return _constant(compiled(expression, schema))
    parts = [value_of(child, schema) for child in expression.children()]
    operands = [part for part in parts if part is not None]
    if len(operands) < len(parts) or kind == NULL:
        return None
    match expression:
        case Column(name=name):
            return lambda rows: rows.columns[name]
        case Binary():
            return _binary(expression, schema, *operands)
        case Call():
            return _call(expression, kind, *operands)
        case FillNull():
            return _filled(dtype(kind), *operands)
        case Cast():
            return _cast(expression, schema, *operands)
        case Conditional():
            return _conditional(dtype(kind), operands)
    return None


def _constant(expression: pl.Expr) -> Value | None:
    """Return what gives the same value for each row; in a plan one that cannot be computed fails whatever the rows."""
    try:
        constant = pl.select(expression).to_series()
    except _FAILURES:
        return None
    return lambda rows: constant.new_from_index(0, rows.height)


def _binary(expression: Binary, schema: pa.Schema, left: Value, right: Value) -> Value | None:
    operator, text = expression.operator, expression.text()
    kinds = [infer(side, schema, where=text) for side in (expression.left, expression.right)]
    if operator in PLAIN:
        plain = PLAIN[operator]
        return lambda rows: plain(left(rows), right(rows))
    if not all(map(is_number, kinds)):
        return None  # texts that are put together, times and durations
    if kinds == [INTEGER, INTEGER] and operator == "mod":
        return lambda rows: left(rows) % right(rows)
    if kinds == [INTEGER, INTEGER] and operator in SERIES:
        return lambda rows: exact(operator, left(rows), right(rows), text)
    function = _divided if operator in QUOTIENTS else _floating
    return lambda rows: function(
        operator, left(rows).cast(pl.Float64), right(rows).cast(pl.Float64)
    )


def _floating(operator: str, left: pl.Series, right: pl.Series) -> pl.Series:
    result: pl.Series = FLOATING[operator](left, right)
    return result


def _divided(operator: str, left: pl.Series, right: pl.Series) -> pl.Series:
    with np.errstate(all="ignore"):
        both = pl.Series(QUOTIENTS[operator](left.to_numpy(), right.to_numpy()))
    return _where((right != 0) & left.is_not_null(), both, pl.Series([None], dtype=pl.Float64))


def _call(expression: Call, kind: pa.DataType, operand: Value) -> Value:
    function, arguments, text = expression.function, expression.arguments, expression.text()
    if function not in ("neg", "abs"):
        return lambda rows: CALLS[function](operand(rows), *arguments)
    is_negative = function == "neg"

    def signed(rows: Rows) -> pl.Series:
        values = operand(rows)
        if kind == INTEGER:
            negative = exact("sub", pl.zeros(rows.height, pl.Int64, eager=True), values, text)
            return negative if is_negative else values.abs()
        return -values if is_negative else values.abs()

    return signed


def _filled(common: pl.DataType, operand: Value, value: Value) -> Value:
    def filled(rows: Rows) -> pl.Series:
        first = operand(rows).cast(common)
        return _where(first.is_not_null(), first, value(rows).cast(common))

    return filled


def _cast(expression: Cast, schema: pa.Schema, operand: Value) -> Value | None:
    source = infer(expression.operand, schema, where=expression.text())
    if source == expression.kind:
        return operand
    if (source, expression.kind) == (INTEGER, BOOLEAN):
        return lambda rows: operand(rows) != 0
    if (source, expression.kind) == (DATE, TIMESTAMP):
        return None
    target = dtype(expression.kind)
    return lambda rows: operand(rows).cast(target, strict=True)


def _conditional(common: pl.DataType, operands: Sequence[Value]) -> Value:
    *branches, otherwise = operands

    def chosen(rows: Rows) -> pl.Series:
        result = otherwise(rows).cast(common)
        for condition, value in reversed(list(zip(branches[::2], branches[1::2], strict=True))):
            result = _where(condition(rows), value(rows).cast(common), result)
        return result

    return chosen


def _where(condition: pl.Series, then: pl.Series, otherwise: pl.Series) -> pl.Series:
    """Return the one where it is true, the other where it is false or null."""
    if condition.null_count():
        condition = condition.fill_null(value=False)
    return then.zip_with(condition, otherwise)
