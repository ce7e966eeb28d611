"""``TaskControl`` of one store: what people and programs do to tasks that were sent. One short transaction a step.

More than ``CHANGED_TASKS_MAX`` tasks take several transactions, so that workers are not kept waiting; a kill in between
leaves the rest as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from millstream.engines.local import task_transactions as rows
from millstream.engines.local.task_gates import keys_of, let_in
from millstream.engines.local.task_status import status_from
from millstream.engines.local.task_workers import lease_channel
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.telemetry import reach
from millstream.store.store import Store
from millstream.store.transaction import Transaction
from millstream.tasks.limits import CHANGED_TASKS_MAX, LISTED_TASKS_MAX
from millstream.tasks.message import Progress, QueueStatus, TaskFilter, TaskStatus
from millstream.tasks.options import check_name
from millstream.tasks.states import WAITING, TaskEvent, TaskState, follow

_LATELY_US = 60_000_000
_STARTABLE = (TaskState.SCHEDULED, TaskState.RETRYING)
_ENDED_BADLY = (TaskState.FAILED, TaskState.REVOKED)


class LocalTaskControl:
    """Any thread."""

    def __init__(self, store: Store) -> None:
        """Use an open store."""
        self._store = store

    def revoke(self, task_ids: Sequence[str], *, reason: str, terminate: bool = False) -> int:
        """Revoke what waits, mark what runs. See ``TaskControl``."""
        changed = self._change(
            task_ids, lambda tx, one: _revoke(tx, one, reason, terminate=terminate)
        )
        reach("task.revoked")
        return changed

    def requeue(self, task_ids: Sequence[str]) -> int:
        """Queue again what has failed or was revoked, and what waits for a time."""
        changed = self._change(task_ids, _requeue)
        reach("task.requeued")
        return changed

    def forget(self, task_id: str) -> bool:
        """Delete a task that has ended."""
        return bool(self._store.write(lambda tx: tx.run("tasks/forget", (task_id,))))

    def arguments(self, task_id: str) -> bytes | None:
        """Return the stored arguments of a call."""
        with self._store.read() as snapshot:
            found = snapshot.run("tasks/arguments", (task_id,))
        return found[0][0] if found else None

    def progress(self, task_id: str) -> Progress | None:
        """Return what a running task last told."""
        with self._store.read() as snapshot:
            found = snapshot.run("tasks/progress", (task_id,))
        if not found:
            return None
        state, updated_us, meta = found[0]
        return Progress(state=state, meta=meta, updated_us=updated_us)

    def tasks(self, chosen: TaskFilter, *, tasks_max: int) -> list[TaskStatus]:
        """Return up to so many tasks, the youngest first."""
        _check_count(tasks_max)
        with self._store.read() as snapshot:
            found = snapshot.run("tasks/chosen", {**_params(chosen), "tasks_max": tasks_max})
            return [status_from(snapshot, row[14], row) for row in found]

    def ids(self, chosen: TaskFilter, *, tasks_max: int) -> list[str]:
        """Return the ids of up to so many tasks, the oldest first."""
        _check_count(tasks_max)
        with self._store.read() as snapshot:
            params = {**_params(chosen), "after": 0, "tasks_max": tasks_max}
            return [task_id for _, task_id in snapshot.run("tasks/chosen_ids", params)]

    def purge(self, chosen: TaskFilter) -> int:
        """Delete tasks that do not run."""
        params = {**_params(chosen), "after": 0, "tasks_max": CHANGED_TASKS_MAX}
        purged = 0
        while True:
            with self._store.read() as snapshot:
                found = snapshot.run("tasks/chosen_ids", params)
            if not found:
                return purged
            purged += self._store.write(partial(_purge, [seq for seq, _ in found]))
            reach("task.purged")
            params["after"] = found[-1][0]

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from a queue."""
        check_name("queue", queue)
        self._store.write(lambda tx: tx.run("tasks/pause", (queue, tx.now_us)))
        reach("task.paused")

    def resume(self, queue: str) -> bool:
        """Let tasks of the queue be claimed again."""

        def work(tx: Transaction) -> bool:
            tx.wake(rows.queue_channel(queue))
            return bool(tx.run("tasks/resume", (queue,)))

        resumed = self._store.write(work)
        reach("task.resumed")
        return resumed

    def queues(self) -> list[QueueStatus]:
        """Return every queue that holds tasks or is paused."""
        since = {"since_us": self._store.clock.now_us() - _LATELY_US}
        with self._store.read() as snapshot:
            counted = snapshot.run("tasks/depth_of_each", since)
            paused: dict[str, int] = dict(snapshot.run("tasks/pauses"))
        depth: dict[str, dict[TaskState, int]] = defaultdict(dict)
        lately: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        oldest: dict[str, int] = {}
        for queue, state, count, least_due_us, enqueued, finished in counted:
            depth[queue][TaskState(state)] = count
            before = lately[queue]
            lately[queue] = (before[0] + enqueued, before[1] + finished)
            if state == TaskState.QUEUED:
                oldest[queue] = least_due_us
        return [
            QueueStatus(
                name=name,
                depth=depth.get(name, {}),
                paused_us=paused.get(name),
                oldest_us=oldest.get(name),
                enqueued_lately=lately[name][0],
                finished_lately=lately[name][1],
            )
            for name in sorted({*depth, *paused})
        ]

    def _change(self, task_ids: Sequence[str], change: Callable[[Transaction, str], bool]) -> int:
        changed = 0
        for some in _in_parts(task_ids):
            changed += self._store.write(partial(_change_some, change, some))
        return changed


