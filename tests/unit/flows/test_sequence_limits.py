"""Sequences: what waits and what is remembered is bounded."""

from __future__ import annotations

from dataclasses import replace

import millstream as ms
from millstream.flows.sequence_output import Event, Gap
from tests.unit.flows.sequences import S, feed, ordered, sequencer


def test_overflow_closes_the_oldest_gap_and_loses_nothing_that_waits():
    machine = sequencer(max_events=3)
    feed(machine, 2, 4)
    assert ordered(feed(machine, 6)) == []
    out = feed(machine, 8, at=1)
    assert out.gaps == [Gap("k", 1, 1, 0, S, "overflow")]
    assert ordered(out) == [2]
    assert machine.counts.buffered == 3


def test_overflow_in_bytes_closes_the_oldest_gap_of_all_keys():
    machine = sequencer(max_bytes=10, gap="hold")
    machine.feed([("a", 2, 0, b"12345"), ("b", 2, 1, b"12345")])
    out = machine.feed([("b", 3, 2, b"6")])
    assert out.gaps == [Gap("a", 1, 1, 0, 2, "overflow")]
    assert out.ordered == [Event("a", 2, 0, b"12345")]
    assert machine.counts.buffered_bytes == 6


def test_block_holds_back_the_source_until_there_is_room():
    machine = sequencer(gap="hold", overflow="block", max_events=2)
    events = [("k", n, 0, b"") for n in (2, 3, 4, 1)]
    assert machine.feed(events).taken == 2
    assert machine.feed(events[2:]).taken == 0
    assert ordered(machine.feed([events[3]])) == [1, 2, 3]
    assert ordered(machine.feed([events[2]])) == [4]
    assert machine.counts.received == 4


def test_block_counts_the_bytes_of_all_keys():
    machine = sequencer(overflow="block", max_bytes=8)
    events = [("a", 2, 0, b"12345"), ("b", 2, 0, b"12345")]
    assert machine.feed(events).taken == 1
    machine.advance(2 * S)
    assert machine.feed(events[1:]).taken == 1


def test_an_event_larger_than_all_room_is_not_held_back_for_ever():
    machine = sequencer(overflow="block", max_bytes=8)
    assert machine.feed([("k", 2, 0, b"123456789")]).taken == 1


def test_what_is_on_probation_counts_and_goes_when_there_is_no_room():
    machine = sequencer(max_bytes=8, max_dropout=5)
    machine.feed([("k", 99, 0, b"123456789")])
    assert (machine.counts.buffered, machine.counts.rejected) == (0, 1)


def test_idle_keys_are_forgotten_unless_something_waits():
    machine = sequencer(forget="10s", gap="hold")
    feed(machine, 1, key="quiet")
    feed(machine, 2, key="waits")
    feed(machine, 1, key="other", at=10)
    assert (machine.keys, machine.counts.forgotten) == (2, 1)
    assert machine.awaited("quiet") is None
    assert ordered(feed(machine, 1, key="waits", at=99)) == [1, 2]


def test_a_key_that_is_heard_in_time_is_remembered():
    machine = sequencer(forget="10s")
    for n in range(1, 9):
        assert ordered(feed(machine, n, at=9.9 * n)) == [n]
    assert machine.counts.forgotten == 0


def test_there_are_so_many_keys_and_the_quietest_makes_room():
    machine = sequencer(max_keys=2)
    feed(machine, 1, key="a")
    feed(machine, 1, key="b", at=0.1)
    feed(machine, 2, key="a", at=0.2)
    feed(machine, 1, key="c", at=0.3)
    assert [machine.awaited(key) for key in "abc"] == [3, None, 2]


def test_a_ledger_forgets_nobody_and_holds_back_what_has_no_room():
    machine = ms.Sequencer(replace(ms.ledger(start=1), max_keys=1))
    feed(machine, 1, key="a")
    assert feed(machine, 1, key="b", at=10**9).taken == 0
    assert ordered(feed(machine, 2, key="a", at=10**9)) == [2]


def test_where_events_of_all_keys_wait_the_quietest_gives_its_own():
    machine = sequencer(max_keys=1)
    feed(machine, 2, key="a")
    out = feed(machine, 1, key="b")
    assert out.gaps == [Gap("a", 1, 1, 0, 0, "overflow")]
    assert [(e.key, e.seq) for e in out.ordered] == [("a", 2), ("b", 1)]
    machine = sequencer(max_keys=1, overflow="block")
    feed(machine, 2, key="a")
    assert feed(machine, 1, key="b").taken == 0


def test_what_is_remembered_of_a_key_is_bounded():
    machine = sequencer(max_misorder=10)
    feed(machine, *range(1, 10_000, 2))
    machine.advance(2 * S)
    feed(machine, *range(10_000, 20_000), at=3)
    state = machine._keys["k"]
    assert len(state.delivered.dump(0)[0][1]) <= 20
    assert len(state.closed) <= 5
    assert len(machine.dump()) < 3_000


def test_heaps_do_not_grow_with_what_is_over():
    machine = sequencer(max_keys=5, gap="hold")
    for n in range(10_000):
        feed(machine, 2, 1, key=f"k{n}")
    assert len(machine._quiet) < 1_100
    full = sequencer(gap="hold", max_bytes=1)
    for n in range(5_000):
        feed(full, 3 * n + 2, 3 * n + 4)
    assert full.counts.gaps["overflow"] > 5_000
    assert full._oldest is not None
    assert len(full._oldest) < 1_100
