"""Sequences: what is kept over a stop."""

from __future__ import annotations

from dataclasses import replace

import millstream as ms
from millstream.primitives.errors import PayloadError, PlanError
from tests.refusals import refused
from tests.unit.flows.sequences import S, feed, ordered, sequencer


def test_a_stop_invents_no_losses():
    #   clock of arrivals   0          1       stop, an hour       3601      3602
    #                       2                                               1 comes: in time
    machine = sequencer()
    machine.feed([("k", 2, None, b"2")], now_us=0)
    machine.advance(S)
    kept = machine.dump()
    again = ms.Sequencer.load(kept, machine.options, now_us=3_601 * S)
    assert again.due_us == 3_602 * S
    assert ordered(again.feed([("k", 1, None, b"1")], now_us=3_602 * S - 1)) == [1, 2]


def test_with_event_time_the_clock_stands_still_while_nothing_runs():
    machine = sequencer()
    feed(machine, 2)
    feed(machine, 4, at=1)
    again = ms.Sequencer.load(machine.dump(), machine.options)
    assert again.due_us == machine.due_us == 2 * S
    assert again.dump() == machine.dump()


def test_duplicates_of_before_a_stop_are_known():
    machine = sequencer()
    feed(machine, 1, 2, 4, key=("a", 1))
    again = ms.Sequencer.load(machine.dump(), machine.options)
    out = again.feed([(("a", 1), 2, 0, b"2"), (("a", 1), 4, 0, b"x")])
    assert [duplicate.same for duplicate in out.duplicates] == [True, False]
    assert again.counts.received == 5


def test_options_may_change_over_a_stop():
    machine = sequencer(gap="hold")
    feed(machine, 2)
    emits = ms.Sequencer.load(machine.dump(), replace(machine.options, gap="emit", wait="3s"))
    assert emits.due_us == 3 * S
    holds = ms.Sequencer.load(emits.dump(), machine.options)
    assert holds.due_us is None


def test_with_a_shorter_wait_no_gap_is_closed_before_the_one_in_front_of_it():
    machine = sequencer(wait="10s")
    feed(machine, 2)
    again = ms.Sequencer.load(machine.dump(), replace(machine.options, wait="1s"))
    feed(again, 4, at=1)
    out = again.advance(99 * S)
    assert [(gap.first, gap.closed_us) for gap in out.gaps] == [(1, 10 * S), (3, 10 * S)]


def test_what_is_no_dump_is_refused():
    with refused(PayloadError, "dump"):
        ms.Sequencer.load(b"\x80")
    with refused(PlanError, "modulo"):
        ms.Sequencer.load(sequencer().dump(), ms.SequenceOptions(modulo=2**16))
