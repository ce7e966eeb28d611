"""A key's partition is the one that Kafka's default partitioner gives it."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.log.partitioner import (
    NO_KEY,
    key_bytes,
    murmur2,
    partition_of,
    partitions_of,
)

# Apache Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2.
KAFKA = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("data", "signed"), KAFKA)
def test_the_hash_of_bytes_is_kafkas(data: bytes, signed: int):
    assert murmur2(data) == signed & 0xFFFFFFFF


@pytest.mark.parametrize(("data", "signed"), KAFKA)
@pytest.mark.parametrize("partitions", [1, 2, 3, 12, 1_000])
def test_the_partition_is_the_hash_without_its_sign(data: bytes, signed: int, partitions: int):
    wanted = (signed & 0x7FFFFFFF) % partitions  # Utils.toPositive, then the remainder
    assert partition_of(data, partitions) == wanted
    assert partitions_of(pa.array([data] * 3), partitions).tolist() == [wanted] * 3


def test_a_text_is_hashed_as_utf8_and_an_integer_as_kafkas_long():
    assert key_bytes("ä") == b"\xc3\xa4"
    assert key_bytes(1) == b"\0\0\0\0\0\0\0\x01"
    assert key_bytes(-1) == b"\xff" * 8
    assert key_bytes(bytearray(b"a")) == key_bytes(memoryview(b"a")) == b"a"


@pytest.mark.parametrize("key", [1.5, ["a"], object()])
def test_what_has_no_bytes_is_no_key(key: object):
    with pytest.raises(TypeError):
        key_bytes(key)


def test_no_key_has_no_partition():
    assert partition_of(None, 5) == NO_KEY
    assert partitions_of(pa.array(["a", None, "a"]), 5).tolist()[1] == NO_KEY
    assert partitions_of(pa.nulls(2, pa.string()), 5).tolist() == [NO_KEY, NO_KEY]
    assert partitions_of(pa.nulls(2, pa.int64()), 5).tolist() == [NO_KEY, NO_KEY]


def one_by_one(keys: pa.Array, partitions: int) -> list[int]:
    return [partition_of(key, partitions) for key in keys.to_pylist()]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()],
    ids=str,
)
def test_many_texts_go_where_each_of_them_goes(kind: pa.DataType, seed: int):
    random = Random(seed)
    letters = "aä🎈\0z"
    for length in (0, 1, 2, 3, 4, 5, 7, 8, 31, 200):
        texts: list[Any] = ["".join(random.choices(letters, k=length)) for _ in range(40)]
        values = texts if "string" in str(kind) else [text.encode() for text in texts]
        mixed = [*values, None, *values[:3]]
        random.shuffle(mixed)
        keys = pa.array(mixed, kind)
        assert partitions_of(keys, 7).tolist() == one_by_one(keys, 7)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()], ids=str
)
def test_many_integers_go_where_each_of_them_goes(kind: pa.DataType):
    low = -128 if "u" not in str(kind) else 0
    keys = pa.array([*range(low, 128), None], kind)
    assert partitions_of(keys, 11).tolist() == one_by_one(keys, 11)


def test_the_greatest_integers_go_where_each_of_them_goes():
    keys = pa.array([-(2**63), 2**63 - 1, 0, 2**31, -(2**31)])
    assert partitions_of(keys, 1_000).tolist() == one_by_one(keys, 1_000)
    beyond = pa.array([2**63, 2**64 - 1], pa.uint64())
    assert partitions_of(beyond, 1_000).tolist() == one_by_one(beyond, 1_000)


def test_a_slice_of_an_array_goes_where_its_values_go():
    keys = pa.array([f"key-{i}" * (i % 4) for i in range(50)])
    for start, length in ((0, 50), (7, 20), (49, 1), (50, 0)):
        part = keys.slice(start, length)
        assert partitions_of(part, 7).tolist() == one_by_one(part, 7)


def test_keys_spread_evenly():
    counts = np.bincount(partitions_of(pa.array([f"user-{i}" for i in range(40_000)]), 8))
    assert counts.min() > 4_700
    assert counts.max() < 5_300
