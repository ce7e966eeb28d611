"""Where things lie in a store's directory, and how a directory is recognized.

shop.mill/
  MILLSTREAM            one line: what this is, and the format version it was made with
  catalog.db (-wal,-shm) the SQL catalog
  segments/PPPPPPPP/SSSSSSSSSSSSSSSS.frames   frames of one partition, written by one process
  run/                  locks and wake-ups of the processes that are alive; nothing durable
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from millstream.primitives.errors import NotAStore
from millstream.store.catalog import refuse_foreign
from millstream.store.disk import Disk, disk_error

MARKER_TEXT = "millstream store, see FORMAT.md of the millstream package\n"


@dataclass(frozen=True, slots=True)
class Directory:
    """Paths of one store."""

    root: Path

    @property
    def marker(self) -> Path:
        """The file that says what the directory is."""
        return self.root / "MILLSTREAM"

    @property
    def catalog(self) -> Path:
        """The SQLite database."""
        return self.root / "catalog.db"

    @property
    def wal(self) -> Path:
        """SQLite's write-ahead log."""
        return self.root / "catalog.db-wal"

    @property
    def segments(self) -> Path:
        """The folder of the segment files."""
        return self.root / "segments"

    @property
    def run(self) -> Path:
        """Locks and wake-ups."""
        return self.root / "run"

    def partition(self, partition_id: int) -> Path:
        """The folder of a partition's segments."""
        return self.segments / f"{partition_id:08d}"

    def segment(self, partition_id: int, segment_id: int) -> Path:
        """One segment file."""
        return self.partition(partition_id) / f"{segment_id:016d}.frames"


def prepare(root: Path, disk: Disk, *, create: bool) -> Directory:
    """Return the directory, made if it is missing and may be.

    The marker is written last, so a crash in between leaves a directory that is simply prepared again. Raises NotAStore
    for a path that holds something else: nothing is written there.
    """
    directory = Directory(root)
    try:
        if directory.marker.is_file():
            directory.run.mkdir(exist_ok=True)
            return directory
        _refuse_foreign(directory, create=create)
        refuse_foreign(directory.catalog)
        for folder in (root, directory.segments, directory.run):
            folder.mkdir(parents=True, exist_ok=True)
        # The folders' own entries are synced before the marker names them.
        disk.sync_directory(root)
        disk.sync_directory(root.parent)
    except OSError as error:
        raise disk_error(error, where=root) from error
    return directory


def write_marker(directory: Directory, disk: Disk) -> None:
    """Declare the directory a store: the last step of making one."""
    descriptor = disk.open(directory.marker, create=True)
    try:
        disk.write(descriptor, [MARKER_TEXT.encode()], 0)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    disk.sync_directory(directory.root)


def _refuse_foreign(directory: Directory, *, create: bool) -> None:
    root = directory.root
    hint = "give the path of a store, or a new path to make one"
    if root.exists() and not root.is_dir():
        raise NotAStore(
            "the path is a file", where=str(root), expected="a directory", next_step=hint
        )
    if not root.exists():
        if create:
            return
        raise NotAStore(
            "there is no such directory", where=str(root), expected="a store", next_step=hint
        )
    # The journal is there while SQLite makes the catalog.
    ours = {
        "catalog.db",
        "catalog.db-journal",
        "catalog.db-wal",
        "catalog.db-shm",
        "segments",
        "run",
    }
    foreign = sorted({entry.name for entry in root.iterdir()} - ours)
    if foreign or not create:
        raise NotAStore(
            "the directory is not a store",
            where=str(root),
            expected=f"a file MILLSTREAM in it{f', found {foreign[0]!r}' if foreign else ''}",
            next_step=hint,
        )
