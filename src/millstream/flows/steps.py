"""The steps of a plan that need no window: each knows the schema that it gives, and refuses what does not fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import pyarrow as pa

from millstream.flows.expression import Column, Expression
from millstream.flows.inference import check_condition, column_kind, infer
from millstream.flows.kinds import DATE, FLOAT, INTEGER, NULL, is_ordered, refuse_name, widened
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe

# Any: frames of Polars, which plans do not import.
BatchFunction = (
    Callable[[Iterator[pa.RecordBatch]], Iterator[Any]] | Callable[[Iterator[Any]], Iterator[Any]]
)
FRAMES: Final = ("arrow", "polars")
"""As what a function of batches takes its rows."""
Event = Mapping[str, Any]
EventCallable = (
    Callable[[dict[str, Any]], Event]
    | Callable[[dict[str, Any]], Iterable[Event]]
    | Callable[[dict[str, Any]], Awaitable[Event]]
)
ON_ERROR: Final = ("fail", "skip", "dead_letter")
"""What becomes of an event for which the user's function raises."""


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
        return f"with_columns({named_text(self.columns)})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the columns replaced in place or added at the end."""
        # All types come from the step's own input: a column replaced here is not seen here.
        fields = {f.name: f for f in schema}
        for name, expression in self.columns:
            fields[name] = field_of(name, infer(expression, schema, where=where), where)
        return pa.schema(list(fields.values()))


@dataclass(frozen=True)
class Select:
    """Gives exactly these columns, in this order."""

    columns: tuple[tuple[str, Expression], ...]
    name: str = field(default="select", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"select({named_text(self.columns)})"

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
            [field_of(name, infer(e, schema, where=where), where) for name, e in self.columns]
        )


@dataclass(frozen=True, eq=False)
class Join:
    """Adds the columns of a table that does not change while the flow runs.

    ``left`` keeps rows without a partner, with nulls; ``inner`` drops them. A row with several partners comes several
    times. ``semi`` keeps the rows with a partner and ``anti`` those without, each once, and neither adds a column. A
    null key has no partner.
    """

    table: pa.Table
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str
    name: str = field(default="join", init=False)

    def text(self) -> str:
        """Return the canonical text: the table's columns, not its rows, which may be updated."""
        on = keys_text(self.left_on, self.right_on)
        return f"join([{describe(self.table.schema)}], on {on}, {self.how})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the table's columns at the end, without its keys."""
        if self.how not in ("left", "inner", "semi", "anti"):
            raise PlanError(
                f"there is no {self.how!r} join with a table",
                where=where,
                expected="'left', 'inner', 'semi' or 'anti'",
                next_step="choose one of them",
            )
        check_keys(self.left_on, self.right_on, schema, self.table.schema, where)
        if self.how in ("semi", "anti"):
            return schema
        return joined_schema(schema, self.table.schema, without=self.right_on, where=where)


@dataclass(frozen=True, eq=False)
class AsofJoin:
    """Adds the columns of the last row of a table whose time (or number) is not after the event's: what held then.

    The table does not change while the flow runs. Rows without such a row get nulls, and so do those whose time or key
    is null. Of rows with one time the last in the table counts. ``tolerance`` is in the unit of the column.
    """

    table: pa.Table
    on: str
    right_on: str
    by: tuple[str, ...]
    right_by: tuple[str, ...]
    tolerance: int | float | None
    name: str = field(default="join_asof", init=False)

    def text(self) -> str:
        """Return the canonical text: the table's columns, not its rows, which may be updated."""
        by = f", by {', '.join(self.by)}" if self.by else ""
        within = "" if self.tolerance is None else f", tolerance {self.tolerance}"
        return f"join_asof([{describe(self.table.schema)}], on {self.on} >= {self.right_on}{by}{within})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the table's columns at the end, without its time and its keys."""
        check_keys((self.on,), (self.right_on,), schema, self.table.schema, where)
        check_keys(self.by, self.right_by, schema, self.table.schema, where)
        kind = column_kind(self.on, schema, where=where)
        if kind not in (INTEGER, FLOAT, TIMESTAMP, DATE):
            raise PlanError(
                f"column {self.on!r} is {kind}",
                where=where,
                expected="a time, a date or a number",
                next_step="join on another column",
            )
        without = (self.right_on, *self.right_by)
        return joined_schema(schema, self.table.schema, without=without, where=where)


def keys_text(left_on: tuple[str, ...], right_on: tuple[str, ...]) -> str:
    """Return the keys of a join as text."""
    pairs = zip(left_on, right_on, strict=True)
    return ", ".join(a if a == b else f"{a} = {b}" for a, b in pairs)


def check_keys(
    left_on: tuple[str, ...],
    right_on: tuple[str, ...],
    schema: pa.Schema,
    table: pa.Schema,
    where: str,
    *,
    of: str = "table",
) -> None:
    """Raise PlanError unless the keys of both sides are there and have the same types."""
    for left, right in zip(left_on, right_on, strict=True):
        left_kind = column_kind(left, schema, where=where)
        right_kind = column_kind(right, table, where=f"{where}, the {of}")
        if left_kind != right_kind or not is_ordered(left_kind):
            raise PlanError(
                f"the key {left!r} is {left_kind} and {right!r} of the {of} is {right_kind}",
                where=where,
                expected="two columns of one type that can be compared",
                next_step="cast one of them before the join",
            )


def joined_schema(
    schema: pa.Schema, table: pa.Schema, *, without: tuple[str, ...], where: str, of: str = "table"
) -> pa.Schema:
    """Return the columns of both sides, the right without its keys. Raises PlanError for a name that is twice."""
    added = [column for column in table if column.name not in without]
    for column in added:
        if column.name in schema.names:
            raise PlanError(
                f"both sides have a column {column.name!r}",
                where=where,
                expected="different names, apart from the keys",
                next_step=f"rename it in the {of}, or select() it away before the join",
            )
    return pa.schema([*schema, *added])


