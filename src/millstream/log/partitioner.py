"""Which partition a key belongs to: Kafka's default, so that a key keeps its partition after graduating.

The key's bytes are hashed with MurmurHash2 (Austin Appleby; 32 bits, seed 0x9747b28c) and taken modulo the number of
partitions, with the sign bit cleared, as in Kafka's ``BuiltInPartitioner.partitionForKey``. Text is hashed as UTF-8, an
integer as 8 bytes, big-endian (Kafka's LongSerializer), bytes as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_UNSIGNED: Final = 0x7FFFFFFF

NO_KEY: Final = -1
"""The partition of a null key: any will do."""


def murmur2(data: bytes) -> int:
    """Return the 32-bit hash of bytes, unsigned."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def key_bytes(key: object) -> bytes:
    """Return the bytes of a key as they are hashed."""
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, int):
        # An unsigned one beyond 63 bits has the bytes of the negative one, as if Java's cast had made it.
        return key.to_bytes(8, "big", signed=key < 2**63)
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    raise TypeError(f"a {type(key).__name__} cannot be a key")


def partition_of(key: object, partitions: int) -> int:
    """Return the partition of one key; NO_KEY for None."""
    if key is None:
        return NO_KEY
    return (murmur2(key_bytes(key)) & _UNSIGNED) % partitions


def partitions_of(keys: pa.Array, partitions: int) -> npt.NDArray[np.int64]:
    """Return the partition of each key of an Arrow array; NO_KEY where it is null."""
    if pa.types.is_integer(keys.type):
        wide = pa.uint64() if keys.type == pa.uint64() else pa.int64()
        values = keys.cast(wide).fill_null(0).to_numpy(zero_copy_only=False)
        matrix = values.astype(values.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, 8)
        hashes = _hash_rows(matrix, 8)
    else:
        hashes = _hash_variable(keys)
    result = (hashes & np.uint32(_UNSIGNED)).astype(np.int64) % partitions
    if keys.null_count:
        result[keys.is_null().to_numpy(zero_copy_only=False)] = NO_KEY
    return result


def _hash_variable(keys: pa.Array) -> npt.NDArray[np.uint32]:
    binary = keys.cast(pa.binary()) if not pa.types.is_binary(keys.type) else keys
    _, offsets_buffer, data_buffer = binary.buffers()
    count = len(binary)
    hashes = np.zeros(count, dtype=np.uint32)
    if data_buffer is None or not count:
        hashes[:] = murmur2(b"")
        return hashes
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[
        binary.offset : binary.offset + count + 1
    ]
    data = np.frombuffer(data_buffer, dtype=np.uint8)
    lengths = np.diff(offsets)
    # Keys of one length are hashed together: a key column has few lengths and many values.
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        starts = offsets[:-1][rows]
        matrix = data[starts[:, None] + np.arange(length, dtype=np.int64)]
        hashes[rows] = _hash_rows(np.ascontiguousarray(matrix), length)
    return hashes


def _hash_rows(matrix: npt.NDArray[np.uint8], length: int) -> npt.NDArray[np.uint32]:
    m = np.uint32(_M)
    h = np.full(len(matrix), _SEED ^ length, dtype=np.uint32)
    whole = length & ~3
    if whole:
        words = np.ascontiguousarray(matrix[:, :whole]).view("<u4")
        for i in range(whole // 4):
            k = words[:, i] * m
            k ^= k >> np.uint32(24)
            k *= m
            h *= m
            h ^= k
    if length > whole:
        for i in range(length - whole):
            h ^= matrix[:, whole + i].astype(np.uint32) << np.uint32(8 * i)
        h *= m
    h ^= h >> np.uint32(13)
    h *= m
    h ^= h >> np.uint32(15)
    return h
