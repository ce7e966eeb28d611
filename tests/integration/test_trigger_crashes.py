"""A process that runs triggers is killed at each step: no run is lost, and what commits with its note comes once."""

from __future__ import annotations

from pathlib import Path

import pytest

import millstream as ms
from millstream.primitives.telemetry import set_listener
from millstream.testing import VirtualClock
from tests.flows_kit import Crash, crash_at
from tests.triggers_kit import add, opened


def declared(path: Path, clock: VirtualClock, target: str, mode: str) -> ms.App:
    """orders ──gathered──▶ job ──after──▶ later"""
    app = opened(path, clock)

    @app.trigger(ms.after("job"))
    def later() -> ms.Flow:
        return app.read("orders").agg(n=ms.count()).write("later")

    @app.trigger(ms.gathered("orders", events=3), mode=mode)
    def job() -> ms.Flow:
        return app.read("orders").write(target)

    return app


def steps_of(path: Path, clock: VirtualClock, target: str, mode: str) -> list[tuple[str, int]]:
    """Return each step of a look that runs the first trigger, and the how-manieth of its name it is."""
    seen: list[str] = []
    with declared(path, clock, target, mode) as app:
        add(app, 1, 2, 3)
        set_listener(seen.append)
        try:
            assert app.triggers.run_due() == 1
        finally:
            set_listener(None)
    return [(step, seen[: at + 1].count(step)) for at, step in enumerate(seen)]


@pytest.mark.parametrize(
    ("mode", "target"),
    [
        ("batch", "copies"),
        ("batch", "copies.parquet"),
        ("batch", "folder/"),
        ("stream", "copies"),
        ("stream", "folder/"),
    ],
)
def test_a_kill_at_each_step_loses_no_run_and_repeats_no_commit(
    tmp_path: Path, mode: str, target: str
) -> None:
    """A file that a batch adds to a directory is there before its commit: that alone may come once more."""
    clock = VirtualClock()
    steps = steps_of(
        tmp_path / "all", clock, target if target == "copies" else f"{tmp_path}/all-{target}", mode
    )
    assert ("trigger.noted", 1) in steps
    assert ("trigger.applied", 1) in steps
    crashes = 0
    for number, (step, nth) in enumerate(steps):
        path = tmp_path / f"{number}"
        place = target if target == "copies" else f"{tmp_path}/{number}-{target}"
        app = declared(path, clock, place, mode)
        add(app, 1, 2, 3)
        crash_at(step, nth)
        try:
            app.triggers.run_due()
        except Crash:
            crashes += 1
        finally:
            set_listener(None)
            app.close()
        with declared(path, clock, place, mode) as app:
            app.triggers.run_due()
            app.triggers.run_due()
            assert [one.runs for one in app.triggers.list()] == [1, 1], (step, nth)
            rows = app.read(place).collect()["eur"].to_pylist()
            may_repeat = mode == "batch" and target == "folder/"
            assert sorted(rows) == [1, 2, 3] or (may_repeat and sorted({*rows}) == [1, 2, 3]), step
            assert app.read("later").collect()["n"].to_pylist() == [3], (step, nth)
    assert crashes == len(steps)
