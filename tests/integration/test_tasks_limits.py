"""Limits of attempts in real workers: told in time, ended in time, charged once; whatever the task does about it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from millstream.primitives.errors import ConfigurationError, TaskFailed
from millstream.tasks.message import Outcome
from millstream.tasks.result import AsyncResult
from millstream.tasks.signature import CallKeywords
from millstream.tasks.states import TaskState
from tests.integration import tasks_shop, tasks_strict
from tests.integration.tasks_processes import PATIENCE_S, Site, site
from tests.integration.tasks_shop import gated, square
from tests.integration.tasks_strict import (
    deaf,
    deaf_batch,
    double,
    greedy,
    hoard,
    silent,
    stubborn,
    tidy,
    tidy_coroutine,
    untidy,
)

ANY_POOL = ["process", "thread", "async", "solo"]


@pytest.fixture
def strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch, tasks_strict) as opened:
        yield opened


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch, tasks_shop) as opened:
        yield opened


def errors_of(result: AsyncResult[Any]) -> list[str]:
    return [one.error_type.rpartition(".")[2] for one in result.attempts()]


@pytest.mark.parametrize("pool", ANY_POOL)
def test_a_soft_limit_is_told_inside_the_task_which_may_clean_up(strict: Site, pool: str) -> None:
    # Not in queue "default", whose declared tasks not every pool can run.
    soft = CallKeywords(soft_time_limit=0.1, queue="soft")
    ways = ["computes"] if pool in {"thread", "async"} else ["computes", "waits"]
    tidied = [tidy.apply_async((way,), **soft) for way in ways]
    coroutine = tidy_coroutine.apply_async(**soft)
    strict.burst("--pool", pool, "--concurrency", "2", "--queues", "soft")
    assert [one.get(0) for one in [*tidied, coroutine]] == ["tidied up"] * (len(ways) + 1)


def test_a_soft_limit_that_is_not_caught_is_a_failed_attempt(strict: Site) -> None:
    result = untidy.delay()
    strict.burst("--concurrency", "1")
    with pytest.raises(TaskFailed, match="soft time limit") as caught:
        result.get(0)
    assert "wait_in_the_kernel()" in caught.value.traceback
    assert errors_of(result) == ["SoftTimeLimitExceeded"] * 2


def test_a_hard_limit_ends_the_process_and_its_attempt_alone(strict: Site) -> None:
    before = double.enqueue_many(double.s(n) for n in range(300))
    stuck = stubborn.delay()
    after = double.enqueue_many(double.s(n) for n in range(300))
    strict.burst("--concurrency", "1")
    assert [one.get(0) for one in before + after] == [2 * n for n in range(300)] * 2
    with pytest.raises(TaskFailed, match=r"hard time limit of 300 ms") as caught:
        stuck.get(0)
    assert "wait_in_the_kernel()" in caught.value.traceback
    assert errors_of(stuck) == ["TimeLimitExceeded"] * 2
    assert [one.outcome for one in stuck.attempts()] == [Outcome.RAISED] * 2
    # What was finished before is committed before the process ends: nothing runs twice.
    runs = Counter(words for _, words in strict.listen_to_all())
    assert (runs.pop("stubborn"), runs.pop("told")) == (2, 2)
    assert set(runs.values()) == {2}
    assert strict.engine.refused() == 0


def test_a_hard_limit_holds_for_code_that_holds_the_interpreter_and_blocks_signals(
    strict: Site,
) -> None:
    stuck, after = deaf.delay(), double.delay(4)
    with strict.worker("--concurrency", "1") as worker:
        with pytest.raises(TaskFailed, match=r"hard time limit of 300 ms"):
            stuck.get(PATIENCE_S)
        assert after.get(PATIENCE_S) == 8
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=PATIENCE_S)
    assert errors_of(stuck) == ["TimeLimitExceeded"] * 2
    assert after.attempts() == []
    assert said.count(b"worker 1 is killed: its task ran for longer than 300 ms") == 2


def test_a_batch_over_its_hard_limit_has_failed_for_each_of_its_calls(strict: Site) -> None:
    stuck = [deaf_batch.delay(n) for n in range(3)]
    after = double.delay(4)
    strict.burst("--concurrency", "1")
    assert [errors_of(one) for one in stuck] == [["TimeLimitExceeded"]] * 3
    assert {one.state for one in stuck} == {TaskState.FAILED}
    assert (after.get(0), after.attempts()) == (8, [])
    assert [words for _, words in strict.listen_to_all()].count("deaf [0, 1, 2]") == 1


def test_a_call_has_limits_of_its_own_and_the_worker_has_some_for_all(strict: Site) -> None:
    # The call before the task before the worker.
    patient = tidy.apply_async(("waits",), soft_time_limit=timedelta(milliseconds=50))
    given = tidy.apply_async(("waits",), time_limit=0.2)
    strict.burst("--concurrency", "1", "--soft-time-limit", "0.1", "--time-limit", "10m")
    assert (patient.get(0), given.get(0)) == ("tidied up", "tidied up")
    hopeless = tidy.apply_async(("waits",), time_limit=0.2)
    left = tidy.delay("waits")
    strict.burst("--concurrency", "1", "--time-limit", "300ms")
    for result, limit in ((hopeless, "200 ms"), (left, "300 ms")):
        with pytest.raises(TaskFailed, match=f"hard time limit of {limit}"):
            result.get(0)


def test_a_task_that_takes_too_much_memory_has_failed_one_attempt(strict: Site) -> None:
    fits, greed = greedy.delay(20), greedy.delay(900)
    others = double.enqueue_many(double.s(n) for n in range(50))
    with strict.worker("--concurrency", "1") as worker:
        with pytest.raises(TaskFailed, match=r"more memory than 300 MB, its limit"):
            greed.get(PATIENCE_S)
        assert fits.get(PATIENCE_S) == 20
        assert [one.get(PATIENCE_S) for one in others] == [2 * n for n in range(50)]
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=PATIENCE_S)
    assert errors_of(greed) == ["MemoryLimitExceeded"] * 2
    assert not any(one.attempts() for one in [fits, *others])
    assert said.count(b"and may take 300 MB") == 2


def test_a_worker_whose_task_holds_the_interpreter_is_killed_after_its_lease(strict: Site) -> None:
    stuck = silent.delay()
    with strict.worker("--concurrency", "1", "--lease", "1s") as worker:
        first, _ = strict.listen()
        second, _ = strict.listen()
        assert worker.stderr is not None
        assert b"no sign of life for 1 s, its lease" in worker.stderr.readline()
        assert first != second
        stuck.revoke("enough", terminate=True)
        assert double.delay(1).get(PATIENCE_S) == 2
    assert stuck.attempts()[0].outcome is Outcome.WORKER_DIED


def test_a_pool_that_cannot_keep_a_limit_refuses_to_start(strict: Site) -> None:
    for pool in ("thread", "async", "solo"):
        with strict.worker("--pool", pool) as worker:
            _, said = worker.communicate(timeout=PATIENCE_S)
        assert worker.returncode in {2, 78}
        assert f"--pool {pool} cannot keep a hard time limit".encode() in said
        assert b"use a soft_time_limit" in said


def test_a_call_with_a_limit_that_the_pool_cannot_keep_fails(shop: Site) -> None:
    result = square.apply_async((3,), time_limit=5)
    with shop.worker("--pool", "thread", "--concurrency", "1"):
        while not result.attempts():
            square.delay(1).get(PATIENCE_S)
    (attempt, *_) = result.attempts()
    assert "--pool thread cannot keep a hard time limit" in attempt.error
    assert ConfigurationError.__name__ in attempt.error_type


def test_a_process_is_replaced_when_it_takes_too_much_memory(strict: Site) -> None:
    results = hoard.enqueue_many(hoard.s(megabytes) for megabytes in (400, 1, 400, 1))
    strict.burst("--concurrency", "1", "--max-memory-per-child", "300MB")
    assert all(one.state is TaskState.SUCCEEDED for one in results)
    told = [process for process, _ in strict.listen_to_all()]
    assert [told.count(process) for process in dict.fromkeys(told)] == [1, 2, 1]
    assert not any(one.attempts() for one in results)


def test_a_hard_limit_holds_while_the_worker_stops(shop: Site) -> None:
    result = gated.apply_async(("x",), time_limit=1)
    with shop.worker("--concurrency", "1", SHOP_TELL_AT="task.stopping") as worker:
        shop.listen()
        worker.send_signal(signal.SIGTERM)
        assert shop.listen()[1] == "task.stopping"
        assert worker.wait(PATIENCE_S) == 0
    assert errors_of(result) == ["TimeLimitExceeded"]
    assert result.state is TaskState.RETRYING


def test_a_second_signal_gives_a_limited_task_back_uncharged(shop: Site) -> None:
    result = gated.apply_async(("x",), time_limit=300, soft_time_limit=200)
    with shop.worker("--concurrency", "1") as worker:
        shop.listen()
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(PATIENCE_S) == 0
    assert (result.state, result.attempts()) == (TaskState.QUEUED, [])
