"""Sequences of frames: columns instead of single events, and the same outcome.

Most events of a batch pass at once. Taken by number, those of a key that follow on what is awaited do, if

- nothing of the key is on probation, and no number is further ahead or behind than may be believed;
- none comes as late after the first greater one as a gap waits, so that no gap before it would have been closed;
- there are so few that ``max_events`` could not be reached.

Numbers that wait from before count as those of the batch do. What does not follow on, and all events of other keys, go
through the machine one by one, in the order of their arrival, each at the clock of its place in the batch. When a gap
opens depends only on greater numbers, so it does not matter that others have passed before. Keys know nothing of each
other but for the limits of all. Where one of these could be reached, where requests depend on single arrivals, and
where the wait is found out, all events go that way.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from millstream.flows.sequence import Sequencer
from millstream.flows.sequence_batch import Batch, Found
from millstream.flows.sequence_columns import (
    FAR,
    Integers,
    groups_of,
)
from millstream.flows.sequence_key import Held, KeyedSequence
from millstream.flows.sequence_options import FIRST, SequenceOptions
from millstream.flows.sequence_output import (
    Counts,
    Duplicate,
    Event,
    Gap,
    Key,
    Late,
    Request,
    Reset,
    Sequenced,
)
from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import PayloadError, SchemaError

Resend = Callable[[Sequence[Request]], object]

_WHERE: Final = "sequence_frames"
_KEY, _ROW = "key", "row"


@dataclass(slots=True)
class SequencedFrame:
    """What one call gives: as ``Sequenced``, but rows in order. The payload of late events and duplicates is a row."""

    ordered: pl.DataFrame
    gaps: list[Gap] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    resets: list[Reset] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    taken: int = 0
    """How many rows were taken, from the first on."""


class _RowSequencer(Sequencer):
    """Its payloads are the numbers of rows. Their digests are Polars', which another version may make otherwise."""

    def _digests(self) -> str:
        return f"polars {pl.__version__}"


