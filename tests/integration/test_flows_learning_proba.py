"""How probable classes are: asked of a model, said before a row is learned, and the log loss that follows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from river.linear_model import LogisticRegression as RiverLogistic
from river.naive_bayes import GaussianNB as RiverBayes
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import millstream as ms
from millstream.cli.main import cli
from millstream.engines.local import flow_learning
from millstream.engines.local.flow_meter import figures_bytes, figures_of
from millstream.engines.local.flow_state import decoded, encoded
from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.learning import Model
from millstream.flows.models import ModelFigures
from millstream.primitives.errors import PlanError, StepError
from millstream.testing.flows_suite import LocalWorld
from tests.flows_kit import StopAfter
from tests.refusals import refused

KINDS = ("a", "b", "c")


class Shares:
    """Says each class as often as it was learned: what it says tells what it knows."""

    def partial_fit(self, matrix: Any, targets: Any, classes: Any) -> None:
        if not hasattr(self, "classes_"):
            self.classes_ = np.unique(classes)
            self.counts = np.zeros(len(self.classes_))
        self.counts += [(targets == label).sum() for label in self.classes_]

    def predict(self, matrix: Any) -> Any:
        return np.full(len(matrix), self.classes_[self.counts.argmax()])

    def predict_proba(self, matrix: Any) -> Any:
        return np.tile(self.counts / self.counts.sum(), (len(matrix), 1))


class Silent(Shares):
    """Has the method, and no ``classes_`` that say what its columns are."""

    def partial_fit(self, matrix: Any, targets: Any, classes: Any) -> None:
        self.label = classes[0]

    def predict(self, matrix: Any) -> Any:
        return np.full(len(matrix), self.label)


class Far:
    """Predicts nothing finite."""

    def partial_fit(self, matrix: Any, targets: Any) -> None:
        pass

    def predict(self, matrix: Any) -> Any:
        return np.full(len(matrix), np.inf)


def shares(estimator: Any = None, **options: Any) -> Model:
    # The classes are declared in another order than the estimator has them in.
    return Model(
        "shares",
        estimator or Shares(),
        ["x"],
        "kind",
        ["b", "a", "c"],
        **{"chunk_rows": 2, **options},
    )


@pytest.fixture
def world(store_path: Path):
    with LocalWorld(store_path) as found:
        found.topic("events", {"x": float | None, "kind": str | None})
        yield found


def add(world: LocalWorld, *kinds: str | None) -> None:
    world.append("events", [{"x": 1.0, "kind": kind} for kind in kinds])


def test_a_model_is_asked_how_probable_classes_are(world: LocalWorld) -> None:
    add(world, "a", "a", "a", "b")
    world.append("events", [{"x": None, "kind": "b"}])
    events = world.read("events")
    events.fit(shares()).run()
    both = events.predict(shares(), into="said", proba={"p_b": "b", "p_c": "c"})
    assert both.plan.schema.names == ["x", "kind", "said", "p_b", "p_c"]
    assert both.select("said", "p_b", "p_c").collect().to_pylist()[3:] == [
        {"said": "a", "p_b": 0.25, "p_c": 0.0},
        {"said": None, "p_b": None, "p_c": None},
    ]
    only = events.predict(shares(), into=None, proba={"p": "a"})
    assert only.collect().column_names == ["x", "kind", "p"]
    assert "proba={p: 'a'}" in only.explain()


def test_probabilities_are_said_before_a_row_is_learned(world: LocalWorld) -> None:
    #  a  a │ b  ∅  a │ b       ∅ has no target
    add(world, "a", "a", "b", None, "a", "b")
    flow = world.read("events").fit(shares(), into="said", proba={"p_b": "b", "p_a": "a"})
    report = flow.write("out").stream(until="end", batch_events=1)
    told = [(row["said"], row["p_b"], row["p_a"]) for row in world.events("out")]
    assert told == [
        (None, None, None),
        (None, None, None),
        ("a", 0.0, 1.0),
        ("a", 0.0, 1.0),
        ("a", 0.0, 1.0),
        ("a", 0.25, 0.75),
    ]
    # b was said to be impossible, a certain, b one in four.
    expected = (-math.log(2**-52) - math.log(1 - 2**-52) - math.log(0.25)) / 3
    assert report.models["shares"].log_loss == pytest.approx(expected)
    assert "wrong 0.6667, log loss 12.48" in str(report)


def test_the_log_loss_is_that_of_scikit_learn(world: LocalWorld) -> None:
    generator = np.random.default_rng(7)
    kinds = generator.choice(KINDS, 900)
    x = generator.normal(size=900) + (kinds == "a") - (kinds == "b")
    world.append(
        "events", [{"x": float(at), "kind": str(kind)} for at, kind in zip(x, kinds, strict=True)]
    )
    model = Model("bayes", make_pipeline(StandardScaler(), GaussianNB()), ["x"], "kind", KINDS)
    names = {f"p_{kind}": kind for kind in KINDS}
    report = world.read("events").fit(model, proba=names).run()
    assert report.table is not None
    rows = report.table.to_pylist()[100:]
    expected = log_loss(
        [row["kind"] for row in rows], [[row[name] for name in names] for row in rows]
    )
    assert report.models["bayes"].log_loss == pytest.approx(expected)
    assert 0.3 < expected < math.log(3)


@pytest.mark.parametrize("chunk_rows", [1, 50])
def test_river_tells_probabilities_too(world: LocalWorld, chunk_rows: int) -> None:
    world.topic("flags", {"x": float, "is_odd": bool, "word": str})
    world.append(
        "flags",
        [{"x": n % 2 + n % 5 / 10, "is_odd": n % 2 == 1, "word": "ab"[n % 2]} for n in range(400)],
    )
    odd = Model("odd", RiverLogistic(), ["x"], "is_odd", [False, True], chunk_rows)
    figures = world.read("flags").fit(odd).run().models["odd"]
    assert figures.log_loss is not None
    assert 0 < figures.log_loss < math.log(2)
    asked = world.read("flags").limit(2).predict(odd, proba={"p": True, "q": False}).collect()
    even, uneven = asked.to_pylist()
    assert even["p"] < 0.5 < uneven["p"]
    assert [row["p"] + row["q"] for row in (even, uneven)] == pytest.approx([1.0, 1.0])
    # A class that has not been seen yet has no probability in what river tells.
    bayes = Model("bayes", RiverBayes(), ["x"], "word", ["a", "b", "z"], chunk_rows)
    world.read("flags").fit(bayes).run()
    said = world.read("flags").limit(1).predict(bayes, proba={"a": "a", "z": "z"}).collect()
    assert (said["predicted"][0].as_py(), said["z"][0].as_py()) == ("a", 0.0)
    assert said["a"][0].as_py() == pytest.approx(1.0)


def test_figures_go_on_across_a_stop_and_its_log(world: LocalWorld) -> None:
    """A restart learns the rows since the last version again, and knows how probable they were said to be."""
    add(world, *"abacabbacaba")
    with LocalWorld(world.store.path.with_name("whole.mill")) as whole:
        whole.topic("events", {"x": float | None, "kind": str | None})
        add(whole, *"abacabbacaba")
        expected = whole.read("events").fit(shares()).run().models["shares"]
    model = shares(version_rows=5)
    flow = world.read("events").fit(model)
    for batches in (1, 2):
        stop = StopAfter(batches)
        flow.stream(batch_events=3, stop=stop, progress=stop.progress)
    assert flow.stream(until="end", batch_events=1).models["shares"] == expected
    assert expected.log_loss is not None


@pytest.mark.parametrize("is_older", [False, True])
def test_a_restart_reads_the_log(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch, *, is_older: bool
) -> None:
    """Killed before a version, all that is known of the rows is the log; an older one lacks the probabilities."""
    add(world, *"aabbab")
    flow = world.read("events").fit(shares())
    monkeypatch.setattr(flow_learning.Trainer, "finish", _gone)
    with pytest.raises(RuntimeError, match="gone"):
        flow.stream(until="end", batch_events=2)
    monkeypatch.undo()
    if is_older:
        log = world.store.look("models/log", (1,))
        rows = pl.concat([decoded(data, checksum, "here") for _, checksum, data in log])

        def write_older(tx: Any) -> None:
            tx.run("models/log_clear", (1,))
            blobs = encoded(rows.drop(flow_learning.LIKELY))
            tx.many("models/log_append", [(1, *blob) for blob in blobs])

        world.store.write(write_older)
    add(world, *"ab")
    known = flow.stream(until="now").models["shares"]
    # Of the chunks b b, a b and a b; the last one is new, and c was never there.
    likely = [1 / 2, 1 / 2] if is_older else [0, 0, 1 / 2, 1 / 2, 1 / 2, 1 / 2]
    expected = -sum(math.log(max(p, 2**-52)) for p in likely) / len(likely)
    assert (known.rows, known.log_loss) == (6, pytest.approx(expected))


def _gone(_: object) -> None:
    raise RuntimeError("gone")


def test_a_stream_goes_on_when_probabilities_are_asked_for(world: LocalWorld) -> None:
    """What a fit adds is no part of what must stay the same; what predicts before it is."""
    add(world, *"abab")
    flow = world.read("events").fit(shares(), into="said").named("learning")
    flow.select("said").write("out").stream(until="end")
    add(world, *"ab")
    more = world.read("events").fit(shares(), proba={"p_a": "a"}).named("learning")
    assert more.select("p_a").write("shares").stream(until="end").rows_in == 2
    assert [row["p_a"] for row in world.events("shares")] == [0.5, 0.5]

    def asking(**options: Any) -> Flow:
        asked = world.read("events").predict(shares(), into="now", **options)
        counted = asked.window(ms.count_window(4)).group_by("now").agg(n=agg.count())
        return counted.write("counts").named("asking")

    asking().stream(until="now")
    with refused(PlanError, "step 1 was predict(shares: Shares", "proba={p: 'a'}"):
        asking(proba={"p": "a"}).stream(until="now")


def test_without_probabilities_there_is_no_log_loss(world: LocalWorld) -> None:
    add(world, "a", "b", "a", "b", "a")
    events = world.read("events")
    hinge = Model("hinge", SGDClassifier(), ["x"], "kind", KINDS, chunk_rows=2)
    figures = events.fit(hinge).run().models["hinge"]
    assert (figures.rows, figures.log_loss) == (3, None)
    with refused(PlanError, "SGDClassifier tells no probabilities", "step 1, predict"):
        events.predict(hinge, proba={"p": "a"})
    silent = shares(Silent())
    assert events.fit(silent).run().models["shares"].log_loss is None
    with refused(StepError, "Silent tells no probabilities", "classes_"):
        events.predict(silent, proba={"p": "a"}).collect()
    with refused(StepError, "Silent tells no probabilities", "step 1, fit"):
        events.fit(silent, proba={"p": "a"}).run()


def test_what_cannot_be_asked(world: LocalWorld) -> None:
    events = world.read("events")
    asks: list[tuple[Any, str]] = [
        ({}, "proba={}"),
        (True, "proba=True"),
        (["a"], "proba=['a']"),
        ({"": "a"}, "proba={'': 'a'}"),
        ({"p": "z"}, "'z' is none of the model's classes"),
        ({"p": 1}, "1 is none of the model's classes"),
        ({"x": "a"}, "column 'x' is there already"),
        ({"predicted": "a"}, "column 'predicted' is there already"),
    ]
    for proba, saying in asks:
        with refused(PlanError, saying, "step 1, predict"):
            events.predict(shares(), proba=proba)
    with refused(PlanError, "1 is none of the model's classes"):
        events.with_columns(odd=True).fit(
            Model("odd", RiverLogistic(), ["x"], "odd", [False, True]), proba={"p": 1}
        )
    with refused(PlanError, "predict adds no column"):
        events.predict(shares(), into=None)
    with refused(PlanError, "'m' predicts numbers", "step 1, fit"):
        events.fit(Model("m", SGDRegressor(), ["x"], "x2"), proba={"p": 1})


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        ({"chunk_rows": 2.5}, "chunk_rows=2.5"),
        ({"chunk_rows": True}, "chunk_rows=True"),
        ({"version_rows": "10"}, "version_rows='10'"),
        ({"keep": None}, "keep=None"),
        ({"window_rows": float("nan")}, "window_rows=nan"),
        ({"features": "power"}, "features='power'"),
        ({"features": ["x", 3]}, "features=['x', 3]"),
        ({"features": {"x", "z"}}, "features={"),
        ({"features": None}, "features=None"),
        ({"target": None}, "a model without a target: None"),
        ({"name": 7}, "a model without a name: 7"),
        ({"classes": "ab"}, "classes='ab'"),
        ({"classes": 2}, "classes=2"),
    ],
)
def test_an_option_of_another_type_is_refused(options: dict[str, Any], saying: str) -> None:
    given = {"name": "m", "estimator": Shares(), "features": ["x"], "target": "y", **options}
    with refused(PlanError, saying):
        Model(**given)


def test_json_has_no_nan(store_path: Path) -> None:
    with ms.App("shop", store=store_path) as app:
        topic = app.topic("events", schema={"x": float, "y": float})
        topic.append([{"x": 1.0, "y": 1.0} for _ in range(9)])
        app.read(topic).fit(Model("far", Far(), ["x"], "y", chunk_rows=2, window_rows=3)).run()
        assert app.models.all()[0].figures.error == math.inf
    for words in (["models"], ["models", "far"]):
        done = CliRunner().invoke(cli, [*words, "--json", "--store", str(store_path)])
        assert done.exit_code == 0, done.output
        [told] = json.loads(done.output, parse_constant=lambda name: pytest.fail(name))
        assert told["figures"]["error"] is None
        assert told["figures"]["recent"] == [None, None]
        assert told["figures"]["baseline"] == 0


def test_stored_figures_of_before_have_no_log_loss() -> None:
    figures = ModelFigures(rows=1, error=0.5, log_loss=0.1)
    assert figures_of(figures_bytes(figures)) == figures
