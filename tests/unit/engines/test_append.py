"""Appending to the local log: which frame where, and every limit on the way."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from millstream.engines.local import encoding
from millstream.engines.local.append import SegmentGone
from millstream.engines.local.log import LocalLog
from millstream.primitives import limits
from millstream.primitives.durability import Durability
from millstream.primitives.errors import EventTooLarge, SchemaError, StoreBusy, UnknownTopic
from millstream.store import segment
from tests.log_kit import append_singly, frames, make, numbers, read_rows
from tests.refusals import refused

_SEGMENT, _INLINE, _ROWS, _SIZE = 7, 9, 2, 3


def texts(log: LocalLog, *lengths: int) -> tuple[Any, list[Any]]:
    info = make(log, schema={"text": str})
    log.append(info, [{"text": "x" * length} for length in lengths])
    return info, frames(log, info)


@pytest.mark.parametrize(
    ("durability", "inline_max"),
    [
        (Durability.PROCESS, limits.INLINE_BYTES_MAX_PROCESS),
        (Durability.DISK, limits.INLINE_BYTES_MAX_DISK),
    ],
)
def test_a_small_frame_lies_in_the_catalog_and_a_large_one_in_a_segment(
    log: LocalLog, durability: Durability, inline_max: int
):
    info = make(log, schema={"data": bytes})
    head_bytes = 128  # head, one run, and room to align
    for size, is_inline in ((inline_max - head_bytes - 10, True), (inline_max, False)):
        staged = log.stage(info, {"data": bytes(size)}, durability=durability)
        log.store.write(staged.apply)
        row = frames(log, info)[-1]
        assert (row[_SEGMENT] is None, row[_INLINE] is not None) == (is_inline, is_inline)
        assert (row[_SIZE] <= inline_max) is is_inline


def test_few_dicts_become_rows_and_many_become_arrow(log: LocalLog):
    info = make(log)
    for count in (limits.ROWS_FRAME_EVENTS_MAX, limits.ROWS_FRAME_EVENTS_MAX + 1):
        parts = log.encoder(info).encode([{"n": n} for n in range(count)], 0)
        kinds = [part.frame.to_bytes()[4] for part in parts]
        assert kinds == [2 if count <= limits.ROWS_FRAME_EVENTS_MAX else 1]


def test_an_event_may_be_large_but_not_larger(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "_FRAME_BYTES", 40_000)
    monkeypatch.setattr(encoding, "EVENT_BYTES_MAX", 100_000)
    info, _ = texts(log, 1)
    log.append(info, {"text": "x" * 90_000})
    for data in (
        {"text": "x" * 100_001},
        [{"text": "a"}, {"text": "x" * 100_001}, {"text": "b"}],
        pa.table({"text": ["a"] * 50 + ["x" * 100_001]}),
    ):
        with refused(EventTooLarge, "numbers", "100,000"):
            log.append(info, data)
    assert [len(row["text"]) for _, _, row in read_rows(log, info)] == [1, 90_000]


def test_the_real_limit_of_an_event_holds(log: LocalLog):
    info = make(log, schema={"data": bytes})
    with refused(EventTooLarge, f"{limits.EVENT_BYTES_MAX:,}"):
        log.append(info, {"data": bytes(limits.EVENT_BYTES_MAX + 1)})
    assert log.ends(info) == [(0, 0)]


def test_what_is_too_much_for_a_frame_is_split(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "_FRAME_BYTES", 40_000)
    info, rows = texts(log, *[15_000] * 9)
    assert all(row[_SIZE] <= 40_000 + 300 for row in rows)
    assert sum(row[_ROWS] for row in rows) == 9
    assert len(read_rows(log, info)) == 9


def test_a_frame_holds_so_many_events(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "FRAME_EVENTS_MAX", 1_000)
    info = make(log)
    appended = log.append(info, pa.table({"n": range(2_500)}))
    assert max(row[_ROWS] for row in frames(log, info)) <= 1_000
    assert [one.first_offset for one in appended[1:]] == [one.next_offset for one in appended[:-1]]
    assert numbers(log, info) == list(range(2_500))


def test_a_segment_is_sealed_when_it_is_full(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 50_000)
    info = make(log, schema={"data": bytes})
    for _ in range(5):
        log.append(info, {"data": bytes(20_000)})
    with log.store.read() as snapshot:
        segments = snapshot.run("log/segments_all")
        still_open = snapshot.run("log/segments_open")
    sizes = [
        log.store.directory.segment(partition_id, segment_id).stat().st_size
        for segment_id, partition_id, _ in segments
    ]
    assert len(segments) == 3
    assert len(still_open) == 1
    assert max(sizes) <= 50_000


def test_a_frame_larger_than_a_segment_has_one_alone(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 50_000)
    info = make(log, schema={"data": bytes})
    for size in (20_000, 90_000, 20_000):
        log.append(info, {"data": bytes(size)})
    assert len({row[_SEGMENT] for row in frames(log, info)}) == 3
    assert [len(row["data"]) for _, _, row in read_rows(log, info)] == [20_000, 90_000, 20_000]


def test_many_partitions_get_their_share_of_one_call(log: LocalLog):
    info = make(log, key="n", partitions=50)
    appended = log.append(info, pa.table({"n": range(2_000)}))
    assert sorted(one.partition for one in appended) == list(range(50))
    assert sum(end - first for first, end in log.ends(info)) == 2_000


def test_events_without_a_key_stay_together_and_take_turns(log: LocalLog):
    info = make(log, partitions=3)
    used = []
    for start in range(0, 30, 10):
        [where] = log.append(info, [{"n": n} for n in range(start, start + 10)])
        used.append(where.partition)
    assert sorted(used) == [0, 1, 2]


def test_a_null_key_goes_anywhere_and_a_key_to_its_place(log: LocalLog):
    info = make(log, schema={"k": str | None, "n": int}, key="k", partitions=4)
    home = log.append(info, {"k": "ann", "n": 0})[0].partition
    for form in (
        [{"k": "ann", "n": 1}, {"k": None, "n": 2}],
        pa.table({"k": ["ann", None], "n": [3, 4]}),
    ):
        log.append(info, form)
    assert {0, 1, 3} <= set(numbers(log, info, home))
    assert sum(end for _, end in log.ends(info)) == 5


@pytest.mark.parametrize("data", [5, "text", b"bytes", None, object(), (row for row in [{"n": 1}])])
def test_what_is_no_event_is_refused(log: LocalLog, data: object):
    with refused(SchemaError, "numbers", type(data).__name__):
        log.append(make(log), data)


def test_a_deleted_topic_takes_nothing_more(log: LocalLog):
    info = make(log, schema={"data": bytes})
    staged = log.stage(info, {"data": bytes(100_000)})
    log.delete_topic("numbers")
    with refused(UnknownTopic, "numbers"):
        log.append(info, {"data": b"x"})
    with pytest.raises((UnknownTopic, SegmentGone)):
        log.store.write(staged.apply)


def test_a_segment_that_goes_before_the_commit_costs_another_attempt(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    info = make(log, schema={"data": bytes})
    real_stage, attempts = log.stage, []

    def stage_and_lose(*args: Any, **options: Any) -> Any:
        staged = real_stage(*args, **options)
        attempts.append(staged)
        if len(attempts) == 1:
            # What retention does to a segment without frames: sealed, found dead, removed.
            log.store.segments.drop(info.partition_ids)
            log.upkeep.sweep()
        return staged

    monkeypatch.setattr(log, "stage", stage_and_lose)
    log.append(info, {"data": bytes(100_000)})
    assert len(attempts) == 2
    assert len(read_rows(log, info)) == 1


def test_an_append_gives_up_when_its_segment_goes_every_time(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    info = make(log, schema={"data": bytes})

    def gone(*_: Any, **__: Any) -> Any:
        raise SegmentGone

    monkeypatch.setattr(log.store, "write", gone)
    with refused(StoreBusy, "numbers"):
        log.append(info, {"data": b"x"})
    transaction = log.transaction()
    transaction.append(info, {"data": b"x"})
    with refused(StoreBusy):
        transaction.finish()


def test_a_transaction_over_a_lost_segment_is_staged_again(log: LocalLog):
    info = make(log, schema={"data": bytes})
    transaction = log.transaction()
    transaction.append(info, {"data": bytes(100_000)})
    log.store.segments.drop(info.partition_ids)
    log.upkeep.sweep()
    transaction.finish()
    assert len(read_rows(log, info)) == 1


def test_the_time_of_an_append_is_kept_for_each_event(log: LocalLog, clock: Any):
    info = make(log)
    begin = clock.now_us()
    for n in range(3):
        append_singly(log, info, [{"n": n}, {"n": n}])
        clock.advance("1s")
    times = [us - begin for _, us, _ in read_rows(log, info)]
    assert times == [0, 0, 1_000_000, 1_000_000, 2_000_000, 2_000_000]


def test_events_that_threads_append_at_once_share_a_frame_and_know_their_offsets(log: LocalLog):
    info = make(log, schema={"text": str})
    staged = [log.stage(info, [{"text": f"{n}-{m}"} for m in range(n)]) for n in (1, 3, 16, 2)]
    kinds = {one.kind for one in staged}
    assert kinds == {(info.partition_ids[0], info.schema_id)}
    results = log.store.write(lambda tx: staged[0].join(tx, staged))
    assert [(one.first_offset, one.next_offset) for [one] in results] == [
        (0, 1),
        (1, 4),
        (4, 20),
        (20, 22),
    ]
    assert len(frames(log, info)) == 1
    texts = [row["text"] for _, _, row in read_rows(log, info)]
    assert texts == [f"{n}-{m}" for n in (1, 3, 16, 2) for m in range(n)]


def test_a_shared_frame_stays_small_enough_for_the_catalog(log: LocalLog):
    info = make(log, schema={"data": bytes})
    size = limits.INLINE_BYTES_MAX_DISK // 3
    staged = [
        log.stage(info, {"data": bytes([n]) * size}, durability=Durability.DISK) for n in range(5)
    ]
    log.store.write(lambda tx: staged[0].join(tx, staged))
    rows = frames(log, info)
    assert [row[_ROWS] for row in rows] == [2, 2, 1]
    assert all(row[_SIZE] <= limits.INLINE_BYTES_MAX_DISK for row in rows)
    assert [row["data"][0] for _, _, row in read_rows(log, info)] == list(range(5))


def test_what_is_numbered_large_or_for_several_partitions_shares_no_frame(log: LocalLog):
    info = make(log, schema={"n": int}, partitions=2, key="n")
    assert log.stage(info, [{"n": n} for n in range(16)]).kind is None
    assert log.stage(info, [{"n": 1}] * 17).kind is None, "columns"
    large = make(log, "large", schema={"data": bytes})
    assert log.stage(large, {"data": bytes(limits.INLINE_BYTES_MAX_DISK)}).kind is None
