"""Aggregates of flows, compiled to Polars in three parts: partial, merge and final.

A batch computes partial and final; a stream merges partials in between. Both use the same expressions, so they give
the same numbers (floating-point sums and variances: up to the order of addition, see docs/decisions/0032).

State is a frame: the window (see ``flow_windows``) and the keys, how many rows went into the group, and columns
``__ms_s<i>_<part>`` for each aggregate. Sums of integers are kept exactly as two halves, ``high * 2^32 + low``.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import computed, divided, dtype, polars_schema
from millstream.engines.local.flow_kernel import Kernel, own_kernel
from millstream.engines.local.flow_sketches import n_unique_sketch, quantile_sketch
from millstream.engines.local.flow_windows import FLOOR, TIME, Parts, WindowKind, window_kind
from millstream.flows.aggregate import Aggregate
from millstream.flows.emission import WINDOW_CLOSED
from millstream.flows.expression import Column, Expression, Literal
from millstream.flows.inference import infer
from millstream.flows.kinds import DURATION, FLOAT, INTEGER, is_decimal
from millstream.flows.plan import Aggregation
from millstream.flows.watermark import TIME_MIN
from millstream.flows.windows import WINDOW_END, WINDOW_START, CountWindow
from millstream.primitives.errors import StepError

ROWS = "__ms_rows"
_HALF = 2**32


class GroupKernel:
    """An aggregation over a given input schema. Immutable; may be shared between threads."""

    def __init__(self, aggregation: Aggregation, schema: pa.Schema, *, where: str) -> None:
        """Compile. ``schema`` is that of the aggregation's input, and fits."""
        self._emits_early = aggregation.emits_early
        self.output = aggregation.output(schema, where=where)
        self.where = where
        self.keys = [name for name, _ in aggregation.keys]
        self.inputs = _inputs(aggregation)
        self._schema = schema
        self._names = [name for name, _ in aggregation.aggregates]
        self._kernels = [
            _kernel(aggregate, index, schema)
            for index, (_, aggregate) in enumerate(aggregation.aggregates)
        ]
        self.partial_parts: Parts = {ROWS: pl.len().cast(pl.Int64)}
        self.merge_parts: Parts = {ROWS: pl.col(ROWS).sum()}
        for kernel in self._kernels:
            self.partial_parts |= kernel.partial
            self.merge_parts |= kernel.merge
        prepared = {name: e for kernel in self._kernels for name, e in kernel.prepared.items()}
        self._prepared = [expression.alias(name) for name, expression in prepared.items()]
        self.kind: WindowKind | None = None
        window = aggregation.window
        if window is not None and not isinstance(window.windows, CountWindow):
            self.kind = window_kind(window.windows, self.keys, self.merge_parts)
        self._bounds = _bounds(aggregation, self.kind)

    def partial(self, rows: pl.LazyFrame, *, has_floor: bool = False) -> pl.LazyFrame:
        """Return the state of rows: one row a group. Rows without a time have a null window.

        With ``has_floor`` the column ``FLOOR`` says up to where windows are closed for each row.
        """
        if self.kind is None:
            return _grouped(
                computed(rows, self.inputs, self._schema), self.keys, self.partial_parts
            )
        carried: tuple[str, ...] = ()
        if self.kind.asks_floor:
            rows = rows if has_floor else rows.with_columns(pl.lit(TIME_MIN).alias(FLOOR))
            carried = (FLOOR,)
        inputs = computed(rows, self.inputs, self._schema, carried=carried)
        return self.kind.grouped(inputs, self.keys, self.partial_parts, self.merge)

    def inputs_of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the columns that the aggregation looks at."""
        plain = {name: e.name for name, e in self.inputs if isinstance(e, Column)}
        if len(plain) == len(self.inputs):
            return pl.DataFrame({name: rows[column] for name, column in plain.items()})
        return computed(rows.lazy(), self.inputs, self._schema).collect()

    def state_schema(self) -> pl.Schema:
        """Return the columns of state."""
        return self.partial(pl.LazyFrame(schema=polars_schema(self._schema))).collect_schema()

    def merge(self, states: pl.LazyFrame) -> pl.LazyFrame:
        """Return the state of all rows that went into ``states``."""
        if self.kind is None:
            return _grouped(states, self.keys, self.merge_parts)
        return self.kind.merged(states, self.keys, self.merge_parts)

    def final(self, states: pl.DataFrame, *, is_closed: bool = True) -> pl.DataFrame:
        """Return the output rows of groups, each in one row, sorted by window and keys, nulls first."""
        columns = self._columns(is_closed=is_closed)
        try:
            states = states.with_columns(self._prepared) if self._prepared else states
            frame = states.select(columns)
        except pl.exceptions.InvalidOperationError as error:
            raise StepError(
                f"the sum {self._too_large(states)!r} does not fit in 64 bits",
                where=self.where,
                expected="a sum between -2^63 and 2^63 - 1",
                next_step="sum the column as float: ms.sum(ms.col(…).cast(float))",
            ) from error
        order = self._order()
        return frame.sort(order, nulls_last=False) if order else frame

    def _too_large(self, states: pl.DataFrame) -> str:
        """Return the name of the sum that cannot be given."""
        for name, kernel in zip(self._names, self._kernels, strict=True):
            try:
                states.select(kernel.final)
            except pl.exceptions.InvalidOperationError:
                return name
        raise AssertionError("each can be given by itself")

    def final_lazy(self, states: pl.LazyFrame) -> pl.LazyFrame:
        """Return the same as it is computed, for groups that may be more than memory holds."""
        states = states.with_columns(self._prepared)
        frame, order = states.select(self._columns(is_closed=True)), self._order()
        return frame.sort(order, nulls_last=False) if order else frame

    def _order(self) -> list[str]:
        return [WINDOW_START, WINDOW_END, *self.keys] if self._bounds else self.keys

    def _columns(self, *, is_closed: bool) -> list[pl.Expr]:
        columns = [*self._bounds]
        if self._emits_early:
            columns.append(pl.lit(is_closed).alias(WINDOW_CLOSED))
        columns += [pl.col(key) for key in self.keys]
        for name, kernel in zip(self._names, self._kernels, strict=True):
            columns.append(kernel.final.cast(dtype(self.output.field(name).type)).alias(name))
        return columns


def _bounds(aggregation: Aggregation, kind: WindowKind | None) -> list[pl.Expr]:
    """Return the start and the end of windows, where they have them."""
    if kind is not None:
        start, end = kind.bounds()
    elif aggregation.time is not None:
        start, end = pl.col(WINDOW_START), pl.col(WINDOW_END)
    else:
        return []
    return [start.alias(WINDOW_START), end.alias(WINDOW_END)]


def _inputs(aggregation: Aggregation) -> list[tuple[str, Expression]]:
    columns: list[tuple[str, Expression]] = []
    if aggregation.time is not None:
        columns.append((TIME, Column(aggregation.time)))
    columns += aggregation.keys
    for index, (_, aggregate) in enumerate(aggregation.aggregates):
        if aggregate.of is not None:
            columns.append((of_name(index), aggregate.of))
        if aggregate.by is not None:
            columns.append((_by(index), aggregate.by))
    # Counting needs the height of a frame, which a frame without columns does not have.
    return columns or [(of_name(0), Literal(0))]


def _grouped(frame: pl.LazyFrame, groups: list[str], parts: dict[str, pl.Expr]) -> pl.LazyFrame:
    expressions = [expression.alias(name) for name, expression in parts.items()]
    return frame.group_by(groups).agg(expressions) if groups else frame.select(expressions)


def of_name(index: int) -> str:
    """Return the name of the column that an aggregate looks at."""
    return f"__ms_of{index}"


def _by(index: int) -> str:
    return f"__ms_by{index}"


def _kernel(aggregate: Aggregate, index: int, schema: pa.Schema) -> Kernel:
    if aggregate.of is None:
        return _count(index, pl.len().cast(pl.Int64))
    kind = infer(aggregate.of, schema, where=aggregate.text())
    value = pl.col(of_name(index))
    if aggregate.own is not None:
        return own_kernel(aggregate.own, value, part_name(index, "state"))
    if aggregate.by is not None and aggregate.function in ("first", "last"):
        order = infer(aggregate.by, schema, where=aggregate.text())
        return _ordered(index, value, kind, order, aggregate.function)
    return _kept(aggregate, index, value, kind) or _reduced(aggregate, index, value, kind)


def _kept(aggregate: Aggregate, index: int, value: pl.Expr, kind: pa.DataType) -> Kernel | None:
    """Return the kernel of an aggregate that keeps values; None if it is none of them."""
    match aggregate.function:
        case "collect":
            return _collected(index, value, has_order=aggregate.by is not None)
        case "top_k":
            assert aggregate.k is not None
            return _greatest(index, value, aggregate.k)
        case "n_unique":
            return _distinct(index, value)
        case "quantile":
            assert aggregate.q is not None
            return _quantile(index, value, kind, aggregate.q)
        case "approx_n_unique":
            assert aggregate.error is not None
            return n_unique_sketch(value, part_name(index, "registers"), aggregate.error)
        case "approx_quantile":
            assert aggregate.q is not None
            assert aggregate.error is not None
            buckets = part_name(index, "buckets")
            return quantile_sketch(value, buckets, aggregate.q, aggregate.error)
    return None


def _reduced(aggregate: Aggregate, index: int, value: pl.Expr, kind: pa.DataType) -> Kernel:
    """Return the kernel of an aggregate whose state is a few numbers, or one value."""
    match aggregate.function:
        case "count":
            return _count(index, value.count().cast(pl.Int64))
        case "sum":
            return _sum(index, value, kind)
        case "mean":
            return _mean(index, value, kind)
        case "min" | "max":
            return _extreme(index, value, kind, aggregate.function)
        case "var" | "std":
            return _spread(index, value, aggregate)
    raise AssertionError(f"{aggregate.function} has no kernel")


def part_name(index: int, name: str) -> str:
    """Return the name of a column of an aggregate's state."""
    return f"__ms_s{index}_{name}"


