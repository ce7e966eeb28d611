"""Which type an expression has over a schema, or why it has none.

Everything here runs when a plan is built, so a wrong column or type never reaches the data.
"""

from __future__ import annotations

import difflib

import pyarrow as pa

from millstream.flows.expression import (
    BINARY_SIGNS,
    Binary,
    Call,
    Cast,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
)
from millstream.flows.kinds import (
    BOOLEAN,
    DATE,
    DURATION,
    FLOAT,
    INTEGER,
    NULL,
    TEXT,
    is_number,
    is_ordered,
    literal_kind,
    unified,
)
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe

_ARITHMETIC = ("add", "sub", "mul", "div", "floordiv", "mod")
_OTHER_SUMS = {
    ("add", TEXT, TEXT): TEXT,
    ("add", TIMESTAMP, DURATION): TIMESTAMP,
    ("add", DURATION, TIMESTAMP): TIMESTAMP,
    ("add", DURATION, DURATION): DURATION,
    ("sub", TIMESTAMP, TIMESTAMP): DURATION,
    ("sub", TIMESTAMP, DURATION): TIMESTAMP,
    ("sub", DURATION, DURATION): DURATION,
}
# function: (what the operand must be, for people; the types; the result, None for the operand's own)
_CALLS: dict[str, tuple[str, tuple[pa.DataType, ...], pa.DataType | None]] = {
    "neg": ("a number or a duration", (INTEGER, FLOAT, DURATION), None),
    "abs": ("a number or a duration", (INTEGER, FLOAT, DURATION), None),
    "not": ("a boolean", (BOOLEAN,), BOOLEAN),
    "is_nan": ("a float", (FLOAT,), BOOLEAN),
    "lower": ("text", (TEXT,), TEXT),
    "upper": ("text", (TEXT,), TEXT),
    "length": ("text", (TEXT,), INTEGER),
    "contains": ("text", (TEXT,), BOOLEAN),
    "starts_with": ("text", (TEXT,), BOOLEAN),
    "like": ("text", (TEXT,), BOOLEAN),
    "year": ("a timestamp or a date", (TIMESTAMP, DATE), INTEGER),
    "month": ("a timestamp or a date", (TIMESTAMP, DATE), INTEGER),
    "day": ("a timestamp or a date", (TIMESTAMP, DATE), INTEGER),
    "hour": ("a timestamp", (TIMESTAMP,), INTEGER),
    "weekday": ("a timestamp or a date", (TIMESTAMP, DATE), INTEGER),
    "truncate": ("a timestamp", (TIMESTAMP,), TIMESTAMP),
}
_CASTS = {
    (INTEGER, FLOAT), (INTEGER, TEXT), (INTEGER, BOOLEAN), (INTEGER, TIMESTAMP), (INTEGER, DURATION),
    (FLOAT, INTEGER), (BOOLEAN, INTEGER), (BOOLEAN, FLOAT), (TEXT, INTEGER), (TEXT, FLOAT),
    (TIMESTAMP, INTEGER), (TIMESTAMP, DATE), (DATE, TIMESTAMP), (DURATION, INTEGER),
}  # fmt: skip


def infer(expression: Expression, schema: pa.Schema, *, where: str) -> pa.DataType:
    """Return the type of ``expression`` over ``schema``.

    Raises PlanError naming ``where``, the part that is wrong, and what would fit.
    """
    match expression:
        case Column(name=name):
            return column_kind(name, schema, where=where)
        case Literal(value=value):
            return literal_kind(value)
        case Binary():
            return _binary(expression, schema, where)
        case Call():
            return _call(expression, schema, where)
        case FillNull(operand=operand, value=value):
            return _same(expression, (operand, value), schema, where)
        case Cast():
            return _cast(expression, schema, where)
        case Conditional(branches=branches, otherwise=otherwise):
            for condition, _ in branches:
                _must_be(condition, (BOOLEAN, NULL), "a boolean", schema, where)
            values = (*(value for _, value in branches), otherwise)
            return _same(expression, values, schema, where)
    raise PlanError(f"{expression!r} is not an expression of this library", where=where)


def column_kind(name: str, schema: pa.Schema, *, where: str) -> pa.DataType:
    """Return the type of a column. Raises PlanError naming what is available."""
    if not isinstance(name, str):
        raise PlanError(
            f"{name!r} is no name of a column",
            where=where,
            expected="a text",
            next_step="compute a column with with_columns(name=…), and name that",
        )
    index = schema.get_field_index(name)
    if index < 0:
        same = [known for known in schema.names if known.casefold() == name.casefold()]
        close = same or difflib.get_close_matches(name, schema.names, n=1)
        raise PlanError(
            f"there is no column {name!r}",
            where=where,
            expected=f"one of: {describe(schema)}",
            next_step=f"did you mean {close[0]!r}?" if close else "name one of these columns",
        )
    return schema.field(index).type


