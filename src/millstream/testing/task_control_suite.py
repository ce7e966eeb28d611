"""The conformance suite of what is done to tasks beside running them: expiry, revocation, locks, limits, pauses.

Subclass it like ``tasks_suite``; it needs the same harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.gates import Limit
from millstream.tasks.limits import (
    CHANGED_TASKS_MAX,
    LISTED_TASKS_MAX,
    REVOKED_TTL_US,
    WORKER_DEATHS_MAX,
)
from millstream.tasks.message import Claimed, Lease, TaskFilter, TaskMessage
from millstream.tasks.states import TaskState
from millstream.testing.tasks_suite import (
    LEASE_US,
    TaskHarness,
    claim,
    finish,
    ids,
    message,
    raised,
    raises,
    silence,
    succeeded,
)

S = 1_000_000


def conditional(task_id: str, **conditions: object) -> TaskMessage:
    """Return a call with an expiry, a lock, a limit or a key."""
    return msgspec.structs.replace(message(task_id), **conditions)


def joined(harness: TaskHarness) -> Lease:
    """Join as a worker of the default queue."""
    return harness.engine.join(["default"], lease_us=LEASE_US)


def state(harness: TaskHarness, task_id: str) -> TaskState:
    """Return the state of a task that is there."""
    status = harness.engine.status(task_id)
    assert status is not None
    return status.state


def drained(harness: TaskHarness, lease: Lease) -> list[str]:
    """Claim and finish until nothing is left; return the ids in their order."""
    order: list[str] = []
    while held := claim(harness.engine, lease):
        order += ids(held)
        finish(harness.engine, lease, [succeeded(task) for task in held])
    return order


class TaskExpirySuite:
    """Tasks that are too late."""

    def test_a_task_that_is_too_late_is_revoked_by_the_claim(self, harness: TaskHarness) -> None:
        """It is never claimed; those behind it are."""
        engine = harness.engine
        late_us = engine.now_us() + S
        engine.enqueue([conditional("late", start_before_us=late_us), message("b")])
        harness.advance(S)
        assert ids(claim(engine, joined(harness))) == ["b"]
        status = engine.wait("late", 0)
        assert (status.state, status.attempt) == (TaskState.REVOKED, 1)
        assert "expired" in (status.revoke_reason or "")

    def test_a_task_in_time_is_claimed(self, harness: TaskHarness) -> None:
        """And may take longer than its expiry."""
        engine = harness.engine
        engine.enqueue([conditional("a", start_before_us=engine.now_us() + S)])
        lease = joined(harness)
        (held,) = claim(engine, lease)
        assert held.start_before_us is not None
        harness.advance(2 * S)
        engine.recover()
        assert finish(engine, lease, [succeeded(held)]) == 0
        assert state(harness, "a") is TaskState.SUCCEEDED

    def test_a_retry_may_come_too_late(self, harness: TaskHarness) -> None:
        """No attempt starts after the expiry, not the second either."""
        engine = harness.engine
        engine.enqueue([conditional("a", start_before_us=engine.now_us() + 2 * S)])
        lease = joined(harness)
        finish(engine, lease, [raised(claim(engine, lease)[0], retry_delay_us=3 * S)])
        harness.advance(3 * S)
        assert claim(engine, lease) == ()
        assert state(harness, "a") is TaskState.REVOKED

    def test_nobody_needs_to_claim(self, harness: TaskHarness) -> None:
        """Whoever waits for it, or looks for the dead, sees that it has expired."""
        engine = harness.engine
        late_us = engine.now_us() + S
        for task_id in ("a", "b"):
            engine.enqueue([conditional(task_id, start_before_us=late_us, eta_us=late_us + 9 * S)])
        harness.advance(S)
        assert engine.wait("a", 5).state is TaskState.REVOKED
        engine.recover()
        assert state(harness, "b") is TaskState.REVOKED

    def test_revoked_tasks_are_kept_for_a_while(self, harness: TaskHarness) -> None:
        """As long as a result is by default."""
        engine = harness.engine
        engine.enqueue([message("a")])
        engine.control.revoke(["a"], reason="no")
        harness.advance(REVOKED_TTL_US)
        engine.recover()
        assert engine.status("a") is None


class TaskControlSuite:
    """What people do to tasks and queues."""

    def test_what_waits_is_revoked_at_once(self, harness: TaskHarness) -> None:
        """Wherever it waits; a second time changes nothing."""
        engine = harness.engine
        eta_us = engine.now_us() + 9 * S
        engine.enqueue([message("a"), message("b", eta_us=eta_us), message("c")])
        assert engine.control.revoke(["a", "b", "nobody"], reason="not needed") == 2
        assert engine.control.revoke(["a"], reason="again") == 0
        assert ids(claim(engine, joined(harness))) == ["c"]
        status = engine.wait("b", 0)
        assert (status.state, status.revoke_reason) == (TaskState.REVOKED, "not needed")

    def test_a_running_task_is_told_and_not_tried_again(self, harness: TaskHarness) -> None:
        """Its worker sees it; the attempt's error is kept."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = joined(harness)
        (held,) = claim(engine, lease)
        assert engine.revocations(lease) == []
        assert engine.control.revoke(["a"], reason="stop", terminate=True) == 1
        (seen,) = engine.revocations(lease)
        assert (seen.seq, seen.id, seen.reason, seen.terminate) == (held.seq, "a", "stop", True)
        assert state(harness, "a") is TaskState.RUNNING
        finish(engine, lease, [raised(held, retry_delay_us=S)])
        assert state(harness, "a") is TaskState.REVOKED
        assert len(engine.attempts("a")) == 1

    def test_a_running_task_that_returns_has_succeeded(self, harness: TaskHarness) -> None:
        """Its work is done."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = joined(harness)
        held = claim(engine, lease)
        engine.control.revoke(["a"], reason="stop")
        assert finish(engine, lease, [succeeded(held[0])]) == 0
        assert state(harness, "a") is TaskState.SUCCEEDED

    def test_a_revoked_task_whose_worker_dies_does_not_run_again(
        self, harness: TaskHarness
    ) -> None:
        """The next claim ends it; so it does when it was handed back."""
        engine = harness.engine
        engine.enqueue([message("a")])
        claim(engine, joined(harness))
        engine.control.revoke(["a"], reason="stop")
        silence(harness, for_us=LEASE_US)
        assert claim(engine, joined(harness)) == ()
        assert state(harness, "a") is TaskState.REVOKED

    def test_the_dead_come_back_with_all_their_retries(self, harness: TaskHarness) -> None:
        """Their old errors are kept, and numbers go on."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = joined(harness)
        finish(engine, lease, [raised(claim(engine, lease)[0], retry_delay_us=None)])
        assert engine.control.ids(TaskFilter(state=TaskState.FAILED), tasks_max=9) == ["a"]
        assert engine.control.requeue(["a", "nobody"]) == 1
        (again,) = claim(engine, lease)
        assert (again.attempt, again.failures) == (2, 0)
        finish(engine, lease, [raised(again, retry_delay_us=None)])
        assert [one.number for one in engine.attempts("a")] == [1, 2]
        assert engine.wait("a", 0).attempt == 2

    def test_poison_that_was_requeued_dies_as_often_as_before(self, harness: TaskHarness) -> None:
        """Deaths are forgiven too."""
        engine = harness.engine
        engine.enqueue([message("a")])
        for _ in range(2):
            for _ in range(WORKER_DEATHS_MAX):
                assert len(claim(engine, joined(harness))) == 1
                silence(harness, for_us=LEASE_US)
            assert state(harness, "a") is TaskState.FAILED
            engine.control.requeue(["a"])
        assert len(engine.attempts("a")) == 2 * WORKER_DEATHS_MAX

    def test_what_waits_for_a_time_may_start_now(self, harness: TaskHarness) -> None:
        """Requeuing hurries an ETA or a backoff; it leaves a running and a succeeded task alone."""
        engine = harness.engine
        engine.enqueue([message("eta", eta_us=engine.now_us() + 9 * S), message("ok")])
        lease = joined(harness)
        held = claim(engine, lease)
        assert engine.control.requeue(["eta", "ok"]) == 1
        finish(engine, lease, [succeeded(held[0])])
        assert engine.control.requeue(["ok"]) == 0
        assert ids(claim(engine, lease)) == ["eta"]

    def test_forgetting(self, harness: TaskHarness) -> None:
        """Only what has ended is forgotten."""
        engine = harness.engine
        engine.enqueue([message("a")])
        assert not engine.control.forget("a")
        engine.control.revoke(["a"], reason="no")
        assert engine.control.forget("a")
        assert engine.status("a") is None
        assert not engine.control.forget("a")

    def test_lists_and_purges_choose(self, harness: TaskHarness) -> None:
        """By state, queue, name and age; running tasks stay."""
        engine = harness.engine
        engine.enqueue([message("run")])
        lease = joined(harness)
        claim(engine, lease)
        engine.enqueue([message("old", queue="x")])
        harness.advance(S)
        engine.enqueue([message("new", queue="x"), message("other", queue="y")])
        control = engine.control
        assert [one.id for one in control.tasks(TaskFilter(queue="x"), tasks_max=9)] == [
            "new",
            "old",
        ]
        assert len(control.tasks(TaskFilter(), tasks_max=2)) == 2
        assert control.tasks(TaskFilter(name="nobody"), tasks_max=9) == []
        assert control.purge(TaskFilter(queue="x", enqueued_before_us=engine.now_us())) == 1
        assert control.purge(TaskFilter()) == 2
        assert state(harness, "run") is TaskState.RUNNING

    def test_many_are_changed_in_several_steps(self, harness: TaskHarness) -> None:
        """And a list has an end."""
        engine = harness.engine
        count = CHANGED_TASKS_MAX + 1
        engine.enqueue([message(str(n)) for n in range(count)])
        chosen = engine.control.ids(TaskFilter(), tasks_max=LISTED_TASKS_MAX)
        assert engine.control.revoke(chosen, reason="all of them") == count
        assert engine.control.requeue(chosen) == count
        for wrong in (0, LISTED_TASKS_MAX + 1):
            assert raises(
                ConfigurationError, partial(engine.control.ids, TaskFilter(), tasks_max=wrong)
            )

    def test_a_paused_queue_gives_nothing(self, harness: TaskHarness) -> None:
        """Others do; resumed, it goes on where it was."""
        engine = harness.engine
        engine.enqueue([message("a"), message("b", queue="other")])
        engine.control.pause("default")
        engine.control.pause("default")
        lease = engine.join(["default", "other"], lease_us=LEASE_US)
        assert ids(claim(engine, lease)) == ["b"]
        assert not engine.ready(["default"]).now
        (paused,) = [one for one in engine.control.queues() if one.paused_us is not None]
        assert (paused.name, paused.depth[TaskState.QUEUED]) == ("default", 1)
        assert paused.oldest_us == paused.paused_us
        assert engine.control.resume("default")
        assert not engine.control.resume("default")
        assert ids(claim(engine, lease)) == ["a"]

    def test_the_arguments_of_a_call_are_kept_as_long_as_it(self, harness: TaskHarness) -> None:
        """Whatever its state."""
        engine = harness.engine
        call = message("a")
        engine.enqueue([call])
        lease = joined(harness)
        finish(engine, lease, [succeeded(one) for one in claim(engine, lease)])
        assert engine.control.arguments("a") == call.arguments
        assert engine.control.forget("a")
        assert engine.control.arguments("a") is None

    def test_progress_is_told_while_the_task_is_held(self, harness: TaskHarness) -> None:
        """And by its holder alone."""
        engine = harness.engine
        engine.enqueue([message("a")])
        lease = joined(harness)
        (held,) = claim(engine, lease)
        assert engine.control.progress("a") is None
        assert engine.report(lease, held, state="PROGRESS", meta=b"\x01")
        assert engine.report(lease, held, state="HALF", meta=b"\x02")
        told = engine.control.progress("a")
        assert told is not None
        assert (told.state, told.meta) == ("HALF", b"\x02")
        assert not engine.report(joined(harness), held, state="X", meta=b"\x03")
        finish(engine, lease, [succeeded(held)])
        assert not engine.report(lease, held, state="X", meta=b"\x03")
        assert engine.control.progress("a") is None


