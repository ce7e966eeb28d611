"""What ``process`` remembers of its keys, in the catalog: a changelog, and now and then a snapshot in its place.

A row is a key with its state and timers; the last row of a key counts, and a row without state says that it is gone.
Each micro-batch appends the keys that it has touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec
import polars as pl

from millstream.engines.local.flow_expression import dtype
from millstream.engines.local.flow_keyed import STATE_BYTES_MAX, KeyedRunner
from millstream.engines.local.flow_state import (
    BLOB_GROUPS_MAX,
    GROUPS_MIN,
    PARTIALS_MAX,
    Blob,
    Changelog,
    StateChange,
    decoded,
    encoded,
)
from millstream.flows.keyed_context import Key, KeyedContext, State
from millstream.primitives.errors import PlanError

STATE: Final = "__ms_state"
TIMERS: Final = "__ms_timers"
CLOCK_TIMERS: Final = "__ms_clock_timers"
AT: Final = "__ms_at"

_KEYS_A_BLOB: Final = 100
_BLOB_BYTES: Final = 64 * 1024 * 1024


class KeyedState:
    """The changelog of one ``process`` step. Belongs to one stream in one thread."""

    def __init__(self, runner: KeyedRunner) -> None:
        """Start with no key."""
        self._runner = runner
        self._codec = runner.step.codec
        self._names = runner.step.keyed.keys
        kinds: dict[str, Any] = {
            name: dtype(runner.schema.field(name).type) for name in self._names
        }
        self._schema = pl.Schema(
            {
                **kinds,
                STATE: pl.Binary,
                AT: pl.Int64,
                TIMERS: pl.Binary,
                CLOCK_TIMERS: pl.Binary,
            }
        )
        self._changelog = Changelog()

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored. Raises PlanError for state of another type, naming the key."""
        last: dict[Any, tuple[Any, ...]] = {}
        stored = list(blobs)
        self._changelog.loaded(stored)
        for _, checksum, data in stored:
            frame = decoded(data, checksum, where)
            for *values, state, at_us, timers, clock_timers in frame.iter_rows():
                key = values[0] if len(self._names) == 1 else tuple(values)
                last[key] = (state, at_us, timers, clock_timers)
        for key, (state, at_us, timers, clock_timers) in last.items():
            if state is not None:
                due, clock_due = (_timers(data) for data in (timers, clock_timers))
                self._runner.restore(key, self._decoded(key, state), at_us, due, clock_due)

    def change(self) -> StateChange:
        """Return the change to store for the keys that were touched since the last time."""
        runner = self._runner
        touched, runner.touched = runner.touched, {}
        if not touched:
            return StateChange()
        if not runner.contexts:
            return self._changelog.replace()
        if self._is_due(len(touched)):
            return self._changelog.replace(self._blobs(runner.contexts))
        return self._changelog.append(self._blobs(touched))

    def _is_due(self, touched: int) -> bool:
        live = len(self._runner.contexts)
        # The more keys there are, the more a snapshot costs, and the longer it can wait.
        blobs_max = max(PARTIALS_MAX, live // _KEYS_A_BLOB)
        rows_max = max(GROUPS_MIN, 2 * live)
        return self._changelog.blobs >= blobs_max or self._changelog.rows + touched > rows_max

    def _blobs(self, contexts: dict[Any, KeyedContext[Any]]) -> tuple[Blob, ...]:
        live = self._runner.contexts
        kept = [context for key, context in contexts.items() if live.get(key) is context]
        gone = [context for key, context in contexts.items() if live.get(key) is not context]
        of_one = kept + gone
        states = [*self._encoded(kept), *repeat(None, len(gone))]
        keys = [context.key for context in of_one]
        values = [keys] if len(self._names) == 1 else [*map(list, zip(*keys, strict=True))]
        has_timers = self._runner.agenda.was_used
        columns: dict[str, Any] = {
            **dict(zip(self._names, values, strict=True)),
            STATE: states,
            AT: [context._time_us for context in of_one],
            TIMERS: [_bytes(context._due) for context in of_one] if has_timers else None,
            CLOCK_TIMERS: [_bytes(context._clock_due) for context in of_one]
            if has_timers
            else None,
        }
        frame = pl.DataFrame(columns, schema=self._schema)
        bytes_each = sum(map(len, filter(None, states))) // len(states) + 1
        return encoded(frame, max(1, min(BLOB_GROUPS_MAX, _BLOB_BYTES // bytes_each)))

    def _encoded(self, contexts: Sequence[KeyedContext[Any]]) -> list[bytes]:
        states = [*map(self._runner.encoded, contexts)]
        longest = max(map(len, states), default=0)
        if longest > STATE_BYTES_MAX:
            key = contexts[[*map(len, states)].index(longest)].key
            raise self._runner.unkept(key, f"it takes {longest} bytes")
        return states

    def _decoded(self, key: Key, data: bytes) -> State:
        try:
            return self._codec.decode(data)
        except ValueError as error:
            raise PlanError(
                f"the state that was kept of key {key!r} is no {self._codec.text()}: {error}",
                where=self._runner.where,
                expected="a type that can hold what was kept: a new field needs a default, and a field keeps its type",
                next_step="mend the type, give the flow another name with .named(…), or forget the old state with "
                "flow.reset()",
            ) from error


def _bytes(due: dict[str, int]) -> bytes | None:
    return msgspec.msgpack.encode(due) if due else None


def _timers(data: bytes | None) -> dict[str, int]:
    return {} if data is None else msgspec.msgpack.decode(data, type=dict[str, int])
