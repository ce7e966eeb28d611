"""What cannot be a model, beside what ``test_flows_learning.py`` says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from river.cluster import KMeans
from river.preprocessing import StandardScaler as RiverScaler
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import millstream as ms
from millstream.cli.main import cli
from millstream.primitives.errors import PlanError
from tests.refusals import refused


@pytest.mark.parametrize(
    "make",
    [
        MiniBatchKMeans,
        KMeans,
        lambda: make_pipeline(StandardScaler(), MiniBatchKMeans()),
        lambda: RiverScaler() | KMeans(),
    ],
)
def test_what_learns_no_target_is_refused(make: Callable[[], object]) -> None:
    with refused(PlanError, "KMeans finds clusters and learns no target", "ms.Model('m')"):
        ms.Model("m", make(), ["x"], "y")


def test_other_features_are_named_whole(store_path: Path) -> None:
    with ms.App("shop", store=store_path, durability="process") as app:
        events = app.read([{"a": 1.0, "b": 2.0, "y": 3.0}])
        events.fit(ms.Model("m", SGDRegressor(), ["a", "b"], "y")).run()
        with refused(PlanError, "features was ['a', 'b'] and is now ['a']"):
            events.predict(ms.Model("m", SGDRegressor(), ["a"], "y")).run()


def test_a_table_of_models_is_not_folded_where_there_is_no_terminal(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with ms.App("shop", store=store_path, durability="process") as app:
        events = app.read([{"a": 1.0, "y": 3.0}])
        events.fit(ms.Model("arrival_delay_of_flights", SGDRegressor(), ["a"], "y")).run()
    told = CliRunner().invoke(cli, ["models", "--store", str(store_path)])
    [line] = [line for line in told.output.splitlines() if "SGDRegressor" in line]
    assert "arrival_delay_of_flights" in line
    assert "scikit-learn" in line
