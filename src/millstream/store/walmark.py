"""How far the write-ahead log must be readable, so that damage in it is told apart from a torn end.

SQLite takes a frame whose checksum does not fit for the end of its log, which is right after a crash and silently wrong
after a flipped bit: commits would vanish. So ``run/signals`` keeps two marks, (salts, pages): ``committed``, valid
while the machine has not restarted, and ``synced``, valid always, because it is written after the sync it speaks of.

    32  salts (8 bytes), pages u64     committed
    64  salts (8 bytes), pages u64     synced
    96  36 bytes                       the boot that the committed mark belongs to

The log has fewer valid pages than a mark of the same salts: the store is refused. The log's own header is damaged
while a mark says that it held pages: refused. Other salts: a new round of the log, whose pages before were all moved
to the catalog's file; the mark says nothing about it. The ``run`` folder is gone: no marks, and SQLite's own rule
stands. There is no log when a store is opened: the marks are cleared and synced before SQLite makes a new one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import apsw

from millstream.primitives.errors import StoreCorrupt
from millstream.store.catalog import PAGE_BYTES
from millstream.store.disk import Disk
from millstream.store.signals import Signals

_COMMITTED = 32
_SYNCED = 64
_BOOT = 96
_BOOT_BYTES = 36
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_MARK = struct.Struct("<8sQ")
_PAGES = struct.Struct("<Q")
_COMMITTED_PAGES = _COMMITTED + 8
_NOTHING = (b"\0" * 8, 0)
HEADER_BYTES = 32
"""The head of the log."""
_FRAME_HEADER_BYTES = 24
FRAME_BYTES = _FRAME_HEADER_BYTES + PAGE_BYTES
"""A page in the log, with its head."""
_SALTS = slice(16, 24)
_MAGICS = (0x377F0682, 0x377F0683)

Mark = tuple[bytes, int]


class WalMark:
    """The marks of one store. ``committed`` is called under the write lock, ``synced`` under the sync lock."""

    def __init__(self, signals: Signals, wal: Path, disk: Disk) -> None:
        """Nothing is read or written yet."""
        self._disk = disk
        self._signals = signals
        self._wal = wal
        self._descriptor = -1
        self._pages = 0
        self._salts = b"\0" * 8

    def watch(self, connection: apsw.Connection, descriptor: int) -> None:
        """Learn from SQLite how long the log is after each commit of the writing connection."""
        self._descriptor = descriptor
        connection.set_wal_hook(self._on_commit)

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return 0

    def committed(self) -> int:
        """Remember the last commit, and return how many pages the log has; called while the write lock is held."""
        salts = self._disk.read(self._descriptor, 8, _SALTS.start)
        _MARK.pack_into(self._signals.shared, _COMMITTED, salts, self._pages)
        return self._pages

    @property
    def pages(self) -> int:
        """How many pages the log has after the last commit of any process; called while the write lock is held."""
        pages: int = _PAGES.unpack_from(self._signals.shared, _COMMITTED_PAGES)[0]
        return pages

    def current(self) -> Mark:
        """Return the committed mark, to be passed to ``synced`` after the sync."""
        salts, pages = _MARK.unpack_from(self._signals.shared, _COMMITTED)
        return (salts, pages)

    def synced(self, mark: Mark) -> None:
        """Remember what is on the disk."""
        _MARK.pack_into(self._signals.shared, _SYNCED, *mark)

    def verify_header(self) -> None:
        """Before SQLite opens the log, while no process uses the store. Raises StoreCorrupt."""
        self._adopt_boot()
        if not self._wal.exists():
            self._clear()
            self._sync_marks()
            return
        with self._wal.open("rb") as file:
            header = file.read(HEADER_BYTES)
        if _header_fits(header):
            self._salts = header[_SALTS]
        elif self.current()[1] or self._synced()[1]:
            raise self._damaged("its header does not fit")

    def verify_length(self, connection: apsw.Connection) -> None:
        """After SQLite has recovered the log, while no process uses the store. Raises StoreCorrupt."""
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        # NOOP moves nothing: a log that is refused stays as it is.
        pages, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        for salts, expected in (self.current(), self._synced()):
            if expected and salts == self._salts and pages < expected:
                raise self._damaged(f"{expected} pages were committed, {max(pages, 0)} can be read")
        self._clear()

    def forget_folded(self) -> None:
        """After a clean close: a log that is gone was folded back whole, and a new empty one is no damage."""
        if not self._wal.exists():
            self._clear()

    def _synced(self) -> Mark:
        salts, pages = _MARK.unpack_from(self._signals.shared, _SYNCED)
        return (salts, pages)

    def _clear(self) -> None:
        if self.current() == self._synced() == _NOTHING:
            return
        _MARK.pack_into(self._signals.shared, _COMMITTED, *_NOTHING)
        _MARK.pack_into(self._signals.shared, _SYNCED, *_NOTHING)
        # To the disk before a new log begins: a mark that a power loss brings back would speak against the new log.
        self._signals.shared.flush()

    def _sync_marks(self) -> None:
        """Let no mark of an older log outlive the name of the empty one that SQLite makes next."""
        descriptor = self._disk.open(self._signals.path)
        try:
            self._disk.sync(descriptor)
        finally:
            os.close(descriptor)

    def _adopt_boot(self) -> None:
        boot = _boot()
        map_ = self._signals.shared
        if not boot.strip(b"\0") or map_[_BOOT : _BOOT + _BOOT_BYTES] != boot:
            _MARK.pack_into(map_, _COMMITTED, *_NOTHING)
            map_[_BOOT : _BOOT + _BOOT_BYTES] = boot

    def _damaged(self, how: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"the catalog's write-ahead log is damaged: {how}",
            where=str(self._wal),
            expected="every committed page",
            next_step="keep a copy of the directory, then restore a backup; nothing was changed",
        )


def _boot() -> bytes:
    boot = _BOOT_FILE.read_bytes()[:_BOOT_BYTES] if _BOOT_FILE.exists() else b""
    return boot.ljust(_BOOT_BYTES, b"\0")


def damage_of_log(signals: Path, wal: Path) -> list[str]:
    """Say in what the log falls short of the marks, without SQLite and without changing anything.

    Other processes may write meanwhile: the log only grows, or begins anew with other salts.
    """
    try:
        marks = signals.read_bytes()[_COMMITTED : _BOOT + _BOOT_BYTES]
        content = wal.read_bytes()
    except FileNotFoundError:
        return []
    if len(marks) < _BOOT + _BOOT_BYTES - _COMMITTED:
        return []
    committed = _MARK.unpack_from(marks, 0)
    synced = _MARK.unpack_from(marks, _SYNCED - _COMMITTED)
    if marks[_BOOT - _COMMITTED :] != _boot():
        committed = _NOTHING
    if not _header_fits(content[:HEADER_BYTES]):
        # A log without a byte has no header either: right when it is new, and when the marks know nothing of it.
        held = max(committed[1], synced[1])
        return [f"the log's header is damaged; it held {held} pages"] if held else []
    pages = _readable_pages(content)
    for salts, expected in (committed, synced):
        if expected > pages and salts == content[_SALTS]:
            return [f"{expected} pages were committed to the log, {pages} can be read"]
    return []


def _readable_pages(log: bytes) -> int:
    """Return how many pages lie before the first whose checksum does not fit, up to the last commit among them."""
    order = ">" if log[3] & 1 else "<"
    page_bytes = int.from_bytes(log[8:12], "big")
    sums = struct.unpack(">II", log[24:32])
    position, pages, committed = HEADER_BYTES, 0, 0
    while position + _FRAME_HEADER_BYTES + page_bytes <= len(log):
        head = log[position : position + _FRAME_HEADER_BYTES]
        page = position + _FRAME_HEADER_BYTES
        sums = _checksum(order, head[:8], sums)
        sums = _checksum(order, log[page : page + page_bytes], sums)
        if head[8:16] != log[_SALTS] or struct.unpack(">II", head[16:24]) != sums:
            break
        pages += 1
        if head[4:8] != b"\0\0\0\0":
            committed = pages
        position = page + page_bytes
    return committed


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for a, b in struct.iter_unpack(f"{order}II", data):
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return first, second


def _header_fits(header: bytes) -> bool:
    if len(header) < HEADER_BYTES:
        return False
    magic = int.from_bytes(header[:4], "big")
    if magic not in _MAGICS:
        return False
    order = ">" if magic & 1 else "<"
    return struct.unpack(">II", header[24:32]) == _checksum(order, header[:24], (0, 0))
