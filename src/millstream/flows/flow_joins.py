"""Joins and unions of flows: the part of ``Flow`` that looks at more than one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from millstream.flows.contract import FlowEngines
from millstream.flows.kinds import widened_schema
from millstream.flows.merging import AsOf, JoinSource, JoinTime, UnionSource, Within
from millstream.flows.plan import Plan
from millstream.flows.steps import AsofJoin, Join, Step
from millstream.flows.windows import Calendar, Tumbling
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError

if TYPE_CHECKING:
    from millstream.flows.flow import Flow


class FlowJoins(ABC):
    """What a flow can do with tables and with other flows."""

    plan: Plan
    engines: FlowEngines

    @abstractmethod
    def _then(self, step: Step) -> Flow:
        """Return the flow with one more step."""

    @abstractmethod
    def _where(self, step: str) -> str:
        """Return where the next step is."""

    @abstractmethod
    def _from(self, source: UnionSource | JoinSource) -> Flow:
        """Return a flow of the same name that begins with ``source``."""

    def union(self, *others: Flow) -> Flow:
        """Put the rows of other flows beside these; all must give the same columns.

        In a stream each source keeps its own place, and each of their partitions its own watermark.
        """
        where = self._where("union")
        if not others:
            raise PlanError(
                "a union with nothing",
                where=where,
                expected="at least one other flow",
                next_step="write one.union(another)",
            )
        for other in others:
            self._refuse_stranger(other, where)
        source = UnionSource((self.plan, *(other.plan for other in others)))
        source.check(where=where)
        return self._from(source)

    def join_interval(
        self,
        other: Flow,
        *,
        on: str | Sequence[str],
        within: tuple[Duration, Duration],
        time: str | tuple[str, str],
        right_on: str | Sequence[str] | None = None,
        how: str = "inner",
        late: Duration = "0s",
        keep_late: bool = False,
    ) -> Flow:
        """Join the rows of another flow that have the same key and happened about the same time.

        ``time`` is the column of the event time, or a pair of columns if the other flow calls it otherwise.
        ``within=("-5m", "1h")`` takes the rows whose time is from five minutes before to one hour after that of the row
        here, both included.

        A stream gives a pair as soon as it has both rows, and a row without a partner (``"left"``, ``"right"``,
        ``"full"``, ``"anti"``; for ``"semi"`` also one with a partner) once the watermark says that none can come. It
        waits ``late`` of event time; what comes later is counted and, with ``keep_late``, written to the topics
        ``<flow>.late_left`` and ``<flow>.late_right``. Rows are kept as long as a partner can come, and no longer.
        """
        where = self._where("join_interval")
        if not _is_stretch(within):
            raise PlanError(
                f"within={within!r}",
                where=where,
                expected="two durations",
                next_step='write for example within=("-5m", "1h")',
            )
        match = Within(_signed_us(within[0]), _signed_us(within[1]))
        times = JoinTime(*_pair(time), match, _lateness(late, where), keep_late)
        keys = self._keys("join_interval", names_of(on), right_on, at_least=1)
        return self._joined(other, keys, how, times)

    def join_window(
        self,
        other: Flow,
        windows: Tumbling | Calendar,
        *,
        on: str | Sequence[str],
        time: str | tuple[str, str],
        right_on: str | Sequence[str] | None = None,
        how: str = "inner",
        late: Duration = "0s",
        keep_late: bool = False,
    ) -> Flow:
        """Join the rows of another flow that have the same key and lie in the same window.

        ``windows`` are ``ms.tumbling`` or ``ms.calendar``; their bounds are the columns ``window_start`` and
        ``window_end`` of the output. The rest is as for ``join_interval``.
        """
        where = self._where("join_window")
        if not isinstance(windows, Tumbling | Calendar):
            raise PlanError(
                f"join_window(…, {windows!r})",
                where=where,
                expected='windows of which each event has one: ms.tumbling("1h") or ms.calendar("day")',
                next_step="for others use join_interval",
            )
        times = JoinTime(*_pair(time), windows, _lateness(late, where), keep_late)
        keys = self._keys("join_window", names_of(on), right_on, at_least=1)
        return self._joined(other, keys, how, times)

    def _joined(
        self,
        other: FlowJoins,
        keys: tuple[tuple[str, ...], tuple[str, ...]],
        how: str,
        time: JoinTime | None,
    ) -> Flow:
        self._refuse_stranger(other, self._where("join"))
        source = JoinSource(self.plan, other.plan, *keys, how, time)
        where = self._where(source.name)
        source.check(where=where)
        return self._from(source)

    def _refuse_stranger(self, other: object, where: str) -> None:
        if not isinstance(other, FlowJoins):
            raise PlanError(
                f"a {type(other).__name__} is no flow",
                where=where,
                expected="a flow, made with app.read(…)",
                next_step="join a table that does not change with .join(table, on=…)",
            )
        if other.plan.is_ended or self.plan.is_ended:
            raise PlanError(
                "a flow that is written somewhere has no rows to give",
                where=where,
                expected="write and enqueue last",
                next_step="read the topic that it writes",
            )
        if other.engines.place != self.engines.place:
            raise PlanError(
                "the flows belong to two stores",
                where=where,
                expected="flows of one app: they are committed together",
                next_step="copy the topic into this store, or read both there",
            )

    def join(
        self,
        table: object,
        *,
        on: str | Sequence[str],
        right_on: str | Sequence[str] | None = None,
        how: str = "left",
    ) -> Flow:
        """Add the columns of a table that does not change: pyarrow, Polars, pandas, or a list of dicts.

        ``on`` names the key columns here, ``right_on`` those of the table if they differ. A null key has no partner.
        ``how`` is ``"left"`` (rows without a partner get nulls), ``"inner"`` (they are dropped), ``"semi"`` or
        ``"anti"`` (only rows with, or without, a partner; no column is added).

        The table may be another flow, in a batch only: ``how`` can be ``"right"`` and ``"full"`` as well then. A stream
        would have to keep every row for ever; there, say which times fit: ``join_interval``, ``join_window``.
        """
        left, right = self._keys("join", names_of(on), right_on, at_least=1)
        if isinstance(table, FlowJoins):
            return self._joined(table, (left, right), how, None)
        return self._then(Join(_table(table, self._where("join")), left, right, how))

    def join_asof(
        self,
        table: object,
        *,
        on: str,
        right_on: str | None = None,
        by: str | Sequence[str] = (),
        right_by: str | Sequence[str] | None = None,
        tolerance: Duration | float | None = None,
        late: Duration = "0s",
        keep_late: bool = False,
    ) -> Flow:
        """Add the columns of the last row of a table that is not after the event: the price that held, say.

        ``on`` is a time, a date or a number, here and (``right_on``) in the table; ``by`` are keys that must be equal.
        ``tolerance`` is how old the row may be at most, a duration for times and a number for numbers. Rows without a
        partner get nulls. The table does not change while the flow runs.

        The table may be another flow, whose rows say from when on they hold: a table that changes, with all of its
        versions. ``on`` and ``right_on`` are the event times then. A stream gives a row once the watermark of both
        flows has passed it, so that every version up to its time has come, and remembers of each key the version that
        holds. A table that changes rarely holds the rows back; say with ``stream(idle="5s")`` how long to wait for it.
        ``late`` and ``keep_late`` are as for ``join_interval``.
        """
        left, right = self._keys("join_asof", names_of(by), right_by, at_least=0)
        if isinstance(table, FlowJoins):
            where = self._where("join_asof")
            match = AsOf(_tolerance_us(tolerance, where))
            time = JoinTime(on, right_on or on, match, _lateness(late, where), keep_late)
            return self._joined(table, (left, right), "left", time)
        if duration_us(late) or keep_late:
            raise PlanError(
                f"late={late!r}, keep_late={keep_late} for a table that does not change",
                where=self._where("join_asof"),
                expected="them beside another flow, whose rows come over time",
                next_step="leave them out",
            )
        within: float | None
        if tolerance is None or (isinstance(tolerance, int | float) and tolerance >= 0):
            within = tolerance
        elif isinstance(tolerance, int | float):
            raise PlanError(
                f"tolerance={tolerance}", where=self._where("join_asof"), expected="not negative"
            )
        else:
            within = duration_us(tolerance)
        found = _table(table, self._where("join_asof"))
        return self._then(AsofJoin(found, on, right_on or on, left, right, within))

    def _keys(
        self, step: str, left: tuple[str, ...], given: str | Sequence[str] | None, *, at_least: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        right = left if given is None else names_of(given)
        if len(left) != len(right) or len(left) < at_least:
            raise PlanError(
                f"the join has {len(left)} keys here and {len(right)} in the table",
                where=self._where(step),
                expected="the same number, at least one" if at_least else "the same number",
            )
        return left, right


def _is_stretch(within: object) -> bool:
    return (
        isinstance(within, tuple | list)
        and len(within) == 2
        and all(isinstance(bound, str | timedelta) for bound in within)
    )


def _signed_us(bound: Duration) -> int:
    """Return microseconds; a bound may be before: ``"-5m"``, or a negative timedelta."""
    if isinstance(bound, timedelta):
        return -duration_us(-bound) if bound < timedelta(0) else duration_us(bound)
    text = bound.strip()
    return -duration_us(text[1:]) if text.startswith("-") else duration_us(text)


def _pair(time: str | tuple[str, str]) -> tuple[str, str]:
    return (time, time) if isinstance(time, str) else time


def _tolerance_us(tolerance: Duration | float | None, where: str) -> int | None:
    if isinstance(tolerance, int | float):
        raise PlanError(
            f"tolerance={tolerance} beside a flow",
            where=where,
            expected="a duration: rows of flows are joined by their times",
            next_step='write for example tolerance="1h"',
        )
    return None if tolerance is None else duration_us(tolerance)


def _lateness(late: Duration, where: str) -> int:
    late_us = duration_us(late)
    if late_us < 0:
        raise PlanError(
            f"late={late!r}",
            where=where,
            expected="a lateness that is not negative",
            next_step='write for example late="10m"',
        )
    return late_us


def names_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def _table(table: object, where: str) -> pa.Table:
    """Return any table as an Arrow table of the types that flows compute with."""
    try:
        if isinstance(table, list):
            if not table:
                raise PlanError(
                    "an empty list says nothing of its columns",
                    where=where,
                    expected="a table, which may be empty, or dicts",
                    next_step="give a table with a schema: pyarrow.schema(…).empty_table()",
                )
            arrow = pa.Table.from_pylist(table)
        elif isinstance(table, pa.RecordBatch):
            arrow = pa.Table.from_batches([table])
        else:
            arrow = table if isinstance(table, pa.Table) else pa.table(table)
        return arrow.cast(widened_schema(arrow.schema, where=where))
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise PlanError(
            f"a {type(table).__name__} cannot be used as a table: {error}",
            where=where,
            expected="a pyarrow, Polars or pandas table, or a list of dicts",
        ) from error
