"""Background work: retention, merges, compaction, dead segments, checkpoints. What is left is the same events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from millstream.engines.local import upkeep
from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo
from millstream.primitives import limits
from millstream.store import recovery
from millstream.testing.clock import VirtualClock
from tests.log_kit import append_singly, frames, make, numbers, read_rows


def merge_all(log: LocalLog) -> None:
    while log.upkeep.merge():
        continue


def compact(log: LocalLog) -> None:
    for partition in log.upkeep._partitions():
        log.upkeep.compact_partition(partition)


def segment_files(log: LocalLog) -> int:
    return len(list(log.store.directory.segments.glob("*/*.frames")))


# ---- retention ----------------------------------------------------------------------------------


def test_retention_by_time_deletes_whole_frames_that_are_too_old(
    log: LocalLog, clock: VirtualClock
):
    info = make(log, retention="10s")
    for n in range(6):
        log.append(info, [{"n": n}] * 2)
        clock.advance("4s")
    log.upkeep.retain()
    # Appended 24, 20, 16, 12, 8 and 4 seconds ago.
    assert numbers(log, info) == [4, 4, 5, 5]
    assert log.ends(info) == [(8, 12)]
    clock.advance("1h")
    log.upkeep.retain()
    assert log.ends(info) == [(12, 12)]
    log.append(info, {"n": 9})
    assert log.ends(info) == [(12, 13)]
    assert log.size_bytes(info) == frames(log, info)[0][3]


def test_an_event_exactly_as_old_as_the_retention_stays(log: LocalLog, clock: VirtualClock):
    info = make(log, retention="10s")
    log.append(info, {"n": 1})
    clock.advance("10s")
    log.upkeep.retain()
    assert numbers(log, info) == [1]


def test_retention_by_size_keeps_the_youngest_of_each_partition(log: LocalLog):
    info = make(log, schema={"n": int, "data": bytes}, partitions=2, retention_bytes=35_000)
    for n in range(8):
        log.append(info, {"n": n, "data": bytes(10_000)}, partition=0)
    log.append(info, {"n": 8, "data": bytes(10_000)}, partition=1)
    log.upkeep.retain()
    # A frame that lies across the limit stays: a little more may stay, never less.
    assert numbers(log, info, 0) == [4, 5, 6, 7]
    assert numbers(log, info, 1) == [8]


def test_segments_go_when_the_last_of_their_frames_went(log: LocalLog, clock: VirtualClock):
    info = make(log, schema={"n": int, "data": bytes}, retention="10s")
    log.append(info, {"n": 0, "data": bytes(50_000)})
    log.store.segments.drop(info.partition_ids)
    log.append(info, {"n": 1, "data": bytes(50_000)})
    assert segment_files(log) == 2
    log.upkeep.sweep()
    assert segment_files(log) == 2
    clock.advance("11s")
    log.upkeep.retain()
    log.upkeep.sweep()
    assert segment_files(log) == 1  # the one that is still written to


def test_without_retention_nothing_is_deleted(log: LocalLog, clock: VirtualClock):
    info = make(log)
    log.append(info, {"n": 0})
    clock.advance("3650d")
    log.upkeep.retain()
    assert numbers(log, info) == [0]


# ---- merges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [limits.MERGE_FRAMES_MIN - 1, limits.MERGE_FRAMES_MIN])
def test_so_many_small_frames_are_worth_a_merge(log: LocalLog, count: int):
    info = make(log)
    append_singly(log, info, [{"n": n} for n in range(count)])
    before = read_rows(log, info)
    merge_all(log)
    assert len(frames(log, info)) == (1 if count == limits.MERGE_FRAMES_MIN else count)
    assert read_rows(log, info) == before


def test_a_merge_takes_so_many_frames_at_a_time(log: LocalLog):
    info = make(log)
    append_singly(log, info, [{"n": n} for n in range(limits.MERGE_FRAMES_MAX + 100)])
    assert log.upkeep.merge()
    assert len(frames(log, info)) == 1 + 100
    merge_all(log)
    assert len(frames(log, info)) == 2
    assert numbers(log, info) == list(range(limits.MERGE_FRAMES_MAX + 100))


def test_a_large_frame_is_left_alone_and_parts_the_small_ones(log: LocalLog):
    info = make(log, schema={"n": int, "data": bytes})
    small = [{"n": n, "data": b"x"} for n in range(70)]
    append_singly(log, info, small)
    log.append(info, {"n": 70, "data": bytes(limits.MERGE_SMALL_BYTES + 1)})
    append_singly(log, info, small)
    before = read_rows(log, info)
    merge_all(log)
    assert [row[2] for row in frames(log, info)] == [70, 1, 70]
    assert read_rows(log, info) == before


def test_a_merged_frame_has_a_limit(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upkeep, "MERGE_OUTPUT_BYTES", 100_000)
    monkeypatch.setattr(upkeep, "MERGE_FRAMES_MIN", 4)
    info = make(log, schema={"n": int, "data": bytes})
    append_singly(log, info, [{"n": n, "data": bytes(15_000)} for n in range(30)])
    before = read_rows(log, info)
    merge_all(log)
    assert max(row[3] for row in frames(log, info)) <= 100_000
    assert len(frames(log, info)) < 8
    assert read_rows(log, info) == before


def test_a_merge_keeps_offsets_times_and_columns_of_every_day(log: LocalLog, clock: VirtualClock):
    narrow = make(log)
    for n in range(50):
        log.append(narrow, {"n": n})
        clock.advance("1ms")
    wide = make(log, schema={"n": int, "m": str | None})
    for n in range(50, 100):
        log.append(wide if n % 2 else narrow, {"n": n} if n % 2 == 0 else {"n": n, "m": str(n)})
    before = read_rows(log, wide)
    merge_all(log)
    assert len(frames(log, wide)) == 1
    assert read_rows(log, wide) == before
    assert numbers(log, narrow) == list(range(100))


def test_a_column_that_is_added_while_a_merge_runs_is_not_lost(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    narrow = make(log)
    append_singly(log, narrow, [{"n": n} for n in range(70)])
    real = log._topics.get

    def and_then_a_column_comes(name: str) -> TopicInfo:
        found = real(name)
        monkeypatch.setattr(log._topics, "get", real)
        wide = make(log, schema={"n": int, "m": int | None})
        append_singly(log, wide, [{"n": n, "m": 7} for n in range(70, 80)])
        return found

    monkeypatch.setattr(log._topics, "get", and_then_a_column_comes)
    merge_all(log)
    merge_all(log)
    wide = log.topic("numbers")
    assert [row["m"] for _, _, row in read_rows(log, wide)] == [None] * 70 + [7] * 10


def test_frames_that_retention_took_while_a_merge_ran_stay_away(
    log: LocalLog, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    info = make(log, retention="10s")
    append_singly(log, info, [{"n": n} for n in range(70)])
    real = log.upkeep._replace

    def too_late(*args: Any) -> None:
        clock.advance("11s")
        log.upkeep.retain()
        real(*args)

    monkeypatch.setattr(log.upkeep, "_replace", too_late)
    log.upkeep.merge()
    assert log.ends(info) == [(70, 70)]
    assert frames(log, info) == []
    assert log.size_bytes(info) == 0


def test_small_frames_of_a_topic_that_grows_are_merged_again_and_again(log: LocalLog):
    info = make(log)
    for start in range(0, 1_000, 100):
        append_singly(log, info, [{"n": n} for n in range(start, start + 100)])
        merge_all(log)
    assert len(frames(log, info)) <= 10
    assert numbers(log, info) == list(range(1_000))


# ---- compaction ---------------------------------------------------------------------------------


def keyed(log: LocalLog) -> TopicInfo:
    return make(log, schema={"k": str | None, "n": int}, key="k", compaction=True)


def last_of(rows: list[tuple[int, int, dict[str, Any]]]) -> list[tuple[int, int, dict[str, Any]]]:
    """The last event of each key, and all without one, in their places."""
    last = {row["k"]: offset for offset, _, row in rows}
    return [one for one in rows if one[2]["k"] is None or last[one[2]["k"]] == one[0]]


def test_compaction_keeps_the_last_of_each_key_at_its_offset(log: LocalLog, clock: VirtualClock):
    info = keyed(log)
    for n in range(300):
        log.append(info, {"k": None if n % 50 == 0 else f"k{n % 7}", "n": n})
        clock.advance("1ms")
    log.append(info, pa.table({"k": [f"k{n % 3}" for n in range(100)], "n": range(300, 400)}))
    before = read_rows(log, info)
    compact(log)
    assert read_rows(log, info) == last_of(before)
    assert log.ends(info) == [(0, 400)]
    compact(log)
    assert read_rows(log, info) == last_of(before)
    log.append(info, {"k": "k0", "n": 400})
    compact(log)
    assert [row["n"] for _, _, row in read_rows(log, info)].count(400) == 1


def test_a_compacted_topic_is_read_from_any_offset(log: LocalLog):
    info = keyed(log)
    for n in range(60):
        log.append(info, {"k": f"k{n % 9 if n < 50 else 99}", "n": n})
    compact(log)
    rows = read_rows(log, info)
    for start in range(60):
        for most in (1, 3, 100):
            batch = log.read(info, 0, start, events_max=most)
            assert batch is not None
            assert batch.next_offset > start
            wanted = [offset for offset, _, _ in rows if offset >= start]
            assert batch.offsets().tolist() == wanted[: len(batch)]


def test_compaction_waits_until_it_is_worth_it(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upkeep, "_COMPACT_EVENTS_MIN", 10)
    info = keyed(log)
    log.append(info, [{"k": "a", "n": n} for n in range(9)])
    log.upkeep.compact()
    assert len(read_rows(log, info)) == 9
    log.append(info, {"k": "a", "n": 9})
    log.upkeep.compact()
    assert len(read_rows(log, info)) == 1


def test_too_many_keys_are_not_compacted(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    info = keyed(log)
    log.append(info, [{"k": f"k{n % 20}", "n": n} for n in range(60)])
    monkeypatch.setattr(upkeep, "COMPACTION_KEYS_MAX", 19)
    compact(log)
    assert len(read_rows(log, info)) == 60
    monkeypatch.setattr(upkeep, "COMPACTION_KEYS_MAX", 20)
    compact(log)
    assert len(read_rows(log, info)) == 20


def test_a_plain_topic_is_compacted_by_its_key(log: LocalLog):
    info = make(log, schema=None, compaction=True)
    log.append(info, [{"key": b"a", "value": b"1"}, {"key": b"b"}, {"key": b"a", "value": b"2"}])
    compact(log)
    assert [row["value"] for _, _, row in read_rows(log, info)] == [None, b"2"]


def test_compaction_retention_and_merges_go_together(log: LocalLog, clock: VirtualClock):
    info = make(
        log, schema={"k": int, "n": int}, key="k", compaction=True, retention="1h", partitions=2
    )
    for n in range(400):
        log.append(info, {"k": n % 10, "n": n})
        clock.advance("1s")
        if n % 100 == 99:
            merge_all(log)
            compact(log)
    last = {n % 10: n for n in range(400)}
    found = [row["n"] for number in (0, 1) for _, _, row in read_rows(log, info, number)]
    assert sorted(found) == sorted(last.values())
    clock.advance("2h")
    log.upkeep.retain()
    assert [first == end for first, end in log.ends(info)] == [True, True]


def test_a_consumer_passes_the_gaps(log: LocalLog):
    from millstream.testing.log_suite import drain, options

    info = keyed(log)
    log.append(info, [{"k": f"k{n % 4}", "n": n} for n in range(40)])
    compact(log)
    consumer = log.consumer(info, "readers", options(batch_events=1))
    assert drain(consumer) == [36, 37, 38, 39]
    consumer.commit()
    assert sum(one.events for one in consumer.lag()) == 0
    consumer.close()


# ---- checkpoints --------------------------------------------------------------------------------


def test_the_write_ahead_log_is_folded_back_when_it_has_grown(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recovery, "CATALOG_CHECKPOINT_PAGES", 30)
    info = make(log)
    wal = log.store.directory.wal
    sizes = []
    for n in range(300):
        log.append(info, {"n": n})
        log.upkeep.checkpoint()
        sizes.append(wal.stat().st_size)
    assert max(sizes) < sizes[0] + 60 * 4_200
    assert numbers(log, info) == list(range(300))


def test_a_long_reader_holds_the_write_ahead_log_but_nobody_else(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recovery, "CATALOG_CHECKPOINT_PAGES", 1)
    info = make(log)
    place = (info.partition_ids[0], 0, -1)

    def append_and_fold() -> None:
        for n in range(50):
            log.append(info, {"n": n})
            log.upkeep.checkpoint()

    with log.store.read() as old, ThreadPoolExecutor(1) as other:
        assert old.run("log/frames_from", place) == []
        other.submit(append_and_fold).result()
        assert old.run("log/frames_from", place) == []
    log.upkeep.checkpoint()
    assert numbers(log, info) == list(range(50))
