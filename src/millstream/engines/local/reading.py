"""Reading events: rows of the catalog say which bytes; every frame is checked before a byte of it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.engines.local.encoding import decode_rows
from millstream.engines.local.topics import Topics, unknown_topic
from millstream.log.definition import TopicInfo
from millstream.log.events import Chunk, EventBatch
from millstream.primitives.errors import OffsetOutOfRange, StoreCorrupt
from millstream.primitives.limits import READ_BYTES_MAX, READ_EVENTS_MAX, READ_FRAMES_MAX
from millstream.primitives.schema import conform
from millstream.store import Snapshot, Store
from millstream.store.frame import ARROW, ROWS, Frame, decode_frame

_PAGE_FRAMES = 64
_READ_AT_ONCE_BYTES = 4 * 1024 * 1024
_ATTEMPTS = 8

# Columns of log/frames_from.
_FIRST, _NEXT, _ROWS, _SIZE, _CRC, _FIRST_US, _LAST_US, _SEGMENT, _POSITION, _INLINE = range(10)

Row = tuple[Any, ...]


class Reader:
    """Reads topics of one store. Thread-safe."""

    def __init__(self, store: Store, topics: Topics) -> None:
        """Remember where to read."""
        self._store = store
        self._topics = topics

    def read(
        self,
        info: TopicInfo,
        partition: int,
        offset: int,
        *,
        events_max: int = READ_EVENTS_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> EventBatch | None:
        """Return events from ``offset`` on, or None when there are none yet.

        At least one frame, at most about the limits. Raises OffsetOutOfRange for an offset that retention deleted or
        that lies behind the end, UnknownTopic, StoreCorrupt.
        """
        for attempt in range(_ATTEMPTS):
            rows = self._locate(info, partition, offset, events_max, bytes_max)
            if not rows:
                return None
            try:
                chunks = self._load(info, partition, rows)
            except FileNotFoundError as error:
                # The frames were merged or deleted after the look at the catalog: look again.
                if attempt == _ATTEMPTS - 1:
                    raise StoreCorrupt(
                        "a segment is missing",
                        where=f"{error.filename}, topic {info.name!r}, partition {partition}",
                        expected="the file that the catalog names",
                        next_step="run `millstream check` on the store, and restore a copy",
                    ) from error
                continue
            return _batch(info, partition, chunks, offset, events_max)
        return None

    def _locate(
        self, info: TopicInfo, partition: int, offset: int, events_max: int, bytes_max: int
    ) -> list[Row]:
        partition_id = info.partition_ids[partition]
        found: list[Row] = []
        events = size_bytes = 0
        with self._store.read() as snapshot:
            self._check_range(snapshot, info, partition, offset)
            position = offset
            while events < events_max and size_bytes < bytes_max and len(found) < READ_FRAMES_MAX:
                page = snapshot.run("log/frames_from", (partition_id, position, _PAGE_FRAMES))
                for row in page:
                    if row[_NEXT] <= position:
                        continue
                    if found and size_bytes + row[_SIZE] > bytes_max:
                        return found
                    found.append(row)
                    events += row[_NEXT] - max(row[_FIRST], offset)
                    size_bytes += row[_SIZE]
                    if events >= events_max:
                        return found
                if len(page) < _PAGE_FRAMES:
                    break
                position = page[-1][_NEXT]
        return found

    def _check_range(
        self, snapshot: Snapshot, info: TopicInfo, partition: int, offset: int
    ) -> None:
        rows = snapshot.run("log/partition_get", (info.partition_ids[partition],))
        if not rows:
            raise unknown_topic(info.name, str(self._store.path), [])
        first_offset, next_offset = rows[0][:2]
        if not first_offset <= offset <= next_offset:
            raise OffsetOutOfRange(
                f"offset {offset} is not there",
                where=f"topic {info.name!r}, partition {partition}",
                expected=f"{first_offset} to {next_offset}",
                next_step="start at 'earliest' or 'latest'; older events were deleted by retention",
            )

    def chunks(self, info: TopicInfo, partition: int, rows: Sequence[Row]) -> list[Chunk]:
        """Return the events of given frames: rows of log/frames_from."""
        return self._load(info, partition, rows)

    def _load(self, info: TopicInfo, partition: int, rows: Sequence[Row]) -> list[Chunk]:
        partition_id = info.partition_ids[partition]
        chunks: list[Chunk] = []
        waiting: list[tuple[Row, Frame]] = []
        where = f"topic {info.name!r}, partition {partition}"
        for row, data in self._bytes_of(partition_id, rows):
            frame = decode_frame(
                data,
                partition_id=partition_id,
                rows=row[_ROWS],
                checksum=row[_CRC],
                where=where,
                offset=row[_FIRST],
            )
            if waiting and (frame.encoding != ROWS or frame.schema_id != waiting[0][1].schema_id):
                chunks.append(self._rows_chunk(info, waiting))
                waiting = []
            if frame.encoding == ROWS:
                waiting.append((row, frame))
            else:
                chunks.append(self._arrow_chunk(info, row, frame))
        if waiting:
            chunks.append(self._rows_chunk(info, waiting))
        return chunks

    def _bytes_of(self, partition_id: int, rows: Sequence[Row]) -> list[tuple[Row, memoryview]]:
        """Return each frame's bytes; frames that lie behind each other are read at once."""
        result: list[tuple[Row, memoryview]] = []
        index = 0
        while index < len(rows):
            row = rows[index]
            if row[_SEGMENT] is None:
                result.append((row, memoryview(row[_INLINE])))
                index += 1
                continue
            end, length = index + 1, row[_SIZE]
            while end < len(rows) and _follows(rows[end - 1], rows[end]):
                if length + rows[end][_SIZE] > _READ_AT_ONCE_BYTES:
                    break
                length += rows[end][_SIZE]
                end += 1
            data = self._store.frames.read(partition_id, row[_SEGMENT], row[_POSITION], length)
            for each in rows[index:end]:
                start = each[_POSITION] - row[_POSITION]
                result.append((each, data[start : start + each[_SIZE]]))
            index = end
        return result

    def _arrow_chunk(self, info: TopicInfo, row: Row, frame: Frame) -> Chunk:
        assert frame.encoding == ARROW
        schema = self._topics.schema(info.id, frame.schema_id)
        data = pa.ipc.read_record_batch(pa.py_buffer(frame.payload), schema)
        listed = None if frame.relative_offsets is None else frame.relative_offsets + row[_FIRST]
        return Chunk(_widened(data, info), row[_FIRST], row[_NEXT], listed, frame.runs)

    def _rows_chunk(self, info: TopicInfo, frames: Sequence[tuple[Row, Frame]]) -> Chunk:
        schema = self._topics.schema(info.id, frames[0][1].schema_id)
        data = decode_rows(
            [frame.payload for _, frame in frames], schema, where=f"topic {info.name!r}"
        )
        first, last = frames[0][0], frames[-1][0]
        runs = tuple(run for _, frame in frames for run in frame.runs)
        consecutive = data.num_rows == last[_NEXT] - first[_FIRST]
        listed = (
            None
            if consecutive
            else np.concatenate(
                [np.arange(row[_FIRST], row[_NEXT], dtype=np.int64) for row, _ in frames]
            )
        )
        return Chunk(_widened(data, info), first[_FIRST], last[_NEXT], listed, runs)

    def offset_at(self, info: TopicInfo, partition: int, at_us: int) -> int:
        """Return the offset of the first event appended at that time or later; the end if there is none."""
        partition_id = info.partition_ids[partition]
        with self._store.read() as snapshot:
            rows = snapshot.run("log/frame_at_time", (partition_id, at_us))
            if not rows:
                return int(snapshot.run("log/partition_get", (partition_id,))[0][1])
        # That frame alone, but all of it: a merged one holds events of many appends.
        batch = self.read(info, partition, rows[0][0], bytes_max=1)
        if batch is None:
            return int(rows[0][0])
        late = np.flatnonzero(batch.appended_us() >= at_us)
        return int(batch.offsets()[late[0]]) if late.size else batch.first_offset


def _follows(before: Row, after: Row) -> bool:
    return bool(
        after[_SEGMENT] == before[_SEGMENT]
        and after[_POSITION] == before[_POSITION] + before[_SIZE]
    )


def _widened(data: pa.RecordBatch, info: TopicInfo) -> pa.RecordBatch:
    """Return the data with the columns that the reader knows: those it has and the data has not are null.

    A process that declared the topic before a column was added goes on reading without it.
    """
    if data.schema.equals(info.schema):
        return data
    data = data.select([name for name in data.schema.names if name in info.schema.names])
    table = conform(data, info.schema, where=f"topic {info.name!r}")
    return table.combine_chunks().to_batches()[0] if table.num_rows else data.slice(0, 0)


def _batch(
    info: TopicInfo, partition: int, chunks: list[Chunk], offset: int, events_max: int
) -> EventBatch:
    chunks[0] = chunks[0].after(offset)
    taken: list[Chunk] = []
    room = events_max
    for chunk in chunks:
        if chunk.data.num_rows > room:
            chunk = chunk.before_row(room)
        taken.append(chunk)
        room -= chunk.data.num_rows
        if room <= 0:
            break
    return EventBatch(info.name, partition, taken)
