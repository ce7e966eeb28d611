"""The few file operations the store makes, in one place, so that a test can make any of them fail.

``REAL_DISK`` is the machine's; ``millstream.testing`` has one that fails on purpose and one that records a trace.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from millstream.primitives.errors import StoreFull, StoreReadOnly, StoreStopped

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

Buffer = bytes | bytearray | memoryview


class Disk(Protocol):
    """File operations; each raises OSError as the operating system does."""

    @property
    def vfs(self) -> str | None:
        """The SQLite VFS to put below the catalog; None for the platform's own."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing, and return a descriptor."""

    def write(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write all the buffers from ``position`` on."""

    def read(self, descriptor: int, length: int, position: int) -> bytes:
        """Return up to ``length`` bytes from ``position`` on."""

    def read_into(self, descriptor: int, target: memoryview, position: int) -> int:
        """Fill ``target`` from ``position`` on, and return how many bytes there were."""

    def sync(self, descriptor: int) -> None:
        """Return when the file's data has reached the disk."""

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's entries have reached the disk."""

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is fine."""


class RealDisk:
    """The machine's disk."""

    vfs: str | None = None

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing, never inherited by a program that is started."""
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | (os.O_CREAT if create else 0)
        return os.open(path, flags, 0o644)

    def write(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write all of it; a short write goes on where it stopped, so that the next one says why."""
        if hasattr(os, "pwritev"):
            written = os.pwritev(descriptor, buffers, position)
            total = sum(len(buffer) for buffer in buffers)
            if written == total:
                return
            rest = memoryview(b"".join(buffers))[written:]
        else:  # Windows
            written, rest = 0, memoryview(b"".join(buffers))
        while rest:
            step = _write_at(descriptor, rest, position + written)
            written += step
            rest = rest[step:]

    def read(self, descriptor: int, length: int, position: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end of the file."""
        data = _read_at(descriptor, length, position)
        while len(data) < length:
            more = _read_at(descriptor, length - len(data), position + len(data))
            if not more:
                break
            data += more
        return data

    def read_into(self, descriptor: int, target: memoryview, position: int) -> int:
        """Fill ``target`` without a copy in between; fewer bytes only at the end of the file."""
        done = 0
        while done < len(target):
            count = _read_at_into(descriptor, target[done:], position + done)
            if not count:
                break
            done += count
        return done

    def sync(self, descriptor: int) -> None:
        """Force the data, and the length if it changed, to the disk."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:
            os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Force new entries to the disk; Windows needs and allows nothing here."""
        if sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file to ``length`` bytes."""
        os.ftruncate(descriptor, length)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        path.unlink(missing_ok=True)


def _write_at(descriptor: int, data: Buffer, position: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.write(descriptor, data)


def _read_at(descriptor: int, length: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, length)


def _read_at_into(descriptor: int, target: memoryview, position: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [target], position)
    data = _read_at(descriptor, len(target), position)
    target[: len(data)] = data
    return len(data)


def disk_error(error: OSError, *, where: Path | str) -> StoreFull | StoreReadOnly | StoreStopped:
    """Return ours for an error of the operating system."""
    if error.errno in FULL:
        return StoreFull(
            f"no space left: {error.strerror}",
            where=str(where),
            expected="room for the write; nothing of it was kept",
            next_step="free some space or shorten the retention, then write again",
        )
    if error.errno in _READ_ONLY:
        return StoreReadOnly(
            f"cannot be written: {error.strerror}",
            where=str(where),
            expected="a directory that this user may write",
            next_step="change its permissions, or open a store elsewhere",
        )
    return stopped_by(error, where=where)


def stopped_by(error: OSError, *, where: Path | str) -> StoreStopped:
    """Return the error of a process that must not write any more, because it cannot know what the disk holds."""
    return StoreStopped(
        f"the disk failed: {error.strerror}",
        where=str(where),
        expected="a write or sync that succeeds; a failed one is never tried again",
        next_step="look at the disk, then open the store again; it recovers to the last commit",
    )


REAL_DISK: Final = RealDisk()