class TaskGatesSuite:
    """Locks, limits and keys."""

    def test_a_lock_lets_one_run_at_a_time(self, harness: TaskHarness) -> None:
        """Over all workers, in order; tasks without it pass."""
        engine = harness.engine
        engine.enqueue([conditional(n, lock_key="lock:x") for n in "abc"])
        engine.enqueue([message("free"), conditional("y", lock_key="lock:y")])
        first, second = joined(harness), joined(harness)
        held = claim(engine, first)
        assert ids(held) == ["a", "free", "y"]
        assert claim(engine, second) == ()
        assert engine.depth()[TaskState.BLOCKED] == 2
        finish(engine, first, [succeeded(held[0])])
        assert ids(claim(engine, second)) == ["b"]
        assert claim(engine, first) == ()

    def test_a_lock_is_free_again_however_its_holder_ends(self, harness: TaskHarness) -> None:
        """Retried, handed back, left, dead, revoked while it was next, purged."""
        engine = harness.engine
        engine.enqueue([conditional(n, lock_key="lock:x") for n in "abcdefgh"])
        lease = joined(harness)
        finish(engine, lease, [raised(claim(engine, lease)[0], retry_delay_us=99 * S)])
        (b,) = claim(engine, lease)
        engine.hand_back(lease, [b])
        assert ids(claim(engine, lease)) == ["b"]
        engine.leave(lease)
        dying = joined(harness)
        assert ids(claim(engine, dying)) == ["b"]
        silence(harness, for_us=LEASE_US)
        lease = joined(harness)
        assert ids(claim(engine, lease)) == ["b"]
        engine.leave(lease)
        engine.control.revoke(["b"], reason="no")
        engine.control.revoke(["c"], reason="no")
        lease = joined(harness)
        assert drained(harness, lease) == ["d", "e", "f", "g", "h"]

    def test_a_limit_counts_over_all_workers(self, harness: TaskHarness) -> None:
        """So many at once, and the next when one ends."""
        engine = harness.engine
        limit = Limit("limit:t", 2, None)
        engine.enqueue([conditional(n, limit=limit) for n in "abcde"])
        first, second = joined(harness), joined(harness)
        held = claim(engine, first, 1) + claim(engine, second)
        assert ids(held) == ["a", "b"]
        assert claim(engine, first) == ()
        finish(engine, first, [succeeded(held[0])])
        assert ids(claim(engine, first)) == ["c"]
        finish(engine, second, [succeeded(held[1])])
        assert drained(harness, second) == ["d", "e"]

    def test_a_wider_limit_lets_in_who_waits(self, harness: TaskHarness) -> None:
        """The last sender's declaration counts."""
        engine = harness.engine
        engine.enqueue([conditional(n, limit=Limit("limit:t", 1, None)) for n in "abc"])
        lease = joined(harness)
        assert len(claim(engine, lease)) == 1
        engine.enqueue([conditional("d", limit=Limit("limit:t", 3, None))])
        assert [len(claim(engine, lease)) for _ in range(3)] == [1, 1, 0]

    def test_a_worker_leaves_room_within_a_limit_to_others(self, harness: TaskHarness) -> None:
        """It runs one task at a time: holding two would let one wait behind the other."""
        engine = harness.engine
        engine.enqueue([conditional(n, limit=Limit("limit:t", 2, None)) for n in "abc"])
        assert [ids(claim(engine, joined(harness))) for _ in range(3)] == [["a"], ["b"], []]

    def test_a_rate_spreads_starts(self, harness: TaskHarness) -> None:
        """One an interval, however many workers ask; an idle time earns no burst."""
        engine = harness.engine
        rate = Limit("limit:t", None, S)
        engine.enqueue([conditional(n, limit=rate) for n in "abcd"])
        first, second = joined(harness), joined(harness)
        starts: list[tuple[int, str]] = []
        began_us = engine.now_us()
        for _ in range(8):
            for lease in (first, second):
                held = claim(engine, lease)
                starts += [((engine.now_us() - began_us) // S, task.id) for task in held]
                finish(engine, lease, [succeeded(task) for task in held])
            due_us = engine.ready(["default"]).next_due_us
            harness.advance(S // 2 if due_us is None else max(0, due_us - engine.now_us()))
        assert starts == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
        harness.advance(60 * S)
        engine.enqueue([conditional(n, limit=rate) for n in "ef"])
        assert ids(claim(engine, first)) == ["e"]

    def test_a_task_with_lock_and_limit_takes_neither_for_itself_while_it_waits(
        self, harness: TaskHarness
    ) -> None:
        """Blocked at one gate, it leaves the other to those behind it."""
        engine = harness.engine
        limit = Limit("limit:t", 1, None)
        engine.enqueue([conditional("holds", lock_key="lock:x")])
        lease = joined(harness)
        held = claim(engine, lease)
        engine.enqueue([conditional("runs", limit=limit)])
        runs = claim(engine, lease)
        engine.enqueue([conditional("both", limit=limit, lock_key="lock:x")])
        engine.enqueue([conditional("limited", limit=limit)])
        assert claim(engine, lease) == ()
        finish(engine, lease, [succeeded(runs[0])])
        assert ids(claim(engine, lease)) == ["limited"]
        finish(engine, lease, [succeeded(held[0])])
        assert claim(engine, lease) == ()  # The limit is used.
        assert engine.depth()[TaskState.BLOCKED] == 1

    def test_many_behind_a_lock_do_not_hide_others(self, harness: TaskHarness) -> None:
        """They leave the way after one look."""
        engine = harness.engine
        engine.enqueue([conditional(str(n), lock_key="lock:x") for n in range(50)])
        engine.enqueue([message("free")])
        lease = joined(harness)
        seen: list[Claimed] = []
        for _ in range(8):
            seen += claim(engine, lease)
        assert ids(seen) == ["0", "free"]

    def test_calls_of_the_same_key_are_stored_once(self, harness: TaskHarness) -> None:
        """Until the first has ended; in one commit too."""
        engine = harness.engine
        assert engine.enqueue([conditional("a", unique_key="k")]) == {}
        assert engine.enqueue(
            [
                conditional("b", unique_key="k"),
                conditional("c", unique_key="l"),
                conditional("d", unique_key="l"),
            ]
        ) == {"b": "a", "d": "c"}
        lease = joined(harness)
        held = claim(engine, lease)
        assert ids(held) == ["a", "c"]
        assert engine.enqueue([conditional("e", unique_key="k")]) == {"e": "a"}
        finish(engine, lease, [succeeded(task) for task in held])
        assert engine.enqueue([conditional("f", unique_key="k")]) == {}

    def test_a_key_may_hold_for_a_period(self, harness: TaskHarness) -> None:
        """After the task has ended too, even when nothing is left of it."""
        engine = harness.engine
        until_us = engine.now_us() + 10 * S
        engine.enqueue([conditional("a", unique_key="k", unique_until_us=until_us)])
        lease = joined(harness)
        finish(engine, lease, [succeeded(claim(engine, lease)[0], ttl_us=0)])
        again: Sequence[TaskMessage] = [conditional("b", unique_key="k", unique_until_us=until_us)]
        assert engine.enqueue(again) == {"b": "a"}
        harness.advance(10 * S)
        engine.recover()
        assert engine.enqueue(again) == {}
