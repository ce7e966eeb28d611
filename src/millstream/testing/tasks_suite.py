"""The conformance suite of tasks: what every engine must do, see ``millstream.tasks.contract``.

An engine is finished when these tests pass. Subclass, give a pytest fixture ``harness``, and run:

    class TestLocal(TaskEngineSuite, TaskDeliverySuite):
        @pytest.fixture
        def harness(self, tmp_path): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from millstream.primitives.errors import MillstreamError, ResultTimeout, UnknownTask
from millstream.tasks.contract import TaskDelivery, TaskEngine
from millstream.tasks.limits import RECOVERY_TICK_US, WORKER_DEATHS_MAX
from millstream.tasks.message import (
    Claimed,
    Completion,
    Lease,
    Outcome,
    Raised,
    Succeeded,
    TaskMessage,
)
from millstream.tasks.states import TaskState

LEASE_US = 10_000_000
TTL_US = 60_000_000


class DeliveringEngine(TaskEngine, TaskDelivery, Protocol):
    """An engine that gives both contracts."""


class TaskHarness(Protocol):
    """What the suite needs beside the engine: a clock that it may turn."""

    @property
    def engine(self) -> DeliveringEngine:
        """A fresh engine without tasks."""
        ...

    def advance(self, microseconds: int) -> None:
        """Let time pass for the engine."""
        ...


def message(
    task_id: str,
    *,
    queue: str = "default",
    priority: int = 5,
    eta_us: int | None = None,
    acks_late: bool = True,
) -> TaskMessage:
    """Return a call for the tests."""
    return TaskMessage(
        id=task_id,
        name="suite.task",
        queue=queue,
        priority=priority,
        arguments=b"\x80",
        acks_late=acks_late,
        eta_us=eta_us,
    )


def succeeded(task: Claimed, result: bytes = b"\x01", ttl_us: int = TTL_US) -> Succeeded:
    """Return the good end of an attempt."""
    return Succeeded(task, result, ttl_us, task.due_us, task.due_us)


def raised(task: Claimed, *, retry_delay_us: int | None) -> Raised:
    """Return the bad end of an attempt."""
    return Raised(task, "ValueError", "no", "Traceback …", retry_delay_us, task.due_us, task.due_us)


def claim(engine: TaskDelivery, lease: Lease, want: int = 10) -> tuple[Claimed, ...]:
    """Claim without completing anything."""
    return engine.exchange(lease, (), want=want).claimed


def finish(engine: TaskDelivery, lease: Lease, done: Sequence[Completion]) -> int:
    """Complete without claiming; return how many were refused."""
    return engine.exchange(lease, done, want=0).refused


def ids(tasks: Sequence[Claimed]) -> list[str]:
    """Return the ids in their order."""
    return [task.id for task in tasks]


def silence(harness: TaskHarness, *, for_us: int) -> None:
    """Let others look for the dead while a worker shows no sign of life."""
    harness.engine.recover()
    for _ in range(for_us // RECOVERY_TICK_US + 1):
        harness.advance(RECOVERY_TICK_US)
        harness.engine.recover()


class TaskEngineSuite:
    """What senders rely on."""

    def test_a_stored_task_has_a_status(self, harness: TaskHarness) -> None:
        """It is queued, at its first attempt, without result and error."""
        harness.engine.enqueue([message("a", queue="mail", priority=7)])
        status = harness.engine.status("a")
        assert status is not None
        assert (status.id, status.queue, status.priority) == ("a", "mail", 7)
        assert (status.state, status.attempt, status.result) == (TaskState.QUEUED, 1, None)
        assert status.last is None

    def test_an_unknown_id_has_none(self, harness: TaskHarness) -> None:
        """Neither a status nor a result to wait for."""
        assert harness.engine.status("nobody") is None
        assert harness.engine.attempts("nobody") == []
        assert raises(UnknownTask, lambda: harness.engine.wait("nobody", 0))

    def test_an_id_is_stored_once(self, harness: TaskHarness) -> None:
        """Sending the same id again changes nothing."""
        harness.engine.enqueue([message("a", priority=1)])
        harness.engine.enqueue([message("a", priority=9), message("b")])
        status = harness.engine.status("a")
        assert status is not None
        assert status.priority == 1
        assert harness.engine.depth()[TaskState.QUEUED] == 2

    def test_waiting_for_too_long(self, harness: TaskHarness) -> None:
        """A timeout is an error of its own and leaves the task as it is."""
        harness.engine.enqueue([message("a")])
        assert raises(ResultTimeout, lambda: harness.engine.wait("a", 0))
        assert harness.engine.depth()[TaskState.QUEUED] == 1

    def test_an_eta_to_come_is_scheduled(self, harness: TaskHarness) -> None:
        """One that has passed is not."""
        now_us = harness.engine.now_us()
        harness.engine.enqueue(
            [message("late", eta_us=now_us - 1), message("early", eta_us=now_us + 1_000_000)]
        )
        depth = harness.engine.depth()
        assert (depth[TaskState.QUEUED], depth[TaskState.SCHEDULED]) == (1, 1)

    def test_depth_of_a_queue(self, harness: TaskHarness) -> None:
        """Other queues do not count."""
        harness.engine.enqueue([message("a", queue="x"), message("b", queue="y")])
        assert harness.engine.depth("x")[TaskState.QUEUED] == 1
        assert sum(harness.engine.depth("z").values()) == 0


class TaskDeliverySuite:
    """What workers rely on."""

    def test_first_in_first_out_within_a_priority(self, harness: TaskHarness) -> None:
        """The highest priority first, then the oldest."""
        engine = harness.engine
        for task_id, priority in (("a", 5), ("b", 9), ("c", 5), ("d", 0), ("e", 9)):
            engine.enqueue([message(task_id, priority=priority)])
        lease = engine.join(["default"], lease_us=LEASE_US)
        assert ids(claim(engine, lease, 2)) == ["b", "e"]
        assert ids(claim(engine, lease)) == ["a", "c", "d"]

    def test_several_queues_are_one_order(self, harness: TaskHarness) -> None:
        """Priority and age count over all queues of a worker; other queues stay untouched."""
        engine = harness.engine
        for task_id, queue in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "z")):
            engine.enqueue([message(task_id, queue=queue)])
        lease = engine.join(["y", "x"], lease_us=LEASE_US)
        assert ids(claim(engine, lease)) == ["a", "b", "c"]
        assert engine.depth("z")[TaskState.QUEUED] == 1

    def test_what_is_claimed_is_nobody_elses(self, harness: TaskHarness) -> None:
        """Two workers never hold the same task."""
        engine = harness.engine
        engine.enqueue([message("a"), message("b")])
        first, second = (engine.join(["default"], lease_us=LEASE_US) for _ in range(2))
        assert ids(claim(engine, first, 1)) == ["a"]
        assert ids(claim(engine, second)) == ["b"]
        assert not engine.ready(["default"]).now

    def test_success_stores_the_result(self, harness: TaskHarness) -> None:
        """Whoever waits gets it."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        (task,) = claim(engine, lease)
        assert finish(engine, lease, [succeeded(task, b"\x2a")]) == 0
        assert engine.wait("a", 0).result == b"\x2a"

    def test_results_and_next_claim_are_one_step(self, harness: TaskHarness) -> None:
        """One exchange completes and claims."""
        engine = harness.engine
        engine.enqueue([message("a"), message("b")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        (task,) = claim(engine, lease, 1)
        exchange = engine.exchange(lease, [succeeded(task)], want=5)
        assert ids(exchange.claimed) == ["b"]
        assert engine.depth()[TaskState.SUCCEEDED] == 1

    def test_a_retry_waits_and_keeps_its_error(self, harness: TaskHarness) -> None:
        """After its delay it is claimed again, as the next attempt."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        finish(engine, lease, [raised(claim(engine, lease)[0], retry_delay_us=5_000_000)])
        assert engine.depth()[TaskState.RETRYING] == 1
        assert claim(engine, lease) == ()
        due_us = engine.ready(["default"]).next_due_us
        assert due_us is not None
        harness.advance(due_us - engine.now_us())
        assert engine.ready(["default"]).now
        (again,) = claim(engine, lease)
        assert (again.attempt, again.failures) == (2, 1)
        finish(engine, lease, [raised(again, retry_delay_us=None)])
        status = engine.wait("a", 0)
        assert (status.state, status.failures, status.attempt) == (TaskState.FAILED, 2, 2)
        assert [a.number for a in engine.attempts("a")] == [1, 2]
        assert all(a.traceback for a in engine.attempts("a"))

    def test_an_eta_is_kept_in_the_store(self, harness: TaskHarness) -> None:
        """It is claimed when its time has come, before younger tasks of its priority."""
        engine = harness.engine
        engine.enqueue([message("eta", eta_us=engine.now_us() + 3_000_000), message("now")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        assert ids(claim(engine, lease)) == ["now"]
        harness.advance(3_000_000)
        engine.enqueue([message("younger")])
        assert ids(claim(engine, lease)) == ["eta", "younger"]

    def test_what_is_not_started_goes_back_to_its_place(self, harness: TaskHarness) -> None:
        """Handing back is no failed attempt and does not lose the turn."""
        engine = harness.engine
        engine.enqueue([message("a"), message("b")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        held = claim(engine, lease, 1)
        assert engine.hand_back(lease, held) == 1
        assert engine.hand_back(lease, held) == 0
        again = claim(engine, lease)
        assert ids(again) == ["a", "b"]
        assert again[0].attempt == 1

    def test_leaving_returns_everything(self, harness: TaskHarness) -> None:
        """Uncharged; and the lease is gone."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        held = claim(engine, lease)
        engine.leave(lease)
        assert engine.depth()[TaskState.QUEUED] == 1
        assert not engine.beat(lease)
        assert finish(engine, lease, [succeeded(held[0])]) == 1

    def test_a_silent_worker_is_evicted_and_fenced(self, harness: TaskHarness) -> None:
        """Its late acknowledgement has no effect; the new holder's has."""
        engine = harness.engine
        engine.enqueue([message("a")])
        stale = engine.join(["default"], lease_us=LEASE_US)
        (held,) = claim(engine, stale)
        silence(harness, for_us=LEASE_US)
        fresh = engine.join(["default"], lease_us=LEASE_US)
        (again,) = claim(engine, fresh)
        assert again.attempt == 2
        late = engine.exchange(stale, [succeeded(held, b"\x01")], want=1)
        assert (late.refused, late.evicted, late.claimed) == (1, True, ())
        assert finish(engine, fresh, [succeeded(again, b"\x02")]) == 0
        assert engine.wait("a", 0).result == b"\x02"
        assert [one.outcome for one in engine.attempts("a")] == [Outcome.WORKER_DIED]

    def test_a_beating_worker_keeps_its_tasks(self, harness: TaskHarness) -> None:
        """For ever, if need be."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        (held,) = claim(engine, lease)
        for _ in range(5):
            assert engine.beat(lease)
            silence(harness, for_us=LEASE_US // 2)
        assert finish(engine, lease, [succeeded(held)]) == 0

    def test_a_completion_counts_once(self, harness: TaskHarness) -> None:
        """The second one is refused, in the same exchange or a later one."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        (held,) = claim(engine, lease)
        assert finish(engine, lease, [succeeded(held), succeeded(held)]) == 1
        assert finish(engine, lease, [succeeded(held)]) == 1

    def test_a_batch_whose_worker_died_is_run_one_by_one(self, harness: TaskHarness) -> None:
        """Nobody knows which one ran: none is charged, each is claimed alone."""
        engine = harness.engine
        engine.enqueue([message("a"), message("b"), message("c")])
        assert len(claim(engine, engine.join(["default"], lease_us=LEASE_US))) == 3
        silence(harness, for_us=LEASE_US)
        lease = engine.join(["default"], lease_us=LEASE_US)
        engine.enqueue([message("d")])
        taken = [claim(engine, lease) for _ in range(4)]
        assert [ids(one) for one in taken] == [["a"], ["b"], ["c"], ["d"]]
        assert taken[0][0].attempt == 1

    def test_poison_ends_in_failure(self, harness: TaskHarness) -> None:
        """A task under which worker after worker dies is given up, with the deaths as its attempts."""
        engine = harness.engine
        engine.enqueue([message("poison")])
        for number in range(WORKER_DEATHS_MAX):
            lease = engine.join(["default"], lease_us=LEASE_US)
            (task,) = claim(engine, lease)
            assert task.attempt == number + 1
            silence(harness, for_us=LEASE_US)
        status = engine.wait("poison", 0)
        assert (status.state, status.deaths) == (TaskState.FAILED, WORKER_DEATHS_MAX)
        assert len(engine.attempts("poison")) == WORKER_DEATHS_MAX

    def test_at_most_once_is_not_run_again(self, harness: TaskHarness) -> None:
        """A task with ``acks_late=False`` is claimed alone and fails with its worker."""
        engine = harness.engine
        engine.enqueue([message("a"), message("once", acks_late=False), message("b")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        finish(engine, lease, [succeeded(task) for task in claim(engine, lease)])
        assert ids(claim(engine, lease)) == ["once"]
        silence(harness, for_us=LEASE_US)
        assert engine.wait("once", 0).state is TaskState.FAILED
        assert engine.depth()[TaskState.QUEUED] == 1

    def test_results_expire(self, harness: TaskHarness) -> None:
        """A result is gone after its time, one without a time at once; failures stay."""
        engine = harness.engine
        engine.enqueue([message("kept"), message("dropped"), message("failed")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        kept, dropped, failed = claim(engine, lease)
        done: list[Completion] = [
            succeeded(kept),
            succeeded(dropped, ttl_us=0),
            raised(failed, retry_delay_us=None),
        ]
        assert finish(engine, lease, done) == 0
        assert engine.status("dropped") is None
        assert engine.status("kept") is not None
        harness.advance(TTL_US)
        engine.recover()
        assert engine.status("kept") is None
        assert engine.status("failed") is not None


def raises(kind: type[MillstreamError], work: Callable[[], object]) -> bool:
    """Tell whether ``work`` raises an error of that kind; the suite needs no test library for it."""
    try:
        work()
    except kind:
        return True
    return False
