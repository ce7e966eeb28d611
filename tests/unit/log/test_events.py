"""Batches and chunks: cut anywhere, they say the same offsets, times and values."""

from __future__ import annotations

from random import Random

import numpy as np
import pyarrow as pa

from millstream.log.contract import PartitionLag
from millstream.log.events import Chunk, EventBatch


def chunk(offsets: list[int], runs: list[tuple[int, int]], *, end: int | None = None) -> Chunk:
    """Events whose value is their offset times ten."""
    data = pa.record_batch({"n": [offset * 10 for offset in offsets]})
    first, last = offsets[0], offsets[-1]
    consecutive = last - first + 1 == len(offsets)
    listed = None if consecutive else np.array(offsets, dtype=np.int64)
    return Chunk(data, first, last + 1 if end is None else end, listed, tuple(runs))


def rows(chunk: Chunk) -> list[tuple[int, int, int]]:
    return list(
        zip(
            chunk.offsets.tolist(),
            chunk.appended_us.tolist(),
            chunk.data.column("n").to_pylist(),
            strict=True,
        )
    )


def some_chunk(random: Random) -> Chunk:
    size = random.randint(1, 12)
    offsets = sorted(random.sample(range(100, 130), size))
    if random.random() < 0.5:
        offsets = list(range(offsets[0], offsets[0] + size))
    runs, left = [], size
    while left:
        share = random.randint(1, left)
        runs.append((random.randint(1, 9), share))
        left -= share
    return chunk(offsets, runs, end=offsets[-1] + 1 + random.choice([0, 3]))


def test_a_chunk_cut_at_any_offset_keeps_what_lies_behind_it(seed: int):
    random = Random(seed)
    for _ in range(200):
        whole = some_chunk(random)
        for offset in range(whole.first_offset, whole.next_offset):
            cut = whole.after(offset)
            assert rows(cut) == [row for row in rows(whole) if row[0] >= offset]
            assert cut.next_offset == whole.next_offset


def test_a_chunk_cut_at_any_row_keeps_what_lies_before_it(seed: int):
    random = Random(seed)
    for _ in range(200):
        whole = some_chunk(random)
        for count in range(1, whole.data.num_rows + 1):
            cut = whole.before_row(count)
            assert rows(cut) == rows(whole)[:count]
            assert cut.next_offset == rows(whole)[count - 1][0] + 1


def test_a_batch_joins_its_chunks_and_copies_only_when_asked():
    one, two = chunk([0, 1], [(5, 2)]), chunk([4, 7], [(6, 1), (7, 1)], end=9)
    batch = EventBatch("t", 3, [one, two])
    assert (batch.first_offset, batch.next_offset, len(batch)) == (0, 9, 4)
    assert batch.offsets().tolist() == [0, 1, 4, 7]
    assert batch.appended_us().tolist() == [5, 5, 6, 7]
    assert batch.to_pylist() == [{"n": 0}, {"n": 10}, {"n": 40}, {"n": 70}]
    assert batch.table.column("n").num_chunks == 2
    assert batch.data.num_rows == 4
    assert batch.data is batch.data
    assert EventBatch("t", 3, [one]).data is one.data
    assert repr(batch) == "EventBatch('t', partition=3, offsets=0..9, rows=4)"


def test_lag_is_what_was_not_read():
    assert PartitionLag(0, 5, 12).events == 7
