"""SIGKILL at every step of what is done to tasks: afterwards everything can still be brought to an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.engines.local.tasks import LocalTasks
from millstream.store import Store
from millstream.store.check import check
from millstream.tasks.batch import Batch
from millstream.tasks.gates import Limit
from millstream.tasks.limits import CHANGED_TASKS_MAX
from millstream.tasks.message import Raised, Succeeded, TaskFilter, TaskMessage
from millstream.tasks.states import TaskState
from millstream.testing.crash import KillAt, Report, run, steps_in
from tests.tasks_kit import guard_transitions

SOURCE = Path(__file__).parents[2] / "src" / "millstream" / "engines" / "local"
FILES = [
    SOURCE / name
    for name in (
        "task_batches.py",
        "task_control.py",
        "task_deaths.py",
        "task_gates.py",
        "task_transactions.py",
    )
]
ELSEWHERE = {"task.reported", "events.enabled", "worker.ordered", "worker.obeyed"}
STEPS = sorted({step for step, _ in steps_in(*FILES)} | ELSEWHERE)
LEASE_US = 60_000_000


def call(task_id: str, **conditions: object) -> TaskMessage:
    return TaskMessage(
        id=task_id,
        name=str(conditions.pop("name", "t")),
        queue=str(conditions.pop("queue", "default")),
        priority=5,
        arguments=b"\x80",
        **conditions,
    )


def live(report: Report, path: str) -> None:
    """Do everything once; report what was acknowledged."""
    with Store.open(path, durability="process") as store:
        engine, now_us = LocalTasks(store), store.clock.now_us()
        limit = Limit("limit:t", 1, None)
        engine.enqueue([call(f"lock{n}", lock_key="lock:x") for n in range(3)])
        engine.enqueue([call(f"limit{n}", limit=limit) for n in range(3)])
        engine.enqueue([call("late", start_before_us=now_us, eta_us=now_us + LEASE_US)])
        engine.enqueue([call("too late", start_before_us=now_us), call("plain")])
        engine.enqueue([call(f"bulk{n}", queue="bulk") for n in range(CHANGED_TASKS_MAX + 1)])
        report("enqueued")
        engine.events.enable()
        batches = {"batch": Batch(max=2, wait="1h")}
        lease = engine.join(["default"], lease_us=LEASE_US, batches=batches)
        for n in range(2):
            engine.enqueue([call(f"batch{n}", name="batch", queue="batches")])
            engine.exchange(
                engine.join(["batches"], lease_us=LEASE_US, batches=batches), (), want=1
            )
        held = {task.id: task for task in engine.exchange(lease, (), want=20).claimed}
        engine.report(lease, held["plain"], state="PROGRESS", meta=b"\x01")
        engine.workers.shutdown()
        engine.obeyed(lease, engine.orders(lease))
        engine.control.revoke(["lock1"], reason="no")
        report("revoked")
        done = [
            Succeeded(held["lock0"], b"\x01", LEASE_US, now_us, now_us),
            Raised(held["limit0"], "E", "e", "t", None, now_us, now_us),
        ]
        engine.exchange(lease, done, want=0)
        engine.exchange(lease, [done[0]], want=0)
        engine.hand_back(lease, [held["plain"]])
        engine.control.requeue(["limit0"])
        engine.control.pause("bulk")
        report("paused")
        engine.control.resume("bulk")
        engine.recover()
        report(engine.control.purge(TaskFilter(queue="bulk")))
        engine.leave(lease)


def bring_to_an_end(engine: LocalTasks) -> None:
    engine.recover()
    batches = {"batch": Batch(max=2, wait="0s")}
    # Of two calls one may still wait for the other, for an hour: the next that comes takes it along.
    engine.enqueue([call("batch2", name="batch", queue="batches")])
    lease = engine.join(["default", "bulk", "batches"], lease_us=LEASE_US, batches=batches)
    now_us = engine.now_us()
    while held := engine.exchange(lease, (), want=100).claimed:
        done = [Succeeded(task, b"\x01", LEASE_US, now_us, now_us) for task in held]
        assert engine.exchange(lease, done, want=0).refused == 0
    engine.recover()
    engine.leave(lease)


@pytest.mark.parametrize("step", STEPS)
def test_everything_ends_although_a_process_died(step: str, store_path: Path) -> None:
    outcome = run(live, str(store_path), kill_at=KillAt(step))
    assert outcome.killed or step in {"task.recovering"}, outcome.error
    with Store.open(store_path, durability="process") as store:
        guard_transitions(store.directory.catalog)
        engine = LocalTasks(store)
        engine.control.resume("bulk")
        if "revoked" in outcome.reports:
            status = engine.status("lock1")
            assert status is not None
            assert status.state is TaskState.REVOKED
        bring_to_an_end(engine)
        depth = engine.depth()
        assert sum(count for state, count in depth.items() if not state.is_final) == 0, depth
        if "enqueued" in outcome.reports and CHANGED_TASKS_MAX + 1 not in outcome.reports:
            assert depth[TaskState.SUCCEEDED] >= 5
    assert check(store_path) == []


def test_without_a_kill_all_of_it_happens(store_path: Path) -> None:
    outcome = run(live, str(store_path))
    assert outcome.error == ""
    assert outcome.reports == ["enqueued", "revoked", "paused", CHANGED_TASKS_MAX + 1]
    # Only the death of a worker is not in this life; test_tasks_crash.py kills there.
    assert set(STEPS) - set(outcome.steps) == {"task.recovering"}
