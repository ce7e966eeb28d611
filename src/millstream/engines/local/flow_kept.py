"""What a stream keeps, read from the catalog as a restart would read it. Nothing is changed, also beside a running one.

Everything is read in one snapshot: all states, of a shared flow those of all its units, are of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_counting import CountKernel, OpenCounts
from millstream.engines.local.flow_events import Failures
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_join_state import JoinState
from millstream.engines.local.flow_joining import JoinKernel
from millstream.engines.local.flow_keyed import KeyedRunner
from millstream.engines.local.flow_keyed_state import KeyedState
from millstream.engines.local.flow_ordered_rows import OrderedRows
from millstream.engines.local.flow_state import Blob, WindowState
from millstream.engines.local.flow_versions import AsofKernel, Versions
from millstream.flows.expression import Column
from millstream.flows.kept import KeptState
from millstream.flows.kept_keys import KeyMisfit, is_same, key_values
from millstream.flows.keyed import Process
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import describe, us_datetime
from millstream.store import Snapshot, Store

Rows: TypeAlias = list[dict[str, Any]]
Blobs: TypeAlias = list[Blob]
Reader: TypeAlias = Callable[[int, Blobs, str], Rows]
Key: TypeAlias = Any
"""The key that is asked for; None for all."""


@dataclass(frozen=True)
class _Place:
    """One state of a plan."""

    step: int
    name: str
    holds: str
    keys: pa.Schema
    """What the key is made of; nothing if its rows have none."""
    read: Reader
    key_of: Callable[[dict[str, Any]], tuple[Any, ...]]
    """Returns the key of a row."""

    @classmethod
    def of(
        cls, step: int, name: str, holds: str, keys: Sequence[str], schema: pa.Schema, read: Reader
    ) -> _Place:
        """Return a state whose rows have the columns of their key."""
        columns = pa.schema([schema.field(name) for name in keys])
        return cls(step, name, holds, columns, read, lambda row: tuple(row[key] for key in keys))


def kept_states(
    store: Store, plan: Plan, name: str, *, step: int | None, key: Key, rows_max: int
) -> tuple[KeptState, ...]:
    """Return what the steps of a stream keep; see ``Flow.state``. Raises ConfigurationError."""
    if rows_max < 0:
        raise ConfigurationError(
            f"rows_max={rows_max}",
            where=f"flow {name!r}",
            expected="how many rows of each state are given: 0 or more",
            next_step="leave it out for the default",
        )
    places = [*_places(plan)]
    numbers = sorted({place.step for place in places})
    if step is not None and step not in numbers:
        known = "none of its steps keeps rows" if not numbers else f"one of {numbers}"
        raise ConfigurationError(
            f"step {step} keeps no rows",
            where=f"flow {name!r}",
            expected=f"{known}; 0 is a join",
            next_step="flow.explain() shows the numbers; what a fit learns is in `millstream models`",
        )
    chosen = {at: place for at, place in enumerate(places) if step is None or place.step == step}
    asked = {} if key is None else _asked([*chosen.values()], key, name)
    units = _stored(store, name)
    found = [
        _kept(
            place,
            number,
            units,
            f"{store.path}, flow {name!r}",
            is_wanted=_everything if key is None else partial(_is_of, place, asked),
            rows_max=rows_max,
        )
        for number, place in chosen.items()
    ]
    if key is not None and not any(state.rows_total for state in found):
        raise ConfigurationError(
            f"nothing is kept of the key {key!r}",
            where=f"flow {name!r}",
            expected="a key whose windows are open, whose state is remembered, or whose rows wait",
            next_step="look at all keys: leave the key out",
        )
    return tuple(found)


def _asked(places: list[_Place], key: Key, name: str) -> dict[pa.Schema, tuple[Any, ...]]:
    """Return which values are asked for, for each kind of key. Raises ConfigurationError if it fits none of them."""
    kinds = dict.fromkeys(place.keys for place in places if len(place.keys))
    asked, misfits = {}, []
    for columns in kinds:
        try:
            asked[columns] = key_values(key, columns)
        except KeyMisfit as error:
            misfits.append(str(error))
    if misfits and not asked:
        raise ConfigurationError(
            f"no key is {key!r}: {misfits[0]}",
            where=f"flow {name!r}",
            expected=" or ".join(f"({describe(columns)})" for columns in kinds),
            next_step="give a value of the key's type; of several columns a tuple, on the command line values with "
            'commas, a text that has one itself in "quotes"',
        )
    return asked


def held_rows(store: Store, plan: Plan, name: str, state: int) -> Rows:
    """Return the rows of one state of a flow: see ``FlowTest.held``. Raises ConfigurationError if there is none."""
    places = [*_places(plan)]
    if not 0 <= state < len(places):
        raise ConfigurationError(
            f"the flow has no state {state}",
            where=f"flow {name!r}",
            expected=f"a number below {len(places)}: two of a join, of each process and of each count window, and one "
            "of each other aggregation",
        )
    where = f"{store.path}, flow {name!r}"
    units = _stored(store, name)
    return [row for unit in units for row in places[state].read(*unit.state(state), where)]


def _kept(
    place: _Place,
    number: int,
    units: list[_Unit],
    where: str,
    *,
    is_wanted: Callable[[dict[str, Any]], bool],
    rows_max: int,
) -> KeptState:
    rows: Rows = []
    stored_bytes = 0
    closed: list[int] = []
    for unit in units:
        closed_until_us, blobs = unit.state(number)
        closed.append(closed_until_us)
        stored_bytes += sum(len(data) for _, _, data in blobs)
        rows += filter(is_wanted, place.read(closed_until_us, blobs, where))
    closed_us = min(closed, default=TIME_MIN)
    return KeptState(
        step=place.step,
        name=place.name,
        holds=place.holds,
        closed_until=None if closed_us == TIME_MIN else us_datetime(closed_us),
        rows_total=len(rows),
        stored_bytes=stored_bytes,
        rows=tuple(rows[:rows_max]),
    )


def _everything(row: dict[str, Any]) -> bool:
    del row
    return True


def _is_of(place: _Place, asked: Mapping[pa.Schema, tuple[Any, ...]], row: dict[str, Any]) -> bool:
    """Return whether a row has the key that is asked for."""
    values = asked.get(place.keys)
    return values is not None and all(map(is_same, place.key_of(row), values))


def _places(plan: Plan) -> Iterator[_Place]:
    """Yield for each state whose it is, and what reads it."""
    join = plan.source
    if isinstance(join, JoinSource):
        of_join = partial(_Place.of, 0, join.name)
        left, right = join.left.schema, join.right.schema
        if join.is_asof:
            assert join.time is not None
            waiting = partial(_waiting, join.time.left, left)
            yield of_join("rows that wait", join.left_on, left, waiting)
            yield of_join("versions", join.right_on, right, partial(_of_versions, join))
        else:
            lefts, rights = (partial(_of_join, join, side) for side in (0, 1))
            yield of_join("rows of the left side", join.left_on, left, lefts)
            yield of_join("rows of the right side", join.right_on, right, rights)
    for at, step in plan.stateful().items():
        schema = plan.schemas()[at]
        of_step = partial(_Place.of, at + 1, step.name)
        if isinstance(step, Process):
            waiting = partial(_waiting, step.time, schema)
            rows = of_step("rows that wait", step.keyed.keys, schema, waiting)
            yield rows
            yield replace(
                rows, holds="keys", read=partial(_of_keys, step, schema), key_of=_of_context
            )
        elif isinstance(step, Aggregation):
            keys, given = tuple(name for name, _ in step.keys), plan.schemas()[at + 1]
            if step.counts_rows:
                # Keys may be computed: rows that wait have only those that are columns.
                columns = tuple(e.name for _, e in step.keys if isinstance(e, Column))
                yield of_step(
                    "rows that wait",
                    columns if len(columns) == len(keys) else (),
                    schema,
                    partial(_waiting, step.time, schema),
                )
                yield of_step("count windows", keys, given, partial(_of_counts, step, schema))
            else:
                yield of_step("open windows", keys, given, partial(_of_windows, step, schema))


def _of_join(join: JoinSource, side: int, closed_until_us: int, blobs: Blobs, where: str) -> Rows:
    kept = JoinState(JoinKernel(join), side, closed_until_us=closed_until_us)
    kept.load(blobs, where=where)
    return _rows(kept.rows().collect(), (join.left, join.right)[side].schema.names)


def _of_versions(join: JoinSource, closed_until_us: int, blobs: Blobs, where: str) -> Rows:
    versions = Versions(AsofKernel(join), closed_until_us=closed_until_us)
    versions.load(blobs, where=where)
    return _rows(versions.held(), join.right.schema.names)


def _of_windows(
    step: Aggregation, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    kernel = GroupKernel(step, schema, where=step.name)
    windows = WindowState(kernel, closed_until_us=closed_until_us)
    windows.load(blobs, where=where)
    last_us = windows.last_due_us
    closed = None if last_us is None else windows.advance(None, last_us)[0]
    return [] if closed is None else _rows(kernel.final(closed), kernel.output.names)


def _waiting(
    time: str | None, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    waiting = OrderedRows(time, polars_schema(schema), closed_until_us=closed_until_us)
    waiting.load(blobs, where=where)
    return _rows(waiting.rows(), schema.names)


def _of_counts(
    step: Aggregation, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    del closed_until_us
    kernel = CountKernel(step, schema, where=step.name)
    counts = OpenCounts(kernel)
    counts.load(blobs, where=where)
    output = kernel.final(counts.opened)
    return _rows(output, output.columns)


def _of_keys(
    step: Process, schema: pa.Schema, closed_until_us: int, blobs: Blobs, where: str
) -> Rows:
    del closed_until_us
    runner = KeyedRunner(
        step,
        schema,
        where=step.name,
        failures=Failures(lambda: 0),
        now_us=lambda: 0,
        checks_time=False,
    )
    KeyedState(runner).load(blobs, where=where)
    return [
        {"key": context.key, "state": context.state, "timers": context.timers()}
        | ({} if step.keyed.ttl_us is None else {"expires": runner.expires(context)})
        for context in runner.contexts.values()
    ]


def _of_context(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a function's state, which is a tuple already if it has several columns."""
    key = row["key"]
    return key if isinstance(key, tuple) else (key,)


