"""Segment files: frames of one partition, back to back, appended by one process.

A process writes its frames into segments of its own, so processes never wait for each other to write data; the order of
events is the order of their commits. The catalog names (segment, position, bytes) of every frame. A segment is open
while its owner writes; when it is full, or its owner is dead, it is sealed. Bytes that no row of the catalog names are
dead: those behind the last frame are cut when a dead owner's segment is sealed, those in between go when the segment
is rewritten.

Power fails while a frame is written: nobody names it. After the frame, before its sync: the catalog does not name it
yet, because the commit comes after the sync. After the commit: it is on the disk, and so is the file's directory entry.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from millstream.primitives.durability import Durability
from millstream.primitives.errors import MillstreamError, StoreCorrupt
from millstream.primitives.limits import SEGMENT_BYTES_MAX
from millstream.primitives.telemetry import reach
from millstream.store.disk import disk_error
from millstream.store.frame import EncodedFrame
from millstream.store.sync import LocalSync

if TYPE_CHECKING:
    from millstream.store.store import Store

_OPEN_FILES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies."""

    segment_id: int
    position: int
    size_bytes: int


class SegmentWriter:
    """The tail of one partition for one process. Thread-safe."""

    def __init__(
        self, store: Store, partition_id: int, sealed: Callable[[int], None] | None = None
    ) -> None:
        """Nothing is made before the first frame. ``sealed`` notes that a segment is, unless that is done at once."""
        self._store = store
        self._sealed = sealed or partial(note_sealed, store)
        self._partition_id = partition_id
        self._lock = threading.Lock()
        self._descriptor = -1
        self._segment_id = 0
        self._position = 0
        self._entry_synced = False
        self._sync = LocalSync(self._sync_file)

    def append(self, frames: Sequence[EncodedFrame], *, to_disk: bool) -> list[Placement]:
        """Write frames behind each other; return when they are as durable as asked, still unnamed by the catalog.

        Raises StoreFull or StoreReadOnly (what was written will be written over) or StoreStopped.
        """
        placements: list[Placement] = []
        if not frames:
            return placements
        with self._lock:
            try:
                for frame in frames:
                    placements.append(self._write(frame, to_disk=to_disk))
            except OSError as error:
                raise self._store.refuse(error, self._path) from error
            ticket, sync = self._sync.ticket(), self._sync
        if to_disk:
            sync.ensure(ticket)
            reach("append.frame_synced")
        return placements

    def _write(self, frame: EncodedFrame, *, to_disk: bool) -> Placement:
        if self._descriptor < 0 or self._position + frame.size_bytes > SEGMENT_BYTES_MAX:
            self._roll(to_disk=to_disk)
        elif to_disk and not self._entry_synced:
            self._sync_entry()  # the segment was made by an append without syncs
        self._store.disk.write(self._descriptor, frame.buffers, self._position)
        placement = Placement(self._segment_id, self._position, frame.size_bytes)
        self._position += frame.size_bytes
        reach("append.frame_written")
        return placement

    def _roll(self, *, to_disk: bool) -> None:
        store, directory = self._store, self._store.directory
        self._seal()
        [[segment_id]] = store.write(
            lambda tx: tx.run("log/segment_insert", (self._partition_id, store.process, tx.now_us)),
            durability=Durability.PROCESS,
        )
        reach("append.segment_named")
        folder = directory.partition(self._partition_id)
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        path = directory.segment(self._partition_id, segment_id)
        self._descriptor = store.disk.open(path, create=True)
        self._segment_id, self._position, self._entry_synced = segment_id, 0, False
        self._sync = LocalSync(self._sync_file)
        if to_disk:
            self._sync_entry()
        reach("append.segment_made")

    def _sync_entry(self) -> None:
        """Sync the file's name, and its folder's: whoever made that may have been killed before it was synced."""
        directory = self._store.directory
        try:
            self._store.disk.sync_directory(directory.partition(self._partition_id))
            self._store.disk.sync_directory(directory.segments)
        except OSError as error:
            raise self._store.stop(error, self._path) from error
        self._entry_synced = True

    def _seal(self) -> None:
        if self._descriptor < 0:
            return
        # Frames of other threads may still wait for this file's sync.
        if self._entry_synced:
            self._sync.ensure(self._sync.ticket())
        os.close(self._descriptor)
        self._descriptor = -1
        segment_id = self._segment_id
        self._sealed(segment_id)

    def _sync_file(self) -> None:
        try:
            self._store.disk.sync(self._descriptor)
        except OSError as error:
            raise self._store.stop(error, self._path) from error

    @property
    def _path(self) -> str:
        return str(self._store.directory.segment(self._partition_id, self._segment_id))

    def close(self) -> None:
        """Seal the segment."""
        with self._lock:
            try:
                self._seal()
            except MillstreamError:
                # A store that stopped writing cannot seal; recovery does it by the owner's death.
                return


