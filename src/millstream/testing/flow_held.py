"""What a flow keeps, read from the catalog as a restart would read it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_counting import CountKernel, OpenCounts
from millstream.engines.local.flow_events import Failures
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_join_state import JoinState
from millstream.engines.local.flow_joining import JoinKernel
from millstream.engines.local.flow_keyed import KeyedRunner
from millstream.engines.local.flow_keyed_state import KeyedState
from millstream.engines.local.flow_ordered_rows import OrderedRows
from millstream.engines.local.flow_state import Blob, WindowState
from millstream.engines.local.flow_versions import AsofKernel, Versions
from millstream.flows.keyed import Process
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import ConfigurationError
from millstream.store import Store

Rows: TypeAlias = list[dict[str, Any]]
Blobs: TypeAlias = list[Blob]
Reader: TypeAlias = Callable[[int, Blobs, str], Rows]


def held_rows(store: Store, plan: Plan, name: str, state: int) -> Rows:
    """Return the rows of one state of a flow: see ``FlowTest.held``. Raises ConfigurationError if there is none."""
    readers = [*_readers(plan)]
    if not 0 <= state < len(readers):
        raise ConfigurationError(
            f"the flow has no state {state}",
            where=f"flow {name!r}",
            expected=f"a number below {len(readers)}: two of a join, of each process and of each count window, and one "
            "of each other aggregation",
        )
    closed_until_us, blobs = _stored(store, name, state)
    return readers[state](closed_until_us, blobs, f"{store.path}, flow {name!r}")


def _readers(plan: Plan) -> Iterator[Reader]:
    """Yield for each state what reads it."""
    if isinstance(plan.source, JoinSource) and plan.source.is_asof:
        assert plan.source.time is not None
        yield partial(_waiting, plan.source.time.left, plan.source.left.schema)
        yield partial(_of_versions, plan.source)
    elif isinstance(plan.source, JoinSource):
        yield partial(_of_join, plan.source, 0)
        yield partial(_of_join, plan.source, 1)
    for at, step in plan.stateful().items():
        schema = plan.schemas()[at]
        if isinstance(step, Process):
            yield partial(_waiting, step.time, schema)
            yield partial(_of_keys, step, schema)
        elif isinstance(step, Aggregation) and step.counts_rows:
            yield partial(_waiting, step.time, schema)
            yield partial(_of_counts, step, schema)
        elif isinstance(step, Aggregation):
            yield partial(_of_windows, step, schema)


def _of_join(join: JoinSource, side: int, closed_until_us: int, blobs: Blobs, where: str) -> Rows:
    kept = JoinState(JoinKernel(join), side, closed_until_us=closed_until_us)
    kept.load(blobs, where=where)
    return _rows(kept.rows().collect(), (join.left, join.right)[side].schema.names)


def _of_versions(join: JoinSource, closed_until_us: int, blobs: Blobs, where: str) -> Rows:
    versions = Versions(AsofKernel(join), closed_until_us=closed_until_us)
    versions.load(blobs, where=where)
    return _rows(versions.held(), join.right.schema.names)


def _of_windows(
    step: Aggregation, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    kernel = GroupKernel(step, schema, where=step.name)
    windows = WindowState(kernel, closed_until_us=closed_until_us)
    windows.load(blobs, where=where)
    last_us = windows.last_due_us
    closed = None if last_us is None else windows.advance(None, last_us)[0]
    return [] if closed is None else _rows(kernel.final(closed), kernel.output.names)


def _waiting(
    time: str | None, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    waiting = OrderedRows(time, polars_schema(schema), closed_until_us=closed_until_us)
    waiting.load(blobs, where=where)
    return _rows(waiting.rows(), schema.names)


def _of_counts(
    step: Aggregation, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    del closed_until_us
    kernel = CountKernel(step, schema, where=step.name)
    counts = OpenCounts(kernel)
    counts.load(blobs, where=where)
    output = kernel.final(counts.opened)
    return _rows(output, output.columns)


def _of_keys(
    step: Process, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    del closed_until_us
    runner = KeyedRunner(
        step,
        schema,
        where=step.name,
        failures=Failures(lambda: 0),
        now_us=lambda: 0,
        checks_time=False,
    )
    KeyedState(runner).load(blobs, where=where)
    return [
        {"key": context.key, "state": context.state, "timers": context.timers()}
        for context in runner.contexts.values()
    ]


def _stored(store: Store, name: str, state: int) -> tuple[int, Blobs]:
    """Return up to where a state is closed, and what is stored of it, as of one moment."""
    with store.read() as snapshot:
        found = snapshot.run("flows/get", (name,))
        if not found:
            return TIME_MIN, []
        flow_id, closed_first_us = found[0][0], found[0][4]
        closed = dict(snapshot.run("flows/stages", (flow_id,)))
        if closed_first_us is not None:
            closed[0] = closed_first_us
        stored = snapshot.run("flows/state", (flow_id,))
    blobs: Blobs = [
        (groups, sum_, data) for number, groups, sum_, data in stored if number == state
    ]
    return closed.get(state, TIME_MIN), blobs


def _rows(frame: pl.DataFrame, names: list[str]) -> Rows:
    return frame.select(names).to_dicts()
