"""``fit`` in a batch: all rows are learned, once and in their order, whatever stands behind it and reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engines.local import flow_fitting
from millstream.engines.local.flow_fitting import Fitting
from millstream.engines.local.flow_learning import training
from millstream.engines.local.flow_tally import Counter
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.learning import Fit, Model
from millstream.primitives.errors import StepError
from millstream.testing.flows_suite import LocalWorld
from tests.refusals import refused

ROWS = 1000
PIECE = 70
"""No multiple of the model's chunks, and not all pieces are as large."""
NO_ROWS = pa.table({"n": pa.array([], pa.int64()), "word": pa.array([], pa.string())})


class Order:
    """Remembers the targets in the order in which they were learned."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def partial_fit(self, matrix: Any, targets: Any) -> None:
        self.seen += targets.tolist()
        if 900 in self.seen and 5 not in self.seen:
            raise ValueError("five was not there")

    def predict(self, matrix: Any) -> Any:
        return np.full(len(matrix), float(len(self.seen)))


MODEL = Model("order", Order(), ["x"], "n", chunk_rows=100)


@pytest.fixture
def world(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorld]:
    monkeypatch.setattr(flow_fitting, "FIT_ROWS", PIECE)
    with LocalWorld(store_path) as found:
        found.topic("events", {"x": float, "n": int})
        found.append("events", [{"x": 1.0, "n": n} for n in range(ROWS)])
        yield found


def up_to_950(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if max(batch["n"].to_pylist(), default=0) >= 950:
            raise ValueError("cannot count to 950")
        yield batch


def learned(world: LocalWorld) -> list[float]:
    seen: list[float] = world.flows.engines.models.estimator(MODEL).seen
    return seen


def trained(world: LocalWorld) -> Flow:
    return world.read("events").fit(MODEL, into="said")


BEHIND: dict[str, tuple[Callable[[Flow, Path], Flow], int]] = {
    "all": (lambda flow, _: flow.write("out"), ROWS),
    "the first": (lambda flow, _: flow.limit(3).write("out"), 3),
    "none": (lambda flow, _: flow.limit(0).write("out"), 0),
    "some": (lambda flow, _: flow.filter(col("n") < 10).write("out"), 10),
    "joined with nothing": (
        lambda flow, _: flow.join(NO_ROWS, on="n", how="inner").write("out"),
        0,
    ),
    "to a file": (lambda flow, path: flow.limit(3).write(str(path / "out.parquet")), 3),
    "to a lake": (lambda flow, path: flow.limit(3).write(ms.delta(str(path / "out"))), 3),
    "in order": (lambda flow, _: flow.sort("n", descending=True).write("out"), ROWS),
    "counted": (lambda flow, _: flow.agg(rows=agg.count()).write("out"), 1),
    "counted of the first": (lambda flow, _: flow.limit(3).agg(rows=agg.count()).write("out"), 1),
}


@pytest.mark.parametrize("memory", [None, "16MiB"])
@pytest.mark.parametrize("what", BEHIND)
def test_all_rows_are_learned_once(
    world: LocalWorld, tmp_path: Path, what: str, memory: str | None
) -> None:
    behind, rows = BEHIND[what]
    report = behind(trained(world), tmp_path).run(memory=memory)
    assert report.rows_out == rows
    assert learned(world) == [*range(ROWS)]
    [status] = world.flows.engines.models.all()
    assert (status.rows, status.waiting, report.models["order"].rows) == (ROWS, 0, ROWS - 100)


@pytest.mark.parametrize("memory", [None, "16MiB"])
def test_a_side_of_a_join_is_learned_once(world: LocalWorld, memory: str | None) -> None:
    """A full join reads its sides more than once."""
    other = world.read("events").filter(col("n") > 990).select("n", y="x")
    report = trained(world).join(other, on="n", how="full").write("out").run(memory=memory)
    assert report.rows_out == ROWS
    assert learned(world) == [*range(ROWS)]


def test_a_run_that_a_lake_has_already_learns_all_the_same(
    world: LocalWorld, tmp_path: Path
) -> None:
    flow = trained(world).write(ms.delta(str(tmp_path / "out"), run="monday"))
    assert [flow.run().rows_out for _ in range(2)] == [ROWS, 0]
    assert learned(world) == [*range(ROWS), *range(ROWS)]


def test_a_flow_that_only_trains_holds_no_rows(world: LocalWorld) -> None:
    flow = world.read("events").fit(MODEL)
    report = flow.run()
    assert report.table is None
    assert (report.rows_in, report.rows_out) == (ROWS, ROWS)
    assert flow.collect().num_rows == ROWS
    assert learned(world) == [*range(ROWS), *range(ROWS)]


def test_what_is_said_of_a_row_depends_on_no_piece(world: LocalWorld) -> None:
    table = trained(world).collect()
    assert table["n"].to_pylist() == [*range(ROWS)]
    assert table["said"].to_pylist() == [None] * 100 + [
        float(n // 100 * 100) for n in range(100, ROWS)
    ]


def test_no_rows_are_learned_from_nothing(world: LocalWorld) -> None:
    world.topic("none", {"x": float, "n": int})
    flow = world.read("none").fit(MODEL, into="said")
    assert flow.collect().num_rows == 0
    assert flow.agg(rows=agg.count()).collect()["rows"].to_pylist() == [0]
    assert world.flows.engines.models.all()[0].rows == 0


class Interrupted(Order):
    """Is stopped, as by Ctrl-C, long after the rows that a limit wants."""

    def partial_fit(self, matrix: Any, targets: Any) -> None:
        if 900 in targets:
            raise KeyboardInterrupt
        super().partial_fit(matrix, targets)


def test_a_training_that_is_interrupted_is_not_taken_for_finished(world: LocalWorld) -> None:
    """Nobody may wait for the thread in which it is interrupted: the end of the output has to know."""
    model = Model("order", Interrupted(), ["x"], "n", chunk_rows=100)
    flow = world.read("events").fit(model)
    rows = pl.DataFrame({"x": [1.0] * ROWS, "n": range(ROWS)})
    with training(world.store, flow.plan, "flow", commits_often=False) as trainers:
        [step] = flow.plan.steps
        assert isinstance(step, Fit)
        fitting = Fitting(trainers.of(step), rows.lazy(), flow.plan.schema, Counter())
        with pytest.raises(BaseException):  # noqa: B017, PT011 - Polars may make another one of it
            fitting.frame().collect(engine="streaming")
        with pytest.raises(KeyboardInterrupt):
            fitting.finish()
    with pytest.raises(BaseException):  # noqa: B017, PT011
        flow.limit(3).write("out").run()
    assert world.flows.engines.models.all()[0].rows == 0
    assert world.events("out") == []


@pytest.mark.parametrize("memory", [None, "16MiB"])
@pytest.mark.parametrize("what", ["the first", "to a file", "to a lake", "counted of the first"])
def test_what_cannot_be_learned_leaves_no_output(
    world: LocalWorld, tmp_path: Path, what: str, memory: str | None
) -> None:
    """The error comes long after the rows that the output wants."""
    behind, events = BEHIND[what][0], world.read("events")
    without = events.filter(col("n") != 5).fit(MODEL, into="said")
    with refused(StepError, "Order cannot learn: ValueError: five was not there", "step 2, fit"):
        behind(without, tmp_path).run(memory=memory)
    failing = events.map_batches(up_to_950, {"x": float, "n": int}).fit(MODEL, into="said")
    with pytest.raises(StepError, match="cannot count to 950"):
        behind(failing, tmp_path).run(memory=memory)
    assert world.flows.engines.models.all()[0].rows == 0
    assert not [path for path in tmp_path.rglob("*.parquet") if not path.name.startswith(".")]
    if what == "the first":
        assert world.events("out") == []
