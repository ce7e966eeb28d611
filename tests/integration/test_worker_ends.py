"""How a worker gives up its lease: what it has done is committed first, and what it lost is not started any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.engines.local.worker_keeper import LeaseKeeper
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_many import ManyWorker
from millstream.store import Store
from millstream.tasks.limits import RECOVERY_TICK_US
from millstream.tasks.states import TaskState
from millstream.testing.clock import VirtualClock
from millstream.testing.crash import Report, run
from tests.tasks_kit import Bench, us

LEASE_US = 3 * RECOVERY_TICK_US
LONG_S = 30.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def bench(store_path: Path, clock: VirtualClock) -> Iterator[Bench]:
    with Store.open(store_path, durability="process", clock=clock) as store:
        yield Bench(store)


def end_at_once_during_a_commit(report: Report, path: str, pool: str) -> None:
    """Order the end while the worker commits what it finished, and before that commit is made."""
    store = Store.open(path, durability="process")
    bench = Bench(store)

    @bench.task(name="once", acks_late=False)
    def once() -> None: ...

    once.apply_async(task_id="x")
    worker = worker_of(bench, pool)
    exchange = bench.engine.exchange
    ordered = threading.Event()

    def give_order() -> None:
        ordered.set()
        worker.abandon()
        report("left")
        os._exit(0)

    def spy(lease: Any, done: Any, *, want: int) -> Any:
        if done and not ordered.is_set():
            threading.Thread(target=give_order).start()
            assert ordered.wait(LONG_S)
            worker._stopping.wait(LONG_S)  # type: ignore[attr-defined]
        return exchange(lease, done, want=want)

    bench.engine.exchange = spy  # type: ignore[method-assign]
    worker.run()
    threading.Event().wait(LONG_S)


def worker_of(bench: Bench, pool: str) -> Worker | ManyWorker:
    settings = WorkerSettings()
    if pool == "process":
        return Worker(bench.engine, bench.tasks, settings, chance=Random(0))
    kind = PoolKind(pool)
    return ManyWorker(
        bench.engine, bench.tasks, settings, kind=kind, concurrency=2, chance=Random(0)
    )


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_what_is_being_committed_is_not_given_back(store_path: Path, pool: str) -> None:
    outcome = run(end_at_once_during_a_commit, str(store_path), pool)
    assert outcome.error == ""
    assert outcome.reports == ["left"]
    with Store.open(store_path) as store:
        engine = Bench(store).engine
        status = engine.status("x")
        assert status is not None
        assert status.state is TaskState.SUCCEEDED
        assert engine.refused() == 0


def test_after_a_pause_of_a_lease_nothing_is_started_that_others_have(
    bench: Bench, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker claims several, is stopped in the first one, and evicted meanwhile."""
    # The second thread of a process that was stopped may be the last to go on.
    monkeypatch.setattr(LeaseKeeper, "attend", lambda _: None)
    ran: list[int] = []
    worker = bench.worker(burst=False, lease_us=LEASE_US)

    @bench.task
    def note(n: int) -> int:
        if n in ran:
            worker.stop()
        ran.append(n)
        if n == 1 and len(ran) == 2:
            # As in a stopped process: time passes, nothing is done; others look, and take over.
            clock.advance(us(LEASE_US))
            bench.store.write(lambda tx: tx.run("tasks/hand_back_all", ("queued", 1)))
            bench.store.write(lambda tx: tx.run("tasks/leave", (1,)))
            other = bench.engine.join(["default"], lease_us=10**12)
            taken = bench.engine.exchange(other, (), want=10).claimed
            bench.engine.hand_back(other, taken[:1])
        return n

    note.enqueue_many(note.s(n) for n in range(8))
    worker.run()
    # Claims double: first 0, then 1 and 2. Of those that were taken over, 1 came back; 2 was not started.
    assert ran == [0, 1, 1]
    assert bench.engine.refused() == 1
    assert bench.engine.depth()[TaskState.RUNNING] == 6


def test_a_worker_that_shows_a_sign_of_life_after_the_look_is_not_evicted(
    bench: Bench, clock: VirtualClock
) -> None:
    lease = bench.engine.join(["default"], lease_us=LEASE_US)
    write = bench.store.write

    def late(work: Any, **options: Any) -> Any:
        # Between the look and the transaction of the one who looks.
        bench.store.write = write  # type: ignore[method-assign]
        assert bench.engine.beat(lease)
        return write(work, **options)

    for look in range(4):
        if look == 3:
            bench.store.write = late  # type: ignore[method-assign]
        assert bench.engine.recover().returned == 0
        clock.advance(us(RECOVERY_TICK_US))
    assert bench.engine.beat(lease)
