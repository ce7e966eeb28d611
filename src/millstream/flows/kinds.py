"""The types that flows compute with, and how the types of the outside become them.

Inside a flow an integer is 64 bits, a float is 64 bits, text is UTF-8 and a timestamp is UTC microseconds, whatever
the source stores. So a rule about a type is written, documented and tested once, and is the same on every engine.
Decimals have an order, and can be added up; columns of other types (lists, structs, …) pass through untouched. Only
arithmetic on them is refused.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from millstream.primitives.errors import PlanError, SchemaError
from millstream.primitives.schema import TIMESTAMP, Timestamp, datetime_us, to_arrow_schema

INTEGER = pa.int64()
FLOAT = pa.float64()
TEXT = pa.string()
BOOLEAN = pa.bool_()
BINARY = pa.binary()
DATE = pa.date32()
DURATION = pa.duration("us")
NULL = pa.null()

LiteralValue = bool | int | float | str | bytes | datetime | date | timedelta | None

_OF_PYTHON: dict[Any, pa.DataType] = {
    bool: BOOLEAN,
    int: INTEGER,
    float: FLOAT,
    str: TEXT,
    bytes: BINARY,
    date: DATE,
    datetime: TIMESTAMP,
    Timestamp: TIMESTAMP,
    timedelta: DURATION,
}
_TO_PYTHON: dict[pa.DataType, type] = {
    BOOLEAN: bool,
    INTEGER: int,
    FLOAT: float,
    TEXT: str,
    BINARY: bytes,
    DATE: date,
    TIMESTAMP: datetime,
    DURATION: timedelta,
}
_ORDERED = (INTEGER, FLOAT, TEXT, BOOLEAN, BINARY, DATE, TIMESTAMP, DURATION)
_INTEGER_MAX = 2**63 - 1
RESERVED_PREFIX: Final = "__ms_"
"""Columns of engines begin so."""


def widened(kind: pa.DataType) -> pa.DataType:
    """Return the type a flow computes with for a column stored as ``kind``."""
    if pa.types.is_dictionary(kind):
        return widened(kind.value_type)
    if pa.types.is_integer(kind):
        return INTEGER
    if pa.types.is_floating(kind):
        return FLOAT
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or kind == pa.string_view():
        return TEXT
    if pa.types.is_large_binary(kind) or kind == pa.binary_view():
        return BINARY
    if pa.types.is_timestamp(kind):
        return TIMESTAMP
    if pa.types.is_duration(kind):
        return DURATION
    if pa.types.is_date(kind):
        return DATE
    return kind


def widened_schema(schema: pa.Schema, *, where: str = "read") -> pa.Schema:
    """Return the schema a flow sees of a source; every column may be null.

    Raises PlanError for a name that no column of a flow may have: see ``refuse_name``.
    """
    for name in schema.names:
        if name:  # A CSV file may have one without a name.
            refuse_name(name, where=where)
    return pa.schema([pa.field(field.name, widened(field.type)) for field in schema])


def refuse_name(name: str, *, where: str) -> None:
    """Raise PlanError for a name that is empty, kept for engines, or that Polars takes for a pattern of names."""
    is_pattern = name == "*" or (name.startswith("^") and name.endswith("$"))
    if not name or name.startswith(RESERVED_PREFIX) or is_pattern:
        raise PlanError(
            f"{name!r} cannot be the name of a column",
            where=where,
            expected=f"a non-empty text that does not begin with {RESERVED_PREFIX!r}, and is neither '*' nor a pattern "
            "such as '^…$'",
            next_step="choose another name; of a column that is read, where it is written",
        )


def kind_named(kind: object, *, where: str) -> pa.DataType:
    """Return the type meant by a Python type or an Arrow type. Raises PlanError for another."""
    if isinstance(kind, pa.DataType):
        return widened(kind)
    try:
        return _OF_PYTHON[kind]
    except (KeyError, TypeError):
        raise PlanError(
            f"{kind!r} is not a type that a flow computes with",
            where=where,
            expected="bool, int, float, str, bytes, date, ms.Timestamp or a pyarrow type",
            next_step="name one of these types",
        ) from None


def column_kind_named(kind: object, *, where: str) -> pa.DataType:
    """Return the type meant by a type as schemas name it, also ``list[int]`` and ``float | None``.

    Raises PlanError for another.
    """
    try:
        return widened(to_arrow_schema({"value": kind}).field(0).type)
    except SchemaError as error:
        raise PlanError(
            f"{kind!r} is not a type that a flow computes with",
            where=where,
            expected=error.expected,
            next_step="name one of these types",
        ) from error


def python_type(kind: pa.DataType) -> type | None:
    """Return the type of the values of a column in Python; None for a type that flows only pass through."""
    return _TO_PYTHON.get(kind)


def literal_kind(value: object) -> pa.DataType:
    """Return the type of a literal. Raises PlanError for a value that cannot be one."""
    if value is None:
        return NULL
    if isinstance(value, int) and not isinstance(value, bool):
        if not -_INTEGER_MAX - 1 <= value <= _INTEGER_MAX:
            raise PlanError(
                f"the literal {value} does not fit in 64 bits",
                expected="an integer between -2^63 and 2^63 - 1",
                next_step="use a float",
            )
        return INTEGER
    if isinstance(value, datetime) and value.tzinfo is None:
        raise PlanError(
            f"the literal {value!r} has no time zone",
            expected="an aware datetime: timestamps are points in UTC",
            next_step="add tzinfo=UTC",
        )
    for kind, arrow in _OF_PYTHON.items():
        if type(value) is kind:
            return arrow
    raise PlanError(
        f"{value!r} cannot be a literal",
        expected="a bool, int, float, str, bytes, date, aware datetime, timedelta or None",
        next_step='for a column write ms.col("name")',
    )


def literal_text(value: LiteralValue) -> str:
    """Return the canonical text of a literal, for plans and fingerprints."""
    if isinstance(value, datetime):
        return f"timestamp({datetime_us(value)} us)"
    if isinstance(value, timedelta):
        return f"duration({value // timedelta(microseconds=1)} us)"
    return repr(value)


def is_number(kind: pa.DataType) -> bool:
    """Return whether arithmetic means something for the type."""
    return bool(kind in (INTEGER, FLOAT))


def is_ordered(kind: pa.DataType) -> bool:
    """Return whether values of the type have a least and a greatest."""
    return bool(kind in _ORDERED) or is_decimal(kind)


def is_decimal(kind: pa.DataType) -> bool:
    """Return whether it is a decimal of at most 38 digits."""
    return bool(pa.types.is_decimal128(kind))


def unified(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Return the type that holds values of both, or None if there is none."""
    if left == right or right == NULL:
        return left
    if left == NULL:
        return right
    if is_number(left) and is_number(right):
        return FLOAT
    return None
