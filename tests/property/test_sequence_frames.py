"""Sequences of frames give what single events give: the same outcome, and the same state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.flows.sequence_frames import FrameSequencer, SequencedFrame
from millstream.flows.sequence_output import Event, Sequenced
from millstream.primitives.codec import decode

MS = 1_000
SCHEMA = {"key": pl.String, "seq": pl.Int64, "at": pl.Int64, "payload": pl.String}

numbers = st.one_of(st.integers(0, 7), st.integers(0, 25), st.integers(200, 206))
rows = st.tuples(st.sampled_from("abc"), numbers, st.integers(0, 30), st.sampled_from(["", "x"]))
options = st.builds(
    ms.SequenceOptions,
    wait=st.sampled_from(["0s", "3ms", "20ms", "1h"]),
    gap=st.sampled_from(["emit", "hold"]),
    start=st.sampled_from(["first", 0, 3]),
    max_events=st.sampled_from([1, 4, 1_000]),
    max_bytes=st.sampled_from([60, 500, "1MiB"]),
    max_dropout=st.sampled_from([4, 30]),
    max_misorder=st.sampled_from([2, 9, 30]),
    forget=st.sampled_from(["8ms", "1h"]),
    overflow=st.sampled_from(["close_gap", "block"]),
)
others = st.one_of(
    st.builds(replace, options, wait=st.just("auto")),
    st.builds(replace, options, gap=st.just("request")),
    st.builds(replace, options, max_keys=st.just(2)),
    st.builds(replace, options, start=st.just(0), modulo=st.just(256), max_dropout=st.just(4)),
)


@st.composite
def shuffled(draw: st.DrawFn) -> list[Any]:
    """What mostly goes on by one: with swaps, losses and repetitions."""
    line: list[Any] = []
    for n in range(draw(st.integers(0, 20))):
        line += [(key, n, n * draw(st.integers(0, 3)), "") for key in "abc"]
    for _ in range(draw(st.integers(0, 8))):
        if line:
            at, to = (draw(st.integers(0, len(line) - 1)) for _ in range(2))
            what = draw(st.sampled_from(["swap", "lose", "repeat"]))
            if what == "swap":
                line.insert(to, line.pop(at))
            elif what == "lose":
                del line[at]
            else:
                line.insert(to, line[at])
    return line


lines = st.one_of(st.lists(rows, max_size=50), shuffled())


def frame(events: list[Any]) -> pl.DataFrame:
    return pl.DataFrame([(k, n, at * MS, p) for k, n, at, p in events], schema=SCHEMA, orient="row")


def sequencer(chosen: ms.SequenceOptions) -> FrameSequencer:
    return ms.sequence_frames(chosen, key="key", seq="seq", time="at")


def kept(machine: FrameSequencer) -> Any:
    """All that is remembered, but for the order of the keys, which only breaks ties."""
    inner, next_row, _, _ = decode(machine.dump())
    state = decode(inner)
    by_key = sorted(state.pop("keys"), key=lambda values: str(values[0]))
    for values in by_key:
        values[6].sort()  # what waits, by its number
    return state, by_key, next_row


def outcome(out: SequencedFrame) -> dict[str, list[Any]]:
    """What came out, by kind and key."""
    found: dict[str, list[Any]] = {}
    for row in out.ordered.rows():
        found.setdefault(f"ordered {row[0]}", []).append(row)
    for kind in ("gaps", "resets", "requests"):
        for one in getattr(out, kind):
            found.setdefault(f"{kind} {one.key}", []).append(one)
    for kind in ("late", "duplicates"):
        for one in getattr(out, kind):
            found.setdefault(f"{kind} {one.event.key}", []).append(one)
    return found


def added(found: dict[str, list[Any]], out: SequencedFrame) -> None:
    for name, values in outcome(out).items():
        found.setdefault(name, []).extend(values)


@given(lines, st.one_of(options, others), st.data())
def test_what_passes_at_once_is_what_passes_one_by_one(
    events: list[Any], chosen: ms.SequenceOptions, data: st.DataObject
):
    at_once, one_by_one = sequencer(chosen), sequencer(chosen)
    rest = events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        fast = at_once.feed(frame(rest[:size]))
        with patch.object(FrameSequencer, "_may_pass", lambda *_: False):
            slow = one_by_one.feed(frame(rest[:size]))
        assert fast.taken == slow.taken
        assert outcome(fast) == outcome(slow)
        assert kept(at_once) == kept(one_by_one)
        if data.draw(st.booleans()):
            at_once = FrameSequencer.load(at_once.dump(), chosen, key="key", seq="seq", time="at")
        if not fast.taken:
            break
        rest = rest[fast.taken :]
    assert outcome(at_once.end()) == outcome(one_by_one.end())


def row(event: Event, chosen: ms.SequenceOptions) -> dict[str, Any]:
    """The row that an event was, whose payload is all that is not key, number or time."""
    seq = event.seq if chosen.modulo is None else event.seq % chosen.modulo
    return {"key": event.key, "seq": seq, "at": event.time_us, "payload": event.payload}


def with_row(event: Event, chosen: ms.SequenceOptions) -> Event:
    return event._replace(payload=row(event, chosen))


@given(lines, st.one_of(options, others), st.data())
def test_frames_give_what_events_give(
    events: list[Any], chosen: ms.SequenceOptions, data: st.DataObject
):
    chosen = replace(chosen, max_bytes="1MiB")  # a payload is less than a row
    frames, plain = sequencer(chosen), ms.Sequencer(chosen)
    found: dict[str, list[Any]] = {}
    expected = Sequenced()
    rest = events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out = frames.feed(frame(rest[:size]))
        added(found, out)
        step = plain.feed([(k, n, at * MS, p) for k, n, at, p in rest[:size]])
        expected.extend(step)
        assert step.taken == out.taken
        if not out.taken:
            break
        rest = rest[out.taken :]
    added(found, frames.end())
    expected.extend(plain.end())
    same = SequencedFrame(
        pl.DataFrame([row(event, chosen) for event in expected.ordered], schema=SCHEMA),
        expected.gaps,
        [replace(late, event=with_row(late.event, chosen)) for late in expected.late],
        [replace(twice, event=with_row(twice.event, chosen)) for twice in expected.duplicates],
        expected.resets,
        expected.requests,
    )
    assert found == outcome(same)
    mine, theirs = frames.counts.dump(), plain.counts.dump()
    assert {**mine, "buffered_bytes": 0} == {**theirs, "buffered_bytes": 0}


few = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 2), st.sampled_from(["", "x"])
    ),
    max_size=14,
)


@settings(max_examples=400)
@given(
    few,
    st.integers(1, 14),
    st.sampled_from(["2ms", "5ms"]),
    st.sampled_from(["emit", "hold"]),
    st.sampled_from([3, 30]),
)
def test_few_numbers_close_together(
    events: list[Any], size: int, wait: str, gap: Any, misorder: int
):
    """Times go on: so it matters which gap is closed by which event."""
    chosen = ms.SequenceOptions(wait=wait, gap=gap, start=0, max_misorder=misorder)
    clock, line = 0, []
    for key, n, after, payload in events:
        clock += after
        line.append((key, n, clock, payload))
    at_once, one_by_one = sequencer(chosen), sequencer(chosen)
    for first in range(0, len(line), size):
        fast = at_once.feed(frame(line[first : first + size]))
        with patch.object(FrameSequencer, "_may_pass", lambda *_: False):
            slow = one_by_one.feed(frame(line[first : first + size]))
        assert outcome(fast) == outcome(slow)
        assert kept(at_once) == kept(one_by_one)


@given(shuffled(), st.integers(1, 40))
def test_by_a_clock_of_arrivals_too(events: list[Any], size: int):
    chosen = ms.SequenceOptions(wait="2ms", start=0)
    at_once, one_by_one = (
        ms.sequence_frames(chosen, key="key", seq="seq"),
        ms.sequence_frames(chosen, key="key", seq="seq"),
    )
    for number, first in enumerate(range(0, len(events), size)):
        part = frame(events[first : first + size])
        fast = at_once.feed(part, now_us=number * MS)
        with patch.object(FrameSequencer, "_may_pass", lambda *_: False):
            slow = one_by_one.feed(part, now_us=number * MS)
        assert outcome(fast) == outcome(slow)
        assert kept(at_once) == kept(one_by_one)
    assert outcome(at_once.advance(10**9)) == outcome(one_by_one.advance(10**9))
