"""Calls made of rows: a column is the argument of the same name. What a flow enqueues."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
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


class RowCalls:
    """A call for each row: what ``call`` has already, and the row's columns by name. Immutable; any thread."""

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

    def takes(self, name: str) -> bool:
        """Return whether there can be an argument of that name."""
        arguments: Arguments = self._call.task.arguments
        return name in arguments.by_name() or arguments.takes_any_name

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
        arguments: Arguments = call.task.arguments
        given = arguments.names_given(call.args, call.kwargs)
        takes = arguments.by_name()
        for name, kind in columns.items():
            if name in given:
                return f"{name!r} is a column, and the call has a value for it too"
            if name in takes:
                if kind is not None and not _takes(takes[name], kind):
                    return (
                        f"the column {name!r} is {kind.__name__}, which the parameter does not take"
                    )
            elif not arguments.takes_any_name:
                return f"the column {name!r} is no parameter of the task"
        here = given | set(columns)
        missing = [p.name for p in arguments.parameters if p.required and p.name not in here]
        return f"there is no column {', '.join(map(repr, missing))}" if missing else None

    def message(self, row: Mapping[str, Any], *, task_id: str | None, now_us: int) -> TaskMessage:
        """Return the call of one row as it is stored. Raises TaskArgumentError for a value that does not fit."""
        call = self._call
        kwargs = {**call.kwargs, **row}
        return msgspec.structs.replace(call, kwargs=kwargs, task_id=task_id).message(now_us)


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
