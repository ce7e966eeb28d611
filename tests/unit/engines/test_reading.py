"""Reading the local log: limits, places, times, columns of another day."""

from __future__ import annotations

from random import Random

import pytest

from millstream.engines.local import reading
from millstream.engines.local.log import LocalLog
from millstream.primitives import limits
from millstream.primitives.errors import OffsetOutOfRange, StoreCorrupt
from millstream.testing.clock import VirtualClock
from tests.log_kit import append_singly, frames, make, numbers, read_rows
from tests.refusals import refused


def test_a_read_ends_after_so_many_events(log: LocalLog):
    info = make(log)
    append_singly(log, info, [{"n": n} for n in range(20)])
    log.append(info, [{"n": n} for n in range(20, 60)])
    for first in (0, 19, 20, 33):
        for most in (1, 2, 27, 60):
            batch = log.read(info, 0, first, events_max=most)
            assert batch is not None
            assert batch.offsets().tolist() == list(range(first, min(60, first + most)))
            assert [row["n"] for row in batch.to_pylist()] == batch.offsets().tolist()


def test_a_read_ends_after_so_many_bytes_but_gives_one_frame(log: LocalLog):
    info = make(log, schema={"data": bytes})
    for _ in range(6):
        log.append(info, {"data": bytes(10_000)})
    for bytes_max, events in ((1, 1), (10_000, 1), (25_000, 2), (10**6, 6)):
        batch = log.read(info, 0, 0, bytes_max=bytes_max)
        assert batch is not None
        assert len(batch) == events


def test_a_read_ends_after_so_many_frames(log: LocalLog):
    info = make(log)
    count = limits.READ_FRAMES_MAX + 70
    append_singly(log, info, [{"n": n} for n in range(count)])
    batch = log.read(info, 0, 0)
    assert batch is not None
    assert limits.READ_FRAMES_MAX <= len(batch) < limits.READ_FRAMES_MAX + 64
    assert numbers(log, info) == list(range(count))


def test_an_offset_that_is_not_there_is_refused_with_those_that_are(log: LocalLog):
    info = make(log)
    log.append(info, [{"n": n} for n in range(5)])
    assert log.read(info, 0, 5) is None
    for offset in (-1, 6, 10**12):
        with refused(OffsetOutOfRange, "numbers", "0 to 5", str(offset)):
            log.read(info, 0, offset)


def test_a_segment_that_is_gone_is_said_after_a_second_look(log: LocalLog):
    info = make(log, schema={"data": bytes})
    log.append(info, {"data": bytes(10_000)})
    log.store.segments.drop(info.partition_ids)
    log.store.directory.segment(info.partition_ids[0], 1).rename(log.store.path / "run" / "kept")
    with refused(StoreCorrupt, "a segment is missing", "numbers"):
        log.read(info, 0, 0)
    (log.store.path / "run" / "kept").rename(log.store.directory.segment(info.partition_ids[0], 1))
    assert log.read(info, 0, 0) is not None


@pytest.mark.parametrize("merged", [False, True])
def test_a_time_leads_to_the_first_event_of_that_time_or_later(
    log: LocalLog, clock: VirtualClock, merged: bool, seed: int
):
    random = Random(seed)
    info = make(log)
    for n in range(100):
        log.append(info, [{"n": n}] * random.randint(1, 3))
        clock.jump(random.choice([0, 1, 1, 5_000]))
    if merged:
        log.upkeep.merge()
        assert len(frames(log, info)) < 5
    rows = read_rows(log, info)
    begin, end = rows[0][1], rows[-1][1]
    for at_us in sorted(random.sample(range(begin - 1, end + 2), 60)):
        wanted = next((offset for offset, us, _ in rows if us >= at_us), len(rows))
        assert log.offset_at(info, 0, at_us) == wanted


def test_a_time_before_everything_that_retention_left_is_its_first_event(
    log: LocalLog, clock: VirtualClock
):
    info = make(log, retention="10s")
    for n in range(5):
        log.append(info, {"n": n})
        clock.advance("5s")
    log.upkeep.retain()
    first = log.ends(info)[0][0]
    assert first > 0
    assert log.offset_at(info, 0, 0) == first


def test_a_clock_that_goes_back_does_not_lose_events(log: LocalLog, clock: VirtualClock):
    info = make(log)
    for n in range(3):
        log.append(info, {"n": n})
        clock.jump(-1_000_000)
    assert numbers(log, info) == [0, 1, 2]
    assert log.offset_at(info, 0, clock.now_us()) == 0


def test_frames_of_several_columns_and_encodings_come_as_one(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    narrow = make(log)
    log.append(narrow, {"n": 0})
    log.append(narrow, [{"n": n} for n in range(1, 30)])
    wide = make(log, schema={"n": int, "m": int | None})
    log.append(wide, {"n": 30, "m": 1})
    log.append(narrow, {"n": 31})
    log.append(wide, [{"n": n, "m": 2} for n in range(32, 60)])
    monkeypatch.setattr(reading, "_READ_AT_ONCE_BYTES", 1)
    rows = [row for _, _, row in read_rows(log, wide)]
    assert [row["n"] for row in rows] == list(range(60))
    assert [row["m"] for row in rows] == [None] * 30 + [1, None] + [2] * 28
    assert [row for _, _, row in read_rows(log, narrow)] == [{"n": n} for n in range(60)]


def test_frames_that_lie_behind_each_other_are_read_at_once(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    info = make(log, schema={"data": bytes})
    for n in range(10):
        log.append(info, {"data": bytes([n]) * 5_000})
    reads: list[int] = []
    real = log.store.frames.read

    def counted(partition_id: int, segment_id: int, position: int, size_bytes: int) -> memoryview:
        reads.append(size_bytes)
        return real(partition_id, segment_id, position, size_bytes)

    monkeypatch.setattr(log.store.frames, "read", counted)
    assert [row["data"][0] for _, _, row in read_rows(log, info)] == list(range(10))
    assert len(reads) == 1
