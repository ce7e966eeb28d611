"""The one commit point, shared by threads.

``Committer.submit(work)`` runs ``work`` inside an immediate SQLite transaction. A thread that finds nobody at work
leads: it takes the works of all who wait, runs each in a savepoint of its own, and commits once. It passes the lead on
before it syncs (``sync.py``), so that the next group commits meanwhile, and wakes its followers after it, each once.

A kill before COMMIT: nothing happened. Between COMMIT and the sync: it happened, unacknowledged, and is lost only if
power fails. An error in one work undoes that work alone. A leader that is interrupted (``KeyboardInterrupt``) leaves
the works of the others to the next.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, Generic, Self, TypeVar, cast

import apsw

from millstream.primitives.clock import Clock
from millstream.primitives.errors import MillstreamError, StoreStopped
from millstream.primitives.limits import GROUP_COMMIT_GATHER_S, GROUP_COMMIT_WORKS_MAX
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Parameters, Row, from_sqlite, statement
from millstream.store.locks import FileLock
from millstream.store.signals import Signals, channel_bit
from millstream.store.sync import Sync

T = TypeVar("T")
_LOOK_EVERY_S: Final = 0.01


class Snapshot:
    """A consistent view: statements by the names of their files."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: apsw.Cursor) -> None:
        """Wrap a cursor of a connection inside a transaction; one is used for all, a new one costs a microsecond."""
        self._cursor = cursor

    def run(self, name: str, params: Parameters = ()) -> list[Row]:
        """Run ``sql/<name>.sql`` and return all its rows."""
        return self._cursor.execute(statement(name), params).fetchall()


