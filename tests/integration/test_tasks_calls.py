"""Calls and results as a user makes them: one worker in this process, a real store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import (
    ConfigurationError,
    MaxRetriesExceeded,
    PayloadError,
    ResultTimeout,
    TaskArgumentError,
    TaskFailed,
    TaskRevoked,
    UnknownTask,
)
from millstream.store import Store
from millstream.tasks.limits import PROGRESS_BYTES_MAX, RETRIES_MAX
from millstream.tasks.message import TaskFilter
from millstream.tasks.states import TaskState
from tests.tasks_kit import Bench


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


def test_await_twins(bench: Bench) -> None:
    @bench.task
    def double(n: int) -> int:
        return 2 * n

    async def main() -> list[int]:
        results = [
            await double.adelay(1),
            await double.aapply_async((2,), priority=9),
            await double.s(3).adelay(),
        ]
        waiting = [asyncio.ensure_future(result.aget(10)) for result in results]
        await asyncio.to_thread(bench.drain)
        return [*await asyncio.gather(*waiting), await results[0]]

    assert asyncio.run(main()) == [2, 4, 6, 2]


def test_await_is_woken_by_another_thread_and_gives_up_in_time(bench: Bench) -> None:
    @bench.task
    def double(n: int) -> int:
        return 2 * n

    async def main() -> int:
        result = double.delay(1)
        with pytest.raises(ResultTimeout):
            await result.aget(0.01)
        with pytest.raises(UnknownTask):
            await double.result("nobody")
        worker = threading.Thread(target=bench.drain)
        worker.start()
        value = await result.aget(30)
        worker.join()
        return value

    assert asyncio.run(main()) == 2


def test_many_values_are_one_commit(bench: Bench) -> None:
    @bench.task
    def add(a: int, b: int = 1) -> int:
        return a + b

    results = add.map([1, 2]) + add.starmap([(3, 4), (5,)])
    bench.drain()
    assert [one.get(0) for one in results] == [2, 3, 7, 6]
    with pytest.raises(TaskArgumentError):
        add.map([1, "two"])
    assert sum(bench.engine.depth().values()) == 4


def test_signatures_keep_what_was_set_before(bench: Bench) -> None:
    @bench.task
    def add(a: int) -> int:
        return a

    call = add.si(1).set(priority=9).set(queue="q")
    assert (call.priority, call.queue, call.immutable) == (9, "q", True)
    status = call.delay().status()
    assert (status.priority, status.queue) == (9, "q")
    assert call.apply_async(priority=1).status().priority == 1


def test_sending_by_name(bench: Bench) -> None:
    @bench.task(name="add", queue="math")
    def add(a: int, b: int = 1) -> int:
        return a + b

    assert bench.tasks.send_task("add", [1]).status().queue == "math"
    with pytest.raises(TaskArgumentError):
        bench.tasks.send_task("add", ["one"])
    sent = Bench(bench.store).tasks.send_task("add", [1], {"b": 5}, queue="math")
    wrong = Bench(bench.store).tasks.send_task("add", ["one"], queue="math")
    bench.drain("math")
    assert sent.get(0) == 6
    with pytest.raises(TaskFailed, match="does not fit its annotation"):
        wrong.get(0)
    assert len(wrong.attempts()) == 1
    with pytest.raises(TaskArgumentError):
        Bench(bench.store).tasks.send_task("add", [object()])
    with pytest.raises(UnknownTask, match="not declared here"):
        Bench(bench.store).tasks.signature("add").task()


def test_expiry_of_calls_and_tasks(bench: Bench) -> None:
    @bench.task(expires=0.0)
    def late() -> None: ...

    at = datetime(2020, 1, 1, tzinfo=UTC)
    results = [
        late.delay(),
        late.apply_async(expires=timedelta(hours=1)),
        late.apply_async(expires=at),
    ]
    bench.drain()
    assert [one.state for one in results] == ["revoked", "succeeded", "revoked"]
    with pytest.raises(TaskRevoked, match="expired") as caught:
        results[0].get(0)
    assert caught.value.task_id == results[0].id
    assert isinstance(results[2].info, TaskRevoked)
    assert not results[0].successful()
    assert not results[0].failed()


def test_a_bound_task_knows_its_attempt(bench: Bench) -> None:
    seen: list[ms.BoundTask] = []

    @bench.task(bind=True, name="t", retries=1, backoff=Backoff.constant("1ms"))
    def work(self: ms.BoundTask, n: int, *, word: str = "x") -> int:
        seen.append(self)
        if self.request.retries == 0:
            raise ValueError("again")
        return n

    result = work.apply_async((7,), {"word": "y"}, priority=2)
    bench.drain()
    assert result.get(0) == 7
    requests = [one.request for one in seen]
    assert [(one.retries, one.attempt) for one in requests] == [(0, 1), (1, 2)]
    last = requests[1]
    assert (last.id, last.task, last.queue, last.priority) == (result.id, "t", "default", 2)
    assert last.kwargs == {"n": 7, "word": "y"} or (list(last.args), last.kwargs) == (
        [7],
        {"word": "y"},
    )
    assert not last.called_directly
    with pytest.raises(TaskArgumentError):
        work.delay("seven")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="again"):
        work(1)
    assert seen[-1].request.called_directly


def test_retry_from_inside(bench: Bench) -> None:
    @bench.task(bind=True, retries=5)
    def work(self: ms.BoundTask, bound: int) -> int:
        if self.request.retries == 2:
            return self.request.attempt
        raise self.retry(exc=OSError("no line"), countdown=0.001, max_retries=bound)

    good, bad = work.delay(5), work.delay(1)
    bench.drain()
    assert good.get(0) == 3
    assert [one.error_type for one in good.attempts()] == ["OSError", "OSError"]
    with pytest.raises(TaskFailed, match="no line"):
        bad.get(0)
    # Its own bound of one retry counts, not the five of the task.
    assert len(bad.attempts()) == 2


def test_retry_without_an_error_of_its_own(bench: Bench) -> None:
    @bench.task(bind=True, retries=0)
    def never(self: ms.BoundTask) -> None:
        self.retry()

    @bench.task(bind=True, retries=1, backoff=Backoff.constant("1ms"))
    def once(self: ms.BoundTask) -> None:
        raise self.retry(throw=False)

    results = [never.delay(), once.delay()]
    bench.drain()
    assert [one.error_type for one in results[0].attempts()] == [
        "millstream.primitives.errors.MaxRetriesExceeded"
    ]
    assert [one.error_type.rpartition(".")[2] for one in results[1].attempts()] == [
        "Retry",
        "MaxRetriesExceeded",
    ]
    with pytest.raises(MaxRetriesExceeded, match="called directly"):
        never()


def test_rules_for_single_errors(bench: Bench) -> None:
    @bench.task(
        retries=1,
        backoff=Backoff.constant("1ms"),
        dont_autoretry_for=(KeyError,),
        retry_on={TimeoutError: (3, Backoff.constant("2ms")), OSError: 0},
    )
    def work(kind: str) -> None:
        raise {"time": TimeoutError, "os": OSError, "key": KeyError, "value": ValueError}[kind]("x")

    results = {kind: work.delay(kind) for kind in ("time", "os", "key", "value")}
    bench.drain()
    assert {kind: len(one.attempts()) for kind, one in results.items()} == {
        "time": 4,
        "os": 1,
        "key": 1,
        "value": 2,
    }


def test_celerys_words_for_retries(bench: Bench) -> None:
    @bench.task(max_retries=None, retry_backoff=2, retry_backoff_max=60, retry_jitter=False)
    def grows() -> None: ...

    @bench.task(max_retries=7, default_retry_delay=180, ignore_result=True)
    def same() -> None: ...

    policy = grows.options.policy
    assert policy.retries == RETRIES_MAX
    assert [policy.backoff.bound_us(n) // 1_000_000 for n in (1, 2, 9)] == [2, 4, 60]
    assert same.options.policy.retries == 7
    assert same.options.policy.backoff.bound_us(5) == 180_000_000
    assert same.options.result_ttl_us == 0


def test_progress_is_seen_while_the_task_runs(bench: Bench) -> None:
    seen: list[object] = []

    @bench.task(bind=True)
    def work(self: ms.BoundTask) -> str:
        handle = bench.tasks.result(self.request.id)
        seen.append(handle.info)
        assert self.update_state(meta={"current": 1, "total": 2})
        progress = handle.progress
        assert progress is not None
        seen.extend([handle.state, progress.state, handle.info])
        with pytest.raises(PayloadError, match="bytes"):
            self.update_state(meta={"x": bytes(PROGRESS_BYTES_MAX)})
        with pytest.raises(PayloadError, match="stored"):
            self.update_state(meta={"x": object()})
        with pytest.raises(ConfigurationError):
            self.update_state(state="")
        return "done"

    result = work.delay()
    bench.drain()
    assert seen == [None, TaskState.RUNNING, "PROGRESS", {"current": 1, "total": 2}]
    assert result.info == "done"
    assert result.progress is None


def test_a_running_task_may_ask_whether_it_was_revoked(bench: Bench) -> None:
    @bench.task(bind=True)
    def work(self: ms.BoundTask, listens: bool) -> str:
        self.check_revoked()
        assert bench.tasks.result(self.request.id).revoke("enough")
        assert self.is_revoked()
        if listens:
            self.check_revoked()
        return "done"

    stopped, finished = work.delay(True), work.delay(False)
    bench.drain()
    with pytest.raises(TaskRevoked, match="enough"):
        stopped.get(0)
    assert len(stopped.attempts()) == 1
    assert finished.get(0) == "done"
    assert not finished.revoke()
    assert finished.forget()
    with pytest.raises(UnknownTask):
        finished.get(0)


def test_a_waiting_caller_is_woken_by_a_revocation(bench: Bench) -> None:
    @bench.task
    def never() -> None: ...

    result = never.delay()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            result.get(30)
        except TaskRevoked as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert result.revoke()
    waiting.join()
    assert len(caught) == 1


def test_unique_and_locked_tasks(bench: Bench) -> None:
    @bench.task(unique=ms.Unique(by=("user",)), lock="user:{user}")
    def sync(user: int, depth: int = 1) -> int:
        return user * depth

    first, second, other = sync.delay(1), sync.delay(1, depth=9), sync.delay(2)
    assert first.id == second.id != other.id
    bench.drain()
    assert (second.get(0), other.get(0)) == (1, 2)
    assert sync.delay(1).id != first.id

    @bench.task(lock="{nobody}")
    def wrong(user: int) -> None: ...

    with pytest.raises(ConfigurationError, match="nobody"):
        wrong.delay(1)


def test_a_burst_waits_for_those_behind_a_rate(bench: Bench) -> None:
    @bench.task(rate_limit="200/s", concurrency=1)
    def tick() -> None: ...

    results = tick.starmap([()] * 20)
    bench.drain()
    assert all(one.successful() for one in results)


def test_a_bound_task_needs_a_first_parameter(bench: Bench) -> None:
    def wrong() -> None: ...

    task = bench.task(bind=True)(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="first parameter"):
        task.delay()


def test_a_purged_step_fails_its_workflow(store_path: Path) -> None:
    with ms.App("shop", store=store_path, durability="process") as app:

        @app.task
        def one(n: int) -> int:
            return n

        @app.task
        def total(values: list[int]) -> int:
            return sum(values)

        body = ms.chord([one.s(1), one.s(2).set(queue="other")])(total.s())
        assert app.tasks.control.purge(TaskFilter(queue="other")) == 1
        settings = WorkerSettings(burst=True)
        Worker(app.tasks_engine, app.tasks, settings, chance=Random(0)).run()
        with pytest.raises(TaskFailed, match="purged"):
            body.get(5)
