"""What happens to tasks inside one transaction of the store: enqueue, complete, claim, hand back, recover.

Each function takes the transaction and does no more than a few statements; the states come from
``tasks/states.py``. A task is finished only under the lease and in the attempt it was claimed in (``held``): that
is the fence against a worker that was taken for dead and comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.transaction import Snapshot, Transaction
from millstream.tasks.lease import Orphan, fate_of
from millstream.tasks.limits import DUE_TASKS_MAX, PRUNED_TASKS_MAX
from millstream.tasks.message import (
    Claimed,
    Completion,
    Lease,
    Outcome,
    Raised,
    Succeeded,
    TaskMessage,
)
from millstream.tasks.states import TaskEvent, TaskState, follow

REFUSED = "refused_completions"
_RUNNING = TaskState.RUNNING
_QUEUED_NEW = follow(None, TaskEvent.ENQUEUE)
_SCHEDULED_NEW = follow(None, TaskEvent.SCHEDULE)
_CLAIMED = follow(TaskState.QUEUED, TaskEvent.CLAIM)
_SUCCEEDED = follow(_RUNNING, TaskEvent.SUCCEED)
_RETRIED = follow(_RUNNING, TaskEvent.RETRY)
_GIVEN_UP = follow(_RUNNING, TaskEvent.FAIL)
_HANDED_BACK = follow(_RUNNING, TaskEvent.HAND_BACK)
_DUE = ((TaskState.SCHEDULED, "tasks/due_scheduled"), (TaskState.RETRYING, "tasks/due_retrying"))


def queue_channel(queue: str) -> str:
    """Return the channel that wakes the workers of a queue."""
    return f"tasks:{queue}"


def task_channel(task_id: str) -> str:
    """Return the channel that wakes those who wait for a task."""
    return f"task:{task_id}"


def enqueue(tx: Transaction, messages: Sequence[TaskMessage]) -> None:
    """Store calls in their order; ids that are stored already are left as they are."""
    now_us = tx.now_us
    tx.many("tasks/insert", (_new_row(message, now_us) for message in messages))
    for queue in {message.queue for message in messages}:
        tx.wake(queue_channel(queue))
    reach("task.inserted")


def _new_row(message: TaskMessage, now_us: int) -> tuple[object, ...]:
    due_us = now_us if message.eta_us is None else max(message.eta_us, now_us)
    return (
        message.id,
        message.name,
        message.queue,
        message.priority,
        _SCHEDULED_NEW if due_us > now_us else _QUEUED_NEW,
        message.arguments,
        message.acks_late,
        not message.acks_late,
        message.eta_us,
        now_us,
        due_us,
    )


def complete(tx: Transaction, lease: Lease, done: Sequence[Completion]) -> list[Completion]:
    """Store what is still held of the completions and return it; count the others as refused."""
    held: dict[int, int] = dict(tx.run("tasks/held", (lease.number,)))
    accepted: list[Completion] = []
    for completion in done:
        # Popped, so that a completion given twice is refused the second time.
        if held.get(completion.task.seq) == completion.task.attempt:
            del held[completion.task.seq]
            accepted.append(completion)
    refused = len(done) - len(accepted)
    if refused:
        tx.run("tasks/count", (REFUSED, refused))
        reach("task.refused")
    _store_successes(tx, lease, [one for one in accepted if isinstance(one, Succeeded)])
    for one in accepted:
        if isinstance(one, Raised):
            _store_error(tx, lease, one)
        tx.wake(task_channel(one.task.id))
    reach("task.completed")
    return accepted


def _store_successes(tx: Transaction, lease: Lease, successes: Sequence[Succeeded]) -> None:
    now_us = tx.now_us
    kept = [
        (_SUCCEEDED, one.result, now_us, now_us + one.result_ttl_us, one.task.seq, lease.number)
        for one in successes
        if one.result_ttl_us
    ]
    tx.many("tasks/succeed", kept)
    dropped = [(one.task.seq, lease.number) for one in successes if not one.result_ttl_us]
    tx.many("tasks/remove", dropped)


def _store_error(tx: Transaction, lease: Lease, one: Raised) -> None:
    task = one.task
    tx.run(
        "tasks/add_attempt",
        (
            task.seq,
            task.attempt,
            Outcome.RAISED,
            lease.worker,
            one.started_us,
            one.ended_us,
            one.error_type,
            one.error,
            one.traceback,
        ),
    )
    if one.retry_delay_us is None:
        tx.run("tasks/fail", (_GIVEN_UP, tx.now_us, task.seq, lease.number))
    else:
        tx.run("tasks/retry", (_RETRIED, tx.now_us + one.retry_delay_us, task.seq, lease.number))


def claim(tx: Transaction, lease: Lease, want: int) -> tuple[bool, tuple[Claimed, ...]]:
    """Return whether the lease still holds, and if so up to ``want`` tasks that are its own now.

    The highest priority comes first, then the oldest, over all queues of the lease.
    """
    holds, is_due = tx.run("tasks/due_and_lease", {"lease": lease.number, "now_us": tx.now_us})[0]
    if not holds or not want:
        return bool(holds), ()
    if is_due:
        _make_due(tx)
    heads = [row for queue in lease.queues for row in tx.run("tasks/heads", (queue, want))]
    if len(lease.queues) > 1:
        heads.sort(key=lambda row: (-row[0], row[1]))
    taken = _cut_at_alone(heads[:want])
    tx.many("tasks/claim", [(_CLAIMED, lease.number, row[1]) for row in taken])
    reach("task.claiming")
    return True, tuple(_claimed(row) for row in taken)


def _make_due(tx: Transaction) -> None:
    """Queue what was waiting for a time that has come."""
    for before, name in _DUE:
        params = {
            "state": follow(before, TaskEvent.DUE),
            "now_us": tx.now_us,
            "tasks_max": DUE_TASKS_MAX,
        }
        tx.run(name, params)


def _claimed(row: Row) -> Claimed:
    _, seq, _, task_id, name, arguments, failures, deaths, enqueued_us, due_us, eta_us = row
    attempt = failures + deaths + 1
    return Claimed(seq, task_id, name, arguments, attempt, failures, enqueued_us, due_us, eta_us)


def _cut_at_alone(heads: Sequence[Row]) -> Sequence[Row]:
    for index, row in enumerate(heads):
        if row[2]:
            return heads[: max(index, 1)]
    return heads


def hand_back(tx: Transaction, lease: Lease, tasks: Iterable[Claimed]) -> int:
    """Return claimed tasks to their place; those of other holders stay where they are."""
    returned = 0
    for task in tasks:
        for (queue,) in tx.run("tasks/hand_back", (_HANDED_BACK, task.seq, lease.number)):
            tx.wake(queue_channel(queue))
            returned += 1
    return returned


def leave(tx: Transaction, lease: Lease) -> None:
    """Return all that is held, uncharged, and give up the lease."""
    for (queue,) in tx.run("tasks/hand_back_all", (_HANDED_BACK, lease.number)):
        tx.wake(queue_channel(queue))
    tx.run("tasks/leave", (lease.number,))
    reach("task.leaving")


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that died: why we think so, in words for the error of its tasks."""

    lease: int
    worker: str
    why: str


