"""The conformance suite of the stream of changes, see ``millstream.tasks.events``. Subclass it like ``tasks_suite``."""

from __future__ import annotations

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.message import TaskFilter
from millstream.tasks.states import TRANSITIONS, TaskState
from millstream.testing.tasks_suite import (
    LEASE_US,
    TaskHarness,
    claim,
    finish,
    message,
    raised,
    raises,
    silence,
    succeeded,
)

S = 1_000_000
Way = tuple[TaskState | None, TaskState | None, int]


def ways(harness: TaskHarness, task_id: str) -> list[Way]:
    """Return what happened to a task: state before, state after, attempt."""
    found = harness.engine.events.follow(after=0, timeout_s=0)
    return [(one.before, one.after, one.attempt) for one in found if one.id == task_id]


class TaskEventsSuite:
    """What is recorded of tasks, and how it is read."""

    def test_it_is_off_until_it_is_asked_for(self, harness: TaskHarness) -> None:
        """Then nothing is recorded, and nobody waits for what will not come."""
        events = harness.engine.events
        harness.engine.enqueue([message("a")])
        assert not events.is_enabled
        assert list(events.follow(after=0, timeout_s=0)) == []
        assert raises(ConfigurationError, lambda: events.follow())
        assert events.enable()
        assert not events.enable()
        harness.engine.enqueue([message("b")])
        assert events.disable()
        assert not events.disable()
        harness.engine.enqueue([message("c")])
        assert [one.id for one in events.follow(after=0, timeout_s=0)] == ["b"]

    def test_a_task_from_its_sending_to_its_end(self, harness: TaskHarness) -> None:
        """With its times, its queue, and the worker that held it."""
        engine = harness.engine
        engine.events.enable()
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        harness.advance(S)
        held = claim(engine, lease)
        harness.advance(S)
        finish(engine, lease, [succeeded(held[0])])
        sent, taken, done = engine.events.follow(after=0, timeout_s=0)
        assert (sent.before, sent.after, sent.worker) == (None, TaskState.QUEUED, None)
        assert (taken.before, taken.after) == (TaskState.QUEUED, TaskState.RUNNING)
        assert (done.before, done.after) == (TaskState.RUNNING, TaskState.SUCCEEDED)
        assert [one.at_us - sent.at_us for one in (sent, taken, done)] == [0, S, 2 * S]
        assert taken.worker == done.worker == lease.worker
        assert (sent.name, sent.queue, sent.missed) == ("suite.task", "default", 0)
        assert [one.seq for one in (sent, taken, done)] == [1, 2, 3]

    def test_attempts_are_numbered(self, harness: TaskHarness) -> None:
        """Whether they raise, or their worker dies."""
        engine = harness.engine
        engine.events.enable()
        engine.enqueue([message("a")])
        lease = engine.join(["default"], lease_us=LEASE_US)
        finish(engine, lease, [raised(claim(engine, lease)[0], retry_delay_us=S)])
        harness.advance(S)
        claim(engine, lease)
        silence(harness, for_us=LEASE_US)
        other = engine.join(["default"], lease_us=LEASE_US)
        finish(engine, other, [raised(claim(engine, other)[0], retry_delay_us=None)])
        engine.control.requeue(["a"])
        assert ways(harness, "a") == [
            (None, TaskState.QUEUED, 1),
            (TaskState.QUEUED, TaskState.RUNNING, 1),
            (TaskState.RUNNING, TaskState.RETRYING, 1),
            (TaskState.RETRYING, TaskState.QUEUED, 2),
            (TaskState.QUEUED, TaskState.RUNNING, 2),
            (TaskState.RUNNING, TaskState.QUEUED, 2),
            (TaskState.QUEUED, TaskState.RUNNING, 3),
            (TaskState.RUNNING, TaskState.FAILED, 3),
            (TaskState.FAILED, TaskState.QUEUED, 4),
        ]

    def test_every_change_is_a_row_of_the_table(self, harness: TaskHarness) -> None:
        """But for what is purged, which leaves no task behind."""
        engine = harness.engine
        engine.events.enable()
        eta_us = engine.now_us() + 9 * S
        engine.enqueue([message("a"), message("b", eta_us=eta_us), message("c"), message("d")])
        engine.control.revoke(["a"], reason="no")
        engine.control.purge(TaskFilter(state=TaskState.SCHEDULED))
        lease = engine.join(["default"], lease_us=LEASE_US)
        held = claim(engine, lease)
        engine.hand_back(lease, held[1:])
        finish(engine, lease, [succeeded(held[0], ttl_us=0)])
        assert ways(harness, "a")[-1] == (TaskState.QUEUED, TaskState.REVOKED, 1)
        assert ways(harness, "b") == [
            (None, TaskState.SCHEDULED, 1),
            (TaskState.SCHEDULED, None, 1),
        ]
        # Its result is not kept, and it has succeeded nevertheless.
        assert ways(harness, "c")[-1] == (TaskState.RUNNING, TaskState.SUCCEEDED, 1)
        assert ways(harness, "d")[-1] == (TaskState.RUNNING, TaskState.QUEUED, 1)
        known = {(row.before, row.after) for row in TRANSITIONS}
        found = engine.events.follow(after=0, timeout_s=0)
        assert {(one.before, one.after) for one in found if one.after is not None} <= known

    def test_a_reader_goes_on_where_it_was(self, harness: TaskHarness) -> None:
        """Behind a number, or behind all that is there."""
        engine = harness.engine
        engine.events.enable()
        engine.enqueue([message("a"), message("b")])
        first = next(iter(engine.events.follow(after=0, timeout_s=0)))
        assert first.id == "a"
        rest = engine.events.follow(after=first.seq, timeout_s=0)
        later = engine.events.follow(timeout_s=0)
        engine.enqueue([message("c")])
        assert [one.id for one in rest] == ["b", "c"]
        assert [one.id for one in later] == ["c"]
