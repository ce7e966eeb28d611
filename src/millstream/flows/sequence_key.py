"""One key of a sequence: which numbers came, which are awaited, and what each event is.

    closed gap      open gap    open gap
         v             v           v
    1 2 [3] 4 5 6 | [7 8] 9 10 [11] 12 13
    delivered      next   buffered       end

``next`` is the number that is awaited. What came beyond it is buffered, and an open gap lies before each stretch of it.
So the first open gap, if there is one, begins at ``next``, and events are buffered if and only if a gap is open. The
deadline of a gap is never before that of the gap in front of it, so the first one is always the first to be closed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from millstream.flows.sequence_arrivals import Arrivals
from millstream.flows.sequence_memory import UNKNOWN, Delivered
from millstream.flows.sequence_options import FIRST, SequenceOptions
from millstream.flows.sequence_output import (
    Counts,
    Duplicate,
    Event,
    Gap,
    Key,
    Late,
    Payload,
    Reason,
    Request,
    Reset,
    Sequenced,
)
from millstream.primitives.errors import StepError

REQUESTS_MAX: Final = 10
LATER_ARRIVALS: Final = 3
"""After so many arrivals of later numbers one counts as lost: TCP's three duplicate acknowledgements (RFC 5681)."""
ROUND_TRIP_US: Final = 100_000
"""Before the first one is measured: WebRTC's."""
ROUND_TRIP_US_MIN: Final = 1_000
_REORDER: Final = 4
"""A quarter of a round trip passes before what was only overtaken counts as lost: RACK (RFC 8985)."""
_first = attrgetter("first")


class Held(NamedTuple):
    """An event of this key."""

    seq: int
    time_us: int | None
    payload: Payload
    digest: int
    size: int


class OpenGap:
    """Numbers that are awaited, from ``first`` to ``last``."""

    __slots__ = ("asked", "asked_us", "deadline_us", "first", "last", "later", "opened_us")

    def __init__(self, first: int, last: int, opened_us: int, deadline_us: int | None) -> None:
        self.first = first
        self.last = last
        self.opened_us = opened_us
        self.deadline_us = deadline_us
        self.later = 0
        self.asked = 0
        self.asked_us = 0

    def part(self, first: int, last: int) -> OpenGap:
        """Return a part of it, with its past."""
        part = OpenGap(first, last, self.opened_us, self.deadline_us)
        part.later, part.asked, part.asked_us = self.later, self.asked, self.asked_us
        return part


