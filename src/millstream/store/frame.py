"""Frames: the unit of storage, of checksums and of visibility.

A frame holds events that were appended together (or merged later). All numbers are little-endian:

    0   4  magic "MSF1"
    4   1  encoding: 1 Arrow IPC record batch, 2 rows (MessagePack)
    5   1  flags: 1 = offsets are listed (the frame was compacted, so they are not consecutive)
    6   2  zero
    8   4  schema id
    12  4  rows
    16  8  bytes of the whole frame
    24  4  runs
    28  4  position of the payload
    32  8  bytes of the payload
    40  8  partition id
    48  12 zero
    60  4  CRC32C of all bytes of the frame but these four
    64     runs: (i64 microseconds of the append, u32 rows, u32 zero) each
           offsets, if flagged: i64 a row, relative to the frame's first offset
           zeros up to a multiple of 64, then the payload, then zeros up to a multiple of 8

Offsets are given by the catalog when the frame is committed, so a frame does not name its own. A reader checks magic,
lengths, partition, rows and CRC, and the CRC against the catalog's row, before it uses a byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import crc32c
import numpy as np
import numpy.typing as npt

from millstream.primitives.errors import StoreCorrupt
from millstream.store.disk import Buffer

MAGIC: Final = b"MSF1"
ARROW: Final = 1
ROWS: Final = 2
_SPARSE: Final = 1
_HEAD: Final = struct.Struct("<4sBBHIIQIIQQ12xI")
_RUN: Final = struct.Struct("<qII")
_ONE_RUN: Final = struct.Struct("<qII48x")
"""The run of a frame that was appended at once, with the zeros up to its payload."""
_CRC: Final = struct.Struct("<I")
HEAD_BYTES: Final = 64
_CRC_POSITION: Final = 60
_ALIGN: Final = 64
_ZEROS: Final = bytes(_ALIGN)
_COPIED_BYTES_MAX: Final = 4096

Run = tuple[int, int]
"""(microseconds of the append, rows)"""


class EncodedFrame(NamedTuple):
    """A frame ready to be written: its buffers in order, and what the catalog says of it."""

    buffers: tuple[Buffer, ...]
    size_bytes: int
    rows: int
    checksum: int
    first_us: int
    last_us: int

    def to_bytes(self) -> bytes:
        """Return the frame in one piece."""
        return b"".join(self.buffers)


class Frame(NamedTuple):
    """A frame that was read and found whole."""

    encoding: int
    schema_id: int
    rows: int
    runs: tuple[Run, ...]
    relative_offsets: npt.NDArray[np.int64] | None
    payload: memoryview


def encode_frame(
    payload: Buffer,
    *,
    encoding: int,
    schema_id: int,
    partition_id: int,
    rows: int,
    runs: Sequence[Run],
    relative_offsets: npt.NDArray[np.int64] | None = None,
) -> EncodedFrame:
    """Return the frame around a payload, which is copied only if it is so small that a checksum's call costs more."""
    rest = _rest_of_head(runs, relative_offsets)
    payload_position = HEAD_BYTES + len(rest)
    payload_bytes = len(payload)
    tail = _ZEROS[: -payload_bytes % 8]
    size = payload_position + payload_bytes + len(tail)
    head = _HEAD.pack(
        MAGIC,
        encoding,
        0 if relative_offsets is None else _SPARSE,
        0,
        schema_id,
        rows,
        size,
        len(runs),
        payload_position,
        payload_bytes,
        partition_id,
        0,
    )
    head = head[:_CRC_POSITION]
    checksum = crc32c.crc32c(head)
    buffers: tuple[Buffer, ...]
    if payload_bytes <= _COPIED_BYTES_MAX:
        rest = b"".join((rest, payload, tail))
        checksum = crc32c.crc32c(rest, checksum)
        buffers = (head, _CRC.pack(checksum), rest)
    else:
        for part in (rest, payload, tail):
            checksum = crc32c.crc32c(part, checksum)
        buffers = (head + _CRC.pack(checksum) + rest, payload, tail)
    if len(runs) == 1:
        return EncodedFrame(buffers, size, rows, checksum, runs[0][0], runs[0][0])
    # Not the first and the last run: clocks go back, and processes commit in another order than they read theirs.
    first_us = min(us for us, _ in runs)
    last_us = max(us for us, _ in runs)
    return EncodedFrame(buffers, size, rows, checksum, first_us, last_us)


def _rest_of_head(runs: Sequence[Run], relative_offsets: npt.NDArray[np.int64] | None) -> bytes:
    if len(runs) == 1 and relative_offsets is None:
        return _ONE_RUN.pack(*runs[0], 0)
    rest = b"".join([_RUN.pack(us, n, 0) for us, n in runs])
    if relative_offsets is not None:
        rest += relative_offsets.astype("<i8").tobytes()
    return rest + _ZEROS[: -(HEAD_BYTES + len(rest)) % _ALIGN]


def decode_frame(
    data: memoryview, *, partition_id: int, rows: int, checksum: int, where: str, offset: int
) -> Frame:
    """Return the frame in ``data``, or raise StoreCorrupt if any byte is not as it was committed.

    ``where`` and ``offset``, that of its first event, are for the error.
    """
    if len(data) < HEAD_BYTES:
        raise _corrupt(where, offset, f"{len(data)} bytes are no frame")
    (
        magic,
        encoding,
        flags,
        _,
        schema_id,
        n,
        size,
        runs_count,
        position,
        length,
        partition,
        crc,
    ) = _HEAD.unpack_from(data)
    if magic != MAGIC or size != len(data) or crc != checksum:
        raise _corrupt(where, offset, "the head is not the one that was committed")
    actual = crc32c.crc32c(data[HEAD_BYTES:], crc32c.crc32c(data[:_CRC_POSITION]))
    if actual != checksum:
        raise _corrupt(where, offset, f"checksum {actual:08x}")
    if n != rows or partition != partition_id or position + length > size:
        raise _corrupt(where, offset, f"{n} rows of partition {partition}")
    runs: tuple[Run, ...]
    if runs_count == 1:
        runs = (_RUN.unpack_from(data, HEAD_BYTES)[:2],)
    else:
        listed = _RUN.iter_unpack(data[HEAD_BYTES : HEAD_BYTES + runs_count * _RUN.size])
        runs = tuple((us, count) for us, count, _ in listed)
    offsets = None
    if flags & _SPARSE:
        start = HEAD_BYTES + runs_count * _RUN.size
        offsets = np.frombuffer(data[start : start + 8 * n], dtype="<i8")
    return Frame(encoding, schema_id, n, runs, offsets, data[position : position + length])


def _corrupt(where: str, offset: int, found: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"a frame is damaged: {found}",
        where=f"{where}, offset {offset}",
        expected="the bytes that were committed",
        next_step="run `millstream check` on the store, and restore a copy",
    )
