"""Producers of the local log: batches, back-pressure, repeats, fences and gaps."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from millstream.engines.local.append import Overlap, stage
from millstream.engines.local.log import LocalLog
from millstream.log.batching import Stamp, batching_policy
from millstream.log.definition import TopicInfo
from millstream.log.events import Appended
from millstream.primitives import limits
from millstream.primitives.errors import (
    BufferFull,
    ConfigurationError,
    Fenced,
    OutOfOrderSequence,
    StoreBusy,
    StoreClosed,
)
from millstream.testing.log_suite import SOON_S
from tests.log_kit import AT_ONCE, NEVER, frames, make, numbers
from tests.refusals import refused

# ---- the idempotent append itself ---------------------------------------------------------------


def put(log: LocalLog, info: TopicInfo, first: int, count: int, **stamp: Any) -> Appended:
    """Store so many events under the sequences from ``first`` on."""
    settings: dict[str, Any] = {"producer_id": producer_id(log), "epoch": 0, **stamp}
    parts = log.encoder(info).encode([{"n": n} for n in range(first, first + count)], 0)
    staged = stage(log.store, info, parts, stamps=[Stamp(first_sequence=first, **settings)])
    [appended] = log.store.write(staged.apply)
    return appended


def producer_id(log: LocalLog, name: str = "p") -> int:
    with log.store.read() as snapshot:
        rows = snapshot._cursor.execute("SELECT id FROM producer WHERE name = ?", (name,))
        found = rows.fetchone()
    if found is None:
        [found] = log.store.write(lambda tx: tx.run("log/producer_open", (name,)))
    return int(found[0])


def test_a_repeated_batch_is_stored_once_and_told_where(log: LocalLog):
    info = make(log)
    first = put(log, info, 0, 3)
    assert first == Appended("numbers", 0, 0, 3)
    assert put(log, info, 0, 3) == Appended("numbers", 0, 0, 3, repeated=True)
    put(log, info, 3, 2)
    assert put(log, info, 0, 3) == Appended("numbers", 0, 0, 3, repeated=True)
    assert numbers(log, info) == [0, 1, 2, 3, 4]


def test_so_many_batches_are_remembered_and_older_ones_known_as_repeats(log: LocalLog):
    info = make(log)
    remembered = limits.PRODUCER_BATCHES_REMEMBERED
    for n in range(remembered + 2):
        put(log, info, n, 1)
    assert put(log, info, 2, 1) == Appended("numbers", 0, 2, 3, repeated=True)
    assert put(log, info, 0, 1) == Appended("numbers", 0, -1, -1, repeated=True)
    with log.store.read() as snapshot:
        rows = snapshot.run("log/producer_last", (producer_id(log), info.partition_ids[0], 100))
    assert len(rows) == remembered
    assert numbers(log, info) == list(range(remembered + 2))


@pytest.mark.parametrize("first", [4, 100])
def test_a_gap_in_the_sequence_is_refused(log: LocalLog, first: int):
    info = make(log)
    put(log, info, 0, 3)
    with refused(OutOfOrderSequence, "sequence 3", str(first)):
        put(log, info, first, 1)
    assert numbers(log, info) == [0, 1, 2]


def test_the_first_sequence_is_zero(log: LocalLog):
    info = make(log)
    with refused(OutOfOrderSequence, "sequence 0"):
        put(log, info, 1, 1)


def test_gaps_are_fine_for_a_source_that_numbers_its_own_events(log: LocalLog):
    info = make(log)
    put(log, info, 5, 2, gaps_allowed=True)
    put(log, info, 50, 2, gaps_allowed=True)
    assert put(log, info, 5, 2, gaps_allowed=True).repeated
    assert numbers(log, info) == [5, 6, 50, 51]


def test_a_batch_that_is_stored_in_part_is_not_stored_again(log: LocalLog):
    info = make(log)
    put(log, info, 0, 3)
    with pytest.raises(Overlap) as caught:
        put(log, info, 2, 3)
    assert caught.value.last_sequence == 2
    assert numbers(log, info) == [0, 1, 2]


@pytest.mark.parametrize("epoch", [0, 2])
def test_another_epoch_is_fenced(log: LocalLog, epoch: int):
    info = make(log)
    number = producer_id(log)
    log.store.write(lambda tx: tx.run("log/producer_open", ("p",)))
    with refused(Fenced, f"epoch {epoch}"):
        put(log, info, 0, 1, producer_id=number, epoch=epoch)
    put(log, info, 0, 1, producer_id=number, epoch=1)


def test_each_partition_and_each_producer_has_its_own_sequence(log: LocalLog):
    info = make(log, key="n", partitions=2)
    with log.producer("one", AT_ONCE) as one, log.producer("two", AT_ONCE) as two:
        for n in range(10):
            one.send(info, {"n": n})
            two.send(info, {"n": n})
    assert sorted([*numbers(log, info, 0), *numbers(log, info, 1)]) == sorted([*range(10)] * 2)


# ---- gathering ----------------------------------------------------------------------------------


def test_a_full_batch_goes_before_its_linger_is_over(log: LocalLog):
    info = make(log)
    with log.producer(None, batching_policy(linger="1d", batch_events=4)) as producer:
        futures = [producer.send(info, {"n": n}) for n in range(4)]
        assert [future.result(SOON_S).first_offset for future in futures] == [0, 1, 2, 3]
    assert len(frames(log, info)) == 1


def test_a_batch_has_so_many_events(log: LocalLog):
    info = make(log)
    with log.producer(None, batching_policy(linger="1d", batch_events=4)) as producer:
        for n in range(10):
            producer.send(info, {"n": n})
    assert max(row[2] for row in frames(log, info)) <= 4
    assert numbers(log, info) == list(range(10))


def test_a_full_buffer_sends_and_then_takes_more(log: LocalLog):
    info = make(log, schema={"n": int, "data": bytes})
    with log.producer(None, batching_policy(linger="1d", buffer_bytes=5_000)) as producer:
        for n in range(30):
            producer.send(info, {"n": n, "data": bytes(1_000)})
            assert producer._buffered_bytes <= 5_000 + 1_200
    assert numbers(log, info) == list(range(30))
    assert producer._buffered_bytes == 0


def test_a_buffer_that_stays_full_raises_after_its_timeout(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    info = make(log)
    policy = batching_policy(linger="0s", buffer_bytes=1, block_timeout="20ms")
    producer = log.producer("slow", policy)
    with monkeypatch.context() as patched:
        held = _Held(log, patched)
        first = producer.send(info, {"n": 0})
        held.wait()
        with refused(BufferFull, "slow", "buffer_bytes"):
            producer.send(info, {"n": 1})
        with refused(BufferFull, "slow"):
            producer.flush(0.02)
        held.release()
        assert first.result(SOON_S).first_offset == 0
    producer.send(info, {"n": 2}).result(SOON_S)
    producer.close()
    assert numbers(log, info) == [0, 2]


class _Held:
    """Holds the store's writes up until it is told to go on."""

    def __init__(self, log: LocalLog, patched: pytest.MonkeyPatch) -> None:
        self._reached, self._go = Event(), Event()
        real = log.store.write

        def write(*args: Any, **options: Any) -> Any:
            self._reached.set()
            assert self._go.wait(SOON_S)
            return real(*args, **options)

        patched.setattr(log.store, "write", write)

    def wait(self) -> None:
        assert self._reached.wait(SOON_S)

    def release(self) -> None:
        self._go.set()


