"""What a flow keeps, read from the catalog as a restart would read it. Nothing is changed."""

from __future__ import annotations

from typing import Any

import polars as pl

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_join_state import JoinState
from millstream.engines.local.flow_joining import JoinKernel
from millstream.engines.local.flow_state import Blob, WindowState
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import ConfigurationError
from millstream.store import Store


def held_rows(store: Store, plan: Plan, name: str, state: int) -> list[dict[str, Any]]:
    """Return the rows of one state of a flow: see ``FlowTest.held``. Raises ConfigurationError if there is none."""
    join = plan.source if isinstance(plan.source, JoinSource) else None
    sides = 0 if join is None else 2
    ats = plan.aggregations_at()
    if not 0 <= state < sides + len(ats):
        raise ConfigurationError(
            f"the flow has no state {state}",
            where=f"flow {name!r}",
            expected=f"a number below {sides + len(ats)}: two of a join, one of each aggregation",
        )
    closed_until_us, blobs = _stored(store, name, state)
    where = f"{store.path}, flow {name!r}"
    if join is not None and state < sides:
        kept = JoinState(JoinKernel(join), state, closed_until_us=closed_until_us)
        kept.load(blobs, where=where)
        side = (join.left, join.right)[state]
        return _rows(kept.rows().collect(), side.schema.names)
    at = ats[state - sides]
    step = plan.steps[at]
    assert isinstance(step, Aggregation)
    kernel = GroupKernel(step, plan.schemas()[at], where=f"step {at + 1}, agg")
    windows = WindowState(kernel, closed_until_us=closed_until_us)
    windows.load(blobs, where=where)
    last_us = windows.last_due_us
    closed = None if last_us is None else windows.advance(None, last_us)[0]
    return [] if closed is None else _rows(kernel.final(closed), kernel.output.names)


def _stored(store: Store, name: str, state: int) -> tuple[int, list[Blob]]:
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
    blobs: list[Blob] = [
        (groups, sum_, data) for number, groups, sum_, data in stored if number == state
    ]
    return closed.get(state, TIME_MIN), blobs


def _rows(frame: pl.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    return frame.select(names).to_dicts()
