"""Any events of any schema come back as they went, in every form and encoding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local.log import LocalLog
from millstream.log.partitioner import murmur2, partition_of, partitions_of
from millstream.primitives.errors import StoreCorrupt
from millstream.primitives.schema import to_arrow_schema, us_datetime
from millstream.store import Store
from millstream.store.frame import ARROW, ROWS, decode_frame, encode_frame
from tests.log_kit import make, read_rows

TEXT = st.text(max_size=20)
MOMENTS = st.integers(-62_135_500_000_000_000, 253_402_300_000_000_000).map(us_datetime)
KINDS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    datetime: MOMENTS,
    timedelta: st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
    Decimal: st.decimals(-(10**12), 10**12, places=9),
    list[int]: st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    list[str]: st.lists(TEXT, max_size=4),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.large_string(): TEXT,
    pa.struct([("a", pa.int64()), ("b", pa.string())]): st.fixed_dictionaries(
        {"a": st.none() | st.integers(-5, 5), "b": st.none() | TEXT}
    ),
}


@st.composite
def schemas_and_rows(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=5))
    nullable = [draw(st.booleans()) for _ in kinds]
    fields = {
        f"c{i}": pa.field(f"c{i}", make_type(kind), nullable=may)
        for i, (kind, may) in enumerate(zip(kinds, nullable, strict=True))
    }
    row = st.fixed_dictionaries(
        {
            f"c{i}": (st.none() | KINDS[kind]) if may else KINDS[kind]
            for i, (kind, may) in enumerate(zip(kinds, nullable, strict=True))
        }
    )
    return fields, draw(st.lists(row, min_size=1, max_size=30))


def make_type(kind: Any) -> pa.DataType:
    return to_arrow_schema({"x": kind}).field("x").type


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLog]:
    path = tmp_path_factory.mktemp("roundtrip") / "log.mill"
    with Store.open(path, durability="process") as store:
        made = LocalLog(store)
        store.duty.stop()
        yield made
        made.close()


names = count()


@given(given_=schemas_and_rows(), data=st.data())
@settings(max_examples=150)
def test_any_events_come_back_as_they_went(
    log: LocalLog, given_: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
):
    fields, rows = given_
    schema = pa.schema(list(fields.values()))
    info = make(log, f"t{next(names)}", schema=schema)
    stored: list[dict[str, Any]] = []
    left = rows
    while left:
        size = data.draw(st.integers(1, len(left)))
        part, left = left[:size], left[size:]
        form = data.draw(st.sampled_from(["one", "list", "table", "batch", "chunks"]))
        table = pa.Table.from_pylist(part, schema=schema)
        if form == "one":
            for row in part:
                log.append(info, row)
        elif form == "list":
            log.append(info, part)
        elif form == "table":
            log.append(info, table)
        elif form == "batch":
            log.append(info, table.combine_chunks().to_batches()[0])
        else:
            log.append(info, pa.concat_tables([table.slice(0, 1), table.slice(1)]))
        stored += part
    found = [row for _, _, row in read_rows(log, info, events_max=7)]
    assert found == pa.Table.from_pylist(stored, schema=schema).to_pylist()
    plain = [row for row in stored if "struct" not in str(schema)]
    assert not plain or found == stored


@given(st.floats(), st.binary(max_size=5))
def test_every_float_comes_back_to_the_bit(log: LocalLog, value: float, data: bytes):
    info = make(log, "floats", schema={"x": float, "data": bytes})
    log.append(info, {"x": value, "data": data})
    log.append(info, pa.table({"x": [value], "data": [data]}))
    end = log.ends(info)[0][1]
    batch = log.read(info, 0, end - 2)
    assert batch is not None
    for found in batch.data.column("x").to_pylist():
        assert math.copysign(1, found) == math.copysign(1, value) or math.isnan(value)
        assert found == value or (math.isnan(found) and math.isnan(value))


frames = st.fixed_dictionaries(
    {
        "payload": st.binary(max_size=300),
        "encoding": st.sampled_from([ARROW, ROWS]),
        "schema_id": st.integers(0, 2**32 - 1),
        "partition_id": st.integers(0, 2**63 - 1),
        "runs": st.lists(
            st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 1_000)),
            min_size=1,
            max_size=5,
        ),
        "sparse": st.booleans(),
    }
)


def encoded(parts: dict[str, Any]) -> tuple[Any, Any]:
    """Return the frame, and the offsets that it lists."""
    rows = sum(count for _, count in parts["runs"])
    offsets = np.arange(rows, dtype=np.int64) * 3 if parts["sparse"] else None
    frame = encode_frame(
        parts["payload"],
        encoding=parts["encoding"],
        schema_id=parts["schema_id"],
        partition_id=parts["partition_id"],
        rows=rows,
        runs=parts["runs"],
        relative_offsets=offsets,
    )
    return frame, offsets


@given(frames)
def test_a_frame_comes_back_as_it_was_made(parts: dict[str, Any]):
    frame, offsets = encoded(parts)
    data = frame.to_bytes()
    assert len(data) == frame.size_bytes
    assert len(data) % 8 == 0
    times = [us for us, _ in parts["runs"]]
    assert (frame.first_us, frame.last_us) == (min(times), max(times))
    back = decode_frame(
        memoryview(data),
        partition_id=parts["partition_id"],
        rows=frame.rows,
        checksum=frame.checksum,
        where="here",
        offset=0,
    )
    assert bytes(back.payload) == parts["payload"]
    assert (back.encoding, back.schema_id, back.rows) == (
        parts["encoding"],
        parts["schema_id"],
        frame.rows,
    )
    assert list(back.runs) == parts["runs"]
    if offsets is None:
        assert back.relative_offsets is None
    else:
        assert np.array_equal(back.relative_offsets, offsets)


@given(parts=frames, place=st.integers(0), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_a_frame_with_any_bit_flipped_or_any_end_cut_is_refused(
    parts: dict[str, Any], place: int, bit: int, cut: int
):
    frame, _ = encoded(parts)
    data = bytearray(frame.to_bytes())
    data[place % len(data)] ^= 1 << bit
    whole = frame.to_bytes()
    for damaged in (bytes(data), whole[: max(0, len(whole) - 1 - cut)], whole + bytes(8)):
        with pytest.raises(StoreCorrupt) as caught:
            decode_frame(
                memoryview(damaged),
                partition_id=parts["partition_id"],
                rows=frame.rows,
                checksum=frame.checksum,
                where="here",
                offset=17,
            )
        assert caught.value.where == "here, offset 17"


def kafkas_murmur2(data: bytes) -> int:
    """Kafka's Utils.murmur2, line by line as in Java, with its signed 32 bits."""

    def signed(value: int) -> int:
        value &= 0xFFFFFFFF
        return value - (1 << 32) if value >= 1 << 31 else value

    def shifted(value: int, bits: int) -> int:  # >>> of Java
        return (value & 0xFFFFFFFF) >> bits

    m, length = 0x5BD1E995, len(data)
    h = signed(0x9747B28C ^ length)
    for i in range(length // 4):
        k = signed(int.from_bytes(data[4 * i : 4 * i + 4], "little"))
        k = signed(k * m)
        k = signed(k ^ shifted(k, 24))
        k = signed(k * m)
        h = signed(signed(h * m) ^ k)
    tail = data[length & ~3 :]
    if len(tail) == 3:
        h = signed(h ^ (tail[2] & 0xFF) << 16)
    if len(tail) >= 2:
        h = signed(h ^ (tail[1] & 0xFF) << 8)
    if tail:
        h = signed(signed(h ^ (tail[0] & 0xFF)) * m)
    h = signed(h ^ shifted(h, 13))
    h = signed(h * m)
    return signed(h ^ shifted(h, 15))


@given(st.lists(st.binary(max_size=40), min_size=1), st.integers(1, 10_000))
def test_any_key_goes_where_kafka_puts_it(keys: list[bytes], partitions: int):
    wanted = [(kafkas_murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
    assert [partition_of(key, partitions) for key in keys] == wanted
    assert partitions_of(pa.array(keys, pa.binary()), partitions).tolist() == wanted
    assert [murmur2(key) for key in keys] == [kafkas_murmur2(key) & 0xFFFFFFFF for key in keys]
