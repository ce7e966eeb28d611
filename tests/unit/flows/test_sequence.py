"""Sequences, rule by rule: in order, ahead, behind, far away, deadlines, the end, and numbers that wrap."""

from __future__ import annotations

import pytest

import millstream as ms
from millstream.flows.sequence_output import Duplicate, Event, Gap, Late, Reset, Sequenced
from millstream.primitives.errors import StepError
from tests.refusals import refused
from tests.unit.flows.sequences import S, event, feed, ordered, sequencer

# ---- 1 and 2: in order, and ahead -----------------------------------------------------------------


def test_the_awaited_number_is_given_with_what_follows_on():
    machine = sequencer()
    assert ordered(feed(machine, 1)) == [1]
    assert ordered(feed(machine, 3, 4, 6)) == []
    assert ordered(feed(machine, 2)) == [2, 3, 4]
    assert ordered(feed(machine, 5)) == [5, 6]
    assert machine.awaited("k") == 7


def test_an_event_comes_out_as_it_went_in():
    machine = sequencer()
    late, early = ("k", 2, 5, {"a": [1, None]}), ("k", 1, 9, b"x")
    assert machine.feed([late, early]).ordered == [Event(*early), Event(*late)]


def test_an_absent_range_is_one_gap_whose_deadline_is_its_detection_plus_the_wait():
    #   at    0    1    2                       11
    #         1    5    6     2..4 never come     gap 2..4: opened at 1, closed at 11
    machine = sequencer(wait="10s")
    feed(machine, 1)
    feed(machine, 5, at=1)
    feed(machine, 6, at=2)
    assert machine.due_us == 11 * S
    out = machine.advance(11 * S - 1)
    assert out == Sequenced()
    out = machine.advance(11 * S)
    assert out.gaps == [Gap("k", 2, 4, 1 * S, 11 * S, "timeout")]
    assert out.gaps[0].numbers == 3
    assert not out.gaps[0].is_unfinished
    assert ordered(out) == [5, 6]


def test_a_gap_is_closed_at_its_deadline_however_late_the_clock_is_looked_at():
    machine = sequencer(wait="1s")
    feed(machine, 2)
    assert machine.advance(99 * S).gaps == [Gap("k", 1, 1, 0, S, "timeout")]


def test_a_gap_that_was_filled_in_its_middle_is_two_gaps_of_the_same_age():
    machine = sequencer(wait="10s")
    feed(machine, 6)
    feed(machine, 3, at=4)
    out = machine.advance(10 * S)
    assert [(gap.first, gap.last, gap.opened_us) for gap in out.gaps] == [(1, 2, 0), (4, 5, 0)]
    assert ordered(out) == [3, 6]


def test_a_number_that_waits_already_is_a_duplicate():
    machine = sequencer()
    feed(machine, 3)
    assert feed(machine, 3).duplicates == [Duplicate(event(3), same=True)]


def test_the_events_of_a_batch_move_the_clock_before_they_are_taken():
    machine = sequencer(wait="1s")
    out = machine.feed([("k", 2, 0, b""), ("k", 1, S, b"")])
    assert out.gaps == [Gap("k", 1, 1, 0, S, "timeout")]
    assert out.late == [Late(Event("k", 1, S, b""), 0, out.gaps[0])]


def test_no_wait_closes_a_gap_at_once():
    out = feed(sequencer(wait=0), 2)
    assert out.gaps == [Gap("k", 1, 1, 0, 0, "timeout")]
    assert ordered(out) == [2]


def test_keys_know_nothing_of_each_other():
    machine = sequencer()
    feed(machine, 2, key="a")
    assert ordered(feed(machine, 1, key="b")) == [1]
    assert ordered(feed(machine, 1, key="a")) == [1, 2]


# ---- 3: behind ------------------------------------------------------------------------------------


def closed_gap() -> tuple[ms.Sequencer, Gap]:
    """1, then 4: 2 and 3 were closed at 2 s."""
    machine = sequencer()
    feed(machine, 1, 4)
    return machine, machine.advance(2 * S).gaps[0]


def test_a_number_of_a_closed_gap_is_late():
    machine, gap = closed_gap()
    assert feed(machine, 3, at=5).late == [Late(event(3, 5), 3 * S, gap)]
    assert ordered(feed(machine, 5, at=5)) == [5]


def test_late_events_may_be_dropped_and_are_counted():
    machine = sequencer(late="drop")
    feed(machine, 2)
    machine.advance(2 * S)
    assert feed(machine, 1, at=3).late == []
    assert machine.counts.late == 1


def test_a_number_that_was_given_is_a_duplicate_that_says_the_same_or_not():
    machine = sequencer()
    feed(machine, 1)
    out = machine.feed([("k", 1, 7, b"1"), ("k", 1, 8, b"other")])
    assert out.duplicates == [
        Duplicate(event(1, 7 / S), same=True),
        Duplicate(event(1, 8 / S, b"other"), same=False),
    ]
    assert (machine.counts.duplicates, machine.counts.conflicts) == (2, 1)


def test_dicts_say_the_same_in_whatever_order():
    machine = sequencer()
    machine.feed([("k", 1, 0, {"a": 1, "b": 2})])
    assert machine.feed([("k", 1, 0, {"b": 2, "a": 1})]).duplicates[0].same is True