def check_event_time(name: str, schema: pa.Schema, *, where: str) -> None:
    """Raise PlanError unless the column is there and holds timestamps."""
    kind = column_kind(name, schema, where=where)
    if kind != TIMESTAMP:
        raise PlanError(
            f"column {name!r} is {kind}, so it cannot say when an event happened",
            where=where,
            expected="a timestamp column",
            next_step=f"add with_columns({name}=ms.col({name!r}).cast(ms.Timestamp))",
        )


def _binary(expression: Binary, schema: pa.Schema, where: str) -> pa.DataType:
    left = infer(expression.left, schema, where=where)
    right = infer(expression.right, schema, where=where)
    if expression.operator in ("and", "or"):
        fits = all(kind in (BOOLEAN, NULL) for kind in (left, right))
        result = BOOLEAN if fits else None
    elif expression.operator in _ARITHMETIC:
        result = _arithmetic(expression.operator, left, right)
    else:
        common = unified(left, right)
        comparable = common is not None and (is_ordered(common) or common == NULL)
        result = BOOLEAN if comparable else None
    if result is None:
        raise PlanError(
            f"{expression.text()}: {BINARY_SIGNS[expression.operator]} does not fit "
            f"{left} and {right}",
            where=where,
            expected=_operands_expected(expression.operator),
            next_step="cast one side, for example .cast(float)",
        )
    return result


def _arithmetic(operator: str, left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if NULL in (left, right):
        other = right if left == NULL else left
        fits = is_number(other) or other == NULL
        return (FLOAT if operator == "div" or other == NULL else other) if fits else None
    if is_number(left) and is_number(right):
        return INTEGER if left == right == INTEGER and operator != "div" else FLOAT
    return _OTHER_SUMS.get((operator, left, right))


def _operands_expected(operator: str) -> str:
    if operator in ("and", "or"):
        return "two booleans"
    if operator in ("add", "sub"):
        return "two numbers, two texts to put together, or timestamps and durations"
    if operator in _ARITHMETIC:
        return "two numbers"
    return "two numbers, or two values of one type that has an order"


def _call(expression: Call, schema: pa.Schema, where: str) -> pa.DataType:
    kind = infer(expression.operand, schema, where=where)
    if expression.function in ("is_null", "is_not_null"):
        return BOOLEAN
    words, allowed, result = _CALLS[expression.function]
    if kind not in allowed:
        raise PlanError(
            f"{expression.text()}: {expression.function} does not fit {kind}",
            where=where,
            expected=words,
            next_step="cast the operand, or choose another column",
        )
    return kind if result is None else result


def _cast(expression: Cast, schema: pa.Schema, where: str) -> pa.DataType:
    kind = infer(expression.operand, schema, where=where)
    decimal = pa.types.is_decimal(kind) and is_number(expression.kind)
    if kind in (expression.kind, NULL) or decimal or (kind, expression.kind) in _CASTS:
        return expression.kind
    targets = [str(target) for source, target in _CASTS if source == kind]
    raise PlanError(
        f"{expression.text()}: {kind} cannot be cast to {expression.kind}",
        where=where,
        expected=f"one of {', '.join(sorted(targets))}" if targets else "a column of another type",
        next_step="convert it in map_batches, where the meaning is yours",
    )


def _same(
    expression: Expression, operands: tuple[Expression, ...], schema: pa.Schema, where: str
) -> pa.DataType:
    result = NULL
    for operand in operands:
        kind = infer(operand, schema, where=where)
        common = unified(result, kind)
        if common is None:
            raise PlanError(
                f"{expression.text()} would be {result} in one case and {kind} in another",
                where=where,
                expected="values of one type",
                next_step=f"cast {operand.text()}",
            )
        result = common
    return result


def _must_be(
    expression: Expression,
    kinds: tuple[pa.DataType, ...],
    words: str,
    schema: pa.Schema,
    where: str,
) -> None:
    kind = infer(expression, schema, where=where)
    if kind not in kinds:
        raise PlanError(
            f"{expression.text()} is {kind}",
            where=where,
            expected=words,
            next_step="compare it with a value",
        )


def check_condition(expression: Expression, schema: pa.Schema, *, where: str) -> None:
    """Raise PlanError unless ``expression`` is a boolean over ``schema``."""
    _must_be(expression, (BOOLEAN,), "a boolean", schema, where)
