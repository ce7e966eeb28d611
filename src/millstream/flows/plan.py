"""The plan of a flow: a source, steps (``steps.py``, and here the aggregation) and a sink, as frozen dataclasses.

A plan is checked while it is built: each step knows the schema it gets and gives, and refuses what
does not fit. Every step has a canonical ``text()``; two plans with equal texts do the same (for
``map_batches``: call the same function).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TypeAlias

import pyarrow as pa

from millstream.flows.aggregate import Aggregate, aggregate_kind
from millstream.flows.emission import ON_CLOSE, WINDOW_CLOSED, Emission
from millstream.flows.expression import Column, Expression
from millstream.flows.inference import check_event_time, infer
from millstream.flows.keyed import Process
from millstream.flows.kinds import BOOLEAN, INTEGER, TEXT, is_ordered, python_type
from millstream.flows.lakes import LakeSink
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.source import CallSink, FileSink, RowCalls, Sink, Source, TopicSink
from millstream.flows.sql import SqlSink
from millstream.flows.steps import Step, field_of, named_text
from millstream.flows.webhook import WebhookSink
from millstream.flows.windows import (
    WINDOW_END,
    WINDOW_START,
    CountWindow,
    Windows,
    exact_duration,
    refuse_window_columns,
)
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe


@dataclass(frozen=True)
class Window:
    """Which window an event belongs to, how long a stream waits for late ones, and when it gives the window's rows."""

    windows: Windows
    on: str | None
    late_us: int
    keep_late: bool
    emission: Emission = ON_CLOSE

    def text(self) -> str:
        """Return the canonical text."""
        kept = self.kept_text()
        return f"{kept[:-1]}, emit={self.emission.text()})" if self.emission.is_early else kept

    def kept_text(self) -> str:
        """Return what must not change while there is state: when rows are given is not among it."""
        if self.on is None:
            return f"window({self.windows.text()})"
        return f"window({self.windows.text()}, on={self.on}, late={exact_duration(self.late_us)})"

    def columns(self) -> list[pa.Field]:
        """Return the columns that results have before their keys."""
        if self.on is None:
            return []
        fields = [pa.field(WINDOW_START, TIMESTAMP), pa.field(WINDOW_END, TIMESTAMP)]
        return [*fields, pa.field(WINDOW_CLOSED, BOOLEAN)] if self.emission.is_early else fields

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError unless ``on`` is a timestamp column, or none is needed."""
        if self.on is not None:
            check_event_time(self.on, schema, where=where)
        refuse_window_columns(schema.names, where=where)


@dataclass(frozen=True)
class Aggregation:
    """Groups rows by window and keys and computes aggregates of each group.

    A null key is a group. The output has the window's start and end, the keys, then the aggregates.
    """

    window: Window | None
    keys: tuple[tuple[str, Expression], ...]
    aggregates: tuple[tuple[str, Aggregate], ...]
    name: str = field(default="agg", init=False)

    @property
    def time(self) -> str | None:
        """The column of the event time, if there is one."""
        return None if self.window is None else self.window.on

    @property
    def late_us(self) -> int:
        """How long a stream waits for late events."""
        return 0 if self.window is None else self.window.late_us

    @property
    def keep_late(self) -> bool:
        """Whether events that come later are written somewhere."""
        return self.window is not None and self.window.keep_late

    @property
    def emits_early(self) -> bool:
        """Whether a stream gives rows of windows that are still open."""
        return self.window is not None and self.window.emission.is_early

    @property
    def counts_rows(self) -> bool:
        """Whether its windows hold so many rows, and not a stretch of time."""
        return self.window is not None and isinstance(self.window.windows, CountWindow)

    def keeping_late(self) -> Aggregation:
        """Return it with late events written, which changes nothing else."""
        if self.window is None or self.window.on is None:
            return self
        return replace(self, window=replace(self.window, keep_late=True))

    def kept_text(self) -> str:
        """Return what must not change while there is state."""
        return self._text("" if self.window is None else f"{self.window.kept_text()}.")

    def text(self) -> str:
        """Return the canonical text."""
        return self._text("" if self.window is None else f"{self.window.text()}.")

    def _text(self, window: str) -> str:
        keys = f"group_by({named_text(self.keys)})." if self.keys else ""
        if not self.aggregates:
            return f"{window}{keys}distinct()"
        aggregates = ", ".join(f"{name}={a.text()}" for name, a in self.aggregates)
        return f"{window}{keys}agg({aggregates})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema of the groups."""
        fields = []
        if self.window is not None:
            self.window.check(schema, where=where)
            fields += self.window.columns()
        for name, expression in self.keys:
            kind = infer(expression, schema, where=where)
            if not is_ordered(kind):
                raise PlanError(
                    f"{expression.text()} is {kind} and cannot be a key",
                    where=where,
                    expected="a type whose values can be compared",
                    next_step="group by another column, or cast it",
                )
            fields.append(field_of(name, kind, where))
        for name, aggregate in self.aggregates:
            fields.append(field_of(name, aggregate_kind(aggregate, schema, where=where), where))
        names = [f.name for f in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not (self.aggregates or self.keys):
            raise PlanError(
                f"the name {twice[0]!r} is used twice" if twice else "nothing is aggregated",
                where=where,
                expected="at least one aggregate, and different names for window, keys and aggregates",
                next_step="write for example .agg(rows=ms.count())",
            )
        return pa.schema(fields)


Stateful: TypeAlias = Aggregation | Process | Fit
"""A step that remembers what it has seen."""


@dataclass(frozen=True)
class Plan:
    """A source, steps in order, and once there are: a sink, and a task that is called for each row. Immutable."""

    source: Source | UnionSource | JoinSource
    steps: tuple[Step, ...] = ()
    sink: Sink | None = None
    calls: CallSink | None = None
    is_named: bool = False
    """Whether its flow was given a name, and is not called after its end."""

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

    @property
    def only_trains(self) -> bool:
        """Whether it ends in a ``fit`` that adds no column: then a run is asked for no rows."""
        last = self.steps[-1] if self.steps and not self.is_ended else None
        return isinstance(last, Fit) and last.into is None and not last.proba

    def then(self, step: Step) -> Plan:
        """Return the plan with one more step. Raises PlanError if the step does not fit."""
        where = f"step {len(self.steps) + 1}, {step.name}"
        step.output(self.schema, where=where)
        return replace(self, steps=(*self.steps, step))

    def stateful(self) -> dict[int, Stateful]:
        """Return the steps that keep state, by their indices."""
        return {n: step for n, step in enumerate(self.steps) if isinstance(step, Stateful)}

    @property
    def end_name(self) -> str:
        """The name of the sink, else that of the task which is called, else that of the model."""
        match self.sink:
            case TopicSink(topic=name) | SqlSink(table=name):
                return name
            case FileSink(path=path):
                return PurePath(path).stem
            case WebhookSink() as webhook:
                return webhook.name
            case LakeSink(lake=lake):
                return lake.name
        return self.trained or "unnamed" if self.calls is None else self.calls.calls.name

    @property
    def trained(self) -> str | None:
        """The name of the model that the plan trains first, or None."""
        return next((step.model.name for step in self.steps if isinstance(step, Fit)), None)

    def first_stateful(self) -> Stateful | None:
        """Return the first of them, or None."""
        return next(iter(self.stateful().values()), None)


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
