"""What the store knows of one task, as a status."""

from __future__ import annotations

from millstream.engines.local.task_workflows import step_status
from millstream.store.catalog import Row
from millstream.store.transaction import Snapshot
from millstream.tasks.message import Attempt, Outcome, TaskStatus
from millstream.tasks.states import TaskState


def status_of(snapshot: Snapshot, task_id: str) -> TaskStatus | None:
    """Return what a consistent view knows of a task, or of a step of a workflow that is no task yet."""
    found = snapshot.run("tasks/status", (task_id,))
    return status_from(snapshot, task_id, found[0]) if found else step_status(snapshot, task_id)


def status_from(snapshot: Snapshot, task_id: str, row: Row) -> TaskStatus:
    """Return the status of a row of ``tasks/status``, with the last error."""
    (seq, name, queue, priority, state, enqueued, due, failures, deaths, finished, result) = row[
        :11
    ]
    attempts_before, start_before_us, revoke_reason = row[11:14]
    failed = failures or deaths or attempts_before
    last = snapshot.run("tasks/last_attempt", (seq,)) if failed else []
    return TaskStatus(
        id=task_id,
        name=name,
        queue=queue,
        priority=priority,
        state=TaskState(state),
        enqueued_us=enqueued,
        due_us=due,
        failures=failures,
        deaths=deaths,
        finished_us=finished,
        result=result,
        last=attempt_from(last[0]) if last else None,
        attempts_before=attempts_before,
        start_before_us=start_before_us,
        revoke_reason=revoke_reason,
    )


def attempt_from(row: Row) -> Attempt:
    """Return the attempt of a row of ``tasks/attempts``."""
    number, outcome, worker, started_us, ended_us, error_type, error, traceback = row
    return Attempt(
        number=number,
        outcome=Outcome(outcome),
        worker=worker,
        started_us=started_us,
        ended_us=ended_us,
        error_type=error_type,
        error=error,
        traceback=traceback,
    )
