"""Events of a user as frames of the store: checked, routed to partitions, encoded.

A few events given as dicts become a ``rows`` frame (MessagePack), which is cheap to make and small; anything larger
becomes an Arrow frame. Background work merges small frames into large Arrow ones. Cost of one event: about 3 µs here,
one copy.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from millstream.engines.local.part import Part, Rows, array_head
from millstream.log.definition import TopicInfo
from millstream.log.partitioner import NO_KEY, partition_of, partitions_of
from millstream.primitives.errors import EventTooLarge, SchemaError, StoreCorrupt
from millstream.primitives.hollow import solid
from millstream.primitives.limits import EVENT_BYTES_MAX, FRAME_EVENTS_MAX, ROWS_FRAME_EVENTS_MAX
from millstream.primitives.schema import TIMESTAMP, conform, describe, rows_to_batch
from millstream.store.frame import ARROW, EncodedFrame, encode_frame

_FRAME_BYTES: Final = 16 * 1024 * 1024
_ROWS_SURELY_FEW: Final = 8_192
_INT64_MAX: Final = 2**63 - 1

Event = Mapping[str, Any]


class _TooMuch(Exception):
    """These rows are too large for a frame of rows."""


Events = "Event | Sequence[Event] | pa.RecordBatch | pa.Table | pl.DataFrame"

_rows_encoder = msgspec.msgpack.Encoder()
_rows_decoder = msgspec.msgpack.Decoder(list[list[Any]])


class TopicEncoder:
    """Encodes events of one topic. Thread-safe."""

    def __init__(self, info: TopicInfo) -> None:
        """Prepare the checks of the topic's columns."""
        self._info = info
        self._where = f"topic {info.name!r}"
        self._names = info.schema.names
        self._key_index = None if info.key is None else self._names.index(info.key)
        self._checks = _exact_checks(info.schema)
        self._column_count = len(self._names)
        self._turn = itertools.count(int.from_bytes(os.urandom(2), "little"))

    def encode(self, data: object, now_us: int, *, partition: int | None = None) -> list[Part]:
        """Return the frames of ``data``; ``partition`` overrides the key. Raises SchemaError or EventTooLarge."""
        if type(data) is dict or isinstance(data, Mapping):
            return self._encode_rows((data,), now_us, partition)
        if isinstance(data, (pa.RecordBatch, pa.Table)):
            return self._encode_arrow(data, now_us, partition)
        if hasattr(data, "to_arrow"):  # a Polars frame, without importing Polars for it
            return self._encode_arrow(data.to_arrow(), now_us, partition)
        if hasattr(data, "__arrow_c_stream__"):
            return self._encode_arrow(pa.table(data), now_us, partition)
        if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
            return self._encode_rows(data, now_us, partition)
        raise SchemaError(
            f"a {type(data).__name__} is not an event",
            where=self._where,
            expected="a dict, a list of dicts, a pyarrow Table or RecordBatch, or a Polars frame",
            next_step="make a dict of it: column names to values",
        )

    def _encode_rows(
        self, events: Sequence[Event], now_us: int, partition: int | None
    ) -> list[Part]:
        if self._checks is None or len(events) > ROWS_FRAME_EVENTS_MAX:
            return self._encode_dicts(events, now_us, partition)
        rows = []
        for event in events:
            row = self._exact_row(event)
            if row is None:
                return self._encode_dicts(events, now_us, partition)
            rows.append(row)
        try:
            return self._rows_parts(rows, now_us, partition)
        except (_TooMuch, UnicodeEncodeError, OverflowError):
            # Arrow splits what is too much for one frame, says which column holds text that is none, and knows years
            # before the first.
            return self._encode_dicts(events, now_us, partition)

    def _rows_parts(self, rows: list[list[Any]], now_us: int, partition: int | None) -> list[Part]:
        if partition is None and self._info.partitions == 1:
            partition = 0
        if len(rows) == 1 or partition is not None:
            number = self._route(rows[0]) if partition is None else partition
            return [self._rows_part(number, rows, now_us)] if rows else []
        groups: dict[int, list[list[Any]]] = {}
        anywhere = self._any_partition()
        for row in rows:
            groups.setdefault(self._route(row, anywhere), []).append(row)
        return [self._rows_part(number, group, now_us) for number, group in groups.items()]

    def _exact_row(self, event: Event) -> list[Any] | None:
        """Return the values in order if each has exactly its column's type; None sends it the slow way."""
        assert self._checks is not None
        try:
            row = [event[name] for name in self._names]
        except (KeyError, TypeError):
            return None
        if len(event) != self._column_count:
            return None
        for value, check in zip(row, self._checks, strict=True):
            if not check(value):
                return None
        return row

    def _encode_dicts(
        self, events: Sequence[Event], now_us: int, partition: int | None
    ) -> list[Part]:
        if not len(events):
            return []
        batch = rows_to_batch(events, self._info.schema, where=self._where)
        return self._encode_arrow(batch, now_us, partition)

    def _rows_part(self, number: int, rows: list[list[Any]], now_us: int) -> Part:
        count = len(rows)
        data = _rows_encoder.encode(rows[0] if count == 1 else rows)
        if len(data) > _FRAME_BYTES:
            raise _TooMuch
        if count > 1:
            data = data[len(array_head(count)) :]
        info = self._info
        encoded = Rows(info.schema_id, info.partition_ids[number], data, ((now_us, count),))
        return Part(number, rows=encoded)

    def _route(self, row: list[Any], anywhere: int | None = None) -> int:
        if self._info.partitions == 1:
            return 0
        key = None if self._key_index is None else row[self._key_index]
        number = partition_of(key, self._info.partitions)
        if number == NO_KEY:
            return self._any_partition() if anywhere is None else anywhere
        return number

    def _any_partition(self) -> int:
        return next(self._turn) % self._info.partitions

    def _encode_arrow(
        self, data: pa.RecordBatch | pa.Table, now_us: int, partition: int | None
    ) -> list[Part]:
        if data.num_rows == 0 and not isinstance(data, pa.RecordBatch):
            conform(data, self._info.schema, where=self._where)
            return []
        batches = self._conformed(data)
        parts: list[Part] = []
        for batch in batches:
            for number, share in self._split(batch, partition):
                parts.extend(
                    Part(number, frame) for frame in self._arrow_frames(share, number, now_us)
                )
        return parts

    def _conformed(self, data: pa.RecordBatch | pa.Table) -> list[pa.RecordBatch]:
        table = solid(conform(data, self._info.schema, where=self._where))
        batches = table.to_batches()
        if len(batches) > 1 and table.num_rows / len(batches) < 10_000:
            # Many small chunks would become many small frames.
            batches = table.combine_chunks().to_batches()
        return [batch for batch in batches if batch.num_rows]

    def _split(
        self, batch: pa.RecordBatch, partition: int | None
    ) -> list[tuple[int, pa.RecordBatch]]:
        if partition is not None or self._info.partitions == 1:
            return [(partition or 0, batch)]
        if self._key_index is None:
            return [(self._any_partition(), batch)]
        numbers = partitions_of(batch.column(self._key_index), self._info.partitions)
        numbers[numbers == NO_KEY] = self._any_partition()
        counts = np.bincount(numbers, minlength=self._info.partitions)
        if np.max(counts) == len(numbers):
            return [(int(numbers[0]), batch)]
        ordered = batch.take(pa.array(np.argsort(numbers, kind="stable")))
        result, start = [], 0
        for number, count in enumerate(counts.tolist()):
            if count:
                result.append((number, ordered.slice(start, count)))
                start += count
        return result

    def _arrow_frames(self, batch: pa.RecordBatch, number: int, now_us: int) -> list[EncodedFrame]:
        rows = batch.num_rows
        large = rows > FRAME_EVENTS_MAX or (rows > _ROWS_SURELY_FEW and batch.nbytes > _FRAME_BYTES)
        if not large:
            # The size of the message is there anyway; asking the columns for theirs costs more than the copy.
            payload = memoryview(batch.serialize())
            if len(payload) <= _FRAME_BYTES:
                return [self._arrow_frame(payload, rows, number, now_us)]
            if rows == 1:
                if batch.nbytes > EVENT_BYTES_MAX:
                    raise self._too_large(batch.nbytes)
                return [self._arrow_frame(payload, rows, number, now_us)]
        middle = rows // 2
        return [
            *self._arrow_frames(batch.slice(0, middle), number, now_us),
            *self._arrow_frames(batch.slice(middle), number, now_us),
        ]

    def _arrow_frame(
        self, payload: memoryview, rows: int, number: int, now_us: int
    ) -> EncodedFrame:
        return encode_frame(
            payload,
            encoding=ARROW,
            schema_id=self._info.schema_id,
            partition_id=self._info.partition_ids[number],
            rows=rows,
            runs=((now_us, rows),),
        )

    def _too_large(self, size_bytes: int) -> EventTooLarge:
        return EventTooLarge(
            f"an event of {size_bytes:,} bytes",
            where=self._where,
            expected=f"at most {EVENT_BYTES_MAX:,} bytes",
            next_step="store the large part as a file, and its path in the event",
        )


