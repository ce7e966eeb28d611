"""Schedules in the store's catalog, and the thread of each worker that runs them.

One transaction enqueues the runs of a schedule and moves it on to its next due time, on condition that nobody else has
done so. That condition alone makes two runs of one due time impossible, whoever does it and however often; the duty is
only there so that one process does the work and not all.

    holder      has the lock ``run/schedules.lock``; sleeps until the next due time, or until a change wakes it
    stand-ins   sleep ``STAND_IN_US`` longer, and do what the holder has not done: it may be stopped, or hang
    holder dies the kernel frees the lock; a stand-in takes it within a second
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from millstream.engines.local import task_transactions
from millstream.primitives.errors import (
    ConfigurationError,
    MillstreamError,
    StoreClosed,
    StoreStopped,
    UnknownTask,
)
from millstream.primitives.identity import new_id
from millstream.primitives.limits import WAIT_FALLBACK_S
from millstream.primitives.schedule_times import Once, Times, first_due
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.locks import FileLock
from millstream.store.signals import Waiter
from millstream.store.store import Store
from millstream.store.transaction import Transaction
from millstream.tasks.message import TaskMessage
from millstream.tasks.schedule import (
    ScheduleSpec,
    ScheduleStatus,
    Synchronised,
    message_at,
    run_id,
)
from millstream.tasks.schedule_missed import Firing, Missed, firing

CHANNEL = "schedules"
STAND_IN_US = 2_000_000
"""How late a run may be before another process than the holder of the duty enqueues it."""
SCHEDULES_PER_LOOK_MAX = 100
"""Schedules that are run in one look; more take several."""
_times_decoder = msgspec.json.Decoder(Times)
_message_decoder = msgspec.msgpack.Decoder(TaskMessage)
_CATALOG_ERRORS = (msgspec.MsgspecError, ConfigurationError)


@dataclass(frozen=True, slots=True)
class _Stored:
    """One row."""

    name: str
    owner: str | None
    times: str
    missed: str
    task: str
    queue: str
    anchor_us: int
    next_us: int | None
    last_us: int | None
    runs: int
    skipped: int
    paused_us: int | None
    why: str | None
    retired_us: int | None
    message: bytes


class LocalSchedules:
    """The ``ScheduleEngine`` of one store. Any thread."""

    def __init__(self, store: Store) -> None:
        """Use an open store; closing it is the caller's."""
        self._store = store

    # What is scheduled

    def synchronise(self, owner: str, specs: Sequence[ScheduleSpec]) -> Synchronised:
        """Make the schedules of ``owner`` those; others of it are retired. One commit, or none if nothing changes."""
        rows = [_row_of(owner, spec) for spec in specs]
        with self._store.read() as snapshot:
            known = {row[0]: _Stored(*row) for row in snapshot.run("schedules/all")}
        if not _differences(owner, rows, known):
            return Synchronised()

        def work(tx: Transaction) -> Synchronised:
            known = {row[0]: _Stored(*row) for row in tx.run("schedules/all")}
            differences = _differences(owner, rows, known)
            changed = {*differences.added, *differences.changed}
            for row in rows:
                if row.name in changed:
                    _put(tx, row, known.get(row.name))
            tx.many("schedules/retire", [(tx.now_us, name) for name in differences.retired])
            tx.wake(CHANNEL)
            return differences

        done = self._store.write(work)
        reach("schedule.synchronised")
        return done

    def store(self, spec: ScheduleSpec) -> None:
        """Store one schedule that no app declares; durable when this returns."""
        row = _row_of(None, spec)

        def work(tx: Transaction) -> None:
            known = _find(tx, spec.name)
            _refuse_foreign(None, known)
            _put(tx, row, known)
            tx.wake(CHANNEL)

        self._store.write(work)

    def list(self) -> list[ScheduleStatus]:
        """Return all schedules by name."""
        with self._store.read() as snapshot:
            return [_status(_Stored(*row)) for row in snapshot.run("schedules/all")]

    def pause(self, name: str) -> None:
        """Let it not run until it is resumed. Raises UnknownTask."""
        params = {"now_us": self._store.clock.now_us(), "name": name, "why": None}
        if not self._store.write(lambda tx: tx.run("schedules/pause", params)):
            raise _unknown(name)

    def resume(self, name: str) -> None:
        """Let it run again, from the first due time after now. Raises UnknownTask."""

        def work(tx: Transaction) -> None:
            known = _known(tx, name)
            times = _times_decoder.decode(known.times)
            next_us = first_due(times, tx.now_us, anchor_us=known.anchor_us)
            tx.run("schedules/resume", {"next_us": next_us, "name": name})
            tx.wake(CHANNEL)

        self._store.write(work)

    def trigger(self, name: str) -> str:
        """Send its call now, beside its times; return the id of the task. Raises UnknownTask."""
        task_id = new_id(self._store.clock)

        def work(tx: Transaction) -> None:
            message = _message_decoder.decode(_known(tx, name).message)
            task_transactions.enqueue(tx, [message_at(message, tx.now_us, task_id=task_id)])

        self._store.write(work)
        return task_id

    def remove(self, name: str) -> None:
        """Forget it. Raises UnknownTask."""
        if not self._store.write(lambda tx: tx.run("schedules/remove", (name,))):
            raise _unknown(name)

    # Running it

    def next_due_us(self) -> int | None:
        """Return when the next schedule is due."""
        with self._store.read() as snapshot:
            next_us: int | None = snapshot.run("schedules/next_due")[0][0]
        return next_us

    def run_due(self) -> int:
        """Enqueue what is due now, each schedule in a commit of its own; return how many runs that were.

        A schedule that cannot be read here (its zone is not known on this machine) is paused, and says why.
        """
        now_us = self._store.clock.now_us()
        params = {"now_us": now_us, "schedules_max": SCHEDULES_PER_LOOK_MAX}
        with self._store.read() as snapshot:
            due = [_Stored(*row) for row in snapshot.run("schedules/due", params)]
        return sum(self._run_one(schedule, now_us) for schedule in due)

    def _run_one(self, schedule: _Stored, now_us: int) -> int:
        assert schedule.next_us is not None
        try:
            message = _message_decoder.decode(schedule.message)
            # Decided before the transaction, which has to be short.
            decided = firing(
                _times_decoder.decode(schedule.times),
                Missed(schedule.missed),
                next_us=schedule.next_us,
                anchor_us=schedule.anchor_us,
                now_us=now_us,
            )
        except _CATALOG_ERRORS as error:
            params = {"now_us": now_us, "name": schedule.name, "why": str(error)}
            self._store.write(lambda tx: tx.run("schedules/pause", params))
            return 0
        reach("schedule.decided")
        runs = self._store.write(lambda tx: _fire(tx, schedule, message, decided))
        reach("schedule.fired")
        return runs


