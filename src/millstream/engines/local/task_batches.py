"""Batches inside one transaction: which calls a worker takes at once, and which wait for others of their batch.

A claim that meets a call of a batch looks for others of it, in the queue and among those that wait. If they are enough,
or the oldest has waited for long enough, it takes them all, and nothing else. If not they are *blocked*, out of the way
of those behind them, until the time of the oldest; every new one lets the claim look again.

    queued ─ claim ─> enough, or ripe ──────────────> running, all of them in this transaction
                 └──> blocked at "batch:queue,name" ─ opens_us ─> queued, and ripe

Whoever comes after ``opens_us`` queues them again, also a worker whose release knows no batch of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from millstream.engines.local.task_gates import open_all
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.transaction import Transaction
from millstream.tasks.batch import Batch, batch_key
from millstream.tasks.limits import BATCH_SEARCHED_TASKS_MAX
from millstream.tasks.message import Lease
from millstream.tasks.states import TaskEvent, TaskState, follow

_BLOCKED = follow(TaskState.QUEUED, TaskEvent.BLOCK)
Heads = Callable[[], list[Row]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a claim takes: single tasks, or the calls of one batch."""

    rows: Sequence[Row]
    is_batch: bool


def choose(tx: Transaction, lease: Lease, heads: Heads) -> Choice:
    """Return what comes first of the queues: tasks up to the next batch that is ripe, or that batch."""
    while True:
        single: list[Row] = []
        waiting: set[str] = set()
        for row in heads():
            batch = lease.batches.get(row[9])
            # A call that a worker may have died of is run without others, and waits for none.
            if batch is None or row[2]:
                single.append(row)
                continue
            gathering = _Gathering(tx, batch, queue=row[16], name=row[9])
            if gathering.key in waiting:
                continue
            if not gathering.is_ripe:
                gathering.wait()
                waiting.add(gathering.key)
            elif single:
                break  # They were sent before it; it is the next to be claimed.
            else:
                return Choice(gathering.take(), is_batch=True)
        if single or not waiting:
            return Choice(single, is_batch=False)


class _Gathering:
    """The calls of one task in one queue."""

    def __init__(self, tx: Transaction, batch: Batch, *, queue: str, name: str) -> None:
        self._tx = tx
        self._batch = batch
        self._queue = queue
        self.key = batch_key(queue, name)
        self._params = {
            "key": self.key,
            "queue": queue,
            "name": name,
            "tasks_max": batch.max,
            "searched_max": BATCH_SEARCHED_TASKS_MAX,
        }
        waiting: tuple[int, int | None] = tx.run("tasks/batch_waiting", self._params)[0]
        self._waiting, self._opens_us = waiting
        self._queued: list[tuple[int, int]] = tx.run("tasks/batch_queued", self._params)

    @property
    def is_ripe(self) -> bool:
        now_us = self._tx.now_us
        if self._waiting + len(self._queued) >= self._batch.max:
            return True
        return any(self._batch.has_waited(due_us, now_us) for _, due_us in self._queued)

    def take(self) -> Sequence[Row]:
        rows = self._tx.run("tasks/batch_calls", self._params)
        if self._waiting:
            open_all(self._tx, self.key)
        reach("task.gathered")
        return rows

    def wait(self) -> None:
        self._tx.many("tasks/block", [(_BLOCKED, self.key, seq) for seq, _ in self._queued])
        oldest_us = min(due_us for _, due_us in self._queued)
        opens_us = oldest_us + self._batch.wait_us
        if self._opens_us is None or opens_us < self._opens_us:
            self._tx.run("tasks/set_ripening", {"key": self.key, "opens_us": opens_us})
            # The others look again when it is time: this worker may have more to do than to wait for it.
            self._tx.wake(f"tasks:{self._queue}")
        reach("task.gathering")
