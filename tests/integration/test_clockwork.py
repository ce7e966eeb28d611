"""Schedules and workflows under ``millstream worker``, in several processes that are killed and replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import millstream as ms
from millstream.tasks.message import TaskFilter
from tests.integration import clockwork

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
MEMBERS = 300


@pytest.fixture
def store(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CLOCKWORK_STORE", str(store_path))
    clockwork.app.store_path = str(store_path)
    yield store_path
    clockwork.app.close()


@contextmanager
def worker(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """``millstream worker`` in a group of processes of its own, so that all of it can be killed at once."""
    command = [sys.executable, "-m", "millstream", "worker", "-A", "tests.integration.clockwork"]
    process = subprocess.Popen(
        [*command, *options], cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


def await_runs(runs: int) -> ms.App:
    """Wait until the schedule has so many runs."""
    app = clockwork.app
    with app.tasks_engine.store.waiter("tasks:default") as waiter:
        for _ in range(10_000):
            waiter.arm()
            if any(one.runs >= runs for one in app.schedules.list()):
                return app
            waiter.wait(None)
    raise AssertionError("the schedule does not run")


def workers_of(app: ms.App) -> list[int]:
    """The processes of those that joined, by the names that they gave themselves."""
    with app.tasks_engine.store.read() as snapshot:
        return [int(row[2].rpartition(":")[2]) for row in snapshot.run("tasks/workers")]


def kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(
            ProcessLookupError
        ):  # One that was killed before, and is not evicted yet.
            os.kill(process, signal.SIGKILL)


@pytest.mark.timeout(180)
def test_workers_that_are_killed_hand_the_duty_on_and_nothing_runs_twice(store: Path) -> None:
    runs = 0
    with worker("--concurrency", "2") as process:
        for _ in range(3):
            app = await_runs(runs + 5)
            kill(workers_of(app)[-1:])
            runs = app.schedules.list()[0].runs
        await_runs(runs + 5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert b"schedules added: tick" in errors
    (status,) = clockwork.app.schedules.list()
    depth = clockwork.app.tasks_engine.depth()
    assert sum(depth.values()) == status.runs
    assert status.skipped == 0


@pytest.mark.timeout(180)
def test_everything_killed_in_the_middle_of_a_chord(store: Path) -> None:
    app = clockwork.app
    header = [clockwork.count.s(n) for n in range(MEMBERS)]
    result = ms.chord(header)(clockwork.total.s())
    assert isinstance(result.parent, ms.GroupResult)
    ended = 0
    for place in (MEMBERS // 4, MEMBERS // 2):
        with worker("--concurrency", "2") as process:
            result.parent[place].get(PATIENCE_S)
            kill([*workers_of(app), process.pid])
        ended = result.parent.completed_count()
    assert ended >= MEMBERS // 4
    with worker("--concurrency", "2"):
        assert result.get(PATIENCE_S) == MEMBERS * (MEMBERS + 1) // 2
    with app.tasks_engine.store.read() as snapshot:
        (bodies,) = app.tasks.control.ids(TaskFilter(name=clockwork.total.name), tasks_max=9)
        assert bodies == result.id
        assert snapshot.run("workflows/by_id", (result.id,))[0][7] == "succeeded"
