"""Sequences: the wait that is found out."""

from __future__ import annotations

import millstream as ms
from millstream.flows.sequence_arrivals import Arrivals
from tests.unit.flows.sequences import S, feed


def test_the_wait_follows_what_most_events_need():
    #   an event each 20 ms; one of ten comes 300 ms behind its time
    machine = ms.Sequencer(ms.SequenceOptions(wait="auto", start=0))
    arrivals = sorted((n * 20_000 + 300_000 * (n % 10 == 9), n) for n in range(3_000))
    for at, n in arrivals:
        machine.feed([("k", n, n * 20_000, b"")], now_us=at)
    assert machine.wait_us("k") == 320_000  # the upper end of its bucket of 20 ms
    assert machine.counts.lost < 30  # only while it was still learning
    assert machine.jitter_us("k") > 0


def test_the_wait_is_clamped():
    options = ms.SequenceOptions(wait="auto", start=0, min_wait="500ms", max_wait="600ms")
    machine = ms.Sequencer(options)
    feed(machine, 0)
    assert machine.wait_us("k") == 500_000


def test_jitter_is_that_of_rfc_3550():
    arrivals = Arrivals(2 * S)
    for now, time in ((0, 0), (20_000, 20_000), (56_000, 40_000)):
        arrivals.observe(now, time, 0)
    assert arrivals.jitter_us == 16_000 / 16


def test_delays_are_relative_to_the_least_of_the_last_two_seconds():
    """A clock that was set 100 ms back makes no event late for ever."""
    arrivals = Arrivals(2 * S)
    for n in range(1_500):
        sent = n * 20_000
        arrivals.observe(sent + (100_000 if n > 10 else 0), sent, 0)
    assert arrivals.wait_us == 20_000


def test_without_times_of_the_sender_the_delay_is_that_of_what_was_overtaken():
    machine = ms.Sequencer(ms.SequenceOptions(wait="auto", start=0))
    for n in range(0, 400, 2):
        machine.feed([("k", n + 1, None, b"")], now_us=n * 10_000)
        machine.feed([("k", n, None, b"")], now_us=n * 10_000 + 15_000)
    assert machine.wait_us("k") == 20_000
    assert machine.jitter_us("k") == 0


def test_the_wait_is_kept_over_a_stop():
    machine = ms.Sequencer(ms.SequenceOptions(wait="auto", start=0))
    for n in range(300):
        machine.feed([("k", n, n * 20_000, b"")], now_us=n * 20_000 + n % 7 * 30_000)
    again = ms.Sequencer.load(machine.dump(), machine.options)
    assert again.wait_us("k") == machine.wait_us("k") != 80_000
    assert again.dump() == machine.dump()
