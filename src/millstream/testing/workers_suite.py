"""The conformance suite of workers that are looked at and asked for something, see ``millstream.tasks.workers``.

Subclass it like ``tasks_suite``; it needs the same harness.
"""

from __future__ import annotations

from millstream.primitives.errors import ConfigurationError, ResultTimeout
from millstream.tasks.limits import CHILDREN_MAX
from millstream.tasks.message import Lease
from millstream.tasks.workers import OrderKind, RunningTask, WorkerProfile, WorkerReport
from millstream.testing.tasks_suite import LEASE_US, TaskHarness, raises

S = 1_000_000


def joined(harness: TaskHarness, node: str, pool: str = "process") -> Lease:
    """Join as a process of a node."""
    profile = WorkerProfile(node=node, pool=pool, concurrency=1, tasks=("shop.add",))
    return harness.engine.join(["default", "mail"], lease_us=LEASE_US, profile=profile)


def kinds(harness: TaskHarness, lease: Lease) -> list[OrderKind]:
    """Return what is asked of a process."""
    return [order.kind for order in harness.engine.orders(lease)]


class WorkerControlSuite:
    """What workers say of themselves, and what they are told."""

    def test_a_worker_says_what_it_is_and_what_it_does(self, harness: TaskHarness) -> None:
        """Once when it joins, and with each sign of life."""
        engine = harness.engine
        lease = joined(harness, "a")
        (fresh,) = engine.workers.all()
        assert (fresh.node, fresh.pool, fresh.queues) == ("a", "process", ("default", "mail"))
        assert (fresh.worker, fresh.tasks, fresh.lives) == (lease.worker, ("shop.add",), True)
        assert f"{fresh.host}:{fresh.pid}" == lease.worker
        assert (fresh.report, fresh.told_us) == (WorkerReport(), fresh.joined_us)
        harness.advance(S)
        running = (RunningTask(id="t", name="shop.add", started_us=engine.now_us()),)
        report = WorkerReport(running=running, running_count=1, succeeded=3, memory_bytes=7)
        assert engine.beat(lease, report)
        (told,) = engine.workers.all()
        assert (told.report, told.told_us) == (report, fresh.joined_us + S)

    def test_workers_that_have_left_are_not_there(self, harness: TaskHarness) -> None:
        """However they left."""
        engine = harness.engine
        first, second = joined(harness, "a"), joined(harness, "a")
        assert [one.lease for one in engine.workers.all()] == [first.number, second.number]
        engine.leave(first)
        assert [one.lease for one in engine.workers.all()] == [second.number]

    def test_a_worker_without_a_profile_is_a_node_by_itself(self, harness: TaskHarness) -> None:
        """It is named by its process."""
        lease = harness.engine.join(["default"], lease_us=LEASE_US)
        (one,) = harness.engine.workers.all()
        assert one.node == lease.worker

    def test_an_order_reaches_every_process_of_its_node(self, harness: TaskHarness) -> None:
        """All copies have one id; those of other nodes get none."""
        engine = harness.engine
        mine, also, other = joined(harness, "a"), joined(harness, "a"), joined(harness, "b")
        assert engine.workers.shutdown(["a"]) == ["a"]
        assert kinds(harness, mine) == [OrderKind.SHUTDOWN]
        assert engine.orders(mine) == engine.orders(also)
        assert engine.orders(other) == []
        assert engine.workers.shutdown() == ["a", "b"]
        engine.obeyed(mine, engine.orders(mine)[:1])
        assert kinds(harness, mine) == [OrderKind.SHUTDOWN]
        assert kinds(harness, also) == [OrderKind.SHUTDOWN] * 2

    def test_an_order_is_not_lost_by_leaving(self, harness: TaskHarness) -> None:
        """Whoever leaves is given what it did not hear; nobody else will get it."""
        engine = harness.engine
        lease = joined(harness, "a")
        engine.workers.pool_grow(2)
        assert [(one.kind, one.most) for one in engine.leave(lease)] == [(OrderKind.POOL_GROW, 2)]
        assert engine.orders(lease) == []

    def test_a_pool_is_resized_within_its_bounds(self, harness: TaskHarness) -> None:
        """Only pools of processes; when one node does not fit, none is asked."""
        engine = harness.engine
        lease, many = joined(harness, "a"), joined(harness, "b", pool="thread")
        assert engine.workers.autoscale(9, 3, ["a"]) == ["a"]
        assert engine.workers.pool_shrink(1, ["a"]) == ["a"]
        first, second = engine.orders(lease)
        assert (first.kind, first.most, first.fewest) == (OrderKind.AUTOSCALE, 9, 3)
        assert (second.kind, second.most) == (OrderKind.POOL_SHRINK, 1)
        workers = engine.workers
        for call in (
            lambda: workers.autoscale(3, 9, ["a"]),
            lambda: workers.pool_grow(0, ["a"]),
            lambda: workers.pool_grow(CHILDREN_MAX + 1, ["a"]),
            lambda: workers.pool_grow(1, ["b"]),
            lambda: workers.pool_grow(1),
            lambda: workers.shutdown(["nobody"]),
        ):
            assert raises(ConfigurationError, call)
        assert len(engine.orders(lease)) == 2
        assert engine.orders(many) == []

    def test_who_does_not_answer_is_waited_for_and_shown(self, harness: TaskHarness) -> None:
        """A sign of life is the answer; until then the question stands."""
        engine = harness.engine
        lease = joined(harness, "a")
        harness.advance(S)
        (silent,) = engine.workers.all(timeout_s=0)
        assert silent.told_us < engine.now_us()
        assert kinds(harness, lease) == [OrderKind.REPORT]
        engine.beat(lease)
        assert kinds(harness, lease) == []
        assert engine.workers.all()[0].told_us == engine.now_us()

    def test_waiting_for_the_end_of_workers_ends(self, harness: TaskHarness) -> None:
        """The order stands nevertheless."""
        engine = harness.engine
        lease = joined(harness, "a")
        assert raises(ResultTimeout, lambda: engine.workers.shutdown(timeout_s=0))
        assert kinds(harness, lease) == [OrderKind.SHUTDOWN]

    def test_without_workers_nobody_is_asked(self, harness: TaskHarness) -> None:
        """And that is no error."""
        assert harness.engine.workers.all(timeout_s=0) == []
        assert harness.engine.workers.shutdown(timeout_s=0) == []
