"""Calls of users' functions with state: one loop over the events of all keys in order, timers between them.

The loop is plain Python, so what it does for each event is kept small: no frame, no copy of state, no bytes. State
becomes bytes when a micro-batch is over, once for each key that was touched: ``flow_keyed_state``.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from typing import Any, Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_events import Failures
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_steps import from_arrow
from millstream.flows.keyed import Process
from millstream.flows.keyed_context import Agenda, Key, KeyedContext, State, Timer
from millstream.primitives.errors import PlanError, SchemaError, StepError
from millstream.primitives.schema import rows_to_batch, us_datetime

SLICE_ROWS: Final = 16_384
"""So many events are Python objects at a time."""

STATE_BYTES_MAX: Final = 256 * 1024 * 1024
"""How large the state of one key may be."""

HEAP_MIN: Final = 4_096
"""Up to so many timers, nobody looks which of them count."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[str, Any]


class KeyedRunner:
    """One ``process`` step while it runs: the state of all keys. Belongs to one thread."""

    def __init__(
        self,
        step: Process,
        schema: pa.Schema,
        *,
        where: str,
        failures: Failures,
        now_us: Callable[[], int],
        checks_time: bool,
    ) -> None:
        """``checks_time``: something follows that relies on the column of the output that is named as the time."""
        self.step = step
        self.schema = schema
        self.where = where
        self.contexts: dict[Key, KeyedContext[Any]] = {}
        self.touched: dict[Key, KeyedContext[Any]] = {}
        """The keys that were looked at since the last commit, gone ones among them."""
        self.agenda = Agenda(
            now_us, has_listener=step.on_timer is not None, has_time=step.time is not None
        )
        self._failures = failures
        self._is_careful = step.on_error != "fail"
        self._checked = step.time if checks_time and step.time in step.schema.names else None
        self._nested = [f.name for f in step.schema if pa.types.is_nested(f.type)]
        self._made: list[Row] = []
        self._made_us: list[int] = []
        self._expiries: list[Timer] = []
        self._heaps = (self.agenda.of_events, self.agenda.of_clock, self._expiries)
        self._heap_limits = [HEAP_MIN] * len(self._heaps)

    def run(self, rows: pl.DataFrame, until_us: int) -> pl.DataFrame:
        """Process events in the order of the rows, and every timer of event time before ``until_us``."""
        for part in rows.iter_slices(SLICE_ROWS):
            self._loop(self._keys_of(part), self._times_of(part), _dicts(part))
            self._tidy()
        if self.step.time is not None:
            self._fire(until_us)
            self.agenda.closed_us = max(self.agenda.closed_us, until_us)
        self._expire(until_us if self.step.time is not None else self.agenda.now_us())
        return self._taken()

    def fire_clock(self, now_us: int) -> pl.DataFrame:
        """Process the timers of the clock that are due."""
        heap = self.agenda.of_clock
        while heap and heap[0][0] <= now_us:
            due_us, name, _, context = heapq.heappop(heap)
            if self._is_set(context, context._clock_due, name, due_us):
                del context._clock_due[name]
                self._call_timer(context, name, due_us, by_clock=True)
        return self._taken()

    @property
    def first_due_us(self) -> int | None:
        """When the next timer of event time is due, or None."""
        return self._next(self.agenda.of_events)

    @property
    def last_due_us(self) -> int | None:
        """When the last timer of event time is due, or None."""
        return max(
            (due for c in self.contexts.values() for due in c._due.values()),
            default=None,
        )

    @property
    def clock_due_us(self) -> int | None:
        """When the next timer of the clock is due, or None."""
        return self._next(self.agenda.of_clock)

    def restore(
        self, key: Key, state: State, time_us: int, due: dict[str, int], clock_due: dict[str, int]
    ) -> None:
        """Take over a key that an earlier run has stored."""
        context = KeyedContext(key, state, self.agenda)
        context._time_us, context._due, context._clock_due = time_us, due, clock_due
        self.contexts[key] = context
        for name, due_us in due.items():
            self.agenda.add(self.agenda.of_events, due_us, name, context)
        for name, due_us in clock_due.items():
            self.agenda.add(self.agenda.of_clock, due_us, name, context)
        self._watch(context)

    def refuse_unheard_timers(self) -> None:
        """Raise PlanError for keys with timers that an earlier run has set, if no function is called for timers now."""
        if self.step.on_timer is not None:
            return
        for key, context in self.contexts.items():
            if timers := context.timers():
                raise PlanError(
                    f"the key {key!r} has a timer for {min(timers.values())}, and nobody would hear of it",
                    where=self.where,
                    expected="on_timer=, which this flow had when the timer was set",
                    next_step="name the function again, or one that does nothing; or forget the old state with "
                    "flow.reset()",
                )

    def _loop(
        self, keys: Iterable[Key], times: Iterable[int], events: Iterable[dict[str, Any]]
    ) -> None:
        contexts, touched, heap = self.contexts, self.touched, self.agenda.of_events
        function, ttl_us, is_careful = self.step.function, self.step.keyed.ttl_us, self._is_careful
        made, made_us = self._made, self._made_us
        for key, time_us, event in zip(keys, times, events):  # noqa: B905 - keys may be endless
            if heap and heap[0][0] < time_us:
                self._fire(time_us)
            context = contexts.get(key)
            if context is None or (ttl_us is not None and self._is_over(context, time_us)):
                context = self._new(key, time_us)
            context._time_us = time_us
            touched[key] = context
            if is_careful:
                # The function may change its event; a dead letter shows it as it came.
                self._call_carefully(context, event, partial(function, dict(event), context))
                continue
            try:
                given = function(event, context)
                if given is not None:
                    rows = self._rows_of(given)
                    made.extend(rows)
                    made_us.extend(repeat(time_us, len(rows)))
            except Exception as error:  # noqa: BLE001 - users' code
                self._failures.note(self.step, self.where, event, error)
            if context._is_cleared:
                self._forget(context)

    def _fire(self, before_us: int) -> None:
        """Call the timers of event time that are due before a time, in order, also those that they set."""
        heap = self.agenda.of_events
        while heap and heap[0][0] < before_us:
            due_us, name, _, context = heapq.heappop(heap)
            if self._is_set(context, context._due, name, due_us):
                del context._due[name]
                self._call_timer(context, name, due_us, by_clock=False)

    def _call_timer(
        self, context: KeyedContext[Any], name: str, due_us: int, *, by_clock: bool
    ) -> None:
        on_timer = self.step.on_timer
        assert on_timer is not None, "refused when it was set"
        last_us = context._time_us
        context._time_us, context._timer, context._by_clock = due_us, name, by_clock
        self.touched[context.key] = context
        shown = {"key": context.key, "timer": name, "time": us_datetime(due_us)}
        try:
            self._call_carefully(context, shown, partial(on_timer, context))
        finally:
            context._timer, context._by_clock = None, False
            if by_clock and self.step.time is not None:
                context._time_us = last_us

    def _call_carefully(
        self, context: KeyedContext[Any], shown: Row, call: Callable[[], Any]
    ) -> None:
        """Call; if that fails and the run goes on, the key is as it was before."""
        saved = self._saved(context) if self._is_careful else None
        try:
            given = call()
            rows = [] if given is None else self._rows_of(given)
            times_us = [self._not_before_us(context)] * len(rows)
            if saved is not None:
                if rows:
                    self._framed(rows, times_us)
                if not context._is_cleared:
                    self.encoded(context)
        except Exception as error:  # noqa: BLE001 - users' code
            # Raises if the policy is to fail.
            self._failures.note(self.step, self.where, shown, error)
            assert saved is not None
            context.state = self.step.codec.decode(saved[0])
            context._due, context._clock_due, context._is_cleared = saved[1], saved[2], False
            return
        self._made.extend(rows)
        self._made_us.extend(times_us)
        if context._is_cleared:
            self._forget(context)

    def _rows_of(self, given: object) -> list[dict[str, Any]]:
        """Return copies of the rows that a call gives: the function may go on to change them, or what is in them."""
        rows = [dict(row) for row in _several(given)]
        for name in self._nested:
            for row in rows:
                if name in row:
                    row[name] = deepcopy(row[name])
        return rows

    def _not_before_us(self, context: KeyedContext[Any]) -> int:
        """Return the least event time of a row that a call gives."""
        return self.agenda.closed_us if context._by_clock else context._time_us

    def _saved(self, context: KeyedContext[Any]) -> tuple[bytes, dict[str, int], dict[str, int]]:
        return self.encoded(context), dict(context._due), dict(context._clock_due)

    def encoded(self, context: KeyedContext[Any]) -> bytes:
        """Return the state of a key as bytes. Raises StepError for values that cannot be stored."""
        try:
            return self.step.codec.encode(context.state)
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise self.unkept(context.key, str(error)) from error

    def unkept(self, key: Key, why: str) -> StepError:
        """Return the error for a state that cannot be kept."""
        return StepError(
            f"the state of key {key!r} cannot be kept: {why}",
            where=self.where,
            expected=f"a value of {self.step.codec.text()}, at most {STATE_BYTES_MAX} bytes",
            next_step="keep plain values of that type: numbers, texts, lists, dicts; a plain dict or list does not "
            "say what was a time, a set or a tuple: keep those in fields of a dataclass",
        )

    def _new(self, key: Key, time_us: int) -> KeyedContext[Any]:
        context = KeyedContext(key, self.step.codec.fresh(), self.agenda)
        context._time_us = time_us
        self.contexts[key] = context
        self._watch(context)
        return context

    def _forget(self, context: KeyedContext[Any]) -> None:
        context._is_cleared = False
        context._due.clear()
        context._clock_due.clear()
        if self.contexts.get(context.key) is context:
            del self.contexts[context.key]

    def _watch(self, context: KeyedContext[Any]) -> None:
        if self.step.keyed.ttl_us is not None:
            self.agenda.add(self._expiries, context._time_us + self.step.keyed.ttl_us, "", context)

    def _is_over(self, context: KeyedContext[Any], time_us: int) -> bool:
        """Return whether a key has had no event for so long that it is forgotten; a timer keeps it."""
        ttl_us = self.step.keyed.ttl_us
        is_quiet = ttl_us is not None and time_us - context._time_us >= ttl_us
        return is_quiet and not context._due and not context._clock_due

    def expires(self, context: KeyedContext[Any]) -> datetime | None:
        """Return when a key is forgotten if nothing comes for it; None if that is not known, or never.

        That is a time of the events, or of the clock if there is no such time. A timer counts like an event; one of the
        clock, where events have a time, keeps the key for as long as nobody knows.
        """
        ttl_us = self.step.keyed.ttl_us
        if ttl_us is None or (context._clock_due and self.step.time is not None):
            return None
        times_us = [context._time_us, *context._due.values(), *context._clock_due.values()]
        try:
            return us_datetime(max(times_us) + ttl_us)
        except OverflowError:
            return None

    def _expire(self, until_us: int) -> None:
        """Forget the keys whose time to live is over; whoever comes later would find them over as well."""
        heap = self._expiries
        while heap and heap[0][0] <= until_us:
            _, _, _, context = heapq.heappop(heap)
            if self.contexts.get(context.key) is not context:
                continue
            if self._is_over(context, until_us):
                self.touched[context.key] = context
                self._forget(context)
            else:
                due_us = max(context._time_us, *context._due.values(), 0)
                assert self.step.keyed.ttl_us is not None
                wait_us = max(due_us + self.step.keyed.ttl_us, until_us + 1)
                self.agenda.add(heap, wait_us, "", context)

    def _is_set(
        self, context: KeyedContext[Any], due: Mapping[str, int], name: str, due_us: int
    ) -> bool:
        return due.get(name) == due_us and self.contexts.get(context.key) is context

    def _tidy(self) -> None:
        """Take timers that do not count any more out of the heaps, once those have doubled.

        A timer that every event sets anew, as for the end of a visit, would leave one there for each event.
        """
        for number, heap in enumerate(self._heaps):
            if len(heap) > self._heap_limits[number]:
                heap[:] = [timer for timer in heap if self._counts(timer, heap)]
                heapq.heapify(heap)
                self._heap_limits[number] = max(HEAP_MIN, 2 * len(heap))

    def _counts(self, timer: Timer, heap: list[Timer]) -> bool:
        due_us, name, _, context = timer
        if heap is self._expiries:
            return self.contexts.get(context.key) is context
        due = context._due if heap is self.agenda.of_events else context._clock_due
        return self._is_set(context, due, name, due_us)

    def _next(self, heap: list[Timer]) -> int | None:
        """Return when the first timer of a heap is due; those that do not count any more leave it."""
        while heap:
            if self._counts(heap[0], heap):
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def _taken(self) -> pl.DataFrame:
        """Return the rows that were given since the last time."""
        if not self._made:
            return pl.DataFrame(schema=polars_schema(self.step.schema))
        made, made_us = self._made, self._made_us
        self._made, self._made_us = [], []
        try:
            return self._framed(made, made_us)
        except SchemaError as error:
            raise StepError(
                f"the function gives something else: {error.what}",
                where=self.where,
                expected=error.expected,
                next_step="give dicts of the declared schema; nothing of this batch was written",
            ) from error

    def _framed(self, rows: Sequence[Row], times_us: Sequence[int]) -> pl.DataFrame:
        """Return rows as a frame. Raises SchemaError or, for one that lies before what it was made of, StepError."""
        frame = from_arrow(rows_to_batch(rows, self.step.schema, where=self.where))
        if self._checked is not None:
            given = frame[self._checked].to_physical()
            is_early = (given < pl.Series(times_us, dtype=pl.Int64)).fill_null(False)
            if is_early.any():
                row = rows[is_early.arg_max() or 0]
                raise StepError(
                    f"a row lies before the event or timer that it was made of: {dict(row)}",
                    where=self.where,
                    expected=f"column {self._checked!r} at or behind context.time: what follows relies on it",
                    next_step="set it to context.time, or give the column another name",
                )
        return frame

    def _keys_of(self, rows: pl.DataFrame) -> Iterable[Key]:
        names = self.step.keyed.keys
        if not names:
            return repeat(())
        values = [_values(rows[name]) for name in names]
        return values[0] if len(names) == 1 else list(zip(*values, strict=True))

    def _times_of(self, rows: pl.DataFrame) -> Iterable[int]:
        if self.step.time is None:
            return repeat(self.agenda.now_us(), rows.height)
        times: list[int] = rows[self.step.time].to_physical().to_list()
        return times


