"""Sequences: each event goes one way, each number is accounted for, and pieces and stops change nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.flows.sequence_output import Event, Gap, Sequenced
from millstream.testing import BadNetwork

MS = 1_000
START = datetime(2026, 1, 1, tzinfo=UTC)

numbers = st.one_of(st.integers(0, 14), st.integers(0, 40), st.integers(200, 206))
events = st.lists(
    st.tuples(
        st.sampled_from("ab"), numbers, st.integers(0, 40), st.sampled_from([b"", b"x", b"xy"])
    ),
    max_size=60,
)
options = st.builds(
    ms.SequenceOptions,
    wait=st.sampled_from(["0s", "3ms", "20ms", "auto"]),
    gap=st.sampled_from(["emit", "hold", "request"]),
    start=st.sampled_from(["first", 0, 3]),
    max_events=st.sampled_from([1, 3, 1_000]),
    max_bytes=st.sampled_from([2, 1_000]),
    max_dropout=st.sampled_from([4, 30]),
    max_misorder=st.sampled_from([2, 9, 30]),
    max_keys=st.sampled_from([1, 9]),
    forget=st.sampled_from(["8ms", "1h"]),
)
blocking = st.builds(replace, options, overflow=st.just("block"))
wrapping = st.builds(replace, options, start=st.just(0), modulo=st.just(256))


def fed(machine: ms.Sequencer, given_events: list[Any]) -> tuple[Sequenced, ms.Sequencer]:
    """All of them, one call; what is held back is offered again, once for each call that took some."""
    out, rest = Sequenced(), [(k, n, at * MS, p) for k, n, at, p in given_events]
    while rest:
        step = machine.feed(rest)
        out.extend(step)
        rest = rest[step.taken :]
        if not step.taken:
            break
    return out, machine


def epochs(out: Sequenced, key: str) -> list[list[Event]]:
    """The ordered events of a key, cut where it goes back: at a reset, or where it was forgotten."""
    cut: list[list[Event]] = [[]]
    for event in [event for event in out.ordered if event.key == key]:
        if cut[-1] and event.seq <= cut[-1][-1].seq:
            cut.append([])
        cut[-1].append(event)
    return cut


@given(events, st.one_of(options, blocking, wrapping))
def test_each_event_goes_one_way(given_events: list[Any], chosen: ms.SequenceOptions):
    out, machine = fed(ms.Sequencer(chosen), given_events)
    for is_over in (False, True):
        if is_over:
            out.extend(machine.end())
        counts = machine.counts
        assert counts.received == out.taken
        assert counts.ordered == len(out.ordered)
        assert counts.late == len(out.late)
        assert counts.duplicates == len(out.duplicates)
        assert counts.received == (
            counts.ordered + counts.late + counts.duplicates + counts.rejected + counts.buffered
        )
        assert counts.lost == sum(gap.numbers for gap in out.gaps)
        assert counts.resets == len(out.resets)
        assert counts.requests == len(out.requests)
    assert (machine.counts.buffered, machine.counts.buffered_bytes) == (0, 0)
    outputs = [
        *out.ordered,
        *(late.event for late in out.late),
        *(duplicate.event for duplicate in out.duplicates),
    ]
    came: dict[Any, int] = defaultdict(int)
    for key, _, at, payload in given_events[: out.taken]:
        came[key, at * MS, payload] += 1
    for event in outputs:
        came[event.key, event.time_us, event.payload] -= 1
    assert min(came.values(), default=0) >= 0
    assert sum(came.values()) == machine.counts.rejected


@given(events, st.one_of(options, blocking, wrapping))
def test_each_number_from_the_start_on_is_in_order_or_in_one_gap(
    given_events: list[Any], chosen: ms.SequenceOptions
):
    chosen = replace(chosen, forget="1h", max_keys=9)
    machine = ms.Sequencer(chosen)
    accounted: dict[str, list[int]] = {"a": [], "b": []}
    begun: dict[str, int | None] = dict.fromkeys(
        "ab", chosen.start if chosen.start != "first" else None
    )  # type: ignore[arg-type]
    for event in given_events:
        out, _ = fed(machine, [event])
        key = event[0]
        resets = {(reset.expected, reset.start) for reset in out.resets}
        assert len(resets) <= 1
        now = [e.seq for e in out.ordered] + [
            n for g in out.gaps for n in range(g.first, g.last + 1)
        ]
        for _, start in resets:
            before = [n for n in now if not start <= n <= start + 1]
            _each_once([*accounted[key], *before], begun[key], None)
            accounted[key], begun[key] = [], start
            now = [start, start + 1]
        for other in "ab":
            mine = [e.seq for e in out.ordered if e.key == other]
            mine += [n for g in out.gaps if g.key == other for n in range(g.first, g.last + 1)]
            if other == key and resets:
                mine = now
            if mine and begun[other] is None:
                begun[other] = min(mine)
            accounted[other] += mine
            _each_once(accounted[other], begun[other], machine.awaited(other))


def _each_once(found: list[int], begin: int | None, end: int | None) -> None:
    if begin is None or not found:
        assert not found
        return
    assert sorted(found) == list(range(begin, begin + len(found)))
    if end is not None:
        assert end == begin + len(found)


@given(events, st.one_of(options, blocking, wrapping))
def test_ordered_is_strictly_increasing_between_resets(
    given_events: list[Any], chosen: ms.SequenceOptions
):
    machine = ms.Sequencer(replace(chosen, forget="1h", max_keys=9))
    latest: dict[str, int] = {}
    for event in given_events:
        out, _ = fed(machine, [event])
        starts = {reset.key: reset.start for reset in out.resets}
        for one in out.ordered:
            if starts.get(one.key) == one.seq:
                del starts[one.key]
            elif one.key in latest:
                assert one.seq > latest[one.key]
            latest[one.key] = one.seq


def per_key(out: Sequenced) -> dict[str, list[Any]]:
    """Everything that came out, key by key, and of what kind; across keys nothing is promised."""
    found: dict[str, list[Any]] = {}
    for name in ("ordered", "gaps", "resets", "requests"):
        for one in getattr(out, name):
            found.setdefault(f"{name} {one.key}", []).append(one)
    for name in ("late", "duplicates"):
        for one in getattr(out, name):
            found.setdefault(f"{name} {one.event.key}", []).append(one)
    return found


@given(events, st.one_of(options, wrapping), st.data())
def test_pieces_and_stops_change_nothing(
    given_events: list[Any], chosen: ms.SequenceOptions, data: st.DataObject
):
    whole, machine = fed(ms.Sequencer(chosen), given_events)
    other, pieces = ms.Sequencer(chosen), Sequenced()
    rest = given_events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, _ = fed(other, rest[:size])
        pieces.extend(out)
        rest = rest[size:]
        if data.draw(st.booleans()):
            other = ms.Sequencer.load(other.dump(), chosen)
    assert per_key(pieces) == per_key(whole)
    assert other.dump() == machine.dump()
    assert per_key(other.end()) == per_key(machine.end())


@given(events, blocking, st.data())
def test_stops_change_nothing_where_the_source_is_held_back(
    given_events: list[Any], chosen: ms.SequenceOptions, data: st.DataObject
):
    whole, machine = fed(ms.Sequencer(chosen), given_events)
    other, pieces, rest = ms.Sequencer(chosen), Sequenced(), given_events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, _ = fed(other, rest[:size])
        pieces.extend(out)
        if out.taken < size:
            break
        rest = rest[size:]
        other = ms.Sequencer.load(other.dump(), chosen)
    assert per_key(pieces) == per_key(whole)
    assert other.dump() == machine.dump()


@given(events, st.integers(0, 10**9))
def test_a_stop_of_any_length_invents_nothing(given_events: list[Any], away: int):
    """With a clock of arrivals: as if it had not run on while nothing ran."""
    chosen = ms.SequenceOptions(wait="20ms", start=0)
    went, stopped = ms.Sequencer(chosen), ms.Sequencer(chosen)
    first, second = Sequenced(), Sequenced()
    now = 0
    for number, (key, seq, after, payload) in enumerate(given_events):
        now += after * MS
        first.extend(went.feed([(key, seq, None, payload)], now_us=now))
        if number == len(given_events) // 2:
            stopped = ms.Sequencer.load(
                stopped.dump(), chosen, now_us=(stopped.clock_us or 0) + away
            )
        shift = away if number >= len(given_events) // 2 else 0
        second.extend(stopped.feed([(key, seq, None, payload)], now_us=now + shift))
    assert first.ordered == second.ordered
    assert [(g.key, g.first, g.last) for g in first.gaps] == [
        (g.key, g.first, g.last) for g in second.gaps
    ]
    assert [late.event for late in first.late] == [late.event for late in second.late]


def sent(count: int, keys: int) -> list[dict[str, Any]]:
    return [
        {"key": n % keys, "seq": n // keys, "position": n, "at": START + timedelta(milliseconds=n)}
        for n in range(count)
    ]


rates = st.floats(0, 0.4)


@given(rates, rates, rates, rates, st.integers(0, 2**32), st.integers(1, 4))
def test_all_losses_of_a_bad_network_are_found_and_none_is_invented(
    missing: float, delayed: float, swapped: float, twice: float, seed: int, keys: int
):
    """Delays are at most 20 ms, and a gap waits for 21: so what is not there then was lost."""
    network = BadNetwork(
        missing=missing, delayed=delayed, out_of_order=swapped, repeated=twice, seed=seed, key="key", time="at",
        delay=("1ms", "20ms"),
    )  # fmt: skip
    # What is out of order waits for the next event of its key: 4 ms, or more where those are missing.
    line = network.through(sent(300, keys))
    machine = ms.Sequencer(ms.SequenceOptions(wait="10s", start=0))
    out = machine.feed([(e["key"], e["seq"], e["position"] * MS, e["position"]) for e in line])
    out.extend(machine.end())
    lost = [n * keys + gap.key for gap in out.gaps for n in range(gap.first, gap.last + 1)]
    tail = _never_revealed(network, keys)
    network.check(missing=[*lost, *tail], repeated=[d.event.payload for d in out.duplicates])
    assert all(duplicate.same for duplicate in out.duplicates)
    assert out.late == []
    for key in range(keys):
        mine = [event.payload for event in out.ordered if event.key == key]
        assert mine == sorted(set(network.truth.arrived) & set(range(key, 300, keys)))


@given(st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 2**32))
def test_none_is_invented_where_the_wait_exceeds_the_greatest_delay(
    missing: float, delayed: float, seed: int
):
    """Gaps close by their deadlines here, while the line goes on."""
    network = BadNetwork(
        missing=missing, delayed=delayed, seed=seed, time="at", key="key", delay=("1ms", "20ms")
    )
    machine = ms.Sequencer(ms.SequenceOptions(wait="21ms", start=0))
    out = Sequenced()
    clock = 0
    for event in network.through(sent(400, 1)):
        out.extend(machine.feed([(0, event["seq"], event["position"] * MS, event["position"])]))
        assert (machine.clock_us or 0) >= clock
        clock = machine.clock_us or 0
    out.extend(machine.advance(clock + 21 * MS))
    assert not any(gap.is_unfinished for gap in out.gaps)
    lost = [n for gap in out.gaps for n in range(gap.first, gap.last + 1)]
    network.check(missing=[*lost, *_never_revealed(network, 1)])
    assert out.late == []


def _never_revealed(network: BadNetwork, keys: int) -> list[int]:
    """What is missing behind the last arrival of its key: no later number tells of it."""
    truth = network.truth
    latest = {
        key: max((p for p in truth.arrived if p % keys == key), default=-1) for key in range(keys)
    }
    return [position for position in truth.missing if position > latest[position % keys]]


@given(events, st.data())
def test_batch_and_stream_give_the_same_where_gaps_are_held(
    given_events: list[Any], data: st.DataObject
):
    """A stream has no end; so what is compared is what it had given before."""
    chosen = ms.SequenceOptions(gap="hold", start=0)
    batch, _ = fed(ms.Sequencer(chosen), given_events)
    stream, other, rest = Sequenced(), ms.Sequencer(chosen), given_events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        stream.extend(fed(other, rest[:size])[0])
        other.advance((other.clock_us or 0) + data.draw(st.integers(0, 10**9)))
        rest = rest[size:]
    assert per_key(stream) == per_key(batch)


@given(events, options)
def test_gaps_and_what_is_in_order_never_overlap_in_time_either(
    given_events: list[Any], chosen: ms.SequenceOptions
):
    """A gap opens before it closes, and those of a key close in the order of their numbers."""
    out, machine = fed(ms.Sequencer(replace(chosen, forget="1h", max_keys=9)), given_events)
    out.extend(machine.end())
    assert all(gap.opened_us <= gap.closed_us for gap in out.gaps)
    if not out.resets:
        for key in "ab":
            mine: list[Gap] = [gap for gap in out.gaps if gap.key == key]
            assert all(a.last < b.first for a, b in pairwise(mine))
            assert all(a.closed_us <= b.closed_us for a, b in pairwise(mine))
