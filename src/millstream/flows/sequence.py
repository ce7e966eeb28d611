"""Sequences: what is missing, late, out of order or twice, by the number that each event carries.

    options = SequenceOptions(wait="2s")
    sequencer = Sequencer(options)
    out = sequencer.feed([("meter", 1, 0, "a"), ("meter", 3, 1_000_000, "c")])
    out = sequencer.advance(3_000_000)         # 2 did not come: out.gaps holds it, out.ordered goes on with 3

Every event of a key goes one way: in order, late, duplicate, rejected, or it waits. Every number of a key, from its
start to the one that is awaited, was either given in order or is in one gap. The clock is the caller's. It moves with
the times of the events, or with the moments at which they arrive, and never back; so the same events give the same, in
whatever pieces they come.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec

from millstream.flows.sequence_key import Held, KeyedSequence
from millstream.flows.sequence_options import SequenceOptions, is_integer
from millstream.flows.sequence_output import Counts, Event, Key, Payload, Request, Sequenced
from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import MillstreamError, PayloadError, PlanError, SchemaError

if TYPE_CHECKING:
    from millstream.flows.sequence_frames import FrameSequencer

_WHERE: Final = "Sequencer"
_VERSION: Final = 1
_PAYLOAD_DIGESTS: Final = "blake2b"
_STALE_MAX: Final = 1_000
"""How many outdated entries a heap may have beside one for each key."""
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)
Feed = Event | tuple[Key, int, int | None, Payload]


class Sequencer:
    """Puts the events of all keys in order. Belongs to one thread; does no I/O and has no clock of its own.

    ``resend`` is called with the ranges that are missing, if ``gap="request"``; they are in the output, too.
    """

    def __init__(
        self,
        options: SequenceOptions | None = None,
        *,
        resend: Callable[[Sequence[Request]], object] | None = None,
    ) -> None:
        """Start empty. Raises PlanError if nobody would call ``resend``."""
        self.options = options or SequenceOptions()
        if resend is not None and self.options.gap != "request":
            raise PlanError(
                f"resend= with gap={self.options.gap!r}",
                where=_WHERE,
                expected='gap="request"',
                next_step="leave resend= out, or request what is missing",
            )
        self.counts = Counts()
        self.clock_us: int | None = None
        """The greatest time so far."""
        self._resend = resend
        self._keys: dict[Key, KeyedSequence] = {}
        self._indexes = 0
        self._timers: list[tuple[int, int, KeyedSequence]] = []
        self._oldest: list[tuple[int, int, KeyedSequence]] | None = None
        """First gaps by age; None as long as there is room for twice as much as waits."""
        self._quiet: list[tuple[int, int, KeyedSequence]] = []
        self._stopped: MillstreamError | None = None

    # ---- what goes in ---------------------------------------------------------------------------

    def feed(self, events: Iterable[Feed], now_us: int | None = None) -> Sequenced:
        """Take events ``(key, seq, time_us, payload)`` in the order of their arrival.

        Without ``now_us`` the clock is the greatest ``time_us``, so far behind is late. With it, that is the moment at
        which all of them arrive, and ``time_us``, which may be None, is only what the sender says. Raises SchemaError
        and PayloadError for events that do not fit, before any is taken; StepError for a gap that ``fail`` forbids:
        what comes after such an error begins with the last ``dump``.
        """
        self._refuse_stopped()
        checked = [self._checked(event, now_us) for event in events]
        out = Sequenced()
        self._step(now_us, out)
        for key, held in checked:
            if now_us is None:
                self._step(held.time_us, out)
            if not self._take(key, held, out):
                break
            out.taken += 1
        return self._done(out)

    def advance(self, now_us: int) -> Sequenced:
        """Let time pass: the deadlines that have come close their gaps. Raises StepError as ``feed`` does."""
        self._refuse_stopped()
        out = Sequenced()
        self._step(now_us, out)
        return self._done(out)

    def end(self) -> Sequenced:
        """End the input: close all gaps for that reason, give all that waits, reject what is on probation.

        What comes afterwards goes on from there.
        """
        self._refuse_stopped()
        out = Sequenced()
        for state in self._keys.values():
            state.close_all("end", self.clock_us or 0, out)
            state.reject_probation()
        return self._done(out)

    # ---- what can be asked ----------------------------------------------------------------------

    @property
    def due_us(self) -> int | None:
        """When ``advance`` would do something; None: not before another event."""
        while self._timers:
            due, _, state = self._timers[0]
            if state.timer_us == due and state.due_us(self._now_us) == due:
                return due
            heapq.heappop(self._timers)
            if state.timer_us == due:
                state.timer_us = None
                self._keep_timers(state)
        return None

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def wait_us(self, key: Key) -> int | None:
        """Return how long a gap of this key would wait if it opened now; None for a key that is not known."""
        return self._keys[key].wait_us() if key in self._keys else None

    def jitter_us(self, key: Key) -> float | None:
        """Return RFC 3550's jitter of a key: how much its delay changes from event to event; with ``wait="auto"``."""
        state = self._keys.get(key)
        return None if state is None or state.arrivals is None else state.arrivals.jitter_us

    def awaited(self, key: Key) -> int | None:
        """Return the number that is awaited next, wrapped numbers counted on; None for a key that is not known."""
        return self._keys[key].next if key in self._keys else None

    # ---- kept and found again -------------------------------------------------------------------

    def dump(self) -> bytes:
        """Return all that is remembered. Deadlines are kept as the time that remains. Raises PayloadError."""
        self._refuse_stopped()
        return encode(
            {
                "version": _VERSION,
                "clock": self.clock_us,
                "modulo": self.options.modulo,
                "digests": self._digests(),
                "counts": self.counts.dump(),
                "keys": [state.dump(self._now_us) for state in self._keys.values()],
            }
        )

    @classmethod
    def load(
        cls,
        data: bytes,
        options: SequenceOptions | None = None,
        *,
        now_us: int | None = None,
        resend: Callable[[Sequence[Request]], object] | None = None,
    ) -> Sequencer:
        """Return a sequencer that goes on from a ``dump``.

        ``now_us`` is what a clock of arrivals shows now: as much time remains until each deadline as did then. Without
        it the clock is what it was. Payloads and keys come back as MessagePack knows them: tuples in payloads as lists.
        Options may be others, but for ``modulo``. Raises PlanError for another one, PayloadError for other bytes.
        """
        kept = decode(data)
        if not isinstance(kept, dict) or kept.get("version") != _VERSION:
            raise PayloadError(
                "these bytes are no dump of a sequencer, or one of another version",
                where=_WHERE,
                expected=f"what dump() gave, version {_VERSION}",
                next_step="start a new one",
            )
        found = cls(options, resend=resend)
        if kept["modulo"] != found.options.modulo:
            raise PlanError(
                f"modulo={found.options.modulo}, and {kept['modulo']} when it was kept",
                where=_WHERE,
                expected="the same",
                next_step="start a new sequence for numbers that wrap elsewhere",
            )
        found.clock_us = kept["clock"] if now_us is None else now_us
        found.counts = Counts.load(kept["counts"])
        comparable = kept["digests"] == found._digests()
        for values in kept["keys"]:
            state = found._new(_as_key(values[0]))
            state.load(values, found._now_us, comparable=comparable)
            found._listen(state)
            found._keep_timers(state)
        return found

    # ---- inside ---------------------------------------------------------------------------------

    @property
    def _now_us(self) -> int:
        return self.clock_us or 0

    def _digests(self) -> str:
        return _PAYLOAD_DIGESTS

    def _refuse_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _checked(self, event: Feed, now_us: int | None) -> tuple[Key, Held]:
        """Return the key and the rest, the number as it came."""
        key, seq, time_us, payload = event
        modulo = self.options.modulo
        low, high = (-(2**63), 2**63) if modulo is None else (0, modulo)
        if not is_integer(seq) or not low <= seq < high:
            raise SchemaError(
                f"key {key!r} has the number {seq!r}",
                where=_WHERE,
                expected=f"a whole number from {low:,} to {high - 1:,}",
                next_step="convert it, or give modulo= where the numbers wrap",
            )
        if not is_integer(time_us) and (time_us is not None or now_us is None):
            raise SchemaError(
                f"the time of {key!r}, number {seq}, is {time_us!r}",
                where=_WHERE,
                expected="whole microseconds; or None, where feed(…, now_us=) says when it arrives",
                next_step="convert it, or pass now_us=",
            )
        digest, size = _digest(payload, key, seq)
        return key, Held(seq, time_us, payload, digest, size)

    def _step(self, now_us: int | None, out: Sequenced) -> None:
        """Move the clock forward, and do what has become due."""
        if now_us is None or (self.clock_us is not None and now_us <= self.clock_us):
            return
        self.clock_us = now_us
        while self._timers and self._timers[0][0] <= now_us:
            due, _, state = heapq.heappop(self._timers)
            if state.timer_us == due:
                state.timer_us = None
                self._pass_time(state, out)
        while self._quiet and now_us - self._quiet[0][0] >= self.options.forget_us:
            self._look_after_quiet()

    def _pass_time(self, state: KeyedSequence, out: Sequenced) -> None:
        try:
            state.pass_time(self._now_us, out)
        except MillstreamError as error:
            self._stopped = error
            raise
        self._keep_timers(state)

    def _take(self, key: Key, held: Held, out: Sequenced) -> bool:
        """Take an event, unless it has to be held back."""
        now_us, options, counts = self._now_us, self.options, self.counts
        state = self._keys.get(key)
        if state is not None and now_us - state.heard_us >= options.forget_us and not state.gaps:
            self._forget(state)
            state = None
        if state is None:
            if len(self._keys) >= options.max_keys and not self._make_room(out):
                return False
            state = self._new(key)
            self._listen(state)
        seq = state.unwrap(held.seq)
        if options.overflow == "block" and state.would_wait(seq):
            is_full = len(state.buffer) >= options.max_events
            if is_full or (
                counts.buffered and counts.buffered_bytes + held.size > options.max_size
            ):
                return False
        counts.received += 1
        state.heard_us = max(state.heard_us, now_us)
        state.take(held if seq == held.seq else held._replace(seq=seq), now_us, out)
        if state.gaps:
            while len(state.buffer) > options.max_events:
                state.close_first("overflow", now_us, out)
            self._keep_timers(state)
            if (due := state.timer_us) is not None and due <= now_us:
                self._pass_time(state, out)
        if counts.buffered_bytes > options.max_size:
            self._fit(state, out)
        return True

    def _fit(self, state: KeyedSequence, out: Sequenced) -> None:
        """Make less wait: the oldest gaps are closed; if that is not enough, or may not be, nothing is on probation."""
        counts, most = self.counts, self.options.max_size
        if self.options.overflow == "close_gap":
            while counts.buffered_bytes > most and self._close_oldest(out):
                pass
        if counts.buffered_bytes > most:
            state.reject_probation()

    def _done(self, out: Sequenced) -> Sequenced:
        self.counts.ordered += len(out.ordered)
        if out.requests and self._resend is not None:
            self._resend(out.requests)
        return out

    # ---- keys -----------------------------------------------------------------------------------

    def _new(self, key: Key) -> KeyedSequence:
        state = KeyedSequence(key, self._indexes, self.options, self.counts)
        state.heard_us = self._now_us
        self._indexes += 1
        self._keys[key] = state
        return state

    def _listen(self, state: KeyedSequence) -> None:
        """Remember when a key was heard, so that it is found when it was quiet for long."""
        heapq.heappush(self._quiet, (state.heard_us, state.index, state))
        if len(self._quiet) > 2 * len(self._keys) + _STALE_MAX:
            self._quiet = [(s.heard_us, s.index, s) for s in self._keys.values()]
            heapq.heapify(self._quiet)

    def _forget(self, state: KeyedSequence) -> None:
        state.reject_probation()
        del self._keys[state.key]
        self.counts.forgotten += 1

    def _look_after_quiet(self) -> None:
        """Forget the key that was quiet for longest, if it is time and nothing waits; else see when it was heard."""
        state = heapq.heappop(self._quiet)[2]
        if self._keys.get(state.key) is not state:
            return
        if state.gaps:  # What waits is never forgotten. Look again as if it had been heard now.
            heapq.heappush(self._quiet, (self._now_us, state.index, state))
        elif self._now_us - state.heard_us >= self.options.forget_us:
            self._forget(state)
        else:
            heapq.heappush(self._quiet, (state.heard_us, state.index, state))

    def _make_room(self, out: Sequenced) -> bool:
        """Forget the key that was quiet for longest. If events of all wait, that one gives them, unless it may not."""
        options = self.options
        if options.overflow == "block" and options.forget is None:
            return False
        waiting = []
        found: KeyedSequence | None = None
        while self._quiet and found is None:
            heard_us, _, state = entry = heapq.heappop(self._quiet)
            if self._keys.get(state.key) is not state:
                continue
            if heard_us != state.heard_us:
                heapq.heappush(self._quiet, (state.heard_us, state.index, state))
            elif state.gaps:
                waiting.append(entry)
            else:
                found = state
        for entry in waiting:
            heapq.heappush(self._quiet, entry)
        if found is None and options.overflow == "close_gap":
            found = waiting[0][2]
            found.close_all("overflow", self._now_us, out)
        if found is None:
            return False
        self._forget(found)
        return True

    # ---- gaps -----------------------------------------------------------------------------------

    def _keep_timers(self, state: KeyedSequence) -> None:
        """Remember when a key has something to do, and how old its first gap is."""
        if not state.gaps:
            return
        due = state.due_us(self._now_us)
        if due is not None and (state.timer_us is None or due < state.timer_us):
            state.timer_us = due
            heapq.heappush(self._timers, (due, state.index, state))
        if self._oldest is not None:
            self._list(self._oldest, state)

    def _list(self, oldest: list[tuple[int, int, KeyedSequence]], state: KeyedSequence) -> None:
        """Remember how old the first gap of a key is, while that may matter."""
        opened_us = state.gaps[0].opened_us
        if self.counts.buffered_bytes * 2 < self.options.max_size:
            self._oldest = None
        elif state.listed_us != opened_us:
            state.listed_us = opened_us
            heapq.heappush(oldest, (opened_us, state.index, state))
            if len(oldest) > 2 * len(self._keys) + _STALE_MAX:
                oldest[:] = [entry for entry in oldest if _is_first(entry)]
                heapq.heapify(oldest)

    def _close_oldest(self, out: Sequenced) -> bool:
        """Close the gap that has been open for longest."""
        if self._oldest is None:
            waiting = [state for state in self._keys.values() if state.gaps]
            self._oldest = [(state.gaps[0].opened_us, state.index, state) for state in waiting]
            heapq.heapify(self._oldest)
            for state in waiting:
                state.listed_us = state.gaps[0].opened_us
        while self._oldest:
            entry = heapq.heappop(self._oldest)
            state = entry[2]
            if not _is_first(entry):
                continue
            state.close_first("overflow", self._now_us, out)
            state.listed_us = None
            self._keep_timers(state)
            return True
        return False