def evict(tx: Transaction, death: Death) -> tuple[int, int]:
    """Take everything from a dead worker; return how many tasks went back and how many were failed."""
    if not tx.run("tasks/leave", (death.lease,)):
        return 0, 0  # Another worker was faster.
    rows = tx.run("tasks/orphans", (death.lease,))
    returned = 0
    for row in rows:
        seq, task_id, queue, failures, deaths, acks_late, due_us = row
        orphan = Orphan(seq=seq, deaths=deaths, alone=len(rows) == 1, acks_late=bool(acks_late))
        fate = fate_of(orphan)
        if fate.charged:
            number = failures + deaths + 1
            _store_death(tx, death, seq=seq, number=number, started_us=min(due_us, tx.now_us))
        state = follow(_RUNNING, fate.event)
        if state is TaskState.FAILED:
            tx.run("tasks/abandon", (state, tx.now_us, seq, death.lease))
            tx.wake(task_channel(task_id))
        else:
            tx.run("tasks/return_orphan", (state, int(fate.charged), seq, death.lease))
            tx.wake(queue_channel(queue))
            returned += 1
    reach("task.recovering")
    return returned, len(rows) - returned


def _store_death(tx: Transaction, death: Death, *, seq: int, number: int, started_us: int) -> None:
    tx.run(
        "tasks/add_attempt",
        (
            seq,
            number,
            Outcome.WORKER_DIED,
            death.worker,
            started_us,
            tx.now_us,
            "WorkerDied",
            f"the worker died while it held the task: {death.why}",
            "",
        ),
    )


def prune(tx: Transaction) -> None:
    """Remove results whose time is over."""
    tx.run("tasks/prune", (tx.now_us, PRUNED_TASKS_MAX))


def is_idle(snapshot: Snapshot, queues: Sequence[str]) -> bool:
    """Tell whether nothing is queued, running or waiting for a retry; an ETA to come is not counted."""
    if any(snapshot.run("tasks/has_queued", (queue,))[0][0] for queue in queues):
        return False
    names = json.dumps(list(queues))
    return not any(
        snapshot.run(statement, (names,))[0][0]
        for statement in ("tasks/has_running", "tasks/has_retrying")
    )
