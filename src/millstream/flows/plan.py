"""The plan of a flow: a source, steps and a sink, as frozen dataclasses.

A plan is checked while it is built: each step knows the schema it gets and gives, and refuses what
does not fit. Every step has a canonical ``text()``; two plans with equal texts do the same (for
``map_batches``: call the same function).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import pyarrow as pa

from millstream.flows.aggregate import Aggregate, aggregate_kind
from millstream.flows.expression import Column, Expression
from millstream.flows.inference import check_condition, column_kind, infer
from millstream.flows.kinds import INTEGER, NULL, TEXT, is_ordered, python_type
from millstream.flows.source import CallSink, RowCalls, Sink, Source
from millstream.flows.windows import WINDOW_END, WINDOW_START, Windows, exact_duration
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe

BatchFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
RESERVED_PREFIX = "__ms_"
"""Engines add columns of their own below this prefix; users' columns may not use it."""


class Step(Protocol):
    """One step of a plan."""

    @property
    def name(self) -> str:
        """What users call the step."""

    def text(self) -> str:
        """Return the canonical text."""

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema after the step. Raises PlanError if the step does not fit ``schema``."""


@dataclass(frozen=True)
class Filter:
    """Keeps the rows for which the condition is true; null is not true."""

    condition: Expression
    name: str = field(default="filter", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"filter({self.condition.text()})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the same schema."""
        check_condition(self.condition, schema, where=where)
        return schema