def _fire(tx: Transaction, schedule: _Stored, message: TaskMessage, decided: Firing) -> int:
    """Move the schedule on and enqueue its runs, unless somebody else was faster or has changed it."""
    params = {
        "name": schedule.name,
        "was_us": schedule.next_us,
        "times": schedule.times,
        "message": schedule.message,
        "next_us": decided.next_us,
        "last_us": decided.runs[-1] if decided.runs else None,
        "runs": len(decided.runs),
        "skipped": decided.passed_over,
    }
    if not tx.run("schedules/fire", params):
        return 0
    reach("schedule.moved")
    runs = [
        message_at(message, tx.now_us, task_id=run_id(schedule.name, due_us))
        for due_us in decided.runs
    ]
    if runs:
        task_transactions.enqueue(tx, runs)
    return len(runs)


class ScheduleDuty:
    """The thread of one worker that runs schedules while it holds the duty, and stands in otherwise."""

    def __init__(self, store: Store, *, report: Callable[[str], None]) -> None:
        """Nothing happens before ``start``. ``report`` is told of errors, each a line."""
        self._store = store
        self._schedules = LocalSchedules(store)
        self._report = report
        self._stopping = threading.Event()
        self._waiter: Waiter | None = None
        self._thread = threading.Thread(target=self._run, name="millstream-schedules", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._waiter = self._store.waiter(CHANNEL)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; another process takes the duty over."""
        self._stopping.set()
        if self._waiter is not None:
            self._waiter.interrupt()
            self._thread.join()
            self._waiter.close()

    def __enter__(self) -> ScheduleDuty:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        waiter = self._waiter
        assert waiter is not None
        lock = FileLock(self._store.directory.run / "schedules.lock")
        holds = False
        try:
            while not self._stopping.is_set():
                holds = holds or lock.try_acquire()
                try:
                    self._look(waiter, holds=holds)
                except (StoreClosed, StoreStopped) as error:
                    self._report(f"schedules: {error}")
                    return  # The worker itself ends of the same error.
                except MillstreamError as error:
                    self._report(f"schedules: {error}")
                    self._stopping.wait(WAIT_FALLBACK_S)
        finally:
            lock.close()

    def _look(self, waiter: Waiter, *, holds: bool) -> None:
        """Run what is due; or sleep until something is, or a change wakes us."""
        waiter.arm()
        next_us = self._schedules.next_due_us()
        late_us = 0 if holds else STAND_IN_US
        left_us = None if next_us is None else next_us + late_us - self._store.clock.now_us()
        if left_us is None or left_us > 0:
            # At most a second, so a clock that was set meanwhile, or a duty that became free, is noticed.
            waiter.wait(None if left_us is None else left_us / 1_000_000)
        else:
            self._schedules.run_due()


def _row_of(owner: str | None, spec: ScheduleSpec) -> _Stored:
    # The id is chosen at each run: one that is drawn here would make every declaration a change.
    message = msgspec.structs.replace(spec.message, id="")
    return _Stored(
        name=spec.name,
        owner=owner,
        times=msgspec.json.encode(spec.times).decode(),
        missed=spec.missed,
        task=spec.message.name,
        queue=spec.message.queue,
        anchor_us=0,
        next_us=None,
        last_us=None,
        runs=0,
        skipped=0,
        paused_us=None,
        why=None,
        retired_us=None,
        message=msgspec.msgpack.encode(message),
    )


def _differences(owner: str, rows: Sequence[_Stored], known: dict[str, _Stored]) -> Synchronised:
    added, changed = [], []
    for row in rows:
        stored = known.get(row.name)
        _refuse_foreign(owner, stored)
        if stored is None:
            added.append(row.name)
        elif stored.retired_us is not None or _said(stored) != _said(row):
            changed.append(row.name)
    declared = {row.name for row in rows}
    retired = [
        name
        for name, stored in known.items()
        if stored.owner == owner and name not in declared and stored.retired_us is None
    ]
    return Synchronised(tuple(added), tuple(changed), tuple(retired))


def _said(row: _Stored) -> tuple[object, ...]:
    return row.owner, row.times, row.missed, row.message


def _put(tx: Transaction, row: _Stored, known: _Stored | None) -> None:
    """Store what is said of a schedule; its place among its times stays if these stay."""
    if known is not None and known.times == row.times and known.retired_us is None:
        anchor_us, next_us = known.anchor_us, known.next_us
    else:
        times = _times_decoder.decode(row.times)
        anchor_us = tx.now_us
        # A moment that has just passed is a missed run, and not one that never comes.
        next_us = (
            times.at_us
            if isinstance(times, Once) and known is None
            else first_due(times, tx.now_us, anchor_us=anchor_us)
        )
    params = {
        "name": row.name,
        "owner": row.owner,
        "times": row.times,
        "missed": row.missed,
        "task": row.task,
        "queue": row.queue,
        "anchor_us": anchor_us,
        "next_us": next_us,
        "message": row.message,
    }
    tx.run("schedules/put", params)


def _refuse_foreign(owner: str | None, known: _Stored | None) -> None:
    if known is None or known.owner == owner or known.retired_us is not None:
        return
    raise ConfigurationError(
        f"the schedule {known.name!r} is there already",
        where="app " + repr(known.owner) if known.owner else "stored with app.schedules.store",
        expected="a name of its own for each schedule of a store",
        next_step=f"choose another name, or `millstream schedules remove {known.name}`",
    )


def _find(tx: Transaction, name: str) -> _Stored | None:
    rows: list[Row] = tx.run("schedules/get", (name,))
    return _Stored(*rows[0]) if rows else None


def _known(tx: Transaction, name: str) -> _Stored:
    found = _find(tx, name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> UnknownTask:
    return UnknownTask(
        f"there is no schedule {name!r}",
        expected="one that `millstream schedules list` shows",
        next_step="start a worker of the app that declares it",
    )


def _status(row: _Stored) -> ScheduleStatus:
    return ScheduleStatus(
        name=row.name,
        task=row.task,
        queue=row.queue,
        times=_times_decoder.decode(row.times),
        missed=Missed(row.missed),
        owner=row.owner,
        next_us=row.next_us,
        last_us=row.last_us,
        runs=row.runs,
        skipped=row.skipped,
        paused_us=row.paused_us,
        why=row.why,
        retired_us=row.retired_us,
    )