class KeyedSequence:
    """The state of one key. It is given the time with each call; what comes out goes into ``out``."""

    __slots__ = (
        "_books", "_options", "arrivals", "buffer", "closed", "delivered", "end", "gaps", "heard_us", "index", "key",
        "listed_us", "next", "probation", "round_trip_us", "start", "timer_us",
    )  # fmt: skip

    def __init__(self, key: Key, index: int, options: SequenceOptions, books: Counts) -> None:
        """Start before the first event."""
        self.key = key
        self.index = index
        self._options = options
        self._books = books
        self.start: int | None = None if options.start == FIRST else options.start
        self.next = 0 if self.start is None else self.start
        self.end = self.next
        """One past the last number that is buffered, where a gap is open."""
        self.buffer: dict[int, Held] = {}
        self.gaps: list[OpenGap] = []
        self.closed: list[Gap] = []
        self.delivered = Delivered(options.max_misorder)
        self.probation: Held | None = None
        self.heard_us = 0
        self.timer_us: int | None = None
        """When the sequencer looks at it next."""
        self.listed_us: int | None = None
        """How old its first gap is, as the sequencer knows it."""
        self.arrivals = Arrivals(options.max_wait_us) if options.wait_us is None else None
        self.round_trip_us = ROUND_TRIP_US

    def __lt__(self, other: KeyedSequence) -> bool:
        """Heaps of keys are ordered by age, where all else is the same."""
        return self.index < other.index

    # ---- an event -------------------------------------------------------------------------------

    def unwrap(self, seq: int) -> int:
        """Return the number that an event stands for: where numbers wrap, the nearest to what is awaited."""
        modulo = self._options.modulo
        if modulo is None or self.start is None:
            return seq
        near = self.next
        if self.probation is not None and (seq - self.probation.seq) % modulo == 1:
            near = self.probation.seq + 1
        ahead = (seq - near) % modulo
        return near + (ahead if 2 * ahead < modulo else ahead - modulo)

    def would_wait(self, seq: int) -> bool:
        """Return whether an event of this unwrapped number would be buffered now."""
        return (
            self.start is not None
            and 0 < seq - self.next <= self._options.max_dropout
            and seq not in self.buffer
        )

    def take(self, held: Held, now_us: int, out: Sequenced) -> None:
        """Take an event, whose number is unwrapped."""
        seq = held.seq
        if self.start is None:
            self.start = self.next = seq
        if self.probation is not None:
            if self._confirms(seq):
                self._reset(self.probation, now_us, out)
            else:
                self.reject_probation()
        ahead = seq - self.next
        options = self._options
        if ahead == 0:
            self._note(held, now_us)
            self._arrive_next(held, now_us, out)
        elif 0 < ahead <= options.max_dropout:
            self._take_ahead(held, now_us, out)
        elif 0 > ahead >= -options.max_misorder:
            self._take_behind(held, now_us, out)
        else:
            self.probation = held
            self._hold(held)
        if self.gaps and options.gap == "request":
            self.ask(now_us, out)

    def _confirms(self, seq: int) -> bool:
        return self.probation is not None and seq == self.probation.seq + 1

    def _arrive_next(self, held: Held, now_us: int, out: Sequenced) -> None:
        if self.gaps:
            gap = self.gaps[0]
            self._measure(gap, now_us)
            if gap.first == gap.last:
                del self.gaps[0]
            else:
                gap.first += 1
            self._deliver(held, out)
            self._drain(out)
        else:
            self._deliver(held, out)

    def _take_ahead(self, held: Held, now_us: int, out: Sequenced) -> None:
        seq = held.seq
        if (there := self.buffer.get(seq)) is not None:
            self._repeat(held, there.digest, out)
            return
        self._note(held, now_us)
        end = self.end if self.gaps else self.next
        if seq < end:
            self._split(seq, now_us)
        else:
            if seq > end:
                self.gaps.append(OpenGap(end, seq - 1, now_us, self._deadline_us(now_us)))
            self.end = seq + 1
        self.buffer[seq] = held
        self._hold(held)
        if self._options.gap == "request":
            for gap in reversed(self.gaps):  # Those in front have had at least as many.
                if gap.last > seq:
                    continue
                if gap.later >= LATER_ARRIVALS:
                    break
                gap.later += 1

    def _take_behind(self, held: Held, now_us: int, out: Sequenced) -> None:
        seq = held.seq
        at = bisect_right(self.closed, seq, key=_first) - 1
        gap = self.closed[at] if at >= 0 and self.closed[at].last >= seq else None
        digest = None if gap is not None else self.delivered.find(seq)
        if digest is not None:
            self._repeat(held, digest, out)
            return
        if gap is not None and self.arrivals is not None:
            self.arrivals.observe(now_us, held.time_us, now_us - gap.opened_us)
        self._books.late += 1
        if self._options.late == "side":
            out.late.append(
                Late(self._event(held), None if gap is None else now_us - gap.closed_us, gap)
            )

    def _repeat(self, held: Held, digest: int, out: Sequenced) -> None:
        same = None if UNKNOWN in (digest, held.digest) else digest == held.digest
        self._books.duplicates += 1
        self._books.conflicts += same is False
        out.duplicates.append(Duplicate(self._event(held), same))

    def _split(self, seq: int, now_us: int) -> None:
        at = bisect_right(self.gaps, seq, key=_first) - 1
        gap = self.gaps[at]
        self._measure(gap, now_us)
        parts = [
            gap.part(*ends)
            for ends in ((gap.first, seq - 1), (seq + 1, gap.last))
            if ends[0] <= ends[1]
        ]
        self.gaps[at : at + 1] = parts

    # ---- gaps -----------------------------------------------------------------------------------

    def due_us(self, now_us: int) -> int | None:
        """Return when time alone changes something, if nothing else comes. All that was due now is done."""
        if not self.gaps:
            return None
        deadline = self.gaps[0].deadline_us
        if self._options.gap != "request":
            return deadline
        asks = [due for gap in self.gaps if (due := self._ask_us(gap)) is not None and due > now_us]
        return min([*asks, *([] if deadline is None else [deadline])], default=None)

    def pass_time(self, now_us: int, out: Sequenced) -> None:
        """Close the gaps whose deadline has come, and ask again for what may still come in time. Raises StepError."""
        while (
            self.gaps and (deadline := self.gaps[0].deadline_us) is not None and deadline <= now_us
        ):
            gap = self.gaps[0]
            if self._options.gap == "fail":
                numbers = f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"
                raise StepError(
                    f"key {self.key!r} lacks {numbers}",
                    where='sequence(gap="fail")',
                    expected="all numbers, within the wait of each",
                    next_step='find out where they are, wait longer, or write gap="emit"',
                )
            self.close_first("exhausted" if gap.asked >= REQUESTS_MAX else "timeout", deadline, out)
        if self.gaps and self._options.gap == "request":
            self.ask(now_us, out)

    def close_first(self, reason: Reason, at_us: int, out: Sequenced) -> None:
        """Give up the first gap, and go on behind it."""
        open_gap = self.gaps.pop(0)
        gap = Gap(self.key, open_gap.first, open_gap.last, open_gap.opened_us, at_us, reason)
        out.gaps.append(gap)
        self._books.gaps[reason] += 1
        self._books.lost += gap.numbers
        self.closed.append(gap)
        self.next = gap.last + 1
        self._drain(out)
        floor = self.next - self._options.max_misorder
        while self.closed and self.closed[0].last < floor:
            del self.closed[0]

    def close_all(self, reason: Reason, at_us: int, out: Sequenced) -> None:
        """Give up all gaps: nothing waits any more."""
        while self.gaps:
            self.close_first(reason, at_us, out)

    def reject_probation(self) -> None:
        """Drop what is on probation, and count it."""
        if self.probation is not None:
            self._books.rejected += 1
            self._release(self.probation)
            self.probation = None

    def ask(self, now_us: int, out: Sequenced) -> None:
        """Ask for what is due."""
        for gap in self.gaps:
            due = self._ask_us(gap)
            if due is not None and due <= now_us and self._in_time(gap, now_us):
                gap.asked += 1
                gap.asked_us = now_us
                self._books.requests += 1
                out.requests.append(Request(self.key, gap.first, gap.last, gap.asked, now_us))

    def _ask_us(self, gap: OpenGap) -> int | None:
        """Return when a gap is to be asked for, or None if not again, or not in time any more."""
        if gap.asked >= REQUESTS_MAX:
            return None
        if gap.asked:
            due = gap.asked_us + self.round_trip_us
        elif gap.later >= LATER_ARRIVALS:
            due = gap.opened_us
        else:
            due = gap.opened_us + self.round_trip_us // _REORDER
        return due if self._in_time(gap, due) else None

    def _in_time(self, gap: OpenGap, now_us: int) -> bool:
        return gap.deadline_us is None or now_us + self.round_trip_us <= gap.deadline_us

    def wait_us(self) -> int:
        """Return how long a gap that opens now would wait."""
        options = self._options
        if self.arrivals is None:
            return options.wait_us or 0
        return max(options.min_wait_us, min(self.arrivals.wait_us, options.max_wait_us))

    def _deadline_us(self, now_us: int) -> int | None:
        if self._options.gap == "hold":
            return None
        deadline = now_us + self.wait_us()
        before = self.gaps[-1].deadline_us if self.gaps else None
        return deadline if before is None else max(deadline, before)

    def _reset(self, first: Held, now_us: int, out: Sequenced) -> None:
        """Begin anew with the event that was on probation."""
        expected = self.next
        self.close_all("reset", now_us, out)
        out.resets.append(Reset(self.key, expected, first.seq, now_us))
        self._books.resets += 1
        self._release(first)
        self.probation = None
        self.closed.clear()
        self.delivered = Delivered(self._options.max_misorder)
        self.start = self.next = first.seq
        if self.arrivals is not None:
            self.arrivals = Arrivals(self._options.max_wait_us)
        self._deliver(first, out)

    def pass_to(self, following: int, digests: array[int]) -> None:
        """Go on to a number: all before it are given elsewhere, those that wait here among them.

        ``digests`` are those of the last ones.
        """
        if self.gaps:
            for seq in [seq for seq in self.buffer if seq < following]:
                self._release(self.buffer.pop(seq))
            self.gaps = [gap for gap in self.gaps if gap.last >= following]
            if self.gaps:
                self.gaps[0].first = max(self.gaps[0].first, following)
        self.next = following
        self.delivered.add_run(following - len(digests), digests)

    # ---- the buffer -----------------------------------------------------------------------------

    def _drain(self, out: Sequenced) -> None:
        """Deliver what follows on, up to the next gap."""
        stop = self.gaps[0].first if self.gaps else self.end
        for seq in range(self.next, stop):
            held = self.buffer.pop(seq)
            self._release(held)
            self._deliver(held, out)

    def _deliver(self, held: Held, out: Sequenced) -> None:
        out.ordered.append(self._event(held))
        self.delivered.add(held.seq, held.digest)
        self.next = held.seq + 1

    def _event(self, held: Held) -> Event:
        return Event(self.key, held.seq, held.time_us, held.payload)

    def _hold(self, held: Held) -> None:
        self._books.buffered += 1
        self._books.buffered_bytes += held.size

    def _release(self, held: Held) -> None:
        self._books.buffered -= 1
        self._books.buffered_bytes -= held.size

    # ---- what is measured -----------------------------------------------------------------------

    def _note(self, held: Held, now_us: int) -> None:
        if self.arrivals is not None:
            at = bisect_right(self.gaps, held.seq, key=_first) - 1
            overtaken = (
                now_us - self.gaps[at].opened_us
                if at >= 0 and self.gaps[at].last >= held.seq
                else 0
            )
            self.arrivals.observe(now_us, held.time_us, overtaken)

    def _measure(self, gap: OpenGap, now_us: int) -> None:
        """Learn the round trip as TCP does (RFC 6298), from what was asked for once.

        Of what was asked for twice, nobody knows which of them it answers (Karn's algorithm).
        """
        if gap.asked == 1:
            took = now_us - gap.asked_us
            self.round_trip_us = max(ROUND_TRIP_US_MIN, (7 * self.round_trip_us + took) // 8)

    # ---- kept and found again -------------------------------------------------------------------

    def dump(self, clock_us: int) -> list[Any]:
        """Return plain values. Deadlines are what remains until then, and the last sign is how long it was ago."""
        gaps = [
            [gap.first, gap.last, clock_us - gap.opened_us,
             None if gap.deadline_us is None else gap.deadline_us - clock_us,
             gap.later, gap.asked, clock_us - gap.asked_us]
            for gap in self.gaps
        ]  # fmt: skip
        closed = [[g.first, g.last, g.opened_us, g.closed_us, g.reason] for g in self.closed]
        return [
            self.key, self.start, self.next, self.end if self.gaps else self.next, clock_us - self.heard_us,
            gaps, [list(held) for held in self.buffer.values()], closed,
            self.delivered.dump(self.next - self._options.max_misorder),
            None if self.probation is None else list(self.probation),
            None if self.arrivals is None else self.arrivals.dump(), self.round_trip_us,
        ]  # fmt: skip

    def load(self, data: Sequence[Any], clock_us: int, *, comparable: bool) -> None:
        """Take over what ``dump`` gave, at a clock that may show another time. Options may have changed since."""
        (_, self.start, self.next, self.end, idle_us, gaps, held, closed, delivered, probation,
         arrivals, self.round_trip_us) = data  # fmt: skip
        self.heard_us = clock_us - idle_us
        for first, last, open_us, left_us, later, asked, ago_us in gaps:
            deadline = None if left_us is None else clock_us + left_us
            if self._options.gap == "hold":
                deadline = None
            elif deadline is None:
                deadline = self._deadline_us(clock_us)
            gap = OpenGap(first, last, clock_us - open_us, deadline)
            gap.later, gap.asked, gap.asked_us = later, asked, clock_us - ago_us
            self.gaps.append(gap)
        self.buffer = {found.seq: found for found in (_held(values, comparable) for values in held)}
        self.closed = [Gap(self.key, *values) for values in closed]
        for first, digests in delivered:
            kept = array("Q", digests if comparable else [UNKNOWN] * len(digests))
            self.delivered.add_run(first, kept)
        self.probation = None if probation is None else _held(probation, comparable)
        if self.arrivals is not None and arrivals is not None:
            self.arrivals = Arrivals.load(arrivals, self._options.max_wait_us)


def _held(values: list[Any], comparable: bool) -> Held:
    seq, time_us, payload, digest, size = values
    return Held(seq, time_us, payload, digest if comparable else UNKNOWN, size)
