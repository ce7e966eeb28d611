"""A stream that trains a model gives what a batch gives, whatever the rows, the cut, the crashes and the stops."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.linear_model import LinearRegression as RiverLine
from river.preprocessing import StandardScaler as RiverScaler
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from millstream.engines.local import flow_fitting
from millstream.flows.flow import Flow
from millstream.flows.learning import Model
from millstream.testing.flows_suite import LocalWorld
from tests.flows_kit import CRASHES, StopAfter, crash_each

SCHEMA = {"x": float | None, "z": int, "y": float | None, "c": str | None}
ESTIMATORS = {
    "sgd": (make_pipeline(StandardScaler(), SGDRegressor()), "y", None),
    "classes": (SGDClassifier(loss="log_loss"), "c", ["few", "many"]),
    "river": (RiverScaler() | RiverLine(), "y", None),
}
NUMBERS = st.one_of(st.none(), st.just(float("nan")), st.integers(-9, 9).map(lambda n: n / 3))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "x": NUMBERS,
            "z": st.integers(-5, 5),
            "y": st.one_of(st.none(), st.integers(-50, 50).map(lambda n: n / 7)),
            "c": st.sampled_from([None, "few", "many"]),
        }
    ),
    min_size=1,
    max_size=60,
)


def model_of(kind: str, chunk_rows: int, version_rows: int) -> Model:
    estimator, target, classes = ESTIMATORS[kind]
    return Model(
        "m", estimator, ["x", "z"], target, classes, chunk_rows, version_rows, keep=2, window_rows=7
    )


def trained(world: LocalWorld, model: Model) -> Flow:
    proba = None if model.classes is None else {"few": "few", "many": "many"}
    flow = world.read("events").fit(model, into="said", proba=proba)
    return flow.select("said") if proba is None else flow.select("said", *proba)


def outcome(world: LocalWorld, model: Model) -> tuple[Any, ...]:
    [status] = world.flows.engines.models.all()
    estimator = world.flows.engines.models.estimator(model) if status.version else None
    weights: Any = None
    if estimator is not None and status.rows:
        last = [*estimator.steps.values()][-1] if model.is_river else estimator
        last = last[-1] if isinstance(estimator, type(ESTIMATORS["sgd"][0])) else last
        weights = (
            (dict(last.weights), last.intercept)
            if model.is_river
            else (last.coef_.tolist(), last.intercept_.tolist())
        )
    return (status.rows, status.unlabelled, status.incomplete, status.figures, weights)


@settings(max_examples=12, deadline=None)
@given(
    rows=ROWS,
    kind=st.sampled_from(sorted(ESTIMATORS)),
    chunk_rows=st.integers(1, 9),
    version_rows=st.integers(1, 30),
    batch_events=st.integers(1, 25),
    piece_rows=st.integers(1, 25),
    crashes=CRASHES,
    stops=st.lists(st.integers(1, 3), max_size=2),
)
def test_a_stream_learns_what_a_batch_learns(
    rows: list[dict[str, Any]],
    kind: str,
    chunk_rows: int,
    version_rows: int,
    batch_events: int,
    piece_rows: int,
    crashes: list[tuple[str, int]],
    stops: list[int],
) -> None:
    model = model_of(kind, chunk_rows, version_rows)
    with tempfile.TemporaryDirectory() as folder:
        with (
            LocalWorld(Path(folder) / "batch.mill") as world,
            pytest.MonkeyPatch.context() as pieces,
        ):
            pieces.setattr(flow_fitting, "FIT_ROWS", piece_rows)
            world.topic("events", SCHEMA)
            world.append("events", rows)
            table = trained(world, model).collect()
            expected = (table.to_pylist(), outcome(world, model))
        path = Path(folder) / "stream.mill"
        with LocalWorld(path) as world:
            world.topic("events", SCHEMA)
            world.append("events", rows)

        def stream(world: LocalWorld, stop: StopAfter | None = None) -> None:
            flow = trained(world, model).write("out")
            if stop is None:
                flow.stream(until="end", batch_events=batch_events)
            else:
                flow.stream(
                    until="end", batch_events=batch_events, stop=stop, progress=stop.progress
                )

        crash_each(path, crashes, stream)
        for batches in stops:
            with LocalWorld(path) as world:
                stream(world, StopAfter(batches))
        with LocalWorld(path) as world:
            stream(world)
            assert (world.events("out"), outcome(world, model)) == expected