class Transaction(Snapshot):
    """The transaction of the commit point. Valid only inside the function it is given to."""

    __slots__ = ("now_us", "wakes")

    def __init__(self, cursor: apsw.Cursor, now_us: int) -> None:
        """Made by the committer."""
        self._cursor = cursor
        self.now_us = now_us
        self.wakes = 0
        """The channels to wake after the commit, as bits."""

    def many(self, name: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each row of parameters."""
        self._cursor.connection.executemany(statement(name), rows)

    def wake(self, channel: str) -> None:
        """After the commit, wake whoever waits for the channel, in every process."""
        self.wakes |= channel_bit(channel)


class Joinable(ABC, Generic[T]):
    """A work that others of its kind can be done with, cheaper than one by one. It may run more than once."""

    __slots__ = ()

    @property
    @abstractmethod
    def kind(self) -> Hashable:
        """Equal for works that may be joined; None for one that may not."""

    @abstractmethod
    def __call__(self, tx: Transaction) -> T:
        """Do this one."""

    @abstractmethod
    def join(self, tx: Transaction, works: Sequence[Self]) -> list[T]:
        """Do all ``works``, this one among them, and return the result of each."""


class _Work(Generic[T]):
    """One work on its way through a group."""

    # What most works never change stays in the class: an append alone takes no time for it.
    done = False
    leads = False
    abandoned = False
    result: T | None = None
    error: BaseException | None = None
    ticket = 0
    turn: threading.Lock | None = None
    """Held until this work is done, or its thread shall lead; None while nobody waits for it."""

    def __init__(self, work: Callable[[Transaction], T], to_disk: bool) -> None:
        self.work = work
        self.to_disk = to_disk


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
        prepare: Callable[[], None],
        committed: Callable[[], None],
        where: str,
    ) -> None:
        """``lock`` lets the processes queue for SQLite's write lock instead of polling for it.

        ``prepare`` is called in each transaction before its COMMIT, ``committed`` after it, both under the lock.
        """
        self._connection = connection
        self._cursor = connection.cursor()
        self._lock = lock
        self._sync = sync
        self._signals = signals
        self._clock = clock
        self._prepare = prepare
        self._committed = committed
        self._where = where
        self._connection_lock = threading.Lock()
        self._leading: int | None = None
        self._looked_s = 0.0
        self._mutex = threading.Lock()
        self._queue: list[_Work[Any]] = []
        self._led = False
        self._last_group = 1
        self._committed_group: list[_Work[Any]] | None = None
        self._gathering: threading.Lock | None = None
        self._stopped: MillstreamError | None = None
        self._transaction: Transaction | None = None
        # Triggers have no other way to the transaction that they run in.
        connection.create_scalar_function("tx_now_us", self._now_us_of_transaction, 0)
        connection.create_scalar_function("tx_wake", self._wake_from_transaction, 1)

    def submit(self, work: Callable[[Transaction], T], *, to_disk: bool) -> T:
        """Run ``work`` in a transaction and return its result when it is as durable as asked."""
        if self._leading == threading.get_ident():
            raise RuntimeError("a transaction cannot be started inside another one")
        entry = _Work(work, to_disk)
        try:
            alone = self._await_turn(entry)
            if entry.leads:
                self._lead(entry, [entry] if alone else [])
        except BaseException:
            self._abandon(entry)
            raise
        if entry.error is not None:
            raise entry.error
        if to_disk:
            self._sync.ensure(entry.ticket)
            reach("commit.synced")
        result: T = entry.result  # type: ignore[assignment]  # set when done without an error
        return result

    def _now_us_of_transaction(self, *_: object) -> int:
        assert self._transaction is not None, "triggers run inside a transaction of this committer"
        return self._transaction.now_us

    def _wake_from_transaction(self, *channel: object) -> None:
        assert self._transaction is not None, "triggers run inside a transaction of this committer"
        self._transaction.wake(str(channel[0]))

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
        with self._connection_lock, self._lock:
            self.refuse_stopped()
            return work(self._connection)

    def refuse_stopped(self) -> None:
        """Raise StoreStopped if this process must not write any more."""
        if self._stopped is not None:
            raise self._refusal()

    def _await_turn(self, entry: _Work[Any]) -> bool:
        """Queue, and return when the work is done or its thread shall lead; True if it does so alone, not queued."""
        with self._mutex:
            alone = not (self._queue or (entry.to_disk and self._last_group > 1))
            if not alone or self._led:
                self._queue.append(entry)
            entry.leads, self._led = not self._led, True
            if entry.leads:
                return alone
            entry.turn = threading.Lock()
            entry.turn.acquire()
            if self._gathering is not None and len(self._queue) >= self._last_group:
                self._gathering.release()
                self._gathering = None
        entry.turn.acquire()
        return False

    def _abandon(self, entry: _Work[Any]) -> None:
        """Forget a work whose thread was interrupted, and let nobody wait for that thread."""
        with self._mutex:
            entry.abandoned = True
            if entry in self._queue:
                self._queue.remove(entry)
        self._pass_on(entry)

    def _lead(self, leader: _Work[Any], works: list[_Work[Any]]) -> None:
        """Commit ``works``, or what waits, this thread's own first, and wake the others."""
        try:
            if works:
                self._last_group = 1
            else:
                if leader.to_disk and self._last_group > 1:
                    self._gather()
                with self._mutex:
                    works = self._queue[:GROUP_COMMIT_WORKS_MAX]
                    del self._queue[:GROUP_COMMIT_WORKS_MAX]
                    self._last_group = len(works)
            self._commit_group(works)
        finally:
            if self._committed_group is works:
                self._settle(works)
            self._pass_on(leader, works)
            if len(works) > 1:
                self._release(leader, works)

    def _settle(self, works: list[_Work[Any]]) -> None:
        self._committed_group = None
        ticket = 0
        for work in works:
            if work.to_disk:
                ticket = work.ticket = ticket or self._sync.ticket()
            work.done = True

    def _gather(self) -> None:
        """Wait shortly for those who were in the last group: they were woken together and are on their way back.

        Without it the first one back commits and syncs alone, and the others pay for a second sync.
        """
        with self._mutex:
            if len(self._queue) >= self._last_group:
                return
            complete = self._gathering = threading.Lock()
            complete.acquire()
        complete.acquire(timeout=GROUP_COMMIT_GATHER_S)
        with self._mutex:
            self._gathering = None

    def _pass_on(self, leader: _Work[Any], works: Sequence[_Work[Any]] = ()) -> None:
        """Let the first that waits lead; those of ``works`` that an interrupted leader left undone wait again."""
        with self._mutex:
            if not leader.leads:
                return
            leader.leads = False
            if not self._queue and (not works or (len(works) == 1 and works[0] is leader)):
                self._led = False
                return
            undone = [work for work in works if not (work.done or work.abandoned or work is leader)]
            for work in undone:
                work.error = None
            waiting = [work for work in self._queue if work is not leader and work not in undone]
            self._queue[:] = [*undone, *waiting]
            self._led = bool(self._queue)
            if self._led:
                successor = self._queue[0]
                successor.leads = True
                _wake(successor)

    def _commit_group(self, works: list[_Work[Any]]) -> None:
        try:
            with self._connection_lock:
                self._leading = threading.get_ident()
                try:
                    if self._stopped is not None:
                        raise self._refusal()
                    with self._lock:
                        self._refuse_removed()
                        self._commit(works)
                finally:
                    self._leading = None
        except Exception as error:  # noqa: BLE001 - it reaches the callers
            self._fail(works, error)

    def _release(self, leader: _Work[Any], works: list[_Work[Any]]) -> None:
        """Wake the followers: at once those who need no sync, the others after the sync that they share."""
        followers = [work for work in works if work.done and work is not leader]
        sleeping = [work for work in followers if work.to_disk]
        for follower in followers:
            if not follower.to_disk:
                _wake(follower)
        try:
            if sleeping and leader.to_disk and leader.done and leader.error is None:
                self._sync.ensure(leader.ticket)
        finally:
            for follower in sleeping:
                _wake(follower)

    def _fail(self, works: list[_Work[Any]], error: BaseException) -> None:
        ours = error
        if isinstance(error, apsw.Error):
            ours = from_sqlite(error, self._where, errno=self._connection.system_errno)
        if ours is not error:
            ours.__cause__ = error
        if type(ours) is StoreStopped:
            self.stop(ours)
        for entry in works:
            if entry.error is None:
                entry.error = ours
            entry.done = True

    def _refuse_removed(self) -> None:
        # SQLite goes on writing to files without a name, and would acknowledge what nobody can ever read. A look takes
        # as long as a statement, so those who commit without a pause look a hundred times a second.
        now_s = self._clock.monotonic_s()
        if 0 < now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        if self._lock.was_removed:
            raise StoreStopped(
                "the store was removed while this process had it open",
                where=self._where,
                expected="the directory in its place until every process has closed it",
                next_step="restore it, or open it again for a new, empty store",
            )

    def _refusal(self) -> StoreStopped:
        assert self._stopped is not None
        return StoreStopped(
            "this process stopped writing after an error of the disk",
            where=self._where,
            expected=str(self._stopped),
            next_step="open the store again, best in a new process; it recovers to the last commit",
        )

    def _commit(self, works: list[_Work[Any]]) -> None:
        connection, cursor = self._connection, self._cursor
        transaction = self._transaction = Transaction(cursor, self._clock.now_us())
        committing = False
        if connection.in_transaction:  # a leader was interrupted in the middle of undoing its own
            cursor.execute("ROLLBACK")
        try:
            cursor.execute("BEGIN IMMEDIATE")
            if len(works) == 1:
                works[0].result = works[0].work(transaction)
            else:
                for entries in _by_kind(works):
                    self._run_together(entries, transaction)
            self._prepare()
            reach("commit.before")
            committing = True
            cursor.execute("COMMIT")
            # One assignment: an interrupted leader must not leave half a group for the next to do again.
            self._committed_group = works
        except BaseException as error:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            elif committing and not isinstance(error, Exception):
                self._committed_group = works
            raise
        reach("commit.visible")
        self._committed()
        if transaction.wakes:
            self._signals.wake(transaction.wakes)

    def _run_together(self, entries: list[_Work[Any]], transaction: Transaction) -> None:
        """Run works of one kind at once; if that fails, each by itself, so that the error finds its work."""
        first = entries[0].work
        if len(entries) > 1 and isinstance(first, Joinable):
            self._cursor.execute("SAVEPOINT work")
            try:
                results = first.join(transaction, [cast(Joinable[Any], e.work) for e in entries])
            except (apsw.FullError, apsw.IOError, apsw.CorruptError):
                raise  # the whole transaction is at stake
            except Exception:  # noqa: BLE001 - it comes again below
                self._cursor.execute("ROLLBACK TO work")
                self._cursor.execute("RELEASE work")
            else:
                self._cursor.execute("RELEASE work")
                for entry, result in zip(entries, results, strict=True):
                    entry.result = result
                return
        for entry in entries:
            self._run_in_savepoint(entry, transaction)

    def _run_in_savepoint(self, entry: _Work[Any], transaction: Transaction) -> None:
        self._cursor.execute("SAVEPOINT work")
        try:
            entry.result = entry.work(transaction)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError):
            raise  # the whole transaction is at stake
        except Exception as error:  # noqa: BLE001 - it reaches the caller of this work
            self._cursor.execute("ROLLBACK TO work")
            entry.error = (
                from_sqlite(error, self._where) if isinstance(error, apsw.Error) else error
            )
        self._cursor.execute("RELEASE work")


def _by_kind(works: Sequence[_Work[Any]]) -> list[list[_Work[Any]]]:
    kinds: dict[Hashable, list[_Work[Any]]] = {}
    for entry in works:
        kind = entry.work.kind if isinstance(entry.work, Joinable) else None
        kinds.setdefault(id(entry) if kind is None else kind, []).append(entry)
    return list(kinds.values())


def _wake(follower: _Work[Any]) -> None:
    assert follower.turn is not None
    follower.turn.release()