def _change_some(
    change: Callable[[Transaction, str], bool], task_ids: Sequence[str], tx: Transaction
) -> int:
    return sum(change(tx, one) for one in task_ids)


def _in_parts(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(task_ids), CHANGED_TASKS_MAX):
        yield task_ids[start : start + CHANGED_TASKS_MAX]


def _revoke(tx: Transaction, task_id: str, reason: str, *, terminate: bool) -> bool:
    found = tx.run("tasks/of_id", (task_id,))
    if not found:
        return False
    seq, state, _, lease, lock_key, limit_key = found[0]
    if state in WAITING:
        event = TaskEvent.REVOKE
        rows.withdraw(tx, seq, task_id, before=TaskState(state), event=event, reason=reason)
        for key in keys_of(lock_key, limit_key):
            let_in(tx, key)
        return True
    if state == TaskState.RUNNING:
        tx.run("tasks/mark_revoked", (reason, terminate, seq))
        tx.wake(lease_channel(lease))
        return True
    return False


def _requeue(tx: Transaction, task_id: str) -> bool:
    found = tx.run("tasks/of_id", (task_id,))
    if not found:
        return False
    seq, state, queue, *_ = found[0]
    if state in _ENDED_BADLY:
        after = follow(TaskState(state), TaskEvent.REQUEUE)
        tx.run("tasks/requeue", (after, tx.now_us, seq))
    elif state in _STARTABLE:
        tx.run("tasks/hurry", (follow(TaskState(state), TaskEvent.DUE), tx.now_us, seq))
    else:
        return False
    tx.wake(rows.queue_channel(queue))
    return True


def _purge(seqs: Sequence[int], tx: Transaction) -> int:
    gone = [row for seq in seqs for row in tx.run("tasks/purge", (seq,))]
    for task_id, state, *_ in gone:
        tx.wake(rows.task_channel(task_id))
        if state in WAITING:
            rows.fail_step(tx, task_id, "it was purged")
    for key in {key for _, _, *keys in gone for key in keys_of(*keys)}:
        let_in(tx, key)
    return len(gone)


def _params(chosen: TaskFilter) -> dict[str, object]:
    return {
        "state": chosen.state,
        "queue": chosen.queue,
        "name": chosen.name,
        "before_us": chosen.enqueued_before_us,
    }


def _check_count(tasks_max: int) -> None:
    if not 1 <= tasks_max <= LISTED_TASKS_MAX:
        raise ConfigurationError(
            f"{tasks_max!r} tasks in one list", expected=f"1 to {LISTED_TASKS_MAX:,}"
        )
