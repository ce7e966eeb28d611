"""The stateless steps of a plan, applied to Polars frames."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_events import EventCaller
from millstream.engines.local.flow_expression import (
    calls_python,
    can_fail,
    compiled,
    computing,
    polars_schema,
)
from millstream.engines.local.flow_few import FEW_ROWS_MAX, FewSteps
from millstream.engines.local.flow_lazy import lazy_frames
from millstream.engines.local.flow_tally import Counter, FunctionTime, Fused, Tally
from millstream.flows.figures import StepPlace, keeps_rows
from millstream.flows.learning import Predict
from millstream.flows.plan import Plan
from millstream.flows.steps import (
    AsofJoin,
    BatchFunction,
    Explode,
    Filter,
    Join,
    Limit,
    MapBatches,
    MapEvents,
    Select,
    Sort,
    Step,
    WithColumns,
)
from millstream.primitives.errors import MillstreamError, StepError
from millstream.primitives.hollow import solid
from millstream.primitives.schema import describe

Applied: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]

_KEEP = "__ms_keep"
_RIGHT = "__ms_right_"


def to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the frame as a table of exactly ``schema``."""
    if not frame.height:
        return schema.empty_table()  # as most micro-batches have it, and at a hundredth of the time
    oldest = pl.CompatLevel.oldest()
    if frame.height <= FEW_ROWS_MAX:  # column by column, as the frame takes Polars' threads to it
        columns = [frame[name].to_arrow(compat_level=oldest) for name in schema.names]
        table = solid(pa.Table.from_arrays(columns, names=schema.names))
    else:
        chosen = frame if frame.columns == schema.names else frame.select(schema.names)
        table = solid(chosen.to_arrow(compat_level=oldest))
    return table if table.schema.equals(schema, check_metadata=True) else table.cast(schema)


