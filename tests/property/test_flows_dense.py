"""Windows as arrays give what Polars gives, hold what it holds, and each reads what the other has stored."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from millstream.engines.local import flow_dense, flow_dense_keys, flow_state
from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_dense import DenseWindows, dense_windows
from millstream.engines.local.flow_dense_keys import TooLarge
from millstream.engines.local.flow_state import Blob, StateChange, WindowState, decoded
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.plan import Aggregation, Window
from millstream.flows.watermark import TIME_MIN
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp, to_arrow_schema
from millstream.testing.flows_suite import EPOCH

MINUTE_US = 60_000_000
START_US = int(EPOCH.timestamp()) * 1_000_000
SCHEMA = to_arrow_schema(
    {
        "k": int | None,
        "t": str | None,
        "n": int | None,
        "x": float | None,
        "at": Timestamp,
        "b": bytes | None,
        "d": Decimal | None,
        "l": list[int] | None,
    }
)
AGGREGATES = {
    "rows": agg.count(),
    "some": agg.count("n"),
    "binary": agg.count("b"),
    "decimals": agg.count("d"),
    "lists": agg.count("l"),
    "total": agg.sum("n"),
    "mean": agg.mean("n"),
    "least": agg.min("n"),
    "most": agg.max("n"),
    "floats": agg.sum("x"),
    "lowest": agg.min("x"),
    "highest": agg.max("x"),
    "last": agg.max("at"),
    "twice": agg.sum(col("n").cast(float) * 2),
}
KEYS = {"integers": "k", "texts": "t", "no key": None}
INTEGERS = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**61, -(2**61), 2**40]))
FLOATS = st.one_of(st.none(), st.sampled_from([0.0, -1.5, 2.25, math.nan, math.inf]))
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-20, 20)),
        st.sampled_from([None, "", "a", "b", "ä", "longer than that"]),
        INTEGERS,
        FLOATS,
        st.integers(-3, 40),
    ),
    max_size=12,
)
STEPS = st.lists(st.tuples(ROWS, st.integers(0, 15)), min_size=1, max_size=6)
Steps = list[tuple[list[tuple[Any, ...]], int]]


def aggregation(key: str | None) -> Aggregation:
    window = Window(tumbling("2m"), "at", 0, keep_late=False)
    keys = () if key is None else ((key, col(key)),)
    return Aggregation(window, keys, tuple(AGGREGATES.items()))


def frame_of(rows: list[tuple[Any, ...]], after_us: int) -> pl.DataFrame:
    """Return timely rows: none of a window that is closed."""
    earliest = max(after_us, START_US - 10 * MINUTE_US)
    columns = [
        {
            **dict(zip("ktnx", row, strict=False)),
            "at": EPOCH + timedelta(minutes=row[4]),
            # Of other types there may be null as well, where the integer is.
            "b": None if row[2] is None else b"",
            "d": None if row[2] is None else Decimal(1),
            "l": None if row[2] is None else [],
        }
        for row in rows
    ]
    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(columns, SCHEMA)))
    return frame.filter(pl.col("at").cast(pl.Int64) >= earliest)


class Kept:
    """What the catalog keeps."""

    def __init__(self) -> None:
        self.blobs: tuple[Blob, ...] = ()

    def store(self, change: StateChange) -> None:
        self.blobs = change.blobs if change.replaces else self.blobs + change.blobs


def general(kernel: GroupKernel, kept: Kept, closed_until_us: int) -> WindowState:
    state = WindowState(kernel, closed_until_us=closed_until_us)
    state.load(kept.blobs, where="here")
    return state


def dense(key: str | None, kernel: GroupKernel, kept: Kept, closed_until_us: int) -> DenseWindows:
    state = dense_windows(aggregation(key), kernel, SCHEMA, closed_until_us=closed_until_us)
    assert state is not None
    state.load(kept.blobs, where="here")
    return state


def given_rows(kernel: GroupKernel, closed: pl.DataFrame | None) -> pl.DataFrame:
    empty = pl.DataFrame(schema=kernel.state_schema())
    return kernel.final(empty if closed is None else closed)


@pytest.mark.parametrize("which", KEYS)
@given(steps=STEPS, restarts=st.sets(st.integers(0, 5)), snapshots=st.booleans())
@settings(max_examples=60)
def test_arrays_give_what_polars_gives(
    which: str, steps: Steps, restarts: set[int], snapshots: bool
) -> None:
    key = KEYS[which]
    kernel = GroupKernel(aggregation(key), SCHEMA, where="here")
    ours, theirs = Kept(), Kept()
    closed_until_us = TIME_MIN
    with pytest.MonkeyPatch.context() as patch:
        if snapshots:
            for module in (flow_dense, flow_state):
                patch.setattr(module, "GROUPS_MIN", 0)
        arrays = dense(key, kernel, ours, closed_until_us)
        frames = general(kernel, theirs, closed_until_us)
        until_us = START_US
        for number, (rows, minutes) in enumerate(steps):
            if number in restarts:
                # Each goes on with what the other has stored.
                ours, theirs = theirs, ours
                arrays = dense(key, kernel, ours, closed_until_us)
                frames = general(kernel, theirs, closed_until_us)
            frame = frame_of(rows, closed_until_us)
            until_us += minutes * MINUTE_US
            closed, change = arrays.advance(frame, until_us)
            ours.store(change)
            for _, checksum, data in change.blobs:
                starts = decoded(data, checksum, "here")["window_start"].to_physical()
                assert (starts + 2 * MINUTE_US > until_us).all()
            expected, change = frames.advance(kernel.partial(frame.lazy()).collect(), until_us)
            theirs.store(change)
            closed_until_us = max(closed_until_us, until_us)
            assert_frame_equal(given_rows(kernel, closed), given_rows(kernel, expected))
            for name in ("first_due_us", "last_due_us", "first_start_us"):
                assert getattr(arrays, name) == getattr(frames, name), name
        last_us = START_US + 1000 * MINUTE_US
        for blobs in (ours, theirs):
            left = general(kernel, blobs, closed_until_us).advance(None, last_us)[0]
            held = given_rows(kernel, arrays.states() if arrays.groups else None)
            assert_frame_equal(given_rows(kernel, left), held)


def test_a_sum_may_pass_64_bits_on_its_way() -> None:
    kernel = GroupKernel(aggregation("k"), SCHEMA, where="here")
    arrays = dense("k", kernel, Kept(), TIME_MIN)
    for rows in ([2**61] * 4, [-(2**61)] * 2):
        arrays.advance(frame_of([(1, "a", n, 0.0, 0) for n in rows], TIME_MIN), TIME_MIN)
    assert kernel.final(arrays.states())["total"].to_list() == [2**62]


@given(steps=STEPS)
@settings(max_examples=40)
def test_what_is_too_large_is_told_before_anything_has_changed(steps: Steps) -> None:
    kernel = GroupKernel(aggregation("k"), SCHEMA, where="here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_dense, "PLACES_MAX", 40)
        patch.setattr(flow_dense_keys, "CODES_MAX", 30)
        arrays = dense("k", kernel, Kept(), TIME_MIN)
        for rows, _ in steps:
            before = arrays.states()
            try:
                arrays.advance(frame_of(rows, TIME_MIN), TIME_MIN)
            except TooLarge:
                columns = before.columns[:2]
                assert_frame_equal(arrays.states().sort(columns), before.sort(columns))
                return


def test_what_arrays_cannot_hold_is_left_to_polars() -> None:
    def possible(key: Any, **aggregates: Any) -> bool:
        window = Window(tumbling("2m"), "at", 0, keep_late=False)
        step = Aggregation(window, key, tuple(aggregates.items()))
        kernel = GroupKernel(step, SCHEMA, where="here")
        return dense_windows(step, kernel, SCHEMA, closed_until_us=TIME_MIN) is not None

    k, t, x = (((name, col(name)),) for name in "ktx")
    assert possible(k, n=agg.count())
    assert possible(t, n=agg.mean("n"))
    assert not possible(x, n=agg.count())
    assert not possible((*k, *t), n=agg.count())
    assert not possible(k, n=agg.median("n"))
    assert not possible(k, n=agg.min("t"))
    assert not possible(k, n=agg.last("n", by="at"))
