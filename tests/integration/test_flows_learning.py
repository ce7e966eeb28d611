"""Models in flows: asked while they are trained, kept in versions, rolled back, and refused when they do not fit."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from river.linear_model import LinearRegression as RiverLine
from river.naive_bayes import GaussianNB as RiverBayes
from river.preprocessing import OneHotEncoder
from sklearn.linear_model import LinearRegression, SGDClassifier, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, QuantileTransformer

import millstream as ms
from millstream.cli.main import cli, main
from millstream.engines.local import flow_estimators, flow_models
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.learning import Model
from millstream.flows.report import Progress
from millstream.flows.windows import tumbling
from millstream.primitives.errors import (
    ConfigurationError,
    Fenced,
    PlanError,
    StepError,
    StoreCorrupt,
)
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at
from tests.flows_kit import StopAfter
from tests.refusals import refused


class Mean:
    """Predicts the mean of what it has learned: what it says tells what it knows."""

    def __init__(self) -> None:
        self.rows, self.total = 0, 0.0

    def partial_fit(self, matrix: Any, targets: Any) -> None:
        self.rows += len(matrix)
        self.total += float(targets.sum())

    def predict(self, matrix: Any) -> Any:
        return np.full(len(matrix), self.total / self.rows)


def mean(**options: Any) -> Model:
    return Model("mean", Mean(), ["x"], "y", **{"chunk_rows": 2, "version_rows": 4, **options})


@pytest.fixture
def world(store_path: Path):
    with LocalWorld(store_path) as found:
        found.topic("events", {"x": float | None, "y": float | None})
        yield found


def add(world: LocalWorld, *targets: float | None) -> None:
    world.append("events", [{"x": 1.0, "y": target} for target in targets])


def said(world: LocalWorld) -> list[float | None]:
    return [row["said"] for row in world.events("out")]


def test_a_row_is_predicted_by_the_whole_chunks_before_it(world: LocalWorld) -> None:
    #  1  3 │ 5  ∅  7 │ 9 │      ∅ has no target: it is predicted, and not learned
    add(world, 1, 3, 5, None, 7, 9)
    report = (
        world.read("events")
        .fit(mean(), into="said")
        .write("out")
        .stream(until="end", batch_events=1)
    )
    assert said(world) == [None, None, 2.0, 2.0, 2.0, 4.0]
    [status] = world.flows.engines.models.all()
    assert (status.rows, status.waiting, status.unlabelled) == (5, 0, 1)
    # |2-5|, |2-7|, |4-9|; of the mean of what was learned the same
    assert report.models["mean"].rows == 3
    assert report.models["mean"].error == pytest.approx(13 / 3)
    assert report.models["mean"].baseline == pytest.approx(13 / 3)
    assert "model mean: MAE 4.333" in str(report)


def test_incomplete_rows_pass_and_are_counted(world: LocalWorld) -> None:
    world.append("events", [{"x": x, "y": 1.0} for x in (1.0, None, float("nan"), 1.0)])
    world.append("events", [{"x": float("inf"), "y": 1.0}, {"x": 1.0, "y": float("nan")}])
    table = world.read("events").fit(mean(), into="said").collect()
    assert table["said"].to_pylist() == [None, None, None, None, None, 1.0]
    [status] = world.flows.engines.models.all()
    assert (status.rows, status.incomplete, status.unlabelled) == (2, 3, 1)
    asked = world.read("events").predict(mean()).collect()
    assert asked["predicted"].to_pylist() == [1.0, None, None, 1.0, None, 1.0]


def test_a_model_needs_no_sink_and_learns_on(world: LocalWorld) -> None:
    add(world, 1, 3)
    flow = world.read("events").fit(mean())
    assert flow.name == "mean"
    flow.stream(until="end")
    assert world.read("events").predict(mean()).collect()["predicted"].to_pylist() == [2.0, 2.0]
    add(world, 5, 7)
    flow.stream(until="end")
    assert world.read("events").predict(mean()).collect()["predicted"].to_pylist() == [4.0] * 4
    # The batch knows no place: it learns all of it again.
    flow.run()
    assert world.flows.engines.models.estimator(mean()).rows == 8


def test_rows_that_waited_at_a_stop_are_learned_at_an_end_without_new_ones(
    world: LocalWorld,
) -> None:
    """The stop keeps a version in which the third row waits; nothing comes, and the end learns it."""
    add(world, 1, 3, 11)
    stop = StopAfter(1)
    flow = world.read("events").fit(mean())
    flow.stream(stop=stop, progress=stop.progress)
    models = world.flows.engines.models
    assert [(one.rows, one.waiting) for one in models.all()] == [(3, 1)]
    assert flow.stream(until="end").rows_in == 0
    assert [(one.rows, one.waiting) for one in models.all()] == [(3, 0)]
    assert models.estimator(mean()).rows == 3


def test_versions_are_kept_pruned_and_asked(world: LocalWorld) -> None:
    add(world, *range(1, 21))
    model = mean(keep=3)
    world.read("events").fit(model).stream(until="end", batch_events=4)
    models = world.flows.engines.models
    kept = models.versions("mean")
    assert [(one.version, one.rows, one.is_current) for one in kept] == [
        (3, 12, False),
        (4, 16, False),
        (5, 20, True),
    ]
    one = world.read("events").limit(1)
    assert one.predict(model).collect()["predicted"].to_pylist() == [10.5]
    assert one.predict(model, version=3).collect()["predicted"].to_pylist() == [6.5]
    with refused(StepError, "no version 1", "[3, 4, 5]"):
        one.predict(model, version=1).collect()
    with refused(ConfigurationError, "no version 2", "3, 4, 5"):
        models.rollback("mean", 2)
    with refused(ConfigurationError, "no model 'other'"):
        models.versions("other")


def test_a_rollback_reaches_a_stream_that_runs(world: LocalWorld) -> None:
    """Version 1 knows four rows; the stream, rolled back behind the eighth, goes on from it."""
    add(world, 1, 1, 1, 1, 9, 9, 9, 9, 5, 5)
    models, done = world.flows.engines.models, []

    def roll_back(progress: Progress) -> None:
        done.append(progress.rows_done)
        if progress.rows_done == 8:
            assert [one.rows for one in models.versions("mean")] == [4, 8]
            models.rollback("mean", 1)

    flow = world.read("events").fit(mean(), into="said").write("out")
    flow.stream(until="end", batch_events=4, progress=roll_back)
    assert done == [4, 8, 10]
    assert said(world) == [None, None, 1.0, 1.0, 1.0, 1.0, 11 / 3, 11 / 3, 1.0, 1.0]
    estimator = models.estimator(mean())
    assert (estimator.rows, estimator.total) == (6, 14.0)
    assert [(v.version, v.rows, v.is_current) for v in models.versions("mean")] == [
        (1, 4, False),
        (2, 8, False),
        (3, 6, True),
    ]


def test_a_rollback_during_a_micro_batch_forgets_it_too(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(world, 1, 1, 1, 1)
    flow = world.read("events").fit(mean(), into="said").write("out")
    flow.stream(until="end", batch_events=4)
    add(world, 9, 9)
    models, partial_fit = world.flows.engines.models, Mean.partial_fit

    def learn(self: Mean, matrix: Any, targets: Any) -> None:
        models.rollback("mean", 1)
        partial_fit(self, matrix, targets)

    with monkeypatch.context() as patched:
        patched.setattr(Mean, "partial_fit", learn)
        flow.stream(until="end", batch_events=4)
    assert said(world) == [None, None, 1.0, 1.0, 1.0, 1.0]
    assert models.estimator(mean()).rows == 4


def test_a_stopped_stream_keeps_a_version_and_its_waiting_rows(world: LocalWorld) -> None:
    add(world, 1, 3, 5)
    stop = Event()
    flow = world.read("events").fit(mean(), into="said").write("out")
    flow.stream(stop=stop, progress=lambda _: stop.set())
    [status] = world.flows.engines.models.all()
    assert (status.version, status.rows, status.waiting) == (1, 3, 1)
    add(world, 7, 0)
    flow.stream(until="end")
    # The chunk of 5 and 7 is whole across the stop.
    assert said(world) == [None, None, 2.0, 2.0, 4.0]


def test_many_small_commits_keep_the_log_short(world: LocalWorld) -> None:
    model = mean(version_rows=10_000)
    add(world, *range(600))
    seen: list[int] = []

    def look(_: Progress) -> None:
        seen.append(len(world.store.look("models/log", (1,))))

    world.read("events").fit(model).stream(until="end", batch_events=1, progress=look)
    assert 250 < max(seen) <= 257
    assert world.flows.engines.models.estimator(model).rows == 600


def test_one_run_trains_a_model_at_a_time(world: LocalWorld) -> None:
    add(world, 1, 2)
    flow = world.read("events").fit(mean())

    def again(_: Progress) -> None:
        with refused(Fenced, "being trained", "in this process"):
            flow.run()
        with refused(Fenced, "being trained"):
            world.flows.engines.models.delete("mean")

    flow.stream(until="end", progress=again)
    world.flows.engines.models.delete("mean")
    assert world.flows.engines.models.all() == []
    assert world.store.look("models/parts", (1, 1)) == []
    with refused(StepError, "no version yet"):
        world.read("events").predict(mean()).collect()


def test_a_step_behind_fit_and_a_batch_with_windows(world: LocalWorld) -> None:
    add(world, 1, 3, 5, 7)
    flow = world.read("events").fit(mean(), into="said").filter(col("said").is_not_null())
    flow.select("said").write("out").stream(until="end", batch_events=3)
    assert said(world) == [2.0, 2.0]
    world.flows.engines.models.delete("mean")
    table = flow.agg(error=agg.mean(col("y") - col("said"))).collect()
    assert table["error"].to_pylist() == [pytest.approx(4.0)]


def test_texts_booleans_and_integers_are_features_and_classes(world: LocalWorld) -> None:
    world.topic("mixed", {"word": str, "flag": bool, "n": int, "kind": str})
    world.append(
        "mixed",
        [
            {"word": "ab"[n % 2], "flag": n % 2 == 0, "n": n % 2, "kind": ["even", "odd"][n % 2]}
            for n in range(400)
        ],
    )
    line = Model("line", OneHotEncoder() | RiverLine(), ["word", "flag"], "n", chunk_rows=1)
    world.read("mixed").fit(line).run()
    asked = world.read("mixed").limit(2).predict(line).collect()["predicted"].to_pylist()
    assert asked == pytest.approx([0, 1], abs=0.1)
    sort = Model("sort", SGDClassifier(), ["flag", "n"], "kind", classes=["even", "odd"])
    report = world.read("mixed").fit(sort, into="said").run()
    assert report.table is not None
    assert report.table["said"].to_pylist()[100:] == ["even", "odd"] * 150
    assert report.models["sort"].error == 0
    assert report.models["sort"].baseline == 0.5


def test_a_change_is_seen_as_a_drift(world: LocalWorld) -> None:
    add(world, *[float(n % 7) for n in range(2000)], *[100.0 + n % 7 for n in range(1000)])
    report = world.read("events").fit(mean(chunk_rows=100, window_rows=500)).run()
    figures = report.models["mean"]
    assert figures.drifts
    assert figures.drifted_at is not None
    assert figures.drifted_at >= 1900
    assert len(figures.recent) == 5
    assert figures.recent[0] < 2 < figures.recent[-1]


def test_without_river_there_are_no_drifts(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_estimators.importlib.util, "find_spec", lambda _: None)
    add(world, 1, 2, 3)
    figures = world.read("events").fit(mean()).run().models["mean"]
    assert (figures.rows, figures.drifts, figures.drifted_at) == (1, None, None)


# ---- what is stored is checked before it is loaded ---------------------------------------------------


@pytest.mark.parametrize(
    ("other", "saying"),
    [
        (
            Model("mean", SGDRegressor(), ["x"], "y", chunk_rows=2),
            "estimator was tests.integration.test_flows_learning.Mean",
        ),
        (mean(chunk_rows=3), "chunk_rows was 2 and is now 3"),
    ],
)
def test_another_declaration_is_refused(world: LocalWorld, other: Model, saying: str) -> None:
    add(world, 1, 2)
    world.read("events").fit(mean()).run()
    with refused(PlanError, saying, "--delete"):
        world.read("events").fit(other).run()
    with refused(PlanError, saying):
        world.read("events").predict(other).collect()


def test_another_parameter_is_named(world: LocalWorld) -> None:
    add(world, 1, 2)
    world.read("events").fit(Model("m", SGDRegressor(alpha=0.1), ["x"], "y")).run()
    with refused(PlanError, "estimator was alpha=0.1 and is now alpha=0.2"):
        world.read("events").fit(Model("m", SGDRegressor(alpha=0.2), ["x"], "y")).run()


def test_another_library_is_refused(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    add(world, 1, 2)
    model = Model("m", SGDRegressor(), ["x"], "y")
    world.read("events").fit(model).run()
    monkeypatch.setattr(flow_estimators, "version", lambda _: "99.0")
    with refused(PlanError, "it was made by scikit-learn", "here is scikit-learn 99.0", "install"):
        world.read("events").predict(model).collect()


def test_damaged_bytes_are_never_unpickled(store_path: Path) -> None:
    with LocalWorld(store_path) as world:
        world.topic("events", {"x": float | None, "y": float | None})
        add(world, 1, 2)
        world.read("events").fit(mean()).run()

        def damage(tx: Any) -> None:
            tx.run("models/parts_delete", {"model_id": 1, "last": 1, "version": 0})
            tx.run("models/part_insert", (1, 1, b"cposix\nsystem\n(S'true'\ntR."))

        world.store.write(damage)
        with refused(StoreCorrupt, "version 1 of a model is damaged"):
            world.read("events").predict(mean()).collect()


def test_a_model_has_a_bound(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_models, "MODEL_BYTES_MAX", 100)
    add(world, 1, 2)
    with refused(StepError, "the model takes", "at most 100"):
        world.read("events").fit(mean()).run()
    [status] = world.flows.engines.models.all()
    assert (status.rows, status.version) == (0, None)


# ---- what does not fit is refused when the plan is built ---------------------------------------------


def test_what_is_no_model(world: LocalWorld) -> None:
    events = world.read("events")
    with refused(PlanError, "SGDRegressor is no model"):
        events.fit(SGDRegressor())
    with refused(PlanError, "no column 'z'", "step 1, fit"):
        events.fit(Model("m", SGDRegressor(), ["z"], "y"))
    with refused(PlanError, "no column 'z'", "step 1, predict"):
        events.predict(Model("m", SGDRegressor(), ["z"], "y"))
    with refused(PlanError, "no column 'z'"):
        events.fit(Model("m", SGDRegressor(), ["x"], "z"))
    with refused(PlanError, "column 'y' is there already"):
        events.fit(mean(), into="y")
    with refused(PlanError, "version=0"):
        events.predict(mean(), version=0)
    texts = events.with_columns(t="a")
    with refused(PlanError, "feature 't' is string"):
        texts.fit(Model("m", SGDRegressor(), ["x", "t"], "y"))
    with refused(PlanError, "target 't' is string"):
        texts.fit(Model("m", SGDRegressor(), ["x"], "t"))
    with refused(PlanError, "target 'y' is double"):
        texts.fit(Model("m", SGDClassifier(), ["x"], "y", classes=["a", "b"]))


@pytest.mark.parametrize(
    ("make", "saying"),
    [
        (
            lambda: Model("m", LinearRegression(), ["x"], "y"),
            "LinearRegression cannot learn a part",
        ),
        (lambda: Model("m", SGDRegressor, ["x"], "y"), "SGDRegressor is a class"),
        (lambda: Model("m", object(), ["x"], "y"), "object cannot learn a part"),
        (
            lambda: Model("m", make_pipeline(QuantileTransformer(), SGDRegressor()), ["x"], "y"),
            "step 'quantiletransformer'",
        ),
        (
            lambda: Model("m", make_pipeline(MinMaxScaler(), LinearRegression()), ["x"], "y"),
            "the last step, LinearRegression,",
        ),
        (
            lambda: Model("m", make_pipeline(PolynomialFeatures(), SGDRegressor()), ["x"], "y"),
            "step 'polynomialfeatures'",
        ),
        (lambda: Model("", Mean(), ["x"], "y"), "without a name"),
        (lambda: Model("m", Mean(), [], "y"), "features=[]"),
        (lambda: Model("m", Mean(), ["x", "x"], "y"), "features=['x', 'x']"),
        (lambda: Model("m", Mean(), ["x", "y"], "y"), "target='y'"),
        (lambda: mean(chunk_rows=0), "chunk_rows=0"),
        (lambda: mean(keep=0), "keep=0"),
        (lambda: Model("m", SGDClassifier(), ["x"], "y"), "must know its classes"),
        (lambda: Model("m", SGDClassifier(), ["x"], "y", classes=["a"]), "classes=['a']"),
        (lambda: Model("m", SGDClassifier(), ["x"], "y", classes=["a", 1]), "classes=['a', 1]"),
        (lambda: Model("m", SGDRegressor(), ["x"], "y", classes=[1, 2]), "numbers, not classes"),
    ],
)
def test_what_cannot_be_a_model(make: Any, saying: str) -> None:
    with refused(PlanError, saying):
        make()


def test_where_fit_cannot_stand(world: LocalWorld) -> None:
    world.topic("timed", {"x": float, "y": float, "at": Timestamp})
    timed = world.read("timed")
    hourly = timed.window(tumbling("1h"), on="at").agg(x=agg.mean("x"), y=agg.mean("y"))
    with refused(PlanError, "fit stands behind", "write that part to a topic"):
        hourly.fit(mean())
    with refused(PlanError, "a union or a join"):
        timed.union(timed).fit(mean())
    behind = timed.fit(mean(), into="said").window(tumbling("1h"), on="at").agg(n=agg.count())
    with refused(PlanError, "'at' does not say what can still come"):
        behind.write("out").stream(until="end")
    world.append("timed", [{"x": 1.0, "y": 1.0, "at": at(n)} for n in range(3)])
    assert behind.collect()["n"].to_pylist() == [3]
    with refused(PlanError, "would never be finished"):
        timed.sort("x").fit(mean()).write("out").stream(until="end")


def test_what_the_estimator_raises_ends_the_run(world: LocalWorld) -> None:
    class Broken(Mean):
        def partial_fit(self, matrix: Any, targets: Any) -> None:
            raise ValueError("too hot")

    add(world, 1, 2, 3)
    with refused(StepError, "cannot learn: ValueError: too hot", "step 1, fit"):
        world.read("events").fit(Model("b", Broken(), ["x"], "y", chunk_rows=2)).run()
    with refused(StepError, "cannot be pickled"):
        world.read("events").fit(Model("c", Local(), ["x"], "y", chunk_rows=2)).run()


@pytest.mark.parametrize("estimator", [SGDClassifier(), RiverBayes()])
def test_a_class_that_was_not_declared_is_refused(world: LocalWorld, estimator: Any) -> None:
    world.topic("sorted", {"x": float, "kind": str | None})
    world.append("sorted", [{"x": 1.0, "kind": kind} for kind in ("a", None, "b", "c")])
    model = Model("sort", estimator, ["x"], "kind", classes=["a", "b"], chunk_rows=2)
    with refused(StepError, "target 'kind' is 'c'", "step 1, fit", "one of ['a', 'b'], or null"):
        world.read("sorted").fit(model).run()
    known = world.read("sorted").filter(col("kind").fill_null("a") != "c")
    known.fit(model).run()
    assert world.flows.engines.models.all()[0].rows == 2


class Local(Mean):
    def __reduce__(self) -> Any:
        raise TypeError("not me")

    def __deepcopy__(self, memo: Any) -> Local:
        return Local()


# ---- the command ---------------------------------------------------------------------------------------


def test_the_command(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ms.App("shop", store=store_path) as app:
        topic = app.topic("events", schema={"x": float, "y": float})
        topic.append([{"x": 1.0, "y": float(n)} for n in range(12)])
        app.read(topic).fit(mean()).stream(until="end", batch_events=4)
    run = CliRunner()

    def told(*arguments: str) -> str:
        result = run.invoke(cli, ["models", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    where = ("--store", str(store_path))
    assert "mean" in told(*where)
    assert '"version": 3' in told("mean", "--json", *where)
    assert "3, current" in told("mean", *where)
    assert "1, current" in told("mean", "--rollback", "1", *where)
    assert "forgotten" in told("mean", "--delete", *where)
    assert told("--json", *where).strip() == "[]"
    for wrong in (
        ["--rollback", "1"],
        ["m", "--rollback", "1", "--delete"],
        ["m", "--rollback", "0"],
    ):
        assert run.invoke(cli, ["models", *wrong, *where]).exit_code == 2
    with pytest.raises(SystemExit) as ended:
        main(["models", "nothing", *where])
    assert ended.value.code == 2
    assert "there is no model 'nothing'" in capsys.readouterr().err
