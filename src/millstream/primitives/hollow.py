"""Lists that hold nothing, as other libraries hand them over: what Arrow can compute with, and not write.

Where all lists of an array are empty, the array of their values may begin behind its end: at 1 of 0 values, without a
buffer. PyArrow imports such arrays and computes with them, but a message made of one cannot be read again ("File too
short"), and chunks of which one is so cannot be put together. ``solid`` makes ordinary arrays of them.
"""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

Data = TypeVar("Data", pa.Table, pa.RecordBatch)


def solid(data: Data) -> Data:
    """Return the same rows in arrays that can be written; the data itself wherever it can be."""
    for index, kind in enumerate(data.schema.types):
        if pa.types.is_nested(kind):
            column = data.column(index)
            chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            if any(map(_is_hollow, chunks)):
                solid_chunks = [_solid(chunk) for chunk in chunks]
                made = (
                    pa.chunked_array(solid_chunks, kind)
                    if isinstance(column, pa.ChunkedArray)
                    else solid_chunks[0]
                )
                data = data.set_column(index, data.schema.field(index), made)
    return data


def _solid(array: pa.Array) -> pa.Array:
    return array.take(pa.array(range(len(array)), pa.int64())) if _is_hollow(array) else array


def _is_hollow(array: pa.Array) -> bool:
    kind = array.type
    if pa.types.is_struct(kind):
        return any(_is_hollow(array.field(index)) for index in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        values = array.values if not pa.types.is_map(kind) else array.items
        return (len(values) == 0 and values.offset > 0) or _is_hollow(values)
    return False