def _several(given: object) -> Iterable[Row]:
    if isinstance(given, Mapping):
        yield given
        return
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise _no_row(given)
    for row in given:
        if not isinstance(row, Mapping):
            raise _no_row(row)
        yield row


def _no_row(given: object) -> SchemaError:
    return SchemaError(
        f"it gives a {type(given).__name__}",
        expected="a dict, several of them, or None",
        next_step="return a dict, or yield dicts",
    )


def _dicts(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    columns = [_values(rows[name]) for name in rows.columns]
    return map(_maker(tuple(rows.columns)), *columns)


@functools.lru_cache(maxsize=64)
def _maker(names: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a dict of values: written out, it takes half the time of ``dict(zip(…))``."""
    places = [f"v{number}" for number in range(len(names))]
    items = ", ".join(f"{name!r}: {place}" for name, place in zip(names, places, strict=True))
    maker: Callable[..., dict[str, Any]] = eval(f"lambda {', '.join(places)}: {{{items}}}")
    return maker


def _values(column: pl.Series) -> list[Any]:
    """Return a column as Python objects; timestamps five times as fast as Polars makes them."""
    if column.dtype != pl.Datetime("us", "UTC") or column.null_count():
        return column.to_list()
    since = column.to_physical().to_numpy().view("timedelta64[us]").tolist()
    try:
        return list(map(_EPOCH.__add__, since))
    except OverflowError:
        return column.to_list()
