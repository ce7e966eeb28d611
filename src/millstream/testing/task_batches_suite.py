"""The conformance suite of batches: calls that are claimed together, see ``millstream.tasks.batch``.

class TestLocal(TaskBatchesSuite):
    @pytest.fixture
    def harness(self, tmp_path): ...
"""

from __future__ import annotations

import msgspec

from millstream.tasks.batch import Batch
from millstream.tasks.limits import BATCH_SEARCHED_TASKS_MAX
from millstream.tasks.message import Claimed, Completion, Lease
from millstream.tasks.states import TaskState
from millstream.testing.tasks_suite import (
    LEASE_US,
    DeliveringEngine,
    TaskHarness,
    claim,
    finish,
    ids,
    message,
    raised,
    silence,
    succeeded,
)

WAIT_US = 2_000_000
BATCHES = {"index": Batch(max=3, wait="2s")}


def join(engine: DeliveringEngine, *queues: str) -> Lease:
    """Return the lease of a worker that knows of the batch."""
    return engine.join(queues or ("default",), lease_us=LEASE_US, batches=BATCHES)


def send(engine: DeliveringEngine, *names: str, **changes: object) -> None:
    """Send calls of the batch."""
    calls = [msgspec.structs.replace(message(name), name="index", **changes) for name in names]
    engine.enqueue(calls)


def is_one_batch(claimed: tuple[Claimed, ...]) -> bool:
    """Tell whether one call of the function takes them."""
    return len({one.batch for one in claimed}) == 1 and claimed[0].batch != 0