class FrameSequencer:
    """A ``Sequencer`` for frames, which gives the same. Belongs to one thread; does no I/O, has no clock of its own.

    All frames have the same columns: ``key`` of any kind, ``seq`` of whole numbers, and ``time`` as Datetime or as
    whole microseconds, none of them null.
    """

    def __init__(
        self,
        options: SequenceOptions | None = None,
        *,
        key: str,
        seq: str,
        time: str | None = None,
        resend: Resend | None = None,
    ) -> None:
        """Start empty. Raises PlanError as ``Sequencer`` does."""
        self._names = (key, seq, time)
        self._machine: Sequencer = _RowSequencer(options, resend=resend)
        self._next_row = 0
        self._pool: pl.DataFrame | None = None
        """The rows that wait, in the order of their arrival; None before the first frame."""
        self._pool_rows: Integers = np.empty(0, dtype=np.int64)
        """Their numbers."""
        self._waiting: list[KeyedSequence] = []

    # ---- what goes in ---------------------------------------------------------------------------

    def feed(self, frame: pl.DataFrame, now_us: int | None = None) -> SequencedFrame:
        """Take rows in the order of their arrival; clock and errors as those of ``Sequencer.feed``.

        ``ordered`` has the columns of the frame. Each key is in order there; keys among each other are in any.
        """
        self._machine._refuse_stopped()
        self._refuse_other_columns(frame)
        batch = self._batch(frame, now_us)
        out, passed = Sequenced(), np.empty(0, dtype=np.int64)
        self._machine._step(now_us, out)
        before = len(out.ordered)
        if frame.height:
            passed = self._take(batch, out)
        self._machine._done(out)
        self._next_row += out.taken
        numbers = _payloads(out.ordered)
        order = np.concatenate([numbers[:before], passed, numbers[before:]])
        return self._given(out, frame.head(out.taken), order)

    def advance(self, now_us: int) -> SequencedFrame:
        """Let time pass: the deadlines that have come close their gaps. Raises StepError as ``feed`` does."""
        return self._given_later(self._machine.advance(now_us))

    def end(self) -> SequencedFrame:
        """End the input, as ``Sequencer.end`` does."""
        return self._given_later(self._machine.end())

    # ---- what can be asked ----------------------------------------------------------------------

    @property
    def options(self) -> SequenceOptions:
        """How it works."""
        return self._machine.options

    @property
    def counts(self) -> Counts:
        """How many events there have been."""
        return self._machine.counts

    @property
    def due_us(self) -> int | None:
        """When ``advance`` would do something; None: not before another event."""
        return self._machine.due_us

    def awaited(self, key: Key) -> int | None:
        """Return the number that is awaited next, wrapped numbers counted on; None for a key that is not known."""
        return self._machine.awaited(key)

    # ---- kept and found again -------------------------------------------------------------------

    def dump(self) -> bytes:
        """Return all that is remembered, as ``Sequencer.dump`` does, and the rows that wait."""
        rows = io.BytesIO()
        if self._pool is not None:
            self._pool.write_ipc_stream(rows)
        return encode(
            [self._machine.dump(), self._next_row, self._pool_rows.tolist(), rows.getvalue()]
        )

    @classmethod
    def load(
        cls,
        data: bytes,
        options: SequenceOptions | None = None,
        *,
        key: str,
        seq: str,
        time: str | None = None,
        now_us: int | None = None,
        resend: Resend | None = None,
    ) -> FrameSequencer:
        """Return a sequencer that goes on from a ``dump``, as ``Sequencer.load`` does.

        After another version of Polars nobody knows whether duplicates of before say the same.
        """
        machine, next_row, pool_rows, rows = _parts(data)
        found = cls(options, key=key, seq=seq, time=time, resend=resend)
        found._machine = _RowSequencer.load(machine, options, now_us=now_us, resend=resend)
        found._next_row = next_row
        found._pool_rows = np.array(pool_rows, dtype=np.int64)
        found._pool = pl.read_ipc_stream(io.BytesIO(rows)) if rows else None
        found._waiting = [state for state in found._machine._keys.values() if _waits(state)]
        return found

    # ---- columns --------------------------------------------------------------------------------

    def _refuse_other_columns(self, frame: pl.DataFrame) -> None:
        key, seq, time = self._names
        missing = [
            name for name in (key, seq, time) if name is not None and name not in frame.columns
        ]
        if missing or (self._pool is not None and frame.schema != self._pool.schema):
            expected = (
                self._names if missing or self._pool is None else tuple(self._pool.schema.items())
            )
            raise SchemaError(
                f"the frame has the columns {', '.join(map(str, frame.schema.items()))}",
                where=_WHERE,
                expected=f"{', '.join(map(str, expected))}, the same in each frame",
                next_step="name other columns, or cast these",
            )
        for name in (key, seq, time):
            if name is not None and frame[name].null_count():
                raise SchemaError(
                    f"{name!r} is null in {frame[name].null_count()} rows",
                    where=_WHERE,
                    expected="a value in each",
                    next_step="filter them out before",
                )

    def _batch(self, frame: pl.DataFrame, now_us: int | None) -> Batch:
        key, seq, time = self._names
        seqs, times = _whole(frame[seq]), None if time is None else _microseconds(frame[time])
        modulo = self.options.modulo
        if modulo is not None and len(seqs) and not 0 <= seqs.min() <= seqs.max() < modulo:
            raise SchemaError(
                f"{seq!r} goes from {seqs.min()} to {seqs.max()}",
                where=_WHERE,
                expected=f"whole numbers from 0 to {modulo - 1:,}",
                next_step="give modulo= where the numbers wrap",
            )
        if now_us is None and times is None:
            raise SchemaError(
                "nobody says what time it is",
                where=_WHERE,
                expected="time= with a column, or feed(…, now_us=)",
                next_step="name a column, or pass now_us=",
            )
        before = self._machine.clock_us
        if now_us is not None or times is None:
            clocks = np.full(len(seqs), max(now_us or 0, now_us or 0 if before is None else before))
        else:
            clocks = np.maximum.accumulate(times) if len(times) else times
            clocks = clocks if before is None else np.maximum(clocks, before)
        said = frame.drop([name for name in self._names if name is not None])
        digests = said.hash_rows().to_numpy() if said.width else np.ones(len(seqs), dtype=np.uint64)
        size = -(-frame.estimated_size() // frame.height) if frame.height else 0
        return Batch(frame[key], seqs, times, clocks, np.maximum(digests, np.uint64(1)), int(size))

    # ---- all at once, or one by one -------------------------------------------------------------

    def _take(self, batch: Batch, out: Sequenced) -> Integers:
        """Take all rows, or as many as there is room for; return the numbers of those that passed at once, in order."""
        found = self._found(batch) if self._may_pass(batch) else None
        if found is None:
            self._take_each(batch, np.arange(len(batch.seqs)), out)
            return np.empty(0, dtype=np.int64)
        self._know(found)
        passed = self._pass(found)
        rows = found.passing.rows[~found.passing.passes]
        others = np.sort(rows[rows < len(batch.seqs)])
        self._take_each(batch, others, out)
        count = len(batch.seqs) - len(others)
        self.counts.received += count
        self.counts.ordered += len(passed)
        out.taken += count
        self._machine._step(int(batch.clocks[-1]), out)
        return passed

    def _may_pass(self, batch: Batch) -> bool:
        """Return whether neither a limit of all keys nor a policy makes each arrival count."""
        options, machine = self.options, self._machine
        if options.gap == "request" or options.wait_us is None:
            return False
        fits = machine.counts.buffered_bytes + len(batch.seqs) * batch.size <= options.max_size
        first, last = int(batch.clocks[0]), int(batch.clocks[-1])
        ends = (int(batch.seqs.min()), int(batch.seqs.max()), first, last, options.wait_us)
        return fits and max(map(abs, ends)) < FAR and last - first < options.forget_us

    def _found(self, batch: Batch) -> Found | None:
        """Return what passes; None if all rows have to be taken one by one."""
        options, machine = self.options, self._machine
        grouped = (
            pl.LazyFrame({_KEY: batch.keys})
            .with_row_index(_ROW)
            .group_by(_KEY, maintain_order=True)
            .agg(pl.col(_ROW))
            .collect()
        )
        keys = grouped[_KEY].to_list()
        states = [machine._keys.get(key) for key in keys]
        if len(machine._keys) + states.count(None) > options.max_keys:
            return None
        lengths = grouped[_ROW].list.len().to_numpy().astype(np.int64)
        groups = groups_of(grouped[_ROW].explode().to_numpy().astype(np.int64), lengths)
        firsts = groups.rows[groups.starts]
        begins = (
            batch.seqs[firsts].tolist() if options.start == FIRST else [options.start] * len(keys)
        )
        clocks = batch.clocks[firsts].tolist()
        nexts, may_pass, waiting = [], [], []
        for at, (state, begin, clock) in enumerate(zip(states, begins, clocks, strict=True)):
            if state is None:
                nexts.append(begin)
                may_pass.append(True)
                continue
            nexts.append(state.next)
            is_fresh = clock - state.heard_us < options.forget_us
            may_pass.append(state.start is not None and state.probation is None and is_fresh)
            if state.gaps:
                waiting.append((at, state))
        if max(map(abs, nexts)) >= FAR:
            return None
        found = Found(batch, keys, states, groups, clocks, np.array(nexts, dtype=np.int64))
        return found if found.decide(waiting, np.array(may_pass), options) else None

    def _know(self, found: Found) -> None:
        """Make the keys that are new, in the order of their first events."""
        for at, state in enumerate(found.states):
            if state is None:
                found.states[at] = made = self._machine._new(found.keys[at])
                made.heard_us = found.clocks[at]
                self._machine._listen(made)

    def _pass(self, found: Found) -> Integers:
        """Move the keys on, and return the numbers of the rows that pass, in order."""
        memory, passes = self.options.max_misorder, found.passing.passes
        rows = found.passing.rows[passes]
        counts = np.bincount(found.groups.owner[passes], minlength=len(found.keys))
        digests = found.digests[rows].tobytes()
        at = np.flatnonzero(counts)
        counts = counts[at]
        ends = np.cumsum(counts)
        for group, count, end, following, clock in zip(
            at.tolist(), counts.tolist(), ends.tolist(), (found.nexts[at] + counts).tolist(),
            found.heard[at].tolist(), strict=True,
        ):  # fmt: skip
            state = found.states[group]
            assert state is not None
            if state.start is None:
                state.start = following - count
            state.heard_us = clock
            run = array("Q")
            run.frombytes(digests[8 * (end - min(count, memory)) : 8 * end])
            state.pass_to(following, run)
            if state.gaps:
                self._machine._keep_timers(state)
        return found.numbers(rows, self._next_row)

    def _take_each(self, batch: Batch, rows: Integers, out: Sequenced) -> None:
        """Take rows one by one, each at its own clock."""
        machine, base = self._machine, self._next_row
        times = [None] * len(rows) if batch.times is None else batch.times[rows].tolist()
        keys = batch.keys.gather(rows).to_list()
        for row, key, seq, time_us, clock_us, digest in zip(
            rows.tolist(), keys, batch.seqs[rows].tolist(), times, batch.clocks[rows].tolist(),
            batch.digests[rows].tolist(), strict=True,
        ):  # fmt: skip
            machine._step(clock_us, out)
            if not machine._take(key, Held(seq, time_us, base + row, digest, batch.size), out):
                break
            out.taken += 1
        self._note_waiting(dict.fromkeys(keys))

    def _note_waiting(self, keys: Iterable[Key]) -> None:
        """Remember which of these keys, and of those that waited before, have rows that wait."""
        states = [*self._waiting, *filter(None, map(self._machine._keys.get, keys))]
        self._waiting = [state for state in dict.fromkeys(states) if _waits(state)]

    # ---- rows -----------------------------------------------------------------------------------

    def _given_later(self, out: Sequenced) -> SequencedFrame:
        frame = pl.DataFrame() if self._pool is None else self._pool.clear()
        return self._given(out, frame, _payloads(out.ordered))

    def _given(self, out: Sequenced, frame: pl.DataFrame, order: Integers) -> SequencedFrame:
        """Return the rows of what came out, and keep those that wait. ``order``: the numbers of those in order."""
        pool = frame if self._pool is None else pl.concat([self._pool, frame])
        base = self._next_row - frame.height
        before = self._pool_rows

        def rows_of(numbers: Integers) -> pl.DataFrame:
            places = numbers - base + len(before)
            is_old = numbers < base
            places[is_old] = np.searchsorted(before, numbers[is_old])
            return pool[places]

        def with_rows(events: list[Event]) -> list[Event]:
            found = rows_of(_payloads(events)).to_dicts() if events else []
            return [event._replace(payload=row) for event, row in zip(events, found, strict=True)]

        late = with_rows([late.event for late in out.late])
        twice = with_rows([duplicate.event for duplicate in out.duplicates])
        given = SequencedFrame(
            rows_of(order),
            out.gaps,
            [
                Late(event, one.lateness_us, one.gap)
                for event, one in zip(late, out.late, strict=True)
            ],
            [Duplicate(event, one.same) for event, one in zip(twice, out.duplicates, strict=True)],
            out.resets,
            out.requests,
            out.taken,
        )
        self._note_waiting(())
        held = [held.payload for state in self._waiting for held in _waiting_of(state)]
        numbers = np.sort(np.array(held, dtype=np.int64))
        self._pool, self._pool_rows = rows_of(numbers), numbers
        return given


def _parts(data: bytes) -> list[Any]:
    parts = decode(data)
    if not isinstance(parts, list) or len(parts) != 4:
        raise PayloadError(
            "these bytes are no dump of a sequencer of frames",
            where=_WHERE,
            expected="what its dump() gave",
            next_step="start a new one, or use Sequencer.load",
        )
    return parts


def _payloads(events: list[Event]) -> Integers:
    return np.array([event.payload for event in events], dtype=np.int64)


def _waits(state: KeyedSequence) -> bool:
    return bool(state.gaps) or state.probation is not None


def _waiting_of(state: KeyedSequence) -> Iterable[Held]:
    yield from state.buffer.values()
    if state.probation is not None:
        yield state.probation


def _whole(column: pl.Series) -> Integers:
    if not column.dtype.is_integer():
        raise SchemaError(
            f"{column.name!r} is {column.dtype}",
            where=_WHERE,
            expected="whole numbers of 64 bits",
            next_step="cast it",
        )
    try:
        return column.cast(pl.Int64).to_numpy()
    except pl.exceptions.InvalidOperationError as error:
        raise SchemaError(
            f"{column.name!r} has numbers that 64 bits with a sign do not hold",
            where=_WHERE,
            expected=f"at most {2**63 - 1:,}",
            next_step="subtract what they have in common",
        ) from error


def _microseconds(column: pl.Series) -> Integers:
    if isinstance(column.dtype, pl.Datetime):
        return column.cast(pl.Datetime("us", column.dtype.time_zone)).to_physical().to_numpy()
    return _whole(column)
