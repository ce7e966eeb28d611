"""Streams of events with nulls, infinities and disorder, and a flow over them with most aggregations."""

from __future__ import annotations

import math
from datetime import timedelta

from hypothesis import strategies as st

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld

SCHEMA = {"k": str | None, "n": int | None, "f": float | None, "at": Timestamp}
LATE_S = 600

# Event time goes on by up to two minutes an event, and each comes up to ten minutes out of order.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b"]),
        st.none() | st.integers(-(2**40), 2**40),
        st.none() | st.sampled_from([0.0, -0.5, 1.25, 1e6, math.inf, math.nan]),
        st.integers(0, 120),
        st.integers(0, LATE_S),
    ),
    max_size=60,
)


def rows_of(events: list[tuple[str | None, int | None, float | None, int, int]]) -> list[dict]:
    rows, second = [], 0
    for k, n, f, step_s, back_s in events:
        second += step_s
        when = EPOCH + timedelta(seconds=LATE_S + second - back_s)
        rows.append({"k": k, "n": n, "f": f, "at": when})
    return rows


def flow_of(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("5m"), on="at", late=f"{LATE_S}s")
    return windowed.group_by("k").agg(
        rows=agg.count(),
        total=agg.sum("n"),
        mean=agg.mean("n"),
        low=agg.min("f"),
        high=agg.max("f"),
        q=agg.quantile("n", 0.75),
        u=agg.n_unique("f"),
        last=agg.last("n", by="at"),
        first=agg.first("f", by="at"),
    )
