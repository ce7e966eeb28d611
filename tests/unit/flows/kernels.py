"""Computes one aggregate over rows: at once, and in every cut into two and into single rows, one merged to the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_steps import from_arrow
from millstream.flows.aggregate import Aggregate
from millstream.flows.plan import Aggregation


def aggregated(aggregate: Aggregate, **columns: pa.Array) -> Any:
    """Return the value; all cuts must agree, in both orders of arrival."""
    frame = from_arrow(pa.table(columns))
    schema = pa.table(columns).schema
    kernel = GroupKernel(Aggregation(None, (), (("value", aggregate),)), schema, where="here")
    whole = kernel.final(kernel.partial(frame.lazy()).collect())
    for parts in _cuts(frame):
        states = [kernel.partial(part.lazy()).collect() for part in parts]
        merged = _merged(kernel, states)
        again = _merged(kernel, [merged, states[0].head(0)])
        one_by_one = reduce(lambda before, state: _merged(kernel, [before, state]), states)
        for state in (merged, again, one_by_one):
            cut = kernel.final(state)
            assert cut.equals(whole) or _close(_value(cut), _value(whole)), (cut, whole)
    return _value(whole)


def _merged(kernel: GroupKernel, states: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return kernel.merge(pl.concat(states).lazy()).collect()


def _cuts(frame: pl.DataFrame) -> list[Sequence[pl.DataFrame]]:
    single = [frame[i : i + 1] for i in range(frame.height)]
    halves = [[frame[:i], frame[i:]] for i in range(frame.height + 1)]
    return [cut for cut in (single, single[::-1], *halves) if cut]


def _value(frame: pl.DataFrame) -> Any:
    return frame.to_dicts()[0]["value"]


def _close(left: object, right: object) -> bool:
    # Sums of floats may differ in the last digits with the order of addition.
    return (
        isinstance(left, float)
        and isinstance(right, float)
        and abs(left - right) <= 1e-12 * max(abs(left), abs(right))
    )


def integers(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


def floats(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float64())


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())
