"""A disk that never syncs, for tests that kill processes and leave the machine alone.

What a killed process wrote is in the hands of the operating system, synced or not; so such a test sees
the same with this disk as with the real one, and does not wait for hardware. Who wants to know what a
loss of power leaves takes ``TraceDisk``.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import apsw

from millstream.store.catalog import CHECKSUM_VFS, load_checksums
from millstream.store.disk import RealDisk

_names = itertools.count(1)


class UnsyncedDisk(RealDisk):
    """The machine's disk without its syncs, those of SQLite included. Thread-safe."""

    def __init__(self) -> None:
        """Make a disk, and a VFS for its catalogs."""
        load_checksums()
        self.vfs = f"millstream-unsynced-{next(_names)}"
        self._vfs = _UnsyncedVFS(self.vfs, CHECKSUM_VFS)

    def sync(self, descriptor: int) -> None:
        """Do nothing."""

    def sync_directory(self, path: Path) -> None:
        """Do nothing."""


class _UnsyncedVFS(apsw.VFS):
    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _UnsyncedFile(CHECKSUM_VFS, name, flags)


class _UnsyncedFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:
        """Do nothing."""
