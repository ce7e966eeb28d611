"""Watermarks: event time alone closes windows."""

from __future__ import annotations

import numpy as np

from millstream.engines.local.flow_heads import watermarks_before
from millstream.flows.watermark import TIME_MIN, EventTime, counting_partitions


def test_the_watermark_is_the_least_of_the_partitions_that_count():
    #   partition 0   seen 100   watermark 90
    #   partition 1   seen  40   watermark 30   <- the flow's
    time = EventTime({}, late_us=10).observed({0: 100, 1: 40})
    assert time.watermark_us(frozenset((0, 1))) == 30
    assert time.watermark_us(frozenset((0,))) == 90


def test_a_partition_that_counts_and_has_shown_nothing_holds_everything_back():
    time = EventTime({}, late_us=0).observed({0: 100})
    assert time.watermark_us(frozenset((0, 1))) == TIME_MIN


def test_nothing_closes_when_nobody_counts():
    assert EventTime({}, late_us=0).watermark_us(frozenset()) == TIME_MIN


def test_time_never_goes_back():
    #   seen   100 ... 50 (out of order): still 100
    time = EventTime({}, late_us=0).observed({0: 100}).observed({0: 50}).closed(80)
    assert time.watermark_us(frozenset((0,))) == 100
    assert time.closed(60).closed_until_us == 80
    assert time.watermark_us(frozenset((0, 1))) == 80


def test_an_event_is_late_for_a_window_that_its_partition_has_passed():
    #   late by 10:   seen 100 -> watermark 90
    #   a window ending at 90 is over, one ending at 91 is not
    time = EventTime({}, late_us=10).observed({0: 100})
    assert time.is_late(0, 90)
    assert not time.is_late(0, 91)
    assert not time.is_late(1, 90), "another partition has its own time"
    assert time.closed(95).is_late(1, 95)


def test_who_counts_in_a_bounded_run():
    ends = {0: 10, 1: 10, 2: 0}
    counting = counting_partitions(next_offsets={0: 10, 1: 9, 2: 0}, ends=ends, bounded=True)
    assert counting == {1}


def test_who_counts_in_an_open_run():
    ends = {0: 10, 1: 10, 2: 0}
    counting = counting_partitions(next_offsets={0: 10, 1: 9, 2: 0}, ends=ends, bounded=False)
    assert counting == {0, 1}


def test_each_row_is_judged_by_the_rows_before_it():
    #   time     5    9    (unknown)   7    20
    #   before   -    5    9           9    9      less the lateness of 2
    times = np.array([5, 9, 0, 7, 20])
    known = np.array([True, True, False, True, True])
    marks, last = watermarks_before(times, known, seen_us=TIME_MIN, late_us=2)
    assert marks.tolist() == [TIME_MIN, 3, 7, 7, 7]
    assert last == 20