@dataclass(frozen=True)
class MapBatches:
    """Calls a function with an iterator of Arrow batches or Polars frames; it yields such of ``schema``.

    A batch run calls it once for all there is; a stream calls it for each source partition of each
    micro-batch. Which rows come in one batch is not part of the promise.
    """

    function: BatchFunction
    schema: pa.Schema
    frames: str = "arrow"
    name: str = field(default="map_batches", init=False)

    def text(self) -> str:
        """Return the canonical text: the function's name, not its code."""
        function = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        frames = "" if self.frames == "arrow" else f", frames={self.frames}"
        return f"map_batches({function}, [{describe(self.schema)}]{frames})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the declared schema."""
        if self.frames not in FRAMES:
            raise PlanError(
                f"frames={self.frames!r}",
                where=where,
                expected="'arrow' for record batches, 'polars' for Polars frames",
                next_step="leave it out for record batches",
            )
        for column in self.schema:
            field_of(column.name, column.type, where)
        return self.schema


@dataclass(frozen=True)
class MapEvents:
    """Calls a function with each event as a dict; it gives a dict of ``schema``, or several.

    ``kind`` is ``"map"``, ``"flat_map"`` or ``"async_map"``; that one awaits up to ``concurrency`` calls at a time and
    keeps the order of the events.
    """

    function: EventCallable
    schema: pa.Schema
    kind: str
    on_error: str = "fail"
    concurrency: int = 1

    @property
    def name(self) -> str:
        """What users call the step."""
        return self.kind

    def text(self) -> str:
        """Return the canonical text: the function's name, not its code."""
        function = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        policy = "" if self.on_error == "fail" else f", on_error={self.on_error}"
        return f"{self.kind}({function}, [{describe(self.schema)}]{policy})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the declared schema."""
        if (
            self.on_error not in ON_ERROR
            or type(self.concurrency) is not int
            or self.concurrency < 1
        ):
            raise PlanError(
                f"on_error={self.on_error!r}, concurrency={self.concurrency!r}",
                where=where,
                expected=f"one of {', '.join(map(repr, ON_ERROR))}, and at least one call at a time",
                next_step="leave them out for the defaults",
            )
        for column in self.schema:
            field_of(column.name, column.type, where)
        return self.schema


@dataclass(frozen=True)
class Explode:
    """Makes a row of each value of a column of lists; a list that is empty or null makes none."""

    column: str
    name: str = field(default="explode", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"explode({self.column})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the type of the values in the place of the lists."""
        kind = column_kind(self.column, schema, where=where)
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise PlanError(
                f"column {self.column!r} is {kind}",
                where=where,
                expected="a column of lists",
                next_step="make lists of it in map_batches, or leave explode out",
            )
        of_values = pa.field(self.column, widened(kind.value_type))
        return schema.set(schema.get_field_index(self.column), of_values)


@dataclass(frozen=True)
class Sort:
    """Orders all rows; nulls come first, NaN is the greatest number. Equal rows keep no order of their own."""

    by: tuple[str, ...]
    descending: bool | tuple[bool, ...] = False
    """For all columns, or for each of them."""
    name: str = field(default="sort", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        if isinstance(self.descending, bool):
            return f"sort({', '.join(self.by)}{', descending' if self.descending else ''})"
        terms = zip(self.by, self.descending, strict=True)
        return f"sort({', '.join(f'{name} descending' if down else name for name, down in terms)})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the same schema."""
        for name in self.by:
            kind = column_kind(name, schema, where=where)
            if not is_ordered(kind):
                raise PlanError(
                    f"column {name!r} is {kind} and has no order",
                    where=where,
                    expected="columns whose values can be compared",
                )
        if not self.by:
            raise PlanError(
                "nothing to sort by",
                where=where,
                expected="at least one column",
                next_step='name it: .sort("at")',
            )
        if not isinstance(self.descending, bool) and len(self.descending) != len(self.by):
            raise PlanError(
                f"descending={self.descending!r} for {len(self.by)} columns",
                where=where,
                expected="True or False, for all columns",
                next_step="sort by SQL for one order a column: ORDER BY a DESC, b",
            )
        return schema


@dataclass(frozen=True)
class Limit:
    """Keeps the first rows. Which they are is sure only behind a sort."""

    rows: int
    name: str = field(default="limit", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        return f"limit({self.rows})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the same schema."""
        if type(self.rows) is not int or self.rows < 0:
            raise PlanError(
                f"limit({self.rows!r})",
                where=where,
                expected="a whole number that is not negative",
                next_step="write for example .limit(10)",
            )
        return schema


def refuse_uncallable(function: object, where: str, expected: str) -> None:
    """Raise PlanError unless it can be called; ``expected`` says with what."""
    if not callable(function):
        raise PlanError(
            f"{function!r} cannot be called", where=where, expected=f"a function {expected}"
        )


def named_text(columns: tuple[tuple[str, Expression], ...]) -> str:
    """Return named expressions as text: a column under its own name by its name alone."""
    return ", ".join(
        name if isinstance(e, Column) and e.name == name else f"{name}={e.text()}"
        for name, e in columns
    )


def field_of(name: str, kind: pa.DataType, where: str) -> pa.Field:
    """Return the field of a column that a step makes. Raises PlanError for a name or type that no column may have."""
    refuse_name(name, where=where)
    if kind == NULL:
        raise PlanError(
            f"column {name!r} would hold nothing but null, of no type",
            where=where,
            expected="a value of a type",
            next_step="write ms.lit(None).cast(float), or the type you mean",
        )
    return pa.field(name, kind)
