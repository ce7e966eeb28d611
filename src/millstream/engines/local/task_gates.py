"""Locks and limits inside one transaction: who of the claimed is let in, and who of the blocked is let out.

A task that finds its gate closed is *blocked*: it leaves the index that claims read, so that those behind it are
claimed at once. What it waits for is one of four things, and each lets it out again:

    the gate is full             whoever ends, hands back or recovers a task of that gate calls ``release``
    the rate allows no start     ``opens_us`` of the limit; a worker wakes then and calls ``open_due``
    its batch is not full        ``opens_us`` as well, see ``task_batches``
    one let in before it         is queued; the claim or the revocation of that one goes on from there

``let_in`` lets in as many as there is room for now, so it may be called once too often, and never once too few.
"""

from __future__ import annotations

from collections.abc import Iterable

from millstream.primitives.telemetry import reach
from millstream.store.transaction import Transaction
from millstream.tasks.batch import BATCH_PREFIX
from millstream.tasks.gates import LOCK_PREFIX, Limit, after_start, next_start_us, starts_allowed
from millstream.tasks.limits import DUE_TASKS_MAX
from millstream.tasks.states import TaskEvent, TaskState, follow

_BLOCKED = follow(TaskState.QUEUED, TaskEvent.BLOCK)
_OPENED = follow(TaskState.BLOCKED, TaskEvent.OPEN)


class _Gate:
    """What one lock or limit has room for; ``room`` falls with each that enters."""

    __slots__ = ("counts", "interval_us", "key", "next_us", "opens_us", "room", "started")

    def __init__(self, tx: Transaction, key: str) -> None:
        self.key = key
        self.started = 0
        self.counts = True
        """Whether those that run at once are counted."""
        self.interval_us: int | None = None
        self.next_us = 0
        self.opens_us: int | None = None
        held: int = tx.run("tasks/count_holders", (key,))[0][0]
        if key.startswith(LOCK_PREFIX):
            self.room = 1 - held
            return
        [(concurrency, self.interval_us, self.next_us, self.opens_us)] = tx.run(
            "tasks/limit", (key,)
        )
        self.room = DUE_TASKS_MAX
        self.counts = concurrency is not None
        if concurrency is not None:
            self.room = concurrency - held
        if self.interval_us is not None:
            self.next_us = next_start_us(
                self.next_us, interval_us=self.interval_us, now_us=tx.now_us
            )
            allowed = starts_allowed(
                next_us=self.next_us, interval_us=self.interval_us, now_us=tx.now_us
            )
            self.room = min(self.room, allowed)

    @property
    def is_closed(self) -> bool:
        """One claim takes one task of a gate that counts: a worker runs one at a time, the others are for others."""
        return self.room <= 0 or (self.counts and self.started > 0)

    def enter(self, now_us: int) -> None:
        self.room -= 1
        self.started += 1
        if self.interval_us is not None:
            self.next_us = after_start(
                next_us=self.next_us, interval_us=self.interval_us, now_us=now_us
            )


class Gates:
    """The gates that one claim meets."""

    def __init__(self, tx: Transaction) -> None:
        """Read each gate when it is met."""
        self._tx = tx
        self._gates: dict[str, _Gate] = {}

    def admit(self, seq: int, keys: Iterable[str]) -> bool:
        """Let a task in, or block it at the first of its gates that is closed."""
        met = [self._gate(key) for key in keys]
        closed = next((gate for gate in met if gate.is_closed), None)
        if closed is not None:
            self._tx.run("tasks/block", (_BLOCKED, closed.key, seq))
            return False
        for gate in met:
            gate.enter(self._tx.now_us)
            self._tx.run("tasks/hold", (gate.key, seq))
        return True

    def touch(self, key: str) -> None:
        """Look at a gate at the end: the task that it was opened for will not come."""
        self._gate(key)

    def close(self) -> None:
        """Store what the rates allow next, and let others in where there is room left; after the claim is written."""
        for gate in self._gates.values():
            if gate.started and gate.interval_us is not None:
                self._tx.run("tasks/set_next_start", (gate.next_us, gate.key))
            let_in(self._tx, gate.key)

    def _gate(self, key: str) -> _Gate:
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(self._tx, key)
        return gate


def let_in(tx: Transaction, key: str) -> None:
    """Queue as many of those who wait at a gate as there is room for; remember when a rate opens it next."""
    if not tx.run("tasks/has_waiting_at_gate", (key,))[0][0]:
        return
    gate = _Gate(tx, key)
    if gate.room > 0:
        _wake(tx, {row[0] for row in tx.run("tasks/open_gate", (_OPENED, key, gate.room))})
        reach("task.opened")
    elif gate.next_us > tx.now_us and gate.opens_us != gate.next_us:
        tx.run("tasks/set_opening", (gate.next_us, key))


def release(tx: Transaction, held: Iterable[tuple[int, tuple[str, ...]]]) -> None:
    """Take tasks that do not run any more from their gates, and let others in."""
    keys: set[str] = set()
    for seq, gates in held:
        for key in gates:
            tx.run("tasks/release", (key, seq))
            keys.add(key)
    for key in sorted(keys):
        let_in(tx, key)


def open_due(tx: Transaction) -> None:
    """Let in those whose rate allows a start by now, and those who need not wait for others of their batch."""
    for (key,) in tx.run("tasks/openings", {"now_us": tx.now_us, "limits_max": DUE_TASKS_MAX}):
        if key.startswith(BATCH_PREFIX):
            _wake(tx, open_all(tx, key))
            continue
        tx.run("tasks/set_opening", (None, key))
        let_in(tx, key)


def open_all(tx: Transaction, key: str) -> set[str]:
    """Queue all who wait for others of their batch, and return their queue. A gate of a batch is gone with that."""
    tx.run("tasks/drop_ripening", (key,))
    return {row[0] for row in tx.run("tasks/open_gate", (_OPENED, key, DUE_TASKS_MAX))}


def set_limits(tx: Transaction, limits: Iterable[Limit]) -> None:
    """Store limits as the sender's release declares them; a wider one lets in who waits."""
    for limit in limits:
        tx.run("tasks/set_limit", (limit.key, limit.concurrency, limit.interval_us))
        let_in(tx, limit.key)


def keys_of(lock_key: str | None, limit_key: str | None) -> tuple[str, ...]:
    """Return the gates of a task."""
    return tuple(key for key in (lock_key, limit_key) if key is not None)


def _wake(tx: Transaction, queues: Iterable[str]) -> None:
    for queue in queues:
        tx.wake(f"tasks:{queue}")
