"""What is counted of each step is what a flow of the steps up to there gives, however the input is cut and computed.

rows ── step 1 ── step 2 ── step 3      rows_out of step 2  =  rows of the flow that ends behind step 2
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.flows.flow import Flow
from millstream.testing.flows_suite import EPOCH, LocalWorld

SCHEMA = {"n": int | None, "at": ms.Timestamp}


def twice(row: dict[str, object]) -> list[dict[str, object]]:
    return [row] * (0 if row["n"] is None else 2)


STEPS: dict[str, Callable[[Flow], Flow]] = {
    "even": lambda flow: flow.filter(ms.col("n") % 2 == 0),
    "small": lambda flow: flow.filter(ms.col("n") < 20),
    "columns": lambda flow: flow.with_columns(m=ms.col("n") + 1),
    "select": lambda flow: flow.select("n", "at"),
    "flat_map": lambda flow: flow.select("n", "at").flat_map(twice, schema=SCHEMA),
    "join": lambda flow: flow.select("n", "at").join(TABLE, on="n"),
    "none": lambda flow: flow.filter(ms.col("n") != ms.col("n")),
}
TABLE = [{"n": 2, "t": 1}, {"n": 2, "t": 2}, {"n": 7, "t": 3}]

ROWS = st.lists(st.none() | st.integers(0, 30), max_size=40)


def flow_of(world: LocalWorld, names: list[str]) -> Flow:
    flow = world.read("in")
    for name in names:
        flow = STEPS[name](flow)
    return flow


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6),
    cut=st.integers(1, 20),
)
@pytest.mark.parametrize("mode", ["batch", "stream", "window"])
def test_each_step_counts_its_rows(
    mode: str, rows: list[int | None], names: list[str], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, LocalWorld(Path(folder) / "s.mill") as world:
        world.topic("in", SCHEMA, partitions=2)
        for number, n in enumerate(rows):
            world.append("in", [{"n": n, "at": EPOCH}], partition=number % 2)
        flow = flow_of(world, names)
        # Several steps of SQL and of Python come to one step of a plan here or to two: each is asked what it gives.
        expected = [
            flow.__class__(
                flow.plan.__class__(flow.plan.source, flow.plan.steps[:end]), flow.engines
            )
            .collect()
            .num_rows
            for end in range(len(flow.plan.steps) + 1)
        ]
        if mode == "window":
            flow = (
                flow.select("n", "at")
                .window(ms.tumbling("1h"), on="at")
                .group_by("n")
                .agg(c=ms.count())
            )
            expected += [expected[-1], len({*flow_of(world, names).collect()["n"].to_pylist()})]
        if mode == "batch":
            steps = flow.write("out").run().steps
        else:
            steps = flow.write("out").stream(until="end", batch_events=cut).steps
    assert [step.rows_in for step in steps] == expected[:-1]
    assert [step.rows_out for step in steps] == expected[1:]
    assert [step.number for step in steps] == [*range(1, len(steps) + 1)]