def note_sealed(store: Store, *segment_ids: int) -> None:
    """Note in the catalog that nothing more comes into segments."""
    rows = [(segment_id,) for segment_id in segment_ids]
    store.write(lambda tx: tx.many("log/segment_seal", rows), durability=Durability.PROCESS)


class SegmentWriters:
    """The writers of one process, by partition. Thread-safe."""

    def __init__(self, store: Store) -> None:
        """Start without any."""
        self._store = store
        self._writers: dict[int, SegmentWriter] = {}
        self._lock = threading.Lock()
        self._sealing = threading.Lock()
        self._holds = 0
        self._held: list[int] = []

    def of(self, partition_id: int) -> SegmentWriter:
        """Return the writer of a partition."""
        writer = self._writers.get(partition_id)
        if writer is None:
            with self._lock:
                writer = self._writers.setdefault(
                    partition_id, SegmentWriter(self._store, partition_id, self._seal)
                )
        return writer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep segments that are full from being sealed meanwhile.

        Of a sealed segment in which no frame lies nothing is needed, and it is removed; what was written into several
        segments and is committed at the end, as one, has no frame until then.
        """
        with self._sealing:
            self._holds += 1
        try:
            yield
        finally:
            with self._sealing:
                self._holds -= 1
                free = [] if self._holds else self._held
                if free:
                    self._held = []
            if free:
                note_sealed(self._store, *free)

    def _seal(self, segment_id: int) -> None:
        with self._sealing:
            if self._holds:
                self._held.append(segment_id)
                return
        note_sealed(self._store, segment_id)

    def drop(self, partition_ids: Sequence[int]) -> None:
        """Close the writers of partitions that are deleted."""
        with self._lock:
            dropped = [self._writers.pop(p) for p in partition_ids if p in self._writers]
        for writer in dropped:
            writer.close()

    def close(self) -> None:
        """Seal all."""
        for writer in list(self._writers.values()):
            writer.close()
        self._writers.clear()


class SegmentReader:
    """Reads byte ranges of segments, keeping recently used files open. Thread-safe."""

    def __init__(self, store: Store) -> None:
        """Start with no file open."""
        self._store = store
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self, partition_id: int, segment_id: int, position: int, size_bytes: int
    ) -> memoryview:
        """Return the bytes. Raises FileNotFoundError for a segment that retention removed, StoreCorrupt if short."""
        # From Arrow's pool: it keeps pages that were touched before, and fresh ones cost as much as the whole read.
        data = memoryview(pa.allocate_buffer(size_bytes))
        with self._lock:
            try:
                descriptor = self._open(partition_id, segment_id)
                found_bytes = self._store.disk.read_into(descriptor, data, position)
            except FileNotFoundError:
                raise
            except OSError as error:
                path = self._store.directory.segment(partition_id, segment_id)
                raise disk_error(error, where=path) from error
        if found_bytes < size_bytes:
            raise StoreCorrupt(
                f"a segment ends {size_bytes - found_bytes} bytes early",
                where=str(self._store.directory.segment(partition_id, segment_id)),
                expected=f"at least {position + size_bytes} bytes",
                next_step="run `millstream check` on the store, and restore a copy",
            )
        return data

    def _open(self, partition_id: int, segment_id: int) -> int:
        descriptor = self._files.get(segment_id)
        if descriptor is None:
            path = self._store.directory.segment(partition_id, segment_id)
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._files[segment_id] = descriptor
            if len(self._files) > _OPEN_FILES_MAX:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(segment_id)
        return descriptor

    def forget(self, segment_id: int) -> None:
        """Close a segment's file, before it is removed."""
        with self._lock:
            descriptor = self._files.pop(segment_id, None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()