def sequence_frames(
    options: SequenceOptions | None = None,
    *,
    key: str,
    seq: str,
    time: str | None = None,
    kept: bytes | None = None,
    now_us: int | None = None,
    resend: Callable[[Sequence[Request]], object] | None = None,
) -> FrameSequencer:
    """Return a sequencer that takes Polars frames and gives them in order: the same outcome, at the speed of columns.

    ``key``, ``seq`` and ``time`` are names of columns. With ``kept``, what its ``dump`` gave, it goes on from there, as
    ``Sequencer.load`` does. Raises PlanError, and PayloadError for other bytes. The first one of a process imports
    Polars.
    """
    from millstream.flows.sequence_frames import FrameSequencer

    if kept is None:
        return FrameSequencer(options, key=key, seq=seq, time=time, resend=resend)
    return FrameSequencer.load(
        kept, options, key=key, seq=seq, time=time, now_us=now_us, resend=resend
    )


def _is_first(entry: tuple[int, int, KeyedSequence]) -> bool:
    """Return whether an entry tells of a first gap that is still open."""
    opened_us, _, state = entry
    return bool(state.gaps) and state.gaps[0].opened_us == opened_us


def _digest(payload: Payload, key: Key, seq: int) -> tuple[int, int]:
    """Return 64 bits that tell payloads apart, and a size in bytes."""
    try:
        data = payload if isinstance(payload, bytes) else _encoder.encode(payload)
    except _UNENCODABLE as error:
        raise PayloadError(
            f"the payload of {key!r}, number {seq}, cannot be kept: {error}",
            where=_WHERE,
            expected="plain data: numbers, text, bytes, datetimes, lists, dicts with keys of one type",
            next_step="convert it, or pass the id of what is kept elsewhere",
        ) from error
    return int.from_bytes(blake2b(data, digest_size=8).digest()) or 1, len(data)


def _as_key(value: Any) -> Key:  # noqa: ANN401 - a user's key, as it was decoded
    return tuple(map(_as_key, value)) if isinstance(value, list) else value
