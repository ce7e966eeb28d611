"""A store opened by one process: the composition of the parts in this folder.

Many processes open the same directory at once. Threads may share a ``Store``. After ``fork`` the child must not use the
parent's: it gets StoreClosed and opens its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import apsw

from millstream.primitives.clock import SYSTEM_CLOCK, Clock
from millstream.primitives.durability import Durability, durability_of
from millstream.primitives.errors import (
    MillstreamError,
    NotAStore,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreStopped,
)
from millstream.primitives.identity import new_id
from millstream.primitives.limits import CATALOG_CHECKPOINT_PAGES
from millstream.store import recovery
from millstream.store.catalog import (
    RESERVED_BYTES,
    Parameters,
    Row,
    connect,
    from_sqlite,
    keep_log,
    migrate,
    refuse_foreign,
    translated,
)
from millstream.store.catalog import run as run_statement
from millstream.store.directory import MARKER_TEXT, Directory, prepare, write_marker
from millstream.store.disk import REAL_DISK, Disk, disk_error, stopped_by
from millstream.store.duty import Duty
from millstream.store.liveness import Liveness
from millstream.store.locks import FileLock
from millstream.store.segment import SegmentReader, SegmentWriters
from millstream.store.signals import DUTY, Signals, Waiter, channel_bit
from millstream.store.sync import SharedSync
from millstream.store.transaction import Committer, Snapshot, Transaction
from millstream.store.walahead import WalAhead
from millstream.store.walmark import WalMark

T = TypeVar("T")
_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class Reading:
    """One consistent view, as a block. One thread."""

    __slots__ = ("_connection", "_nested", "_where")

    def __init__(self, connection: apsw.Connection, where: Path) -> None:
        """Made by ``Store.read``."""
        self._connection = connection
        self._where = where
        self._nested = False

    def __enter__(self) -> Snapshot:
        """Begin; what is committed from now on is not seen."""
        try:
            self._nested = self._connection.in_transaction
            if not self._nested:
                self._connection.execute("BEGIN")
        except apsw.Error as failed:  # Another thread has closed the store.
            raise from_sqlite(failed, self._where) from failed
        return Snapshot(self._connection.cursor())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the view; an error of SQLite in the block is raised as ours."""
        try:
            # SQLite ends the transaction by itself when the disk fails.
            if not self._nested and self._connection.in_transaction:
                self._connection.execute("COMMIT")
            if isinstance(error, apsw.Error):
                raise error
        except apsw.Error as failed:
            raise from_sqlite(failed, self._where) from failed


