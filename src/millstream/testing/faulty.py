"""A disk that fails on purpose: the nth write, sync or other call on the files a test names.

Segments go through the methods of ``Disk``, the catalog through a SQLite VFS of our own that lies
above the one with the checksums, so one ``fail`` reaches every file of a store.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from millstream.store.catalog import CHECKSUM_VFS, load_checksums
from millstream.store.disk import Buffer, RealDisk

_names = itertools.count(1)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EXTENDED: Final = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "read": apsw.SQLITE_IOERR_READ,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
}


@dataclass(slots=True)
class _Fault:
    operation: str
    name: str
    error: int
    after: int
    times: int | None


class FaultyDisk(RealDisk):
    """Works as the machine's disk until ``fail`` is called. Thread-safe."""

    def __init__(self) -> None:
        """Make a disk, and a VFS for its catalogs."""
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}
        self.calls: list[tuple[str, str]] = []
        """Every (operation, file name) so far, failed ones included."""
        load_checksums()
        self.vfs = f"millstream-faulty-{next(_names)}"
        self._vfs = _FaultyVFS(self.vfs, self)

    def fail(
        self,
        operation: str,
        *,
        name: str = "",
        error: int = errno.EIO,
        nth: int = 1,
        times: int | None = None,
    ) -> None:
        """Let calls of ``operation`` fail on files whose path contains ``name``.

        ``operation`` is write, sync, sync_directory, open, truncate, read or remove. The first
        ``nth - 1`` calls from now on still work; then ``times`` calls fail (None: all).
        """
        with self._lock:
            self._faults.append(_Fault(operation, name, error, nth - 1, times))

    def heal(self) -> None:
        """Let everything work again."""
        with self._lock:
            self._faults.clear()

    def error_of(self, operation: str, path: str) -> int:
        """Return the errno with which this call fails, 0 if it does not. Counts the call."""
        with self._lock:
            self.calls.append((operation, Path(path).name))
            for fault in self._faults:
                if fault.operation != operation or fault.name not in path:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                elif fault.times is None:
                    return fault.error
                elif fault.times > 0:
                    fault.times -= 1
                    return fault.error
        return 0

    def _call(self, operation: str, path: str) -> None:
        code = self.error_of(operation, path)
        if code:
            raise OSError(code, os.strerror(code), path)

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open a file and remember its name."""
        self._call("open", str(path))
        descriptor = super().open(path, create=create)
        self._paths[descriptor] = str(path)
        return descriptor

    def write(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write, or fail after half of it was written."""
        path = self._paths.get(descriptor, "")
        code = self.error_of("write", path)
        if code:
            data = b"".join(buffers)
            super().write(descriptor, [data[: len(data) // 2]], position)
            raise OSError(code, os.strerror(code), path)
        super().write(descriptor, buffers, position)

    def read(self, descriptor: int, length: int, position: int) -> bytes:
        """Read, or fail."""
        self._call("read", self._paths.get(descriptor, "segment"))
        return super().read(descriptor, length, position)

    def read_into(self, descriptor: int, target: memoryview, position: int) -> int:
        """Read, or fail."""
        self._call("read", self._paths.get(descriptor, "segment"))
        return super().read_into(descriptor, target, position)

    def sync(self, descriptor: int) -> None:
        """Sync, or fail."""
        self._call("sync", self._paths.get(descriptor, ""))
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Sync a directory, or fail."""
        self._call("sync_directory", str(path))
        super().sync_directory(path)

    def truncate(self, descriptor: int, length: int) -> None:
        """Truncate, or fail."""
        self._call("truncate", self._paths.get(descriptor, ""))
        super().truncate(descriptor, length)

    def remove(self, path: Path) -> None:
        """Remove, or fail."""
        self._call("remove", str(path))
        super().remove(path)


class _FaultyVFS(apsw.VFS):
    def __init__(self, name: str, disk: FaultyDisk) -> None:
        self._disk = disk
        super().__init__(name, CHECKSUM_VFS)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _FaultyFile(self._disk, name, flags)


class _FaultyFile(apsw.VFSFile):
    def __init__(
        self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name or "")
        code = disk.error_of("open", self._path)
        if code:
            raise apsw.CantOpenError(os.strerror(code))
        super().__init__(CHECKSUM_VFS, name, flags)

    def _call(self, operation: str) -> None:
        code = self._disk.error_of(operation, self._path)
        if not code:
            return
        # As SQLite's own VFS: only a write can find no space; a sync that fails is an I/O error, whatever the reason.
        if code in _FULL and operation == "write":
            raise apsw.FullError(os.strerror(code))
        if code == errno.EROFS:
            raise apsw.ReadOnlyError(os.strerror(code))
        error = apsw.IOError(os.strerror(code))
        vars(error)["extendedresult"] = _EXTENDED[operation]
        raise error

    def xWrite(self, data: bytes, offset: int) -> None:
        self._call("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._call("sync")
        super().xSync(flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._call("read")
        return super().xRead(amount, offset)

    def xTruncate(self, newsize: int) -> None:
        self._call("truncate")
        super().xTruncate(newsize)
