"""Batches in real worker processes: who shares a call, who waits how long, and what a death leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.primitives.errors import TaskFailed
from millstream.tasks.limits import WORKER_DEATHS_MAX
from millstream.tasks.message import Outcome
from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, Site, site
from tests.integration.tasks_shop import gated_batch, gather, shout

POOLS = ["process", "thread", "async", "solo"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize("pool", POOLS)
def test_every_call_is_in_one_batch(shop: Site, pool: str) -> None:
    names = [f"n{number}" for number in range(203)]
    results = gather.map(names)
    shop.burst("--pool", pool, "--concurrency", "2")
    told = [words.split()[1:] for _, words in shop.listen_to_all()]
    assert sorted(name for batch in told for name in batch) == sorted(names)
    assert max(len(batch) for batch in told) == 5
    ends = [one.get(0) for one in results]
    assert [end.split()[0] for end in ends] == names


def test_a_lone_call_is_run_by_a_worker_that_is_up(shop: Site) -> None:
    """It sleeps until then: the test would stop after two minutes if nobody came for it."""
    with shop.worker("--concurrency", "2"):
        assert gather.delay("one").get(PATIENCE_S) == "one of 1"
        assert gather.delay("two").get(PATIENCE_S) == "two of 1"


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_killed_worker_returns_the_whole_batch(shop: Site, pool: str) -> None:
    """Nobody knows which call it died of: none is charged, and each runs by itself then."""
    results = gated_batch.map(["a", "b", "c"])
    with shop.worker("--pool", pool, "--concurrency", "1"):
        process, words = shop.listen()
        assert words == "batch a b c"
        assert [one.state for one in results] == [TaskState.RUNNING] * 3
        os.kill(process, signal.SIGKILL)
        again = []
        for _ in range(3):
            again.append(shop.listen())
            shop.open_gate()
        assert [words for _, words in again] == ["batch a", "batch b", "batch c"]
        assert process not in {one.get(PATIENCE_S) for one in results}
    assert [one.attempts() for one in results] == [[], [], []]


def test_poison_in_a_batch_is_found(shop: Site) -> None:
    results = gather.map(["a", "poison", "b"])
    with shop.worker("--concurrency", "2"):
        with pytest.raises(TaskFailed, match="worker died"):
            results[1].get(PATIENCE_S)
        assert results[0].get(PATIENCE_S) == "a of 1"
        assert results[2].get(PATIENCE_S) == "b of 1"
    outcomes = [one.outcome for one in results[1].attempts()]
    assert outcomes == [Outcome.WORKER_DIED] * WORKER_DEATHS_MAX


@pytest.mark.parametrize(
    "step", ["task.gathered", "task.gathering", "task.claimed", "task.finished"]
)
def test_a_kill_at_any_step_loses_no_call(shop: Site, step: str) -> None:
    results = gather.map([f"n{number}" for number in range(12)])
    fresh = (shout.s("late") | gather.s()).delay()  # Sent by a worker, so that it waits for others.
    shop.burst("--concurrency", "2", SHOP_KILL_AT=step)
    assert (shop.path.parent / "killed").exists()
    assert [one.get(0).split()[0] for one in results] == [f"n{number}" for number in range(12)]
    assert fresh.get(0).startswith("LATE of ")


def test_sigterm_ends_the_batch_that_runs_and_returns_the_rest(shop: Site) -> None:
    results = gated_batch.map(list("abcdefg"))
    with shop.worker("--concurrency", "1", SHOP_TELL_AT="task.stopping") as worker:
        shop.listen()
        worker.send_signal(signal.SIGTERM)
        assert shop.listen()[1] == "task.stopping"
        shop.open_gate()
        assert worker.wait(PATIENCE_S) == 0
    states = [one.state for one in results]
    assert states == [TaskState.SUCCEEDED] * 3 + [TaskState.QUEUED] * 4


def test_a_terminated_call_ends_its_process_and_no_other_call(shop: Site) -> None:
    doomed, *beside = gated_batch.map(["a", "b", "c"])
    with shop.worker("--concurrency", "1", "--lease", "2s"):
        shop.listen()
        doomed.revoke(terminate=True)
        gated_batch.delay("d")
        assert shop.listen()[1] == "batch b c d"
        shop.open_gate()
        process = beside[0].get(PATIENCE_S)
        assert beside[1].get(PATIENCE_S) == process
    assert doomed.state is TaskState.REVOKED
    assert [one.attempts() for one in beside] == [[], []]
