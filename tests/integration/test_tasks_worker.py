"""One worker in this process: what it runs, commits, hands back, and how it sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.engines.local.delays import read_delays
from millstream.engines.local.task_delays import ATTEMPTS_GATHERED_MAX, STORE_EVERY_US
from millstream.engines.local.worker_hand import Hand
from millstream.engines.local.worker_keeper import unblock
from millstream.primitives.backoff import Backoff
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.errors import (
    ConfigurationError,
    ResultTimeout,
    StoreClosed,
    TaskFailed,
    UnknownTask,
)
from millstream.primitives.telemetry import set_listener
from millstream.store import Store
from millstream.tasks.limits import (
    CLAIM_TASKS_MAX,
    DUE_TASKS_MAX,
    ERROR_TEXT_MAX,
    PRUNED_TASKS_MAX,
    QUEUES_PER_WORKER_MAX,
    TRACEBACK_TEXT_MAX,
)
from millstream.tasks.message import Succeeded
from millstream.tasks.states import TaskState
from millstream.testing.clock import VirtualClock
from tests.tasks_kit import Bench, us

LEASE_US = 10_000_000


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


@pytest.fixture
def steps() -> Iterator[list[str]]:
    seen: list[str] = []
    set_listener(seen.append)
    yield seen
    set_listener(None)


def test_plain_and_async_tasks(bench: Bench) -> None:
    @bench.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    @bench.task
    async def shout(text: str) -> str:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        return text.upper()

    results = [add.delay(1), shout.delay("a"), add.delay(1, b=9)]
    assert [one.state for one in results] == [TaskState.QUEUED] * 3
    assert not results[0].ready()
    assert results[0].result is None
    bench.drain()
    assert [one.get(0) for one in results] == [3, "A", 10]
    assert results[0].result == 3
    assert results[0].error is None
    assert bench.tasks.result(results[1].id).get(0) == "A"


def test_the_steps_of_one_task(bench: Bench, steps: list[str]) -> None:
    @bench.task
    def noop() -> None: ...

    noop.delay()
    bench.drain()
    assert [step for step in steps if step.startswith("task.")] == [
        "task.inserted",
        "task.enqueued",
        "task.joined",
        "task.claiming",
        "task.claimed",
        "task.started",
        "task.finished",
        "task.completed",
        "task.claiming",
        "task.acknowledged",
        "task.leaving",
        "task.left",
    ]


def test_retries_then_success(bench: Bench) -> None:
    calls: list[int] = []

    @bench.task(retries=2, backoff=Backoff.constant("1ms"))
    def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError(f"call {len(calls)}")
        return len(calls)

    result = flaky.delay()
    bench.drain()
    assert result.get(0) == 3
    assert [one.error for one in result.attempts()] == ["call 1", "call 2"]
    assert "ValueError: call 2" in (result.error or "")


def test_errors_that_are_not_retried(bench: Bench) -> None:
    @bench.task(autoretry_for=(OSError,))
    def wrong() -> None:
        raise KeyError("x")

    @bench.task
    def leave() -> None:
        raise SystemExit(3)

    results = [wrong.delay(), leave.delay()]
    bench.drain()
    for result, kind in zip(results, ("KeyError", "SystemExit"), strict=True):
        with pytest.raises(TaskFailed) as caught:
            result.get(0)
        assert caught.value.error_type == kind
        assert caught.value.task_id == result.id
        assert len(result.attempts()) == 1


def test_an_unknown_task_ends_in_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    @bench.task(name="old", retries=9)
    def old() -> None: ...

    result = old.delay()
    bench.tasks._tasks.clear()
    monkeypatch.setattr(
        "millstream.engines.local.worker_execute.DEFAULT_POLICY",
        type(old.options.policy)(1, Backoff.constant("1ms")),
    )
    bench.drain()
    with pytest.raises(TaskFailed, match="there is no task 'old'"):
        result.get(0)
    assert len(result.attempts()) == 2


def test_arguments_that_fit_no_longer(bench: Bench) -> None:
    @bench.task(name="t")
    def old(a: int) -> int:
        return a

    result = old.delay(1)
    bench.tasks._tasks.clear()

    @bench.task(name="t")
    def new(a: str) -> str:
        return a

    bench.drain()
    with pytest.raises(TaskFailed, match="does not fit its annotation"):
        result.get(0)
    assert len(result.attempts()) == 1


def test_errors_are_kept_bounded_and_storable(bench: Bench) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("never")

    @bench.task(retries=0)
    def long() -> None:
        raise ValueError("\ud800" + "x" * 100_000)

    @bench.task(retries=0)
    def nasty() -> None:
        raise Nasty

    results = [long.delay(), nasty.delay()]
    bench.drain()
    (first,), (second,) = (one.attempts() for one in results)
    assert len(first.error) == ERROR_TEXT_MAX
    assert len(first.traceback) <= TRACEBACK_TEXT_MAX
    assert "RuntimeError" in second.error


def test_a_task_without_ttl_leaves_nothing(bench: Bench) -> None:
    @bench.task(result_ttl="0s")
    def noop() -> None: ...

    result = noop.delay()
    bench.drain()
    with pytest.raises(UnknownTask, match="no task of the id"):
        result.get(0)
    assert sum(bench.engine.depth().values()) == 0


def test_waiting_is_ended_by_the_commit_of_the_result(bench: Bench) -> None:
    @bench.task
    def noop() -> int:
        return 1

    result = noop.delay()
    with pytest.raises(ResultTimeout, match="it is queued"):
        result.get(0.01)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(result.get(30)))
    waiting.start()
    bench.drain()
    waiting.join(30)
    assert answers == [1]


def test_a_sleeping_worker_is_woken_and_stopped(bench: Bench) -> None:
    @bench.task
    def noop() -> int:
        return 1

    worker = bench.worker(burst=False)
    running = threading.Thread(target=worker.run)
    running.start()
    assert [noop.delay().get(30) for _ in range(5)] == [1] * 5
    worker.stop()
    running.join(30)
    assert not running.is_alive()


def test_a_stop_hands_back_what_was_not_started(bench: Bench) -> None:
    worker = bench.worker(burst=False)

    @bench.task
    def once(n: int) -> int:
        if n == 50:
            worker.stop()
        return n

    once.enqueue_many(once.s(n) for n in range(200))
    worker.run()
    depth = bench.engine.depth()
    assert (depth[TaskState.SUCCEEDED], depth[TaskState.QUEUED]) == (51, 149)


def test_a_worker_that_lost_its_lease_goes_on_under_a_new_one(bench: Bench) -> None:
    @bench.task
    def slow(n: int) -> int:
        if n == 0 and bench.engine.refused() == 0:
            # As another worker does that takes this one for dead.
            bench.store.write(lambda tx: tx.run("tasks/hand_back_all", ("queued", 1)))
            bench.store.write(lambda tx: tx.run("tasks/leave", (1,)))
        return n

    results = slow.enqueue_many(slow.s(n) for n in range(3))
    bench.drain()
    assert [one.get(0) for one in results] == [0, 1, 2]
    assert bench.engine.refused() == 1


def test_what_waits_behind_a_long_task_is_set_free(bench: Bench) -> None:
    clock = VirtualClock()

    @bench.task
    def noop() -> None: ...

    noop.enqueue_many(noop.s() for _ in range(3))
    lease = bench.engine.join(["default"], lease_us=LEASE_US)
    hand = Hand(clock)
    hand.fill(bench.engine.exchange(lease, (), want=3).claimed)
    assert hand.take() is not None
    assert not hand.is_stuck(1_000)
    clock.advance(us(1_000))
    assert hand.is_stuck(1_000)
    unblock(bench.engine, lease, hand)
    assert not hand.is_stuck(1_000)
    assert not hand.is_empty
    assert bench.engine.depth()[TaskState.QUEUED] == 2


def test_a_closed_store_ends_the_worker_with_its_error(bench: Bench) -> None:
    @bench.task
    def close() -> None:
        bench.store.close()

    close.delay()
    with pytest.raises(StoreClosed):
        bench.drain()


def test_the_four_delays_of_every_attempt(store_path: Path) -> None:
    clock = VirtualClock()
    with Store.open(store_path, clock=clock) as store:
        bench = Bench(store)

        @bench.task(name="timed")
        def timed() -> None:
            clock.advance(us(7_000))

        timed.apply_async(countdown=2)
        clock.advance(us(2_500_000))
        bench.drain()
        phases = read_delays(store)["task", "timed"]
    assert phases["source_wait"].total_us == 2_000_000
    assert phases["start_wait"].total_us == 500_000
    assert phases["process"].total_us == 7_000
    assert [phases[name].count for name in phases] == [1, 1, 1, 1]


def test_figures_are_stored_four_times_a_second_or_when_there_are_many(store_path: Path) -> None:
    clock = VirtualClock()
    with Store.open(store_path, clock=clock) as store:
        bench = Bench(store)

        @bench.task(name="timed")
        def timed() -> None: ...

        def stored() -> int:
            return sum(one["process"].count for one in read_delays(store).values())

        def run(calls: int) -> None:
            for start in range(0, calls, 1_000):
                sent = min(1_000, calls - start)
                timed.enqueue_many(timed.s() for _ in range(sent))
                claimed = engine.exchange(lease, (), want=sent).claimed
                done = [Succeeded(one, b"\xc0", 1, one.due_us, one.due_us) for one in claimed]
                engine.exchange(lease, done, want=0)

        engine = bench.engine
        lease = engine.join(["default"], lease_us=LEASE_US)
        run(1)
        engine.exchange(lease, (), want=1)
        assert stored() == 1
        run(1)
        engine.exchange(lease, (), want=1)
        assert stored() == 1
        clock.advance(us(STORE_EVERY_US))
        engine.recover()
        assert stored() == 2
        run(ATTEMPTS_GATHERED_MAX)
        engine.exchange(lease, (), want=1)
        assert stored() >= ATTEMPTS_GATHERED_MAX


def test_a_claim_is_bounded(bench: Bench) -> None:
    sizes: list[int] = []
    exchange = bench.engine.exchange

    def spy(*args: object, **kwargs: object) -> object:
        answer = exchange(*args, **kwargs)  # type: ignore[arg-type]
        sizes.append(len(answer.claimed))
        return answer

    bench.engine.exchange = spy  # type: ignore[assignment,method-assign]

    @bench.task
    def noop() -> None: ...

    noop.enqueue_many(noop.s() for _ in range(3_000))
    bench.drain()
    assert max(sizes) <= CLAIM_TASKS_MAX
    assert sum(sizes) == 3_000
    assert sizes[0] == 1


def test_due_tasks_and_expired_results_are_moved_in_bounded_steps(store_path: Path) -> None:
    clock = VirtualClock()
    with Store.open(store_path, clock=clock) as store:
        bench = Bench(store)

        @bench.task(result_ttl="1s")
        def noop() -> None: ...

        count = DUE_TASKS_MAX + 5
        noop.enqueue_many(noop.s().set(countdown=1) for _ in range(count))
        clock.advance(us(1_000_000))
        lease = bench.engine.join(["default"], lease_us=LEASE_US)
        bench.engine.hand_back(lease, bench.engine.exchange(lease, (), want=1).claimed)
        assert bench.engine.depth()[TaskState.SCHEDULED] == 5
        bench.engine.leave(lease)
        bench.drain()
        assert bench.engine.depth()[TaskState.SUCCEEDED] == count
        clock.advance(us(1_000_000))
        bench.engine.recover()
        assert bench.engine.depth()[TaskState.SUCCEEDED] == count - PRUNED_TASKS_MAX


def test_queues_of_a_worker_are_bounded(bench: Bench) -> None:
    names = [f"q{n}" for n in range(QUEUES_PER_WORKER_MAX + 1)]
    bench.engine.join(names[1:], lease_us=LEASE_US)
    for wrong in (names, [], ["a", "a"], ["a,b"]):
        with pytest.raises(ConfigurationError):
            bench.engine.join(wrong, lease_us=LEASE_US)


def test_a_million_waiting_tasks_would_cost_a_claim_nothing(bench: Bench) -> None:
    # The plan, not the clock: every statement of a claim reads an index and sorts nothing.
    with bench.store.read() as snapshot:
        for name, params in (
            ("heads", ("q", 10)),
            ("ready", {"queues": '["q"]', "now_us": 1}),
            ("due_and_lease", {"lease": 1, "now_us": 1}),
            ("held", (1,)),
        ):
            plan = _plan(snapshot, f"tasks/{name}", params)
            assert "SCAN tasks" not in plan.replace("SCAN tasks USING", ""), plan
            assert "TEMP B-TREE" not in plan, plan


def _plan(snapshot: object, name: str, params: object) -> str:
    from millstream.store.catalog import statement

    connection = snapshot._cursor.connection  # type: ignore[attr-defined]
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement(name)}", params)
    return "\n".join(row[3] for row in rows)


def test_time_is_the_stores(bench: Bench) -> None:
    before = SYSTEM_CLOCK.now_us()
    assert before <= bench.engine.now_us() <= SYSTEM_CLOCK.now_us()


def test_a_jump_of_the_wall_clock_evicts_nobody(store_path: Path) -> None:
    clock = VirtualClock()
    with Store.open(store_path, clock=clock) as store:
        bench = Bench(store)

        @bench.task
        def noop() -> None: ...

        noop.delay()
        lease = bench.engine.join(["default"], lease_us=LEASE_US)
        (held,) = bench.engine.exchange(lease, (), want=1).claimed
        for jump_us in (100 * LEASE_US, -300 * LEASE_US, 200 * LEASE_US):
            clock.jump(jump_us)
            assert bench.engine.recover().workers == 0
        done = [Succeeded(held, b"\xc0", 1_000_000, held.due_us, held.due_us)]
        assert bench.engine.exchange(lease, done, want=0).refused == 0
