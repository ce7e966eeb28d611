"""What happens to tasks inside one transaction of the store: enqueue, complete, claim, hand back, recover.

Each function takes the transaction and does no more than a few statements; the states come from
``tasks/states.py``. A task is finished only under the lease and in the attempt it was claimed in (``held``): that
is the fence against a worker that was taken for dead and comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from millstream.engines.local import task_workers, task_workflows
from millstream.engines.local.task_batches import choose
from millstream.engines.local.task_gates import (
    Gates,
    keys_of,
    let_in,
    open_due,
    release,
    set_limits,
)
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.transaction import Snapshot, Transaction
from millstream.tasks.limits import DUE_TASKS_MAX, PRUNED_TASKS_MAX, REVOKED_TTL_US
from millstream.tasks.message import (
    Claimed,
    Completion,
    Lease,
    Outcome,
    Raised,
    Succeeded,
    TaskMessage,
)
from millstream.tasks.states import WAITING, TaskEvent, TaskState, follow
from millstream.tasks.workflow_plan import NodeError, from_stored

REFUSED = "refused_completions"
EXPIRED = "it expired before it was started"
_RUNNING = TaskState.RUNNING
_QUEUED_NEW = follow(None, TaskEvent.ENQUEUE)
_SCHEDULED_NEW = follow(None, TaskEvent.SCHEDULE)
_CLAIMED = follow(TaskState.QUEUED, TaskEvent.CLAIM)
_SUCCEEDED = follow(_RUNNING, TaskEvent.SUCCEED)
_RETRIED = follow(_RUNNING, TaskEvent.RETRY)
_GIVEN_UP = follow(_RUNNING, TaskEvent.FAIL)
_STOPPED = follow(_RUNNING, TaskEvent.REVOKE)
_HANDED_BACK = follow(_RUNNING, TaskEvent.HAND_BACK)
_DUE = ((TaskState.SCHEDULED, "tasks/due_scheduled"), (TaskState.RETRYING, "tasks/due_retrying"))


def queue_channel(queue: str) -> str:
    """Return the channel that wakes the workers of a queue."""
    return f"tasks:{queue}"


def task_channel(task_id: str) -> str:
    """Return the channel that wakes those who wait for a task."""
    return f"task:{task_id}"


def enqueue(tx: Transaction, messages: Sequence[TaskMessage]) -> dict[str, str]:
    """Store calls in their order; ids that are stored already are left as they are.

    Returns the ids for which another task stands, whose key is the same.
    """
    standing: dict[str, str] = {}
    if any([message.is_conditional for message in messages]):
        messages, standing = _without_repeated(tx, messages)
        set_limits(tx, {message.limit for message in messages if message.limit is not None})
        deadlines = [(m.start_before_us, m.id) for m in messages if m.start_before_us is not None]
        tx.many("tasks/set_deadline", deadlines)
    now_us = tx.now_us
    tx.many("tasks/insert", (_new_row(message, now_us) for message in messages))
    for queue in {message.queue for message in messages}:
        tx.wake(queue_channel(queue))
    reach("task.inserted")
    return standing


def _without_repeated(
    tx: Transaction, messages: Sequence[TaskMessage]
) -> tuple[list[TaskMessage], dict[str, str]]:
    """Return the calls for which no other stands, and the ids of those that stand for the rest."""
    first: list[TaskMessage] = []
    standing: dict[str, str] = {}
    sent: dict[str, str] = {}
    for message in messages:
        key = message.unique_key
        if key is not None:
            known = sent.get(key)
            if known is None:
                found = tx.run("tasks/standing", {"key": key, "now_us": tx.now_us})
                known = found[0][0] if found else None
            if known is not None:
                standing[message.id] = known
                continue
            sent[key] = message.id
            tx.run("tasks/set_standing", (key, message.id, message.unique_until_us))
        first.append(message)
    return first, standing


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
        message.start_before_us,
        message.lock_key,
        None if message.limit is None else message.limit.key,
        message.soft_time_limit_us,
        message.time_limit_us,
    )


def complete(tx: Transaction, lease: Lease, done: Sequence[Completion]) -> list[Completion]:
    """Store what is still held of the completions and return it; count the others as refused."""
    held: dict[int, int] = {}
    revoked: set[int] = set()
    for seq, attempt, reason in tx.run("tasks/held", (lease.number,)):
        held[seq] = attempt
        if reason is not None:
            revoked.add(seq)
    accepted: list[Completion] = []
    for completion in done:
        # Removed, so that a completion given twice is refused the second time.
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
            _store_error(tx, lease, one, revoked=one.task.seq in revoked)
        tx.wake(task_channel(one.task.id))
        _carry_on(tx, one, revoked=one.task.seq in revoked)
    gated = [(one.task.seq, one.task.gates) for one in accepted if one.task.gates]
    if gated:
        release(tx, gated)
    reach("task.completed")
    return accepted


def _carry_on(tx: Transaction, one: Completion, *, revoked: bool) -> None:
    """Let the workflow of the task go on, if it has one and this was its end."""
    task = one.task
    if isinstance(one, Succeeded) and one.replaced_by is not None:
        task_workflows.replace(tx, task, from_stored(one.replaced_by), enqueue)
    elif not task_workflows.is_step(task.id):
        return
    elif isinstance(one, Succeeded):
        task_workflows.succeeded(tx, task.id, one.result, enqueue)
    elif revoked or one.retry_delay_us is None:
        error = NodeError(task.id, task.name, one.error_type, one.error, one.traceback)
        task_workflows.failed(tx, task.id, error, enqueue)


def _store_successes(tx: Transaction, lease: Lease, successes: Sequence[Succeeded]) -> None:
    now_us = tx.now_us
    kept = [
        (_SUCCEEDED, one.result, now_us, now_us + one.result_ttl_us, one.task.seq, lease.number)
        for one in successes
        if one.result_ttl_us and one.replaced_by is None
    ]
    tx.many("tasks/succeed", kept)
    dropped = [
        (one.task.seq, lease.number)
        for one in successes
        if not one.result_ttl_us or one.replaced_by is not None
    ]
    tx.many("tasks/remove", dropped)


def _store_error(tx: Transaction, lease: Lease, one: Raised, *, revoked: bool) -> None:
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
    if revoked:
        params = {
            "state": _STOPPED,
            "now_us": tx.now_us,
            "kept_us": REVOKED_TTL_US,
            "seq": task.seq,
            "lease": lease.number,
        }
        tx.run("tasks/withdraw_running", params)
    elif one.retry_delay_us is None:
        tx.run("tasks/fail", (_GIVEN_UP, tx.now_us, task.seq, lease.number))
    else:
        if one.changes is not None:
            changed = (one.changes.arguments, one.changes.queue, one.changes.priority)
            tx.run("tasks/change", (*changed, task.seq, lease.number))
            if one.changes.queue is not None:
                # Its workers may sleep, and know nothing of a task that comes due.
                tx.wake(queue_channel(one.changes.queue))
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
    batch = 0
    if lease.batches:
        choice = choose(tx, lease, lambda: _heads(tx, lease, want))
        taken = choice.rows if choice.is_batch else _cut_at_alone(choice.rows)
        batch = taken[0][1] if choice.is_batch else 0
    else:
        taken = _cut_at_alone(_heads(tx, lease, want))
    if any([row[3] for row in taken]):
        taken, gates = _admitted(tx, taken)
        tx.many("tasks/claim", [(_CLAIMED, lease.number, row[1]) for row in taken])
        gates.close()
    else:
        tx.many("tasks/claim", [(_CLAIMED, lease.number, row[1]) for row in taken])
    reach("task.claiming")
    return True, tuple([_claimed(row, batch) for row in taken])


def _heads(tx: Transaction, lease: Lease, want: int) -> list[Row]:
    heads = [
        row
        for queue in lease.queues
        for row in tx.run("tasks/heads", {"queue": queue, "tasks_max": want})
    ]
    if len(lease.queues) > 1:
        heads.sort(key=lambda row: (-row[0], row[1]))
    return heads[:want]


def _admitted(tx: Transaction, rows: Sequence[Row]) -> tuple[list[Row], Gates]:
    """Return those that may start now; revoke those whose time is over, block those whose gates are closed."""
    taken: list[Row] = []
    gates = Gates(tx)
    for row in rows:
        seq, task_id, start_before_us, reason = row[1], row[8], row[18], row[4]
        keys = keys_of(row[5], row[6])
        lapsed = start_before_us is not None and start_before_us <= tx.now_us
        if lapsed or reason is not None:
            event = TaskEvent.EXPIRE if reason is None else TaskEvent.REVOKE
            withdraw(tx, seq, task_id, before=TaskState.QUEUED, event=event, reason=EXPIRED)
            for key in keys:
                gates.touch(key)
        elif gates.admit(seq, keys):
            taken.append(row)
    return taken, gates


def withdraw(
    tx: Transaction, seq: int, task_id: str, *, before: TaskState, event: TaskEvent, reason: str
) -> None:
    """Revoke a task that is in nobody's hands. Its gates are the caller's to open."""
    params = {
        "state": follow(before, event),
        "now_us": tx.now_us,
        "kept_us": REVOKED_TTL_US,
        "reason": reason,
        "seq": seq,
    }
    tx.run("tasks/withdraw", params)
    tx.wake(task_channel(task_id))
    fail_step(tx, task_id, reason)
    reach("task.withdrawn")


def fail_step(tx: Transaction, task_id: str, reason: str) -> None:
    """Let the workflow of a task that will not run go on, if it is a step of one."""
    if task_workflows.is_step(task_id):
        error = NodeError(task_id, "", "TaskRevoked", reason, "")
        task_workflows.failed(tx, task_id, error, enqueue)


def lapse(tx: Transaction) -> int:
    """Revoke what was not started in time; return how many."""
    params = {"now_us": tx.now_us, "tasks_max": PRUNED_TASKS_MAX}
    due = tx.run("tasks/lapsed", params)
    for deadline_us, task_id, start_before_us, seq, state, *keys in due:
        tx.run("tasks/drop_deadline", (deadline_us, task_id))
        if deadline_us == start_before_us and state in WAITING:
            before = TaskState(state)
            withdraw(tx, seq, task_id, before=before, event=TaskEvent.EXPIRE, reason=EXPIRED)
            for key in keys_of(*keys):
                let_in(tx, key)
    reach("task.lapsed")
    return len(due)


def _make_due(tx: Transaction) -> None:
    """Queue what was waiting for a time that has come."""
    for before, name in _DUE:
        params = {
            "state": follow(before, TaskEvent.DUE),
            "now_us": tx.now_us,
            "tasks_max": DUE_TASKS_MAX,
        }
        tx.run(name, params)
    open_due(tx)


def _claimed(row: Row, batch: int) -> Claimed:
    lock_key, limit_key = row[5:7]
    gates = () if lock_key is None and limit_key is None else keys_of(lock_key, limit_key)
    return Claimed(*row[7:], gates, bool(row[2]), batch)  # type: ignore[call-arg]  # the statement selects its fields in order


def _cut_at_alone(heads: Sequence[Row]) -> Sequence[Row]:
    for index, row in enumerate(heads):
        if row[2]:
            return heads[: max(index, 1)]
    return heads


def hand_back(tx: Transaction, lease: Lease, tasks: Iterable[Claimed]) -> int:
    """Return claimed tasks to their place; those of other holders stay where they are."""
    returned = 0
    for task in tasks:
        rows = tx.run("tasks/hand_back", (_HANDED_BACK, task.seq, lease.number))
        _wake_returned(tx, rows)
        returned += len(rows)
    return returned


def leave(tx: Transaction, lease: Lease) -> None:
    """Return all that is held, uncharged, and give up the lease."""
    _wake_returned(tx, tx.run("tasks/hand_back_all", (_HANDED_BACK, lease.number)))
    tx.run("tasks/leave", (lease.number,))
    tx.wake(task_workers.CHANNEL)
    reach("task.leaving")


def _wake_returned(tx: Transaction, rows: Sequence[Row]) -> None:
    """Tell the queues of tasks that went back, and those who wait for their locks and limits."""
    for queue in {row[0] for row in rows}:
        tx.wake(queue_channel(queue))
    release(tx, [(row[1], keys_of(*row[2:])) for row in rows])


def prune(tx: Transaction) -> None:
    """Remove results whose time is over, and keys of calls that may come again."""
    tx.run("tasks/prune", (tx.now_us, PRUNED_TASKS_MAX))
    tx.run("tasks/prune_standing", {"now_us": tx.now_us, "keys_max": PRUNED_TASKS_MAX})


def is_idle(snapshot: Snapshot, queues: Sequence[str]) -> bool:
    """Tell whether nothing is queued, running or waiting for a retry; an ETA to come is not counted."""
    names = json.dumps(list(queues))
    if snapshot.run("tasks/ready", {"queues": names, "now_us": 0})[0][0]:
        return False
    return not any(
        snapshot.run(statement, (names,))[0][0]
        for statement in ("tasks/has_running", "tasks/has_retrying", "tasks/has_blocked")
    )
