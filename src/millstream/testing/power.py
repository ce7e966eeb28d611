"""Losing power: what a disk may hold after any moment of a trace.

A file holds what was written before its last sync, and any part of what was written since: nothing,
all, some writes and not others, and of a write some sectors of 512 bytes and not others. A new or
removed name, of a file or of a directory, is there for certain only after a sync of the directory
that it lies in. That is what POSIX allows and what drives with a cache do; file systems are kinder.

One exception, as SQLite relies on it: its own first sync of a new write-ahead log or journal also
syncs the directory that it lies in, because SQLite's VFS does so below ours.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from millstream.testing.trace import Kind, Operation

SECTOR_BYTES = 512
_SYNCS_ITS_NAME = ("-wal", "-journal")
_SYNCS = (Kind.SYNC, Kind.SYNC_BY_SQLITE, Kind.SYNC_DIRECTORY)


@dataclass(slots=True)
class _File:
    """A file's bytes: those that are certain, and what was done since. Of a directory there is only the name."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)
    is_directory: bool = False

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.synced, operation)
        self.pending.clear()

    def after(self, random: Random) -> bytes:
        """Return bytes that the file may have after the power came back."""
        content = bytearray(self.synced)
        mood = random.choice(("none", "all", "some", "first", "torn"))
        keep = {"none": 0.0, "all": 1.0, "first": 1.0}.get(mood, random.random())
        until = random.randrange(len(self.pending) + 1) if mood == "first" else len(self.pending)
        for operation in self.pending[:until]:
            if mood == "torn" and operation.kind is Kind.WRITE:
                for sector in _sectors(operation):
                    if random.random() < keep:
                        _apply(content, sector)
            elif random.random() < keep:
                _apply(content, operation)
        return bytes(content)


@dataclass(slots=True)
class _Name:
    """What a path leads to: for certain, and what happened to it since."""

    certain: _File | None = None
    pending: list[_File | None] = field(default_factory=list)

    @property
    def now(self) -> _File | None:
        return self.pending[-1] if self.pending else self.certain

    def sync(self) -> None:
        self.certain = self.now
        self.pending.clear()


class PowerLoss:
    """Walks through a trace; ``disk_after`` says what may be left at the point it has come to. Not thread-safe."""

    def __init__(self, operations: Sequence[Operation], before: Path | None = None) -> None:
        """Begin before the first operation, with the files and folders of ``before`` on the disk."""
        self._operations = operations
        self._names: dict[str, _Name] = {}
        if before is not None:
            self._names = dict(_names_below(before))
        self.position = 0
        self.notes: list[object] = []
        """The notes that were made up to this point."""

    def __len__(self) -> int:
        """Return how many operations there are."""
        return len(self._operations)

    def boundaries(self) -> list[int]:
        """Return the positions directly before and behind each sync, and the end."""
        syncs = [
            index for index, operation in enumerate(self._operations) if operation.kind in _SYNCS
        ]
        return sorted({*syncs, *(index + 1 for index in syncs), len(self._operations)})

    def advance(self, position: int) -> None:
        """Go on to a later position: that many operations have happened."""
        for operation in self._operations[self.position : position]:
            self._happen(operation)
        self.position = max(position, self.position)

    def _happen(self, operation: Operation) -> None:
        if operation.kind is Kind.NOTE:
            self.notes.append(operation.note)
        elif operation.kind is Kind.SYNC_DIRECTORY:
            self._sync_names(operation.path)
        else:
            name = self._names.setdefault(operation.path, _Name())
            self._happen_to(name, operation)
            by_sqlite = operation.kind is Kind.SYNC_BY_SQLITE
            if by_sqlite and name.pending and operation.path.endswith(_SYNCS_ITS_NAME):
                self._sync_names(posixpath.dirname(operation.path))

    @staticmethod
    def _happen_to(name: _Name, operation: Operation) -> None:
        match operation.kind:
            case Kind.CREATE:
                name.pending.append(_File())
            case Kind.MAKE_DIRECTORY:
                if name.now is None:
                    name.pending.append(_File(is_directory=True))
            case Kind.REMOVE:
                name.pending.append(None)
            case Kind.SYNC | Kind.SYNC_BY_SQLITE:
                if name.now is not None:
                    name.now.sync()
            case _:
                if name.now is not None:
                    name.now.pending.append(operation)

    def _sync_names(self, folder: str) -> None:
        for path, entry in self._names.items():
            if (posixpath.dirname(path) or ".") == folder:
                entry.sync()

    def disk_after(self, random: Random) -> Iterator[tuple[str, bytes | None]]:
        """Yield (path, bytes) of what a power loss now may leave; ``random`` chooses. A folder has no bytes."""
        gone: set[str] = set()
        # In the order of the paths, so that a directory comes before what lies in it.
        for path, name in sorted(self._names.items(), key=lambda item: item[0].split("/")):
            file = random.choice([name.certain, *name.pending])
            if file is None or posixpath.dirname(path) in gone:
                gone.add(path)
            else:
                yield path, None if file.is_directory else file.after(random)

    def write_to(self, folder: Path, random: Random) -> None:
        """Write such a disk into a folder."""
        for path, content in self.disk_after(random):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                target.mkdir()
            else:
                target.write_bytes(content)


def _names_below(folder: Path) -> Iterator[tuple[str, _Name]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            yield name, _Name(_File(is_directory=True))
        elif path.is_file():
            yield name, _Name(_File(bytearray(path.read_bytes())))


def _sectors(operation: Operation) -> Iterator[Operation]:
    start, end = operation.position, operation.position + len(operation.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        offset = start - operation.position
        yield Operation(
            Kind.WRITE, operation.path, start, operation.data[offset : offset + stop - start]
        )
        start = stop


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind is Kind.TRUNCATE:
        del content[operation.position :]
        content.extend(bytes(operation.position - len(content)))
        return
    end = operation.position + len(operation.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[operation.position : end] = operation.data
