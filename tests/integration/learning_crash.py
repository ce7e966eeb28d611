"""A process that trains a model and kills itself at a named step. Run by test_flows_learning_kill.py."""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.linear_model import SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from millstream.flows.flow import Flow
from millstream.flows.learning import Model
from millstream.testing.flows_suite import LocalWorld
from tests.integration.flows_crash import kill_at

BATCH_EVENTS = 40
SCHEMA = {"n": int, "x": float | None, "y": float | None}
MODEL = Model(
    "line",
    make_pipeline(StandardScaler(), SGDRegressor()),
    features=["x"],
    target="y",
    chunk_rows=25,
    version_rows=60,
    keep=3,
    window_rows=50,
)


def rows(count: int = 260) -> list[dict[str, object]]:
    """Return a line, with a target and a feature that are missing now and then."""
    return [
        {
            "n": n,
            "x": None if n % 41 == 40 else (n * 37 % 100) / 10,
            "y": None if n % 11 == 10 else (n * 37 % 100) / 5 + n % 3,
        }
        for n in range(count)
    ]


def fill(world: LocalWorld, count: int = 260) -> None:
    world.topic("events", SCHEMA)
    world.append("events", rows(count))


def flow(world: LocalWorld, model: Model = MODEL) -> Flow:
    return world.read("events").fit(model, into="said")


def main() -> None:
    path, what, step, nth = sys.argv[1:]
    world = LocalWorld(Path(path), durability="disk")
    kill_at(step, int(nth))
    if what == "stream":
        flow(world).write("out").stream(until="end", batch_events=BATCH_EVENTS)
    else:
        flow(world).write("out").run()


if __name__ == "__main__":
    main()
