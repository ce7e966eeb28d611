"""Consumers of the local log: what the suite of all engines does not ask."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from millstream.engines.local import groups
from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import (
    OffsetOutOfRange,
    SchemaError,
    StoreBusy,
    StoreClosed,
    UnknownTopic,
)
from millstream.store import signals
from millstream.store.check import check
from millstream.testing.clock import VirtualClock
from millstream.testing.log_suite import SOON_S, drain, options
from tests.log_kit import make, numbers
from tests.refusals import refused


def look_again(consumer: Any) -> None:
    """Let a consumer look at its group now, and not half a second later."""
    consumer._next_look_s = 0.0


@pytest.mark.parametrize("start", [-1, 6, 10**12])
def test_a_start_that_no_event_has_reached_is_refused_and_leaves_nothing(log: LocalLog, start: int):
    info = make(log)
    log.append(info, [{"n": n} for n in range(5)])
    with refused(OffsetOutOfRange, "0 to 5", str(start)):
        log.consumer(info, "readers", options(start=start))
    assert log.lag(info) == {}
    assert check(log.store.path) == []


def test_a_start_without_a_zone_is_refused(log: LocalLog):
    info = make(log)
    moment = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
    with refused(SchemaError, "time zone", somewhere=False):
        log.consumer(info, "readers", options(start=moment))


def test_a_start_that_was_deleted_goes_on_at_the_first_event_and_counts_the_rest(
    log: LocalLog, clock: VirtualClock
):
    info = make(log, retention="10s")
    for n in range(6):
        log.append(info, {"n": n})
        clock.advance("4s")
    log.upkeep.retain()
    with log.consumer(info, "readers", options(start=1)) as consumer:
        assert drain(consumer) == [4, 5]
        assert consumer.skipped == 3


def test_what_retention_took_from_a_slow_reader_is_counted(log: LocalLog, clock: VirtualClock):
    info = make(log, retention="10s")
    log.append(info, [{"n": 0}, {"n": 1}])
    consumer = log.consumer(info, "slow", options(batch_events=1))
    assert consumer.poll(0) is not None
    consumer.commit()
    clock.advance("11s")
    log.append(info, {"n": 2})
    log.upkeep.retain()
    assert drain(consumer) == [2]
    assert consumer.skipped == 1
    consumer.close()


def test_a_group_has_so_many_members(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "GROUP_MEMBERS_MAX", 3)
    info = make(log)
    members = [log.consumer(info, "readers", options()) for _ in range(3)]
    with refused(StoreBusy, "at most 3", "readers"):
        log.consumer(info, "readers", options())
    members[0].close()
    log.consumer(info, "readers", options()).close()
    for member in members:
        member.close()


def test_so_many_consumers_may_wait(log: LocalLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "WAITERS_MAX", 2)
    info = make(log)
    waiting = [log.consumer(info, f"group-{n}", options()) for n in range(2)]
    with refused(StoreBusy, "places for waiting"):
        log.consumer(info, "one too many", options())
    for consumer in waiting:
        consumer.close()


def test_a_waiting_consumer_hears_that_its_topic_is_deleted(log: LocalLog):
    info = make(log)
    consumer = log.consumer(info, "readers", options(follow=True))
    assert consumer.poll(0) is None
    log.delete_topic("numbers")
    look_again(consumer)
    with refused(UnknownTopic, "numbers"):
        consumer.poll(SOON_S)
    consumer.close()
    assert check(log.store.path) == []
    with refused(UnknownTopic, "numbers"):
        log.consumer(info, "readers", options())


def test_a_waiting_consumer_in_another_thread_sees_an_event(log: LocalLog):
    info = make(log)
    consumer = log.consumer(info, "readers", options(follow=True))
    assert consumer.poll(0) is None
    with ThreadPoolExecutor(1) as other:
        found = other.submit(consumer.poll)
        log.append(info, {"n": 7})
        batch = found.result(SOON_S)
    assert batch is not None
    assert batch.to_pylist() == [{"n": 7}]
    consumer.close()


def test_stop_ends_the_waiting_of_another_thread(log: LocalLog):
    info = make(log)
    consumer = log.consumer(info, "readers", options(follow=True))
    with ThreadPoolExecutor(1) as other:
        found = other.submit(list, consumer)
        consumer.stop()
        assert found.result(SOON_S) == []
    consumer.close()


def test_a_closed_consumer_says_so(log: LocalLog):
    info = make(log)
    consumer = log.consumer(info, "readers", options())
    consumer.close()
    with refused(StoreClosed, "readers", "numbers"):
        consumer.poll(0)


def test_partitions_are_read_in_turn(log: LocalLog):
    info = make(log, partitions=3)
    for partition in range(3):
        log.append(info, [{"n": partition}] * 4, partition=partition)
    with log.consumer(info, "readers", options(batch_events=1)) as consumer:
        assert drain(consumer) == [0, 1, 2] * 4


def test_a_partition_moves_only_after_its_owner_let_it_go(log: LocalLog):
    info = make(log, partitions=2)
    first = log.consumer(info, "readers", options(follow=True))
    first.poll(0)
    assert first.partitions == [0, 1]
    second = log.consumer(info, "readers", options(follow=True))
    second.poll(0)
    assert (first.partitions, second.partitions) == ([0, 1], [])
    for member in (first, second):
        look_again(member)
        member.poll(0)
    assert sorted([*first.partitions, *second.partitions]) == [0, 1]
    assert len(first.partitions) == 1
    first.close()
    look_again(second)
    second.poll(0)
    assert second.partitions == [0, 1]
    second.close()


def test_a_member_that_was_silent_for_its_session_comes_back(log: LocalLog, clock: VirtualClock):
    info = make(log)
    silent = log.consumer(info, "readers", options(follow=True, auto_commit=True))
    silent.poll(0)
    log.append(info, {"n": 1})
    assert silent.poll(0) is not None
    clock.advance("11s")
    other = log.consumer(info, "readers", options(follow=True))
    assert other.poll(0) is not None
    assert silent.poll(0) is None
    assert silent.fenced == 1
    other.close()
    look_again(silent)
    again = silent.poll(0)
    assert again is not None
    assert again.to_pylist() == [{"n": 1}]
    silent.close()


def test_a_heartbeat_keeps_a_slow_reader_in_its_group_until_it_is_stuck(
    log: LocalLog, clock: VirtualClock
):
    info = make(log)
    slow = log.consumer(info, "readers", options(poll_interval_max_us=30_000_000))
    slow.poll(0)

    def owner() -> int:
        clock.advance("9s")
        slow.heartbeat()
        other = log.consumer(info, "readers", options(follow=True))
        other.poll(0)
        held = len(other.partitions)
        other.close()
        return held

    # 9, 18 and 27 seconds after its last poll it has a session; then it counts as stuck.
    assert [owner(), owner(), owner(), owner(), owner()] == [0, 0, 0, 0, 1]
    slow.close()


def test_a_group_is_moved_and_its_members_go_on_there(log: LocalLog):
    info = make(log)
    log.append(info, [{"n": n} for n in range(10)])
    consumer = log.consumer(info, "readers", options(batch_events=2))
    assert consumer.poll(0) is not None
    log.seek(info, "readers", {0: 7})
    look_again(consumer)
    assert drain(consumer) == [7, 8, 9]
    consumer.close()


def test_lag_counts_what_was_delivered_as_read(log: LocalLog):
    info = make(log, partitions=2)
    log.append(info, [{"n": n} for n in range(6)], partition=1)
    consumer = log.consumer(info, "readers", options(batch_events=4))
    consumer.poll(0)
    assert [one.events for one in consumer.lag()] == [0, 2]
    assert [one.events for one in log.lag(info)["readers"]] == [0, 6]
    consumer.commit()
    assert [one.events for one in log.lag(info)["readers"]] == [0, 2]
    consumer.close()


def test_closing_the_log_leaves_all_groups(log: LocalLog):
    info = make(log)
    members = [log.consumer(info, group, options()) for group in ("one", "two")]
    log.close()
    assert len(members) == 2
    with log.store.read() as snapshot:
        ids = [row[0] for row in snapshot.run("log/groups_of_topic", (info.id,))]
        assert [snapshot.run("log/members", (group_id,)) for group_id in ids] == [[], []]


def test_members_in_many_threads_read_each_event_once(log: LocalLog):
    info = make(log, partitions=4)
    seen: list[int] = []
    lock = threading.Lock()

    def read() -> None:
        with log.consumer(info, "readers", options(batch_events=5)) as consumer:
            for batch in consumer:
                consumer.commit()
                with lock:
                    seen.extend(row["n"] for row in batch.to_pylist())

    for partition in range(4):
        log.append(
            info,
            [{"n": n} for n in range(partition * 50, partition * 50 + 50)],
            partition=partition,
        )
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(read) for _ in range(4)]:
            done.result(SOON_S)
    assert (
        sorted(seen)
        == list(range(200))
        == sorted(n for p in range(4) for n in numbers(log, info, p))
    )


def test_an_event_does_not_make_a_member_look_at_the_whole_group_and_a_change_does(log: LocalLog):
    info = make(log, partitions=2)
    first = log.consumer(info, "readers", options(follow=True))
    for n in range(2):
        log.append(info, {"n": n}, partition=n)
        assert first.poll(0) is not None
    look_again(first)
    assert first.poll(0) is None  # it has agreed with the group
    assert first.membership.is_settled()
    log.append(info, {"n": 2}, partition=0)
    assert first.membership.is_settled()
    with log.consumer(info, "readers", options()) as second:
        assert not first.membership.is_settled()
        assert first.poll(0) is not None
        assert first.partitions == [0, 1]  # an event comes first
        assert first.poll(0) is None
        assert first.partitions == [0]  # the group, before it sleeps
        second.poll(0)
        assert second.partitions == [1]
    log.seek(info, "readers", {0: 0})
    assert not first.membership.is_settled()
    first.close()


@pytest.mark.parametrize("woken", [False, True])
def test_a_change_of_the_group_just_before_a_member_arms_is_seen(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch, woken: bool
):
    info = make(log, partitions=2)
    first = log.consumer(info, "readers", options(follow=True))
    assert first.poll(0) is None
    look_again(first)
    assert first.poll(0) is None
    if woken:
        log.append(info, {"n": 0}, partition=0)
        assert first.poll(0) is not None
    arm = first._waiter.arm

    def joined() -> None:
        monkeypatch.setattr(first._waiter, "arm", arm)
        log.consumer(info, "readers", options())
        arm()

    monkeypatch.setattr(first._waiter, "arm", joined)
    # The clock stands still: the look that comes every half second does not help.
    assert first.poll(0) is None
    assert first.partitions == [0]
    log.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_partitions_given_up_just_before_a_member_arms_are_taken(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch, awaited: bool
):
    info = make(log, partitions=2)
    first, second = (log.consumer(info, "readers", options(follow=True)) for _ in range(2))
    log.append(info, {"n": 1}, partition=1)
    # The first takes all, the second nothing: what it shall have is given up when it has looked already.
    third = log.consumer(info, "readers", options(follow=True))
    assert first.poll(0) is None
    assert first.partitions == [0]
    assert second.poll(0) is not None
    assert third.poll(0) is None
    arm = third._waiter.arm

    def left() -> None:
        monkeypatch.setattr(third._waiter, "arm", arm)
        second.close()
        arm()

    monkeypatch.setattr(third._waiter, "arm", left)
    batch = asyncio.run(anext(aiter(third))) if awaited else third.poll(0)
    assert batch is not None
    assert batch.to_pylist() == [{"n": 1}]
    log.close()