class TaskBatchesSuite:
    """What ``TaskDelivery`` promises of batches."""

    def test_a_call_waits_for_others_and_then_no_longer(self, harness: TaskHarness) -> None:
        """Those behind it do not wait; the worker knows when to come again.

        sent  ─ a ──── b ────────────── (2 s)
        claim  [b]    []     [] ── [a]
        """
        engine = harness.engine
        lease = join(engine)
        sent_us = engine.now_us()
        send(engine, "a")
        engine.enqueue([message("b")])
        assert ids(claim(engine, lease, 1)) == ["b"]
        ready = engine.ready(lease.queues)
        assert (ready.now, ready.next_due_us) == (False, sent_us + WAIT_US)
        assert engine.depth()[TaskState.BLOCKED] == 1
        harness.advance(WAIT_US - 1)
        assert claim(engine, lease) == ()
        harness.advance(1)
        assert engine.ready(lease.queues).now
        batch = claim(engine, lease, 1)
        assert ids(batch) == ["a"]
        assert is_one_batch(batch)

    def test_a_full_batch_waits_for_nothing(self, harness: TaskHarness) -> None:
        """The calls beyond ``max`` wait for the next."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a", "b")
        assert claim(engine, lease) == ()
        send(engine, "c", "d")
        batch = claim(engine, lease, 1)
        assert ids(batch) == ["a", "b", "c"]
        assert is_one_batch(batch)
        assert claim(engine, lease) == ()
        harness.advance(WAIT_US)
        assert ids(claim(engine, lease)) == ["d"]
        assert finish(engine, lease, [succeeded(one) for one in batch]) == 0
        assert engine.depth()[TaskState.SUCCEEDED] == 3

    def test_what_waits_counts_from_when_it_could_run(self, harness: TaskHarness) -> None:
        """A call that waited in the queue for long has waited for its batch too; an ETA counts from its time."""
        engine = harness.engine
        send(engine, "a")
        send(engine, "later", eta_us=engine.now_us() + 10 * WAIT_US)
        harness.advance(WAIT_US)
        lease = join(engine)
        assert ids(claim(engine, lease)) == ["a"]
        harness.advance(9 * WAIT_US)
        assert claim(engine, lease) == ()
        harness.advance(WAIT_US)
        assert ids(claim(engine, lease)) == ["later"]

    def test_order_is_kept_between_batches_and_others(self, harness: TaskHarness) -> None:
        """A batch comes when it is the turn of its first call."""
        engine = harness.engine
        lease = join(engine)
        engine.enqueue([message("first")])
        send(engine, "a", "b", "c")
        engine.enqueue([message("behind"), message("urgent", priority=9)])
        taken = [ids(claim(engine, lease)) for _ in range(3)]
        assert taken == [["urgent", "first"], ["a", "b", "c"], ["behind"]]

    def test_the_most_urgent_fill_a_batch(self, harness: TaskHarness) -> None:
        """Those that waited longer stay behind them."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a", "b")
        assert claim(engine, lease) == ()
        send(engine, "c", "d", priority=9)
        assert ids(claim(engine, lease)) == ["c", "d", "a"]

    def test_queues_are_apart(self, harness: TaskHarness) -> None:
        """A batch is made of one queue."""
        engine = harness.engine
        lease = join(engine, "default", "bulk")
        send(engine, "a", "b")
        send(engine, "c", "d", queue="bulk")
        assert claim(engine, lease) == ()
        send(engine, "e", queue="bulk")
        assert ids(claim(engine, lease)) == ["c", "d", "e"]

    def test_no_call_is_in_two_batches(self, harness: TaskHarness) -> None:
        """Two workers claim in turns."""
        engine = harness.engine
        one, other = join(engine), join(engine)
        send(engine, *"abcdefg")
        assert ids(claim(engine, one)) == ["a", "b", "c"]
        assert ids(claim(engine, other)) == ["d", "e", "f"]
        assert claim(engine, one) == ()
        harness.advance(WAIT_US)
        assert ids(claim(engine, other)) == ["g"]
        assert claim(engine, one) == ()

    def test_revoked_and_expired_calls_are_in_none(self, harness: TaskHarness) -> None:
        """While they wait for others, too."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a", "b")
        send(engine, "late", start_before_us=engine.now_us() + WAIT_US)
        engine.control.revoke(["a"], reason="no")
        assert claim(engine, lease) == ()
        harness.advance(WAIT_US)
        assert ids(claim(engine, lease)) == ["b"]
        states = [engine.status(name) for name in ("a", "late")]
        assert [status and status.state for status in states] == [TaskState.REVOKED] * 2

    def test_a_paused_queue_gives_no_batch(self, harness: TaskHarness) -> None:
        """Also when its calls have waited long enough, and no worker is kept busy by that."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a")
        assert claim(engine, lease) == ()
        engine.control.pause("default")
        harness.advance(WAIT_US)
        assert claim(engine, lease) == ()
        assert not engine.ready(lease.queues).now
        engine.control.resume("default")
        assert ids(claim(engine, lease)) == ["a"]

    def test_the_batch_of_a_dead_worker_is_run_one_by_one(self, harness: TaskHarness) -> None:
        """None is charged, and none waits again: it is known then which one kills its worker."""
        engine = harness.engine
        send(engine, "a", "b", "c")
        assert len(claim(engine, join(engine))) == 3
        silence(harness, for_us=LEASE_US)
        lease = join(engine)
        taken = [claim(engine, lease) for _ in range(3)]
        assert [ids(one) for one in taken] == [["a"], ["b"], ["c"]]
        assert [one[0].attempt for one in taken] == [1, 1, 1]

    def test_each_call_ends_in_its_own_way(self, harness: TaskHarness) -> None:
        """One is tried again, with those that were sent since."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a", "b", "c")
        a, b, c = claim(engine, lease)
        done: list[Completion] = [
            succeeded(a),
            raised(b, retry_delay_us=WAIT_US),
            raised(c, retry_delay_us=None),
        ]
        assert finish(engine, lease, done) == 0
        statuses = [engine.status(name) for name in "abc"]
        assert [status and status.state for status in statuses] == [
            TaskState.SUCCEEDED,
            TaskState.RETRYING,
            TaskState.FAILED,
        ]
        harness.advance(WAIT_US)
        send(engine, "d", "e")
        again = claim(engine, lease)
        assert ids(again) == ["b", "d", "e"]
        assert [one.attempt for one in again] == [2, 1, 1]

    def test_what_is_handed_back_is_a_batch_again(self, harness: TaskHarness) -> None:
        """Nothing is charged."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a", "b", "c")
        assert engine.hand_back(lease, claim(engine, lease)) == 3
        assert ids(claim(engine, lease)) == ["a", "b", "c"]

    def test_a_worker_that_knows_no_batch_runs_the_calls_as_they_are(
        self, harness: TaskHarness
    ) -> None:
        """It lets out those that others left waiting."""
        engine = harness.engine
        send(engine, "a")
        assert claim(engine, join(engine)) == ()
        old = engine.join(["default"], lease_us=LEASE_US)
        harness.advance(WAIT_US)
        (call,) = claim(engine, old)
        assert (call.id, call.batch) == ("a", 0)

    def test_others_of_the_batch_are_looked_for_not_too_deep(self, harness: TaskHarness) -> None:
        """What is beyond the limit is found when its turn comes nearer."""
        engine = harness.engine
        lease = join(engine)
        send(engine, "a")
        engine.enqueue([message(f"other{n}") for n in range(BATCH_SEARCHED_TASKS_MAX - 2)])
        send(engine, "within", "beyond")
        assert len(claim(engine, lease, 1)) == 1
        assert engine.depth()[TaskState.BLOCKED] == 2
        for _ in range(BATCH_SEARCHED_TASKS_MAX):
            found = claim(engine, lease, BATCH_SEARCHED_TASKS_MAX)
            if found[0].name == "index":
                break
        assert ids(found) == ["a", "within", "beyond"]
