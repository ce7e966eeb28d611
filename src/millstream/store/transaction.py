"""The one commit point, shared by threads.

``Committer.submit(work)`` runs ``work`` inside an immediate SQLite transaction. The first thread to come leads: it
takes the works of all who wait, runs each in a savepoint of its own, commits once, and lets the others return. With
durability ``disk`` each then waits for a sync that started after the commit, shared again (``sync.py``).

A kill before COMMIT: nothing happened. Between COMMIT and the sync: it happened, unacknowledged, and is lost only if
power fails. An error in one work undoes that work alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import apsw

from millstream.primitives.clock import Clock
from millstream.primitives.errors import MillstreamError, StoreStopped
from millstream.primitives.limits import GROUP_COMMIT_WORKS_MAX
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Parameters, Row, from_sqlite, statement
from millstream.store.locks import FileLock
from millstream.store.signals import Signals, channel_bit
from millstream.store.sync import Sync

T = TypeVar("T")


class Snapshot:
    """A consistent view: statements by the names of their files."""

    __slots__ = ("_connection",)

    def __init__(self, connection: apsw.Connection) -> None:
        """Wrap a connection inside a transaction."""
        self._connection = connection

    def run(self, name: str, params: Parameters = ()) -> list[Row]:
        """Run ``sql/<name>.sql`` and return all its rows."""
        return self._connection.execute(statement(name), params).fetchall()


class Transaction(Snapshot):
    """The transaction of the commit point. Valid only inside the function it is given to."""

    __slots__ = ("_mask", "now_us")

    def __init__(self, connection: apsw.Connection, now_us: int) -> None:
        """Made by the committer."""
        super().__init__(connection)
        self.now_us = now_us
        self._mask = 0

    def many(self, name: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each row of parameters."""
        self._connection.executemany(statement(name), rows)

    def wake(self, channel: str) -> None:
        """After the commit, wake whoever waits for the channel, in every process."""
        self._mask |= channel_bit(channel)

    @property
    def wakes(self) -> int:
        """The channels to wake, as bits."""
        return self._mask


class _Work(Generic[T]):
    __slots__ = ("done", "error", "result", "ticket", "work")

    def __init__(self, work: Callable[[Transaction], T]) -> None:
        self.work = work
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ticket = 0


class Committer:
    """Runs works in transactions on one writing connection. Thread-safe; not reentrant."""

    def __init__(
        self,
        connection: apsw.Connection,
        lock: FileLock,
        *,
        sync: Sync,
        signals: Signals,
        clock: Clock,
        committed: Callable[[], None],
        where: str,
    ) -> None:
        """``lock`` lets the processes queue for SQLite's write lock instead of polling for it."""
        self._connection = connection
        self._lock = lock
        self._sync = sync
        self._signals = signals
        self._clock = clock
        self._committed = committed
        self._where = where
        self._leader = threading.Lock()
        self._leading: int | None = None
        self._queue: list[_Work[Any]] = []
        self._queue_lock = threading.Lock()
        self._stopped: MillstreamError | None = None

    def submit(self, work: Callable[[Transaction], T], *, to_disk: bool) -> T:
        """Run ``work`` in a transaction and return its result when it is as durable as asked."""
        if self._leading == threading.get_ident():
            raise RuntimeError("a transaction cannot be started inside another one")
        entry = _Work(work)
        with self._queue_lock:
            self._queue.append(entry)
        with self._leader:
            while not entry.done:
                self._lead()
        if entry.error is not None:
            raise entry.error
        if to_disk:
            self._sync.ensure(entry.ticket)
            reach("commit.synced")
        result: T = entry.result  # type: ignore[assignment]  # set when done without an error
        return result

    def stop(self, error: MillstreamError) -> None:
        """Refuse every write from now on: after a failed sync nothing may be acknowledged."""
        if self._stopped is None:
            self._stopped = error

    @property
    def stopped(self) -> MillstreamError | None:
        """Why this process must not write any more, if so."""
        return self._stopped

    def exclusive(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run ``work`` on the connection while no process writes and outside a transaction (checkpoints)."""
        with self._leader, self._lock:
            self.refuse_stopped()
            return work(self._connection)

    def refuse_stopped(self) -> None:
        """Raise StoreStopped if this process must not write any more."""
        if self._stopped is not None:
            raise self._refusal()

    def _lead(self) -> None:
        with self._queue_lock:
            works = self._queue[:GROUP_COMMIT_WORKS_MAX]
            del self._queue[:GROUP_COMMIT_WORKS_MAX]
        self._leading = threading.get_ident()
        try:
            self.refuse_stopped()
            with self._lock:
                self._commit(works)
        except BaseException as error:
            self._fail(works, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._leading = None
            for entry in works:
                entry.done = True

    def _fail(self, works: list[_Work[Any]], error: BaseException) -> None:
        ours = from_sqlite(error, self._where) if isinstance(error, apsw.Error) else error
        if ours is not error:
            ours.__cause__ = error
        if type(ours) is StoreStopped:
            self.stop(ours)
        for entry in works:
            if entry.error is None:
                entry.error = ours

    def _refusal(self) -> StoreStopped:
        assert self._stopped is not None
        return StoreStopped(
            "this process stopped writing after an error of the disk",
            where=self._where,
            expected=str(self._stopped),
            next_step="open the store again, best in a new process; it recovers to the last commit",
        )

    def _commit(self, works: list[_Work[Any]]) -> None:
        connection = self._connection
        transaction = Transaction(connection, self._clock.now_us())
        connection.execute("BEGIN IMMEDIATE")
        try:
            if len(works) == 1:
                works[0].result = works[0].work(transaction)
            else:
                for entry in works:
                    self._run_in_savepoint(entry, transaction)
            reach("commit.before")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        reach("commit.visible")
        self._committed()
        ticket = self._sync.ticket()
        for entry in works:
            entry.ticket = ticket
        if transaction.wakes:
            self._signals.wake(transaction.wakes)

    def _run_in_savepoint(self, entry: _Work[Any], transaction: Transaction) -> None:
        connection = self._connection
        connection.execute("SAVEPOINT work")
        try:
            entry.result = entry.work(transaction)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError):
            raise  # the whole transaction is at stake
        except Exception as error:  # noqa: BLE001 - it reaches the caller of this work
            connection.execute("ROLLBACK TO work")
            entry.error = (
                from_sqlite(error, self._where) if isinstance(error, apsw.Error) else error
            )
        connection.execute("RELEASE work")
