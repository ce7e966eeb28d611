"""Typed columns: from Python types to Arrow, and data made to fit or refused.

A topic's schema is an Arrow schema. The short form maps a column's name to a Python type; a type with ``| None`` may be
null. Integers are 64 bits wide and timestamps are UTC microseconds unless an Arrow type says otherwise.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NewType, TypeAlias

import numpy as np
import pyarrow as pa

from millstream.primitives.errors import SchemaError

Timestamp = NewType("Timestamp", datetime)
"""A point in time: UTC, microseconds."""

TIMESTAMP = pa.timestamp("us", "UTC")

SchemaLike: TypeAlias = "Mapping[str, Any] | pa.Schema"

_ARROW_OF: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    date: pa.date32(),
    datetime: TIMESTAMP,
    Timestamp: TIMESTAMP,
    timedelta: pa.duration("us"),
    Decimal: pa.decimal128(38, 9),
}


def to_arrow_schema(schema: SchemaLike) -> pa.Schema:
    """Return the Arrow schema of a mapping of names to types (or of an Arrow schema, checked).

    Raises SchemaError for an empty schema, a name twice or a type that cannot be a column.
    """
    if isinstance(schema, pa.Schema):
        fields = [_plain_field(field) for field in schema]
    elif not isinstance(schema, Mapping):
        raise SchemaError(
            f"{schema!r} is no schema",
            expected='for example {"user": str, "at": ms.Timestamp}, or a pyarrow schema',
            next_step="map the name of each column to its type",
        )
    else:
        fields = [_field(name, kind) for name, kind in schema.items()]
    names = [field.name for field in fields]
    if not names or len(set(names)) != len(names):
        raise SchemaError(
            "a schema needs at least one column, and each name once",
            where=", ".join(names),
            expected='for example {"user": str, "at": ms.Timestamp}',
            next_step="name each column, once",
        )
    return pa.schema(fields)


def _plain_field(field: pa.Field) -> pa.Field:
    # A dictionary is an encoding, not a type of data: frames carry no dictionaries.
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind, nullable=field.nullable)


def _field(name: str, kind: Any) -> pa.Field:  # noqa: ANN401 - types are values here
    nullable = False
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        nullable = len(inner) < len(typing.get_args(kind))
        kind = inner[0] if len(inner) == 1 else kind
    return pa.field(name, _arrow_type(name, kind), nullable=nullable)


def _arrow_type(name: str, kind: Any) -> pa.DataType:  # noqa: ANN401
    if isinstance(kind, pa.DataType):
        return kind
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return pa.list_(_arrow_type(name, item))
    try:
        return _ARROW_OF[kind]
    except (KeyError, TypeError):
        known = ", ".join(sorted(getattr(k, "__name__", str(k)) for k in _ARROW_OF))
        raise SchemaError(
            f"{kind!r} cannot be the type of a column",
            where=f"column {name!r}",
            expected=f"one of {known}, list[…] of one of them, or a pyarrow type",
            next_step="write `| None` behind the type if the column may be null",
        ) from None


def describe(schema: pa.Schema) -> str:
    """Return a schema in one line for messages: ``user: string not null, n: int64``."""
    return ", ".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema)


def conform(table: pa.RecordBatch | pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return ``table`` as a table of exactly ``schema``: columns by name, safe casts only.

    Nullable columns that are missing become null. Raises SchemaError for a missing or unknown column, a value that
    does not fit, or a null where none may be; nothing is changed then.
    """
    if isinstance(table, pa.RecordBatch):
        if table.schema.equals(schema):
            _refuse_nulls(table, schema, where=where)
            return pa.Table.from_batches([table])
        table = pa.Table.from_batches([table])
    elif table.schema.equals(schema):
        _refuse_nulls(table, schema, where=where)
        return table
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown:
        raise SchemaError(
            f"unknown column {unknown[0]!r}",
            where=where,
            expected=describe(schema),
            next_step="drop the column, or make a topic that has it",
        )
    twice = [name for name in schema.names if table.column_names.count(name) > 1]
    if twice:
        raise SchemaError(
            f"column {twice[0]!r} is there twice",
            where=where,
            expected=describe(schema),
            next_step="drop or rename one of them",
        )
    columns = [_conform_column(table, field, where=where) for field in schema]
    result = pa.Table.from_arrays(columns, schema=schema)
    _refuse_nulls(result, schema, where=where)
    return result


