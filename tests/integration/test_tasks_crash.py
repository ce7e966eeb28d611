"""SIGKILL at every named step of a task's way: nothing acknowledged is lost, nothing is finished twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, ROOT, Site, site
from tests.integration.tasks_shop import gated, square

TASKS = 40
WORKER_STEPS = [
    "task.joined",
    "task.claiming",
    "task.claimed",
    "task.started",
    "task.finished",
    "task.completed",
    "task.acknowledged",
    "task.leaving",
    "task.left",
    "commit.before",
    "commit.visible",
]
SENDER = """
import sys
from tests.integration.tasks_shop import square
for n in range(40):
    print(square.delay(n).id, flush=True)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "disk", monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize("step", WORKER_STEPS)
def test_a_worker_is_killed(shop: Site, step: str) -> None:
    results = square.enqueue_many(square.s(n) for n in range(TASKS))
    shop.burst("--concurrency", "2", SHOP_KILL_AT=step)
    assert (shop.path.parent / "killed").exists()
    assert [one.get(0) for one in results] == [n * n for n in range(TASKS)]
    lines = shop.listen_to_all()
    runs = Counter(words for _, words in lines)
    # Twice is allowed only for what was in the hands of the one that died.
    twice = {words for words, times in runs.items() if times > 1}
    assert all(len({process for process, said in lines if said == words}) == 2 for words in twice)
    assert max(runs.values()) <= 2
    assert shop.engine.refused() == 0


@pytest.mark.parametrize("step", ["task.recovering", "commit.visible"])
def test_the_one_who_recovers_is_killed_too(shop: Site, step: str) -> None:
    result = gated.delay("x")
    with shop.worker("--concurrency", "1") as worker:
        held, _ = shop.listen()
        worker.kill()
        os.kill(held, signal.SIGKILL)
        worker.wait(PATIENCE_S)
    shop.open_gate()
    shop.burst("--concurrency", "2", SHOP_KILL_AT=step)
    assert (shop.path.parent / "killed").exists()
    assert result.get(0) == "x"
    assert len(result.attempts()) == 1


@pytest.mark.parametrize(
    "step", ["task.inserted", "commit.before", "commit.visible", "task.enqueued"]
)
def test_a_sender_is_killed(shop: Site, step: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SENDER],
        cwd=ROOT,
        env={**os.environ, "SHOP_KILL_AT": step},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    acknowledged = done.stdout.split()
    queued = shop.engine.depth()[TaskState.QUEUED]
    assert len(acknowledged) <= queued <= len(acknowledged) + 1
    shop.burst("--concurrency", "1")
    assert all(square.result(task_id).get(0) is not None for task_id in acknowledged)
    assert shop.engine.depth()[TaskState.SUCCEEDED] == queued
