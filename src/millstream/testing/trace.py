"""A disk that remembers every write and every sync of a store, segments and catalog alike.

``power.PowerLoss`` replays what it remembers. The bytes are those that reached the file: those of
the catalog are read back from the checksumming VFS below, which fills in the checksums of pages.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import apsw

from millstream.store.catalog import CHECKSUM_VFS, load_checksums
from millstream.store.disk import Buffer, RealDisk

_names = itertools.count(1)


class Kind(Enum):
    """What happened."""

    CREATE = auto()
    WRITE = auto()
    TRUNCATE = auto()
    SYNC = auto()
    SYNC_DIRECTORY = auto()
    REMOVE = auto()
    NOTE = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One call, or a note of the test (an acknowledgement, say)."""

    kind: Kind
    path: str
    position: int = 0
    data: bytes = b""
    note: object = None


class TraceDisk(RealDisk):
    """The machine's disk with a memory. Thread-safe: operations are remembered in the order in which they happened."""

    def __init__(self, root: Path) -> None:
        """Remember what happens below ``root``, the store's directory; paths are relative to its parent."""
        self._base = root.absolute().parent
        self._paths: dict[int, str] = {}
        self.lock = threading.RLock()
        self.operations: list[Operation] = []
        load_checksums()
        self.vfs = f"millstream-trace-{next(_names)}"
        self._vfs = _TraceVFS(self.vfs, self)

    def relative(self, path: Path | str) -> str:
        """Return a path as it is remembered."""
        return Path(path).absolute().relative_to(self._base).as_posix()

    def remember(self, kind: Kind, path: str, position: int = 0, data: bytes = b"") -> None:
        """Add an operation."""
        self.operations.append(Operation(kind, path, position, data))

    def note(self, value: object) -> None:
        """Add a note at this point: what the store has acknowledged so far, for example."""
        with self.lock:
            self.operations.append(Operation(Kind.NOTE, "", note=value))

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open, and remember if the file is new."""
        with self.lock:
            is_new = create and not path.exists()
            descriptor = super().open(path, create=create)
            self._paths[descriptor] = self.relative(path)
            if is_new:
                self.remember(Kind.CREATE, self._paths[descriptor])
            return descriptor

    def write(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write."""
        with self.lock:
            super().write(descriptor, buffers, position)
            self.remember(Kind.WRITE, self._paths[descriptor], position, b"".join(buffers))

    def sync(self, descriptor: int) -> None:
        """Sync; what other threads write meanwhile may or may not be on the disk, so it counts as unsynced."""
        with self.lock:
            super().sync(descriptor)
            self.remember(Kind.SYNC, self._paths[descriptor])

    def sync_directory(self, path: Path) -> None:
        """Sync a directory."""
        with self.lock:
            super().sync_directory(path)
            if path.absolute().is_relative_to(self._base):
                self.remember(Kind.SYNC_DIRECTORY, self.relative(path))

    def truncate(self, descriptor: int, length: int) -> None:
        """Truncate."""
        with self.lock:
            super().truncate(descriptor, length)
            self.remember(Kind.TRUNCATE, self._paths[descriptor], length)

    def remove(self, path: Path) -> None:
        """Remove."""
        with self.lock:
            existed = path.exists()
            super().remove(path)
            if existed:
                self.remember(Kind.REMOVE, self.relative(path))


class _TraceVFS(apsw.VFS):
    def __init__(self, name: str, disk: TraceDisk) -> None:
        self._disk = disk
        super().__init__(name, CHECKSUM_VFS)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile(CHECKSUM_VFS, name, flags)
        return _TraceFile(self._disk, name, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self._disk.lock:
            existed = Path(filename).exists()
            super().xDelete(filename, syncdir)
            if existed:
                self._disk.remember(Kind.REMOVE, self._disk.relative(filename))
            if syncdir:
                parent = self._disk.relative(Path(filename).parent)
                self._disk.remember(Kind.SYNC_DIRECTORY, parent)


class _TraceFile(apsw.VFSFile):
    def __init__(
        self, disk: TraceDisk, name: str | apsw.URIFilename | None, path: str, flags: list[int]
    ) -> None:
        self._disk = disk
        self._name = disk.relative(path)
        with disk.lock:
            existed = Path(path).exists()
            super().__init__(CHECKSUM_VFS, name, flags)
            if not existed:
                disk.remember(Kind.CREATE, self._name)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._disk.lock:
            super().xWrite(data, offset)
            written = super().xRead(len(data), offset)
            self._disk.remember(Kind.WRITE, self._name, offset, written)

    def xSync(self, flags: int) -> None:
        with self._disk.lock:
            super().xSync(flags)
            self._disk.remember(Kind.SYNC, self._name)

    def xTruncate(self, newsize: int) -> None:
        with self._disk.lock:
            super().xTruncate(newsize)
            self._disk.remember(Kind.TRUNCATE, self._name, newsize)