@dataclass(frozen=True)
class _Unit:
    """What the catalog has of a flow, or of one unit of it."""

    closed_until_us: dict[int, int]
    blobs: dict[int, Blobs]

    def state(self, number: int) -> tuple[int, Blobs]:
        """Return up to where a state is closed, and what is stored of it."""
        return self.closed_until_us.get(number, TIME_MIN), self.blobs.get(number, [])


def _stored(store: Store, name: str) -> list[_Unit]:
    """Return what is stored of a flow, of each unit if it is shared, as of one moment; nothing if it never ran."""
    with store.read() as snapshot:
        found = snapshot.run("flows/get", (name,))
        if not found:
            return []
        units = [unit_name for _, unit_name, *_ in snapshot.run("flows/units", (found[0][0],))]
        return [_unit(snapshot, each) for each in units or [name]]


def _unit(snapshot: Snapshot, name: str) -> _Unit:
    [[flow_id, _, _, _, closed_first_us, *_]] = snapshot.run("flows/get", (name,))
    closed = dict(snapshot.run("flows/stages", (flow_id,)))
    if closed_first_us is not None:
        closed[0] = closed_first_us
    blobs: dict[int, Blobs] = {}
    for number, groups, checksum, data in snapshot.run("flows/state", (flow_id,)):
        blobs.setdefault(number, []).append((groups, checksum, data))
    return _Unit(closed, blobs)


def _rows(frame: pl.DataFrame, names: list[str]) -> Rows:
    return frame.select(names).to_dicts()
