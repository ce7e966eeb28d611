"""Sequences that ask for what is missing."""

from __future__ import annotations

from typing import Any

import millstream as ms
from millstream.flows.sequence_output import Gap, Request
from millstream.primitives.errors import PlanError
from tests.refusals import refused
from tests.unit.flows.sequences import S, feed


def asking(**options: Any) -> tuple[ms.Sequencer, list[list[Request]]]:
    calls: list[list[Request]] = []
    made = ms.SequenceOptions(gap="request", start=1, **options)
    return ms.Sequencer(made, resend=lambda ranges: calls.append(list(ranges))), calls


def test_after_three_later_arrivals_the_range_is_asked_for():
    machine, calls = asking()
    feed(machine, 3, 4)
    assert calls == []
    out = feed(machine, 5)
    assert calls == [[Request("k", 1, 2, 1, 0)]] == [out.requests]


def test_after_the_reorder_time_the_range_is_asked_for():
    machine, calls = asking()
    feed(machine, 3)
    assert machine.due_us == 25_000  # a quarter of the first guess, 100 ms
    machine.advance(25_000)
    assert calls == [[Request("k", 1, 2, 1, 25_000)]]


def test_it_is_asked_for_again_each_round_trip_and_at_most_ten_times():
    machine, calls = asking(wait="60s")
    feed(machine, 2)
    while (due := machine.due_us) is not None and due < 60 * S:
        machine.advance(due)
    asked = [request for call in calls for request in call]
    assert [request.attempt for request in asked] == list(range(1, 11))
    assert [request.at_us for request in asked] == [25_000 + 100_000 * n for n in range(10)]
    assert machine.advance(60 * S).gaps == [Gap("k", 1, 1, 0, 60 * S, "exhausted")]


def test_it_is_never_asked_for_when_the_answer_would_come_too_late():
    machine, calls = asking(wait="300ms")
    feed(machine, 2)
    while (due := machine.due_us) is not None and due < 300_000:
        machine.advance(due)
    assert [call[0].at_us for call in calls] == [25_000, 125_000]  # not at 225 ms
    assert machine.advance(300_000).gaps[0].reason == "timeout"
    machine, calls = asking(wait="99ms")
    feed(machine, 2)
    assert machine.due_us == 99_000
    feed(machine, 3, 4, 5)
    machine.advance(S)
    assert calls == []


def test_what_is_still_missing_of_a_range_is_asked_for():
    machine, calls = asking()
    feed(machine, 6, 7)
    feed(machine, 3, at=0.01)
    machine.advance(30_000)
    asked = [(r.first, r.last, r.at_us) for call in calls for r in call]
    assert asked == [(1, 2, 10_000), (4, 5, 30_000)]  # 3 was the third that came later than 1 and 2


def test_the_round_trip_is_learned_from_answers_to_one_request():
    machine, _ = asking()
    feed(machine, 2)
    machine.advance(25_000)
    feed(machine, 1, at=0.045)  # 20 ms: (7 * 100 + 20) / 8
    feed(machine, 4, at=1)
    assert machine.due_us == S + 90_000 // 4


def test_resend_is_for_requests_only():
    with refused(PlanError, "resend", "gap="):
        ms.Sequencer(ms.SequenceOptions(), resend=print)
