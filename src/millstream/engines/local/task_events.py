"""``TaskEvents`` of one store: triggers of the catalog write a row for each change of a task's state.

A trigger sees every change, whoever makes it, inside the same transaction, and costs nothing while it is not there. It
asks the transaction for its time and lets it wake the followers, by the functions ``tx_now_us`` and ``tx_wake`` (see
``store/transaction.py``). At most ``EVENTS_KEPT_MAX`` changes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.store import Store
from millstream.store.transaction import Snapshot, Transaction
from millstream.tasks.events import TaskChange
from millstream.tasks.limits import EVENTS_KEPT_MAX, EVENTS_PRUNED_AT, EVENTS_READ_MAX
from millstream.tasks.states import TaskState

CHANNEL = "task-events"
"""Wakes the followers; the triggers name it too."""
_TRIGGERS = ("events/on_insert", "events/on_change", "events/on_delete")


def are_too_many(snapshot: Snapshot) -> bool:
    """Tell whether it is time to remove the oldest changes."""
    return bool(snapshot.run("events/is_full", (EVENTS_KEPT_MAX + EVENTS_PRUNED_AT,))[0][0])


def prune(tx: Transaction) -> None:
    """Remove the oldest changes beyond those that are kept."""
    tx.run("events/prune", (EVENTS_KEPT_MAX,))


class LocalTaskEvents:
    """Any thread."""

    def __init__(self, store: Store) -> None:
        """Use an open store."""
        self._store = store

    @property
    def is_enabled(self) -> bool:
        """Whether changes are recorded."""
        with self._store.read() as snapshot:
            return _is_enabled(snapshot)

    def enable(self) -> bool:
        """Record changes from now on. See ``TaskEvents``."""

        def work(tx: Transaction) -> bool:
            if _is_enabled(tx):
                return False
            for name in _TRIGGERS:
                tx.run(name)
            return True

        enabled = self._store.write(work)
        reach("events.enabled")
        return enabled

    def disable(self) -> bool:
        """Record no more."""

        def work(tx: Transaction) -> bool:
            was_enabled = _is_enabled(tx)
            for name in ("events/no_insert", "events/no_change", "events/no_delete"):
                tx.run(name)
            tx.wake(CHANNEL)
            return was_enabled

        return self._store.write(work)

    def follow(
        self, *, after: int | None = None, timeout_s: float | None = None
    ) -> Iterator[TaskChange]:
        """Return changes as they are committed. See ``TaskEvents``."""
        if timeout_s != 0 and not self.is_enabled:
            raise _not_enabled(self._store)
        if after is None:
            with self._store.read() as snapshot:
                after = snapshot.run("events/last")[0][0]
        return self._changes(after, timeout_s)

    def _changes(self, after: int, timeout_s: float | None) -> Iterator[TaskChange]:
        clock = self._store.clock
        with self._store.waiter(CHANNEL) as waiter:
            quiet_since_s = clock.monotonic_s()
            while True:
                waiter.arm()
                with self._store.read() as snapshot:
                    found = snapshot.run("events/read", (after, EVENTS_READ_MAX))
                for row in found:
                    yield _change(row, missed=row[0] - after - 1)
                    after = row[0]
                if found:
                    quiet_since_s = clock.monotonic_s()
                    continue
                left_s = None
                if timeout_s is not None:
                    left_s = quiet_since_s + timeout_s - clock.monotonic_s()
                    if left_s <= 0:
                        return
                if not self.is_enabled:
                    return  # Turned off while it was followed: nothing comes any more.
                waiter.wait(left_s)


def _is_enabled(snapshot: Snapshot) -> bool:
    return bool(snapshot.run("events/is_enabled")[0][0])


def _change(row: Row, *, missed: int) -> TaskChange:
    seq, at_us, task_id, name, queue, before, after, attempt, worker = row
    return TaskChange(
        seq=seq,
        at_us=at_us,
        id=task_id,
        name=name,
        queue=queue,
        before=None if before is None else TaskState(before),
        after=None if after is None else TaskState(after),
        attempt=attempt,
        worker=worker,
        missed=missed,
    )


def _not_enabled(store: Store) -> ConfigurationError:
    return ConfigurationError(
        "changes of tasks are not recorded",
        where=str(store.path),
        expected="a store in which they were turned on, since each costs a row",
        next_step="run `millstream control enable_events`, or call `app.events.enable()`",
    )