def _count(index: int, counted: pl.Expr) -> Kernel:
    n = part_name(index, "n")
    return Kernel({n: counted}, {n: pl.col(n).sum()}, pl.col(n))


def _sum(index: int, value: pl.Expr, kind: pa.DataType) -> Kernel:
    partial, merge, total, n = _total(index, value, kind)
    if kind in (INTEGER, DURATION):
        total = total.cast(pl.Int64, strict=True)
    return Kernel(partial, merge, pl.when(n > 0).then(total))


def _mean(index: int, value: pl.Expr, kind: pa.DataType) -> Kernel:
    partial, merge, total, n = _total(index, value, kind)
    mean = divided("div", total.cast(pl.Float64), n.cast(pl.Float64))
    return Kernel(partial, merge, _whole_if_duration(mean, kind))


def _total(
    index: int, value: pl.Expr, kind: pa.DataType
) -> tuple[dict[str, pl.Expr], dict[str, pl.Expr], pl.Expr, pl.Expr]:
    """Return partial, merge, and the merged total and count."""
    n, high, low = (part_name(index, name) for name in ("n", "high", "low"))
    counted = value.count().cast(pl.Int64)
    if kind == FLOAT or is_decimal(kind):
        s = part_name(index, "sum")
        if is_decimal(kind):
            value = value.cast(pl.Decimal(38, kind.scale))
        parts = {s: value.sum(), n: counted}
        return parts, {s: pl.col(s).sum(), n: pl.col(n).sum()}, pl.col(s), pl.col(n)
    assert kind in (INTEGER, DURATION)
    exact = value.cast(pl.Int64).cast(pl.Int128).sum()
    parts = {
        high: (exact // _HALF).cast(pl.Int64),
        low: (exact % _HALF).cast(pl.Int64),
        n: counted,
    }
    merge = {name: pl.col(name).sum() for name in parts}
    total = pl.col(high).cast(pl.Int128) * _HALF + pl.col(low).cast(pl.Int128)
    return parts, merge, total, pl.col(n)


def _extreme(index: int, value: pl.Expr, kind: pa.DataType, function: str) -> Kernel:
    v = part_name(index, "v")
    return Kernel(
        {v: _most(value, kind, function)}, {v: _most(pl.col(v), kind, function)}, pl.col(v)
    )


def _most(value: pl.Expr, kind: pa.DataType, function: str) -> pl.Expr:
    if function in ("min", "first"):
        return value.min()
    # NaN is the greatest: Polars' max passes over it.
    return value.nan_max() if kind == FLOAT else value.max()


def _ordered(
    index: int, value: pl.Expr, kind: pa.DataType, order_kind: pa.DataType, function: str
) -> Kernel:
    v, o = part_name(index, "v"), part_name(index, "o")

    def chosen(order: pl.Expr, values: pl.Expr) -> dict[str, pl.Expr]:
        place = _most(order, order_kind, function)
        # Among equal orders the value decides, so that no result hangs on the order of arrival.
        return {o: place, v: _most(values.filter(order == place), kind, function)}

    return Kernel(chosen(pl.col(_by(index)), value), chosen(pl.col(o), pl.col(v)), pl.col(v))


def _spread(index: int, value: pl.Expr, aggregate: Aggregate) -> Kernel:
    n, mean, m2 = (part_name(index, name) for name in ("n", "mean", "m2"))
    number = value.cast(pl.Float64)
    counted = number.count().cast(pl.Int64)
    # Chan, Golub and LeVeque (1979), over any number of parts at once.
    # Parts of nothing but nulls have no mean, and neither has what is merged of them.
    total = pl.col(n).sum()
    whole = pl.when(total > 0).then((pl.col(n) * pl.col(mean)).sum() / total)
    between = (pl.col(n) * (pl.col(mean) - whole).pow(2)).sum()
    ddof = 1 if aggregate.ddof is None else aggregate.ddof
    variance = pl.when(pl.col(n) > ddof).then(pl.col(m2) / (pl.col(n) - ddof))
    return Kernel(
        {n: counted, mean: number.mean(), m2: number.var(ddof=0) * counted},
        {n: total, mean: whole, m2: pl.col(m2).sum() + between},
        variance.sqrt() if aggregate.function == "std" else variance,
    )


def _distinct(index: int, value: pl.Expr) -> Kernel:
    values = part_name(index, "values")
    return Kernel(
        {values: value.drop_nulls().unique().implode()},
        {values: pl.col(values).explode().drop_nulls().unique().implode()},
        pl.col(values).list.len().cast(pl.Int64),
    )


def _collected(index: int, value: pl.Expr, *, has_order: bool) -> Kernel:
    values = part_name(index, "values")
    element = pl.element()
    if not has_order:
        merge = pl.col(values).explode().drop_nulls().implode()
        return Kernel(
            {values: value.drop_nulls().implode()}, {values: merge}, pl.col(values).list.sort()
        )
    pair = pl.struct(pl.col(_by(index)).alias("o"), value.alias("v")).filter(value.is_not_null())
    o, v = element.struct.field("o"), element.struct.field("v")
    # An empty list of pairs gives one null when it is exploded.
    pairs = pl.col(values).explode()
    return Kernel(
        {values: pair.implode()},
        {values: pairs.filter(pairs.is_not_null()).implode()},
        pl.col(values).list.eval(v.sort_by(o, v, nulls_last=False)),
    )


def _greatest(index: int, value: pl.Expr, k: int) -> Kernel:
    values = part_name(index, "values")

    def most(of: pl.Expr) -> pl.Expr:
        return of.drop_nulls().sort(descending=True).head(k).implode()

    return Kernel({values: most(value)}, {values: most(pl.col(values).explode())}, pl.col(values))


def _whole_if_duration(value: pl.Expr, kind: pa.DataType) -> pl.Expr:
    """Return whole microseconds for durations."""
    return value.round().cast(pl.Int64) if kind == DURATION else value


def _quantile(index: int, value: pl.Expr, kind: pa.DataType, q: float) -> Kernel:
    value = (value.cast(pl.Int64) if kind == DURATION else value).cast(pl.Float64)
    values = part_name(index, "values")
    ordered = pl.col(values)
    place = (ordered.list.len().cast(pl.Float64) - 1) * q
    below = place.floor()
    low = ordered.list.get(below.cast(pl.Int64), null_on_oob=True)
    high = ordered.list.get(place.ceil().cast(pl.Int64), null_on_oob=True)
    between = pl.when(low == high).then(low).otherwise(low + (high - low) * (place - below))
    return Kernel(
        {values: value.drop_nulls().implode()},
        {values: pl.col(values).explode().drop_nulls().implode()},
        _whole_if_duration(pl.when(ordered.list.len() > 0).then(between), kind),
        prepared={values: ordered.list.sort()},
    )