def test_an_event_whose_future_was_cancelled_is_not_stored(log: LocalLog):
    info = make(log)
    producer = log.producer(None, NEVER)
    futures = [producer.send(info, {"n": n}) for n in range(3)]
    assert futures[1].cancel()
    producer.close()
    assert numbers(log, info) == [0, 2]
    assert futures[1].cancelled()


def test_a_busy_store_is_asked_again_and_the_batch_stored_once(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    info = make(log)
    producer = log.producer(None, NEVER)
    producer.send(info, {"n": 0})
    producer.flush(SOON_S)
    real, attempts = log.store.write, []

    def stored_but_told_busy(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        attempts.append(result)
        if len(attempts) == 1:
            raise StoreBusy("busy", where="x", expected="x", next_step="x")
        return result

    monkeypatch.setattr(log.store, "write", stored_but_told_busy)
    future = producer.send(info, {"n": 1})
    producer.flush(SOON_S)
    assert future.result(SOON_S) == Appended("numbers", 0, 1, 2, repeated=True)
    monkeypatch.setattr(log.store, "write", real)
    producer.close()
    assert numbers(log, info) == [0, 1]


def test_several_topics_share_a_producer(log: LocalLog):
    left, right = make(log, "left"), make(log, "right")
    with log.producer(None, NEVER) as producer:
        for n in range(5):
            producer.send(left, {"n": n})
            producer.send(right, {"n": n + 10})
    assert (numbers(log, left), numbers(log, right)) == (list(range(5)), list(range(10, 15)))


@pytest.mark.parametrize("event", [5, None, {"n": "x"}, {"m": 1}, {"n": 2**70}, {}])
def test_what_is_no_event_fails_its_own_future(log: LocalLog, event: Any):
    info = make(log, key="n", partitions=2)
    with log.producer(None, NEVER) as producer:
        before, bad, after = (producer.send(info, e) for e in ({"n": 1}, event, {"n": 2}))
    assert type(bad.exception(SOON_S)).__name__ == "SchemaError"
    assert before.exception(SOON_S) is None is after.exception(SOON_S)


# ---- numbered events ----------------------------------------------------------------------------


def test_a_sequence_needs_a_name(log: LocalLog):
    info = make(log)
    with log.producer(None, NEVER) as producer, refused(ConfigurationError, "name"):
        producer.send(info, {"n": 1}, sequence=1)


def test_all_events_of_a_topic_have_a_sequence_or_none_has(log: LocalLog):
    left, right = make(log, "left"), make(log, "right")
    with log.producer("p", NEVER) as producer:
        producer.send(left, {"n": 1}, sequence=1)
        with refused(ConfigurationError, "left", "sequence"):
            producer.send(left, {"n": 2})
        producer.send(right, {"n": 3})
        with refused(ConfigurationError, "right", "sequence"):
            producer.send(right, {"n": 4}, sequence=4)
    assert (numbers(log, left), numbers(log, right)) == ([1], [3])


@pytest.mark.parametrize("second", [4, 5])
def test_sequences_ascend(log: LocalLog, second: int):
    info = make(log)
    with log.producer("p", NEVER) as producer:
        futures = [producer.send(info, {"n": n}, sequence=n) for n in (5, second)]
    for future in futures:
        assert isinstance(future.exception(SOON_S), ConfigurationError)
    assert numbers(log, info) == []


def test_a_numbered_batch_that_needs_several_frames_keeps_its_numbers(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
):
    from millstream.engines.local import encoding

    monkeypatch.setattr(encoding, "_FRAME_BYTES", 20_000)
    info = make(log, schema={"n": int, "data": bytes})
    for _ in range(2):
        with log.producer("p", NEVER) as producer:
            for n in range(20):
                producer.send(info, {"n": n, "data": bytes(5_000)}, sequence=n)
    assert len(frames(log, info)) > 4
    assert numbers(log, info) == list(range(20))


def test_sequences_are_told_by_partition(log: LocalLog):
    info = make(log, key="n", partitions=3)
    with log.producer("p", NEVER) as producer:
        for n in range(30):
            producer.send(info, {"n": n}, sequence=n)
    told = producer.sequences(info)
    assert told == {p: max(numbers(log, info, p)) for p in range(3)}


def test_a_closed_producer_says_so(log: LocalLog):
    info = make(log)
    producer = log.producer("p", NEVER)
    producer.close()
    producer.close()
    with refused(StoreClosed, "p"):
        producer.send(info, {"n": 1})
