"""Tables as arguments and results: pyarrow's tables and record batches, Polars' frames. As bytes: Arrow's IPC streams.

They are stored as MessagePack extensions of the codes below, so that they come back as what they were, with an
annotation or without one. Codes are never used again for something else.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pyarrow as pa

from millstream.primitives.hollow import solid

TABLE = 1
RECORD_BATCH = 2
POLARS_FRAME = 3


def to_extension(value: object) -> msgspec.msgpack.Ext | None:
    """Return the stored form of a table; None for what is none. Raises ValueError for what Arrow cannot write."""
    if isinstance(value, pa.Table):
        return msgspec.msgpack.Ext(TABLE, _stream(value.schema, value.to_batches()))
    if isinstance(value, pa.RecordBatch):
        return msgspec.msgpack.Ext(RECORD_BATCH, _stream(value.schema, [value]))
    if type(value).__module__.startswith("polars.") and type(value).__name__ == "DataFrame":
        data = io.BytesIO()
        frame: Any = value  # Named by its module, so that Polars is imported by those who use it.
        frame.write_ipc_stream(data)
        return msgspec.msgpack.Ext(POLARS_FRAME, data.getvalue())
    return None


def from_extension(code: int, data: memoryview) -> object:
    """Return the table of a stored form; other extensions as they are. Raises ValueError when it cannot be read."""
    if code not in (TABLE, RECORD_BATCH, POLARS_FRAME):
        return msgspec.msgpack.Ext(code, bytes(data))
    try:
        return _table(code, data)
    except (
        Exception
    ) as error:  # Each of the two libraries has a tree of its own, and OSError for damaged bytes.
        raise ValueError(f"the table cannot be read: {error}") from error


def _table(code: int, data: memoryview) -> object:
    if code == POLARS_FRAME:
        import polars

        return polars.read_ipc_stream(bytes(data))
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all() if code == TABLE else reader.read_next_batch()


def _stream(schema: pa.Schema, batches: list[pa.RecordBatch]) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(solid(batch))
    return memoryview(sink.getvalue())