class Store:
    """One directory. Open it with ``Store.open``; use it as a context manager or call ``close``."""

    def __init__(
        self, directory: Directory, durability: Durability, clock: Clock, disk: Disk
    ) -> None:
        """Use ``Store.open``."""
        self.directory = directory
        self.path = directory.root
        self._catalog = directory.catalog
        self.durability = durability
        self.clock = clock
        self.disk = disk
        self.process = new_id(clock)
        self._closed = False
        self._forked = False
        self._local = threading.local()
        self._readers: list[apsw.Connection] = []
        self._readers_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: str | Durability = Durability.DISK,
        clock: Clock = SYSTEM_CLOCK,
        disk: Disk = REAL_DISK,
        create: bool = True,
    ) -> Store:
        """Open the store at ``path``, making it first if it is missing.

        Recovers from whatever crash came before: what is not in the catalog does not exist. Raises NotAStore,
        StoreVersionError, StoreReadOnly, StoreCorrupt or StoreFull; the directory is left as it was then.
        """
        root = Path(path).absolute()
        directory = prepare(root, disk, create=create)
        store = cls(directory, durability_of(durability), clock, disk)
        try:
            store._start()
        except BaseException as error:
            writer: apsw.Connection | None = getattr(store, "_writer", None)
            errno = 0 if writer is None else writer.system_errno
            store._release()
            if isinstance(error, OSError):
                raise disk_error(error, where=root) from error
            if isinstance(error, apsw.Error):
                raise from_sqlite(error, root, errno=errno) from error
            raise
        _open_stores.add(store)
        return store

    def _start(self) -> None:
        run = self.directory.run
        with FileLock(run / "opening.lock") as opening:
            self.signals = Signals(run, self.clock)
            self._liveness = Liveness(run, self.process)
            alone = recovery.is_alone(run, self._liveness)
            fresh = self._check_marker()
            mark = WalMark(self.signals, self.directory.wal, self.disk)
            if alone:
                mark.verify_header()
            vfs = self.disk.vfs
            self._writer = connect(self.directory.catalog, vfs=vfs, create=fresh)
            if alone:
                mark.verify_length(self._writer)
            self._check_catalog(fresh=fresh)
            migrate(self._writer, self.directory.catalog)
            if fresh:
                recovery.checkpoint(self._writer)
                write_marker(self.directory, self.disk)
            keep_log(self._writer, keep=False)
            self._build(mark, alone=alone)
            recovery.seal_dead_segments(self)
            if alone:
                recovery.remove_unknown_files(self)
        opening.close()

    def _check_marker(self) -> bool:
        marker = self.directory.marker
        if not marker.is_file():
            return True
        content = marker.read_bytes()
        if not content.strip(b"\0"):
            # Power failed while the store was made, between the marker's name and its bytes: it is made again.
            return True
        if content != MARKER_TEXT.encode():
            raise StoreCorrupt(
                "the marker of the store is damaged",
                where=str(marker),
                expected=MARKER_TEXT.strip(),
                next_step="restore it, then run `millstream check` on the store",
            )
        if not self.directory.catalog.is_file():
            raise StoreCorrupt(
                "the catalog is missing",
                where=str(self.directory.catalog),
                expected="catalog.db beside the marker",
                next_step="restore a copy of the whole directory",
            )
        if self._is_open_here():
            return False
        try:
            refuse_foreign(self.directory.catalog)
        except NotAStore as error:  # with our marker beside it
            raise StoreCorrupt(
                error.what,
                where=error.where,
                expected=error.expected,
                next_step="restore a copy of the whole directory; nothing was changed",
            ) from error
        return False

    def _is_open_here(self) -> bool:
        """Tell whether this process has the same catalog open already: then its file must not be opened beside SQLite.

        POSIX frees every lock that a process holds on a file when the process closes any descriptor of it.
        """
        catalog = self.directory.catalog
        return any(
            not store.closed and catalog.samefile(store.directory.catalog)
            for store in _open_stores
            if store.directory.catalog.exists()
        )

    def _check_catalog(self, *, fresh: bool) -> None:
        with translated(self.directory.catalog):
            if not fresh and self._writer.pragma("user_version") == 0:
                raise StoreCorrupt(
                    "the catalog is empty",
                    where=str(self.directory.catalog),
                    expected="the catalog of a store",
                    next_step="restore a copy of the whole directory",
                )
            if self._writer.reserve_bytes("main") != RESERVED_BYTES:
                raise StoreCorrupt(
                    "the catalog's pages have no checksums",
                    where=str(self.directory.catalog),
                    expected=f"{RESERVED_BYTES} bytes for a checksum at the end of each page",
                    next_step="restore a copy of the whole directory",
                )

    def _build(self, mark: WalMark, *, alone: bool) -> None:
        run = self.directory.run
        self._write_lock = FileLock(run / "write.lock")
        self._sync_lock = FileLock(run / "sync.lock")
        self._wal = self.disk.open(self.directory.wal)
        self._mark = mark
        self._ahead = WalAhead(self._wal, self.disk)
        self._checkpoint_at = CATALOG_CHECKPOINT_PAGES
        mark.watch(self._writer, self._wal)
        sync = SharedSync(self.signals, self._sync_lock, self._sync_wal)
        if alone:
            sync.begin_anew()
        self.committer = Committer(
            self._writer,
            self._write_lock,
            sync=sync,
            signals=self.signals,
            clock=self.clock,
            prepare=self._make_room,
            committed=self._note_commit,
            where=str(self.path),
        )
        self.segments = SegmentWriters(self)
        self.frames = SegmentReader(self)
        self.duty = Duty(self)

    def _make_room(self) -> None:
        pages = self._mark.pages
        if pages > self._ahead.pages:
            self._ahead.make_room(pages)

    def _note_commit(self) -> None:
        pages = self._mark.committed()
        if pages >= self._checkpoint_at:
            # Once for each stretch: as long as a reader needs the log, it cannot begin anew.
            self._checkpoint_at = pages + CATALOG_CHECKPOINT_PAGES
            self.signals.wake(channel_bit(DUTY))
        elif pages < CATALOG_CHECKPOINT_PAGES:
            self._checkpoint_at = CATALOG_CHECKPOINT_PAGES

    def _sync_wal(self) -> None:
        # A sync is never tried again after one that failed: the kernel reports the failure once, and forgets the pages.
        self.committer.refuse_stopped()
        synced = self._mark.current()
        try:
            self.disk.sync(self._wal)
        except OSError as error:
            raise self.stop(error, self.directory.wal) from error
        self._mark.synced(synced)

    def stop(self, error: OSError, where: Path | str) -> StoreStopped:
        """Refuse further writes of this process after a failed sync, whatever its reason; return the error to raise."""
        ours = stopped_by(error, where=where)
        self.committer.stop(ours)
        return ours

    def refuse(self, error: OSError, where: Path | str) -> StoreError:
        """Return the error to raise for a write that failed; no space is the only one after which writing may go on."""
        ours = disk_error(error, where=where)
        return ours if isinstance(ours, (StoreFull, StoreReadOnly)) else self.stop(error, where)

    def write(self, work: Callable[[Transaction], T], *, durability: Durability | None = None) -> T:
        """Run ``work`` in one transaction; return when it is committed, and with durability disk also synced.

        ``work`` must be short, do no I/O, and not use the store; another thread may run it, together with others'
        works. An exception from ``work`` undoes its own effects and reaches the caller. Raises StoreFull (nothing was
        kept), StoreStopped, StoreBusy, StoreClosed.
        """
        self._refuse_closed()
        to_disk = (durability or self.durability) is Durability.DISK
        return self.committer.submit(work, to_disk=to_disk)

    def read(self) -> Reading:
        """Give a consistent view of the catalog: ``with store.read() as snapshot:``.

        Readers are never blocked and never block a writer. Inside another one of the same thread it is the same view.
        """
        self._refuse_closed()
        return Reading(self._reader(), self._catalog)

    def look(self, name: str, params: Parameters = ()) -> list[Row]:
        """Run one reading statement by its file's name, as a view of its own; for one it costs half of ``read``."""
        self._refuse_closed()
        connection = self._reader()
        try:
            return run_statement(connection, name, params)
        except apsw.Error as error:
            raise from_sqlite(error, self._catalog) from error

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self._catalog, vfs=self.disk.vfs)
            self._local.connection = connection
            with self._readers_lock:
                self._readers.append(connection)
        return connection

    def waiter(self, *channels: str) -> Waiter:
        """Return a sleeper that commits on these channels wake. Close it when it is not needed any more."""
        self._refuse_closed()
        return self.signals.waiter(*channels)

    def is_alive(self, process: str) -> bool:
        """Return whether the process of that identity lives: the kernel's word, at once."""
        return self._liveness.is_alive(process)

    def checkpoint(self) -> None:
        """Move committed pages from the write-ahead log to the catalog's file, mostly without blocking writers."""
        self._refuse_closed()
        self.committer.refuse_stopped()
        with translated(self.directory.catalog):
            recovery.checkpoint_shared(self._reader(), self.committer)

    def sweep(self) -> None:
        """Remove the signs of life of processes that died."""
        self._liveness.sweep()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreClosed(
                "the store was opened before a fork" if self._forked else "the store is closed",
                where=str(self.path),
                expected="a store that this process opened",
                next_step="open it again in this process",
            )

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._closed

    def close(self) -> None:
        """Stop background work and give everything back. Committed work is safe with or without this."""
        if self._closed:
            return
        self.duty.stop()
        self.segments.close()
        self._closed = True
        self._release()

    def _release(self) -> None:
        self._closed = True
        if "frames" in self.__dict__:
            self.frames.close()
        for connection in self._readers:
            connection.close()
        if "_writer" not in self.__dict__:
            self._release_run()
            return
        # Who opens meanwhile would find this process alive, and a log that is just being removed.
        try:
            opening = FileLock(self.directory.run / "opening.lock")
        except (
            FileNotFoundError
        ):  # Somebody removed the whole directory: nobody can open it meanwhile.
            keep_log(self._writer, keep=True)
            self._writer.close()
            self._release_run()
            return
        with opening:
            if "committer" in self.__dict__ and self.committer.stopped is not None:
                keep_log(self._writer, keep=True)
            # What fails here is the folding back of the log: it stays, and the next process reads it.
            with contextlib.suppress(apsw.Error):
                self._writer.close()
            if "_mark" in self.__dict__:
                self._mark.forget_folded()
            if recovery.is_alone(self.directory.run, self._liveness):
                # What is left can be copied as files: many programs stop at a named pipe.
                self.signals.remove_pipes()
            self._release_run()
        opening.close()

    def _release_run(self) -> None:
        if "_wal" in self.__dict__:
            os.close(self._wal)
        for name in ("_write_lock", "_sync_lock", "_liveness", "signals"):
            if name in self.__dict__:
                self.__dict__[name].close()

    def _forget_after_fork(self) -> None:
        # The child's copy of the descriptor would keep the parent's sign of life after the parent's death.
        self._closed = self._forked = True
        self._liveness.close(forked=True)

    def __enter__(self) -> Store:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _after_fork_in_child() -> None:
    for store in list(_open_stores):
        store._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["MillstreamError", "Store"]