def encode_arrow(
    batch: pa.RecordBatch,
    *,
    schema_id: int,
    partition_id: int,
    runs: Sequence[tuple[int, int]],
    relative_offsets: np.ndarray[Any, np.dtype[np.int64]] | None = None,
) -> EncodedFrame:
    """Return an Arrow frame of one batch."""
    return encode_frame(
        memoryview(batch.serialize()),
        encoding=ARROW,
        schema_id=schema_id,
        partition_id=partition_id,
        rows=batch.num_rows,
        runs=runs,
        relative_offsets=relative_offsets,
    )


def decode_rows(payloads: Sequence[memoryview], schema: pa.Schema, *, where: str) -> pa.RecordBatch:
    """Return the events of several rows frames as one batch."""
    try:
        rows = [row for payload in payloads for row in _rows_decoder.decode(payload)]
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(
            f"stored rows cannot be read: {error}",
            where=where,
            expected="rows as they were encoded",
            next_step="run `millstream check` on the store, and restore a copy",
        ) from error
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [
        pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


Check = Callable[[Any], bool]


def _exact_checks(schema: pa.Schema) -> list[Check] | None:
    """Return a check for each column, or None if a column is of a type that only Arrow can check."""
    checks = []
    for field in schema:
        check = _exact_check(field)
        if check is None:
            return None
        checks.append(check)
    return checks


def _exact_check(field: pa.Field) -> Check | None:
    inner = _INNER_CHECKS.get(field.type)
    if inner is None or not field.nullable:
        return inner
    return lambda value: value is None or inner(value)


def _is_int64(value: object) -> bool:
    return type(value) is int and -_INT64_MAX - 1 <= value <= _INT64_MAX


def _is_moment(value: object) -> bool:
    return type(value) is datetime and value.tzinfo is not None


_INNER_CHECKS: Final[dict[pa.DataType, Check]] = {
    pa.string(): lambda value: type(value) is str,
    pa.int64(): _is_int64,
    pa.float64(): lambda value: type(value) is float,
    pa.bool_(): lambda value: type(value) is bool,
    pa.binary(): lambda value: type(value) is bytes,
    TIMESTAMP: _is_moment,
}

__all__ = ["TopicEncoder", "decode_rows", "describe", "encode_arrow"]
