"""A disk that remembers every write and every sync of a store, segments and catalog alike.

``power.PowerLoss`` replays what it remembers. The bytes are those that reached the file: those of
the catalog are read back from the checksumming VFS below, which fills in the checksums of pages.
The marks in ``run/signals`` are written through a map, which nobody can listen to: they are looked
at whenever something else happens.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import apsw

from millstream.store.catalog import CHECKSUM_VFS, load_checksums
from millstream.store.disk import Buffer, RealDisk

_names = itertools.count(1)


_MARKS_BYTES = 132
_BOOT = slice(96, 132)
_ANOTHER_BOOT = b"-" * 36
"""Who reads the marks after a power loss lives in another boot of the machine than who wrote them."""


class Kind(Enum):
    """What happened. A sync of SQLite's is not ours: it syncs the directory of a new log as well."""

    CREATE = auto()
    MAKE_DIRECTORY = auto()
    WRITE = auto()
    TRUNCATE = auto()
    SYNC = auto()
    SYNC_BY_SQLITE = auto()
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
        self._signals = root.absolute() / "run" / "signals"
        self._marks = b""
        self._paths: dict[int, str] = {}
        self._directories: set[str] = set()
        self.lock = threading.RLock()
        self.operations: list[Operation] = []
        load_checksums()
        self.vfs = f"millstream-trace-{next(_names)}"
        self._vfs = _TraceVFS(self.vfs, self)

    def relative(self, path: Path | str) -> str:
        """Return a path as it is remembered."""
        return Path(path).absolute().relative_to(self._base).as_posix()

    def remember(self, kind: Kind, path: str, position: int = 0, data: bytes = b"") -> None:
        """Add an operation; called with the lock held."""
        self._look_at_marks()
        if kind is Kind.CREATE:
            self._remember_directories(Path(path).parents)
        elif kind is Kind.SYNC_DIRECTORY:
            entries = sorted((self._base / path).iterdir())
            self._remember_directories(Path(self.relative(e)) for e in entries if e.is_dir())
        self.operations.append(Operation(kind, path, position, data))

    def _remember_directories(self, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            name = path.as_posix()
            if name not in self._directories and name != ".":
                self._directories.add(name)
                self.operations.append(Operation(Kind.MAKE_DIRECTORY, name))

    def _look_at_marks(self) -> None:
        try:
            with self._signals.open("rb") as file:
                found = bytearray(file.read(_MARKS_BYTES))
        except FileNotFoundError:
            return
        found[_BOOT] = _ANOTHER_BOOT
        if found == self._marks:
            return
        name = self.relative(self._signals)
        if not self._marks:
            self._remember_directories(Path(name).parents)
            self.operations.append(Operation(Kind.CREATE, name))
        self._marks = bytes(found)
        self.operations.append(Operation(Kind.WRITE, name, 0, self._marks))

    def note(self, value: object) -> None:
        """Add a note at this point: what the store has acknowledged so far, for example."""
        with self.lock:
            self._look_at_marks()
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
            self._disk.remember(Kind.SYNC_BY_SQLITE, self._name)

    def xTruncate(self, newsize: int) -> None:
        with self._disk.lock:
            super().xTruncate(newsize)
            self._disk.remember(Kind.TRUNCATE, self._name, newsize)