def test_a_number_before_all_that_is_remembered_is_late_and_its_gap_unknown():
    machine = sequencer(start="first")
    assert ordered(feed(machine, 5)) == [5]
    assert feed(machine, 4).late == [Late(event(4), None, None)]
    assert feed(sequencer(start=3), 2).late == [Late(event(2), None, None)]


def test_as_far_back_as_misorder_goes_duplicates_are_known():
    machine = sequencer(max_misorder=5)
    feed(machine, *range(1, 50))
    assert feed(machine, 45).duplicates[0].same is True
    assert feed(machine, 44) == Sequenced(taken=1)  # on probation


# ---- 4: far away ----------------------------------------------------------------------------------


def test_a_number_far_ahead_is_rejected_unless_the_next_one_follows():
    machine = sequencer(max_dropout=10)
    feed(machine, 1)
    assert ordered(feed(machine, 12)) == []
    assert machine.counts.buffered == 1  # 12 is 2 + 10: it waits, behind a gap
    assert feed(machine, 99) == Sequenced(taken=1)
    assert machine.counts.rejected == 0
    feed(machine, 2)
    assert machine.counts.rejected == 1


def test_two_numbers_that_follow_each_other_far_away_are_a_reset():
    #   1 . 3 | 500 501       2 is closed for the reset, 3 given, then 500 and 501
    machine = sequencer(max_dropout=10)
    feed(machine, 1, 3)
    feed(machine, 500, at=1)
    out = feed(machine, 501, at=1.5)
    assert out.gaps == [Gap("k", 2, 2, 0, round(1.5 * S), "reset")]
    assert out.resets == [Reset("k", expected=2, start=500, at_us=round(1.5 * S))]
    assert ordered(out) == [3, 500, 501]
    assert machine.counts.lost == 1


def test_a_key_may_begin_anew_further_back():
    machine = sequencer(max_misorder=10)
    feed(machine, *range(1, 101))
    assert feed(machine, 90).late == []  # on probation: 101 - 90 is 11
    out = feed(machine, 91)
    assert ordered(out) == [90, 91]
    assert out.resets == [Reset("k", 101, 90, 0)]


def test_after_a_reset_what_was_before_is_unknown():
    machine = sequencer(max_dropout=10)
    feed(machine, 1, 500, 501)
    assert feed(machine, 499).late == [Late(event(499), None, None)]


def test_the_same_number_twice_far_away_confirms_nothing():
    machine = sequencer(max_dropout=10)
    feed(machine, 1, 500, 500)
    assert machine.counts.rejected == 1
    assert ordered(feed(machine, 501)) == [500, 501]


# ---- 5: deadlines ---------------------------------------------------------------------------------


def test_hold_never_expires():
    machine = sequencer(gap="hold")
    feed(machine, 2)
    assert machine.due_us is None
    assert machine.advance(10**15) == Sequenced()
    assert ordered(feed(machine, 1)) == [1, 2]


def test_fail_stops_with_the_range():
    machine = sequencer(gap="fail")
    feed(machine, 1, 4, key="meter 7")
    assert machine.advance(2 * S - 1) == Sequenced()
    with refused(StepError, "meter 7", "2 to 3"):
        machine.advance(2 * S)
    with refused(StepError, "2 to 3"):
        feed(machine, 2)
    with pytest.raises(StepError):
        machine.dump()


def test_gaps_with_one_deadline_are_closed_together():
    machine = sequencer()
    feed(machine, 2, 4, 6)
    out = machine.advance(2 * S)
    assert [gap.first for gap in out.gaps] == [1, 3, 5]
    assert ordered(out) == [2, 4, 6]


# ---- 8: the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["emit", "hold", "fail", "request"])
def test_the_end_gives_what_waits_and_says_that_it_is_unfinished(policy: str):
    machine = sequencer(gap=policy, max_dropout=10)
    feed(machine, 1, 3, at=1)
    feed(machine, 500, at=1)
    out = machine.end()
    assert out.gaps == [Gap("k", 2, 2, S, S, "end")]
    assert out.gaps[0].is_unfinished
    assert ordered(out) == [3]
    assert (machine.counts.rejected, machine.counts.buffered) == (1, 0)
    assert feed(machine, 2, at=2).late[0].gap == out.gaps[0]


# ---- 10: numbers that wrap ------------------------------------------------------------------------


def test_numbers_wrap_and_count_on():
    machine = ms.Sequencer(ms.SequenceOptions(modulo=2**16))
    out = feed(machine, 65_534, 65_535, 1, 0, 2)
    assert ordered(out) == [65_534, 65_535, 65_536, 65_537, 65_538]
    assert feed(machine, 65_535).duplicates[0].event.seq == 65_535


def test_a_key_that_wraps_may_begin_anew():
    machine = ms.Sequencer(ms.SequenceOptions(modulo=2**16))
    feed(
        machine, 0, 32_768
    )  # half a lap ahead; the next one is nearer from behind, but for the one on probation
    out = feed(machine, 32_769)
    assert out.resets == [Reset("k", 1, 32_768, 0)]
    assert ordered(out) == [32_768, 32_769]


def test_over_many_laps_nothing_is_lost():
    machine = ms.Sequencer(ms.SequenceOptions(modulo=8, max_dropout=3, max_misorder=3))
    out = feed(machine, *(n % 8 for n in range(100)))
    assert ordered(out) == list(range(100))