def _conform_column(table: pa.Table, field: pa.Field, *, where: str) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        if field.nullable:
            return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        raise missing_column(field, where=where)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if not _is_same_sort(column.type, field.type):
        raise _other_type(column.type, field, "it is another sort of value", where=where)
    try:
        return column.cast(field.type, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _other_type(column.type, field, str(error), where=where) from error


def _other_type(kind: pa.DataType, field: pa.Field, why: str, *, where: str) -> SchemaError:
    return SchemaError(
        f"column {field.name!r} is {kind} and does not fit {field.type}: {why}",
        where=where,
        expected=str(field.type),
        next_step="cast the column before it is appended",
    )


def _is_same_sort(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether values of one type may become the other: Arrow would parse a text as a number, and call true 1."""
    if pa.types.is_dictionary(kind):
        return _is_same_sort(kind.value_type, wanted)
    if _is_list(kind) and _is_list(wanted):
        return _is_same_sort(kind.value_type, wanted.value_type)
    return pa.types.is_null(kind) or _sort_of(kind) == _sort_of(wanted)


def _sort_of(kind: pa.DataType) -> str:
    for sort, belongs in _SORTS.items():
        if any(test(kind) for test in belongs):
            return sort
    return "number"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def missing_column(field: pa.Field, *, where: str) -> SchemaError:
    """Return the error for a column that is not there."""
    return SchemaError(
        f"column {field.name!r} is missing",
        where=where,
        expected=f"{field.name}: {field.type}",
        next_step="give it a value, or declare the column with `| None`",
    )


def _refuse_nulls(data: pa.RecordBatch | pa.Table, schema: pa.Schema, *, where: str) -> None:
    # Nulls first: to count them is cheaper than to ask the schema for a field.
    for index, column in enumerate(data.columns):
        if column.null_count and not schema.field(index).nullable:
            field = schema.field(index)
            raise SchemaError(
                f"column {field.name!r} holds a null",
                where=where,
                expected=f"{field.name}: {field.type} not null",
                next_step="give it a value, or declare the column with `| None`",
            )


def rows_to_batch(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, *, where: str
) -> pa.RecordBatch:
    """Return events given as dicts as one batch of ``schema``. Raises SchemaError, naming the event and column."""
    names = set(schema.names)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise SchemaError(
                f"event {index} is a {type(row).__name__}",
                where=where,
                expected="a dict of column names to values, a pyarrow Table or RecordBatch, or a Polars frame",
                next_step="name the columns of its values",
            )
        if row.keys() - names:
            unknown = sorted(map(str, row.keys() - names))[0]
            raise SchemaError(
                f"unknown column {unknown!r} in event {index}",
                where=where,
                expected=describe(schema),
                next_step="drop the column, or make a topic that has it",
            )
    arrays = [_column_of(rows, field, where=where) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column_of(rows: Sequence[Mapping[str, Any]], field: pa.Field, *, where: str) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if not field.nullable and None in values:
        index = values.index(None)
        if field.name not in rows[index]:
            raise missing_column(field, where=f"{where}, event {index}")
        raise SchemaError(
            f"column {field.name!r} is null in event {index}",
            where=where,
            expected=f"{field.name}: {field.type} not null",
            next_step="give it a value, or declare the column with `| None`",
        )
    if pa.types.is_timestamp(field.type):
        _refuse_naive(values, field, where=where)
    if _is_cut_short(values, field.type):
        raise _other_value(field, "a number with a fraction", where=where)
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError) as error:
        raise _other_value(field, str(error), where=where) from error


def _other_value(field: pa.Field, why: str, *, where: str) -> SchemaError:
    return SchemaError(
        f"a value of column {field.name!r} does not fit: {why}",
        where=where,
        expected=f"{field.name}: {field.type}",
        next_step="convert the value before it is appended",
    )


def _is_cut_short(values: Iterable[Any], kind: pa.DataType) -> bool:
    """Return whether Arrow would store a value without its fraction: it makes 1 of 1.5, and says nothing."""
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return any(isinstance(value, _FRACTIONS) and not _is_whole(value) for value in values)
    if _is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = (item for value in values if isinstance(value, Iterable) for item in value)
        return _is_cut_short(inner, kind.value_type)
    if pa.types.is_struct(kind):
        rows = [value for value in values if isinstance(value, Mapping)]
        return any(
            _is_cut_short([row.get(field.name) for row in rows], field.type) for field in kind
        )
    return False


def _is_whole(value: Any) -> bool:  # noqa: ANN401
    try:
        return bool(value == int(value))
    except (ValueError, ArithmeticError):
        return False  # infinite, or no number


def _refuse_naive(values: Sequence[Any], field: pa.Field, *, where: str) -> None:
    if field.type.tz is None:
        return
    for index, value in enumerate(values):
        if isinstance(value, datetime) and value.tzinfo is None:
            raise SchemaError(
                f"column {field.name!r} of event {index} is a datetime without a time zone",
                where=where,
                expected="an aware datetime: a time without a zone is a different moment in each place",
                next_step="use datetime.now(UTC), or .replace(tzinfo=…)",
            )


def datetime_us(value: datetime) -> int:
    """Return UTC microseconds since the epoch of an aware datetime. Raises SchemaError for a naive one."""
    if value.tzinfo is None:
        raise SchemaError(
            "a datetime without a time zone",
            expected="an aware datetime",
            next_step="use datetime.now(UTC), or .replace(tzinfo=…)",
        )
    return (value - _EPOCH) // _MICROSECOND


def us_datetime(microseconds: int) -> datetime:
    """Return the aware UTC datetime of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=microseconds)


def schema_to_bytes(schema: pa.Schema) -> bytes:
    """Return the Arrow IPC message of a schema."""
    return bytes(schema.serialize())


def schema_from_bytes(data: bytes) -> pa.Schema:
    """Return the schema of an Arrow IPC message."""
    return pa.ipc.read_schema(pa.py_buffer(data))


_SORTS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "text": (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    ),
    "truth": (pa.types.is_boolean,),
    "date": (pa.types.is_date,),
    "nested": (pa.types.is_nested,),
}
_FRACTIONS = (float, Decimal, np.floating)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
