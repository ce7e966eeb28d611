"""The SQL catalog: opening it, its statements, its migrations, and its errors in our words.

Each connection lives in WAL mode with ``synchronous=NORMAL``; what must reach the disk before an acknowledgement is
synced by ``sync.py``, for many commits at once. Pages carry checksums (SQLite's cksumvfs, eight bytes a page), so
that a flipped bit is refused when it is read.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import apsw
import apsw.sqlite_extra

from millstream.primitives.errors import (
    MillstreamError,
    NotAStore,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreStopped,
    StoreVersionError,
)
from millstream.primitives.limits import WRITE_LOCK_TIMEOUT_S
from millstream.primitives.telemetry import reach
from millstream.store.disk import FULL

APPLICATION_ID: Final = 0x4D53544D  # "MSTM"
CHECKSUM_VFS: Final = "cksmvfs"
RESERVED_BYTES: Final = 8
PAGE_BYTES: Final = 4096
_HEAD_BYTES: Final = (
    105  # the file's head, and that of its first page up to the number of its cells
)
_IOERR_DATA: Final = 8458  # a page's checksum does not fit
_IOERR_GROWING: Final = (apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_SHMSIZE)
_MIGRATION = re.compile(r"(\d{4})_.*\.sql")

Parameters = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]

_loading = threading.Lock()


@functools.cache
def statement(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return (resources.files("millstream.store") / "sql" / f"{name}.sql").read_text("utf-8")


@functools.cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Return (version, SQL) of every migration, in order."""
    found = []
    for entry in (resources.files("millstream.store") / "migrations").iterdir():
        match = _MIGRATION.fullmatch(entry.name)
        if match:
            found.append((int(match[1]), entry.read_text("utf-8")))
    return tuple(sorted(found))


def format_version() -> int:
    """Return the version of the format that this library writes."""
    return migrations()[-1][0]


def load_checksums() -> None:
    """Make the checksumming VFS known to SQLite, without making it the default of the whole process."""
    with _loading:
        if CHECKSUM_VFS in apsw.vfs_names():
            return
        default = apsw.vfs_names()[0]
        carrier = apsw.Connection(":memory:")
        apsw.sqlite_extra.load(carrier, "cksumvfs")
        carrier.close()
        apsw.set_default_vfs(default)


def refuse_foreign(path: Path) -> None:
    """Raise NotAStore for a database of another program, without opening it: SQLite would change it.

    The file's head says whose it is (SQLite's file format, 1.3). What a kill left behind while a catalog was made is
    empty or has one page without a table; the rest of it lies in the write-ahead log.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    application = int.from_bytes(head[68:72], "big")
    is_bare = int.from_bytes(head[28:32], "big") <= 1 and head[103:105] == b"\0\0"
    if not head.strip(b"\0"):
        return  # nobody's: what a power loss leaves of a page that was never synced
    is_database = head.startswith(b"SQLite format 3\0") and len(head) == _HEAD_BYTES
    if not is_database or (application != APPLICATION_ID and not (application == 0 and is_bare)):
        raise NotAStore(
            "the catalog is a file of another program",
            where=str(path),
            expected="a catalog that millstream made",
            next_step="give the path of a store, or a new path to make one; nothing was changed",
        )


def connect(path: Path, *, vfs: str | None, create: bool = False) -> apsw.Connection:
    """Open a connection with the store's settings. Raises ours, see ``translated``."""
    load_checksums()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    with translated(path):
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs or CHECKSUM_VFS)
        connection.set_busy_timeout(int(WRITE_LOCK_TIMEOUT_S * 1000))
        # Without it SQLite prepares some statements with `LIMIT ?` again at each run, at ten times the price of it.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        keep_log(connection, keep=True)
        if create:
            connection.pragma("page_size", PAGE_BYTES)
            connection.reserve_bytes(None, RESERVED_BYTES)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "normal")
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("cache_size", -8_192)
        connection.pragma("foreign_keys", True)
    return connection


def keep_log(connection: apsw.Connection, *, keep: bool) -> None:
    """Say whether closing the last connection leaves the write-ahead log alone.

    It must while the log was not verified, and after a failed sync: SQLite would fold back what it can read of it, and
    remove the rest with the evidence.
    """
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep))


def run(connection: apsw.Connection, name: str, params: Parameters = ()) -> list[Row]:
    """Run one statement by its file's name and return its rows."""
    return connection.execute(statement(name), params).fetchall()


def migrate(connection: apsw.Connection, path: Path, *, up_to: int | None = None) -> None:
    """Bring the catalog to the newest version, one transaction a step; a kill in between leaves the step before.

    Raises StoreVersionError for a newer catalog and NotAStore for another program's database.
    """
    with translated(path, connection):
        application: int = connection.pragma("application_id")
        version: int = connection.pragma("user_version")
        if application not in (0, APPLICATION_ID):
            raise NotAStore(
                "the catalog is a database of another program",
                where=str(path),
                expected="a catalog that millstream made",
                next_step="give the path of a store, or a new path to make one",
            )
        refuse_newer(version, path)
        for number, text in migrations():
            if number <= version or (up_to is not None and number > up_to):
                continue
            reach("migration.begin")
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have done the step while this one waited for the lock.
            if connection.pragma("user_version") < number:
                connection.execute(text)
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", number)
            reach("migration.before_commit")
            connection.execute("COMMIT")
            reach("migration.committed")


def refuse_newer(version: int, path: Path) -> None:
    """Raise StoreVersionError for a version that this library does not know."""
    if version > format_version():
        raise StoreVersionError(
            f"the store has format version {version}",
            where=str(path),
            expected=f"at most {format_version()}",
            next_step="install a newer millstream; this one did not touch the store",
        )


@contextmanager
def translated(where: Path | str, connection: apsw.Connection | None = None) -> Iterator[None]:
    """Turn SQLite's errors into ours; the connection that fails knows the system's reason."""
    try:
        yield
    except apsw.Error as error:
        errno = 0 if connection is None else connection.system_errno
        raise from_sqlite(error, where, errno=errno) from error


def from_sqlite(error: apsw.Error, where: Path | str, *, errno: int = 0) -> MillstreamError:
    """Return our error for one of SQLite's; ``errno`` is the system's, which tells a full quota from a broken disk."""
    place = str(where)
    extended = getattr(error, "extendedresult", 0)
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)) or extended == _IOERR_DATA:
        return StoreCorrupt(
            f"the catalog is damaged: {error}",
            where=place,
            expected="pages whose checksums fit",
            next_step="run `millstream check` on the store, and restore a copy",
        )
    if isinstance(error, apsw.FullError) or (extended in _IOERR_GROWING and errno in FULL):
        return StoreFull(
            "no space left for the catalog",
            where=place,
            expected="room for the write; nothing of it was kept",
            next_step="free some space or shorten the retention, then write again",
        )
    if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return StoreReadOnly(
            f"the catalog cannot be opened for writing: {error}",
            where=place,
            expected="a directory and files that this user may write",
            next_step="check that it exists and its permissions",
        )
    if isinstance(error, apsw.BusyError):
        return StoreBusy(
            f"the catalog stayed locked for {WRITE_LOCK_TIMEOUT_S:.0f} s",
            where=place,
            expected="a lock that is free again at once",
            next_step="look for a process that is stopped while it writes",
        )
    return StoreStopped(
        f"the catalog failed: {error}",
        where=place,
        expected="a read or write that succeeds",
        next_step="look at the disk, then open the store again; it recovers to the last commit",
    )
