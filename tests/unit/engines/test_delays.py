"""Delays of a stream on their way into the catalog: kept until they are due, and each taken once."""

from __future__ import annotations

from millstream.engines.local.delays import STORED_EVERY_S, PendingDelays
from millstream.primitives.histogram import Histogram
from millstream.testing.clock import VirtualClock


def of(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def test_the_first_commit_takes_its_own_delays():
    pending = PendingDelays(VirtualClock())
    assert pending.is_due
    taken = pending.taken({"process": of(1), "publish": Histogram()})
    assert {phase: histogram.count for phase, histogram in taken.items()} == {"process": 1}


def test_the_next_ones_are_kept_until_they_are_due():
    clock = VirtualClock()
    pending = PendingDelays(clock)
    pending.taken({"process": of(1)})
    assert not pending.is_due
    pending.add({"process": of(2, 3), "publish": of(4)})
    clock.advance(f"{STORED_EVERY_S * 1000:.0f}ms")
    assert pending.is_due
    taken = pending.taken({"process": of(5)})
    assert list(taken["process"].cells()) == list(of(2, 3, 5).cells())
    assert taken["publish"].count == 1
    assert pending.taken({}) == {}


def test_it_says_how_long_what_it_keeps_may_wait():
    clock = VirtualClock()
    pending = PendingDelays(clock)
    pending.taken({})
    assert pending.wait_s is None
    pending.add({"process": of(1)})
    assert pending.wait_s is not None
    assert 0 < pending.wait_s <= STORED_EVERY_S
    clock.advance("1s")
    assert pending.wait_s == 0


def test_what_was_given_is_left_as_it_was():
    pending, given = PendingDelays(VirtualClock()), of(1)
    pending.add({"process": given})
    pending.add({"process": of(2)})
    assert given.count == 1
