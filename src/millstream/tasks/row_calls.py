"""Calls made of rows: a column is the argument of the same name. What a flow enqueues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec
from msgspec import inspect

from millstream.tasks.arguments import Arguments
from millstream.tasks.message import TaskMessage
from millstream.tasks.signature import Signature

_OPEN = (inspect.AnyType, inspect.CustomType, inspect.RawType, inspect.ExtType)
"""Types that take values only they know: whether a value fits is seen when there is one."""
_TEXT = (
    inspect.StrType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
)
_TAKES: Mapping[type, tuple[type[inspect.Type], ...]] = {
    bool: (inspect.BoolType,),
    int: (inspect.IntType, inspect.FloatType, inspect.DecimalType),
    float: (inspect.FloatType, inspect.DecimalType),
    str: _TEXT,
    bytes: (inspect.BytesType, inspect.ByteArrayType, inspect.MemoryViewType),
    datetime: (inspect.DateTimeType,),
    date: (inspect.DateType,),
    timedelta: (inspect.TimeDeltaType,),
}


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What the columns of a row are given to: parameters of the task, or the fields of its only one."""

    takes: Mapping[str, inspect.Type]
    required: tuple[str, ...]
    any_name: bool = False
    record: str | None = None
    """The parameter that takes the whole row: a dataclass, a struct or a typed dict."""


class RowCalls:
    """A call for each row: what ``call`` has already, and the row's columns by name. Immutable; any thread.

    A task of one parameter that is a dataclass, a struct or a typed dict takes the row as that.
    """

    def __init__(self, call: Signature[Any]) -> None:
        """Nothing is checked before ``misfit``."""
        self._call = call

    @property
    def name(self) -> str:
        """The name of the task."""
        name: str = self._call.task.name
        return name

    @property
    def text(self) -> str:
        """The task with its parameters."""
        return str(self._call.task.arguments)

    @cached_property
    def _given(self) -> set[str]:
        arguments: Arguments = self._call.task.arguments
        return arguments.names_given(self._call.args, self._call.kwargs)

    @cached_property
    def _parameters(self) -> _Parameters:
        arguments: Arguments = self._call.task.arguments
        takes = arguments.by_name()
        left = [name for name in takes if name not in self._given]
        if len(left) == 1 and not arguments.takes_any_name:
            fields = _fields_of(takes[left[0]])
            if fields is not None:
                required = tuple(field.encode_name for field in fields if field.required)
                kinds = {field.encode_name: field.type for field in fields}
                return _Parameters(kinds, required, record=left[0])
        required = tuple(p.name for p in arguments.parameters if p.required)
        return _Parameters(takes, required, arguments.takes_any_name)

    def takes(self, name: str) -> bool:
        """Return whether there can be an argument, or a field of the only one, of that name."""
        return name in self._parameters.takes or self._parameters.any_name

    def misfit(self, columns: Mapping[str, type | None]) -> str | None:
        """Return why rows of these columns do not make calls, or None when they do.

        A column has the Python type of its values, or None for one that is not known here: of those each value is
        checked. Every column is an argument, and every parameter without a default has a column or a value of the call.
        """
        call = self._call
        if call.link or call.link_error:
            return "the call has callbacks, which are sent with `delay` alone"
        if call.task_id is not None:
            return "all rows would have the same task_id"
        parameters = self._parameters
        given = set() if parameters.record is not None else self._given
        what = "parameter" if parameters.record is None else f"field of {parameters.record!r}"
        for name, kind in columns.items():
            if name in given:
                return f"{name!r} is a column, and the call has a value for it too"
            if name in parameters.takes:
                if kind is not None and not _takes(parameters.takes[name], kind):
                    return f"the column {name!r} is {kind.__name__}, which the {what} does not take"
            elif not parameters.any_name:
                return f"the column {name!r} is no {what}" + (
                    " of the task" if parameters.record is None else ""
                )
        here = given | set(columns)
        missing = [name for name in parameters.required if name not in here]
        return f"there is no column {', '.join(map(repr, missing))}" if missing else None

    def message(self, row: Mapping[str, Any], *, task_id: str | None, now_us: int) -> TaskMessage:
        """Return the call of one row as it is stored. Raises TaskArgumentError for a value that does not fit."""
        call, record = self._call, self._parameters.record
        arguments = row if record is None else {record: row}
        kwargs = {**call.kwargs, **arguments}
        return msgspec.structs.replace(call, kwargs=kwargs, task_id=task_id).message(now_us)


def _fields_of(parameter: inspect.Type) -> tuple[inspect.Field, ...] | None:
    """Return the fields of a type that is stored as a map of them."""
    if isinstance(parameter, inspect.Metadata):
        return _fields_of(parameter.type)
    if isinstance(parameter, inspect.DataclassType | inspect.TypedDictType):
        return parameter.fields
    if isinstance(parameter, inspect.StructType) and not parameter.array_like:
        return parameter.fields if parameter.tag is None else None
    return None


def _takes(parameter: inspect.Type, kind: type) -> bool:
    if isinstance(parameter, inspect.Metadata):
        return _takes(parameter.type, kind)
    if isinstance(parameter, inspect.UnionType):
        return any(_takes(member, kind) for member in parameter.types)
    if isinstance(parameter, inspect.LiteralType):
        return any(type(value) is kind for value in parameter.values)
    if isinstance(parameter, inspect.EnumType):
        return any(type(member.value) is kind for member in parameter.cls)
    return isinstance(parameter, (*_OPEN, *_TAKES[kind]))