def from_arrow(table: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    """Return Arrow data as a frame, without a copy where the types allow."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def widen(frame: pl.LazyFrame, stored: pl.Schema) -> pl.LazyFrame:
    """Return the frame with the types that flows compute with: see ``flows/kinds.py``."""
    changes = [
        change.alias(name)
        for name, kind in stored.items()
        if (change := widened_column(pl.col(name), kind)) is not None
    ]
    return frame.with_columns(changes) if changes else frame


def widened_column(column: pl.Expr, kind: pl.DataType) -> pl.Expr | None:
    """Return the column as flows compute with it, or None if it is stored so."""
    if kind.is_integer():
        return None if kind == pl.Int64 else column.cast(pl.Int64, strict=True)
    if kind.is_float():
        return None if kind == pl.Float64 else column.cast(pl.Float64)
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        elif kind.time_zone != "UTC":
            column = column.dt.convert_time_zone("UTC")
        elif kind.time_unit == "us":
            return None
        return column.dt.cast_time_unit("us")
    if isinstance(kind, pl.Duration) and kind.time_unit != "us":
        return column.dt.cast_time_unit("us")
    return None


@functools.lru_cache(maxsize=256)
def is_wide(kind: pl.DataType) -> bool:
    """Return whether flows compute with a column of the type as it is stored."""
    return widened_column(pl.col(_KEEP), kind) is None


@dataclass(frozen=True)
class _Query:
    """Consecutive steps that Polars computes in one query."""

    few: FewSteps
    parts: list[tuple[Applied, Counter | None]] = field(default_factory=list)
    """What applies each step, and what counts behind it."""
    fused: Fused = field(default_factory=Fused)

    def add(self, applied: Applied, counter: Counter, *, counts: bool) -> None:
        self.parts.append((applied, counter if counts else None))
        self.fused.add(counter)

    def apply(self, frame: pl.LazyFrame, *, uncounted: Counter | None = None) -> pl.LazyFrame:
        """Return the frame after the steps; rows are counted behind all but one."""
        for part, counter in self.parts:
            frame = part(frame)
            if counter is not None and counter is not uncounted:
                frame = counter.counted(frame)
        return frame

    def applied(self, rows: pl.DataFrame) -> pl.DataFrame:
        with self.fused.computing():
            few = self.few.applied(rows)
            if few is None:
                return self._planned(rows)
            output, heights = few
            for (_, counter), height in zip(self.parts, heights, strict=True):
                if counter is not None:
                    counter.add(height)
            return output

    def _planned(self, rows: pl.DataFrame) -> pl.DataFrame:
        changing = [counter for _, counter in self.parts if counter is not None]
        last = changing[-1] if changing else None
        output = self.apply(rows.lazy(), uncounted=last).collect()
        if last is not None:
            last.add(output.height)
        return output


@dataclass(frozen=True)
class _Calling:
    """A function of Python between queries. What it is called with it is called with once, whatever fails behind it."""

    step: MapBatches
    schema: pa.Schema
    where: str
    counter: Counter

    def apply(self, frame: pl.LazyFrame, *, uncounted: Counter | None = None) -> pl.LazyFrame:
        del uncounted
        return mapped(self.step, frame, self.schema, where=self.where, counter=self.counter)

    def applied(self, rows: pl.DataFrame) -> pl.DataFrame:
        with self.counter.spending():
            given = _handed(self.step, iter(to_arrow(rows, self.schema).to_batches()))
            tables = call_function(self.step, given, where=self.where)
            frames = [from_arrow(table) for table in tables]
            empty = pl.DataFrame(schema=polars_schema(self.step.schema))
            output = pl.concat(frames) if frames else empty
        self.counter.add(output.height)
        return output


class StepRunner:
    """Applies consecutive stateless steps. Columns in ``carried`` pass through unseen by users.

    Compiled once, used for every micro-batch; what changes is what is counted.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        schema: pa.Schema,
        *,
        places: Sequence[StepPlace],
        tally: Tally,
        before: Counter | None = None,
        carried: tuple[str, ...] = (),
    ) -> None:
        """``schema`` is that of the first step's input; messages name the steps by their ``places``.

        ``before`` counts the rows that come: those that the step before gives.
        """
        self.carried = carried
        self.fused = Fused()
        self.seconds = 0.0
        """How long the steps took, all together."""
        self._failures = tally.failures
        self._before = before
        self._last: Counter | None = None
        """Counts the rows behind the last built-in step that changes how many there are, if none behind it does."""
        self._parts: list[_Query | _Calling] = []
        for place, step in zip(places, steps, strict=True):
            self._add(step, schema, f"step {place.number}, {step.name}", tally.at(place))
            schema = step.output(schema, where=f"step {place.number}, {step.name}")
        self.schema = schema

    def applied(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows after the steps; without any step they are not touched."""
        if self._before is not None:
            self._before.add(rows.height)
        if not self._parts:
            return rows
        if rows.height > FEW_ROWS_MAX:
            with self.fused.computing() as took:
                rows = self._collected(rows.lazy())
            self.seconds += took.seconds
            return rows
        started_s = time.perf_counter()
        for part in self._parts:
            rows = part.applied(rows)
        self.seconds += time.perf_counter() - started_s
        return rows

    def computed(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Return rows after the steps, computed together with what gives them, which has the time of both."""
        if not self._parts:
            output = frame.collect()
            if self._before is not None:
                self._before.add(output.height)
            return output
        given = frame if self._before is None else self._before.counted(frame)
        with self.fused.computing(carries=False) as took:
            output = self._collected(given)
        self.seconds += took.functions_s
        return output

    def _collected(self, frame: pl.LazyFrame) -> pl.DataFrame:
        for part in self._parts:
            frame = part.apply(frame, uncounted=self._last)
        output = frame.collect()
        if self._last is not None:
            self._last.add(output.height)
        return output

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Return the frame after all the steps; nothing is computed yet."""
        for part in self._parts:
            frame = part.apply(frame)
        return frame

    def _add(self, step: Step, schema: pa.Schema, where: str, counter: Counter) -> None:
        function = self._function(step, schema, where)
        self.fused.add(counter, is_function=function is not None)
        counts = function is None and not keeps_rows(step)
        if not keeps_rows(step):
            self._last = counter if counts else None
        if function is not None:
            self._parts.append(_Calling(function, schema, where, counter))
            return
        last = self._parts[-1] if self._parts else None
        query = last if isinstance(last, _Query) else _Query(FewSteps(self.carried))
        if query is not last:
            self._parts.append(query)
        query.few.add(step, schema)
        query.add(self._compiled(step, schema, where), counter, counts=counts)

    def _function(self, step: Step, schema: pa.Schema, where: str) -> MapBatches | None:
        """Return the step as a function of batches, if it is one."""
        match step:
            case MapBatches():
                return step
            case MapEvents():
                return MapBatches(EventCaller(step, where, self._failures), step.schema)
            case Predict():
                return MapBatches(asking(step, where), step.output(schema, where=where))
        return None

    def _compiled(self, step: Step, schema: pa.Schema, where: str) -> Applied:
        """Return what applies a step to a frame."""
        match step:
            case Filter(condition=condition):
                kept = compiled(condition, schema)
                if not (can_fail(condition, schema) or calls_python(condition)):
                    return lambda frame: frame.filter(kept)
                # As a column of its own it is not computed for rows that an earlier filter drops, nor by the source.
                told = kept.alias(_KEEP)
                return lambda frame: frame.with_columns(told).filter(_KEEP).drop(_KEEP)
            case WithColumns(columns=columns):
                added = [compiled(e, schema).alias(name) for name, e in columns]
                return lambda frame: frame.with_columns(added)
            case Select(columns=columns):
                return computing(columns, schema, carried=self.carried)
            case Join():
                table = _table_of(step)
                return lambda frame: _joined(step, frame, table)
            case AsofJoin():
                table = _table_of(step)
                return lambda frame: _joined_asof(step, frame, table)
        return lambda frame: self._apply_rows(step, schema, where, frame)

    def _apply_rows(
        self, step: Step, schema: pa.Schema, where: str, frame: pl.LazyFrame
    ) -> pl.LazyFrame:
        """Apply a step that does not keep rows as they are."""
        match step:
            case Explode(column=column):
                filled = frame.filter(pl.col(column).list.len() > 0)
                return widen(
                    filled.explode(column), polars_schema(step.output(schema, where=where))
                )
            case Sort(by=by, descending=descending):  # nulls are the least values
                down = descending if isinstance(descending, bool) else list(descending)
                return frame.sort(list(by), descending=down, nulls_last=down)
            case Limit(rows=rows):
                return frame.head(rows)
        raise AssertionError(f"{step.name} is not a stateless step")


def steps_behind(plan: Plan, at: int, end: int, tally: Tally) -> StepRunner:
    """Return what applies the steps of a plan behind the step ``at``, -1 for its source, up to the step ``end``."""
    return StepRunner(
        plan.steps[at + 1 : end],
        plan.schemas()[at + 1],
        places=[StepPlace((), number) for number in range(at + 2, end + 1)],
        tally=tally,
        before=tally.at(StepPlace((), at + 1)),
    )


def asking(step: Predict, where: str) -> BatchFunction:
    """Return what adds a model's predictions to batches."""
    names, labels = [name for name, _ in step.proba], [label for _, label in step.proba]

    def asked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            said, *told = step.models.predicted(
                step.model, batch, version=step.version, where=where, proba=labels
            )
            if step.into is not None:
                batch = batch.append_column(step.into, said)
            for name, probabilities in zip(names, told, strict=True):
                batch = batch.append_column(name, probabilities)
            yield batch

    return asked


def _joined(step: Join, frame: pl.LazyFrame, table: pl.DataFrame) -> pl.LazyFrame:
    return frame.join(
        table.lazy(),
        left_on=list(step.left_on),
        right_on=list(step.right_on),
        how=step.how,  # type: ignore[arg-type]  # checked when the plan was built
        nulls_equal=False,
        maintain_order="left",
        coalesce=True,
    )


def _joined_asof(step: AsofJoin, frame: pl.LazyFrame, table: pl.DataFrame) -> pl.LazyFrame:
    on = f"{_RIGHT}{step.right_on}"
    kind = table.schema[step.right_on]
    within: float | str | None = step.tolerance
    if within is not None and kind.is_temporal():
        within = f"{int(within)}us"
    joined = frame.sort(step.on).join_asof(
        table.lazy().rename({step.right_on: on}),
        left_on=step.on,
        right_on=on,
        by_left=list(step.by) or None,
        by_right=list(step.right_by) or None,
        tolerance=within,
        check_sortedness=False,  # it cannot be checked within keys; both sides are sorted
    )
    return joined.drop(on)


def _table_of(step: Join | AsofJoin) -> pl.DataFrame:
    table = from_arrow(step.table)
    if isinstance(step, AsofJoin):
        return table.filter(pl.col(step.right_on).is_not_null()).sort(
            step.right_on, maintain_order=True
        )
    return table


def mapped(
    step: MapBatches, frame: pl.LazyFrame, schema: pa.Schema, *, where: str, counter: Counter
) -> pl.LazyFrame:
    """Return what the user's function makes of the frame, computed piece by piece when it is read."""

    def parts() -> Iterator[pl.DataFrame]:
        own = FunctionTime(counter)
        batches = own.without(record_batches(frame, schema))
        for table in own.within(call_function(step, _handed(step, batches), where=where)):
            counter.add(table.num_rows)
            yield from_arrow(table)

    return lazy_frames(parts, step.schema)


def _handed(
    step: MapBatches, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch] | Iterator[pl.DataFrame]:
    """Return batches as the function wants them."""
    return map(from_arrow, batches) if step.frames == "polars" else batches


def record_batches(frame: pl.LazyFrame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the frame as record batches of ``schema`` while it is computed."""
    for part in frame.collect_batches(engine="streaming", maintain_order=True):
        yield from to_arrow(part, schema).to_batches()


def call_function(
    step: MapBatches,
    batches: Iterator[pa.RecordBatch] | Iterator[pl.DataFrame],
    *,
    where: str,
) -> Iterator[pa.Table]:
    """Yield what the function yields, as tables of the declared schema.

    Raises StepError when the function raises, or gives something else than it declared.
    """
    try:
        for batch in step.function(batches):
            yield _declared(batch, step.schema, where)
    except MillstreamError:
        raise
    except Exception as error:
        raise StepError(
            f"the function raised {type(error).__name__}: {error}",
            where=where,
            expected="a function that yields record batches or Polars frames",
            next_step="handle the case in the function; nothing of this batch was written",
        ) from error


def _declared(batch: object, schema: pa.Schema, where: str) -> pa.Table:
    if isinstance(batch, pl.DataFrame):
        batch = batch.to_arrow(compat_level=pl.CompatLevel.oldest())
    if not isinstance(batch, pa.RecordBatch | pa.Table):
        raise StepError(
            f"the function yielded a {type(batch).__name__}",
            where=where,
            expected="pyarrow record batches or tables, or Polars frames",
            next_step="yield pa.RecordBatch objects; collect() what is lazy",
        )
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    if table.schema.names != schema.names:
        raise _other_schema(table.schema, schema, where)
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _other_schema(table.schema, schema, where) from error


def _other_schema(given: pa.Schema, declared: pa.Schema, where: str) -> StepError:
    return StepError(
        f"the function yielded another schema: {describe(given)}",
        where=where,
        expected=describe(declared),
        next_step="yield these columns in this order, or declare what the function yields",
    )
