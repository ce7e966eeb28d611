"""Losing power: what a disk may hold after any moment of a trace.

A file holds what was written before its last sync, and any part of what was written since: nothing,
all, some writes and not others, and of a write some sectors of 512 bytes and not others. A new or
removed name is there for certain only after a sync of its directory. That is what POSIX allows and
what drives with a cache do; file systems are kinder.

One exception, as SQLite relies on it: a sync of a new write-ahead log or journal also syncs its
directory, because SQLite's own VFS does so below ours.
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


@dataclass(slots=True)
class _File:
    """A file's bytes: those that are certain, and what was done since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

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

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Begin before the first operation."""
        self._operations = operations
        self._names: dict[str, _Name] = {}
        self.position = 0
        self.notes: list[object] = []
        """The notes that were made up to this point."""

    def __len__(self) -> int:
        """Return how many operations there are."""
        return len(self._operations)

    def boundaries(self) -> list[int]:
        """Return the positions directly before and behind each sync, and the end."""
        syncs = [
            index
            for index, operation in enumerate(self._operations)
            if operation.kind in (Kind.SYNC, Kind.SYNC_DIRECTORY)
        ]
        return sorted({*syncs, *(index + 1 for index in syncs), len(self._operations)})

    def advance(self, position: int) -> None:
        """Go on to a later position: that many operations have happened."""
        for operation in self._operations[self.position : position]:
            self._happen(operation)
        self.position = max(position, self.position)

    def _happen(self, operation: Operation) -> None:
        name = self._names.setdefault(operation.path, _Name())
        match operation.kind:
            case Kind.NOTE:
                self.notes.append(operation.note)
            case Kind.CREATE:
                name.pending.append(_File())
            case Kind.REMOVE:
                name.pending.append(None)
            case Kind.SYNC_DIRECTORY:
                self._sync_names(operation.path)
            case Kind.SYNC:
                self._sync_file(operation.path, name)
            case _:
                if name.now is not None:
                    name.now.pending.append(operation)

    def _sync_names(self, folder: str) -> None:
        for path, entry in self._names.items():
            if posixpath.dirname(path) == folder:
                entry.sync()

    @staticmethod
    def _sync_file(path: str, name: _Name) -> None:
        if name.now is not None:
            name.now.sync()
        if path.endswith(_SYNCS_ITS_NAME):
            name.sync()

    def disk_after(self, random: Random) -> Iterator[tuple[str, bytes]]:
        """Yield (path, bytes) of each file that may be there after a power loss now; ``random`` chooses which may."""
        for path, name in sorted(self._names.items()):
            choices = [name.certain, *name.pending]
            file = random.choice(choices)
            if file is not None:
                yield path, file.after(random)

    def write_to(self, folder: Path, random: Random) -> None:
        """Write such a disk into a folder."""
        for path, content in self.disk_after(random):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


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
