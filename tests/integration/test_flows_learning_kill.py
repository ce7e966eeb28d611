"""kill -9 at every named step of a flow that trains a model: as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millstream.testing.flows_suite import LocalWorld
from tests.integration import learning_crash as crash

ROOT = Path(__file__).parents[2]


def run_until_killed(store: Path, what: str, step: str, nth: int) -> None:
    arguments = ["-m", "tests.integration.learning_crash", str(store), what, step, str(nth)]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def learned(world: LocalWorld) -> tuple[Any, ...]:
    """Return what there is to know of the model: its figures, and each of its numbers."""
    models = world.flows.engines.models
    [status] = models.all()
    line = models.estimator(crash.MODEL)[-1]
    return (
        (status.rows, status.waiting, status.unlabelled, status.incomplete, status.figures),
        (*line.coef_.tolist(), *line.intercept_.tolist(), line.t_),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Any]:
    """Return the output and the model of a batch that nothing disturbs."""
    with LocalWorld(tmp_path_factory.mktemp("undisturbed") / "a.mill") as world:
        crash.fill(world)
        return crash.flow(world).collect().to_pylist(), learned(world)


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.claimed", 1),
        ("flow.computed", 3),
        ("flow.staged", 4),
        ("flow.applied", 5),
        ("flow.committed", 2),
        ("flow.closing", 1),
        ("flow.applied", 8),
        ("flow.committed", 8),
    ],
)
def test_a_killed_stream_has_learned_what_it_has_committed(
    store_path: Path, undisturbed: tuple[Any, Any], step: str, nth: int
) -> None:
    with LocalWorld(store_path, durability="process") as world:
        crash.fill(world)
    run_until_killed(store_path, "stream", step, nth)
    with LocalWorld(store_path) as world:
        crash.flow(world).write("out").stream(until="end", batch_events=crash.BATCH_EVENTS)
        assert (world.events("out"), learned(world)) == undisturbed


@pytest.mark.parametrize(
    ("step", "has_learned"),
    [("flow.staged", False), ("flow.batch_committed", True)],
)
def test_a_killed_batch_has_learned_all_or_nothing(
    store_path: Path, undisturbed: tuple[Any, Any], step: str, has_learned: bool
) -> None:
    with LocalWorld(store_path, durability="process") as world:
        crash.fill(world)
    run_until_killed(store_path, "batch", step, 1)
    with LocalWorld(store_path) as world:
        [status] = world.flows.engines.models.all()
        assert (status.version is not None, bool(world.events("out"))) == (has_learned, has_learned)
        if not has_learned:
            crash.flow(world).write("out").run()
        assert (world.events("out"), learned(world)) == undisturbed