@dataclass(frozen=True)
class WithColumns:
    """Adds columns or replaces them; all are computed from the step's input."""

    columns: tuple[tuple[str, Expression], ...]
    name: str = field(default="with_columns", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"with_columns({_named(self.columns)})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the columns replaced in place or added at the end."""
        # All types come from the step's own input: a column replaced here is not seen here.
        fields = {f.name: f for f in schema}
        for name, expression in self.columns:
            fields[name] = _field(name, infer(expression, schema, where=where), where)
        return pa.schema(list(fields.values()))


@dataclass(frozen=True)
class Select:
    """Gives exactly these columns, in this order."""

    columns: tuple[tuple[str, Expression], ...]
    name: str = field(default="select", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"select({_named(self.columns)})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema of the columns."""
        names = [name for name, _ in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise PlanError(
                f"column {twice[0]!r} is selected twice" if twice else "nothing is selected",
                where=where,
                expected="at least one column, each name once",
                next_step="give one of them another name: select(other=ms.col(…))",
            )
        return pa.schema(
            [_field(name, infer(e, schema, where=where), where) for name, e in self.columns]
        )


@dataclass(frozen=True, eq=False)
class Join:
    """Adds the columns of a table that does not change while the flow runs.

    ``left`` keeps rows without a partner, with nulls; ``inner`` drops them. A null key has no
    partner. A row with several partners comes several times.
    """

    table: pa.Table
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str
    name: str = field(default="join", init=False)

    def text(self) -> str:
        """Return the canonical text: the table's columns, not its rows, which may be updated."""
        on = ", ".join(
            a if a == b else f"{a} = {b}" for a, b in zip(self.left_on, self.right_on, strict=True)
        )
        return f"join([{describe(self.table.schema)}], on {on}, {self.how})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the table's columns at the end, without its keys."""
        if self.how not in ("left", "inner"):
            raise PlanError(
                f"there is no {self.how!r} join with a table",
                where=where,
                expected="'left' or 'inner'",
                next_step="choose one of them",
            )
        for left, right in zip(self.left_on, self.right_on, strict=True):
            left_kind = column_kind(left, schema, where=where)
            right_kind = column_kind(right, self.table.schema, where=f"{where}, the table")
            if left_kind != right_kind or not is_ordered(left_kind):
                raise PlanError(
                    f"the key {left!r} is {left_kind} and {right!r} of the table is {right_kind}",
                    where=where,
                    expected="two columns of one type that can be compared",
                    next_step="cast one of them before the join",
                )
        added = [f for f in self.table.schema if f.name not in self.right_on]
        for column in added:
            if column.name in schema.names:
                raise PlanError(
                    f"both sides have a column {column.name!r}",
                    where=where,
                    expected="different names, apart from the keys",
                    next_step="rename it in the table, or select() it away before the join",
                )
        return pa.schema([*schema, *added])


@dataclass(frozen=True)
class MapBatches:
    """Calls a function with an iterator of Arrow batches; it yields batches of ``schema``.

    A batch run calls it once for all there is; a stream calls it for each source partition of each
    micro-batch. Which rows come in one batch is not part of the promise.
    """

    function: BatchFunction
    schema: pa.Schema
    name: str = field(default="map_batches", init=False)

    def text(self) -> str:
        """Return the canonical text: the function's name, not its code."""
        function = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"map_batches({function}, [{describe(self.schema)}])"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the declared schema."""
        for column in self.schema:
            _field(column.name, column.type, where)
        return self.schema


@dataclass(frozen=True)
class Window:
    """Which window an event belongs to, and how long a stream waits for late ones."""

    windows: Windows
    on: str
    late_us: int
    keep_late: bool

    def text(self) -> str:
        """Return the canonical text."""
        return f"window({self.windows.text()}, on={self.on}, late={exact_duration(self.late_us)})"

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError unless ``on`` is a timestamp column."""
        kind = column_kind(self.on, schema, where=where)
        if kind != TIMESTAMP:
            raise PlanError(
                f"column {self.on!r} is {kind}, so it cannot say when an event happened",
                where=where,
                expected="a timestamp column",
                next_step=f"add with_columns({self.on}=ms.col({self.on!r}).cast(ms.Timestamp))",
            )
        for name in (WINDOW_START, WINDOW_END):
            if name in schema.names:
                raise PlanError(
                    f"column {name!r} is there already",
                    where=where,
                    expected="no column of that name: windows are put there",
                    next_step="select() it under another name",
                )


@dataclass(frozen=True)
class Aggregation:
    """Groups rows by window and keys and computes aggregates of each group.

    A null key is a group. The output has the window's start and end, the keys, then the aggregates.
    """

    window: Window | None
    keys: tuple[tuple[str, Expression], ...]
    aggregates: tuple[tuple[str, Aggregate], ...]
    name: str = field(default="agg", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        window = "" if self.window is None else f"{self.window.text()}."
        keys = f"group_by({_named(self.keys)})." if self.keys else ""
        aggregates = ", ".join(f"{name}={a.text()}" for name, a in self.aggregates)
        return f"{window}{keys}agg({aggregates})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema of the groups."""
        fields = []
        if self.window is not None:
            self.window.check(schema, where=where)
            fields += [pa.field(WINDOW_START, TIMESTAMP), pa.field(WINDOW_END, TIMESTAMP)]
        for name, expression in self.keys:
            kind = infer(expression, schema, where=where)
            if not is_ordered(kind):
                raise PlanError(
                    f"{expression.text()} is {kind} and cannot be a key",
                    where=where,
                    expected="a type whose values can be compared",
                    next_step="group by another column, or cast it",
                )
            fields.append(_field(name, kind, where))
        for name, aggregate in self.aggregates:
            fields.append(_field(name, aggregate_kind(aggregate, schema, where=where), where))
        names = [f.name for f in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not self.aggregates:
            raise PlanError(
                f"the name {twice[0]!r} is used twice" if twice else "nothing is aggregated",
                where=where,
                expected="at least one aggregate, and different names for window, keys and aggregates",
                next_step="write for example .agg(rows=ms.count())",
            )
        return pa.schema(fields)


@dataclass(frozen=True)
class Plan:
    """A source, steps in order, and once there are: a sink, and a task that is called for each row. Immutable."""

    source: Source
    steps: tuple[Step, ...] = ()
    sink: Sink | None = None
    calls: CallSink | None = None

    def schemas(self) -> tuple[pa.Schema, ...]:
        """Return the schema of the source, then after each step. Raises PlanError naming the step."""
        schemas = [self.source.schema]
        for number, step in enumerate(self.steps, start=1):
            schemas.append(step.output(schemas[-1], where=f"step {number}, {step.name}"))
        return tuple(schemas)

    @property
    def schema(self) -> pa.Schema:
        """The schema of the plan's output."""
        return self.schemas()[-1]

    @property
    def is_ended(self) -> bool:
        """Whether something is done with the output: then no step can follow."""
        return self.sink is not None or self.calls is not None

    def then(self, step: Step) -> Plan:
        """Return the plan with one more step. Raises PlanError if the step does not fit."""
        where = f"step {len(self.steps) + 1}, {step.name}"
        step.output(self.schema, where=where)
        return replace(self, steps=(*self.steps, step))

    def aggregations_at(self) -> list[int]:
        """Return the indices of the aggregations."""
        return [n for n, step in enumerate(self.steps) if isinstance(step, Aggregation)]

    def aggregation_at(self) -> int | None:
        """Return the index of the first aggregation, or None."""
        return next(iter(self.aggregations_at()), None)


def calls_of_rows(
    calls: RowCalls, schema: pa.Schema, *, task_id: str | None, where: str
) -> CallSink:
    """Return the calls that rows of ``schema`` make. Raises PlanError when they do not fit the task."""
    kinds = {field.name: field.type for field in schema}
    if task_id is not None and kinds.get(task_id) not in (INTEGER, TEXT):
        raise PlanError(
            f"task_id={task_id!r} is no column of text or integers",
            where=where,
            expected=f"a column of {describe(schema)}",
        )
    columns = {
        name: python_type(kind)
        for name, kind in kinds.items()
        if name != task_id or calls.takes(name)
    }
    misfit = calls.misfit(columns)
    if misfit is not None:
        raise PlanError(
            f"the rows do not fit the task: {misfit}",
            where=where,
            expected=calls.text,
            next_step=f"the flow gives {describe(schema)}; select() what the task takes",
        )
    return CallSink(calls, tuple(columns), task_id)


def named_expressions(
    positional: tuple[str | Expression, ...], named: dict[str, Expression]
) -> tuple[tuple[str, Expression], ...]:
    """Return (name, expression) pairs of columns given by name, as ``ms.col``, or by keyword."""
    pairs: list[tuple[str, Expression]] = []
    for item in positional:
        if isinstance(item, str):
            pairs.append((item, Column(item)))
        elif isinstance(item, Column):
            pairs.append((item.name, item))
        else:
            raise PlanError(
                f"{item!r} has no name",
                expected="a column, or a keyword for anything computed",
                next_step="write name=expression",
            )
    return (*pairs, *named.items())


def _named(columns: tuple[tuple[str, Expression], ...]) -> str:
    return ", ".join(
        name if isinstance(e, Column) and e.name == name else f"{name}={e.text()}"
        for name, e in columns
    )


def _field(name: str, kind: pa.DataType, where: str) -> pa.Field:
    if not name or name.startswith(RESERVED_PREFIX):
        raise PlanError(
            f"{name!r} cannot be the name of a column",
            where=where,
            expected=f"a non-empty text that does not begin with {RESERVED_PREFIX!r}",
            next_step="choose another name",
        )
    if kind == NULL:
        raise PlanError(
            f"column {name!r} would hold nothing but null, of no type",
            where=where,
            expected="a value of a type",
            next_step="write ms.lit(None).cast(float), or the type you mean",
        )
    return pa.field(name, kind)
