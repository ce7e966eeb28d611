"""What becomes of the tasks of a worker that died, inside the transaction that evicts it.

the attempt it was killed for    failed with TimeLimitExceeded or MemoryLimitExceeded; what follows, its policy said
the task that ran                one death of it, see ``tasks/lease.py``
all others                       back in their queue, uncharged
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.engines.local import task_workers, task_workflows
from millstream.engines.local.task_gates import keys_of, release
from millstream.engines.local.task_transactions import (
    complete,
    enqueue,
    queue_channel,
    task_channel,
)
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.runmark import SEVERAL, Condemned, LastRun
from millstream.store.transaction import Transaction
from millstream.tasks.attempt_limits import Overrun, memory_over, time_over
from millstream.tasks.lease import Orphan, fate_of, sighting_of
from millstream.tasks.message import Claimed, Lease, Outcome, Raised
from millstream.tasks.states import TaskState, follow
from millstream.tasks.workflow_plan import NodeError


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that died."""

    lease: int
    worker: str
    beats: int
    """Its signs of life as the looker saw them: one more since then, and it lives."""
    why: str
    """Why we think so, in words for the error of its tasks."""
    last_run: LastRun


def evict(tx: Transaction, death: Death) -> tuple[int, int] | None:
    """Take everything from a dead worker; return how many tasks went back and how many were failed.

    None when another worker was faster, or it has shown a sign of life.
    """
    if not tx.run("tasks/evict", (death.lease, death.beats)):
        return None
    rows = tx.run("tasks/orphans", (death.lease,))
    failed = 0
    left: list[Row] = []
    for row in rows:
        condemned = death.last_run.condemned
        # Nothing is held beside a batch, so SEVERAL are all that are held.
        if condemned is not None and condemned.seq in {row[0], SEVERAL}:
            failed += _end_condemned(tx, death, condemned, row)
        else:
            left.append(row)
    failed += sum(_recover(tx, death, row, sole=len(rows) == 1) for row in left)
    release(tx, [(row[0], keys_of(*row[10:])) for row in left])
    tx.wake(task_workers.CHANNEL)
    reach("task.recovering")
    return len(rows) - failed, failed


def _end_condemned(tx: Transaction, death: Death, condemned: Condemned, row: Row) -> bool:
    """Let the attempt fail for whose sake the process was killed; tell whether it was the last."""
    seq, task_id, queue, failures, deaths, _, due_us, attempts_before, _, name = row[:10]
    bound = condemned.bound
    if condemned.cause == Overrun.MEMORY:
        error, delay_us = (
            memory_over(bound.memory_bytes, condemned.seen_bytes),
            bound.after_memory_us,
        )
    else:
        error, delay_us = time_over(bound.hard_us), bound.after_time_us
    task = Claimed(
        seq=seq,
        id=task_id,
        name=name,
        arguments=b"",
        attempt=attempts_before + failures + deaths + 1,
        failures=failures,
        enqueued_us=due_us,
        due_us=due_us,
        eta_us=None,
        queue=queue,
        gates=keys_of(*row[10:]),
    )
    ended = Raised(
        task, type(error).__name__, str(error), "", delay_us, bound.started_us, tx.now_us
    )
    complete(tx, Lease(death.lease, death.worker, ()), [ended])
    return delay_us is None


def _recover(tx: Transaction, death: Death, row: Row, *, sole: bool) -> bool:
    """Return a task to its queue, or give it up; tell whether it was given up."""
    seq, task_id, queue, failures, deaths, acks_late, due_us, attempts_before, alone = row[:9]
    orphan = Orphan(
        seq=seq,
        deaths=deaths,
        sole=sole,
        suspected=bool(alone),
        acks_late=bool(acks_late),
        sighting=sighting_of(seq, death.last_run.seq),
    )
    fate = fate_of(orphan)
    if fate.charged:
        number = attempts_before + failures + deaths + 1
        _store_death(tx, death, seq=seq, number=number, started_us=min(due_us, tx.now_us))
    state = follow(TaskState.RUNNING, fate.event)
    if state is not TaskState.FAILED:
        tx.run("tasks/return_orphan", (state, fate.suspected, int(fate.charged), seq, death.lease))
        tx.wake(queue_channel(queue))
        return False
    tx.run("tasks/abandon", (state, tx.now_us, seq, death.lease))
    tx.wake(task_channel(task_id))
    if task_workflows.is_step(task_id):
        error = NodeError(task_id, "", "WorkerDied", death.why, "")
        task_workflows.failed(tx, task_id, error, enqueue)
    return True


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
