"""Pools of real worker processes: threads, coroutines, and the process alone; stops, deaths and poison in each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.primitives.errors import TaskFailed, TaskRevoked
from millstream.tasks.limits import WORKER_DEATHS_MAX
from millstream.tasks.message import Outcome
from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, Site, site
from tests.integration.tasks_shop import (
    dream,
    flaky,
    gated,
    in_process,
    only_once,
    poison,
    shout,
    square,
    unstorable,
)

MANY = ["thread", "async"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["thread", "async", "solo"])
def test_every_pool_runs_every_kind_of_task(shop: Site, pool: str) -> None:
    squares = square.enqueue_many(square.s(n) for n in range(100))
    loud = shout.enqueue_many(shout.s(f"a{n}") for n in range(100))
    wrong, odd = flaky.delay(1), unstorable.delay()
    shop.burst("--pool", pool, "--concurrency", "4")
    assert [one.get(0) for one in squares] == [n * n for n in range(100)]
    assert [one.get(0) for one in loud] == [f"A{n}" for n in range(100)]
    with pytest.raises(TaskFailed, match="no 1") as caught:
        wrong.get(0)
    assert 'raise ValueError(f"no {n}")' in caught.value.traceback
    assert "worker_execute" not in caught.value.traceback
    with pytest.raises(TaskFailed, match="cannot be stored"):
        odd.get(0)


@pytest.mark.parametrize("pool", MANY)
def test_so_many_tasks_run_beside_each_other(shop: Site, pool: str) -> None:
    results = gated.enqueue_many(gated.s(f"{n}") for n in range(4))
    with shop.worker("--pool", pool, "--concurrency", "3"):
        told = [shop.listen() for _ in range(3)]
        assert {words for _, words in told} == {f"gated {n}" for n in range(3)}
        assert len({process for process, _ in told}) == 1
        assert results[3].state is TaskState.QUEUED
        shop.open_gate(4)
        assert [one.get(PATIENCE_S) for one in results] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("pool", MANY)
def test_poison_is_charged_and_those_beside_it_are_not(shop: Site, pool: str) -> None:
    beside = gated.delay("x")
    with shop.worker("--pool", pool, "--concurrency", "2"):
        shop.listen()
        deadly = poison.delay()
        shop.open_gate(20)
        with pytest.raises(TaskFailed, match="worker died"):
            deadly.get(PATIENCE_S)
        assert beside.get(PATIENCE_S) == "x"
    outcomes = [one.outcome for one in deadly.attempts()]
    assert outcomes == [Outcome.WORKER_DIED] * WORKER_DEATHS_MAX
    assert beside.attempts() == []


@pytest.mark.parametrize("pool", MANY)
def test_sigterm_is_warm(shop: Site, pool: str) -> None:
    results = gated.enqueue_many(gated.s(f"{n}") for n in range(3))
    with shop.worker("--pool", pool, "--concurrency", "2", SHOP_TELL_AT="task.stopping") as worker:
        shop.listen(), shop.listen()
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        assert worker.stderr.readline().startswith(b"stopping: ")
        assert shop.listen()[1] == "task.stopping"
        shop.open_gate(2)
        assert worker.wait(PATIENCE_S) == 0
    states = [one.state for one in results]
    assert states == [TaskState.SUCCEEDED, TaskState.SUCCEEDED, TaskState.QUEUED]
    assert shop.engine.depth()[TaskState.RUNNING] == 0


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_sigquit_is_cold(shop: Site, pool: str) -> None:
    results = gated.enqueue_many(gated.s(f"{n}") for n in range(2))
    with shop.worker("--pool", pool, "--concurrency", "2") as worker:
        shop.listen(), shop.listen()
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(PATIENCE_S) == 0
    assert [one.state for one in results] == [TaskState.QUEUED] * 2
    assert [one.attempts() for one in results] == [[], []]


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_sigquit_never_lets_a_task_run_again_that_may_run_only_once(shop: Site, pool: str) -> None:
    result = only_once.delay("x")
    with shop.worker("--pool", pool, "--concurrency", "1") as worker:
        assert shop.listen()[1] == "gated x"
        worker.send_signal(signal.SIGQUIT)
        worker.wait(PATIENCE_S)
    with pytest.raises(TaskFailed, match="told to end at once") as caught:
        result.get(0)
    assert caught.value.error_type == "WorkerStopped"
    shop.open_gate()
    shop.burst("--concurrency", "1")
    assert shop.listen_to_all() == []
    assert len(result.attempts()) == 1


def test_solo_is_one_process_that_stops_in_order(shop: Site) -> None:
    first, second = gated.delay("first"), gated.delay("second")
    with shop.worker("--pool", "solo", SHOP_TELL_AT="task.stopping") as worker:
        process, _ = shop.listen()
        assert process == worker.pid
        os.kill(process, signal.SIGTERM)
        assert shop.listen()[1] == "task.stopping"
        shop.open_gate()
        assert worker.wait(PATIENCE_S) == 0
    assert first.get(0) == "first"
    assert second.state is TaskState.QUEUED


def test_a_process_is_replaced_after_so_many_tasks(shop: Site) -> None:
    results = square.enqueue_many(square.s(n) for n in range(12))
    shop.burst("--concurrency", "1", "--max-tasks-per-child", "5")
    assert [one.get(0) for one in results] == [n * n for n in range(12)]
    told = [process for process, _ in shop.listen_to_all()]
    assert [told.count(process) for process in dict.fromkeys(told)] == [5, 5, 2]


def test_a_coroutine_that_is_terminated_is_cancelled_and_its_neighbour_goes_on(shop: Site) -> None:
    doomed, beside = dream.delay(), gated.delay("beside")
    with shop.worker("--pool", "async", "--concurrency", "2", "--lease", "2s"):
        assert {shop.listen()[1], shop.listen()[1]} == {"dream", "gated beside"}
        doomed.revoke(terminate=True)
        assert shop.listen()[1] == "woken"
        with pytest.raises(TaskRevoked):
            doomed.get(PATIENCE_S)
        shop.open_gate()
        assert beside.get(PATIENCE_S) == "beside"
    assert doomed.state is TaskState.REVOKED
    assert beside.attempts() == []


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_what_tasks_share_is_opened_once_a_process_and_closed_at_its_end(
    shop: Site, pool: str
) -> None:
    results = in_process.enqueue_many(in_process.s() for _ in range(50))
    with shop.worker("--pool", pool, "--concurrency", "2") as worker:
        assert all(one.get(PATIENCE_S) for one in results)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
    told = shop.listen_to_all()
    opened = {process for process, words in told if words == "open"}
    assert len(told) == 2 * len(opened)
    assert {process for process, words in told if words == "close"} == opened
